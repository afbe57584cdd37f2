//! Listeners and their accept loops.
//!
//! Owns: binding, the cap on connections, backing off when accepting fails, the start of a stop.
//! Never touches: what happens on a connection (`door`).

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::sleep;

use crate::account::Account;
use crate::front::door::Door;
use crate::front::io::ClientIo;
use crate::semantics::asked::Listener;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// After a failed accept (no file descriptors left, say) the next try waits this long.
const BACK_OFF: Duration = Duration::from_millis(50);

/// Binds a listener; port 0 picks a free port.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
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
    TcpListener::from_std(socket.into())
}

/// Which kind of listener an address makes.
pub fn kind(address: SocketAddr) -> Listener {
    if address.ip().to_canonical().is_loopback() { Listener::Loopback } else { Listener::Reachable }
}

/// What all accept loops share.
#[derive(Clone)]
pub struct Lobby {
    /// Who takes connections.
    pub door: Arc<Door>,
    /// Each connection holds one while it lives.
    pub places: Arc<Semaphore>,
    /// Where failures to accept are recorded.
    pub account: Arc<Account>,
    /// True: no new connection, no further request on the open ones.
    pub stop: watch::Receiver<bool>,
    /// True: the open ones end now.
    pub end: watch::Receiver<bool>,
}

/// Accepts until `stop` says so.
pub async fn accept(listener: TcpListener, lobby: Lobby) {
    let Lobby { door, places, account, mut stop, end } = lobby;
    let kind = match listener.local_addr() {
        Ok(address) => kind(address),
        Err(_unknown) => Listener::Reachable,
    };
    loop {
        // At the cap new connections wait in the backlog.
        let place = tokio::select! {
            Ok(place) = Arc::clone(&places).acquire_owned() => place,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (door, stop, mut end) = (Arc::clone(&door), stop.clone(), end.clone());
                tokio::spawn(async move {
                    prepare(&stream);
                    tokio::select! {
                        () = door.receive(ClientIo::new(stream, peer), kind, stop) => {}
                        _ = end.wait_for(|end| *end) => {}
                    }
                    drop(place);
                });
            }
            Err(error) => {
                account.accept_error(&error);
                sleep(BACK_OFF).await;
            }
        }
    }
}

fn prepare(stream: &TcpStream) {
    // Best effort: without it small answers may wait for an acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::trace!(%error, "Could not switch Nagle's algorithm off");
    }
}
