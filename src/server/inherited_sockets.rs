//! The listening sockets: bound by larder itself, or given to it by whoever held them before.
//!
//! Owns: which given socket is which listener of the configuration.
//! Never touches: how they are handed over (`handover`), accepting.

use std::io;
use std::net::{SocketAddr, TcpListener};

use crate::config::Config;
use crate::frontend::listener;
use crate::server::StartError;

/// Listening sockets that larder does not have to bind.
#[derive(Debug, Default)]
pub struct InheritedSockets {
    given: Vec<TcpListener>,
    strict: bool,
}

impl InheritedSockets {
    /// From a supervisor that listens for larder (systemd's socket activation): each must be one of
    /// the configuration, or what it holds back would never be answered.
    pub fn of_supervisor(given: Vec<TcpListener>) -> Self {
        Self { given, strict: true }
    }

    /// From the larder that ran before: what the configuration no longer names is let go.
    pub fn of_predecessor(given: Vec<TcpListener>) -> Self {
        Self { given, strict: false }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.given.is_empty()
    }

    fn take(&mut self, wanted: SocketAddr) -> Option<TcpListener> {
        let at = self.given.iter().position(|socket| {
            socket.local_addr().is_ok_and(|address| is_wanted(address, wanted))
        })?;
        Some(self.given.swap_remove(at))
    }
}

/// Port 0 is any port: also the one that the larder before was given.
fn is_wanted(address: SocketAddr, wanted: SocketAddr) -> bool {
    address.ip() == wanted.ip() && (address.port() == wanted.port() || wanted.port() == 0)
}

/// The listeners of a configuration.
pub(super) struct Listeners {
    /// In the order of `listen`.
    pub(super) proxy: Vec<TcpListener>,
    pub(super) admin: Option<TcpListener>,
}

impl Listeners {
    /// Takes what is given and binds the rest.
    pub(super) fn of(config: &Config, mut sockets: InheritedSockets) -> Result<Self, StartError> {
        let proxy = config.listen.iter().map(|address| open(*address, "listen", &mut sockets));
        let proxy = proxy.collect::<Result<_, _>>()?;
        let admin = config.admin.as_ref().map(|admin| admin.listen);
        let admin = admin.map(|address| open(address, "admin.listen", &mut sockets)).transpose()?;
        match sockets.given.first().map(TcpListener::local_addr) {
            Some(Ok(socket)) if sockets.strict => Err(StartError::Unclaimed {
                socket,
                configured: config.listen.clone(),
                admin: config.admin.as_ref().map(|admin| admin.listen),
            }),
            _ => Ok(Self { proxy, admin }),
        }
    }

    /// All of them, the admin listener last.
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
                let what = "the socket that was given for it is not listening";
                return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, what)));
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
    // Not to be asked there: accepting will tell.
    #[cfg(target_vendor = "apple")]
    return socket.local_addr().map(|_| true);
}
