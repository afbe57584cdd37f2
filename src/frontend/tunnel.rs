//! `CONNECT`: a tunnel whose bytes larder forwards without reading them (RFC 9110 §9.3.6).
//!
//! Owns: opening a tunnel to an allowed address, forwarding bytes both ways, the records of tunnels.
//! Never touches: the meaning of the bytes; TLS in them is between client and origin.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::{Method, StatusCode};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::clock::Clock;
use crate::engine::mode::{ModeSwitch, OFFLINE_PROBLEM};
use crate::frontend::splice::{SpliceEnd, SplicedBytes, splice};
use crate::frontend::stream::ClientStream;
use crate::policy::Mode;
use crate::semantics::request::ListenerKind;
use crate::semantics::target::Scheme;
use crate::telemetry::problem::Problem;
use crate::telemetry::{RequestEvent, ResultKind, Telemetry};
use crate::upstream::admission::AdmissionControl;
use crate::upstream::connect::happy_eyeballs::Dialer;
use crate::upstream::connect::parent::OriginStream;
use crate::upstream::connect::parent_path::{Destination, NetworkPath};
use crate::upstream::connect::resolve::Resolver;
use crate::upstream::outcome::error::UpstreamError;
use crate::upstream::routing::{UpstreamTable, UpstreamTarget};

const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// How long larder waits for a client's first bytes. After that it expects that the origin sends first.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(2);

/// How long name resolution may delay the opening of a tunnel: a name server that hangs must not keep a
/// client from stored responses. The address is checked again before it is dialled.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(1);

/// The time for establishing a connection to the origin.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The protocol that the first bytes inside a tunnel indicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A TLS handshake record.
    Tls,
    /// An HTTP/1 method.
    Http,
    /// A prefix of an HTTP/1 method.
    Undecided,
    /// Anything else, or nothing: in some protocols the origin sends first.
    Other,
}

/// The outcome of a tunnel.
pub enum TunnelOutcome {
    /// The client sends plaintext HTTP; these are its first bytes.
    Http(ClientStream, BytesMut),
    /// The client begins a TLS handshake with these bytes.
    Tls(ClientStream, BytesMut),
    /// The bytes were forwarded until both sides ended, or the origin was unreachable.
    Over,
    /// The tunnel is refused; this is already recorded.
    Refused(ClientStream, Problem),
}

/// A tunnel that a client requests.
#[derive(Clone, Copy)]
pub struct TunnelRequest<'a> {
    /// The host that `CONNECT` names.
    pub host: &'a str,
    /// Its port.
    pub port: u16,
    listener: ListenerKind,
    since: Instant,
}

impl<'a> TunnelRequest<'a> {
    /// A request that arrives now on this kind of listener.
    pub fn new(host: &'a str, port: u16, listener: ListenerKind) -> Self {
        Self { host, port, listener, since: Clock::timer_now() }
    }
}

/// Detects the protocol by the first bytes.
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
    /// Resolves names to allowed addresses.
    pub resolver: Arc<Resolver>,
    /// Maps hosts to upstreams and parent proxies.
    pub upstreams: Arc<UpstreamTable>,
    /// The admission control of outgoing connections.
    pub admission: AdmissionControl,
    /// Records tunnels.
    pub telemetry: Arc<Telemetry>,
    /// The mode switch: in offline mode there are no tunnels.
    pub mode_switch: Arc<ModeSwitch>,
    /// The metrics index of calls that match no upstream and no route.
    pub upstream: usize,
    /// The same for routes.
    pub route: usize,
    /// How long a tunnel may be idle until it ends.
    pub idle: Duration,
}

impl Tunnels {
    /// Opens a tunnel and forwards bytes until both sides have ended. `early`: the bytes that the client
    /// sent right after the `CONNECT`.
    pub async fn open(
        &self,
        mut io: ClientStream,
        request: TunnelRequest<'_>,
        early: BytesMut,
    ) -> TunnelOutcome {
        let mut origin = match self.connect(request).await {
            Ok(origin) => origin,
            Err(problem) => return TunnelOutcome::Refused(io, problem),
        };
        let spliced = if establish(&mut io).await {
            relay(&mut io, &mut origin, &early, self.idle).await
        } else {
            SplicedBytes::BROKEN
        };
        self.finish(request, &early, spliced);
        TunnelOutcome::Over
    }

    /// Confirms the tunnel and reads the client's first bytes, before larder contacts an origin: a
    /// stored response needs none. Protocols other than HTTP and, with `intercepts`, TLS are forwarded.
    pub async fn inspect(
        &self,
        mut io: ClientStream,
        request: TunnelRequest<'_>,
        mut early: BytesMut,
        intercepts: bool,
    ) -> TunnelOutcome {
        if let Some(problem) = self.check_destination(request).await {
            return TunnelOutcome::Refused(io, problem);
        }
        if !establish(&mut io).await {
            return TunnelOutcome::Over;
        }
        // After the timeout, larder uses the bytes that have arrived.
        let _silent = timeout(FIRST_BYTES_TIMEOUT, read_first_bytes(&mut io, &mut early)).await;
        match sniff(&early) {
            Protocol::Http => return TunnelOutcome::Http(io, early),
            Protocol::Tls if intercepts => return TunnelOutcome::Tls(io, early),
            Protocol::Tls | Protocol::Undecided | Protocol::Other => {}
        }
        // The client already has the confirmation: larder can only end the tunnel.
        if let Ok(mut origin) = self.connect(request).await {
            let spliced = relay(&mut io, &mut origin, &early, self.idle).await;
            self.finish(request, &early, spliced);
        }
        TunnelOutcome::Over
    }

    /// The problem if this destination is forbidden, whatever the request. A name that cannot be
    /// resolved is not forbidden: the response may be stored.
    async fn check_destination(&self, request: TunnelRequest<'_>) -> Option<Problem> {
        let TunnelRequest { host, port, listener, .. } = request;
        if self.mode_switch.mode() == Mode::Offline {
            return None;
        }
        let resolved = timeout(RESOLVE_TIMEOUT, self.path(host, port, listener)).await;
        let Ok(Err(UpstreamError::Denied(reason))) = resolved else { return None };
        self.telemetry.denied(reason.token());
        let problem = UpstreamError::Denied(reason).problem();
        self.record(request, Err(&problem));
        Some(problem)
    }

    /// Connects to the origin; a failure is already recorded.
    async fn connect(&self, request: TunnelRequest<'_>) -> Result<OriginStream, Problem> {
        if self.mode_switch.mode() == Mode::Offline {
            self.record(request, Err(&OFFLINE_PROBLEM));
            return Err(OFFLINE_PROBLEM);
        }
        let TunnelRequest { host, port, listener, .. } = request;
        let target = UpstreamTarget::for_tunnel(self.upstream, host, port);
        let mut timer = self.admission.start_timer(target, self.route);
        match self.dial(host, port, listener).await {
            Ok(origin) => {
                timer.on_response(StatusCode::OK);
                Ok(origin)
            }
            Err(failure) => {
                timer.on_failure(failure);
                if let UpstreamError::Denied(reason) = failure {
                    self.telemetry.denied(reason.token());
                }
                let problem = failure.problem();
                self.record(request, Err(&problem));
                Err(problem)
            }
        }
    }

    /// Logs and records a tunnel that has ended.
    fn finish(&self, request: TunnelRequest<'_>, early: &[u8], spliced: SplicedBytes) {
        let SplicedBytes { up, down, end } = spliced;
        tracing::debug!(first = ?sniff(early), up, down, ?end, "Tunnel closed");
        self.record(request, Ok(down));
    }

    /// Records a tunnel with the bytes that were sent to the client, or the problem that prevented it.
    fn record(&self, request: TunnelRequest<'_>, outcome: Result<u64, &Problem>) {
        let down = outcome.unwrap_or_default();
        self.telemetry.record(&RequestEvent {
            route: self.route,
            result: if outcome.is_ok() { ResultKind::Tunnel } else { ResultKind::Error },
            forward_reason: None,
            method: &Method::CONNECT,
            host: request.host,
            port: 0,
            path: "",
            status: Some(outcome.err().map_or(StatusCode::OK, |problem| problem.status)),
            cache_status: None,
            error: outcome.err().map(|problem| problem.class),
            duration: request.since.elapsed(),
            client_bytes: down,
            upstream_bytes: down,
            filled_bytes: 0,
            is_own_error: outcome.is_err(),
        });
    }

    async fn dial(
        &self,
        host: &str,
        port: u16,
        listener: ListenerKind,
    ) -> Result<OriginStream, UpstreamError> {
        let path = timeout(CONNECT_TIMEOUT, self.path(host, port, listener));
        let NetworkPath { host, port, addresses, hop } =
            path.await.map_err(|_elapsed| UpstreamError::Dns)??;
        let dialer = Dialer {
            host,
            port,
            addresses: addresses.into(),
            timeout: CONNECT_TIMEOUT,
            preferred: self.resolver.preferred(),
            hop,
        };
        dialer.open().await
    }

    async fn path(
        &self,
        host: &str,
        port: u16,
        listener: ListenerKind,
    ) -> Result<NetworkPath, UpstreamError> {
        let proxy = self.upstreams.proxy_for(Scheme::Https, host, port);
        let to = Destination { host, port, proxy: proxy.as_ref(), absolute_form: false, listener };
        self.resolver.path(to).await
    }
}

/// Confirms the tunnel to the client. Returns false if the client has disconnected.
async fn establish(io: &mut ClientStream) -> bool {
    let written = async {
        io.write_all(ESTABLISHED).await?;
        io.flush().await
    };
    written.await.is_ok()
}

/// Reads until the client's protocol is known, or its side has ended.
async fn read_first_bytes(io: &mut ClientStream, early: &mut BytesMut) {
    while early.is_empty() || sniff(early) == Protocol::Undecided {
        early.reserve(FIRST_READ);
        if !matches!(io.read_buf(early).await, Ok(1..)) {
            return;
        }
    }
}

/// Forwards bytes both ways, `early` first.
async fn relay(
    io: &mut ClientStream,
    origin: &mut OriginStream,
    early: &[u8],
    idle: Duration,
) -> SplicedBytes {
    if origin.write_all(early).await.is_err() {
        return SplicedBytes::BROKEN;
    }
    io.keep_alive();
    let mut spliced = splice(io.transport(), origin, idle).await;
    spliced.up += early.len() as u64;
    if spliced.end == SpliceEnd::Idle {
        // A stream that is cut must not look complete to either side: both see a reset.
        io.arm_reset();
        if let Err(error) = SockRef::from(origin.tcp()).set_linger(Some(Duration::ZERO)) {
            tracing::trace!(%error, "Could not prepare a reset");
        }
    }
    spliced
}

/// The buffer size for a client's first bytes.
const FIRST_READ: usize = 4 * 1024;
