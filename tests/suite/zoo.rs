//! A zoo of real origins: each receives the same requests directly, through larder where a route stores
//! responses, and through larder where no route does. Every response must be the same.
//!
//! `make test` installs them. A missing one is named and skipped, unless `CI` is set. A case that an origin
//! cannot send is a *hole* and is listed here: a hole that is not listed fails the test, and so does a listed
//! case that the origin can send.

mod access_path;
mod access_paths;
mod caller;
mod cases;
mod compare;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::Duration;

use crate::origin::{MockResponse, Origin, Step};
use crate::real_origin::{RealOrigin, ServerKind, missing_requirement};
use crate::tls_origin::TestCa;
use crate::zoo::access_path::OriginProtocol;
use crate::zoo::access_paths::run_all;
use crate::zoo_files::body;

/// The minimum number of exchanges with each origin; all origins together have more than 2,000.
const MIN_EXCHANGES: usize = 300;

/// Names of cases that an origin cannot send.
type Holes = &'static [&'static str];

const NONE: Holes = &[];
/// The server passes such a body on in chunks, or cannot end a body by closing.
const NO_CLOSE: Holes = &["until-close"];
/// nginx sends a length for an empty file and does not support 103.
const NGINX: Holes = &["unsized-0", "early-hints"];
/// lighttpd sends a length for a body that it has in one piece, and encodes nothing itself.
const LIGHTTPD: Holes =
    &["unsized-0", "unsized-1", "unsized-16383", "unsized-16384", "unsized-16385", "identity-variant"];
/// lighttpd resets a stream because of a 103, and ends a stream cleanly when its backend breaks off.
const LIGHTTPD_H2: Holes = &["early-hints", "empty-last-frame", "cut-unsized"];
/// Apache sends a length for a body that fits in one buffer.
const APACHE: Holes = &["unsized-0", "unsized-1"];
/// Apache drops the trailers of its backend.
const APACHE_H1: Holes = &["trailers"];
const APACHE_H2: Holes = &["early-hints", "empty-last-frame"];
/// `HAProxy` ends a stream cleanly when its backend breaks off.
const HAPROXY_H2: Holes = &["empty-last-frame", "cut-unsized"];
/// A Go handler has no access to the connection of HTTP/2.
const GO_H2: Holes = &["cut-connection"];
/// hypercorn leaves ranges and dates to its application, and gives it no access to the connection.
const HYPERCORN: Holes = &[
    "not-modified-since",
    "range-first",
    "range-middle",
    "range-open",
    "range-suffix",
    "range-beyond",
    "range-if",
    "range-unstored",
    "cut-connection",
];
/// hypercorn supports these over HTTP/2 only.
const HYPERCORN_H1: Holes = &["trailers", "early-hints"];

/// Runs all cases against an origin by all access paths; `holes` lists the cases that it cannot send.
async fn run_cases(name: &str, kind: ServerKind, speaks: OriginProtocol, holes: &[Holes]) {
    if let Some(missing) = missing_requirement(kind) {
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        return print_line(&format!("SKIPPED zoo: {missing}"));
    }
    let authority = TestCa::new();
    let backend = backend().await;
    let h2 = speaks == OriginProtocol::H2;
    let node = match kind {
        ServerKind::Haproxy(_) => {
            Some(RealOrigin::start(ServerKind::Node, &authority, backend.addr, false).await)
        }
        ServerKind::Nginx
        | ServerKind::Lighttpd
        | ServerKind::Apache
        | ServerKind::Node
        | ServerKind::Go
        | ServerKind::Hypercorn => None,
    };
    let kind = node.as_ref().map_or(kind, |node| ServerKind::Haproxy(node.plain.port()));
    let origin = RealOrigin::start(kind, &authority, backend.addr, h2).await;
    let tally = run_all(&origin, &authority, speaks).await;
    let different = tally.differences.len();
    print_line(&format!("zoo: {} exchanges with {name}, {different} differences", tally.exchanges));
    let all = tally.differences.join("\n");
    let listed: BTreeSet<&str> = holes.concat().into_iter().collect();
    let found: BTreeSet<&str> = tally.holes.iter().map(String::as_str).collect();
    assert_eq!(found, listed, "{name}: the cases it cannot send; differences:\n{all}");
    assert!(tally.exchanges >= MIN_EXCHANGES, "{name}: only {} exchanges", tally.exchanges);
    assert!(different == 0, "{name}:\n{all}");
}

/// Not `println`: this line must be visible even if the test passes.
fn print_line(line: &str) {
    writeln!(std::io::stderr(), "{line}").expect("standard error is open");
}

/// The backend of the servers that only pass on the responses that they cannot generate themselves.
async fn backend() -> Origin {
    Origin::start(|seen| {
        let etag = "\"behind\"";
        if seen.field("if-none-match") == Some(etag) {
            return MockResponse::raw(format!("HTTP/1.1 304 Not Modified\r\nETag: {etag}\r\n\r\n"));
        }
        let path = seen.target.split('?').next().unwrap_or_default();
        let (kind, name) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
        let whole = body(name.parse().unwrap_or(16_384));
        let fields = ["Content-Type: application/octet-stream", &format!("ETag: {etag}")];
        let head = format!("HTTP/1.1 200 OK\r\n{}\r\n", fields.join("\r\n"));
        let of_length = |bytes: &[u8]| {
            let head = format!("{head}Content-Length: {}\r\n\r\n", whole.len());
            MockResponse::raw([head.as_bytes(), bytes].concat())
        };
        let chunked = |bytes: &[u8]| MockResponse::chunked_open(200, &fields, &[bytes]);
        let end = |bytes: &str| Step::Write(bytes.as_bytes().to_vec());
        let soon = Step::Pause(Duration::from_millis(20));
        match (kind, name) {
            ("unsized", _) => chunked(&whole).then([end("0\r\n\r\n")]),
            ("trailers", _) => chunked(&whole).then([end("0\r\nX-After: behind\r\n\r\n")]),
            ("cut", "sized") => of_length(&whole[..10_000]).then([soon, Step::Close]),
            ("cut", "connection") => of_length(&whole[..10_000]).then([soon, Step::Reset]),
            ("cut", "unsized") => chunked(&whole[..10_000]).then([soon, Step::Close]),
            ("early", _) => {
                let early = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n";
                MockResponse::raw(early).then(of_length(&whole).0)
            }
            ("eof", _) => MockResponse::raw([head.as_bytes(), b"\r\n", &whole].concat()).then([Step::Close]),
            ("lastempty", _) => {
                let last = Step::Write(whole[10_000..].to_vec());
                of_length(&whole[..10_000]).then([soon, last])
            }
            _ => MockResponse::new(404, &[], "no such thing\n"),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_h1() {
    run_cases("nginx_h1", ServerKind::Nginx, OriginProtocol::Plain, &[NGINX]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_h2() {
    run_cases("nginx_h2", ServerKind::Nginx, OriginProtocol::H2, &[NGINX]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lighttpd_h1() {
    run_cases("lighttpd_h1", ServerKind::Lighttpd, OriginProtocol::Plain, &[LIGHTTPD, NO_CLOSE]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lighttpd_h1_tls() {
    run_cases("lighttpd_h1_tls", ServerKind::Lighttpd, OriginProtocol::Tls, &[LIGHTTPD, NO_CLOSE]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lighttpd_h2() {
    run_cases("lighttpd_h2", ServerKind::Lighttpd, OriginProtocol::H2, &[LIGHTTPD, LIGHTTPD_H2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apache_h1() {
    run_cases("apache_h1", ServerKind::Apache, OriginProtocol::Plain, &[APACHE, APACHE_H1, NO_CLOSE]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apache_h2() {
    run_cases("apache_h2", ServerKind::Apache, OriginProtocol::H2, &[APACHE, APACHE_H2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_h1() {
    run_cases("haproxy_h1", ServerKind::Haproxy(0), OriginProtocol::Plain, &[NONE]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_h2() {
    run_cases("haproxy_h2", ServerKind::Haproxy(0), OriginProtocol::H2, &[HAPROXY_H2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_h1() {
    run_cases("node_h1", ServerKind::Node, OriginProtocol::Plain, &[NONE]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_h2() {
    run_cases("node_h2", ServerKind::Node, OriginProtocol::H2, &[NONE]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn go_h1() {
    run_cases("go_h1", ServerKind::Go, OriginProtocol::Plain, &[NO_CLOSE]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn go_h1_tls() {
    run_cases("go_h1_tls", ServerKind::Go, OriginProtocol::Tls, &[NO_CLOSE]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn go_h2() {
    run_cases("go_h2", ServerKind::Go, OriginProtocol::H2, &[GO_H2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hypercorn_h1() {
    run_cases(
        "hypercorn_h1",
        ServerKind::Hypercorn,
        OriginProtocol::Plain,
        &[HYPERCORN, HYPERCORN_H1, NO_CLOSE],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hypercorn_h2() {
    run_cases("hypercorn_h2", ServerKind::Hypercorn, OriginProtocol::H2, &[HYPERCORN]).await;
}
