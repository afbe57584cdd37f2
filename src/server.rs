//! The whole larder: every object built once, started and stopped in order.
//!
//! Owns: who is given what; the only file that knows all modules. Never touches: what they do.

mod stored;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::account::Account;
use crate::admin;
use crate::clock::Clock;
use crate::config::{Config, ScopeSecret};
use crate::engine::{Bounds, Engine};
use crate::front::access::Gatekeeper;
use crate::front::door::Door;
use crate::front::listen::{self, Lobby};
use crate::front::tunnel::Tunnels;
use crate::key::Keyring;
use crate::proxy::{self, Proxy};
use crate::store::Store;
use crate::store::state::{NoSecret, Secret};
use crate::store::tiers::{self, Tiers};
use crate::upstream::Origin;
use crate::upstream::destination::Guard;
use crate::upstream::fetch::Network;
use crate::upstream::gate::Gate;
use crate::upstream::peer::{Roots, RootsError};
use crate::upstream::place::Upstreams;
use crate::upstream::resolve::Resolver;

/// How long a stop waits for requests in flight.
pub const DRAIN: Duration = Duration::from_secs(30);

/// What a larder takes from its surroundings; tests put their own in.
#[derive(Debug, Default)]
pub struct Parts {
    /// The time.
    pub clock: Clock,
    /// A name server to ask instead of the system's.
    pub name_server: Option<SocketAddr>,
}

/// Why a larder did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A listener could not be bound.
    #[error("cannot listen on {address} ({key}): {source}; {}", fix(source))]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The key of proxy.yaml that says so.
        key: &'static str,
        /// Why.
        source: io::Error,
    },
    /// An upstream's roots could not be read.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The secret of this installation cannot be used.
    #[error("the secret of all keys: {0}")]
    Secret(#[from] NoSecret),
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the standard library adds kinds of errors")]
fn fix(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process listens there: stop it, or choose another port"
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege: choose a higher one",
        io::ErrorKind::AddrNotAvailable => "this host has no such address",
        _ => "choose another address",
    }
}

/// A running larder.
pub struct Server {
    addresses: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
    account: Arc<Account>,
    engine: Arc<Engine>,
    stop: watch::Sender<bool>,
    end: watch::Sender<bool>,
    places: Arc<Semaphore>,
    connections: usize,
    tasks: Vec<JoinHandle<()>>,
}

/// The objects behind the listeners.
struct House {
    account: Arc<Account>,
    engine: Arc<Engine>,
    guard: Arc<Guard>,
    door: Arc<Door>,
}

impl Server {
    /// Builds and starts a larder, within a tokio runtime. When this returns it accepts connections.
    pub fn start(config: Config, parts: Parts) -> Result<Self, StartError> {
        let mut listeners = Vec::with_capacity(config.listen.len());
        for address in &config.listen {
            listeners.push(bind(*address, "listen")?);
        }
        let admin_listener =
            config.admin.as_ref().map(|admin| bind(admin.listen, "admin.listen")).transpose()?;
        let (stop, stopped) = watch::channel(false);
        let (end, ended) = watch::channel(false);
        let connections = config.limits.connections;
        let house = build(config, parts, &stopped)?;
        let addresses = local(&listeners);
        let admin_addresses = local(admin_listener.as_slice());
        house.guard.add_own(addresses.iter().chain(&admin_addresses).copied());
        let places = Arc::new(Semaphore::new(connections));
        let lobby = Lobby {
            door: house.door,
            places: Arc::clone(&places),
            account: Arc::clone(&house.account),
            stop: stopped.clone(),
            end: ended,
        };
        let mut tasks: Vec<_> = listeners
            .into_iter()
            .map(|listener| tokio::spawn(listen::accept(listener, lobby.clone())))
            .collect();
        if let Some(listener) = admin_listener {
            let serving = admin::serve(listener, Arc::clone(&house.account), stopped);
            tasks.push(tokio::spawn(serving));
        }
        let admin = admin_addresses.first().copied();
        let House { account, engine, .. } = house;
        Ok(Self { addresses, admin, account, engine, stop, end, places, connections, tasks })
    }

    /// Where clients connect, in the order of `listen`, ports filled in.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where `/healthz` and `/metrics` are answered.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// What is recorded.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// How many clients wait for a running fill that others may join, or read it.
    pub fn waiting(&self) -> usize {
        self.engine.waiting()
    }

    /// Stops: no new connections, requests in flight are finished within [`DRAIN`], then whatever is
    /// left is cut. Returns whether all were finished.
    pub async fn stop(self) -> bool {
        self.stop_within(DRAIN).await
    }

    /// [`Server::stop`] with another deadline.
    pub async fn stop_within(self, drain: Duration) -> bool {
        self.stop.send_replace(true);
        let all = u32::try_from(self.connections).unwrap_or(u32::MAX);
        let finished = timeout(drain, self.places.acquire_many(all)).await.is_ok();
        self.end.send_replace(true);
        for task in self.tasks {
            // Accept loops end with the stop; one that panicked has nothing left to stop.
            let _ended = task.await;
        }
        finished
    }
}

fn bind(address: SocketAddr, key: &'static str) -> Result<TcpListener, StartError> {
    listen::bind(address).map_err(|source| StartError::Listen { address, key, source })
}

fn local(listeners: &[TcpListener]) -> Vec<SocketAddr> {
    listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
}

/// The way to origins.
struct WayOut {
    guard: Arc<Guard>,
    resolver: Arc<Resolver>,
    gate: Gate,
    network: Arc<Network>,
}

fn way_out(
    config: &Config,
    account: &Arc<Account>,
    clock: &Clock,
    name_server: Option<SocketAddr>,
) -> Result<WayOut, RootsError> {
    let guard = Arc::new(Guard::new(config.destinations.clone()));
    let rules = config.resolve.clone();
    let resolver = Arc::new(Resolver::new(rules, Arc::clone(&guard), name_server));
    let gate = Gate::new(Arc::clone(account));
    let network = Arc::new(Network::new(
        Upstreams::new(config.upstreams.clone()),
        Arc::clone(&resolver),
        gate.clone(),
        Roots::load(&config.upstreams)?,
        clock.clone(),
    ));
    Ok(WayOut { guard, resolver, gate, network })
}

fn store(config: &Config, account: &Arc<Account>, clock: &Clock) -> Arc<dyn Store> {
    let settings = tiers::Settings {
        path: config.store.path.clone(),
        memory: config.store.memory,
        disk: config.store.disk,
        max_object: config.store.max_object,
        sweep_every: config.store.sweep_every,
    };
    Tiers::open(settings, clock.clone(), account)
}

/// The secret of all keys: the configured one, or this installation's own. Without a disk nothing
/// outlives the process, its secret neither.
fn scope_secret(config: &Config) -> Result<[u8; 32], NoSecret> {
    if let Some(ScopeSecret(configured)) = config.scope_secret {
        return Ok(configured);
    }
    if config.store.disk == 0 {
        return Ok(Secret::for_now().derived("scope"));
    }
    match Secret::of(&config.store.path.join("state")) {
        Ok(secret) => Ok(secret.derived("scope")),
        // A directory that cannot be written costs hits after a restart, no answer.
        Err(error @ NoSecret::Io { .. }) => {
            tracing::error!("{error}: what is stored will not be found after a restart");
            Ok(Secret::for_now().derived("scope"))
        }
        Err(error @ (NoSecret::Open(_) | NoSecret::Damaged(_))) => Err(error),
    }
}

fn engine(
    config: &Config,
    store: Arc<dyn Store>,
    scope_secret: [u8; 32],
    account: &Arc<Account>,
    clock: &Clock,
    network: &Arc<Network>,
    via: &HeaderValue,
) -> Arc<Engine> {
    let keyring = Keyring::new(scope_secret, &config.credential_headers, &config.secret_query);
    let bounds = Bounds {
        max_object: config.store.max_object,
        waiters_per_key: config.limits.waiters_per_key,
        in_flight: config.limits.in_flight,
    };
    Engine::new(
        store,
        Arc::clone(network) as Arc<dyn Origin>,
        Arc::clone(account),
        Arc::new(keyring),
        clock.clone(),
        bounds,
        via.clone(),
    )
}

fn build(config: Config, parts: Parts, stop: &watch::Receiver<bool>) -> Result<House, StartError> {
    let Parts { clock, name_server } = parts;
    let route_names: Vec<Arc<str>> =
        config.routes.routes().iter().map(|route| Arc::clone(&route.name)).collect();
    let upstream_names: Vec<Arc<str>> =
        config.upstreams.iter().map(|upstream| Arc::clone(&upstream.name)).collect();
    let account = Account::new(&route_names, &upstream_names);
    let WayOut { guard, resolver, gate, network } =
        way_out(&config, &account, &clock, name_server)?;
    // A name of its own: a ring of larders is a loop, a chain of them is not.
    let name: Arc<str> = format!("larder-{:08x}", rand::random::<u32>()).into();
    let via = HeaderValue::try_from(format!("1.1 {name}")).expect("hexadecimal digits are valid");
    let scope_secret = scope_secret(&config)?;
    let store = store(&config, &account, &clock);
    let engine = engine(&config, store, scope_secret, &account, &clock, &network, &via);
    let service = Proxy::new(proxy::Parts {
        engine: Arc::clone(&engine),
        routes: config.routes,
        network,
        account: Arc::clone(&account),
        via,
        stop: stop.clone(),
    });
    let tunnels = Tunnels {
        resolver,
        gate,
        account: Arc::clone(&account),
        upstream: upstream_names.len(),
        route: route_names.len(),
    };
    let door = Door {
        limits: config.limits,
        gatekeeper: Gatekeeper::new(config.access),
        service: Arc::new(service),
        tunnels,
        account: Arc::clone(&account),
        clock,
        name,
    };
    Ok(House { account, engine, guard, door: Arc::new(door) })
}
