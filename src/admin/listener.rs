//! Accepts the admin listener's connections: not too many, and none for ever.
//!
//! Owns: which places are for whom; what happens when accepting fails.
//! Never touches: what is said on a connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::net::{TcpListener, TcpStream};

use crate::admin::acl::AdminAcl;
use crate::admin::connection_slots::{ClientKind, ConnectionSlot, ConnectionSlots, SlotIndex};
use crate::admin::timeout::DeadlineStream;
use crate::telemetry::Telemetry;

/// The other end of a connection, and the place that it has.
#[derive(Clone)]
pub(super) struct AdminConnectInfo {
    pub(super) address: SocketAddr,
    pub(super) seat: SlotIndex,
}

impl Connected<IncomingStream<'_, AdminListener>> for AdminConnectInfo {
    fn connect_info(stream: IncomingStream<'_, AdminListener>) -> Self {
        Self { address: *stream.remote_addr(), seat: stream.io().seat() }
    }
}

/// The admin listener.
pub(super) struct AdminListener {
    listener: TcpListener,
    account: Arc<Telemetry>,
    access: Arc<AdminAcl>,
    places: Arc<ConnectionSlots>,
}

impl AdminListener {
    pub(super) fn new(
        listener: TcpListener,
        account: Arc<Telemetry>,
        access: Arc<AdminAcl>,
    ) -> Self {
        Self { listener, account, access, places: Arc::default() }
    }

    /// Which places are for `client`.
    fn kind(&self, client: SocketAddr) -> ClientKind {
        let client = client.ip().to_canonical();
        if client.is_loopback() {
            ClientKind::Local
        } else if self.access.admits(client) {
            ClientKind::Remote
        } else {
            ClientKind::Refused
        }
    }

    /// A place for `client`. This host's own connections wait for one; those of other hosts are closed
    /// where there is none, so that none of this host waits behind them.
    async fn place(&self, client: SocketAddr) -> Option<ConnectionSlot> {
        match self.kind(client) {
            ClientKind::Local => Some(self.places.wait_for(ClientKind::Local).await),
            other @ (ClientKind::Remote | ClientKind::Refused) => self.places.take(other),
        }
    }
}

impl Listener for AdminListener {
    type Io = DeadlineStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // The one that was accepted before gets to read what it was sent, before others may take its
        // place.
        tokio::task::yield_now().await;
        loop {
            match self.listener.accept().await {
                Ok((stream, client)) => {
                    if let Some(place) = self.place(client).await {
                        return (DeadlineStream::new(stream, place), client);
                    }
                }
                Err(error) => {
                    self.account.accept_error(&error);
                    // Out of descriptors: they come back with time, not with trying.
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Between two failing accepts.
const PAUSE: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Admin;

    #[tokio::test]
    async fn a_host_that_is_not_admitted_takes_no_place_from_one_that_is_and_no_other_host_from_this_one()
     {
        let rules = Admin { allow: vec!["10.0.0.0/8".parse().unwrap()], ..Admin::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let access = Arc::new(AdminAcl::new(&rules));
        let listen = AdminListener::new(listener, Telemetry::new(&[], &[]), access);
        for (address, kind) in [
            ("127.0.0.1:5", ClientKind::Local),
            ("[::1]:5", ClientKind::Local),
            ("[::ffff:127.0.0.1]:5", ClientKind::Local),
            ("10.1.2.3:5", ClientKind::Remote),
            ("[::ffff:10.1.2.3]:5", ClientKind::Remote),
            ("192.0.2.1:5", ClientKind::Refused),
        ] {
            assert_eq!(listen.kind(address.parse().unwrap()), kind, "{address}");
        }
        let stranger = "192.0.2.1:5".parse().unwrap();
        let mut held = Vec::new();
        while let Some(place) = listen.place(stranger).await {
            held.push(place);
        }
        assert_eq!(held.len(), ClientKind::Refused.places());
        assert!(listen.place("10.1.2.3:5".parse().unwrap()).await.is_some());
        assert!(listen.place("127.0.0.1:5".parse().unwrap()).await.is_some());
    }
}
