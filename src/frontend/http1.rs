//! A request: its head read under a deadline, refused or handed on.
//!
//! Owns: the bytes of a connection until they are a clean request, or a tunnel's.
//! Never touches: routes, the store.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::VIA;
use http::{HeaderMap, Version};
use tokio::io::AsyncReadExt;

use crate::clock::{self, Clock};
use crate::config::Limits;
use crate::frontend::RequestHandler;
use crate::frontend::access::{AccessControl, CLIENT_DENIED, USER_REQUIRED};
use crate::frontend::head::{self, HeadScanner, HeadTarget, RequestHead};
use crate::frontend::interception::{HandshakeContext, Intercepted, MatchedHost, TlsInterceptor};
use crate::frontend::mount::{MountTarget, Mounts};
use crate::frontend::session::{ClientSession, Http1Session};
use crate::frontend::stream::{ClientStream, within};
use crate::frontend::target::ProxyMode;
use crate::frontend::tunnel::{TunnelOutcome, Tunnels};
use crate::frontend::web_page::PageCredentialRules;
use crate::semantics::hop_by_hop;
use crate::semantics::request::{ListenerKind, ProxyRequest, RequestFraming};
use crate::semantics::target::Scheme;
use crate::telemetry::Telemetry;
use crate::telemetry::problem::Problem;
use crate::upstream::in_flight_bytes::InFlightBytes;

/// What is read at once while a head comes in.
pub(super) const READ: usize = 8 * 1024;

const SLOW_HEAD: Problem = Problem::new(
    http::StatusCode::REQUEST_TIMEOUT,
    "head_timeout",
    "the request head did not arrive within limits.head_timeout",
    "http_request_error",
);

pub(super) const LOOP: Problem = Problem::new(
    http::StatusCode::LOOP_DETECTED,
    "loop",
    "this request has passed through this larder before",
    "proxy_loop_detected",
);

/// The front door.
pub struct Frontend {
    /// What clients may send.
    pub limits: Limits,
    /// Who may use larder.
    pub gatekeeper: AccessControl,
    /// Who takes clean requests.
    pub service: Arc<dyn RequestHandler>,
    /// Who takes `CONNECT`.
    pub tunnels: Tunnels,
    /// Which TLS connections end here.
    pub interception: TlsInterceptor,
    /// What leads to origins without a proxy.
    pub mounts: Mounts,
    /// Which pages may have larder's own credentials shown for them through the proxy.
    pub spenders: PageCredentialRules,
    /// What all bodies on their way hold.
    pub in_flight: Arc<InFlightBytes>,
    /// Where refusals are recorded.
    pub account: Arc<Telemetry>,
    /// The time, for `Date`.
    pub clock: Clock,
    /// How this larder names itself in `Via`: unique, so that a loop is told from a chain.
    pub name: Arc<str>,
}

/// A head with the bytes around it.
struct ReceivedHead {
    head: RequestHead,
    raw: Bytes,
    rest: BytesMut,
}

/// A connection on which another request may follow, and what has come of it already.
pub(super) type KeepAlive = (ClientStream, BytesMut);

impl Frontend {
    /// Serves the request that begins with `first`; the connection if another may follow on it. A
    /// tunnel in which HTTP is spoken is the way of all that follow.
    pub(super) async fn request(
        &self,
        mut io: ClientStream,
        first: BytesMut,
        way: &mut ProxyMode,
        listener: ListenerKind,
    ) -> Option<KeepAlive> {
        // Asked again: a reload may have closed the door to a connection that is open.
        if !self.gatekeeper.admits(io.peer()) {
            return self.reject_and_close(io, &CLIENT_DENIED).await;
        }
        let arrived = match within(self.limits.head_timeout, self.read_head(&mut io, first)).await {
            Some(Ok(Some(arrived))) => arrived,
            Some(Ok(None)) => return None,
            Some(Err(problem)) => return self.reject_and_close(io, &problem).await,
            None => return self.reject_and_close(io, &SLOW_HEAD).await,
        };
        if let Err(problem) = self.allow(&arrived.head, way) {
            return self.reject_and_close(io, &problem).await;
        }
        let ReceivedHead { head, raw, rest } = arrived;
        if let (HeadTarget::Authority(host, port), ProxyMode::Straight) = (&head.target, &*way) {
            return Box::pin(self.tunnel(io, host, *port, way, listener, rest)).await;
        }
        match self.meant(&head, way, listener, &io) {
            Ok(meant) => self.serve(io, head, meant, raw, rest, listener).await,
            Err(problem) => self.reject_and_close(io, &problem).await,
        }
    }

    /// What `head` is aimed at, if the page that asks may.
    fn meant(
        &self,
        head: &RequestHead,
        way: &ProxyMode,
        listener: ListenerKind,
        io: &ClientStream,
    ) -> Result<MountTarget, Problem> {
        let meant = way.target(head, &self.mounts, listener, || io.is_local())?;
        if !matches!(head.target, HeadTarget::Origin(_)) || !matches!(way, ProxyMode::Straight) {
            self.spenders.admit(&meant.target, &head.fields)?;
        }
        Ok(meant)
    }

    /// Answers a request whose target is clear.
    async fn serve(
        &self,
        mut io: ClientStream,
        head: RequestHead,
        meant: MountTarget,
        raw: Bytes,
        rest: BytesMut,
        listener: ListenerKind,
    ) -> Option<KeepAlive> {
        let (persists, plain) = (head.persists, head.plain);
        let mut asked = asked(head, meant, io.peer(), listener);
        // What is sent ahead of the answer needs the session's order.
        let plain = plain && persists && asked.version == Version::HTTP_11;
        // On a connection on which its user has signed in, the origin answers; a browser is told more.
        let plain = plain && io.pins().is_none() && asked.page.is_none() && !asked.in_browser;
        if plain && asked.body == RequestFraming::None && rest.is_empty() {
            let since = clock::monotonic();
            if let Some(ready) = self.service.at_hand(&mut asked) {
                let sent = io.send(&ready.head, &ready.body).await;
                self.service.written(&asked, &ready, sent.bytes, since);
                return sent.whole.then_some((io, rest));
            }
        }
        let session = Http1Session::new(io, rest, asked.body, asked.version, persists, raw);
        let served = self.service.serve(asked, ClientSession::Http1(Box::new(session))).await;
        match served.session {
            Some(ClientSession::Http1(session)) => session.finish().await,
            Some(ClientSession::Http2(_)) | None => None,
        }
    }

    /// Opens a tunnel; the connection with its first bytes if what is inside is larder's to answer:
    /// HTTP in the clear to an origin that a route names, or TLS that is intercepted. On the port of
    /// https nobody speaks in the clear: there, where nothing is intercepted, the origin is reached
    /// first, so that a client learns at once when it cannot be.
    async fn tunnel(
        &self,
        io: ClientStream,
        host: &str,
        port: u16,
        way: &mut ProxyMode,
        listener: ListenerKind,
        rest: BytesMut,
    ) -> Option<KeepAlive> {
        let named = self.interception.names(host, port);
        let is_https = port == Scheme::Https.default_port();
        let inspected = if named.is_some() || (!is_https && self.service.names(host, port)) {
            self.tunnels.inspect(io, host, port, listener, rest, named.is_some()).await
        } else {
            self.tunnels.open(io, host, port, listener, rest).await
        };
        let (scheme, io, first) = match (inspected, named) {
            (TunnelOutcome::Http(io, first), _) => (Scheme::Http, io, first),
            (TunnelOutcome::Tls(io, first), Some(named)) => {
                let place = (host, port);
                let Intercepted { io, consistent } =
                    self.intercept(io, place, named, first).await?;
                if !consistent {
                    *way = ProxyMode::Astray;
                    return Some((io, BytesMut::new()));
                }
                (Scheme::Https, io, BytesMut::new())
            }
            (TunnelOutcome::Over | TunnelOutcome::Tls(..), _) => return None,
            (TunnelOutcome::Refused(io, problem), _) => {
                self.write_error(io, &problem).await;
                return None;
            }
        };
        match ProxyMode::tunnel(scheme, host, port) {
            Ok(inside) => {
                *way = inside;
                Some((io, first))
            }
            Err(problem) => self.reject_and_close(io, &problem).await,
        }
    }

    async fn intercept(
        &self,
        io: ClientStream,
        place: (&str, u16),
        named: MatchedHost,
        first: BytesMut,
    ) -> Option<Intercepted> {
        let terms = HandshakeContext { within: self.limits.head_timeout, account: &self.account };
        self.interception.intercept(io, place, named, first, terms).await
    }

    /// Reads the rest of a head; `None` when the client closed inside it.
    async fn read_head(
        &self,
        io: &mut ClientStream,
        mut bytes: BytesMut,
    ) -> Result<Option<ReceivedHead>, Problem> {
        let mut scan = HeadScanner::default();
        let mut begun = false;
        loop {
            // RFC 9112 §2.2: one empty line before a request is ignored.
            if !begun && bytes.len() >= 2 {
                if bytes.starts_with(b"\r\n") {
                    bytes = bytes.split_off(2);
                }
                begun = true;
            }
            let end = scan.end(&bytes)?;
            let head_bytes = end.unwrap_or(bytes.len());
            if head_bytes > self.limits.head {
                return Err(HeadScanner::overrun(&bytes[..self.limits.head]));
            }
            if let Some(end) = end {
                let rest = bytes.split_off(end);
                let raw = bytes.freeze();
                let head = head::read(&raw, self.limits.headers)?;
                return Ok(Some(ReceivedHead { head, raw, rest }));
            }
            bytes.reserve(READ / 2);
            match io.read_buf(&mut bytes).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(_) => {}
            }
        }
    }

    fn allow(&self, head: &RequestHead, way: &ProxyMode) -> Result<(), Problem> {
        // Who opened a tunnel said who they are; inside it they speak to the origin.
        if matches!(way, ProxyMode::Straight) && !self.gatekeeper.knows(&head.fields) {
            return Err(USER_REQUIRED);
        }
        if passed_before(&head.fields, &self.name) {
            return Err(LOOP);
        }
        Ok(())
    }
}

fn asked(
    head: RequestHead,
    meant: MountTarget,
    client: std::net::SocketAddr,
    listener: ListenerKind,
) -> ProxyRequest {
    let mut headers = head.fields;
    hop_by_hop::strip_request(&mut headers);
    if meant.in_browser {
        // A browser sends the cookies of all that is on this host, whatever the port (RFC 6265 §8.5).
        headers.remove(http::header::COOKIE);
    }
    if head.framing == RequestFraming::None {
        headers.remove(http::header::CONTENT_LENGTH);
    }
    ProxyRequest {
        method: head.method,
        target: meant.target,
        headers,
        version: head.version,
        client: Some(client),
        listener,
        body: head.framing,
        upgrade: head.upgrade,
        trailers: head.trailers,
        page: meant.page,
        in_browser: meant.in_browser,
    }
}

pub(super) fn passed_before(fields: &HeaderMap, name: &str) -> bool {
    fields.get_all(VIA).iter().any(|via| {
        via.as_bytes()
            .split(|c| *c == b',' || c.is_ascii_whitespace())
            .any(|word| word == name.as_bytes())
    })
}
