//! What an operator may ask, answered from the estate.
//!
//! Owns: nothing of its own: it passes on. Never touches: HTTP (`admin`).

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
use crate::server::pipeline::Pipeline;
use crate::server::runtime::Runtime;
use crate::server::store_admin::{self, ResourceContext};
use crate::store::{Health, Store};
use crate::telemetry::cost::CostReport;
use crate::upstream::status::UpstreamStatus;

/// The estate in its operator's hands.
pub(super) struct AdminService(pub(super) Arc<Runtime>);

impl AdminService {
    fn seen<'h>(&'h self, house: &'h Pipeline) -> ResourceContext<'h> {
        ResourceContext {
            engine: &house.engine,
            routes: &house.config.routes,
            mounts: &house.door.mounts,
            listen: &self.0.ground.listen,
        }
    }
}

#[async_trait]
impl AdminApi for AdminService {
    fn ready(&self) -> Readiness {
        let ground = &self.0.ground;
        let mut details = Vec::new();
        if let Health::MemoryOnly(why) = ground.store.condition() {
            details.push(("store", format!("memory only: {why}")));
        }
        let mode = self.mode();
        if mode != Mode::Cache {
            details.push(("mode", mode.token().to_owned()));
        }
        let ready = !ground.stage.borrow().is_closing();
        if !ready {
            details.push(("stopping", "requests in flight are finished, then it ends".to_owned()));
        }
        Readiness { ready, details }
    }

    fn pac(&self, asked: Option<&str>) -> String {
        let spared = NoProxy::of(&self.0.house().config, &Env::default());
        // The first of larder's own is the first of `listen`: there is always one.
        let listen = self.0.ground.own.first().copied().unwrap_or(defaults::LISTEN);
        pac::text(&spared, &pac::proxy(listen, asked))
    }

    fn config(&self) -> serde_json::Value {
        redacted::to_json(&self.0.house().config)
    }

    fn ca(&self) -> Option<String> {
        self.0.house().authority.as_ref().map(|authority| authority.pem())
    }

    async fn reload(&self) -> Result<ReloadResult, ReloadError> {
        self.0.reload().await
    }

    fn mode(&self) -> Mode {
        self.0.ground.switch.mode()
    }

    fn set_mode(&self, mode: Mode) {
        self.0.set_mode(mode);
    }

    async fn purge(&self, purge: &Purge) -> Result<PurgeResult, PurgeError> {
        let house = self.0.house();
        store_admin::purge(self.seen(&house), purge).await
    }

    async fn entries(&self, asked: &ListQuery) -> Page {
        let house = self.0.house();
        store_admin::entries(self.seen(&house), asked).await
    }

    fn upstreams(&self) -> Vec<UpstreamStatus> {
        let house = self.0.house();
        house.gate.report(&house.config.upstreams)
    }

    fn cost(&self) -> Vec<CostReport> {
        let ground = &self.0.ground;
        ground.account.ledger().spendings(ground.clock.now())
    }
}
