//! The admin service: implements the operator API on the runtime.
//!
//! Owns: no state of its own: it reads and changes the runtime. Never touches: HTTP (`admin`).

mod entries;

use std::sync::Arc;

use async_trait::async_trait;

use crate::admin::api::{
    AdminApi, ListQuery, Page, Purge, PurgeError, PurgeResult, Readiness, ReloadError, ReloadResult,
};
use crate::config::env::Env;
use crate::config::{defaults, redacted};
use crate::exec_env::no_proxy::NoProxy;
use crate::exec_env::pac;
use crate::policy::Mode;
use crate::server::admin_service::entries::StoredEntries;
use crate::server::runtime::Runtime;
use crate::store::{Health, Store};
use crate::telemetry::cost::CostReport;
use crate::upstream::admission::status::UpstreamStatus;

/// The operator API of a runtime.
pub(super) struct AdminService(pub(super) Arc<Runtime>);

impl AdminService {
    fn stored_entries(&self) -> StoredEntries<'_> {
        StoredEntries { shared: &self.0.shared, pipeline: self.0.pipeline() }
    }
}

#[async_trait]
impl AdminApi for AdminService {
    fn ready(&self) -> Readiness {
        let shared = &self.0.shared;
        let mut details = Vec::new();
        if let Health::MemoryOnly(reason) = shared.store.health() {
            details.push(("store", format!("memory only: {reason}")));
        }
        let mode = self.mode();
        if mode != Mode::Cache {
            details.push(("mode", mode.token().to_owned()));
        }
        let ready = !shared.drain_state.borrow().is_closing();
        if !ready {
            details.push(("stopping", "requests in flight are finished, then the process exits".to_owned()));
        }
        Readiness { ready, details }
    }

    fn pac(&self, host: Option<&str>) -> String {
        let no_proxy = NoProxy::from_config(&self.0.pipeline().config, &Env::default());
        // The first of larder's own addresses is the first of `listen`, which is never empty.
        let listen = self.0.shared.own_addresses.first().copied().unwrap_or(defaults::LISTEN);
        pac::script(&no_proxy, &pac::proxy_address(listen, host))
    }

    fn config(&self) -> serde_json::Value {
        let mut config = redacted::to_json(&self.0.pipeline().config);
        if let Some(file) = self.0.file() {
            config["file"] = file.to_string_lossy().into();
        }
        config
    }

    fn ca(&self) -> Option<String> {
        self.0.pipeline().authority.as_ref().map(|authority| authority.pem())
    }

    async fn reload(&self) -> Result<ReloadResult, ReloadError> {
        self.0.reload().await
    }

    fn mode(&self) -> Mode {
        self.0.shared.switch.mode()
    }

    fn set_mode(&self, mode: Mode) {
        self.0.set_mode(mode);
    }

    async fn purge(&self, purge: &Purge) -> Result<PurgeResult, PurgeError> {
        self.stored_entries().purge(purge).await
    }

    async fn entries(&self, query: &ListQuery) -> Page {
        self.stored_entries().page(query).await
    }

    fn upstreams(&self) -> Vec<UpstreamStatus> {
        let pipeline = self.0.pipeline();
        pipeline.admission.report(&pipeline.config.upstreams)
    }

    async fn release(&self, upstream: &str) -> Option<usize> {
        let pipeline = self.0.pipeline();
        pipeline.admission.release(&pipeline.config.upstreams, upstream).await
    }

    fn cost(&self) -> Vec<CostReport> {
        let shared = &self.0.shared;
        shared.telemetry.cost().reports(shared.clock.now())
    }
}
