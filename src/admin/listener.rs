//! Accepts the connections of the admin listener, with a limit on their number and duration.
//!
//! Owns: the choice of a slot for a client; the handling of failed accepts.
//! Never touches: requests and responses.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::admin::acl::AdminAcl;
use crate::admin::connection_slots::{ClientKind, ConnectionSlot, ConnectionSlots, SlotIndex};
use crate::admin::timeout::DeadlineStream;
use crate::telemetry::Telemetry;

/// The client address of a connection, and its slot.
#[derive(Clone)]
pub(super) struct AdminConnectInfo {
    pub(super) address: SocketAddr,
    pub(super) slot: SlotIndex,
}

impl<S: AdminSocket> Connected<IncomingStream<'_, AdminListener<S>>> for AdminConnectInfo {
    fn connect_info(stream: IncomingStream<'_, AdminListener<S>>) -> Self {
        Self { address: *stream.remote_addr(), slot: stream.io().slot.index() }
    }
}

/// A listening socket.
pub(super) trait AdminSocket: Send + Sync + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Waits for a connection, and returns it with the address that access control applies to.
    fn next(&mut self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;

    /// The address of the socket, for axum.
    fn address(&self) -> io::Result<SocketAddr>;
}

impl AdminSocket for TcpListener {
    type Stream = TcpStream;

    async fn next(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        Self::accept(self).await
    }

    fn address(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }
}

/// Processes of this host that may open the socket's file: they count as loopback clients.
impl AdminSocket for UnixListener {
    type Stream = UnixStream;

    async fn next(&mut self) -> io::Result<(UnixStream, SocketAddr)> {
        Self::accept(self).await.map(|(stream, _)| (stream, LOCAL))
    }

    fn address(&self) -> io::Result<SocketAddr> {
        Ok(LOCAL)
    }
}

const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The admin listener.
pub(super) struct AdminListener<S = TcpListener> {
    listener: S,
    telemetry: Arc<Telemetry>,
    acl: Arc<AdminAcl>,
    slots: Arc<ConnectionSlots>,
}

impl<S: AdminSocket> AdminListener<S> {
    pub(super) fn new(listener: S, telemetry: Arc<Telemetry>, acl: Arc<AdminAcl>) -> Self {
        Self { listener, telemetry, acl, slots: Arc::default() }
    }

    /// The kind of slot for `client`.
    fn kind(&self, client: SocketAddr) -> ClientKind {
        let client = client.ip().to_canonical();
        if client.is_loopback() {
            ClientKind::Local
        } else if self.acl.admits(client) {
            ClientKind::Remote
        } else {
            ClientKind::Refused
        }
    }

    /// A slot for `client`. Connections from this host wait for one. Those from other hosts are closed if
    /// none is available, so that no connection from this host waits behind them.
    async fn slot_for(&self, client: SocketAddr) -> Option<ConnectionSlot> {
        match self.kind(client) {
            ClientKind::Local => Some(self.slots.acquire(ClientKind::Local).await),
            other @ (ClientKind::Remote | ClientKind::Refused) => self.slots.try_acquire(other),
        }
    }
}

impl<S: AdminSocket> Listener for AdminListener<S> {
    type Io = DeadlineStream<S::Stream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // Lets the previously accepted connection read its first bytes before others may take its slot.
        tokio::task::yield_now().await;
        loop {
            match self.listener.next().await {
                Ok((stream, client)) => {
                    if let Some(slot) = self.slot_for(client).await {
                        return (DeadlineStream::new(stream, slot), client);
                    }
                }
                Err(error) => {
                    self.telemetry.accept_error(&error);
                    // Usually no file descriptor is free, so an immediate retry would fail as well.
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.address()
    }
}

/// Delay after a failed accept.
const RETRY_DELAY: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Admin;

    #[tokio::test]
    async fn neither_refused_nor_remote_clients_use_the_slots_of_others() {
        let rules = Admin { allow: vec!["10.0.0.0/8".parse().unwrap()], ..Admin::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let acl = Arc::new(AdminAcl::new(&rules));
        let admin = AdminListener::new(listener, Telemetry::new(&[], &[]), acl);
        for (address, kind) in [
            ("127.0.0.1:5", ClientKind::Local),
            ("[::1]:5", ClientKind::Local),
            ("[::ffff:127.0.0.1]:5", ClientKind::Local),
            ("10.1.2.3:5", ClientKind::Remote),
            ("[::ffff:10.1.2.3]:5", ClientKind::Remote),
            ("192.0.2.1:5", ClientKind::Refused),
        ] {
            assert_eq!(admin.kind(address.parse().unwrap()), kind, "{address}");
        }
        let refused = "192.0.2.1:5".parse().unwrap();
        let mut slots = Vec::new();
        while let Some(slot) = admin.slot_for(refused).await {
            slots.push(slot);
        }
        assert_eq!(slots.len(), ClientKind::Refused.max_connections());
        assert!(admin.slot_for("10.1.2.3:5".parse().unwrap()).await.is_some());
        assert!(admin.slot_for("127.0.0.1:5".parse().unwrap()).await.is_some());
    }
}
