//! The whole larder: every object built once, started and stopped in order.
//!
//! Owns: who is given what; the only file that knows all modules. Never touches: what they do.

mod estate;
mod ground;
mod house;
mod stored;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::account::Account;
use crate::admin;
use crate::clock::Clock;
use crate::config::Config;
use crate::front::Doors;
use crate::front::listen::{self, Lobby};
use crate::front::stage::Stage;
use crate::server::estate::Estate;
use crate::server::ground::Ground;
use crate::store::state::NoSecret;
use crate::upstream::peer::RootsError;

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
    estate: Arc<Estate>,
    stage: watch::Sender<Stage>,
    admin_stop: watch::Sender<bool>,
    places: Arc<Semaphore>,
    connections: usize,
    tasks: Vec<JoinHandle<()>>,
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
        let addresses = local(&listeners);
        let admin = local(admin_listener.as_slice()).first().copied();
        let own = addresses.iter().copied().chain(admin).collect();
        let (stage, staged) = watch::channel(Stage::Open);
        let (admin_stop, admin_stopped) = watch::channel(false);
        let connections = config.limits.connections;
        let ground = Ground::new(&config, &parts, own, staged.clone())?;
        let estate = Estate::found(config, ground)?;
        let places = Arc::new(Semaphore::new(connections));
        let lobby = Lobby {
            doors: Arc::clone(&estate) as Arc<dyn Doors>,
            places: Arc::clone(&places),
            account: Arc::clone(&estate.ground.account),
            stage: staged,
        };
        let mut tasks = Vec::with_capacity(listeners.len() + 1);
        for (listener, address) in listeners.into_iter().zip(&addresses) {
            let listener = hand_to_tokio(listener, *address, "listen")?;
            tasks.push(tokio::spawn(listen::accept(listener, lobby.clone())));
        }
        if let (Some(listener), Some(address)) = (admin_listener, admin) {
            let listener = hand_to_tokio(listener, address, "admin.listen")?;
            let account = Arc::clone(&estate.ground.account);
            tasks.push(tokio::spawn(admin::serve(listener, account, admin_stopped)));
        }
        Ok(Self { addresses, admin, estate, stage, admin_stop, places, connections, tasks })
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
        &self.estate.ground.account
    }

    /// How many clients wait for a running fill that others may join, or read it.
    pub fn waiting(&self) -> usize {
        self.estate.house().engine.waiting()
    }

    /// How many client connections are open.
    pub fn connections(&self) -> usize {
        self.connections - self.places.available_permits()
    }

    /// Stops: no new connections, requests in flight are finished within [`DRAIN`], then whatever is
    /// left is cut. Returns whether all were finished.
    pub async fn stop(self) -> bool {
        self.stop_within(DRAIN).await
    }

    /// [`Server::stop`] with another deadline.
    pub async fn stop_within(self, drain: Duration) -> bool {
        self.stage.send_replace(Stage::Closing { grace: GRACE.min(drain) });
        let all = u32::try_from(self.connections).unwrap_or(u32::MAX);
        let finished = timeout(drain, self.places.acquire_many(all)).await.is_ok();
        self.stage.send_replace(Stage::Over);
        self.estate.ground.store.release().await;
        self.admin_stop.send_replace(true);
        for task in self.tasks {
            // Accept loops end with the stop; one that panicked has nothing left to stop.
            let _ended = task.await;
        }
        finished
    }
}

/// How long a connection without a request may stay when larder stops.
const GRACE: Duration = Duration::from_secs(1);

fn bind(address: SocketAddr, key: &'static str) -> Result<TcpListener, StartError> {
    listen::bind(address).map_err(|source| StartError::Listen { address, key, source })
}

fn hand_to_tokio(
    listener: TcpListener,
    address: SocketAddr,
    key: &'static str,
) -> Result<tokio::net::TcpListener, StartError> {
    tokio::net::TcpListener::from_std(listener).map_err(|source| StartError::Listen {
        address,
        key,
        source,
    })
}

fn local(listeners: &[TcpListener]) -> Vec<SocketAddr> {
    listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
}
