//! The dependencies of the engine, from which each part takes its own.
//!
//! Owns: their list. Never touches: their use.

use std::sync::Arc;

use http::HeaderValue;

use crate::clock::Clock;
use crate::engine::mode::ModeSwitch;
use crate::engine::pending_calls::PendingCalls;
use crate::engine::persistent_facts::PersistentFacts;
use crate::key::KeyBuilder;
use crate::store::Store;
use crate::telemetry::Telemetry;
use crate::upstream::Origin;
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
