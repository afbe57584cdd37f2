//! The ground that every house stands on: what outlives a reload.
//!
//! Owns: what is built once per process: the store, the account, the secret of keys, the bounds over
//! everything. Never touches: what a configuration may change while larder runs (`house`).

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
use crate::server::handover::invalidation_sync::SyncedStore;
use crate::server::limit_storage::{LimitStorage, UpstreamLimitRows};
use crate::store::state_db::{RowOwner, RowSource, Secret, SecretError};
use crate::store::tiered::{self, TieredStore};
use crate::telemetry::Telemetry;
use crate::upstream::admission::UpstreamRegistry;
use crate::upstream::in_flight_bytes::InFlightBytes;

/// What all houses share.
pub(super) struct SharedState {
    /// Without names: each house has its own over the same counters.
    pub(super) account: Arc<Telemetry>,
    /// Another larder hears what is invalidated here while one takes over from the other.
    pub(super) store: Arc<SyncedStore>,
    pub(super) secret: [u8; 32],
    /// Bodies on their way, over all houses: a reload does not double them.
    pub(super) in_flight: Arc<InFlightBytes>,
    pub(super) switch: Arc<ModeSwitch>,
    /// The fills that are under way: what is asked for later overtakes them, whoever began them.
    pub(super) underway: Arc<PendingCalls>,
    /// What bears on stored answers and outlives configurations.
    pub(super) remembered: Arc<PersistentFacts>,
    /// What is held, learned and counted of upstreams.
    pub(super) traffics: Arc<UpstreamRegistry>,
    /// Which hosts ask for sign-ins that count for a connection.
    pub(super) sign_ins: ConnectionAuthHosts,
    /// A name of its own in `Via`: a ring of larders is a loop, a chain of them is not.
    pub(super) name: Arc<str>,
    pub(super) clock: Clock,
    pub(super) name_server: Option<SocketAddr>,
    /// Where larder itself listens, for clients and for its operator: no origin is there.
    pub(super) own: Vec<SocketAddr>,
    /// Those for clients: below them are the mounts.
    pub(super) listen: Vec<SocketAddr>,
    pub(super) stage: watch::Receiver<DrainState>,
}

impl SharedState {
    pub(super) fn new(
        config: &Config,
        parts: &ServerDeps,
        listen: &[SocketAddr],
        admin: Option<SocketAddr>,
        stage: watch::Receiver<DrainState>,
    ) -> Result<Self, SecretError> {
        let account = Telemetry::dated(parts.clock.clone(), &[], &[]);
        let switch = Arc::new(ModeSwitch::new(config.mode));
        account.mode(switch.mode());
        account.reloaded(true);
        let secret = secret(config)?;
        let traffics = Arc::default();
        let remembered = Arc::default();
        let store = store(config, &secret, &account, &traffics, &remembered, &parts.clock);
        let in_flight = InFlightBytes::beside(config.limits.in_flight, store.lent());
        traffics.keep_in(Arc::new(LimitStorage(Arc::downgrade(&store))));
        Ok(Self {
            store: SyncedStore::new(store),
            secret: secret.derived("scope"),
            in_flight,
            switch,
            underway: Arc::default(),
            remembered,
            traffics,
            sign_ins: ConnectionAuthHosts::default(),
            name: format!("larder-{:08x}", rand::random::<u32>()).into(),
            clock: parts.clock.clone(),
            name_server: parts.name_server,
            own: listen.iter().copied().chain(admin).collect(),
            listen: listen.to_vec(),
            stage,
            account,
        })
    }
}

/// The store that this configuration asks for.
fn store(
    config: &Config,
    secret: &Secret,
    account: &Arc<Telemetry>,
    traffics: &Arc<UpstreamRegistry>,
    remembered: &Arc<PersistentFacts>,
    clock: &Clock,
) -> Arc<TieredStore> {
    let settings = tiered::Settings {
        path: config.store.path.clone(),
        memory: config.store.memory,
        disk: config.store.disk,
        max_object: config.store.max_object,
        sweep_every: config.store.sweep_every,
        secret: secret.clone(),
    };
    let counted = UpstreamLimitRows { traffics: Arc::clone(traffics), clock: clock.clone() };
    let lasting: Vec<(RowOwner, Arc<dyn RowSource>)> = vec![
        (RowOwner::Limits, Arc::new(counted)),
        (RowOwner::Engine, Arc::clone(remembered) as Arc<dyn RowSource>),
    ];
    TieredStore::beside(settings, clock.clone(), account, lasting)
}

/// The secret of all keys and of what lies on disk: the configured one, or this installation's own.
/// Without a disk nothing outlives the process, its secret neither.
fn secret(config: &Config) -> Result<Secret, SecretError> {
    if let Some(ScopeSecret(configured)) = config.scope_secret {
        return Ok(Secret::from_bytes(configured));
    }
    if config.store.disk == 0 {
        return Ok(Secret::for_now());
    }
    match Secret::of(&config.store.path.join("state")) {
        // A directory that cannot be written costs hits after a restart, no answer.
        Err(error @ SecretError::Io { .. }) => {
            tracing::error!("{error}: what is stored will not be found after a restart");
            Ok(Secret::for_now())
        }
        found @ (Ok(_) | Err(SecretError::Open(_))) => found,
    }
}
