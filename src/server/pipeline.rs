//! A house: everything that depends on the configuration, built from it in one piece and replaced in
//! one piece.
//!
//! Owns: who is given what. Never touches: what outlives a configuration (`ground`), when one is
//! swapped for another (`estate`).

use std::sync::Arc;

use http::HeaderValue;

use crate::config::Config;
use crate::engine::{self, Engine, EngineLimits};
use crate::frontend::access::AccessControl;
use crate::frontend::ca::leaf::LeafIssuer;
use crate::frontend::ca::{CaError, CertificateAuthority};
use crate::frontend::http1::Frontend;
use crate::frontend::interception::TlsInterceptor;
use crate::frontend::mount::Mounts;
use crate::frontend::tunnel::Tunnels;
use crate::frontend::web_page::PageCredentialRules;
use crate::proxy::{self, Proxy};
use crate::server::shared::SharedState;
use crate::store::Store;
use crate::telemetry::Telemetry;
use crate::upstream::Origin;
use crate::upstream::admission::AdmissionControl;
use crate::upstream::client::HttpClient;
use crate::upstream::connection_pool::ConnectionPool;
use crate::upstream::egress_policy::EgressPolicy;
use crate::upstream::resolve::Resolver;
use crate::upstream::routing::UpstreamTable;
use crate::upstream::tls_config::{ProfileError, TlsConfigs, check_system_roots};

/// Why a configuration that is valid could not be put in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// An upstream's roots could not be read.
    #[error(transparent)]
    Roots(#[from] ProfileError),
    /// Nobody vouches for larder in intercepted connections.
    #[error(transparent)]
    Authority(#[from] CaError),
}

/// The objects behind the listeners. A request finishes with the house that it began with.
pub(super) struct Pipeline {
    pub(super) config: Config,
    pub(super) engine: Arc<Engine>,
    pub(super) door: Arc<Frontend>,
    pub(super) gate: AdmissionControl,
    /// Who vouches for larder; `None`: nothing is intercepted.
    pub(super) authority: Option<Arc<CertificateAuthority>>,
    pool: ConnectionPool,
}

impl Pipeline {
    /// Builds everything that `config` asks for on `ground`, in place of `before`.
    pub(super) fn build(
        config: Config,
        ground: &SharedState,
        before: Option<&Self>,
    ) -> Result<Self, BuildError> {
        check_system_roots()?;
        let known = before.and_then(|house| house.authority.as_ref());
        let authority = CertificateAuthority::after(known, &config, ground.clock.now())?;
        let mint =
            authority.clone().map(|authority| LeafIssuer::new(authority, ground.clock.clone()));
        let mint = mint.transpose()?;
        let pool = before.and_then(|house| house.pool_for(&config)).unwrap_or_default();
        let routes = config.routes.routes().iter().map(|route| Arc::clone(&route.name));
        let upstreams = config.upstreams.iter().map(|upstream| Arc::clone(&upstream.name));
        let (routes, upstreams): (Vec<_>, Vec<_>) = (routes.collect(), upstreams.collect());
        let account = ground.account.renamed(&routes, &upstreams, config.redactor());
        let UpstreamStack { resolver, gate, network } =
            way_out(&config, &account, ground, pool.clone())?;
        let via = HeaderValue::try_from(format!("1.1 {}", ground.name))
            .expect("hexadecimal digits are valid");
        let engine = engine(&config, &account, ground, &network, &via);
        let service = Proxy::new(proxy::ProxyDeps {
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
        let door = Frontend {
            limits: config.limits.clone(),
            gatekeeper: AccessControl::new(config.access.clone()),
            service: Arc::new(service),
            tunnels,
            interception: TlsInterceptor::new(&config, mint, ground.sign_ins.clone()),
            mounts: Mounts::new(&config.upstreams),
            spenders: PageCredentialRules::new(&config.upstreams),
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
    fn pool_for(&self, config: &Config) -> Option<ConnectionPool> {
        let old = &self.config;
        let same = old.upstreams == config.upstreams
            && old.resolve == config.resolve
            && old.destinations == config.destinations;
        let roots = config.upstreams.iter().any(|upstream| !upstream.tls.extra_roots.is_empty());
        (same && !roots).then(|| self.pool.clone())
    }
}

/// The way to origins.
struct UpstreamStack {
    resolver: Arc<Resolver>,
    gate: AdmissionControl,
    network: Arc<HttpClient>,
}

fn way_out(
    config: &Config,
    account: &Arc<Telemetry>,
    ground: &SharedState,
    pool: ConnectionPool,
) -> Result<UpstreamStack, ProfileError> {
    let guard = Arc::new(EgressPolicy::new(config.destinations.clone()));
    guard.add_own(ground.own.iter().copied());
    let (rules, clock) = (config.resolve.clone(), ground.clock.clone());
    let resolver = Arc::new(Resolver::new(rules, guard, ground.name_server, clock));
    let traffics = Arc::clone(&ground.traffics);
    let gate = AdmissionControl::new(Arc::clone(account), traffics, ground.clock.clone());
    let network = Arc::new(HttpClient::new(
        UpstreamTable::new(config.upstreams.clone()),
        Arc::clone(&resolver),
        gate.clone(),
        TlsConfigs::load(&config.upstreams)?,
        ground.clock.clone(),
        pool,
        Arc::clone(&ground.in_flight),
    ));
    Ok(UpstreamStack { resolver, gate, network })
}

fn engine(
    config: &Config,
    account: &Arc<Telemetry>,
    ground: &SharedState,
    network: &Arc<HttpClient>,
    via: &HeaderValue,
) -> Arc<Engine> {
    let keyring = config.keyring(ground.secret);
    ground.remembered.know(config.routes.routes().iter().map(|route| &route.policy.key.query));
    Engine::new(engine::EngineDeps {
        store: Arc::clone(&ground.store) as Arc<dyn Store>,
        origin: Arc::clone(network) as Arc<dyn Origin>,
        account: Arc::clone(account),
        keyring: Arc::new(keyring),
        clock: ground.clock.clone(),
        bounds: EngineLimits {
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
