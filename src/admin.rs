//! Health, metrics and what an operator may ask, on a listener of their own.
//!
//! Owns: which paths there are, who may ask for them, and the bounds on asking (ADM-02, 03, 08).
//! Never touches: the proxy's port; whatever happens here, clients are served.

mod acl;
pub mod api;
mod auth;
mod ca;
mod connection_slots;
mod health;
mod listener;
mod pac;
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
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::admin::acl::AdminAcl;
use crate::admin::api::AdminApi;
use crate::admin::listener::{AdminConnectInfo, AdminListener};
use crate::config::Admin;
use crate::telemetry::Telemetry;
use crate::telemetry::problem::Problem;

/// What every answer comes from.
#[derive(Clone)]
struct AppState {
    controls: Arc<dyn AdminApi>,
    account: Arc<Telemetry>,
    access: Arc<AdminAcl>,
}

/// Answers on `listener`, by the rules of `admin`, until `stop` says so or its sender is gone; then
/// requests that have begun get a few seconds.
pub fn serve(
    listener: TcpListener,
    admin: &Admin,
    controls: Arc<dyn AdminApi>,
    account: Arc<Telemetry>,
    stop: watch::Receiver<bool>,
) -> impl Future<Output = ()> + Send + 'static {
    let late = stop.clone();
    let access = Arc::new(AdminAcl::new(admin));
    let desk = AppState { controls, account: Arc::clone(&account), access: Arc::clone(&access) };
    async move {
        let router = router(desk).into_make_service_with_connect_info::<AdminConnectInfo>();
        let serving = axum::serve(AdminListener::new(listener, account, access), router)
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

/// What is open to everybody who may connect is in [`guard::OPEN`]; a path that is added here needs
/// the operator's token.
fn router(desk: AppState) -> Router {
    Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/ca.pem", get(ca::certificate))
        .route("/proxy.pac", get(pac::show))
        .route("/v1/config", get(v1::config::show))
        .route("/v1/config/reload", post(v1::config::reload))
        .route("/v1/mode", get(v1::mode::show).put(v1::mode::turn))
        .route("/v1/purge", post(v1::purge::purge))
        .route("/v1/entries", get(v1::entries::list))
        .route("/v1/upstreams", get(v1::upstreams::list))
        .route("/v1/cost", get(v1::cost::list))
        .method_not_allowed_fallback(other_method)
        .fallback(nothing_here)
        .layer(middleware::from_fn_with_state(desk.clone(), auth::check))
        .with_state(desk)
}

async fn nothing_here() -> Response {
    response::refuse(&NOT_FOUND)
}

async fn other_method() -> Response {
    response::refuse(&OTHER_METHOD)
}

const NOT_FOUND: Problem = Problem::new(
    StatusCode::NOT_FOUND,
    "not_found",
    "the admin listener answers /healthz, /readyz, /metrics, /ca.pem, /proxy.pac, /v1/config, \
     /v1/config/reload, /v1/mode, /v1/purge, /v1/entries, /v1/upstreams and /v1/cost",
    "http_request_error",
);

const OTHER_METHOD: Problem = Problem::new(
    StatusCode::METHOD_NOT_ALLOWED,
    "method_not_allowed",
    "this path is asked for with another method; Allow names it",
    "http_request_error",
);

/// How long answers that have begun may take after a stop.
const LAST_WORDS: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
