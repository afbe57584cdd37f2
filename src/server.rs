//! The whole larder: every object built once, started and stopped in order.
//!
//! Owns: who is given what; the only file that knows all modules. Never touches: what they do.

mod admin_api;
pub mod handover;
pub mod inherited_sockets;
mod limit_storage;
pub mod pipeline;
pub mod reload;
mod runtime;
mod shared;
mod shutdown;
mod store_admin;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::admin;
use crate::admin::api::AdminApi;
use crate::clock::Clock;
use crate::config::{Admin, Config};
use crate::frontend::CurrentFrontend;
use crate::frontend::drain::DrainState;
use crate::frontend::listener::{self, AcceptContext};
use crate::server::admin_api::AdminService;
use crate::server::handover::invalidation_sync::InvalidationSync;
use crate::server::handover::{HandoverError, HandoverListener, Predecessor};
use crate::server::inherited_sockets::{InheritedSockets, Listeners};
use crate::server::pipeline::BuildError;
use crate::server::reload::ConfigSource;
use crate::server::runtime::Runtime;
use crate::server::shared::SharedState;
use crate::store::state_db::SecretError;
use crate::telemetry::Telemetry;
use crate::upstream::descriptors;

/// What a larder takes from its surroundings; tests put their own in.
#[derive(Debug, Default)]
pub struct ServerDeps {
    /// The time.
    pub clock: Clock,
    /// A name server to ask instead of the system's.
    pub name_server: Option<SocketAddr>,
    /// Where a reload reads the configuration; `None`: there is no reload.
    pub source: Option<ConfigSource>,
    /// Listening sockets that need not be bound.
    pub sockets: InheritedSockets,
    /// Another larder runs, and leaves once [`Server::succeed`] tells it to.
    pub takes_over: bool,
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
    /// A supervisor listens for larder where the configuration does not.
    #[error(
        "the supervisor gave a socket that listens on {socket}, which is neither `listen` ({}) nor \
         `admin.listen` ({}): name the same addresses in both",
        all(configured), admin.map_or("off".to_owned(), |admin| admin.to_string())
    )]
    Unclaimed {
        /// Where the socket listens.
        socket: SocketAddr,
        /// `listen`.
        configured: Vec<SocketAddr>,
        /// `admin.listen`.
        admin: Option<SocketAddr>,
    },
    /// The configuration could not be put in force.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The secret of this installation cannot be used.
    #[error("the secret of all keys: {0}")]
    Secret(#[from] SecretError),
}

impl StartError {
    /// The address that somebody else listens on, if that is why.
    pub fn taken(&self) -> Option<SocketAddr> {
        match self {
            Self::Listen { address, source, .. } => {
                (source.kind() == io::ErrorKind::AddrInUse).then_some(*address)
            }
            Self::Unclaimed { .. } | Self::Build(_) | Self::Secret(_) => None,
        }
    }
}

fn all(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
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
    estate: Arc<Runtime>,
    stage: watch::Sender<DrainState>,
    admin_stop: watch::Sender<bool>,
    places: Arc<Semaphore>,
    connections: usize,
    accepting: Vec<JoinHandle<()>>,
    administering: Option<JoinHandle<()>>,
    /// The listening sockets once more, to hand over.
    sockets: Vec<TcpListener>,
    offer: Option<HandoverListener>,
    echo: Option<InvalidationSync>,
    replaced: watch::Sender<bool>,
}

impl Server {
    /// Builds and starts a larder, within a tokio runtime. When this returns it accepts connections.
    pub fn start(config: Config, mut parts: ServerDeps) -> Result<Self, StartError> {
        let listeners = Listeners::of(&config, std::mem::take(&mut parts.sockets))?;
        let addresses: Vec<_> = listeners.proxy.iter().filter_map(address).collect();
        let admin = listeners.admin.as_ref().and_then(address);
        // Without its copies a larder runs as well; it only cannot hand them over.
        let sockets = listeners.iter().filter_map(|socket| socket.try_clone().ok()).collect();
        let (stage, staged) = watch::channel(DrainState::Open);
        let connections = descriptors::clients(config.limits.connections);
        let rules = config.admin.clone();
        let ground = SharedState::new(&config, &parts, &addresses, admin, staged)?;
        let estate = Runtime::found(config, ground, parts.source)?;
        // From before it accepts: nothing that is invalidated in between is lost.
        let echo = parts.takes_over.then(|| estate.ground.store.open());
        let mut server = Self {
            addresses,
            admin,
            estate,
            stage,
            admin_stop: watch::Sender::new(false),
            places: Arc::new(Semaphore::new(connections)),
            connections,
            accepting: Vec::new(),
            administering: None,
            sockets,
            offer: None,
            echo,
            replaced: watch::Sender::new(false),
        };
        server.accept(listeners, rules.as_ref())?;
        Ok(server)
    }

    fn accept(&mut self, listeners: Listeners, rules: Option<&Admin>) -> Result<(), StartError> {
        let lobby = AcceptContext {
            doors: Arc::clone(&self.estate) as Arc<dyn CurrentFrontend>,
            places: Arc::clone(&self.places),
            exits: Arc::new(Semaphore::new(listener::TURNED_AWAY)),
            account: Arc::clone(self.account()),
            stage: self.stage.subscribe(),
        };
        for listener in listeners.proxy {
            let listener = hand_to_tokio(listener, "listen")?;
            self.accepting.push(tokio::spawn(listener::accept(listener, lobby.clone())));
        }
        if let (Some(listener), Some(rules)) = (listeners.admin, rules) {
            let listener = hand_to_tokio(listener, "admin.listen")?;
            let account = Arc::clone(self.account());
            let stop = self.admin_stop.subscribe();
            let serving = admin::serve(listener, rules, self.controls(), account, stop);
            self.administering = Some(tokio::spawn(serving));
        }
        Ok(())
    }

    /// Offers the listening sockets to the larder that comes next, at `path`.
    pub fn offer(&mut self, path: &Path, taken_over: bool) -> Result<(), HandoverError> {
        let sockets = std::mem::take(&mut self.sockets);
        let store = Arc::clone(&self.estate.ground.store);
        self.offer =
            Some(HandoverListener::new(path, taken_over, sockets, store, self.replaced.clone())?);
        Ok(())
    }

    /// Tells the larder that ran before to leave; returns once it knows. Until it has ended, each of
    /// the two hears what the other invalidates.
    pub async fn take_over_from(&mut self, before: Predecessor) -> io::Result<()> {
        let stream = before.leave().await?;
        if let Some(echo) = self.echo.take() {
            tokio::spawn(echo.run(stream));
        }
        Ok(())
    }

    /// Returns when another larder has taken the sockets over and accepts: time to
    /// [`Server::hand_over`].
    pub async fn replaced(&self) {
        let mut replaced = self.replaced.subscribe();
        // The sender is this server's own.
        let _said = replaced.wait_for(|replaced| *replaced).await;
    }

    /// What an operator can ask of it.
    pub fn controls(&self) -> Arc<dyn AdminApi> {
        Arc::new(AdminService(Arc::clone(&self.estate)))
    }

    /// Where clients connect, in the order of `listen`, ports filled in.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where `/healthz` and `/metrics` are answered.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The certificate of the authority that vouches for larder (PEM); `None`: nothing is
    /// intercepted.
    pub fn ca(&self) -> Option<String> {
        self.estate.house().authority.as_ref().map(|authority| authority.pem())
    }

    /// Holds the thread that writes to the disk until something comes, for measuring what goes on
    /// meanwhile.
    #[doc(hidden)]
    pub fn stall_store(&self, until: std::sync::mpsc::Receiver<()>) {
        self.estate.ground.store.tiers().stall(until);
    }

    /// What is recorded.
    pub fn account(&self) -> &Arc<Telemetry> {
        &self.estate.ground.account
    }

    /// How many clients wait for a running fill that others may join, or read it.
    pub fn waiting(&self) -> usize {
        self.estate.house().engine.waiting()
    }

    /// How many of the places for clients are taken: one by each open connection, and one by each
    /// listener that waits for the next.
    pub fn places_taken(&self) -> usize {
        self.connections - self.places.available_permits()
    }
}

fn hand_to_tokio(
    listener: TcpListener,
    key: &'static str,
) -> Result<tokio::net::TcpListener, StartError> {
    let address = address(&listener).unwrap_or(([0, 0, 0, 0], 0).into());
    tokio::net::TcpListener::from_std(listener).map_err(|source| StartError::Listen {
        address,
        key,
        source,
    })
}

fn address(listener: &TcpListener) -> Option<SocketAddr> {
    listener.local_addr().ok()
}
