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
use tokio::sync::Semaphore;

use crate::account::Account;
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
    places: Arc<Semaphore>,
}

impl Listen {
    pub(super) fn new(listener: TcpListener, account: Arc<Account>) -> Self {
        Self { listener, account, places: Arc::new(Semaphore::new(CONNECTIONS)) }
    }
}

impl Listener for Listen {
    type Io = Patience<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, client)) => return (Patience::new(stream, place), client),
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
/// Between two failing accepts.
const PAUSE: Duration = Duration::from_millis(250);
