//! Reads a request: its head within a deadline, then an error response or the request handler.
//!
//! Owns: the bytes of a connection until they form a valid request or belong to a tunnel. Never
//! touches: routes, the store.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::VIA;
use http::{HeaderMap, HeaderValue, Version};
use tokio::io::AsyncReadExt;

use crate::clock::Clock;
use crate::config::Limits;
use crate::frontend::access::{AccessControl, CLIENT_DENIED, USER_REQUIRED};
use crate::frontend::head::{self, HeadScanner, HeadTarget, RequestHead};
use crate::frontend::interception::{HandshakeContext, Intercepted, MatchedHost, TlsInterceptor};
use crate::frontend::mount::{Mounts, ResolvedTarget};
use crate::frontend::session::{ClientSession, Http1Session};
use crate::frontend::stream::{ClientStream, within};
use crate::frontend::target::{ConnectionState, ProxyMode};
use crate::frontend::tunnel::{TunnelOutcome, TunnelRequest, Tunnels};
use crate::frontend::web_page::PageCredentialRules;
use crate::frontend::{Prepared, RequestHandler};
use crate::semantics::hop_by_hop::{self, CDN_LOOP};
use crate::semantics::request::{ListenerKind, ProxyRequest, RequestFraming};
use crate::semantics::target::Scheme;
use crate::telemetry::Telemetry;
use crate::telemetry::problem::Problem;
use crate::upstream::in_flight_bytes::InFlightBytes;

/// The number of bytes read at once while a head arrives.
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

/// The client-facing side of one configuration.
pub struct Frontend {
    /// Limits on client requests.
    pub limits: Limits,
    /// Decides which clients may use larder.
    pub access_control: AccessControl,
    /// Serves valid requests.
    pub handler: Arc<dyn RequestHandler>,
    /// Opens tunnels for `CONNECT` requests.
    pub tunnels: Tunnels,
    /// Decides which TLS connections are intercepted.
    pub interception: TlsInterceptor,
    /// The paths that lead to origins without a proxy.
    pub mounts: Mounts,
    /// The web pages for which larder may use its own credentials through the proxy.
    pub page_credential_rules: PageCredentialRules,
    /// Counts the bytes that all bodies in transit hold.
    pub in_flight: Arc<InFlightBytes>,
    /// Records rejected requests.
    pub telemetry: Arc<Telemetry>,
    /// The clock, for `Date`.
    pub clock: Clock,
    /// The pseudonym of this larder in `Via`. It is unique, so that a loop differs from a chain of larders.
    pub name: Arc<str>,
}

/// A parsed head with its raw bytes and the bytes after it.
struct ReceivedHead {
    head: RequestHead,
    raw: Bytes,
    rest: BytesMut,
}

/// A connection that can carry another request, and the bytes of it that have already arrived.
pub(super) type KeepAlive = (ClientStream, BytesMut);

impl Frontend {
    /// Serves the request that begins with `first`. Returns the connection if it can carry another
    /// request. If a tunnel carries HTTP, the mode of `state` becomes that tunnel for all following requests.
    pub(super) async fn serve_request(
        &self,
        mut io: ClientStream,
        first: BytesMut,
        state: &mut ConnectionState,
    ) -> Option<KeepAlive> {
        // Checked for each request: a reload may have denied the address of an open connection.
        if !self.access_control.admits(io.peer()) {
            return self.reject_and_close(io, &CLIENT_DENIED).await;
        }
        let received = match within(self.limits.head_timeout, self.read_head(&mut io, first)).await {
            Some(Ok(Some(received))) => received,
            Some(Ok(None)) => return None,
            Some(Err(problem)) => return self.reject_and_close(io, &problem).await,
            None => return self.reject_and_close(io, &SLOW_HEAD).await,
        };
        if let Err(problem) = self.check_head(&received.head, &state.mode) {
            return self.reject_and_close(io, &problem).await;
        }
        if let (HeadTarget::Authority(host, port), ProxyMode::Direct) = (&received.head.target, &state.mode) {
            let request = TunnelRequest::new(host, *port, state.listener);
            return Box::pin(self.tunnel(io, request, &mut state.mode, received.rest)).await;
        }
        match self.resolve_target(&received.head, state, &io) {
            Ok(resolved_target) => self.serve(io, received, resolved_target, state.listener).await,
            Err(problem) => self.reject_and_close(io, &problem).await,
        }
    }

    /// Resolves the target of `head`, if the web page that sends the request may use it.
    fn resolve_target(
        &self,
        head: &RequestHead,
        state: &ConnectionState,
        io: &ClientStream,
    ) -> Result<ResolvedTarget, Problem> {
        let ConnectionState { mode, listener } = state;
        let resolved_target = mode.target(head, &self.mounts, *listener, || io.is_local())?;
        if !matches!(head.target, HeadTarget::Origin(_)) || !matches!(mode, ProxyMode::Direct) {
            self.page_credential_rules.admit(&resolved_target.target, &head.fields)?;
        }
        Ok(resolved_target)
    }

    /// Serves a request whose target is known.
    async fn serve(
        &self,
        mut io: ClientStream,
        received: ReceivedHead,
        resolved_target: ResolvedTarget,
        listener: ListenerKind,
    ) -> Option<KeepAlive> {
        let ReceivedHead { head, raw, rest } = received;
        let (persists, plain) = (head.persists, head.only_keep_alive);
        let request = proxy_request(head, resolved_target, io.peer(), listener);
        // A session is required to order bytes that the client sends before the response.
        let plain = plain && persists && request.version == Version::HTTP_11;
        // If the client has authenticated this connection, the origin responds; a browser gets further
        // fields.
        let plain = plain && io.pins().is_none() && request.page.is_none() && !request.in_browser;
        let plain = plain && request.body == RequestFraming::None && rest.is_empty();
        let since = self.clock.instant();
        let routed = self.handler.route(request, io.pins());
        let prepared = if plain { self.handler.prepare(&routed) } else { Prepared::NotPrepared(None) };
        let looked_up = match prepared {
            Prepared::Response(response) => {
                let sent = io.send(&response.head, &response.body).await;
                self.handler.record_prepared(&routed, &response, sent.bytes, since);
                return sent.whole.then_some((io, rest));
            }
            Prepared::NotPrepared(looked_up) => looked_up,
        };
        let session = Http1Session::new(io, rest, &routed.request, persists, raw);
        let session = ClientSession::Http1(Box::new(session));
        let served = self.handler.serve(routed, looked_up, session).await;
        match served.session {
            Some(ClientSession::Http1(session)) => session.finish().await,
            Some(ClientSession::Http2(_)) | None => None,
        }
    }

    /// Opens a tunnel. Returns the connection with its first bytes if larder serves the requests
    /// inside: plaintext HTTP to an origin that a route matches, or intercepted TLS. Clients send no
    /// plaintext on the https port. There, without interception, larder connects to the origin first,
    /// so that the client learns at once if the origin is unreachable.
    async fn tunnel(
        &self,
        io: ClientStream,
        request: TunnelRequest<'_>,
        mode: &mut ProxyMode,
        rest: BytesMut,
    ) -> Option<KeepAlive> {
        let TunnelRequest { host, port, .. } = request;
        let matched = self.interception.matched_host(host, port);
        let is_https = port == Scheme::Https.default_port();
        let inspected = if matched.is_some() || (!is_https && self.handler.has_route_for(host, port)) {
            self.tunnels.inspect(io, request, rest, matched.is_some()).await
        } else {
            self.tunnels.open(io, request, rest).await
        };
        let (scheme, io, first) = match (inspected, matched) {
            (TunnelOutcome::Http(io, first), _) => (Scheme::Http, io, first),
            (TunnelOutcome::Tls(io, first), Some(matched)) => {
                let origin = (host, port);
                let Intercepted { io, sni_matches: consistent } =
                    self.interception.intercept(io, origin, first, self.handshake(matched)).await?;
                if !consistent {
                    *mode = ProxyMode::Misdirected;
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
                *mode = inside;
                Some((io, first))
            }
            Err(problem) => self.reject_and_close(io, &problem).await,
        }
    }

    fn handshake(&self, matched: MatchedHost) -> HandshakeContext<'_> {
        HandshakeContext { matched, within: self.limits.head_timeout, telemetry: &self.telemetry }
    }

    /// Reads the rest of a head; `None` if the client closed the connection within it.
    async fn read_head(
        &self,
        io: &mut ClientStream,
        mut bytes: BytesMut,
    ) -> Result<Option<ReceivedHead>, Problem> {
        let mut scanner = HeadScanner::default();
        let mut started = false;
        loop {
            // RFC 9112 §2.2: one empty line before a request is ignored.
            if !started && bytes.len() >= 2 {
                if bytes.starts_with(b"\r\n") {
                    bytes = bytes.split_off(2);
                }
                started = true;
            }
            let end = scanner.end(&bytes)?;
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

    fn check_head(&self, head: &RequestHead, mode: &ProxyMode) -> Result<(), Problem> {
        // A client authenticates when it opens a tunnel; inside it, its credentials are for the origin.
        if matches!(mode, ProxyMode::Direct) && !self.access_control.authenticates(&head.fields) {
            return Err(USER_REQUIRED);
        }
        if has_passed(&head.fields, &self.name) {
            return Err(LOOP);
        }
        Ok(())
    }
}

fn proxy_request(
    head: RequestHead,
    resolved_target: ResolvedTarget,
    client: std::net::SocketAddr,
    listener: ListenerKind,
) -> ProxyRequest {
    let mut headers = head.fields;
    hop_by_hop::strip(&mut headers);
    if resolved_target.in_browser {
        // A browser sends the cookies of all servers on this host, whatever the port (RFC 6265 §8.5).
        headers.remove(http::header::COOKIE);
    }
    if head.framing == RequestFraming::None {
        headers.remove(http::header::CONTENT_LENGTH);
    }
    ProxyRequest {
        method: head.method,
        target: resolved_target.target,
        headers,
        version: head.version,
        client: Some(client),
        listener,
        body: head.framing,
        upgrade: head.upgrade,
        trailers: head.trailers,
        page: resolved_target.page,
        in_browser: resolved_target.in_browser,
        mount: resolved_target.mount,
    }
}

/// Whether the request has passed through the larder with this name: it is in `Via`, or in `CDN-Loop` if the
/// upstream has `via: off`.
pub(super) fn has_passed(fields: &HeaderMap, name: &str) -> bool {
    let is_separator = |c: &u8| matches!(c, b',' | b';') || c.is_ascii_whitespace();
    let is_named =
        |value: &HeaderValue| value.as_bytes().split(is_separator).any(|part| part == name.as_bytes());
    fields.get_all(VIA).iter().chain(fields.get_all(CDN_LOOP)).any(is_named)
}
