//! `CONNECT`: a tunnel whose bytes larder passes and does not see (RFC 9110 §9.3.6).
//!
//! Owns: opening a tunnel to an allowed address, passing bytes both ways, accounting for them.
//! Never touches: what the bytes mean; TLS in them is the client's and the origin's own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::{Method, StatusCode};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::clock;
use crate::engine::mode::{ModeSwitch, OFFLINE_PROBLEM};
use crate::frontend::splice::{SpliceEnd, SplicedBytes, splice};
use crate::frontend::stream::ClientStream;
use crate::policy::Mode;
use crate::semantics::request::ListenerKind;
use crate::telemetry::problem::Problem;
use crate::telemetry::{RequestEvent, ResultKind, Telemetry};
use crate::upstream::admission::AdmissionControl;
use crate::upstream::error::UpstreamError;
use crate::upstream::happy_eyeballs::Dialer;
use crate::upstream::resolve::Resolver;
use crate::upstream::routing::UpstreamTarget;

const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// A client that says nothing for this long waits for the origin to speak first.
const SILENT: Duration = Duration::from_secs(2);

/// How long a name may take until its tunnel is called open all the same: a name server that hangs
/// must not keep a client from what is stored. Nothing is dialled without another look at the address.
const FORBIDDEN_WITHIN: Duration = Duration::from_secs(1);

/// To a connection with the origin.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// What the first bytes inside a tunnel look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A TLS handshake record.
    Tls,
    /// An HTTP/1 method.
    Http,
    /// It may become a method.
    Undecided,
    /// Anything else, or nothing: the origin speaks first in some protocols.
    Other,
}

/// What became of a tunnel.
pub enum TunnelOutcome {
    /// It speaks HTTP in the clear: these are its first bytes.
    Http(ClientStream, BytesMut),
    /// It begins a TLS handshake with these bytes.
    Tls(ClientStream, BytesMut),
    /// Its bytes were passed on until both sides had ended, or the origin could not be reached.
    Over,
    /// There is none; that is recorded already.
    Refused(ClientStream, Problem),
}

/// Tells what begins with `bytes`.
pub fn sniff(bytes: &[u8]) -> Protocol {
    const METHODS: [&[u8]; 8] =
        [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"PATCH ", b"OPTIONS ", b"TRACE "];
    match bytes {
        [0x16, 0x03, ..] | [0x16] => Protocol::Tls,
        _ if METHODS.iter().any(|method| bytes.starts_with(method)) => Protocol::Http,
        [_, ..] if METHODS.iter().any(|method| method.starts_with(bytes)) => Protocol::Undecided,
        _ => Protocol::Other,
    }
}

/// Opens tunnels.
pub struct Tunnels {
    /// Names to allowed addresses.
    pub resolver: Arc<Resolver>,
    /// The gate of all ways out.
    pub gate: AdmissionControl,
    /// Where tunnels are recorded.
    pub account: Arc<Telemetry>,
    /// The master switch: offline there are no tunnels.
    pub switch: Arc<ModeSwitch>,
    /// The index under which calls that no upstream and no route names are counted.
    pub upstream: usize,
    /// The same for routes.
    pub route: usize,
    /// How long no byte may move in a tunnel until it ends.
    pub idle: Duration,
}

impl Tunnels {
    /// Opens a tunnel to `host:port` and passes bytes until both sides have ended. `early` are
    /// bytes that the client sent right behind the `CONNECT`.
    pub async fn open(
        &self,
        mut io: ClientStream,
        host: &str,
        port: u16,
        listener: ListenerKind,
        early: BytesMut,
    ) -> TunnelOutcome {
        let since = clock::monotonic();
        let mut origin = match self.reach(host, port, listener, since).await {
            Ok(origin) => origin,
            Err(problem) => return TunnelOutcome::Refused(io, problem),
        };
        let open = establish(&mut io).await;
        self.pass(&mut io, &mut origin, &early, open, host, since).await;
        TunnelOutcome::Over
    }

    /// Says that the tunnel is open and listens to what the client has to say, before any origin is
    /// asked: an answer from the store needs none. What is neither HTTP nor, where that `intercepts`,
    /// TLS is passed on.
    pub async fn inspect(
        &self,
        mut io: ClientStream,
        host: &str,
        port: u16,
        listener: ListenerKind,
        mut early: BytesMut,
        intercepts: bool,
    ) -> TunnelOutcome {
        let since = clock::monotonic();
        if let Some(problem) = self.forbidden(host, port, listener, since).await {
            return TunnelOutcome::Refused(io, problem);
        }
        if !establish(&mut io).await {
            return TunnelOutcome::Over;
        }
        // Past the time, what came is all there is.
        let _silent = timeout(SILENT, listen(&mut io, &mut early)).await;
        match sniff(&early) {
            Protocol::Http => return TunnelOutcome::Http(io, early),
            Protocol::Tls if intercepts => return TunnelOutcome::Tls(io, early),
            Protocol::Tls | Protocol::Undecided | Protocol::Other => {}
        }
        // The client has been told that it is open: all that is left to say is its end.
        if let Ok(mut origin) = self.reach(host, port, listener, since).await {
            self.pass(&mut io, &mut origin, &early, true, host, since).await;
        }
        TunnelOutcome::Over
    }

    /// Why this destination is out of reach, whatever is asked there. A name that cannot be resolved
    /// is not: the store may have what is asked for.
    async fn forbidden(
        &self,
        host: &str,
        port: u16,
        listener: ListenerKind,
        since: Instant,
    ) -> Option<Problem> {
        if self.switch.mode() == Mode::Offline {
            return None;
        }
        let resolved =
            timeout(FORBIDDEN_WITHIN, self.resolver.addresses(host, port, listener)).await;
        let Ok(Err(UpstreamError::Denied(why))) = resolved else { return None };
        self.account.denied(why.token());
        let problem = UpstreamError::Denied(why).problem();
        self.record(host, since, Err(&problem));
        Some(problem)
    }

    /// A connection with the origin, or the problem instead of it, recorded already.
    async fn reach(
        &self,
        host: &str,
        port: u16,
        listener: ListenerKind,
        since: Instant,
    ) -> Result<TcpStream, Problem> {
        if self.switch.mode() == Mode::Offline {
            self.record(host, since, Err(&OFFLINE_PROBLEM));
            return Err(OFFLINE_PROBLEM);
        }
        let place = UpstreamTarget::of_a_tunnel(self.upstream, host, port);
        let mut pass = self.gate.record(place, self.route);
        match self.dial(host, port, listener).await {
            Ok(origin) => {
                pass.answered(StatusCode::OK);
                Ok(origin)
            }
            Err(failure) => {
                pass.failed(failure.token());
                if let UpstreamError::Denied(why) = failure {
                    self.account.denied(why.token());
                }
                let problem = failure.problem();
                self.record(host, since, Err(&problem));
                Err(problem)
            }
        }
    }

    /// Passes bytes both ways until both sides have ended.
    async fn pass(
        &self,
        io: &mut ClientStream,
        origin: &mut TcpStream,
        early: &[u8],
        open: bool,
        host: &str,
        since: Instant,
    ) {
        let SplicedBytes { up, down, end } = if open {
            relay(io, origin, early, self.idle).await
        } else {
            SplicedBytes { up: 0, down: 0, end: SpliceEnd::Broken }
        };
        tracing::debug!(first = ?sniff(early), up, down, ?end, "Tunnel closed");
        self.record(host, since, Ok(down));
    }

    /// A tunnel that took this many bytes to the client, or the problem instead of it.
    fn record(&self, host: &str, since: Instant, outcome: Result<u64, &Problem>) {
        let down = outcome.unwrap_or_default();
        self.account.record(&RequestEvent {
            route: self.route,
            result: if outcome.is_ok() { ResultKind::Tunnel } else { ResultKind::Error },
            why: None,
            method: &Method::CONNECT,
            host,
            port: 0,
            path: "",
            status: Some(outcome.err().map_or(StatusCode::OK, |problem| problem.status)),
            cache_status: None,
            error: outcome.err().map(|problem| problem.class),
            duration: clock::monotonic().saturating_duration_since(since),
            client_bytes: down,
            upstream_bytes: down,
            filled_bytes: 0,
            is_larders: outcome.is_err(),
        });
    }

    async fn dial(
        &self,
        host: &str,
        port: u16,
        listener: ListenerKind,
    ) -> Result<TcpStream, UpstreamError> {
        let addresses: Vec<SocketAddr> =
            timeout(CONNECT_WITHIN, self.resolver.addresses(host, port, listener))
                .await
                .map_err(|_elapsed| UpstreamError::Dns)??;
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

/// Tells the client that the tunnel is open; false when it is gone.
async fn establish(io: &mut ClientStream) -> bool {
    let told = async {
        io.write_all(ESTABLISHED).await?;
        io.flush().await
    };
    told.await.is_ok()
}

/// Reads until it can be told what the client speaks, or it has ended its side.
async fn listen(io: &mut ClientStream, early: &mut BytesMut) {
    while early.is_empty() || sniff(early) == Protocol::Undecided {
        early.reserve(FIRST_READ);
        if !matches!(io.read_buf(early).await, Ok(1..)) {
            return;
        }
    }
}

/// Passes bytes both ways, `early` ones first.
async fn relay(
    io: &mut ClientStream,
    origin: &mut TcpStream,
    early: &[u8],
    idle: Duration,
) -> SplicedBytes {
    if origin.write_all(early).await.is_err() {
        return SplicedBytes { up: 0, down: 0, end: SpliceEnd::Broken };
    }
    io.keep_alive();
    let mut spliced = splice(io.transport(), origin, idle).await;
    spliced.up += early.len() as u64;
    if spliced.end == SpliceEnd::Idle {
        // A stream that is cut must not look whole to either side: both see a reset.
        io.answering();
        if let Err(error) = SockRef::from(&*origin).set_linger(Some(Duration::ZERO)) {
            tracing::trace!(%error, "Could not prepare a reset");
        }
    }
    spliced
}

/// Room for what a client says first.
const FIRST_READ: usize = 4 * 1024;
