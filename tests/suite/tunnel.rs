//! Bytes that larder passes on without interpreting them: `CONNECT`, upgrades, interim responses.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::client::{Client, End, Response};
use crate::dns::Dns;
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Gate, MockResponse, Origin, Step};

const SOON: Duration = Duration::from_secs(10);

/// Every byte value, and the beginnings of a TLS handshake, a request and a response.
fn any_bytes() -> Vec<u8> {
    let mut bytes = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec();
    bytes.extend(0..=255);
    bytes.extend_from_slice(b"GET http://api.example.test/ HTTP/1.1\r\n\r\nHTTP/1.1 200 OK\r\n\r\n");
    bytes.extend((0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8));
    bytes
}

/// An origin whose connections the test itself serves.
pub struct Raw(TcpListener);

impl Raw {
    pub async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports"))
    }

    fn authority(&self) -> String {
        self.0.local_addr().expect("a bound listener has an address").to_string()
    }

    pub fn resolve(&self) -> String {
        format!("resolve: {{ api.example.test: \"{}\" }}\n", self.authority())
    }

    pub async fn accepted(&self) -> TcpStream {
        timeout(SOON, self.0.accept()).await.expect("larder connects in time").expect("a socket").0
    }
}

pub async fn exactly(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    timeout(SOON, stream.read_exact(&mut bytes)).await.expect("in time").expect("all of it");
    bytes
}

async fn to_the_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    timeout(SOON, stream.read_to_end(&mut bytes)).await.expect("in time").expect("a clean end");
    bytes
}

pub async fn head_of(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.extend(exactly(stream, 1).await);
    }
    String::from_utf8(bytes).expect("a head of text")
}

/// Requests a tunnel, with `early` bytes behind the head, and returns the response.
async fn request_tunnel(larder: &Larder, authority: &str, early: &[u8]) -> (Client, Response) {
    let mut client = larder.client().await;
    let mut head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n").into_bytes();
    head.extend_from_slice(early);
    client.send(head).await;
    let answer = timeout(SOON, client.response("CONNECT")).await.expect("in time").expect("a response");
    (client, answer)
}

/// Both ends of an open tunnel.
pub async fn tunnel(larder: &Larder, origin: &Raw, early: &[u8]) -> (TcpStream, TcpStream) {
    let (client, answer) = request_tunnel(larder, &origin.authority(), early).await;
    assert_eq!((answer.status, answer.field("content-length")), (200, None));
    assert_eq!(answer.field("transfer-encoding"), None);
    (client.stream, origin.accepted().await)
}

#[tokio::test]
async fn a_tunnel_passes_any_bytes_unchanged_in_both_directions() {
    let origin = Raw::start().await;
    let larder = Larder::bare("").await;
    let (mut client, mut server) = tunnel(&larder, &origin, b"").await;
    let bytes = any_bytes();
    client.write_all(&bytes).await.unwrap();
    assert!(exactly(&mut server, bytes.len()).await == bytes);
    server.write_all(&bytes).await.unwrap();
    assert!(exactly(&mut client, bytes.len()).await == bytes);
    drop(client);
    assert!(to_the_end(&mut server).await.is_empty());
    drop(server);
    larder.wait_for_metric("larder_requests_total{result=\"tunnel\",route=\"none\"}", 1.0).await;
}

#[tokio::test]
async fn an_origin_may_send_first_in_a_tunnel() {
    let origin = Raw::start().await;
    let larder = Larder::bare("").await;
    let (mut client, mut server) = tunnel(&larder, &origin, b"").await;
    server.write_all(b"220 mail.example ESMTP\r\n").await.unwrap();
    assert_eq!(exactly(&mut client, 24).await, b"220 mail.example ESMTP\r\n");
    client.write_all(b"QUIT\r\n").await.unwrap();
    assert_eq!(exactly(&mut server, 6).await, b"QUIT\r\n");
}

#[tokio::test]
async fn early_bytes_behind_the_head_of_connect_arrive_first() {
    let origin = Raw::start().await;
    let larder = Larder::bare("").await;
    let early = any_bytes();
    let (mut client, mut server) = tunnel(&larder, &origin, &early[..5000]).await;
    client.write_all(&early[5000..]).await.unwrap();
    assert!(exactly(&mut server, early.len()).await == early);
}

#[tokio::test]
async fn each_direction_of_a_tunnel_closes_independently() {
    let origin = Raw::start().await;
    let larder = Larder::bare("").await;
    let (mut client, mut server) = tunnel(&larder, &origin, b"").await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(to_the_end(&mut server).await, b"question");
    server.write_all(b"answer").await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(to_the_end(&mut client).await, b"answer");

    let (mut client, mut server) = tunnel(&larder, &origin, b"").await;
    server.write_all(b"greeting").await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(to_the_end(&mut client).await, b"greeting");
    client.write_all(b"still there").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(to_the_end(&mut server).await, b"still there");
}

#[tokio::test]
async fn a_tunnel_whose_origin_resets_closes_for_the_client() {
    let origin = Raw::start().await;
    let larder = Larder::bare("").await;
    let (mut client, server) = tunnel(&larder, &origin, b"").await;
    socket2::SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
    drop(server);
    let mut rest = Vec::new();
    let ended = timeout(SOON, client.read_to_end(&mut rest)).await.expect("in time");
    assert!(ended.is_err() || rest.is_empty(), "{rest:?}");
    larder.wait_for_metric("larder_requests_total{result=\"tunnel\",route=\"none\"}", 1.0).await;
}

#[tokio::test]
async fn a_tunnel_that_cannot_be_opened_states_a_reason_and_is_an_error() {
    let dns = Dns::start(|_, _| Vec::new()).await;
    let parts = larder::server::ServerDeps { name_server: Some(dns.addr), ..Default::default() };
    let larder = Larder::with_deps("", parts).await;
    // Only after larder has bound its ports: a port that is closed earlier could become one of larder's.
    let closed = Raw::start().await.authority();
    for (authority, error, class) in [
        (closed.as_str(), "connection_refused", "connect-refused"),
        ("no-such-host.example.test:443", "dns_error", "dns"),
    ] {
        let (mut client, answer) = request_tunnel(&larder, authority, b"").await;
        assert_eq!(answer.status, 502, "{}", answer.text());
        let expected = format!("larder; error={error}; details=\"{class}\"");
        assert_eq!(answer.field("proxy-status"), Some(expected.as_str()));
        assert!(answer.text().contains("larder_error"), "{}", answer.text());
        assert!(timeout(SOON, client.is_closed()).await.unwrap());
        let denied = larder.metric(&format!("larder_denied_total{{reason=\"{class}\"}}"));
        assert!(denied < 0.1, "larder denied nothing");
    }
    larder.wait_for_metric("larder_requests_total{result=\"error\",route=\"none\"}", 2.0).await;
}

pub fn upgrade(path: &str) -> String {
    format!(
        "GET {API}{path} HTTP/1.1\r\nHost: api.example.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// Configurations for the pass-through and for a cached route.
pub fn bypass_and_cached_yaml(origin: &Raw) -> [String; 2] {
    let resolve = origin.resolve();
    [resolve.clone(), format!("{resolve}{}", route(&["ttl: 1h"]))]
}

#[tokio::test]
async fn a_websocket_upgrade_and_the_bytes_after_it_pass_through() {
    let origin = Raw::start().await;
    for yaml in bypass_and_cached_yaml(&origin) {
        let larder = Larder::bare(&yaml).await;
        for _ in 0..2 {
            let mut client = larder.client().await;
            client.send(upgrade("/ws")).await;
            let mut server = origin.accepted().await;
            let head = head_of(&mut server).await.to_ascii_lowercase();
            assert!(head.contains("\r\nupgrade: websocket\r\n"), "{head}");
            assert!(head.contains("\r\nconnection: upgrade\r\n"), "{head}");
            assert!(head.contains("sec-websocket-key: dghlihnhbxbszsbub25jzq=="), "{head}");
            let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                           Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nfirst";
            server.write_all(switch).await.unwrap();
            let answer = timeout(SOON, client.response("GET")).await.unwrap().unwrap();
            assert_eq!(answer.status, 101);
            assert_eq!(answer.field("upgrade"), Some("websocket"));
            assert_eq!(answer.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
            let bytes = any_bytes();
            client.send(&bytes).await;
            assert!(exactly(&mut server, bytes.len()).await == bytes);
            server.write_all(&bytes).await.unwrap();
            server.shutdown().await.unwrap();
            let got = timeout(SOON, client.read_to_end()).await.unwrap();
            assert!(got == [b"first".as_slice(), &bytes].concat(), "{} bytes", got.len());
        }
    }
}

#[tokio::test]
async fn an_h2c_upgrade_is_ignored_and_the_response_is_stored() {
    // RFC 9110 §7.8: a server may ignore an upgrade; RFC 9113 §3.1 makes this one obsolete.
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
    let fields = ["Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAEA", "Upgrade: h2c"];
    let first = larder.get_with("/x", &fields).await;
    assert_eq!((first.status, first.body.as_slice()), (200, b"hello".as_slice()));
    let second = larder.get_with("/x", &fields).await;
    assert_eq!(second.field("cache-status"), Some("larder; hit; ttl=3600"));
    assert_eq!(origin.calls(), 1);
    for name in ["connection", "http2-settings", "upgrade"] {
        assert_eq!(origin.requests()[0].field(name).filter(|value| *value != "keep-alive"), None);
    }
}

#[tokio::test]
async fn a_response_without_the_requested_upgrade_passes_and_is_not_stored() {
    let origin = Origin::always(MockResponse::new(200, &[], "no")).await;
    for yaml in [String::new(), route(&["ttl: 1h"])] {
        let larder = Larder::start(&origin, &yaml).await;
        let before = origin.calls();
        for _ in 0..2 {
            let mut client = larder.client().await;
            client.send(upgrade("/ws")).await;
            let answer = timeout(SOON, client.response("GET")).await.unwrap().unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (200, "no"));
        }
        assert_eq!(origin.calls(), before + 2);
    }
}

#[tokio::test]
async fn interim_responses_pass_before_the_final_one() {
    let raw = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
               HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let origin = Origin::always(MockResponse::raw(raw)).await;
    let larder = Larder::start(&origin, "").await;
    let mut client = larder.client().await;
    for _ in 0..2 {
        client.send_request("GET", &format!("{API}/x"), &[]).await;
        let hints = client.next_response("GET").await.unwrap();
        assert_eq!((hints.status, hints.field("link")), (103, Some("</a.css>; rel=preload")));
        assert_eq!(client.next_response("GET").await.unwrap().status, 102);
        let answer = client.next_response("GET").await.unwrap();
        assert_eq!((answer.status, answer.text().as_str(), answer.end), (200, "ok", End::Complete));
    }
}

/// RFC 9110 §15.2 on a cached route: an interim response goes at once to the client that leads the fetch,
/// never to a hit, and is never merged into the final response.
#[tokio::test]
async fn interim_responses_reach_the_leader_at_once_and_are_not_stored() {
    let gate = Gate::new();
    let script = MockResponse(vec![
        Step::Write(
            b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n".to_vec(),
        ),
        Step::Wait(gate.clone()),
        Step::Write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()),
    ]);
    let origin = Origin::always(script).await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
    let mut client = larder.client().await;
    client.send_request("GET", &format!("{API}/x"), &[]).await;
    let hints = timeout(SOON, client.next_response("GET")).await.unwrap().unwrap();
    assert_eq!((hints.status, hints.field("link")), (103, Some("</a.css>")));
    assert_eq!(hints.field("x-hop"), None, "hop-by-hop fields end here");
    gate.open();
    let answer = client.next_response("GET").await.unwrap();
    assert_eq!((answer.status, answer.text().as_str(), answer.field("link")), (200, "ok", None));
    client.send_request("GET", &format!("{API}/x"), &[]).await;
    let hit = client.next_response("GET").await.unwrap();
    assert_eq!((hit.status, hit.text().as_str(), hit.field("link")), (200, "ok", None));
    assert!(hit.cache_status().starts_with("larder; hit"), "{}", hit.cache_status());
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn an_http_1_0_client_gets_no_interim_response() {
    let raw =
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let origin = Origin::always(MockResponse::raw(raw)).await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
    let mut client = larder.client().await;
    client.send(format!("GET {API}/x HTTP/1.0\r\nHost: api.example.test\r\n\r\n")).await;
    assert_eq!(client.next_response("GET").await.unwrap().status, 200);
}

fn expecting(length: usize) -> String {
    format!(
        "POST {API}/x HTTP/1.1\r\nHost: api.example.test\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
    )
}

#[tokio::test]
async fn an_expectation_passes_and_the_body_follows_the_origins_100() {
    let origin = Raw::start().await;
    for yaml in bypass_and_cached_yaml(&origin) {
        let larder = Larder::bare(&yaml).await;
        let mut client = larder.client().await;
        client.send(expecting(5)).await;
        let mut server = origin.accepted().await;
        let head = head_of(&mut server).await.to_ascii_lowercase();
        assert!(head.contains("\r\nexpect: 100-continue\r\n"), "{head}");
        server.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        let interim = timeout(SOON, client.next_response("POST")).await.unwrap().unwrap();
        assert_eq!(interim.status, 100);
        client.send("hello").await;
        assert_eq!(exactly(&mut server, 5).await, b"hello");
        server.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        let answer = timeout(SOON, client.next_response("POST")).await.unwrap().unwrap();
        assert_eq!(answer.status, 201);
    }
}

#[tokio::test]
async fn a_refused_expectation_passes_and_no_body_is_forwarded() {
    let origin = Raw::start().await;
    let larder = Larder::bare(&origin.resolve()).await;
    let mut client = larder.client().await;
    client.send(expecting(1_000_000)).await;
    let mut server = origin.accepted().await;
    head_of(&mut server).await;
    let refusal = b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno";
    server.write_all(refusal).await.unwrap();
    let answer = timeout(SOON, client.response("POST")).await.unwrap().unwrap();
    assert_eq!((answer.status, answer.text().as_str(), answer.end), (417, "no", End::Complete));
    // The client may still send the body or not, so larder cannot find the next request on the connection.
    assert_eq!(answer.field("connection"), Some("close"));
    drop(client);
    assert!(to_the_end(&mut server).await.is_empty(), "no byte of a body");
}
