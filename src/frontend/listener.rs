//! Listeners and their accept loops.
//!
//! Owns: binding, the connection limit and the rejection of clients above it, the backoff after a
//! failed accept, the end of accepting. Never touches: the content of a connection (`connection`).

use std::future::ready;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

#[cfg(target_os = "linux")]
use socket2::SockRef;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::clock::Clock;
use crate::frontend::drain::DrainState;
use crate::frontend::stream::ClientStream;
use crate::frontend::{CurrentFrontend, connection};
use crate::semantics::request::ListenerKind;
use crate::telemetry::Telemetry;
use crate::telemetry::problem::Problem;

/// The length of the accept backlog.
const BACKLOG: i32 = 4096;

/// The delay after a failed accept, for example when no file descriptors are left: they become
/// available with time, not by retrying.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// How long the connection limit may be reached before new clients are rejected. It is worth waiting
/// for a short burst to end, but clients must not wait for a slot that may never become free (OVL-11).
const SLOT_WAIT: Duration = Duration::from_secs(1);

/// The unsent bytes that may wait in the kernel for a slow client. Half of them must be sent within
/// [`STALL_TIMEOUT`](crate::frontend::stream::STALL_TIMEOUT).
#[cfg(target_os = "linux")]
const UNSENT: u32 = 256 * 1024;

/// The number of clients that are rejected concurrently, over all listeners. Each of them uses a file
/// descriptor until it has read its response.
pub const MAX_REJECTIONS: usize = 8;

/// No connection slot became free in time.
const CONNECTION_LIMIT: Problem = Problem::new(
    http::StatusCode::SERVICE_UNAVAILABLE,
    "connections",
    "the number of connections has reached limits.connections or the limit of open files",
    "connection_limit_reached",
)
.retry_after(1);

/// Binds a listener; port 0 selects a free port. [`accept`] accepts connections from it.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the TIME_WAIT of old connections.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` are separate entries of `listen`.
        socket.set_only_v6(address.ip() == Ipv6Addr::UNSPECIFIED)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The kind of the listener on an address.
pub fn kind(address: SocketAddr) -> ListenerKind {
    if address.ip().to_canonical().is_loopback() { ListenerKind::Loopback } else { ListenerKind::Reachable }
}

/// The state that all accept loops share.
#[derive(Clone)]
pub struct AcceptContext {
    /// Provides the current frontend.
    pub frontends: Arc<dyn CurrentFrontend>,
    /// The connection slots: each connection holds a permit while it is open.
    pub slots: Arc<Semaphore>,
    /// The slots for rejections, [`MAX_REJECTIONS`] in all: a rejected client holds one until it has
    /// its response.
    pub rejection_slots: Arc<Semaphore>,
    /// Records failed accepts.
    pub telemetry: Arc<Telemetry>,
    /// The drain state.
    pub drain: watch::Receiver<DrainState>,
}

/// Accepts connections until larder is closing. Connections that were established by then are still served.
pub async fn accept(listener: TcpListener, context: AcceptContext) {
    let kind = match listener.local_addr() {
        Ok(address) => kind(address),
        Err(_unknown) => ListenerKind::Reachable,
    };
    let mut drain = context.drain.clone();
    tokio::select! {
        biased;
        _ = drain.wait_for(|drain| drain.is_closing()) => {}
        () = accept_all(&listener, kind, &context) => {}
    }
    context.accept_backlog(listener, kind);
}

async fn accept_all(listener: &TcpListener, kind: ListenerKind, context: &AcceptContext) {
    let mut full_since = None;
    loop {
        // At the connection limit new connections wait in the backlog, but not for long.
        let slot = context.wait_for_slot(&mut full_since).await;
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = ready(()), if slot.is_some() => {
                // A slot is free, and no connection is waiting.
                full_since = None;
                listener.accept().await
            }
        };
        match accepted {
            Ok((stream, peer)) => match slot.or_else(|| context.free_slot()) {
                Some(slot) => context.spawn_connection(stream, peer, kind, slot),
                None => context.reject(stream, peer).await,
            },
            Err(error) => {
                context.telemetry.accept_error(&error);
                if !is_connection_error(&error) {
                    sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }
}

/// Whether the error concerns only one connection, so that the next can be accepted at once: a client
/// that disconnects while it waits must not delay the others.
fn is_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

impl AcceptContext {
    fn free_slot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.slots).try_acquire_owned().ok()
    }

    /// Waits for a slot for the next connection; `None` if none has been free for longer than
    /// [`SLOT_WAIT`]. `full_since`: since when no slot was free, or connections had to wait.
    async fn wait_for_slot(&self, full_since: &mut Option<Instant>) -> Option<OwnedSemaphorePermit> {
        if let Some(slot) = self.free_slot() {
            return Some(slot);
        }
        let since = full_since.get_or_insert_with(Clock::timer_now);
        let left = SLOT_WAIT.saturating_sub(since.elapsed());
        // The semaphore is never closed.
        timeout(left, Arc::clone(&self.slots).acquire_owned()).await.ok()?.ok()
    }

    /// Sends an error response to a client for which no slot is free.
    async fn reject(&self, stream: TcpStream, peer: SocketAddr) {
        let Ok(slot) = Arc::clone(&self.rejection_slots).acquire_owned().await else { return };
        let frontend = self.frontends.current();
        tokio::spawn(async move {
            set_socket_options(&stream);
            let io = ClientStream::new(stream, peer, Arc::clone(&frontend.in_flight));
            frontend.refuse(io, &CONNECTION_LIMIT).await;
            drop(slot);
        });
    }

    fn spawn_connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        kind: ListenerKind,
        slot: OwnedSemaphorePermit,
    ) {
        let (frontends, drain, mut drain_end) =
            (Arc::clone(&self.frontends), self.drain.clone(), self.drain.clone());
        tokio::spawn(async move {
            set_socket_options(&stream);
            let io = ClientStream::new(stream, peer, Arc::clone(&frontends.current().in_flight));
            tokio::select! {
                () = connection::serve_connection(frontends, io, kind, drain) => {}
                _ = drain_end.wait_for(|drain| *drain == DrainState::Over) => {}
            }
            drop(slot);
        });
    }

    /// Connections in the backlog would be reset when the socket closes, so they are accepted first.
    fn accept_backlog(&self, listener: TcpListener, kind: ListenerKind) {
        let Ok(listener) = listener.into_std() else { return };
        while let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            let Ok((stream, peer)) = listener.accept() else { return };
            let Ok(()) = stream.set_nonblocking(true) else { continue };
            let Ok(stream) = TcpStream::from_std(stream) else { continue };
            self.spawn_connection(stream, peer, kind, slot);
        }
    }
}

fn set_socket_options(stream: &TcpStream) {
    // Best effort: without it small responses may wait for an acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::trace!(%error, "Could not switch Nagle's algorithm off");
    }
    // Best effort: without it the kernel accepts megabytes at once, and a slow but steady client looks
    // like one that reads nothing.
    #[cfg(target_os = "linux")]
    if let Err(error) = SockRef::from(stream).set_tcp_notsent_lowat(UNSENT) {
        tracing::trace!(%error, "Could not bound what waits to be sent");
    }
}
