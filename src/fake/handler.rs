//! From a request to a fake's answer, and the paths that steer a fake.
//!
//! Owns: the order of a call: count, wait, fail or answer. Never touches: what an API says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header::DATE;
use http::{Method, StatusCode};
use serde::de::{DeserializeOwned, Error};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::fake::api::{Api, Call, Failure};
use crate::fake::call_log::CallLog;
use crate::fake::faults::{Fault, Faults};
use crate::fake::faulty_io::{ConnectionFault, FakeConnectInfo, FaultyListener};
use crate::fake::response::MockResponse;
use crate::fake::script::Script;
use crate::fake::server::Shared;

/// Answers until `stop` says so or its sender is gone.
pub(super) async fn serve<A: Api>(
    listener: TcpListener,
    addr: SocketAddr,
    shared: Arc<Shared<A>>,
    mut stop: watch::Receiver<bool>,
) {
    let service =
        router(Arc::clone(&shared)).into_make_service_with_connect_info::<FakeConnectInfo>();
    let stopped = async move {
        while !*stop.borrow_and_update() {
            if stop.changed().await.is_err() {
                return;
            }
        }
    };
    let wire = FaultyListener::new(listener, addr, shared);
    let served = axum::serve(wire, service).with_graceful_shutdown(stopped).await;
    served.expect("the listener tries again by itself");
}

fn router<A: Api>(shared: Arc<Shared<A>>) -> Router {
    Router::new()
        .route("/_fake/calls", get(calls::<A>))
        .route("/_fake/seconds", get(seconds::<A>))
        .route("/_fake/reset", post(reset::<A>))
        .route("/_fake/behave", post(behave::<A>))
        .route("/_fake/script", post(play::<A>))
        .route("/_fake/{probe}", get(probe::<A>))
        .fallback(call::<A>)
        .with_state(shared)
}

async fn calls<A: Api>(State(shared): State<Arc<Shared<A>>>) -> Json<CallLog> {
    Json(shared.calls())
}

async fn seconds<A: Api>(State(shared): State<Arc<Shared<A>>>) -> Response {
    Json(shared.calls_by_second()).into_response()
}

async fn reset<A: Api>(State(shared): State<Arc<Shared<A>>>) -> StatusCode {
    shared.reset();
    StatusCode::NO_CONTENT
}

async fn behave<A: Api>(State(shared): State<Arc<Shared<A>>>, body: Bytes) -> Response {
    let read = read::<Faults>(&body).and_then(|behaviour| {
        let locked_out = behaviour.fault == Some(Fault::Refuse);
        if locked_out { Err(serde_json::Error::custom(LOCKED_OUT)) } else { Ok(behaviour) }
    });
    done(read.map(|behaviour| shared.play(Script::from(behaviour))), BEHAVIOUR)
}

async fn play<A: Api>(State(shared): State<Arc<Shared<A>>>, body: Bytes) -> Response {
    done(read(&body).map(|script| shared.play(script)), SCRIPT)
}

// The body is read whatever its Content-Type says: `curl -d` calls everything a form.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(body)
}

fn done(result: Result<(), serde_json::Error>, example: &str) -> Response {
    match result {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => {
            let help = json!({ "error": error.to_string(), "for_example": example });
            (StatusCode::BAD_REQUEST, Json(help)).into_response()
        }
    }
}

async fn probe<A: Api>(State(shared): State<Arc<Shared<A>>>, Path(name): Path<String>) -> Response {
    if let Some(told) = shared.probe(&name) {
        return Json(told).into_response();
    }
    let known = ["calls", "seconds"].iter().chain(A::PROBES);
    let get: Vec<_> = known.map(|name| format!("/_fake/{name}")).collect();
    let post = ["/_fake/reset", "/_fake/behave", "/_fake/script"];
    (StatusCode::NOT_FOUND, Json(json!({ "GET": get, "POST": post }))).into_response()
}

async fn call<A: Api>(
    State(shared): State<Arc<Shared<A>>>,
    ConnectInfo(FakeConnectInfo { fate, client }): ConnectInfo<FakeConnectInfo>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let (met, number) = shared.begin(A::endpoint(&head.method, head.uri.path()));
    let body = to_bytes(body, LONGEST_BODY).await;
    if !met.latency.is_zero() {
        shared.clock.sleep(met.latency).await;
    }
    let Ok(body) = body else { return StatusCode::PAYLOAD_TOO_LARGE.into_response() };
    let (method, uri, headers) = (&head.method, &head.uri, &head.headers);
    let now = shared.clock.now();
    let call = Call { method, uri, headers, body: &body, client, number, now };
    let failure = match met.fault {
        Some(Fault::Status(status)) => Some(Failure::Status(status)),
        Some(Fault::RateLimited(limited)) => Some(Failure::RateLimited(limited)),
        // Who is hung up on has not done anything either.
        Some(Fault::Refuse) => {
            fate.close();
            shared.sent(None, 0);
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        Some(Fault::Close | Fault::Cut) | None => None,
    };
    let answer = shared.answer(&call, failure);
    let shown = shown(&answer, method, met.fault, &fate);
    shared.sent(shown.map(|_| &answer), shown.unwrap_or(0));
    respond(answer, now)
}

/// How many bytes of the body the caller will see, or `None` if not even the head; tells the
/// connection if it is not all of them.
fn shown(
    answer: &MockResponse,
    method: &Method,
    fault: Option<Fault>,
    fate: &ConnectionFault,
) -> Option<usize> {
    let whole = if method == Method::HEAD { 0 } else { answer.body.len() };
    match fault {
        Some(Fault::Close | Fault::Refuse) => {
            fate.close();
            None
        }
        Some(Fault::Cut) => {
            fate.cut_after(whole / 2);
            Some(whole / 2)
        }
        Some(Fault::Status(_) | Fault::RateLimited(_)) | None => Some(whole),
    }
}

// The server's own `Date` would be of another clock, and whoever reckons ages by it would be wrong.
fn respond(answer: MockResponse, now: SystemTime) -> Response {
    let last = UNIX_EPOCH + Duration::from_secs(LAST);
    let date = httpdate::fmt_http_date(now.clamp(UNIX_EPOCH, last));
    let MockResponse { status, headers, body } = answer.with(DATE, &date);
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The last second of the year 9999.
const LAST: u64 = 253_402_300_799;

/// The longest request body that is read.
const LONGEST_BODY: usize = 64 * 1024;

const LOCKED_OUT: &str =
    "`refuse` would refuse /_fake too: use /_fake/script, and say with `for` how long";
const BEHAVIOUR: &str =
    r#"{"latency": "50ms", "fault": {"rate_limited": {"retry_after": 1}}, "times": 3}"#;
const SCRIPT: &str = r#"[{"for": "60s", "fault": {"rate_limited": {"retry_after": 1}}}, {"for": "10m", "fault": {"status": 503}, "share": 0.5}, {"fault": null}]"#;
