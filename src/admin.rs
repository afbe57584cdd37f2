//! Health and metrics, on a listener of their own.
//!
//! Owns: `GET /healthz` and `GET /metrics`, who may ask for them, and the bounds on asking (ADM-03).
//! Never touches: the proxy's port; whatever happens here, clients are served.

pub mod controls;
mod guard;
mod listen;
mod patience;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::account::Account;
use crate::account::problem::Problem;
use crate::admin::listen::Listen;

/// Answers on `listener` until `stop` says so or its sender is gone; then requests that have begun
/// get a few seconds.
pub fn serve(
    listener: TcpListener,
    account: Arc<Account>,
    stop: watch::Receiver<bool>,
) -> impl Future<Output = ()> + Send {
    let late = stop.clone();
    async move {
        let router = router(Arc::clone(&account));
        let serving = axum::serve(Listen::new(listener, account), router)
            .with_graceful_shutdown(stopped(stop));
        tokio::select! {
            // It ends without an error: a listener that cannot accept tries again.
            _ = serving => {}
            () = async {
                stopped(late).await;
                tokio::time::sleep(LAST_WORDS).await;
            } => {}
        }
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    while !*stop.borrow_and_update() {
        if stop.changed().await.is_err() {
            // Nobody can say stop any more: as good as a stop.
            return;
        }
    }
}

fn router(account: Arc<Account>) -> Router {
    Router::new()
        .route("/healthz", get(health))
        .route("/metrics", get(metrics))
        .method_not_allowed_fallback(nothing_here)
        .fallback(nothing_here)
        .layer(middleware::from_fn(guard::check))
        .with_state(account)
}

async fn health() -> Response {
    ([(CACHE_CONTROL, "no-store")], "ok\n").into_response()
}

async fn metrics(State(account): State<Arc<Account>>) -> Response {
    let fields = [(CONTENT_TYPE, EXPOSITION), (CACHE_CONTROL, "no-store")];
    (fields, account.render()).into_response()
}

async fn nothing_here() -> Response {
    refuse(&NOT_FOUND)
}

fn refuse(problem: &Problem) -> Response {
    let (fields, body) = problem.response();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = problem.status;
    *response.headers_mut() = fields;
    response
}

const NOT_FOUND: Problem = Problem::new(
    StatusCode::NOT_FOUND,
    "not_found",
    "the admin listener answers GET /healthz and GET /metrics",
    "http_request_error",
);

/// The text format of Prometheus.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How long answers that have begun may take after a stop.
const LAST_WORDS: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
