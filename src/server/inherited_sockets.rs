//! The listening sockets: bound by larder itself, or inherited from a supervisor or the previous process.
//!
//! Owns: assigning inherited sockets to the listeners of the configuration.
//! Never touches: the transfer of sockets (`handover`), accepting.

use std::io;
use std::net::{SocketAddr, TcpListener};

use crate::config::Config;
use crate::frontend::listener;
use crate::server::StartError;

/// Listening sockets that are already bound.
#[derive(Debug, Default)]
pub struct InheritedSockets {
    sockets: Vec<TcpListener>,
    strict: bool,
}

impl InheritedSockets {
    /// Sockets from a supervisor that listens for larder (systemd socket activation). Each must match a
    /// listener of the configuration; otherwise its queued connections would never be served.
    pub fn from_supervisor(sockets: Vec<TcpListener>) -> Self {
        Self { sockets, strict: true }
    }

    /// Sockets from the previous larder process. Sockets that the configuration no longer contains are
    /// closed.
    pub fn from_predecessor(sockets: Vec<TcpListener>) -> Self {
        Self { sockets, strict: false }
    }

    /// Whether there are no sockets.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    fn take(&mut self, wanted: SocketAddr) -> Option<TcpListener> {
        let index = self
            .sockets
            .iter()
            .position(|socket| socket.local_addr().is_ok_and(|address| matches_address(address, wanted)))?;
        Some(self.sockets.swap_remove(index))
    }
}

/// Port 0 matches any port, including the one that the previous process was assigned.
fn matches_address(address: SocketAddr, wanted: SocketAddr) -> bool {
    address.ip() == wanted.ip() && (address.port() == wanted.port() || wanted.port() == 0)
}

/// The listeners of a configuration.
pub(super) struct Listeners {
    /// The client listeners, in the order of `listen`.
    pub(super) proxy: Vec<TcpListener>,
    pub(super) admin: Option<TcpListener>,
}

impl Listeners {
    /// Uses the inherited sockets and binds the rest.
    pub(super) fn bind(config: &Config, mut sockets: InheritedSockets) -> Result<Self, StartError> {
        let proxy = config.listen.iter().map(|address| open(*address, "listen", &mut sockets));
        let proxy = proxy.collect::<Result<_, _>>()?;
        let admin = config.admin.as_ref().map(|admin| admin.listen);
        let admin = admin.map(|address| open(address, "admin.listen", &mut sockets)).transpose()?;
        match sockets.sockets.first().map(TcpListener::local_addr) {
            Some(Ok(socket)) if sockets.strict => Err(StartError::Unclaimed {
                socket,
                configured: config.listen.clone(),
                admin: config.admin.as_ref().map(|admin| admin.listen),
            }),
            _ => Ok(Self { proxy, admin }),
        }
    }

    /// All listeners, the admin listener last.
    pub(super) fn iter(&self) -> impl Iterator<Item = &TcpListener> {
        self.proxy.iter().chain(&self.admin)
    }
}

fn open(
    address: SocketAddr,
    key: &'static str,
    sockets: &mut InheritedSockets,
) -> Result<TcpListener, StartError> {
    let failed = |source: io::Error| StartError::Listen { address, key, source };
    match sockets.take(address) {
        Some(socket) => {
            if !is_listening(&socket).map_err(failed)? {
                let message = "the socket passed for it is not listening";
                return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, message)));
            }
            socket.set_nonblocking(true).map_err(failed)?;
            Ok(socket)
        }
        None => listener::bind(address).map_err(failed),
    }
}

fn is_listening(socket: &TcpListener) -> io::Result<bool> {
    #[cfg(not(target_vendor = "apple"))]
    return Ok(rustix::net::sockopt::socket_acceptconn(socket)?);
    // Cannot be queried there; a socket that is not listening fails on accept.
    #[cfg(target_vendor = "apple")]
    return socket.local_addr().map(|_| true);
}
