//! A pipeline: all objects built from one configuration, built and replaced as a whole.
//!
//! Owns: the dependencies of each object. Never touches: state that outlives a configuration (`shared`),
//! swapping pipelines (`runtime`).

use std::sync::Arc;

use http::HeaderValue;

use crate::config::Config;
use crate::engine::Engine;
use crate::engine::deps::{EngineDeps, EngineLimits};
use crate::engine::router::Router;
use crate::frontend::access::AccessControl;
use crate::frontend::ca::leaf::LeafIssuer;
use crate::frontend::ca::{CaError, CertificateAuthority};
use crate::frontend::http1::Frontend;
use crate::frontend::interception::TlsInterceptor;
use crate::frontend::mount::Mounts;
use crate::frontend::tunnel::Tunnels;
use crate::frontend::web_page::PageCredentialRules;
use crate::key::KeyBuilder;
use crate::policy::Policy;
use crate::proxy::{Proxy, ProxyHandler};
use crate::server::shared::SharedState;
use crate::store::Store;
use crate::telemetry::Telemetry;
use crate::upstream::Origin;
use crate::upstream::admission::AdmissionControl;
use crate::upstream::client::HttpClient;
use crate::upstream::connect::egress_policy::EgressPolicy;
use crate::upstream::connect::parent::ParentTls;
use crate::upstream::connect::pool::ConnectionPool;
use crate::upstream::connect::resolve::Resolver;
use crate::upstream::connect::tls_config::{CallerRoots, ProfileError, TlsConfigs, check_system_roots};
use crate::upstream::routing::UpstreamTable;

/// Why a valid configuration could not be applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The root certificates of an upstream could not be read.
    #[error(transparent)]
    Roots(#[from] ProfileError),
    /// The certificate authority for intercepted connections could not be set up.
    #[error(transparent)]
    Authority(#[from] CaError),
}

/// The objects behind the listeners. A request finishes with the pipeline with which it began.
pub(super) struct Pipeline {
    pub(super) config: Config,
    pub(super) engine: Arc<Engine>,
    pub(super) key_builder: Arc<KeyBuilder>,
    pub(super) frontend: Arc<Frontend>,
    pub(super) admission: AdmissionControl,
    /// The certificate authority; `None`: no connection is intercepted.
    pub(super) authority: Option<Arc<CertificateAuthority>>,
    pool: ConnectionPool,
}

impl Pipeline {
    /// Builds all objects of `config` on `shared`, as successor of `previous`.
    pub(super) fn build(
        config: Config,
        shared: &SharedState,
        previous: Option<&Self>,
    ) -> Result<Self, BuildError> {
        check_system_roots()?;
        let previous_authority = previous.and_then(|pipeline| pipeline.authority.as_ref());
        let authority = CertificateAuthority::for_reload(previous_authority, &config, shared.clock.now())?;
        let leaf_issuer = authority.clone().map(|authority| LeafIssuer::new(authority, shared.clock.clone()));
        let leaf_issuer = leaf_issuer.transpose()?;
        let pool = previous.and_then(|pipeline| pipeline.pool_for(&config)).unwrap_or_default();
        let routes = config.routes.routes().iter().map(|route| Arc::clone(&route.name));
        let upstreams = config.upstreams.iter().map(|upstream| Arc::clone(&upstream.name));
        let (routes, upstreams): (Vec<_>, Vec<_>) = (routes.collect(), upstreams.collect());
        let telemetry = shared.telemetry.with_names(&routes, &upstreams, config.redactor());
        let telemetry = if config.serves_command { telemetry.for_command() } else { telemetry };
        let key_builder = Arc::new(config.key_builder(shared.secret));
        let UpstreamStack { resolver, admission, client } =
            upstream_stack(&config, (&telemetry, &key_builder), shared, pool.clone())?;
        let via =
            HeaderValue::try_from(format!("1.1 {}", shared.name)).expect("hexadecimal digits are valid");
        let engine = engine(&config, &telemetry, shared, (&client, &key_builder), &via);
        let upstream_table = Arc::clone(&client.upstreams);
        let service = Proxy::new(ProxyHandler {
            engine: Arc::clone(&engine),
            router: router(&config, shared, (&client, &key_builder)),
            network: client,
            telemetry: Arc::clone(&telemetry),
            clock: shared.clock.clone(),
            via,
            drain: shared.drain_state.clone(),
            tunnel_idle: config.limits.tunnel_idle,
            body: config.limits.body,
        });
        let tunnels = Tunnels {
            resolver,
            upstreams: Arc::clone(&upstream_table),
            admission: admission.clone(),
            telemetry: Arc::clone(&telemetry),
            mode_switch: Arc::clone(&shared.switch),
            upstream: upstreams.len(),
            route: routes.len(),
            idle: config.limits.tunnel_idle,
        };
        let frontend = Frontend {
            limits: config.limits.clone(),
            access_control: AccessControl::new(config.access.clone()),
            handler: Arc::new(service),
            tunnels,
            interception: TlsInterceptor::new(&config, leaf_issuer, shared.connection_auth_hosts.clone()),
            mounts: Mounts::new(&config.upstreams),
            page_credential_rules: PageCredentialRules::new(&config.upstreams),
            in_flight: Arc::clone(&shared.in_flight),
            telemetry,
            clock: shared.clock.clone(),
            name: Arc::clone(&shared.name),
        };
        let frontend = Arc::new(frontend);
        Ok(Self { config, engine, key_builder, frontend, admission, authority, pool })
    }

    /// The connection pool, if its connections are equally valid under `config`. The pool stores neither
    /// the resolution of an address nor the reason to trust it, and root certificate files are read
    /// again (a client certificate is part of `upstreams`).
    fn pool_for(&self, config: &Config) -> Option<ConnectionPool> {
        let old = &self.config;
        let is_unchanged = old.upstreams == config.upstreams
            && old.resolve == config.resolve
            && old.proxies == config.proxies
            && old.destinations == config.destinations;
        let has_root_files = !config.caller_roots.is_empty()
            || config.upstreams.iter().any(|upstream| !upstream.tls.extra_roots.is_empty());
        (is_unchanged && !has_root_files).then(|| self.pool.clone())
    }
}

/// The objects that make upstream calls.
struct UpstreamStack {
    resolver: Arc<Resolver>,
    admission: AdmissionControl,
    client: Arc<HttpClient>,
}

fn upstream_stack(
    config: &Config,
    (telemetry, key_builder): (&Arc<Telemetry>, &Arc<KeyBuilder>),
    shared: &SharedState,
    pool: ConnectionPool,
) -> Result<UpstreamStack, ProfileError> {
    let egress_policy = Arc::new(EgressPolicy::new(config.destinations.clone()));
    egress_policy.add_own_listeners(shared.own_addresses.iter().copied());
    let (rules, clock) = (config.resolve.clone(), shared.clock.clone());
    let caller_roots = CallerRoots::load(&config.caller_roots);
    let parent_tls = ParentTls::new(caller_roots.certificates());
    let resolver = Resolver::new(rules, egress_policy, shared.name_server, clock);
    let resolver = Arc::new(resolver.with_parent_tls(parent_tls));
    let registry = Arc::clone(&shared.upstream_registry);
    let admission = AdmissionControl::new(Arc::clone(telemetry), registry, shared.clock.clone())
        .with_refusals(Arc::clone(key_builder));
    let upstreams = UpstreamTable::new(config.upstreams.clone())
        .with_proxies(config.proxies.clone())
        .with_patience(config.limits.patience);
    let client = Arc::new(HttpClient {
        pool,
        upstreams: Arc::new(upstreams),
        resolver: Arc::clone(&resolver),
        admission: admission.clone(),
        in_flight: Arc::clone(&shared.in_flight),
        tls_configs: TlsConfigs::load(&config.upstreams, &caller_roots)?,
        clock: shared.clock.clone(),
    });
    Ok(UpstreamStack { resolver, admission, client })
}

fn router(
    config: &Config,
    shared: &SharedState,
    (client, key_builder): (&HttpClient, &Arc<KeyBuilder>),
) -> Router {
    let default_policy = Policy { cooldown: config.cooldown, ..Policy::origin() };
    Router {
        routes: config.routes.clone(),
        default_policy: Arc::new(default_policy),
        upstreams: Arc::clone(&client.upstreams),
        key_builder: Arc::clone(key_builder),
        switch: Arc::clone(&shared.switch),
    }
}

fn engine(
    config: &Config,
    telemetry: &Arc<Telemetry>,
    shared: &SharedState,
    (client, key_builder): (&Arc<HttpClient>, &Arc<KeyBuilder>),
    via: &HeaderValue,
) -> Arc<Engine> {
    shared.persistent_facts.add_rules(config.routes.routes().iter().map(|route| &route.policy.key.query));
    Engine::new(&EngineDeps {
        store: Arc::clone(&shared.store) as Arc<dyn Store>,
        origin: Arc::clone(client) as Arc<dyn Origin>,
        telemetry: Arc::clone(telemetry),
        key_builder: Arc::clone(key_builder),
        clock: shared.clock.clone(),
        limits: EngineLimits {
            max_object: config.store.max_object,
            waiters_per_key: config.limits.waiters_per_key,
        },
        in_flight: Arc::clone(&shared.in_flight),
        switch: Arc::clone(&shared.switch),
        pending_calls: Arc::clone(&shared.pending_calls),
        persistent_facts: Arc::clone(&shared.persistent_facts),
        via: via.clone(),
    })
}
