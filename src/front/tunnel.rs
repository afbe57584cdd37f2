//! `CONNECT`: a tunnel whose bytes larder passes and does not see (RFC 9110 §9.3.6).
//!
//! Owns: opening a tunnel to an allowed address, passing bytes both ways, accounting for them.
//! Never touches: what the bytes mean; TLS in them is the client's and the origin's own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::{Method, StatusCode};
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::account::problem::Problem;
use crate::account::{Account, Exchange, ResultKind};
use crate::clock;
use crate::engine::switch::{OFFLINE_PROBLEM, Switch};
use crate::front::io::ClientIo;
use crate::policy::Mode;
use crate::semantics::asked::Listener;
use crate::upstream::dial::Dialer;
use crate::upstream::failure::Failure;
use crate::upstream::gate::Gate;
use crate::upstream::resolve::Resolver;

const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// To a connection with the origin.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// What the first bytes inside a tunnel look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniffed {
    /// A TLS handshake record.
    Tls,
    /// An HTTP/1 method.
    Http,
    /// Anything else, or nothing: the origin speaks first in some protocols.
    Other,
}

/// Tells what begins with `bytes`.
pub fn sniff(bytes: &[u8]) -> Sniffed {
    const METHODS: [&[u8]; 8] =
        [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"PATCH ", b"OPTIONS ", b"TRACE "];
    match bytes {
        [0x16, 0x03, ..] | [0x16] => Sniffed::Tls,
        _ if METHODS.iter().any(|method| bytes.starts_with(method)) => Sniffed::Http,
        _ => Sniffed::Other,
    }
}

/// Opens tunnels.
pub struct Tunnels {
    /// Names to allowed addresses.
    pub resolver: Arc<Resolver>,
    /// The gate of all ways out.
    pub gate: Gate,
    /// Where tunnels are recorded.
    pub account: Arc<Account>,
    /// The master switch: offline there are no tunnels.
    pub switch: Arc<Switch>,
    /// The index under which calls that no upstream and no route names are counted.
    pub upstream: usize,
    /// The same for routes.
    pub route: usize,
}

impl Tunnels {
    /// Opens a tunnel to `host:port` and passes bytes until both sides have ended. `early` are
    /// bytes that the client sent right behind the `CONNECT`. Gives the connection back with a
    /// problem when there is no tunnel; that is recorded already.
    pub async fn open(
        &self,
        mut io: ClientIo,
        host: &str,
        port: u16,
        listener: Listener,
        early: BytesMut,
    ) -> Result<(), (ClientIo, Problem)> {
        let since = clock::monotonic();
        if self.switch.mode() == Mode::Offline {
            self.record(host, since, Err(&OFFLINE_PROBLEM));
            return Err((io, OFFLINE_PROBLEM));
        }
        let mut pass = self.gate.enter(self.upstream, self.route);
        let mut origin = match self.dial(host, port, listener).await {
            Ok(origin) => origin,
            Err(failure) => {
                pass.failed(failure.token());
                if let Failure::Denied(why) = failure {
                    self.account.denied(why.token());
                }
                let problem = failure.problem();
                self.record(host, since, Err(&problem));
                return Err((io, problem));
            }
        };
        pass.answered(StatusCode::OK);
        let (up, down) = relay(&mut io, &mut origin, &early).await;
        tracing::debug!(first = ?sniff(&early), up, down, "Tunnel closed");
        self.record(host, since, Ok(down));
        Ok(())
    }

    /// A tunnel that took this many bytes to the client, or the problem instead of it.
    fn record(&self, host: &str, since: Instant, outcome: Result<u64, &Problem>) {
        let down = outcome.unwrap_or_default();
        self.account.record(&Exchange {
            route: self.route,
            result: if outcome.is_ok() { ResultKind::Tunnel } else { ResultKind::Error },
            why: None,
            method: &Method::CONNECT,
            host,
            path: "",
            status: Some(outcome.err().map_or(StatusCode::OK, |problem| problem.status)),
            cache_status: None,
            error: outcome.err().map(|problem| problem.class),
            duration: clock::monotonic().saturating_duration_since(since),
            client_bytes: down,
            upstream_bytes: down,
        });
    }

    async fn dial(&self, host: &str, port: u16, listener: Listener) -> Result<TcpStream, Failure> {
        let addresses: Vec<SocketAddr> =
            timeout(CONNECT_WITHIN, self.resolver.addresses(host, port, listener))
                .await
                .map_err(|_elapsed| Failure::Dns)??;
        let dialer = Dialer {
            host: host.to_owned(),
            port,
            addresses: addresses.into(),
            within: CONNECT_WITHIN,
            preferred: self.resolver.preferred(),
        };
        dialer.dial().await
    }
}

/// Passes bytes both ways; how many went up and down.
async fn relay(io: &mut ClientIo, origin: &mut TcpStream, early: &[u8]) -> (u64, u64) {
    let opened = async {
        io.write_all(ESTABLISHED).await?;
        io.flush().await?;
        origin.write_all(early).await
    };
    if opened.await.is_err() {
        return (0, 0);
    }
    match copy_bidirectional(io.socket(), origin).await {
        Ok((up, down)) => (up + early.len() as u64, down),
        // One side broke off: how much went through before is not known.
        Err(_broken) => (early.len() as u64, 0),
    }
}
