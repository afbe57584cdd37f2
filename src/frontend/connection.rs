//! A client connection, from its first byte to its last: sequential requests on HTTP/1, concurrent
//! requests where HTTP/2 was negotiated.
//!
//! Owns: the idle time between requests, and the choice of the frontend for each request. Never
//! touches: the content of a request (`http1`, `http2`).

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::StatusCode;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::frontend::access::{CLIENT_DENIED, FOREIGN_USER};
use crate::frontend::drain::DrainState;
use crate::frontend::http1::READ;
use crate::frontend::stream::ClientStream;
use crate::frontend::target::ConnectionState;
use crate::frontend::{CurrentFrontend, http2};
use crate::semantics::request::ListenerKind;
use crate::telemetry::problem::Problem;

/// Serves a connection until it ends. Each request uses the frontend that is current when it begins.
pub async fn serve_connection(
    frontends: Arc<dyn CurrentFrontend>,
    mut io: ClientStream,
    listener: ListenerKind,
    mut drain: watch::Receiver<DrainState>,
) {
    let frontend = frontends.current();
    if !frontend.access_control.admits(io.peer()) {
        return frontend.refuse(io, &CLIENT_DENIED).await;
    }
    if !frontend.access_control.allows_local_user(&io).await {
        return frontend.refuse(io, &FOREIGN_USER).await;
    }
    let mut idle = frontend.limits.idle;
    // An idle connection must not keep alive the objects that a reload has replaced.
    drop(frontend);
    let mut state = ConnectionState::new(listener);
    let mut buffered = BytesMut::new();
    loop {
        let mut first = buffered;
        // RFC 9112 §2.2: an empty line that old clients send after a body is not a request.
        while first.is_empty() || &first[..] == b"\r\n" {
            let Some(bytes) = wait(&mut io, idle, &mut drain).await else {
                return io.close().await;
            };
            let stray = !first.is_empty();
            first = bytes;
            if stray && &first[..] == b"\r\n" {
                return;
            }
        }
        let frontend = frontends.current();
        if let Some(problem) = other_protocol(&first) {
            return frontend.refuse(io, problem).await;
        }
        idle = frontend.limits.idle;
        let Some(next) = frontend.serve_request(io, first, &mut state).await else {
            return;
        };
        (io, buffered) = next;
        if io.negotiated_h2() {
            drop(frontend);
            return http2::serve_connection(frontends, io, state, drain).await;
        }
    }
}

/// The error for a client that speaks another protocol than HTTP. Its log line is the only hint for the
/// operator, since such a client cannot read the response.
fn other_protocol(first: &[u8]) -> Option<&'static Problem> {
    match first {
        // RFC 8446 §5.1: a handshake record.
        [0x16, 0x03, ..] => Some(&TLS_TO_HTTP_PORT),
        // SOCKS 5 (RFC 1928) and SOCKS 4.
        [0x05, 1..=9, ..] | [0x04, 0x01 | 0x02, ..] => Some(&SOCKS_TO_HTTP_PORT),
        _ => None,
    }
}

const TLS_TO_HTTP_PORT: Problem = Problem::new(
    StatusCode::BAD_REQUEST,
    "tls_to_http_port",
    "clients speak HTTP to this port: write http:// in HTTPS_PROXY, not https://",
    "http_request_error",
);

const SOCKS_TO_HTTP_PORT: Problem = Problem::new(
    StatusCode::BAD_REQUEST,
    "socks_to_http_port",
    "this port is an HTTP proxy, not a SOCKS proxy: write http:// in the proxy's URL",
    "http_request_error",
);

/// Waits for the first bytes of a head; `None` if the connection has ended.
async fn wait(
    io: &mut ClientStream,
    idle: Duration,
    drain: &mut watch::Receiver<DrainState>,
) -> Option<BytesMut> {
    let closing = async {
        let grace = drain.wait_for(|drain| drain.is_closing()).await.map(|drain| drain.grace());
        // If the sender is gone, the state cannot change any more: the connection closes at once.
        sleep(grace.ok().flatten().unwrap_or_default()).await;
    };
    tokio::select! {
        biased;
        first = timeout(idle, io.first_bytes(READ)) => first.ok().flatten(),
        () = closing => None,
    }
}
