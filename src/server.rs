//! The server: builds every object once, starts and stops them in order.
//!
//! Owns: the dependencies of each object; the only file that uses all modules. Never touches: their work.

mod admin_service;
pub mod handover;
pub mod inherited_sockets;
mod limit_storage;
pub mod pipeline;
pub mod reload;
mod runtime;
mod shared;
mod shutdown;
mod traffic_log;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::admin;
use crate::admin::api::AdminApi;
use crate::clock::Clock;
use crate::config::{Admin, Config, describe};
use crate::frontend::CurrentFrontend;
use crate::frontend::drain::DrainState;
use crate::frontend::listener::{self, AcceptContext};
use crate::server::admin_service::AdminService;
use crate::server::handover::invalidation_sync::InvalidationSync;
use crate::server::handover::{HandoverError, HandoverListener, Predecessor};
use crate::server::inherited_sockets::{InheritedSockets, Listeners};
use crate::server::pipeline::BuildError;
use crate::server::reload::ConfigSource;
use crate::server::runtime::Runtime;
use crate::server::shared::SharedState;
use crate::store::state_db::SecretError;
use crate::telemetry::Telemetry;
use crate::upstream::connect::descriptors;

/// The dependencies of a server; tests replace them.
#[derive(Debug, Default)]
pub struct ServerDeps {
    /// The clock.
    pub clock: Clock,
    /// The DNS server to use instead of the system's.
    pub name_server: Option<SocketAddr>,
    /// Reads the configuration for a reload; `None`: reload is not available.
    pub source: Option<ConfigSource>,
    /// Listening sockets that are already bound.
    pub sockets: InheritedSockets,
    /// Whether another larder process is running, which exits after [`Server::take_over_from`].
    pub takes_over: bool,
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A listener could not be bound.
    #[error("cannot listen on {address} ({key}): {source}; {}", fix(source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The configuration key of the address.
        key: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// A supervisor passed a socket for an address that is not configured.
    #[error(
        "the supervisor passed a socket that listens on {socket}, which is neither `listen` ({}) nor \
         `admin.listen` ({}): configure the same addresses in both",
        describe::list(configured), admin.map_or("off".to_owned(), |admin| admin.to_string())
    )]
    Unclaimed {
        /// The address of the socket.
        socket: SocketAddr,
        /// `listen`.
        configured: Vec<SocketAddr>,
        /// `admin.listen`.
        admin: Option<SocketAddr>,
    },
    /// The configuration could not be applied.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The installation secret cannot be used.
    #[error("the installation secret: {0}")]
    Secret(#[from] SecretError),
}

impl StartError {
    /// The address that another process listens on, if that is the cause.
    pub fn address_in_use(&self) -> Option<SocketAddr> {
        match self {
            Self::Listen { address, source, .. } => {
                (source.kind() == io::ErrorKind::AddrInUse).then_some(*address)
            }
            Self::Unclaimed { .. } | Self::Build(_) | Self::Secret(_) => None,
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the standard library adds kinds of errors")]
fn fix(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens there: stop it, or choose another port",
        io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege: choose a higher one",
        io::ErrorKind::AddrNotAvailable => "this host has no such address",
        _ => "choose another address",
    }
}

/// A running server.
pub struct Server {
    addresses: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
    runtime: Arc<Runtime>,
    drain_state: watch::Sender<DrainState>,
    admin_stop: watch::Sender<bool>,
    connection_slots: Arc<Semaphore>,
    connections: usize,
    accept_tasks: Vec<JoinHandle<()>>,
    admin_task: Option<JoinHandle<()>>,
    /// Copies of the listening sockets, for the hand-over.
    sockets: Vec<TcpListener>,
    handover_listener: Option<HandoverListener>,
    invalidation_sync: Option<InvalidationSync>,
    replaced: watch::Sender<bool>,
}

impl Server {
    /// Builds and starts a server, within a tokio runtime. It accepts connections when this returns.
    pub fn start(config: Config, mut deps: ServerDeps) -> Result<Self, StartError> {
        let listeners = Listeners::bind(&config, std::mem::take(&mut deps.sockets))?;
        let addresses: Vec<_> = listeners.proxy.iter().filter_map(address).collect();
        let admin = listeners.admin.as_ref().and_then(address);
        // Without copies the server still runs; it only cannot hand the sockets over.
        let sockets = listeners.iter().filter_map(|socket| socket.try_clone().ok()).collect();
        let (drain_state, drain_receiver) = watch::channel(DrainState::Open);
        let connections = descriptors::max_clients(config.limits.connections);
        let admin_config = config.admin.clone();
        let shared = SharedState::new(&config, &deps, &addresses, admin, drain_receiver)?;
        let runtime = Runtime::new(config, shared, deps.source)?;
        // Opened before the server accepts, so that no invalidation in between is lost.
        let invalidation_sync = deps.takes_over.then(|| InvalidationSync::start(&runtime.shared.store));
        let mut server = Self {
            addresses,
            admin,
            runtime,
            drain_state,
            admin_stop: watch::Sender::new(false),
            connection_slots: Arc::new(Semaphore::new(connections)),
            connections,
            accept_tasks: Vec::new(),
            admin_task: None,
            sockets,
            handover_listener: None,
            invalidation_sync,
            replaced: watch::Sender::new(false),
        };
        server.accept(listeners, admin_config.as_ref())?;
        Ok(server)
    }

    fn accept(&mut self, listeners: Listeners, admin_config: Option<&Admin>) -> Result<(), StartError> {
        let context = AcceptContext {
            frontends: Arc::clone(&self.runtime) as Arc<dyn CurrentFrontend>,
            slots: Arc::clone(&self.connection_slots),
            rejection_slots: Arc::new(Semaphore::new(listener::MAX_REJECTIONS)),
            telemetry: Arc::clone(self.telemetry()),
            drain: self.drain_state.subscribe(),
        };
        for listener in listeners.proxy {
            let listener = hand_to_tokio(listener, "listen")?;
            self.accept_tasks.push(tokio::spawn(listener::accept(listener, context.clone())));
        }
        if let (Some(listener), Some(admin_config)) = (listeners.admin, admin_config) {
            let listener = hand_to_tokio(listener, "admin.listen")?;
            let telemetry = Arc::clone(self.telemetry());
            let stop = self.admin_stop.subscribe();
            let serving = admin::serve(listener, admin_config, self.admin_api(), telemetry, stop);
            self.admin_task = Some(tokio::spawn(serving));
        }
        Ok(())
    }

    /// Serves the operator API on a Unix socket, too, for all users that may open it.
    pub fn serve_admin(&self, listener: tokio::net::UnixListener) {
        let (api, telemetry) = (self.admin_api(), Arc::clone(self.telemetry()));
        tokio::spawn(admin::serve_unix(listener, api, telemetry, self.admin_stop.subscribe()));
    }

    /// Offers the listening sockets to the next larder process, at `path`.
    pub fn offer(&mut self, path: &Path, taken_over: bool) -> Result<(), HandoverError> {
        let sockets = std::mem::take(&mut self.sockets);
        let store = Arc::clone(&self.runtime.shared.store);
        self.handover_listener =
            Some(HandoverListener::new(path, taken_over, sockets, store, self.replaced.clone())?);
        Ok(())
    }

    /// Logs the requests of each minute, until the server stops.
    pub fn log_traffic(&self) {
        let shared = &self.runtime.shared;
        let (telemetry, clock) = (Arc::clone(&shared.telemetry), shared.clock.clone());
        tokio::spawn(traffic_log::run(telemetry, clock, self.drain_state.subscribe()));
    }

    /// Notifies the previous larder process that it may exit; returns once it has acknowledged. Until it
    /// has exited, each process receives the invalidations of the other.
    pub async fn take_over_from(&mut self, predecessor: Predecessor) -> io::Result<()> {
        let stream = predecessor.notify_ready().await?;
        if let Some(invalidation_sync) = self.invalidation_sync.take() {
            tokio::spawn(invalidation_sync.run(stream));
        }
        Ok(())
    }

    /// Returns once another larder process has taken over the sockets and accepts connections. Then call
    /// [`Server::hand_over`].
    pub async fn replaced(&self) {
        let mut replaced = self.replaced.subscribe();
        // The sender belongs to this server, so it cannot be closed.
        let _changed = replaced.wait_for(|replaced| *replaced).await;
    }

    /// The operator API.
    pub fn admin_api(&self) -> Arc<dyn AdminApi> {
        Arc::new(AdminService(Arc::clone(&self.runtime)))
    }

    /// The addresses of the client listeners, in the order of `listen`, with the actual ports.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The address that serves `/healthz` and `/metrics`.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The certificate of the certificate authority (PEM); `None`: no connection is intercepted.
    pub fn ca(&self) -> Option<String> {
        self.runtime.pipeline().authority.as_ref().map(|authority| authority.pem())
    }

    /// Blocks the disk writer thread until `until` receives a message, to measure the requests in the
    /// meantime.
    #[doc(hidden)]
    pub fn stall_store(&self, until: std::sync::mpsc::Receiver<()>) {
        self.runtime.shared.store.stall(until);
    }

    /// The telemetry: logs and metrics.
    pub fn telemetry(&self) -> &Arc<Telemetry> {
        &self.runtime.shared.telemetry
    }

    /// Number of clients that wait for or read a fill that others may join.
    pub fn waiting(&self) -> usize {
        self.runtime.pipeline().engine.waiting()
    }

    /// Number of client slots in use: one per open connection, and one per listener that waits for the next.
    pub fn connections_taken(&self) -> usize {
        self.connections - self.connection_slots.available_permits()
    }
}

fn hand_to_tokio(listener: TcpListener, key: &'static str) -> Result<tokio::net::TcpListener, StartError> {
    let address = address(&listener).unwrap_or(([0, 0, 0, 0], 0).into());
    tokio::net::TcpListener::from_std(listener).map_err(|source| StartError::Listen { address, key, source })
}

fn address(listener: &TcpListener) -> Option<SocketAddr> {
    listener.local_addr().ok()
}
