//! HTTP/2 with a client, inside intercepted TLS: each request on a stream of its own.
//!
//! Owns: one connection's streams until they are clean requests, and what a client may make larder do
//! with them (RFC 9113 §10.5). Never touches: frames (`h2`), what is answered.

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
use crate::frontend::http1::{Frontend, LOOP, passed_before};
use crate::frontend::http2::counters::{MALFORMED, StreamCounters};
use crate::frontend::http2::timeout::given_up;
use crate::frontend::session::{BodyLength, ClientError, ClientSession, Http2Session, UnsentBytes};
use crate::frontend::shared_connection::SharedConnection;
use crate::frontend::stream::{ClientStream, FAREWELL};
use crate::frontend::target::{NESTED, ProxyMode};
use crate::semantics::date;
use crate::semantics::field_case::FieldCase;
use crate::semantics::hop_by_hop;
use crate::semantics::request::{ListenerKind, ProxyRequest, RequestFraming};
use crate::telemetry::RejectEvent;
use crate::telemetry::problem::Problem;

/// Requests at once on one connection.
const STREAMS: u32 = 100;

/// How much of an answer may wait in a stream for its client.
const AHEAD: usize = 64 * 1024;

/// How much of the bodies of all requests may come ahead of who reads them. Each stream has 64 KiB of it, so
/// that many may be stuck before the others are. All go to one origin.
const WINDOW: u32 = 2 * 1024 * 1024;

/// Serves a connection until it ends, each request by the door that is in force when it begins.
pub(super) async fn receive(
    doors: Arc<dyn CurrentFrontend>,
    mut io: ClientStream,
    way: ProxyMode,
    listener: ListenerKind,
    mut stage: watch::Receiver<DrainState>,
) {
    let door = doors.current();
    let limits = door.limits.clone();
    let peer = io.peer();
    let siblings = siblings(&door, &io, &way);
    drop(door);
    let given_up = given_up(&siblings, io.watch_frames(siblings.clone()), limits.head_timeout);
    tokio::pin!(given_up);
    let Some(mut connection) = shaken(io, &limits).await else { return };
    let way = Arc::new(way);
    let mut tally = StreamCounters::default();
    let mut streams = JoinSet::new();
    let (mut closing, mut leaves) = (false, false);
    let farewell = loop {
        let idle = stage.borrow().grace().unwrap_or(limits.idle);
        let accepted = tokio::select! {
            biased;
            _ = stage.wait_for(|stage| stage.is_closing()), if !closing => {
                closing = true;
                connection.graceful_shutdown();
                continue;
            }
            Some(ended) = streams.join_next() => {
                // A panic has been reported; the stream is reset, the others go on.
                tally.ended(ended.unwrap_or(true));
                leaves = siblings.has_left();
                continue;
            }
            accepted = connection.accept() => accepted,
            // The end of the last answer has been written, and goes out with the word that follows.
            () = ready(()), if leaves && siblings.is_kept_back() => {
                siblings.let_go();
                if streams.is_empty() && !siblings.is_clogged() {
                    break Some(Reason::NO_ERROR);
                }
                connection.graceful_shutdown();
                continue;
            }
            () = &mut given_up => break None,
            () = sleep(idle), if streams.is_empty() => break Some(Reason::NO_ERROR),
        };
        match accepted {
            Some(Ok((request, mut respond))) if is_malformed(&request) => {
                respond.send_reset(Reason::PROTOCOL_ERROR);
                tally.malformed();
            }
            Some(Ok((request, respond))) => {
                let (door, way) = (doors.current(), Arc::clone(&way));
                let stream = Stream { request, respond, siblings: siblings.clone() };
                streams.spawn(async move { door.stream(stream, &way, peer, listener).await });
            }
            None | Some(Err(_)) => break None,
        }
        if tally.is_exhausted() || streams.len() > 2 * STREAMS as usize {
            tracing::debug!(%peer, "A client makes HTTP/2 streams for nothing");
            break Some(Reason::ENHANCE_YOUR_CALM);
        }
    };
    if let Some(why) = farewell {
        part(connection, why).await;
    }
}

/// Tells the client what it may send; `None`: it says nothing of HTTP/2.
async fn shaken(
    io: ClientStream,
    limits: &Limits,
) -> Option<Connection<ClientStream, UnsentBytes>> {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(STREAMS)
        .max_send_buffer_size(AHEAD)
        .initial_connection_window_size(WINDOW)
        .max_local_error_reset_streams(Some(MALFORMED))
        .max_header_list_size(u32::try_from(limits.head).unwrap_or(u32::MAX));
    timeout(limits.head_timeout, builder.handshake::<_, UnsentBytes>(io)).await.ok()?.ok()
}

/// What the streams of a connection share.
fn siblings(door: &Frontend, io: &ClientStream, way: &ProxyMode) -> SharedConnection {
    let http1 = match way {
        ProxyMode::Tunnel(origin) if io.speaks_http1_too() => {
            Some(door.interception.http1_place(origin.host(), origin.port()))
        }
        ProxyMode::Straight | ProxyMode::Tunnel(_) | ProxyMode::Astray => None,
    };
    SharedConnection::new(http1, &door.in_flight)
}

/// A request whose head has come, and the way to answer it.
struct Stream {
    request: Request<RecvStream>,
    respond: SendResponse<UnsentBytes>,
    siblings: SharedConnection,
}

/// Whether a head could be read in two ways: its stream is reset, as RFC 9113 §8.1.1 says.
fn is_malformed(request: &Request<RecvStream>) -> bool {
    let path = path_of(request.uri());
    let authority = request.uri().authority().map_or("", |authority| authority.as_str());
    let mut lengths = request.headers().get_all(CONTENT_LENGTH).iter();
    let (length, more) = (lengths.next(), lengths.next().is_some());
    let plain = |length: &HeaderValue| {
        !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit)
    };
    // RFC 9113 §8.2.1: no blanks around a value, no control characters in it.
    let blank = |value: &HeaderValue| value.as_bytes().trim_ascii().len() != value.len();
    request.headers().values().any(blank)
        || path.bytes().any(|byte| byte.is_ascii_control() || byte == b' ')
        || more
        || length.is_some_and(|length| !plain(length))
        // RFC 9113 §8.3.1: no user's name has a place there.
        || authority.contains('@')
}

/// Ends a connection and says why.
async fn part(mut connection: Connection<ClientStream, UnsentBytes>, why: Reason) {
    connection.abrupt_shutdown(why);
    let told = poll_fn(|cx| connection.poll_closed(cx));
    // A client that does not listen is not waited for.
    let _told = timeout(FAREWELL, told).await;
}

impl Frontend {
    /// Serves one request; false when its client gave it up.
    async fn stream(
        &self,
        stream: Stream,
        way: &ProxyMode,
        peer: SocketAddr,
        listener: ListenerKind,
    ) -> bool {
        let Stream { request, respond, siblings } = stream;
        let (head, body) = request.into_parts();
        let ends_here = body.is_end_stream();
        let session = ClientSession::Http2(Box::new(Http2Session::new(
            body,
            respond,
            siblings,
            &self.in_flight,
        )));
        match self.asked_on(head, ends_here, way, peer, listener) {
            Ok(asked) => {
                let served = self.service.serve(asked, session).await;
                if let Some(ClientSession::Http2(session)) = served.session {
                    session.finish().await;
                }
                !served.given_up
            }
            Err(problem) => {
                self.account.refused(&RejectEvent { class: problem.class, client: Some(peer) });
                self.answer(session, &problem).await.is_ok()
            }
        }
    }

    fn asked_on(
        &self,
        mut head: Parts,
        ends_here: bool,
        way: &ProxyMode,
        peer: SocketAddr,
        listener: ListenerKind,
    ) -> Result<ProxyRequest, Problem> {
        // Asked again: a reload may have closed the door to a connection that is open.
        if !self.gatekeeper.admits(peer) {
            return Err(CLIENT_DENIED);
        }
        if head.method == Method::CONNECT {
            return Err(NESTED);
        }
        if head.headers.len() > self.limits.headers {
            return Err(TOO_MANY_FIELDS);
        }
        if passed_before(&head.headers, &self.name) {
            return Err(LOOP);
        }
        // RFC 9110 §7.1: the asterisk is for OPTIONS alone.
        let path = path_of(&head.uri);
        if path == "*" && head.method != Method::OPTIONS {
            return Err(BAD_TARGET);
        }
        let target = way.stream_target(authority(&head)?, path)?;
        self.spenders.admit(&target, &head.headers)?;
        if let Some(cookie) = joined_cookies(&head.headers) {
            head.headers.insert(COOKIE, cookie);
        }
        let mut headers = head.headers;
        headers.remove(HOST);
        let trailers = hop_by_hop::takes_trailers(&headers);
        hop_by_hop::strip_request(&mut headers);
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
            listener,
            body,
            upgrade: None,
            trailers,
            page: None,
            in_browser: false,
        })
    }

    /// Answers with larder's own error.
    async fn answer(
        &self,
        mut session: ClientSession,
        problem: &Problem,
    ) -> Result<(), ClientError> {
        let (mut headers, body) = problem.response();
        date::add_where_missing(&mut headers, self.clock.now());
        let length = BodyLength::Known(body.len() as u64);
        session.write_head(problem.status, headers, length, &FieldCase::default()).await?;
        session.write_body(body).await?;
        session.end(None).await
    }
}

/// What a request is for: its `:authority`, or its `Host`, which must not say something else
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

/// With or without the port that goes without saying: HTTP/2 is spoken inside TLS alone.
fn is_same(authority: &str, host: &str) -> bool {
    let bare = |name: &str| name.strip_suffix(":443").unwrap_or(name).to_owned();
    bare(authority).eq_ignore_ascii_case(&bare(host))
}

fn path_of(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |path| path.as_str())
}

/// A client may send its cookies in several fields; elsewhere they are one (RFC 9113 §8.2.3).
fn joined_cookies(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get_all(COOKIE).iter().nth(1)?;
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    HeaderValue::from_bytes(&crumbs.join(&b"; "[..])).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crumbs_of_cookies_are_one_field_again() {
        let mut headers = HeaderMap::new();
        for crumb in ["a=1", "b=2", "c=3"] {
            headers.append(COOKIE, crumb.parse().expect("a value"));
        }
        assert_eq!(joined_cookies(&headers).expect("several"), "a=1; b=2; c=3");
        headers.insert(COOKIE, HeaderValue::from_static("a=1"));
        assert_eq!(joined_cookies(&headers), None);
    }

    #[test]
    fn host_and_authority_may_differ_in_the_port_that_goes_without_saying() {
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
