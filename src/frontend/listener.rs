//! Listeners and their accept loops.
//!
//! Owns: binding, the cap on connections and who is turned away at it, backing off when accepting
//! fails, the start of a stop.
//! Never touches: what happens on a connection (`connection`).

use std::future::ready;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(target_os = "linux")]
use socket2::SockRef;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::frontend::drain::DrainState;
use crate::frontend::stream::ClientStream;
use crate::frontend::{CurrentFrontend, connection};
use crate::semantics::request::ListenerKind;
use crate::telemetry::Telemetry;
use crate::telemetry::problem::Problem;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// After a failed accept (no file descriptors left, say) the next try waits this long: they come back
/// with time, not with trying.
const BACK_OFF: Duration = Duration::from_millis(50);

/// How long larder may have had no place to spare until those who come are turned away: a burst is
/// worth waiting for, and nobody waits for what may never come (OVL-11).
const PATIENCE: Duration = Duration::from_secs(1);

/// What may wait in the kernel for a client that reads slowly; half of it must go within
/// [`STALLED`](crate::front::io::STALLED).
#[cfg(target_os = "linux")]
const UNSENT: u32 = 256 * 1024;

/// How many are told so at once, over all listeners; each takes a descriptor until it has read it.
pub const TURNED_AWAY: usize = 8;

/// No place was free for longer than a client should wait.
const CROWDED: Problem = Problem::new(
    http::StatusCode::SERVICE_UNAVAILABLE,
    "connections",
    "as many clients are connected as limits.connections and the limit of open files allow",
    "connection_limit_reached",
)
.retry_after(1);

/// Binds a listener; port 0 picks a free port. Accepting from it is [`accept`]'s.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the old connections' TIME_WAIT.
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

/// Which kind of listener an address makes.
pub fn kind(address: SocketAddr) -> ListenerKind {
    if address.ip().to_canonical().is_loopback() {
        ListenerKind::Loopback
    } else {
        ListenerKind::Reachable
    }
}

/// What all accept loops share.
#[derive(Clone)]
pub struct AcceptContext {
    /// Who takes connections.
    pub doors: Arc<dyn CurrentFrontend>,
    /// Each connection holds one while it lives.
    pub places: Arc<Semaphore>,
    /// Whoever is turned away holds one until it knows: [`TURNED_AWAY`] of them.
    pub exits: Arc<Semaphore>,
    /// Where failures to accept are recorded.
    pub account: Arc<Telemetry>,
    /// How far the end has come.
    pub stage: watch::Receiver<DrainState>,
}

/// Accepts until larder is closing; whoever had connected by then is still received.
pub async fn accept(listener: TcpListener, lobby: AcceptContext) {
    let kind = match listener.local_addr() {
        Ok(address) => kind(address),
        Err(_unknown) => ListenerKind::Reachable,
    };
    let mut stage = lobby.stage.clone();
    tokio::select! {
        biased;
        _ = stage.wait_for(|stage| stage.is_closing()) => {}
        () = accept_all(&listener, kind, &lobby) => {}
    }
    lobby.take_the_last(listener, kind);
}

async fn accept_all(listener: &TcpListener, kind: ListenerKind, lobby: &AcceptContext) {
    let mut crowded = None;
    loop {
        // At the cap new connections wait in the backlog, but not for long.
        let place = lobby.place(&mut crowded).await;
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = ready(()), if place.is_some() => {
                // There is a place, and nobody who waits for it.
                crowded = None;
                listener.accept().await
            }
        };
        match accepted {
            Ok((stream, peer)) => match place.or_else(|| lobby.free_place()) {
                Some(place) => lobby.receive(stream, peer, kind, place),
                None => lobby.turn_away(stream, peer).await,
            },
            Err(error) => {
                lobby.account.accept_error(&error);
                if !is_over(&error) {
                    sleep(BACK_OFF).await;
                }
            }
        }
    }
}

/// Whether it was the one connection that went wrong, and the next may be taken at once: whoever
/// breaks off while waiting holds nobody up.
fn is_over(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

impl AcceptContext {
    fn free_place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// A place for the next connection; `None` when there is none and larder has been crowded for
    /// longer than [`PATIENCE`]. `crowded`: since when there was no place, or who came had to wait.
    async fn place(&self, crowded: &mut Option<Instant>) -> Option<OwnedSemaphorePermit> {
        if let Some(place) = self.free_place() {
            return Some(place);
        }
        let now = clock::monotonic();
        let since = *crowded.get_or_insert(now);
        let left = PATIENCE.saturating_sub(now.saturating_duration_since(since));
        // Nobody closes the semaphore.
        timeout(left, Arc::clone(&self.places).acquire_owned()).await.ok()?.ok()
    }

    /// Tells a client that there is no place for it.
    async fn turn_away(&self, stream: TcpStream, peer: SocketAddr) {
        let Ok(exit) = Arc::clone(&self.exits).acquire_owned().await else { return };
        let door = self.doors.current();
        tokio::spawn(async move {
            match_route(&stream);
            let io = ClientStream::new(stream, peer, Arc::clone(&door.in_flight));
            door.refuse(io, &CROWDED).await;
            drop(exit);
        });
    }

    fn receive(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        kind: ListenerKind,
        place: OwnedSemaphorePermit,
    ) {
        let (doors, stage, mut end) =
            (Arc::clone(&self.doors), self.stage.clone(), self.stage.clone());
        tokio::spawn(async move {
            match_route(&stream);
            let io = ClientStream::new(stream, peer, Arc::clone(&doors.current().in_flight));
            tokio::select! {
                () = connection::receive(doors, io, kind, stage) => {}
                _ = end.wait_for(|stage| *stage == DrainState::Over) => {}
            }
            drop(place);
        });
    }

    /// What waits in the backlog would be reset when the socket closes: it is taken in first.
    fn take_the_last(&self, listener: TcpListener, kind: ListenerKind) {
        let Ok(listener) = listener.into_std() else { return };
        while let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            let Ok((stream, peer)) = listener.accept() else { return };
            let Ok(()) = stream.set_nonblocking(true) else { continue };
            let Ok(stream) = TcpStream::from_std(stream) else { continue };
            self.receive(stream, peer, kind, place);
        }
    }
}

fn match_route(stream: &TcpStream) {
    // Best effort: without it small answers may wait for an acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::trace!(%error, "Could not switch Nagle's algorithm off");
    }
    // Best effort: without it the kernel takes megabytes at once, and a client that reads slowly but
    // steadily looks like one that reads nothing.
    #[cfg(target_os = "linux")]
    if let Err(error) = SockRef::from(stream).set_tcp_notsent_lowat(UNSENT) {
        tracing::trace!(%error, "Could not bound what waits to be sent");
    }
}
