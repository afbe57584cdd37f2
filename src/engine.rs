//! The cache engine: looks up, decides, serves from the store, or starts a fill that makes one upstream
//! fetch for all clients that request the same.
//!
//! Owns: fills, their readers, the response for each reader. Never touches: client connections (`proxy`
//! writes), origin connections (`upstream` reads), configuration.

pub mod body;
pub mod fast_path;
pub mod head_update;
pub mod mode;
pub mod pending_calls;
pub mod persistent_facts;
pub mod purger;
pub mod request;
pub mod response;
pub mod stale_if_error_end;
pub mod store_post;

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
use crate::engine::purger::Purger;
use crate::key::{CacheKey, KeyBuilder};
use crate::policy::Policy;
use crate::semantics::redaction::Redactor;
use crate::semantics::request::ProxyRequest;
use crate::store::Store;
use crate::telemetry::Telemetry;
use crate::upstream::Origin;
use crate::upstream::admission::call::CallContext;
use crate::upstream::in_flight_bytes::InFlightBytes;

/// The limits of an engine.
#[derive(Debug, Clone, Copy)]
pub struct EngineLimits {
    /// Bytes of the largest body that is stored or shared.
    pub max_object: usize,
    /// Maximum number of clients that wait for one fill.
    pub waiters_per_key: usize,
}

/// The dependencies of an engine.
pub struct EngineDeps {
    /// Stores responses.
    pub store: Arc<dyn Store>,
    /// Makes upstream calls.
    pub origin: Arc<dyn Origin>,
    /// Records logs and metrics.
    pub telemetry: Arc<Telemetry>,
    /// Builds cache keys.
    pub key_builder: Arc<KeyBuilder>,
    /// The clock.
    pub clock: Clock,
    /// The engine's limits.
    pub limits: EngineLimits,
    /// Bytes of all bodies in transit, shared by all engines.
    pub in_flight: Arc<InFlightBytes>,
    /// The mode switch: cache, bypass or offline.
    pub switch: Arc<ModeSwitch>,
    /// The calls in flight, shared by all engines.
    pub pending_calls: Arc<PendingCalls>,
    /// Facts about stored responses that outlive the configuration.
    pub persistent_facts: Arc<PersistentFacts>,
    /// The value that larder adds to `Via`.
    pub via: HeaderValue,
}

/// The engine. One per configuration, shared by all connections.
pub struct Engine {
    store: Arc<dyn Store>,
    origin: Arc<dyn Origin>,
    telemetry: Arc<Telemetry>,
    key_builder: Arc<KeyBuilder>,
    clock: Clock,
    limits: EngineLimits,
    in_flight: Arc<InFlightBytes>,
    switch: Arc<ModeSwitch>,
    pending_calls: Arc<PendingCalls>,
    persistent_facts: Arc<PersistentFacts>,
    in_flight_fetches: InFlightFetches,
    fragmentation_log: FragmentationLog,
    purger: Arc<Purger>,
    /// The value that larder adds to `Via`.
    via: HeaderValue,
}

impl Engine {
    /// Creates an engine from its dependencies.
    pub fn new(deps: EngineDeps) -> Arc<Self> {
        let purger = Purger::new(&deps);
        let EngineDeps { store, origin, telemetry, key_builder, .. } = deps;
        let EngineDeps { clock, limits, in_flight, switch, .. } = deps;
        let EngineDeps { pending_calls, persistent_facts, via, .. } = deps;
        Arc::new(Self {
            store,
            origin,
            telemetry,
            key_builder,
            clock,
            limits,
            in_flight,
            switch,
            pending_calls,
            persistent_facts,
            in_flight_fetches: InFlightFetches::default(),
            fragmentation_log: FragmentationLog::default(),
            purger,
            via,
        })
    }

    /// The current time of the engine's clock.
    pub fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// Invalidates the stored responses.
    pub fn purger(&self) -> &Arc<Purger> {
        &self.purger
    }

    /// Whether a field of this name is a credential.
    pub fn is_credential(&self, name: &HeaderName) -> bool {
        self.key_builder.is_credential(name)
    }

    /// The redactor of the key builder: specifies which parts of a URL are secret.
    pub fn redactor(&self) -> &Redactor {
        self.key_builder.redactor()
    }

    /// The call context of an upstream call for `request`.
    pub fn call_context(
        &self,
        request: &ProxyRequest,
        route: usize,
        policy: &Policy,
        key: Option<&CacheKey>,
    ) -> CallContext {
        let credential = self.key_builder.api_user(request);
        let call = CallContext::new(route, policy, &request.method, &request.target, credential);
        CallContext { key: key.map(CacheKey::id), ..call }
    }

    /// Number of clients that wait for or read a fill that others may join.
    pub fn waiting(&self) -> usize {
        self.in_flight_fetches.readers()
    }
}

#[cfg(test)]
mod tests;
