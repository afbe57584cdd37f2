//! Accepts the admin listener's connections: not too many, and none for ever.
//!
//! Owns: the number of admin connections at once; what happens when accepting fails.
//! Never touches: what is said on a connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::account::Account;
use crate::admin::access::Access;
use crate::admin::patience::Patience;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client(pub(super) SocketAddr);

impl Connected<IncomingStream<'_, Listen>> for Client {
    fn connect_info(stream: IncomingStream<'_, Listen>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// The admin listener.
pub(super) struct Listen {
    listener: TcpListener,
    account: Arc<Account>,
    access: Arc<Access>,
    places: Arc<Semaphore>,
    /// Apart: whoever is not admitted cannot keep those out who are.
    places_to_refuse: Arc<Semaphore>,
}

impl Listen {
    pub(super) fn new(listener: TcpListener, account: Arc<Account>, access: Arc<Access>) -> Self {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let places_to_refuse = Arc::new(Semaphore::new(REFUSED));
        Self { listener, account, access, places, places_to_refuse }
    }

    /// A place for `client`, whom `admitted` is for if it is admitted. `Err`: there is none to
    /// refuse it from; it is closed at once.
    fn seat(
        &self,
        client: SocketAddr,
        admitted: OwnedSemaphorePermit,
    ) -> Result<OwnedSemaphorePermit, OwnedSemaphorePermit> {
        if self.access.admits(client.ip().to_canonical()) {
            return Ok(admitted);
        }
        Arc::clone(&self.places_to_refuse).try_acquire_owned().map_err(|_| admitted)
    }
}

impl Listener for Listen {
    type Io = Patience<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let mut place = place.expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, client)) => match self.seat(client, place) {
                    Ok(place) => return (Patience::new(stream, place), client),
                    Err(unused) => place = unused,
                },
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

/// Admin connections at once; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 64;
/// Further ones, of clients that are told that they are not admitted.
const REFUSED: usize = 8;
/// Between two failing accepts.
const PAUSE: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Admin;

    #[tokio::test]
    async fn who_is_not_admitted_takes_no_place_from_who_is() {
        let rules = Admin { allow: vec!["10.0.0.0/8".parse().unwrap()], ..Admin::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let access = Arc::new(Access::new(&rules));
        let listen = Listen::new(listener, Account::new(&[], &[]), access);
        let mut held = Vec::new();
        for _ in 0..REFUSED {
            let admitted = Arc::clone(&listen.places).try_acquire_owned().unwrap();
            held.push(listen.seat("192.0.2.1:5".parse().unwrap(), admitted).unwrap());
        }
        assert_eq!(listen.places.available_permits(), CONNECTIONS);
        let admitted = Arc::clone(&listen.places).try_acquire_owned().unwrap();
        let admitted = listen.seat("192.0.2.1:5".parse().unwrap(), admitted).unwrap_err();
        assert!(listen.seat("[::ffff:10.1.2.3]:5".parse().unwrap(), admitted).is_ok());
    }
}
