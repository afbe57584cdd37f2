//! HTTP/2 with a client, inside intercepted TLS: each request on its own stream.
//!
//! Owns: the streams of one connection until they are valid requests, and the limits on the work that a
//! client can cause with them (RFC 9113 §10.5). Never touches: frames (`h2`), responses.

mod counters;
mod timeout;

use std::future::{poll_fn, ready};
use std::net::SocketAddr;
use std::sync::Arc;

use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::header::{CONTENT_LENGTH, COOKIE, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::config::Limits;
use crate::frontend::CurrentFrontend;
use crate::frontend::access::CLIENT_DENIED;
use crate::frontend::drain::DrainState;
use crate::frontend::head::{BAD_TARGET, TOO_MANY_FIELDS};
use crate::frontend::http1::{Frontend, LOOP, has_passed};
use crate::frontend::http2::counters::{MAX_MALFORMED, StreamCounters};
use crate::frontend::http2::timeout::client_timed_out;
use crate::frontend::session::{BodyLength, ClientError, ClientSession, Http2Session, UnsentBytes};
use crate::frontend::shared_connection::SharedConnection;
use crate::frontend::stream::{CLOSE_TIMEOUT, ClientStream};
use crate::frontend::target::{ConnectionState, NESTED, ProxyMode};
use crate::semantics::date;
use crate::semantics::field_case::FieldCase;
use crate::semantics::hop_by_hop;
use crate::semantics::request::{ProxyRequest, RequestFraming};
use crate::telemetry::RejectEvent;
use crate::telemetry::problem::Problem;

/// The maximum number of concurrent requests on a connection.
const MAX_STREAMS: u32 = 100;

/// The bytes of a response that may wait in a stream for the client.
const STREAM_SEND_BUFFER: usize = 64 * 1024;

/// The bytes of all request bodies on a connection that may arrive before larder reads them. Each
/// stream may use 64 KiB of this window, so 32 streams can be blocked before they block the others. All
/// requests of a connection go to one origin.
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;

/// Serves a connection until it ends. Each request uses the frontend that is current when it begins.
pub(super) async fn serve_connection(
    frontends: Arc<dyn CurrentFrontend>,
    mut io: ClientStream,
    state: ConnectionState,
    mut drain: watch::Receiver<DrainState>,
) {
    let frontend = frontends.current();
    let limits = frontend.limits.clone();
    let peer = io.peer();
    let shared = shared_connection(&frontend, &io, &state.mode);
    drop(frontend);
    let timed_out = client_timed_out(&shared, io.watch_frames(shared.clone()), limits.head_timeout);
    tokio::pin!(timed_out);
    let Some(mut connection) = handshake(io, &limits).await else { return };
    let state = Arc::new(state);
    let mut counters = StreamCounters::default();
    let mut streams = JoinSet::new();
    let (mut closing, mut goaway_requested) = (false, false);
    let close_reason = loop {
        let idle = drain.borrow().grace().unwrap_or(limits.idle);
        let accepted = tokio::select! {
            biased;
            _ = drain.wait_for(|drain| drain.is_closing()), if !closing => {
                closing = true;
                connection.graceful_shutdown();
                continue;
            }
            Some(ended) = streams.join_next() => {
                // A panic has been reported; its stream is reset, and the others continue.
                counters.ended(ended.unwrap_or(true));
                goaway_requested = shared.is_goaway_requested();
                continue;
            }
            accepted = connection.accept() => accepted,
            // The end of the last response is sent together with the GOAWAY frame that follows.
            () = ready(()), if goaway_requested && shared.are_writes_held() => {
                shared.release_writes();
                if streams.is_empty() && !shared.is_write_blocked() {
                    break Some(Reason::NO_ERROR);
                }
                connection.graceful_shutdown();
                continue;
            }
            () = &mut timed_out => break None,
            () = sleep(idle), if streams.is_empty() => break Some(Reason::NO_ERROR),
        };
        match accepted {
            Some(Ok((request, mut respond))) if is_malformed(&request) => {
                respond.send_reset(Reason::PROTOCOL_ERROR);
                counters.malformed();
            }
            Some(Ok((request, respond))) => {
                let (frontend, state) = (frontends.current(), Arc::clone(&state));
                let stream = Stream { request, respond, shared: shared.clone() };
                streams.spawn(frontend.serve_stream(stream, state, peer));
            }
            None | Some(Err(_)) => break None,
        }
        if counters.is_exhausted() || streams.len() > 2 * MAX_STREAMS as usize {
            tracing::debug!(%peer, "A client opens too many useless HTTP/2 streams");
            break Some(Reason::ENHANCE_YOUR_CALM);
        }
    };
    if let Some(reason) = close_reason {
        close(connection, reason).await;
    }
}

/// Performs the HTTP/2 handshake with these limits; `None`: the client does not complete it.
async fn handshake(io: ClientStream, limits: &Limits) -> Option<Connection<ClientStream, UnsentBytes>> {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buffer_size(STREAM_SEND_BUFFER)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_local_error_reset_streams(Some(MAX_MALFORMED))
        .max_header_list_size(u32::try_from(limits.head).unwrap_or(u32::MAX));
    timeout(limits.head_timeout, builder.handshake::<_, UnsentBytes>(io)).await.ok()?.ok()
}

/// Creates the state that the streams of a connection share.
fn shared_connection(frontend: &Frontend, io: &ClientStream, mode: &ProxyMode) -> SharedConnection {
    let http1 = match mode {
        ProxyMode::Tunnel(origin) if io.offered_http1() => {
            Some(frontend.interception.http1_candidate(origin.host(), origin.port()))
        }
        ProxyMode::Direct | ProxyMode::Tunnel(_) | ProxyMode::Misdirected => None,
    };
    SharedConnection::new(http1, &frontend.in_flight)
}

/// A request whose head has arrived, and the handle for its response.
struct Stream {
    request: Request<RecvStream>,
    respond: SendResponse<UnsentBytes>,
    shared: SharedConnection,
}

/// Whether a head is ambiguous: its stream is reset (RFC 9113 §8.1.1).
fn is_malformed(request: &Request<RecvStream>) -> bool {
    let path = path_of(request.uri());
    let authority = request.uri().authority().map_or("", |authority| authority.as_str());
    let mut lengths = request.headers().get_all(CONTENT_LENGTH).iter();
    let (length, more) = (lengths.next(), lengths.next().is_some());
    let plain = |length: &HeaderValue| !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit);
    // RFC 9113 §8.2.1: a value has no surrounding whitespace and no control characters.
    let blank = |value: &HeaderValue| value.as_bytes().trim_ascii().len() != value.len();
    request.headers().values().any(blank)
        || path.bytes().any(|byte| byte.is_ascii_control() || byte == b' ')
        || more
        || length.is_some_and(|length| !plain(length))
        // RFC 9113 §8.3.1: an authority has no user information.
        || authority.contains('@')
}

/// Closes a connection with a GOAWAY frame for this reason.
async fn close(mut connection: Connection<ClientStream, UnsentBytes>, reason: Reason) {
    connection.abrupt_shutdown(reason);
    let sent = poll_fn(|cx| connection.poll_closed(cx));
    // A client that does not read is not waited for.
    let _sent = timeout(CLOSE_TIMEOUT, sent).await;
}

impl Frontend {
    /// Serves one request. Returns false if its client aborted it.
    async fn serve_stream(
        self: Arc<Self>,
        stream: Stream,
        state: Arc<ConnectionState>,
        peer: SocketAddr,
    ) -> bool {
        let Stream { request, respond, shared } = stream;
        let (head, body) = request.into_parts();
        let ends_here = body.is_end_stream();
        let session =
            ClientSession::Http2(Box::new(Http2Session::new(body, respond, shared, &self.in_flight)));
        match self.stream_request(head, ends_here, &state, peer) {
            Ok(request) => {
                let routed = self.handler.route(request, None);
                let served = self.handler.serve(routed, None, session).await;
                if let Some(ClientSession::Http2(session)) = served.session {
                    session.finish().await;
                }
                !served.client_aborted
            }
            Err(problem) => {
                self.telemetry.refused(&RejectEvent { class: problem.class, client: Some(peer) });
                self.write_stream_error(session, &problem).await.is_ok()
            }
        }
    }

    fn stream_request(
        &self,
        mut head: Parts,
        ends_here: bool,
        state: &ConnectionState,
        peer: SocketAddr,
    ) -> Result<ProxyRequest, Problem> {
        // Checked for each request: a reload may have denied the address of an open connection.
        if !self.access_control.admits(peer) {
            return Err(CLIENT_DENIED);
        }
        if head.method == Method::CONNECT {
            return Err(NESTED);
        }
        if head.headers.len() > self.limits.headers {
            return Err(TOO_MANY_FIELDS);
        }
        if has_passed(&head.headers, &self.name) {
            return Err(LOOP);
        }
        // RFC 9110 §7.1: only OPTIONS may use the asterisk.
        let path = path_of(&head.uri);
        if path == "*" && head.method != Method::OPTIONS {
            return Err(BAD_TARGET);
        }
        let target = state.mode.stream_target(authority(&head)?, path)?;
        self.page_credential_rules.admit(&target, &head.headers)?;
        if let Some(cookie) = joined_cookies(&head.headers) {
            head.headers.insert(COOKIE, cookie);
        }
        let mut headers = head.headers;
        headers.remove(HOST);
        let trailers = hop_by_hop::accepts_trailers(&headers);
        hop_by_hop::strip(&mut headers);
        let length = headers.get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let body = match (ends_here, length) {
            (true, _) | (false, Some(0)) => RequestFraming::None,
            (false, Some(length)) => RequestFraming::Length(length),
            (false, None) => RequestFraming::Chunked,
        };
        if body == RequestFraming::None {
            headers.remove(CONTENT_LENGTH);
        }
        Ok(ProxyRequest {
            method: head.method,
            target,
            headers,
            version: head.version,
            client: Some(peer),
            listener: state.listener,
            body,
            upgrade: None,
            trailers,
            page: None,
            in_browser: false,
            mount: None,
        })
    }

    /// Sends an error response.
    async fn write_stream_error(
        &self,
        mut session: ClientSession,
        problem: &Problem,
    ) -> Result<(), ClientError> {
        let (mut headers, body) = problem.response();
        date::add_if_missing(&mut headers, self.clock.now());
        let length = BodyLength::Known(body.len() as u64);
        session.write_head(problem.status, headers, length, &FieldCase::default()).await?;
        session.write_body(body).await?;
        session.end(None).await
    }
}

/// The authority of a request: its `:authority` or its `Host`, which must be equal if both are present
/// (RFC 9113 §8.3.1).
fn authority(head: &Parts) -> Result<Option<&str>, Problem> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let (host, more) = (hosts.next(), hosts.next().is_some());
    let authority = head.uri.authority().map(http::uri::Authority::as_str);
    let host = host.map(|host| host.to_str().map_err(|_| BAD_TARGET)).transpose()?;
    match (authority, host) {
        _ if more => Err(BAD_TARGET),
        (Some(authority), Some(host)) if !is_same(authority, host) => Err(BAD_TARGET),
        (authority, host) => Ok(authority.or(host)),
    }
}

/// Compares authorities with or without the default port. This is always 443: larder accepts HTTP/2
/// only inside TLS.
fn is_same(authority: &str, host: &str) -> bool {
    let bare = |name: &str| name.strip_suffix(":443").unwrap_or(name).to_owned();
    bare(authority).eq_ignore_ascii_case(&bare(host))
}

fn path_of(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |path| path.as_str())
}

/// Joins cookies that the client sent in several fields; elsewhere they form one field (RFC 9113 §8.2.3).
fn joined_cookies(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get_all(COOKIE).iter().nth(1)?;
    let values: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    HeaderValue::from_bytes(&values.join(&b"; "[..])).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_cookies_are_joined_into_one_field() {
        let mut headers = HeaderMap::new();
        for value in ["a=1", "b=2", "c=3"] {
            headers.append(COOKIE, value.parse().expect("a value"));
        }
        assert_eq!(joined_cookies(&headers).expect("several"), "a=1; b=2; c=3");
        headers.insert(COOKIE, HeaderValue::from_static("a=1"));
        assert_eq!(joined_cookies(&headers), None);
    }

    #[test]
    fn host_and_authority_may_differ_in_the_default_port() {
        for (authority, host, same) in [
            ("api.example", "API.example:443", true),
            ("api.example:443", "api.example", true),
            ("api.example:8443", "api.example", false),
            ("api.example", "api.example:80", false),
            ("api.example", "other.example", false),
        ] {
            assert_eq!(is_same(authority, host), same, "{authority} {host}");
        }
    }
}
