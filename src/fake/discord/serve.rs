//! From a request to the fake's answer, and the paths that steer the fake.
//!
//! Owns: the order of a call: count, wait, fail or answer. Never touches: what the data are.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::fake::discord::answer::{Answer, sent};
use crate::fake::discord::behaviour::{Behaviour, Fault};
use crate::fake::discord::endpoint::Endpoint;
use crate::fake::discord::wire::{Fate, Wire};
use crate::fake::discord::{Api, Calls};

/// Answers until `stop` says so or its sender is gone.
pub(super) async fn serve(listener: TcpListener, api: Arc<Api>, mut stop: watch::Receiver<bool>) {
    let service = router(api).into_make_service_with_connect_info::<Fate>();
    let stopped = async move {
        while !*stop.borrow_and_update() {
            if stop.changed().await.is_err() {
                return;
            }
        }
    };
    let served = axum::serve(Wire(listener), service).with_graceful_shutdown(stopped).await;
    served.expect("the listener tries again by itself");
}

fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/_fake/calls", get(calls))
        .route("/_fake/reset", post(reset))
        .route("/_fake/behave", post(behave))
        .fallback(call)
        .with_state(api)
}

async fn calls(State(api): State<Arc<Api>>) -> Json<Calls> {
    Json(api.calls())
}

async fn reset(State(api): State<Arc<Api>>) -> StatusCode {
    api.reset();
    StatusCode::NO_CONTENT
}

// The body is read whatever its Content-Type says: `curl -d` calls everything a form.
async fn behave(State(api): State<Arc<Api>>, body: Bytes) -> Response {
    match serde_json::from_slice::<Behaviour>(&body) {
        Ok(behaviour) => {
            api.behave(behaviour);
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => {
            let help = json!({ "error": error.to_string(), "for_example": EXAMPLE });
            (StatusCode::BAD_REQUEST, Json(help)).into_response()
        }
    }
}

async fn call(
    State(api): State<Arc<Api>>,
    ConnectInfo(fate): ConnectInfo<Fate>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let endpoint = Endpoint::of(&head.method, head.uri.path());
    let (latency, fault, number) = api.begin(endpoint.pattern());
    let body = to_bytes(body, LONGEST_BODY).await;
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    let Ok(body) = body else { return StatusCode::PAYLOAD_TOO_LARGE.into_response() };
    let answer = match fault {
        Some(Fault::Status(status)) => Answer::error(status),
        Some(Fault::RateLimited { retry_after }) => Answer::rate_limited(retry_after),
        Some(Fault::Close | Fault::Cut) | None => data(&api, endpoint, &head, &body),
    };
    let answer = answer.with_limits(endpoint.pattern(), number, Clock::system().now());
    let shown = shown(&answer, &head.method, fault, &fate);
    api.sent(u64::try_from(shown).unwrap_or(u64::MAX));
    respond(answer)
}

/// How many bytes of the body the caller will see; tells the connection if it is not all of them.
fn shown(answer: &Answer, method: &Method, fault: Option<Fault>, fate: &Fate) -> usize {
    let whole = if method == Method::HEAD { 0 } else { answer.body.len() };
    match fault {
        Some(Fault::Close) => {
            fate.close();
            0
        }
        Some(Fault::Cut) => {
            fate.cut_after(whole / 2);
            whole / 2
        }
        Some(Fault::Status(_) | Fault::RateLimited { .. }) | None => whole,
    }
}

fn data(api: &Api, endpoint: Endpoint<'_>, head: &Parts, body: &[u8]) -> Answer {
    let caller = head.headers.get(AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
    if caller.is_empty() && endpoint.is_about_the_caller() {
        return Answer::error(StatusCode::UNAUTHORIZED);
    }
    let caller = String::from_utf8_lossy(caller);
    let reply = api.state.lock().data.reply(endpoint, &sent(body), &caller);
    let cache_control = api.options.cache_control.as_ref();
    Answer::json(reply).validated(&head.method, &head.headers, cache_control)
}

fn respond(answer: Answer) -> Response {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}

/// The longest request body that is read.
const LONGEST_BODY: usize = 64 * 1024;

const EXAMPLE: &str =
    r#"{"latency": "50ms", "fault": {"rate_limited": {"retry_after": 1}}, "times": 3}"#;
