//! State that all pipelines share and that outlives a reload.
//!
//! Owns: the objects built once per process: store, telemetry, key secret, global limits. Never touches:
//! parts of the configuration that may change while larder runs (`pipeline`).

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;

use crate::clock::Clock;
use crate::config::{Config, ScopeSecret};
use crate::engine::mode::ModeSwitch;
use crate::engine::pending_calls::PendingCalls;
use crate::engine::persistent_facts::PersistentFacts;
use crate::frontend::drain::DrainState;
use crate::frontend::http1_only::ConnectionAuthHosts;
use crate::server::ServerDeps;
use crate::server::limit_storage::{LimitStorage, UpstreamLimitRows};
use crate::store::state_db::{RowOwner, RowSource, Secret, SecretError};
use crate::store::tiered::{self, TieredStore};
use crate::telemetry::Telemetry;
use crate::upstream::admission::UpstreamRegistry;
use crate::upstream::in_flight_bytes::InFlightBytes;

/// The state that all pipelines share.
pub(super) struct SharedState {
    /// Without names: each pipeline has its own names over the same counters.
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) store: Arc<TieredStore>,
    pub(super) secret: [u8; 32],
    /// Bytes of bodies in transit, over all pipelines, so that a reload does not double them.
    pub(super) in_flight: Arc<InFlightBytes>,
    pub(super) switch: Arc<ModeSwitch>,
    /// The fills in flight: a later request overtakes them, even if an earlier pipeline started them.
    pub(super) pending_calls: Arc<PendingCalls>,
    /// Facts about stored responses that outlive the configuration.
    pub(super) persistent_facts: Arc<PersistentFacts>,
    /// Cooldowns, learned limits and counters of the upstreams.
    pub(super) upstream_registry: Arc<UpstreamRegistry>,
    /// The hosts whose authentication applies to a connection.
    pub(super) connection_auth_hosts: ConnectionAuthHosts,
    /// A unique name in `Via`: it detects a loop of larders, and still permits a chain of them.
    pub(super) name: Arc<str>,
    pub(super) clock: Clock,
    pub(super) name_server: Option<SocketAddr>,
    /// The addresses on which larder itself listens, for clients and operators: an origin is never there.
    pub(super) own_addresses: Vec<SocketAddr>,
    /// The addresses for clients, under which the mounts are served.
    pub(super) listen: Vec<SocketAddr>,
    pub(super) drain_state: watch::Receiver<DrainState>,
}

impl SharedState {
    pub(super) fn new(
        config: &Config,
        deps: &ServerDeps,
        listen: &[SocketAddr],
        admin: Option<SocketAddr>,
        drain_state: watch::Receiver<DrainState>,
    ) -> Result<Self, SecretError> {
        let telemetry = Telemetry::with_clock(deps.clock.clone(), &[], &[]);
        let switch = Arc::new(ModeSwitch::new(config.mode));
        telemetry.mode(switch.mode());
        telemetry.reloaded(true);
        let secret = secret(config)?;
        let registry = Arc::default();
        let persistent_facts = Arc::default();
        let limit_rows = UpstreamLimitRows { registry: Arc::clone(&registry), clock: deps.clock.clone() };
        let row_sources: Vec<(RowOwner, Arc<dyn RowSource>)> = vec![
            (RowOwner::Limits, Arc::new(limit_rows)),
            (RowOwner::Engine, Arc::clone(&persistent_facts) as Arc<dyn RowSource>),
        ];
        let store = store(config, &secret, &telemetry, deps, row_sources);
        let in_flight = InFlightBytes::with_evicted(config.limits.in_flight, store.evicted_bodies());
        registry.set_store(Arc::new(LimitStorage(Arc::downgrade(&store))));
        Ok(Self {
            store,
            secret: secret.derived("scope"),
            in_flight,
            switch,
            pending_calls: Arc::default(),
            persistent_facts,
            upstream_registry: registry,
            connection_auth_hosts: ConnectionAuthHosts::default(),
            name: format!("larder-{:08x}", rand::random::<u32>()).into(),
            clock: deps.clock.clone(),
            name_server: deps.name_server,
            own_addresses: listen.iter().copied().chain(admin).collect(),
            listen: listen.to_vec(),
            drain_state,
            telemetry,
        })
    }
}

/// Opens the store of this configuration.
fn store(
    config: &Config,
    secret: &Secret,
    telemetry: &Arc<Telemetry>,
    deps: &ServerDeps,
    row_sources: Vec<(RowOwner, Arc<dyn RowSource>)>,
) -> Arc<TieredStore> {
    let settings = tiered::Settings {
        path: config.store.path.clone(),
        memory: config.store.memory,
        disk: config.store.disk,
        max_object: config.store.max_object,
        sweep_every: config.store.sweep_every,
        takes_over: deps.takes_over,
        secret: secret.clone(),
    };
    TieredStore::open_with_rows(settings, deps.clock.clone(), telemetry, row_sources)
}

/// The secret of all keys and of the data on disk: the configured one, or that of this installation.
/// Without a disk no data outlives the process, so the secret does not either.
fn secret(config: &Config) -> Result<Secret, SecretError> {
    if let Some(ScopeSecret(configured)) = config.scope_secret {
        return Ok(Secret::from_bytes(configured));
    }
    if config.store.disk == 0 {
        return Ok(Secret::ephemeral());
    }
    match Secret::load_or_create(&config.store.path.join("state")) {
        // A directory that is not writable costs hits after a restart, but no response.
        Err(error @ SecretError::Io { .. }) => {
            tracing::error!("{error}: stored responses will not be found after a restart");
            Ok(Secret::ephemeral())
        }
        found @ (Ok(_) | Err(SecretError::Open(_))) => found,
    }
}
