//! The HTTP handler of a fake: calls to the API, and the `/_fake/` control paths.
//!
//! Owns: the order of a call: count, delay, fail or respond. Never touches: the content of an API's
//! responses.

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
use crate::fake::shared::Shared;

/// Serves until `stop` becomes true or its sender is dropped.
pub(super) async fn serve<A: Api>(
    listener: TcpListener,
    addr: SocketAddr,
    shared: Arc<Shared<A>>,
    mut stop: watch::Receiver<bool>,
) {
    let service = router(Arc::clone(&shared)).into_make_service_with_connect_info::<FakeConnectInfo>();
    let stopped = async move { drop(stop.wait_for(|stopped| *stopped).await) };
    let faulty_listener = FaultyListener::new(listener, addr, shared);
    let result = axum::serve(faulty_listener, service).with_graceful_shutdown(stopped).await;
    result.expect("the listener retries failed accepts itself");
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
    result_response(read.map(|behaviour| shared.play(Script::from(behaviour))), FAULTS_EXAMPLE)
}

async fn play<A: Api>(State(shared): State<Arc<Shared<A>>>, body: Bytes) -> Response {
    result_response(read(&body).map(|script| shared.play(script)), SCRIPT_EXAMPLE)
}

// The body is parsed regardless of its Content-Type: `curl -d` labels every body as a form.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(body)
}

fn result_response(result: Result<(), serde_json::Error>, example: &str) -> Response {
    match result {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => {
            let help = json!({ "error": error.to_string(), "for_example": example });
            (StatusCode::BAD_REQUEST, Json(help)).into_response()
        }
    }
}

async fn probe<A: Api>(State(shared): State<Arc<Shared<A>>>, Path(name): Path<String>) -> Response {
    if let Some(value) = shared.read(|api| api.probe(&name)) {
        return Json(value).into_response();
    }
    let known = ["calls", "seconds"].iter().chain(A::PROBES);
    let get: Vec<_> = known.map(|name| format!("/_fake/{name}")).collect();
    let post = ["/_fake/reset", "/_fake/behave", "/_fake/script"];
    (StatusCode::NOT_FOUND, Json(json!({ "GET": get, "POST": post }))).into_response()
}

async fn call<A: Api>(
    State(shared): State<Arc<Shared<A>>>,
    ConnectInfo(FakeConnectInfo { fault: connection_fault, client }): ConnectInfo<FakeConnectInfo>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let (effect, number) = shared.begin(A::endpoint(&parts.method, parts.uri.path()));
    let body = to_bytes(body, MAX_BODY).await;
    if !effect.latency.is_zero() {
        shared.clock.sleep(effect.latency).await;
    }
    let Ok(body) = body else { return StatusCode::PAYLOAD_TOO_LARGE.into_response() };
    let (method, uri, headers) = (&parts.method, &parts.uri, &parts.headers);
    let now = shared.clock.now();
    let call = Call { method, uri, headers, body: &body, client, number, now };
    let failure = match effect.fault {
        Some(Fault::Status(status)) => Some(Failure::Status(status)),
        Some(Fault::RateLimited(limited)) => Some(Failure::RateLimited(limited)),
        // A call whose connection is closed has no effect on the API.
        Some(Fault::Refuse) => {
            connection_fault.close();
            shared.record_response(None, 0);
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        Some(Fault::Close | Fault::Cut) | None => None,
    };
    let response = shared.respond(&call, failure);
    let sent_bytes = apply_fault(&response, method, effect.fault, &connection_fault);
    shared.record_response(sent_bytes.map(|_| &response), sent_bytes.unwrap_or(0));
    to_http(response, now)
}

/// The number of body bytes that the client receives, or `None` if it does not even receive the head. If
/// it is not the whole response, the connection's fault is set accordingly.
fn apply_fault(
    response: &MockResponse,
    method: &Method,
    fault: Option<Fault>,
    connection_fault: &ConnectionFault,
) -> Option<usize> {
    let length = if method == Method::HEAD { 0 } else { response.body.len() };
    match fault {
        Some(Fault::Close | Fault::Refuse) => {
            connection_fault.close();
            None
        }
        Some(Fault::Cut) => {
            connection_fault.cut_after(length / 2);
            Some(length / 2)
        }
        Some(Fault::Status(_) | Fault::RateLimited(_)) | None => Some(length),
    }
}

// The server's own `Date` would come from another clock, and clients would compute wrong ages from it.
fn to_http(mock: MockResponse, now: SystemTime) -> Response {
    let last = UNIX_EPOCH + Duration::from_secs(LAST_SECOND);
    let date = httpdate::fmt_http_date(now.clamp(UNIX_EPOCH, last));
    let MockResponse { status, headers, body } = mock.with(DATE, &date);
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The last second of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

/// The maximum length of a request body.
const MAX_BODY: usize = 64 * 1024;

const LOCKED_OUT: &str =
    "`refuse` also refuses connections to /_fake: use /_fake/script, and limit its duration with `for`";
const FAULTS_EXAMPLE: &str =
    r#"{"latency": "50ms", "fault": {"rate_limited": {"retry_after": 1}}, "times": 3}"#;
const SCRIPT_EXAMPLE: &str = r#"[{"for": "60s", "fault": {"rate_limited": {"retry_after": 1}}}, {"for": "10m", "fault": {"status": 503}, "share": 0.5}, {"fault": null}]"#;
