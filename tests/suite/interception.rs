//! TLS interception: which hosts are intercepted, with which certificates, and that intercepted
//! requests follow the same rules as all others. Cases TLS-05 to TLS-07.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::client::{Client, End};
use crate::intercepted::{API, InterceptionSetup, get, h2_over, http1_get, send};
use crate::larder_under_test::route;
use crate::origin::{MockResponse, Origin};
use crate::tls_client::{TlsClient, peer_certificates};

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn https_responses_are_cached_for_the_same_and_other_connections() {
    let scene = InterceptionSetup::caching(MockResponse::new(200, &[], "kept")).await;
    let mut client = scene.client(&["http/1.1"]).http1(API).await;
    let first = http1_get(&mut client, "/coins?x=1", API).await;
    assert_eq!((first.status, first.text().as_str(), first.end), (200, "kept", End::Complete));
    assert!(first.cache_status().contains("fwd=uri-miss"), "{}", first.cache_status());
    let second = http1_get(&mut client, "/coins?x=1", API).await;
    assert!(second.cache_status().contains("; hit"), "{}", second.cache_status());
    let mut another = scene.client(&[]).http1(API).await;
    let third = http1_get(&mut another, "/coins?x=1", API).await;
    assert!(third.cache_status().contains("; hit"), "{}", third.cache_status());
    let seen = scene.origin.requests();
    assert_eq!((seen.len(), seen[0].target.as_str()), (1, "/coins?x=1"));
    assert_eq!(seen[0].field("host"), Some(API));
    scene.larder.wait_for_metric("larder_requests_total{result=\"hit\",route=\"api\"}", 2.0).await;
}

/// CCH-09: a response that was fetched over one scheme is not served over the other.
#[tokio::test]
async fn http_and_https_are_two_origins() {
    let scene = InterceptionSetup::caching(MockResponse::new(200, &[], "kept")).await;
    let mut client = scene.client(&["http/1.1"]).http1(API).await;
    http1_get(&mut client, "/x", API).await;
    let over_http = scene.larder.get("/x").await;
    // The origin accepts only TLS, so that the call fails; the stored response is not served.
    assert_eq!(over_http.status, 502, "{}", over_http.text());
}

#[tokio::test]
async fn http_2_responses_are_cached_and_concurrent_requests_collapse() {
    let scene = InterceptionSetup::caching(MockResponse::new(200, &[], "kept")).await;
    let mut h2 = scene.h2().await;
    let pending: Vec<_> = (0..20).map(|_| get(&mut h2, &format!("https://{API}/coins"))).collect();
    for answer in pending {
        let (status, _, body) = answer.await;
        assert_eq!((status, body.as_slice()), (200, b"kept".as_slice()));
    }
    assert_eq!(scene.origin.calls(), 1);
    let (status, cache_status, _) = get(&mut h2, &format!("https://{API}/coins")).await;
    assert_eq!(status, 200);
    assert!(cache_status.contains("; hit"), "{cache_status}");
    // HTTP/1.1 is served from the same entry.
    let mut client = scene.client(&["http/1.1"]).http1(API).await;
    let first = http1_get(&mut client, "/coins", API).await;
    assert!(first.cache_status().contains("; hit"), "{}", first.cache_status());
}

#[tokio::test]
async fn an_uncached_request_passes_through_both_versions_with_its_body() {
    let scene = InterceptionSetup::caching(MockResponse::new(201, &[], "made")).await;
    let mut client = scene.client(&["http/1.1"]).http1(API).await;
    client.send(format!("POST /x HTTP/1.1\r\nHost: {API}\r\nContent-Length: 4\r\n\r\nbody")).await;
    let answer = timeout(SOON, client.response("POST")).await.expect("in time").expect("a response");
    assert_eq!((answer.status, answer.text().as_str()), (201, "made"));
    let mut h2 = scene.h2().await;
    let request = Request::post(format!("https://{API}/x")).header("cookie", "a=1").header("cookie", "b=2");
    let (status, _, body) = send(&mut h2, request, Some("body")).await;
    assert_eq!((status, body.as_slice()), (201, b"made".as_slice()));
    let seen = scene.origin.requests();
    assert_eq!(seen.len(), 2);
    for request in &seen {
        assert_eq!(request.body, b"body");
        assert_eq!(request.field("host"), Some(API));
    }
    // RFC 9113 §8.2.3.
    assert_eq!(seen[1].field("cookie"), Some("a=1; b=2"));
}

#[tokio::test]
async fn tls_05_without_a_server_name_the_certificate_is_for_the_connect_host() {
    let scene = InterceptionSetup::caching(MockResponse::new(200, &[], "kept")).await;
    let client = scene.client(&["http/1.1"]).without_sni();
    let stream = client.connect(&format!("{API}:443"), API).await.expect("a handshake");
    let mut client = Client::over(stream);
    assert_eq!(http1_get(&mut client, "/x", API).await.status, 200);
}

#[tokio::test]
async fn tls_05_a_server_name_in_capitals_or_with_another_port_is_the_same_host() {
    let scene = InterceptionSetup::caching(MockResponse::new(200, &[], "kept")).await;
    let client = scene.client(&["http/1.1"]);
    let stream = client.connect("API.example.test:8443", "Api.Example.TEST").await.expect("it fits");
    let mut client = Client::over(stream);
    let answer = http1_get(&mut client, "/x", "api.example.test:8443").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    // The port is part of the origin.
    let answer = http1_get(&mut client, "/x", API).await;
    assert_eq!(answer.status, 421, "{}", answer.text());
}

/// The certificate is for the host of the CONNECT: a client that verifies it fails, and a client
/// that does not receives a 421.
#[tokio::test]
async fn tls_05_a_server_name_for_another_host_is_misdirected() {
    let scene = InterceptionSetup::caching(MockResponse::new(200, &[], "kept")).await;
    let refused = scene.client(&[]).connect(&format!("{API}:443"), "evil.example.test").await;
    assert!(refused.is_err(), "no certificate for a name that the attacker chose");
    for protocols in [vec!["http/1.1"], vec!["h2"]] {
        let stream = unverified(&scene, &format!("{API}:443"), "evil.example.test", &protocols).await;
        let status = if protocols == ["h2"] {
            let mut h2 = h2_over(stream).await;
            get(&mut h2, "https://evil.example.test/x").await.0
        } else {
            http1_get(&mut Client::over(stream), "/x", API).await.status
        };
        assert_eq!(status, 421, "{protocols:?}");
    }
    assert_eq!(scene.origin.calls(), 0);
}

#[tokio::test]
async fn tls_06_an_intercepted_tunnel_reaches_only_its_own_origin() {
    let scene = InterceptionSetup::caching(MockResponse::new(200, &[], "kept")).await;
    for (target, host) in [
        ("/x", "other.example.test"),
        ("/x", "api.example.test:444"),
        ("http://api.example.test/x", API),
        ("https://other.example.test/x", API),
        ("http://other.example.test/x", "other.example.test"),
    ] {
        let mut client = scene.client(&["http/1.1"]).http1(API).await;
        let answer = http1_get(&mut client, target, host).await;
        assert_eq!(answer.status, 421, "{target} {host}: {}", answer.text());
        assert!(client.is_closed().await);
    }
    let mut h2 = scene.h2().await;
    for url in ["https://other.example.test/x", "https://api.example.test:444/x"] {
        assert_eq!(get(&mut h2, url).await.0, 421, "{url}");
    }
    // The connection stays open for its other streams.
    assert_eq!(get(&mut h2, &format!("https://{API}/x")).await.0, 200);
    let mut client = scene.client(&["http/1.1"]).http1(API).await;
    let answer = http1_get(&mut client, &format!("https://{API}/x"), API).await;
    assert!(answer.cache_status().contains("; hit"), "{}", answer.cache_status());
    assert_eq!(scene.origin.calls(), 1);
}

#[tokio::test]
async fn tls_07_a_host_that_no_route_names_presents_its_own_certificate() {
    let scene = InterceptionSetup::caching(MockResponse::new(200, &[], "kept")).await;
    let roots = fs::read_to_string(scene.authority.root()).expect("roots");
    // The origin's certificate is for the API's name; the test checks only its issuer.
    let client = TlsClient::trusting(scene.larder.addr(), &roots, &[]);
    let stream = client.connect("other.example.test:443", API).await.expect("the origin's own");
    assert!(peer_certificates(&stream)[0].as_ref().windows(9).any(|part| part == b"Test Root"));
    let mut client = Client::over(stream);
    assert_eq!(http1_get(&mut client, "/x", API).await.field("cache-status"), None);
}

#[tokio::test]
async fn a_passthrough_host_is_not_intercepted_even_if_a_route_names_it() {
    let yaml = format!("tls: {{ passthrough: ['{API}'] }}\n{}", route(&["ttl: 1h"]));
    let scene =
        InterceptionSetup::start(Origin::always(MockResponse::new(200, &[], "kept")).await, &yaml).await;
    let roots = fs::read_to_string(scene.authority.root()).expect("roots");
    let client = TlsClient::trusting(scene.larder.addr(), &roots, &[]);
    client.connect(&format!("{API}:443"), API).await.expect("the origin's own certificate");
}

#[tokio::test]
async fn a_malformed_client_hello_ends_only_its_own_connection() {
    let scene = InterceptionSetup::caching(MockResponse::new(200, &[], "kept")).await;
    let client = scene.client(&[]);
    let mut long = vec![0x16, 0x03, 0x01, 0x40, 0x00, 0x01, 0x00, 0x3f, 0xfc];
    long.extend(std::iter::repeat_n(0xff, 70_000));
    for garbage in [
        b"\x16\x03\x01\x00\x05hello".to_vec(),
        b"\x16\x03\x01\xff\xff\x01\xff\xff\xff".to_vec(),
        b"\x16\x03\x00\x00\x00".to_vec(),
        long,
    ] {
        let mut tunnel = client.tunnel(&format!("{API}:443")).await;
        // Larder may have closed before it has read all of it.
        let _sent = tunnel.write_all(&garbage).await;
        let _ended = tunnel.shutdown().await;
        let mut received = Vec::new();
        let _reset = timeout(SOON, tunnel.read_to_end(&mut received)).await.expect("it ends");
        assert!(received.len() < 100, "{received:?}");
    }
    let mut client = scene.client(&["http/1.1"]).http1(API).await;
    assert_eq!(http1_get(&mut client, "/x", API).await.status, 200);
    let malformed = "larder_tls_handshakes_total{outcome=\"malformed\",pattern=\"api.example.test\"}";
    scene.larder.wait_for_metric(malformed, 4.0).await;
}

#[tokio::test]
async fn an_incomplete_client_hello_is_cut_off() {
    let yaml = format!("limits: {{ head_timeout: 200ms }}\n{}", route(&["ttl: 1h"]));
    let scene = InterceptionSetup::start(Origin::always(MockResponse::new(200, &[], "")).await, &yaml).await;
    let mut tunnel = scene.client(&[]).tunnel(&format!("{API}:443")).await;
    tunnel.write_all(b"\x16\x03\x01\x02\x00\x01").await.expect("larder reads");
    let mut received = Vec::new();
    timeout(SOON, tunnel.read_to_end(&mut received)).await.expect("it ends").expect("in order");
    let slow = "larder_tls_handshakes_total{outcome=\"timeout\",pattern=\"api.example.test\"}";
    scene.larder.wait_for_metric(slow, 1.0).await;
}

/// Without a `close_notify` (RFC 8446 §6.1) a client cannot distinguish a regular end from a truncation.
#[tokio::test]
async fn an_intercepted_connection_ends_with_a_close_notify() {
    let yaml = format!("limits: {{ idle: 200ms }}\n{}", route(&["ttl: 1h"]));
    let scene =
        InterceptionSetup::start(Origin::always(MockResponse::new(200, &[], "kept")).await, &yaml).await;
    for protocol in ["http/1.1", "h2"] {
        let stream = scene.client(&[protocol]).connect(&format!("{API}:443"), API).await;
        let mut stream = stream.expect("a handshake");
        if protocol == "h2" {
            let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
            stream.write_all(hello).await.expect("larder reads");
        }
        let mut received = Vec::new();
        let ended = timeout(SOON, stream.read_to_end(&mut received)).await.expect("it ends");
        assert!(ended.is_ok(), "{protocol}: {ended:?}");
    }
}

/// A WebSocket: after the 101 larder passes all bytes unread.
#[tokio::test]
async fn an_upgrade_inside_tls_passes_both_ways() {
    let switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
                     Upgrade: websocket\r\n\r\nhello";
    let origin = Origin::always(MockResponse::raw(switched.to_vec())).await;
    let scene = InterceptionSetup::start(origin, &route(&["ttl: 1h"])).await;
    let mut client = scene.client(&["http/1.1"]).http1(API).await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.send(format!("GET /socket HTTP/1.1\r\nHost: {API}\r\n{upgrade}")).await;
    let answer = timeout(SOON, client.response("GET")).await.expect("in time").expect("a response");
    assert_eq!(answer.status, 101);
    timeout(SOON, client.read_until("hello")).await.expect("in time");
}

/// CONNECT accepts only possible host names, and each accepted one is served.
#[tokio::test]
async fn tls_05_odd_names_are_refused_or_served_and_never_panic() {
    let scene = InterceptionSetup::start(
        Origin::always(MockResponse::new(200, &[], "kept")).await,
        "routes: [{ name: below, match: { host: '*.example.test' }, ttl: 1h }]",
    )
    .await;
    let tls = scene.client(&["http/1.1"]);
    let long = format!("{}.example.test", ["a".repeat(60).as_str(); 4].join("."));
    assert_eq!(long.len(), 256);
    for (host, expected) in [
        ("a_b.example.test", 200),
        ("xn--bcher-kva.example.test", 200),
        ("b\u{fc}cher.example.test", 400),
        ("a\0b.example.test", 400),
        ("-.example.test", 200),
        (long.as_str(), 400),
        ("a..example.test", 400),
    ] {
        let mut client = scene.larder.client().await;
        client.send(format!("CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n")).await;
        let answer = timeout(SOON, client.response("CONNECT")).await.expect("in time");
        assert_eq!(answer.expect("a response").status, expected, "{host:?}");
    }
    // The longest possible name.
    let longest = format!("{}.example.test", ["a".repeat(59).as_str(); 4].join("."));
    for host in ["a_b.example.test", &longest] {
        let stream = tls.connect(&format!("{host}:443"), host).await;
        assert!(stream.is_ok(), "{host}: {stream:?}");
    }
}

/// Such a client pins a certificate, or does not trust larder's CA.
#[tokio::test]
async fn a_client_that_rejects_larders_certificate_is_counted_by_host() {
    let scene = InterceptionSetup::caching(MockResponse::new(200, &[], "kept")).await;
    let other = fs::read_to_string(scene.authority.root()).expect("roots");
    let client = TlsClient::trusting(scene.larder.addr(), &other, &["http/1.1"]);
    for _ in 0..3 {
        client.connect(&format!("{API}:443"), API).await.expect_err("it trusts another authority");
    }
    let refused = "larder_tls_handshakes_total{outcome=\"refused\",pattern=\"api.example.test\"}";
    scene.larder.wait_for_metric(refused, 3.0).await;
    assert_eq!(scene.larder.server.telemetry().distrusting_hosts(), [(API.to_owned(), 3)]);
}

#[tokio::test]
async fn heads_inside_tls_have_the_same_limits() {
    let yaml = format!("limits: {{ head: 2KiB, headers: 20, head_timeout: 200ms }}\n{}", route(&["ttl: 1h"]));
    let scene =
        InterceptionSetup::start(Origin::always(MockResponse::new(200, &[], "kept")).await, &yaml).await;
    let tls = scene.client(&["http/1.1"]);
    let mut client = tls.http1(API).await;
    client.send(format!("GET / HTTP/1.1\r\nHost: {API}\r\nX: {}\r\n\r\n", "x".repeat(4000))).await;
    assert_eq!(client.response("GET").await.expect("a response").status, 431);
    let mut client = tls.http1(API).await;
    client.send(format!("GET / HTTP/1.1\r\nHost: {API}\r\n{}\r\n", "X: 1\r\n".repeat(30))).await;
    assert_eq!(client.response("GET").await.expect("a response").status, 431);
    let mut client = tls.http1(API).await;
    client.send("GET / HT").await;
    let slow = timeout(SOON, client.response("GET")).await.expect("in time");
    assert_eq!(slow.expect("a response").status, 408);
    let mut client = tls.http1(API).await;
    client
        .send(format!(
            "GET / HTTP/1.1\r\nHost: {API}\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
        ))
        .await;
    assert_eq!(client.response("GET").await.expect("a response").status, 400);
    let mut h2 = scene.h2().await;
    let mut request = Request::get(format!("https://{API}/"));
    for at in 0..30 {
        request = request.header(format!("x-{at}"), "1");
    }
    assert_eq!(send(&mut h2, request, None).await.0, 431);
    let request = Request::get(format!("https://{API}/")).header("x", "x".repeat(4000));
    assert_eq!(send(&mut h2, request, None).await.0, 431);
    assert_eq!(scene.origin.calls(), 0);
}

/// A connection of a client that does not verify certificates.
async fn unverified(
    scene: &InterceptionSetup,
    authority: &str,
    name: &str,
    protocols: &[&str],
) -> TlsStream<TcpStream> {
    scene
        .client(protocols)
        .without_verification()
        .connect(authority, name)
        .await
        .expect("it accepts anything")
}

/// Inside a tunnel a 407 is not from the proxy either, but some clients treat it as if it were.
#[tokio::test]
async fn a_407_of_an_origin_inside_a_tunnel_becomes_a_502() {
    let challenge = ["Proxy-Authenticate: Digest realm=\"phish\", nonce=\"1\""];
    let origin = Origin::always(MockResponse::new(407, &challenge, "password?")).await;
    let yaml = route(&["ttl: 1h"]).replace("/**", "/kept");
    let scene = InterceptionSetup::start(origin, &yaml).await;
    let http1 = scene.client(&["http/1.1"]);
    let mut h2 = scene.h2().await;
    for path in ["/kept", "/passed"] {
        let answer = http1_get(&mut http1.http1(API).await, path, API).await;
        assert_eq!((answer.status, answer.field("proxy-authenticate")), (502, None), "{path}");
        let answer = send(&mut h2, Request::get(format!("https://{API}{path}")), None).await;
        assert_eq!(answer.0, 502, "{path}");
        assert!(String::from_utf8_lossy(&answer.2).contains("\"origin_407\""), "{path}");
    }
    // Larder removes a client's proxy credential there, too.
    let shown = "Proxy-Authorization: Basic YW5uOnMzY3JldA==";
    let mut client = http1.http1(API).await;
    client.send(format!("GET /passed HTTP/1.1\r\nHost: {API}\r\n{shown}\r\n\r\n")).await;
    client.response("GET").await.expect("a response");
    let request = Request::get(format!("https://{API}/passed"));
    send(&mut h2, request.header("proxy-authorization", "Basic YW5uOnMzY3JldA=="), None).await;
    for seen in scene.origin.requests() {
        assert_eq!(seen.field("proxy-authorization"), None, "{}", seen.raw_head);
    }
}

/// A browser that uses larder as its proxy speaks HTTP/2 to most APIs.
#[tokio::test]
async fn over_http_2_no_cross_site_page_can_use_larders_credential() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key");
    fs::write(&file, "larders-own-s3cret\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let credential = format!(
        ", credential: {{ header: X-Api-Key, file: \"{}\", allow_origins: [\"http://localhost:3000\"] }}",
        file.display()
    );
    let origin = Origin::always(MockResponse::new(200, &[], "here")).await;
    let yaml = route(&["ttl: 1h"]).replace("/**", "/kept");
    let scene = InterceptionSetup::start_with_upstream(origin, &credential, &yaml).await;
    let mut h2 = scene.h2().await;
    let browser = ("user-agent", "Mozilla/5.0 (X11) Chrome/140");
    let cross = ("sec-fetch-site", "cross-site");
    let url = |path| format!("https://{API}{path}");
    assert_eq!(get(&mut h2, &url("/kept")).await.0, 200);
    let calls = scene.origin.calls();
    let with = |method: &str, path, fields: &[(&str, &str)]| {
        let request = Request::builder().method(method).uri(url(path));
        fields.iter().fold(request, |request, (name, value)| request.header(*name, *value))
    };
    for page in [
        &[("origin", "https://page.example")][..],
        &[("origin", "null"), ("sec-fetch-site", "same-site")],
        &[cross, ("sec-fetch-mode", "no-cors")],
        &[browser, ("referer", "https://page.example/x")],
        &[browser],
        &[("sec-fetch-dest", "image")],
    ] {
        // Stored responses were fetched with the credential, too.
        for (method, path) in [("GET", "/kept"), ("GET", "/passed"), ("POST", "/passed")] {
            let answer = send(&mut h2, with(method, path, page), None).await;
            assert_eq!(answer.0, 403, "{method} {path} {page:?}");
            let text = String::from_utf8_lossy(&answer.2);
            assert!(text.contains("credential.allow_origins"), "{text}");
        }
    }
    assert_eq!(scene.origin.calls(), calls);
    for page in [
        &[("sec-fetch-site", "none"), browser][..],
        &[("origin", "https://api.example.test"), ("sec-fetch-site", "same-origin")],
        &[("origin", "http://localhost:3000"), cross],
    ] {
        let answer = send(&mut h2, with("GET", "/passed", page), None).await;
        assert_eq!(answer.0, 200, "{page:?}");
    }
    for seen in scene.origin.requests() {
        assert_eq!(seen.field("x-api-key"), Some("larders-own-s3cret"), "{}", seen.raw_head);
    }
}
