//! The admin listener: health, metrics and the operators' API.
//!
//! Owns: the paths, their access control and their limits (ADM-02, 03, 08).
//! Never touches: the proxy's port. A failure here does not affect the proxy's clients.

mod acl;
pub mod api;
mod auth;
mod client_files;
mod connection_slots;
mod health;
mod listener;
mod response;
mod timeout;
mod v1;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware;
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

use crate::admin::acl::AdminAcl;
use crate::admin::api::AdminApi;
use crate::admin::listener::{AdminConnectInfo, AdminListener, AdminSocket};
use crate::config::Admin;
use crate::telemetry::Telemetry;
use crate::telemetry::problem::Problem;

/// The state that all request handlers share.
#[derive(Clone)]
struct AppState {
    api: Arc<dyn AdminApi>,
    telemetry: Arc<Telemetry>,
    acl: Arc<AdminAcl>,
}

/// Serves `listener` under the rules of `admin` until `stop` is set or its sender is dropped. Requests
/// that have begun then get a few seconds to complete.
pub fn serve(
    listener: TcpListener,
    admin: &Admin,
    api: Arc<dyn AdminApi>,
    telemetry: Arc<Telemetry>,
    stop: watch::Receiver<bool>,
) -> impl Future<Output = ()> + Send + 'static {
    serve_on(listener, AdminAcl::new(admin), api, telemetry, stop)
}

/// Serves a Unix socket in the same way: every process that may connect to it is an operator.
pub fn serve_unix(
    listener: UnixListener,
    api: Arc<dyn AdminApi>,
    telemetry: Arc<Telemetry>,
    stop: watch::Receiver<bool>,
) -> impl Future<Output = ()> + Send + 'static {
    serve_on(listener, AdminAcl::new(&Admin::default()), api, telemetry, stop)
}

fn serve_on<S: AdminSocket>(
    listener: S,
    acl: AdminAcl,
    api: Arc<dyn AdminApi>,
    telemetry: Arc<Telemetry>,
    stop: watch::Receiver<bool>,
) -> impl Future<Output = ()> + Send + 'static {
    let stop_deadline = stop.clone();
    let acl = Arc::new(acl);
    let state = AppState { api, telemetry: Arc::clone(&telemetry), acl: Arc::clone(&acl) };
    async move {
        let router = router(state).into_make_service_with_connect_info::<AdminConnectInfo>();
        let server = axum::serve(AdminListener::new(listener, telemetry, acl), router)
            .with_graceful_shutdown(stopped(stop));
        tokio::select! {
            // Serving ends without an error: the listener retries after a failed accept.
            _ = server => {}
            () = async {
                stopped(stop_deadline).await;
                tokio::time::sleep(STOP_TIMEOUT).await;
            } => {}
        }
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // If the sender is gone, that counts as a stop.
    let _stopped = stop.wait_for(|stop| *stop).await;
}

/// [`auth::OPEN`] lists the paths that every admitted client may read. A path that is added here
/// needs the operator's token.
fn router(state: AppState) -> Router {
    Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/ca.pem", get(client_files::certificate))
        .route("/proxy.pac", get(client_files::pac))
        .route("/v1/config", get(v1::config::show))
        .route("/v1/config/reload", post(v1::config::reload))
        .route("/v1/mode", get(v1::mode::show).put(v1::mode::set))
        .route("/v1/purge", post(v1::purge::purge))
        .route("/v1/entries", get(v1::entries::list))
        .route("/v1/upstreams", get(v1::upstreams::list))
        .route("/v1/upstreams/release", post(v1::upstreams::release))
        .route("/v1/cost", get(v1::cost::list))
        .route("/v1/stats", get(v1::stats::show))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(state.clone(), auth::check))
        .with_state(state)
}

async fn not_found() -> Response {
    response::refuse(&NOT_FOUND)
}

async fn method_not_allowed() -> Response {
    response::refuse(&METHOD_NOT_ALLOWED)
}

const NOT_FOUND: Problem = Problem::new(
    StatusCode::NOT_FOUND,
    "not_found",
    "the admin listener serves /healthz, /readyz, /metrics, /ca.pem, /proxy.pac, /v1/config, \
     /v1/config/reload, /v1/mode, /v1/purge, /v1/entries, /v1/upstreams, /v1/upstreams/release, /v1/cost and \
     /v1/stats",
    "http_request_error",
);

const METHOD_NOT_ALLOWED: Problem = Problem::new(
    StatusCode::METHOD_NOT_ALLOWED,
    "method_not_allowed",
    "this path does not support the method of the request; Allow lists the methods that it supports",
    "http_request_error",
);

/// The time that open requests may take after a stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
