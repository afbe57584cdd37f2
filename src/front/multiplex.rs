//! HTTP/2 with a client, inside intercepted TLS: each request on a stream of its own.
//!
//! Owns: one connection's streams until they are clean requests, and what a client may make larder do
//! with them (RFC 9113 §10.5). Never touches: frames (`h2`, through pingora), what is answered.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::Connection;
use http::header::{COOKIE, HOST};
use http::{HeaderMap, HeaderValue, Method};
use pingora_core::protocols::http::v2::server::{H2Accept, default_h2_options, handshake};
use pingora_core::protocols::{Digest, IO};
use pingora_http::ResponseHeader;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::account::Refusal;
use crate::account::problem::Problem;
use crate::front::access::CLIENT_DENIED;
use crate::front::door::{Door, LOOP, passed_before};
use crate::front::head::TOO_MANY_FIELDS;
use crate::front::io::{ClientIo, FAREWELL};
use crate::front::stage::Stage;
use crate::front::way::{NESTED, Way};
use crate::front::{Doors, Stream};
use crate::semantics::asked::{Asked, Framing, Listener};
use crate::semantics::hop_by_hop;

/// Requests at once on one connection.
const STREAMS: u32 = 100;

/// Requests that a connection may give up beyond those it waited for: a client that goes on so makes
/// larder work for nothing ("rapid reset").
const GIVEN_UP: usize = 100;

/// Requests that are not clean HTTP/2, over the life of a connection.
const MALFORMED: usize = 32;

/// Serves a connection until it ends, each request by the door that is in force when it begins.
pub(super) async fn receive(
    doors: Arc<dyn Doors>,
    mut io: ClientIo,
    way: Way,
    listener: Listener,
    mut stage: watch::Receiver<Stage>,
) {
    let limits = doors.current().limits.clone();
    let peer = io.peer();
    let overdue = overdue(io.watch_frames(), limits.head_timeout);
    tokio::pin!(overdue);
    let mut options = default_h2_options();
    options.max_concurrent_streams(STREAMS);
    options.max_local_error_reset_streams(Some(MALFORMED));
    options.max_header_list_size(u32::try_from(limits.head).unwrap_or(u32::MAX));
    let shaken = timeout(limits.head_timeout, handshake(Box::new(io), Some(options))).await;
    let Ok(Ok(mut connection)) = shaken else { return };
    let digest = Arc::new(Digest::default());
    let way = Arc::new(way);
    let mut tally = Tally::default();
    let mut streams = JoinSet::new();
    let mut closing = false;
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
                continue;
            }
            accepted = Stream::from_h2_conn(&mut connection, Arc::clone(&digest)) => accepted,
            () = &mut overdue => break None,
            () = sleep(idle), if streams.is_empty() => break Some(Reason::NO_ERROR),
        };
        match accepted {
            Ok(Some(H2Accept::Session(stream))) => {
                let (door, way) = (doors.current(), Arc::clone(&way));
                streams.spawn(async move { door.stream(stream, &way, peer, listener).await });
            }
            Ok(Some(H2Accept::Rejected)) => tally.malformed += 1,
            Ok(None) | Err(_) => break None,
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

/// Ends a connection and says why.
async fn part(mut connection: Connection<Box<dyn IO>, Bytes>, why: Reason) {
    connection.abrupt_shutdown(why);
    let told = poll_fn(|cx| connection.poll_closed(cx));
    // A client that does not listen is not waited for.
    let _told = timeout(FAREWELL, told).await;
}

/// Resolves once a head has taken longer than it may: until it has ended, nothing else can come.
async fn overdue(mut inside: watch::Receiver<bool>, within: Duration) {
    // Whoever tells lives as long as the connection.
    while inside.wait_for(|inside| *inside).await.is_ok() {
        if timeout(within, inside.wait_for(|inside| !inside)).await.is_err() {
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// What has come of a connection's streams.
#[derive(Debug, Default)]
struct Tally {
    answered: usize,
    given_up: usize,
    malformed: usize,
}

impl Tally {
    fn ended(&mut self, answered: bool) {
        if answered {
            self.answered += 1;
        } else {
            self.given_up += 1;
        }
    }

    fn is_exhausted(&self) -> bool {
        self.malformed >= MALFORMED || self.given_up > GIVEN_UP + self.answered
    }
}

impl Door {
    /// Serves one request; false when its client gave it up.
    async fn stream(
        &self,
        mut stream: Stream,
        way: &Way,
        peer: SocketAddr,
        listener: Listener,
    ) -> bool {
        match self.asked_on(&mut stream, way, peer, listener) {
            Ok(asked) => self.service.serve_stream(asked, stream).await,
            Err(problem) => {
                self.account.refused(&Refusal { class: problem.class, client: Some(peer) });
                answer(&mut stream, &problem).await.is_ok()
            }
        }
    }

    fn asked_on(
        &self,
        stream: &mut Stream,
        way: &Way,
        peer: SocketAddr,
        listener: Listener,
    ) -> Result<Asked, Problem> {
        // Asked again: a reload may have closed the door to a connection that is open.
        if !self.gatekeeper.admits(peer) {
            return Err(CLIENT_DENIED);
        }
        let ends_here = stream.is_body_empty();
        let head = stream.req_header_mut();
        if head.method == Method::CONNECT {
            return Err(NESTED);
        }
        if head.headers.len() > self.limits.headers {
            return Err(TOO_MANY_FIELDS);
        }
        if passed_before(&head.headers, &self.name) {
            return Err(LOOP);
        }
        let host = head.headers.get(HOST).and_then(|host| host.to_str().ok());
        let authority = head.uri.authority().map(http::uri::Authority::as_str).or(host);
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let target = way.stream_target(authority, path)?;
        if let Some(cookie) = joined_cookies(&head.headers) {
            // Its parts were valid, and so is what joins them.
            let _valid = head.insert_header(COOKIE, cookie);
        }
        let mut headers = head.headers.clone();
        headers.remove(HOST);
        hop_by_hop::strip_request(&mut headers);
        let length = headers.get(http::header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let body = match (ends_here, length) {
            (true, _) | (false, Some(0)) => Framing::None,
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::Chunked,
        };
        if body == Framing::None {
            headers.remove(http::header::CONTENT_LENGTH);
        }
        Ok(Asked {
            method: head.method.clone(),
            target,
            headers,
            version: head.version,
            client: Some(peer),
            listener,
            body,
            upgrade: false,
        })
    }
}

/// A client may send its cookies in several fields; elsewhere they are one (RFC 9113 §8.2.3).
fn joined_cookies(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get_all(COOKIE).iter().nth(1)?;
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    HeaderValue::from_bytes(&crumbs.join(&b"; "[..])).ok()
}

/// Answers with larder's own error.
async fn answer(stream: &mut Stream, problem: &Problem) -> pingora_error::Result<()> {
    let (headers, body) = problem.response();
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = problem.status;
    parts.headers = headers;
    stream.write_response_header(Box::new(ResponseHeader::from(parts)), false)?;
    stream.write_body(body, true).await
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
    fn a_client_may_give_up_as_often_as_it_waits_and_a_hundred_times_more() {
        let mut tally = Tally::default();
        for _ in 0..1000 {
            tally.ended(true);
        }
        for _ in 0..1100 {
            tally.ended(false);
            assert!(!tally.is_exhausted());
        }
        tally.ended(false);
        assert!(tally.is_exhausted());
    }
}
