//! A house: everything that depends on the configuration, built from it in one piece and replaced in
//! one piece.
//!
//! Owns: who is given what. Never touches: what outlives a configuration (`ground`), when one is
//! swapped for another (`estate`).

use std::sync::Arc;

use http::HeaderValue;

use crate::account::Account;
use crate::config::Config;
use crate::engine::{self, Bounds, Engine};
use crate::front::access::Gatekeeper;
use crate::front::authority::mint::Mint;
use crate::front::authority::{Authority, AuthorityError};
use crate::front::door::Door;
use crate::front::mount::Mounts;
use crate::front::page::Spenders;
use crate::front::tls::Interception;
use crate::front::tunnel::Tunnels;
use crate::proxy::{self, Proxy};
use crate::server::ground::Ground;
use crate::store::Store;
use crate::upstream::Origin;
use crate::upstream::connect::Pool;
use crate::upstream::destination::Guard;
use crate::upstream::fetch::Network;
use crate::upstream::gate::Gate;
use crate::upstream::place::Upstreams;
use crate::upstream::profile::{ProfileError, Profiles, check_system_roots};
use crate::upstream::resolve::Resolver;

/// Why a configuration that is valid could not be put in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// An upstream's roots could not be read.
    #[error(transparent)]
    Roots(#[from] ProfileError),
    /// Nobody vouches for larder in intercepted connections.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// The objects behind the listeners. A request finishes with the house that it began with.
pub(super) struct House {
    pub(super) config: Config,
    pub(super) engine: Arc<Engine>,
    pub(super) door: Arc<Door>,
    pub(super) gate: Gate,
    /// Who vouches for larder; `None`: nothing is intercepted.
    pub(super) authority: Option<Arc<Authority>>,
    pool: Pool,
}

impl House {
    /// Builds everything that `config` asks for on `ground`, in place of `before`.
    pub(super) fn build(
        config: Config,
        ground: &Ground,
        before: Option<&Self>,
    ) -> Result<Self, BuildError> {
        check_system_roots()?;
        let known = before.and_then(|house| house.authority.as_ref());
        let authority = Authority::after(known, &config, ground.clock.now())?;
        let mint = authority.clone().map(|authority| Mint::new(authority, ground.clock.clone()));
        let mint = mint.transpose()?;
        let pool = before.and_then(|house| house.pool_for(&config)).unwrap_or_default();
        let routes = config.routes.routes().iter().map(|route| Arc::clone(&route.name));
        let upstreams = config.upstreams.iter().map(|upstream| Arc::clone(&upstream.name));
        let (routes, upstreams): (Vec<_>, Vec<_>) = (routes.collect(), upstreams.collect());
        let account = ground.account.renamed(&routes, &upstreams, config.redactor());
        let WayOut { resolver, gate, network } = way_out(&config, &account, ground, pool.clone())?;
        let via = HeaderValue::try_from(format!("1.1 {}", ground.name))
            .expect("hexadecimal digits are valid");
        let engine = engine(&config, &account, ground, &network, &via);
        let service = Proxy::new(proxy::Parts {
            engine: Arc::clone(&engine),
            routes: config.routes.clone(),
            network,
            account: Arc::clone(&account),
            hold: config.hold,
            via,
            stage: ground.stage.clone(),
            tunnel_idle: config.limits.tunnel_idle,
            body: config.limits.body,
        });
        let tunnels = Tunnels {
            resolver,
            gate: gate.clone(),
            account: Arc::clone(&account),
            switch: Arc::clone(&ground.switch),
            upstream: upstreams.len(),
            route: routes.len(),
            idle: config.limits.tunnel_idle,
        };
        let door = Door {
            limits: config.limits.clone(),
            gatekeeper: Gatekeeper::new(config.access.clone()),
            service: Arc::new(service),
            tunnels,
            interception: Interception::new(&config, mint, ground.sign_ins.clone()),
            mounts: Mounts::new(&config.upstreams),
            spenders: Spenders::new(&config.upstreams),
            in_flight: Arc::clone(&ground.in_flight),
            account,
            clock: ground.clock.clone(),
            name: Arc::clone(&ground.name),
        };
        Ok(Self { config, engine, door: Arc::new(door), gate, authority, pool })
    }

    /// The open connections to origins, if they are as good under `config`: the pool knows neither
    /// what leads to an address nor what makes it trusted, and files of roots are read anew (a
    /// client certificate is part of `upstreams`).
    fn pool_for(&self, config: &Config) -> Option<Pool> {
        let old = &self.config;
        let same = old.upstreams == config.upstreams
            && old.resolve == config.resolve
            && old.destinations == config.destinations;
        let roots = config.upstreams.iter().any(|upstream| !upstream.tls.extra_roots.is_empty());
        (same && !roots).then(|| self.pool.clone())
    }
}

/// The way to origins.
struct WayOut {
    resolver: Arc<Resolver>,
    gate: Gate,
    network: Arc<Network>,
}

fn way_out(
    config: &Config,
    account: &Arc<Account>,
    ground: &Ground,
    pool: Pool,
) -> Result<WayOut, ProfileError> {
    let guard = Arc::new(Guard::new(config.destinations.clone()));
    guard.add_own(ground.own.iter().copied());
    let (rules, clock) = (config.resolve.clone(), ground.clock.clone());
    let resolver = Arc::new(Resolver::new(rules, guard, ground.name_server, clock));
    let traffics = Arc::clone(&ground.traffics);
    let gate = Gate::new(Arc::clone(account), traffics, ground.clock.clone());
    let network = Arc::new(Network::new(
        Upstreams::new(config.upstreams.clone()),
        Arc::clone(&resolver),
        gate.clone(),
        Profiles::load(&config.upstreams)?,
        ground.clock.clone(),
        pool,
        Arc::clone(&ground.in_flight),
    ));
    Ok(WayOut { resolver, gate, network })
}

fn engine(
    config: &Config,
    account: &Arc<Account>,
    ground: &Ground,
    network: &Arc<Network>,
    via: &HeaderValue,
) -> Arc<Engine> {
    let keyring = config.keyring(ground.secret);
    ground.remembered.know(config.routes.routes().iter().map(|route| &route.policy.key.query));
    Engine::new(engine::Parts {
        store: Arc::clone(&ground.store) as Arc<dyn Store>,
        origin: Arc::clone(network) as Arc<dyn Origin>,
        account: Arc::clone(account),
        keyring: Arc::new(keyring),
        clock: ground.clock.clone(),
        bounds: Bounds {
            max_object: config.store.max_object,
            waiters_per_key: config.limits.waiters_per_key,
        },
        in_flight: Arc::clone(&ground.in_flight),
        switch: Arc::clone(&ground.switch),
        underway: Arc::clone(&ground.underway),
        remembered: Arc::clone(&ground.remembered),
        via: via.clone(),
    })
}
