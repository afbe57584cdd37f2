//! The conductor: looks up, decides, serves from the store, or lets a fill ask the origin for all
//! who want the same.
//!
//! Owns: fills, who shares them, what a reader gets. Never touches: client connections (`proxy`
//! writes), origin connections (`upstream` reads), configuration.

pub mod body;
pub mod fast_path;
pub mod head_update;
pub mod mode;
pub mod pending_calls;
pub mod persistent_facts;
pub mod purge;
pub mod request;
pub mod response;
pub mod stale_if_error_end;
pub mod store_post;
pub mod unsafe_request;

mod collapse;
mod fill;
mod fill_guard;
mod forward;
mod fragmentation;
mod inflight;
mod miss;
mod partial;
mod retry;
mod unstored;
mod waiter;

use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderName, HeaderValue};

use crate::clock::Clock;
use crate::engine::collapse::InFlightFetches;
use crate::engine::fragmentation::FragmentationLog;
use crate::engine::mode::ModeSwitch;
use crate::engine::pending_calls::PendingCalls;
use crate::engine::persistent_facts::PersistentFacts;
use crate::key::{CacheKey, KeyBuilder};
use crate::policy::Policy;
use crate::semantics::redaction::Redactor;
use crate::semantics::request::ProxyRequest;
use crate::store::Store;
use crate::telemetry::Telemetry;
use crate::upstream::Origin;
use crate::upstream::admission::call::CallContext;
use crate::upstream::in_flight_bytes::InFlightBytes;

/// The bounds an engine works within.
#[derive(Debug, Clone, Copy)]
pub struct EngineLimits {
    /// Bytes of the largest body that is stored or shared.
    pub max_object: usize,
    /// Clients that wait for one fill.
    pub waiters_per_key: usize,
}

/// What an engine is made of.
pub struct EngineDeps {
    /// Where answers are kept.
    pub store: Arc<dyn Store>,
    /// Who is asked for them.
    pub origin: Arc<dyn Origin>,
    /// Where everything is recorded.
    pub account: Arc<Telemetry>,
    /// What makes keys.
    pub keyring: Arc<KeyBuilder>,
    /// The time.
    pub clock: Clock,
    /// What it works within.
    pub bounds: EngineLimits,
    /// Bytes of all bodies that are held on their way, over all engines that share it.
    pub in_flight: Arc<InFlightBytes>,
    /// The master switch.
    pub switch: Arc<ModeSwitch>,
    /// The fills of all engines that share it.
    pub underway: Arc<PendingCalls>,
    /// What bears on stored answers and outlives the configuration.
    pub remembered: Arc<PersistentFacts>,
    /// What larder adds to `Via`.
    pub via: HeaderValue,
}

/// The engine. One per configuration, shared by all connections.
pub struct Engine {
    store: Arc<dyn Store>,
    origin: Arc<dyn Origin>,
    account: Arc<Telemetry>,
    keyring: Arc<KeyBuilder>,
    clock: Clock,
    bounds: EngineLimits,
    in_flight: Arc<InFlightBytes>,
    switch: Arc<ModeSwitch>,
    underway: Arc<PendingCalls>,
    remembered: Arc<PersistentFacts>,
    flights: InFlightFetches,
    apart: FragmentationLog,
    /// What larder adds to `Via`.
    via: HeaderValue,
}

impl Engine {
    /// Joins the parts.
    pub fn new(parts: EngineDeps) -> Arc<Self> {
        let EngineDeps { store, origin, account, keyring, clock, bounds, in_flight, .. } = parts;
        let EngineDeps { switch, underway, remembered, via, .. } = parts;
        Arc::new(Self {
            store,
            origin,
            account,
            keyring,
            clock,
            bounds,
            in_flight,
            switch,
            underway,
            remembered,
            flights: InFlightFetches::default(),
            apart: FragmentationLog::default(),
            via,
        })
    }

    /// The time by which this engine goes.
    pub fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// Whether a field of this name is a credential.
    pub fn is_credential(&self, name: &HeaderName) -> bool {
        self.keyring.is_credential(name)
    }

    /// The redactor of the keys: which parts of a URL are secret.
    pub fn redactor(&self) -> &Redactor {
        self.keyring.redactor()
    }

    /// What a call for `asked` says at the gate.
    pub fn knock(
        &self,
        asked: &ProxyRequest,
        route: usize,
        policy: &Policy,
        key: Option<&CacheKey>,
    ) -> CallContext {
        let credential = self.keyring.asker(asked);
        let knock = CallContext::new(route, policy, &asked.method, &asked.target, credential);
        CallContext { key: key.map(CacheKey::id), ..knock }
    }

    /// How many clients wait for a running fill that others may join, or read it.
    pub fn waiting(&self) -> usize {
        self.flights.readers()
    }
}

#[cfg(test)]
mod tests;
