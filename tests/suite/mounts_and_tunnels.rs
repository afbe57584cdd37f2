//! Requests in other forms than the absolute one: mounts, and plain HTTP inside `CONNECT`.

use std::time::Duration;

use larder::server::ServerDeps;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::client::{Client, End, Response};
use crate::dns::Dns;
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{MockResponse, Origin};

const SOON: Duration = Duration::from_secs(10);

/// One route for the API, whose origin is mounted at `/api`.
async fn mounted(origin: &Origin) -> Larder {
    let mount = "upstreams:\n  api:\n    hosts: [api.example.test]\n    \
                 mount: { path: /api, to: \"http://api.example.test\" }\n";
    Larder::start(origin, &format!("{mount}{}", route(&["ttl: 1h"]))).await
}

/// A request in origin form, as sent to a server.
async fn ask_directly(client: &mut Client, method: &str, path: &str, host: &str) -> Response {
    client.send(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    timeout(SOON, client.response(method)).await.expect("in time").expect("a response")
}

/// A client whose connection is a tunnel to `authority`.
async fn tunnel_client(larder: &Larder, authority: &str) -> Client {
    let mut client = larder.client().await;
    client.send(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n")).await;
    let answer = timeout(SOON, client.response("CONNECT")).await.expect("in time").expect("one");
    assert_eq!(answer.status, 200);
    client
}

#[tokio::test]
async fn a_request_below_a_mount_shares_entries_with_proxied_requests() {
    let origin = Origin::always(MockResponse::new(200, &[], "kept")).await;
    let larder = mounted(&origin).await;
    let mut client = larder.client().await;
    let first = ask_directly(&mut client, "GET", "/api/coins?x=1", "127.0.0.1:8080").await;
    assert_eq!((first.status, first.text().as_str()), (200, "kept"));
    assert!(first.cache_status().contains("fwd=uri-miss"), "{}", first.cache_status());
    let seen = &origin.requests()[0];
    assert_eq!(seen.target, "/coins?x=1");
    assert_eq!(seen.field("host"), Some("api.example.test"));
    // The kept-alive connection and a proxied request are served from the same entry.
    let second = ask_directly(&mut client, "GET", "/api/coins?x=1", "localhost").await;
    assert!(second.cache_status().contains("; hit"), "{}", second.cache_status());
    let proxied = larder.get("/coins?x=1").await;
    assert!(proxied.cache_status().contains("; hit"), "{}", proxied.cache_status());
    assert_eq!(origin.calls(), 1);
    // A write passes through and invalidates the same target.
    let written = ask_directly(&mut client, "DELETE", "/api/coins?x=1", "localhost").await;
    assert_eq!((written.status, origin.calls()), (200, 2));
    let third = ask_directly(&mut client, "GET", "/api/coins?x=1", "localhost").await;
    assert!(third.cache_status().contains("fwd=uri-miss"), "{}", third.cache_status());
}

#[tokio::test]
async fn a_path_below_no_mount_is_refused_as_no_proxy_request() {
    let origin = Origin::always(MockResponse::new(200, &[], "")).await;
    let larder = mounted(&origin).await;
    for path in ["/", "/apis/x", "/other", "*"] {
        let answer = ask_directly(&mut larder.client().await, "OPTIONS", path, "localhost").await;
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.text().contains("not_a_proxy_request"), "{}", answer.text());
    }
    assert_eq!(origin.calls(), 0);
}

/// A page whose host name resolves to 127.0.0.1 (DNS rebinding) may not use the app's larder.
#[tokio::test]
async fn a_page_with_a_rebound_host_name_reaches_no_mount() {
    let origin = Origin::always(MockResponse::new(200, &[], "secret")).await;
    let larder = mounted(&origin).await;
    for host in ["evil.example", "127.0.0.1.nip.io:8080"] {
        let answer = ask_directly(&mut larder.client().await, "GET", "/api/x", host).await;
        assert_eq!(answer.status, 421, "{host}");
        assert!(!answer.text().contains("secret"));
    }
    assert_eq!(origin.calls(), 0);
}

/// A page's script may send requests to any address; the fields that a browser adds reveal its site.
#[tokio::test]
async fn a_cross_site_page_reaches_a_mount_only_if_allow_origins_lists_it() {
    let origin = Origin::always(MockResponse::new(200, &[], "secret")).await;
    let mount = "upstreams:\n  api:\n    hosts: [api.example.test]\n    \
                 mount: { path: /api, to: \"http://api.example.test\", \
                 allow_origins: \"http://localhost:3000\", allow_hosts: host.docker.internal }\n";
    let larder = Larder::start(&origin, &format!("{mount}{}", route(&["ttl: 1h"]))).await;
    let own = "127.0.0.1:8080";
    for (method, host, fields, status) in [
        ("GET", own, "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n", 403),
        ("POST", own, "Origin: https://evil.example\r\nContent-Length: 0\r\n", 403),
        ("OPTIONS", own, "Origin: https://evil.example\r\nAccess-Control-Request-Method: POST\r\n", 403),
        ("GET", own, "Origin: null\r\nSec-Fetch-Site: cross-site\r\n", 403),
        ("GET", own, "Origin: http://localhost:3000\r\nSec-Fetch-Site: cross-site\r\n", 200),
        ("GET", own, "Sec-Fetch-Site: none\r\n", 200),
        ("GET", "host.docker.internal:8080", "", 200),
        ("GET", "other.docker.internal:8080", "", 421),
        ("GET", own, "", 200),
    ] {
        let calls = origin.calls();
        let mut client = larder.client().await;
        client.send(format!("{method} /api/x HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")).await;
        let answer = timeout(SOON, client.response(method)).await.expect("in time").expect("one");
        assert_eq!(answer.status, status, "{method} {host} {fields}");
        if status != 200 {
            assert!(!answer.text().contains("secret"));
            assert_eq!(origin.calls(), calls, "{method} {host} {fields}");
        }
    }
}

/// All mounts are one origin to a browser, and its cookies are shared with every port of this host.
/// A page below one mount must not act for another mount, or read or set data of others.
#[tokio::test]
async fn in_a_browser_mounted_responses_are_sandboxed_and_have_no_cookies() {
    let response_fields = [
        "Content-Type: text/html",
        "Set-Cookie: sid=1",
        "Service-Worker-Allowed: /",
        "Clear-Site-Data: \"*\"",
        "Content-Security-Policy: default-src 'self'",
    ];
    let origin = Origin::always(MockResponse::new(200, &response_fields, "<script>")).await;
    let mount = "upstreams:\n  api:\n    hosts: [api.example.test]\n    \
                 mount: { path: /api, to: \"http://api.example.test\", \
                 allow_origins: \"http://localhost:3000\" }\n";
    for policy in [&["ttl: 1h", "set_cookie: keep"][..], &["ttl: 0s"]] {
        let larder = Larder::start(&origin, &format!("{mount}{}", route(policy))).await;
        let ask = async |fields: &str| {
            let mut client = larder.client().await;
            let head = "GET /api/x HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nCookie: sid=other\r\n";
            client.send(format!("{head}{fields}\r\n")).await;
            timeout(SOON, client.response("GET")).await.expect("in time").expect("one")
        };
        let agent = "User-Agent: Mozilla/5.0 (X11) Firefox/140.0\r\n";
        let typed = format!("{agent}Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\n");
        let named = format!("{agent}Origin: http://localhost:3000\r\n");
        for fields in [agent, &typed, &typed, &named] {
            let calls = origin.calls();
            let shown = ask(fields).await;
            assert_eq!((shown.status, shown.text().as_str()), (200, "<script>"), "{fields}");
            for name in ["set-cookie", "service-worker-allowed", "clear-site-data"] {
                assert_eq!(shown.field(name), None, "{name} {fields}");
            }
            let policies = shown.all("content-security-policy");
            assert_eq!(policies, ["default-src 'self'", "sandbox"], "{fields}");
            assert_eq!(shown.field("x-content-type-options"), Some("nosniff"), "{fields}");
            if origin.calls() > calls {
                assert_eq!(origin.requests().last().unwrap().field("cookie"), None, "{fields}");
            }
        }
        // Sandboxed documents have no origin and send `Origin: null`.
        for (sent, status) in [
            ("Sec-Fetch-Site: cross-site\r\nOrigin: null\r\n", 403),
            ("Sec-Fetch-Site: same-origin\r\n", 200),
        ] {
            let answer = ask(&format!("{agent}{sent}")).await;
            assert_eq!(answer.status, status, "{sent}");
            let policies = answer.all("content-security-policy");
            assert_eq!(policies.contains(&"sandbox"), status == 200, "{sent}");
        }
        // Fields of programs that are no browsers pass unchanged in both directions.
        let plain = ask("User-Agent: node\r\nSec-Fetch-Mode: cors\r\n").await;
        assert_eq!(plain.field("set-cookie"), Some("sid=1"));
        assert_eq!(plain.all("content-security-policy").len(), 1);
        assert_eq!(origin.requests().last().unwrap().field("cookie"), Some("sid=other"));
    }
}

/// A browser lets a page read what CORS fields allow (Fetch Standard, "CORS protocol").
#[tokio::test]
async fn an_allowed_page_may_read_the_responses_to_its_requests() {
    let own = [
        "Access-Control-Allow-Origin: https://api.example.test",
        "Access-Control-Allow-Credentials: true",
        "Vary: Accept",
    ];
    let origin = Origin::always(MockResponse::new(200, &own, "shown")).await;
    let mount = "upstreams:\n  api:\n    hosts: [api.example.test]\n    \
                 mount: { path: /api, to: \"http://api.example.test\", \
                 allow_origins: \"http://localhost:3000\" }\n";
    let larder = Larder::start(&origin, &format!("{mount}{}", route(&["ttl: 1h"]))).await;
    let page = "http://localhost:3000";
    let ask = async |method: &str, fields: &str| {
        let mut client = larder.client().await;
        let head = format!("{method} /api/x HTTP/1.1\r\nHost: localhost\r\nOrigin: {page}\r\n");
        client.send(format!("{head}{fields}\r\n")).await;
        timeout(SOON, client.response(method)).await.expect("in time").expect("one")
    };
    for hit in [false, true] {
        let answer = ask("GET", "Sec-Fetch-Site: same-site\r\n").await;
        assert_eq!(answer.cache_status().contains("; hit"), hit);
        assert_eq!(answer.all("access-control-allow-origin"), [page]);
        assert_eq!(answer.field("access-control-expose-headers"), Some("*"));
        assert_eq!(
            answer.field("access-control-allow-credentials"),
            None,
            "the API's field is for its own pages"
        );
        assert_eq!(answer.all("vary").join(","), "Accept,origin");
    }
    // A browser sends a preflight before a request that a form could not send.
    let preflight = "Access-Control-Request-Method: PATCH\r\n\
                  Access-Control-Request-Headers: authorization,x-own\r\n\
                  Access-Control-Request-Private-Network: true\r\n";
    let answer = ask("OPTIONS", preflight).await;
    assert_eq!((answer.status, origin.calls()), (204, 1));
    for (name, value) in [
        ("access-control-allow-origin", page),
        ("access-control-allow-methods", "PATCH"),
        ("access-control-allow-headers", "authorization,x-own"),
        ("access-control-allow-private-network", "true"),
    ] {
        assert_eq!(answer.field(name), Some(value), "{name}");
    }
    // An OPTIONS request that is no preflight passes through, and programs get the API's own fields.
    assert_eq!((ask("OPTIONS", "").await.status, origin.calls()), (200, 2));
    let plain = larder.get("/x").await;
    assert_eq!(plain.field("access-control-allow-origin"), Some("https://api.example.test"));
}

#[tokio::test]
async fn http_inside_connect_is_cached() {
    let origin = Origin::always(MockResponse::new(200, &[], "kept")).await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
    let mut client = tunnel_client(&larder, "api.example.test:80").await;
    for (n, expected) in ["fwd=uri-miss", "; hit", "; hit"].iter().enumerate() {
        let host = ["api.example.test", "api.example.test:80", "API.example.test"][n];
        let answer = ask_directly(&mut client, "GET", "/coins", host).await;
        assert_eq!((answer.text().as_str(), answer.end), ("kept", End::Complete));
        assert!(answer.cache_status().contains(expected), "{n}: {}", answer.cache_status());
    }
    assert!(larder.get("/coins").await.cache_status().contains("; hit"));
    assert_eq!(origin.calls(), 1);
    // The first request may be sent together with the CONNECT.
    let mut client = larder.client().await;
    let both = "CONNECT api.example.test:80 HTTP/1.1\r\nHost: api.example.test:80\r\n\r\n\
                GET /coins HTTP/1.1\r\nHost: api.example.test\r\n\r\n";
    client.send(both).await;
    assert_eq!(client.response("CONNECT").await.unwrap().status, 200);
    assert!(client.response("GET").await.unwrap().cache_status().contains("; hit"));
}

/// Clients that tunnel everything (Node's fetch) must get the stale response if the origin is down.
#[tokio::test]
async fn a_dead_origin_is_replaced_by_a_stale_response_inside_connect_too() {
    let origin = Origin::always(MockResponse::new(200, &[], "kept")).await;
    let larder = Larder::with_policy(&origin, &["ttl: 1m"]).await;
    larder.get("/coins").await;
    origin.set_script(|_| MockResponse::closed());
    larder.clock.advance(Duration::from_secs(120));
    let mut client = tunnel_client(&larder, "api.example.test:80").await;
    let answer = ask_directly(&mut client, "GET", "/coins", "api.example.test").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "kept"));
    assert!(answer.cache_status().contains("stale-if-error"), "{}", answer.cache_status());
}

/// A stored response needs no name server.
#[tokio::test]
async fn a_hanging_name_server_does_not_delay_a_hit_inside_connect() {
    let origin = Origin::always(MockResponse::new(200, &[], "kept")).await;
    let address = origin.addr.ip();
    let dns = Dns::start(move |_, _| vec![address]).await;
    let port = origin.addr.port();
    let parts = ServerDeps { name_server: Some(dns.addr), ..ServerDeps::default() };
    let larder = Larder::with_deps(&route(&["ttl: 1h"]), parts).await;
    let url = format!("http://api.example.test:{port}/coins");
    assert_eq!(larder.client().await.get(&url, &[]).await.text(), "kept");
    let _blocked_lookups = dns.delay_replies();
    let authority = format!("api.example.test:{port}");
    let opened = timeout(Duration::from_secs(5), tunnel_client(&larder, &authority)).await;
    let mut client = opened.expect("long before the DNS timeout");
    let answer = ask_directly(&mut client, "GET", "/coins", &authority).await;
    assert_eq!(answer.text(), "kept");
    assert!(answer.cache_status().contains("; hit"), "{}", answer.cache_status());
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn a_tunnel_reaches_only_its_own_origin() {
    let origin = Origin::always(MockResponse::new(200, &[], "mine")).await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
    for request in [
        "GET /x HTTP/1.1\r\nHost: other.example.test\r\n\r\n".to_owned(),
        "GET /x HTTP/1.1\r\nHost: api.example.test:81\r\n\r\n".to_owned(),
        "GET http://other.example.test/x HTTP/1.1\r\nHost: api.example.test\r\n\r\n".to_owned(),
        "GET https://api.example.test/x HTTP/1.1\r\nHost: api.example.test\r\n\r\n".to_owned(),
    ] {
        let mut client = tunnel_client(&larder, "api.example.test:80").await;
        client.send(&request).await;
        let answer = client.response("GET").await.expect("a response");
        assert_eq!(answer.status, 421, "{request}");
    }
    // The absolute form of its own origin is equivalent.
    let mut client = tunnel_client(&larder, "api.example.test:80").await;
    let answer = client.get(&format!("{API}/x"), &[]).await;
    assert_eq!((answer.status, origin.calls()), (200, 1));
    // A tunnel inside a tunnel is refused.
    client.send("GET /x HTTP/1.1\r\nHost: api.example.test\r\n\r\n").await;
    assert_eq!(client.response("GET").await.unwrap().status, 200);
    client.send("CONNECT api.example.test:80 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.response("GET").await.unwrap().status, 400);
}

/// Bytes that are not HTTP pass unchanged even if a route names the host; so do those of an origin
/// that sends first.
#[tokio::test]
async fn other_protocols_inside_connect_pass_unread() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let yaml = format!(
        "resolve: {{ api.example.test: \"{}\" }}\n{}",
        listener.local_addr().unwrap(),
        route(&["ttl: 1h"])
    );
    let larder = Larder::bare(&yaml).await;
    for first in
        [&b"\x17\x03\x01\x00\x05hello"[..], b"SSH-2.0-x\r\n", b"GETTING /", b"PRI * HTTP/2.0\r\n", b""]
    {
        let mut client = tunnel_client(&larder, "api.example.test:8080").await;
        client.send(first).await;
        let (mut stream, _) = timeout(SOON, listener.accept()).await.expect("dialled").unwrap();
        stream.write_all(b"banner").await.unwrap();
        let mut seen = vec![0; first.len()];
        timeout(SOON, stream.read_exact(&mut seen)).await.expect("in time").unwrap();
        assert_eq!(seen, first);
        let mut banner = [0; 6];
        timeout(SOON, client.stream.read_exact(&mut banner)).await.expect("in time").unwrap();
        assert_eq!(&banner, b"banner");
    }
}

/// FWD-02 is enforced before larder reports an open tunnel, whether or not a route names the host.
#[tokio::test]
async fn fwd_02_no_tunnel_opens_to_a_denied_host_that_a_route_names() {
    let origin = Origin::always(MockResponse::new(200, &[], "")).await;
    let yaml = format!("destinations: {{ deny: [\"{}/32\"] }}\n{}", origin.addr.ip(), route(&["ttl: 1h"]));
    let larder = Larder::start(&origin, &yaml).await;
    let mut client = larder.client().await;
    client.send("CONNECT api.example.test:80 HTTP/1.1\r\nHost: api.example.test:80\r\n\r\n").await;
    assert_eq!(client.response("CONNECT").await.unwrap().status, 403);
    assert_eq!(origin.connections(), 0);
}

/// RFC 9110 §11.7.1: a proxy sends a 407 to its own client. With a 407 from an origin the client would send
/// larder's password in vain, or to another proxy (curl keeps a Digest challenge for its next CONNECT).
#[tokio::test]
async fn a_407_of_an_origin_becomes_a_502() {
    let challenges = ["Proxy-Authenticate: Basic realm=\"phish\"", "Proxy-Authenticate: NTLM"];
    let challenge =
        MockResponse::new(407, &[&challenges[..], &["X-Own: 1"]].concat(), "your password, please");
    let origin = Origin::always(challenge).await;
    let mount = "upstreams: { api: { hosts: [api.example.test], \
                 mount: { path: /api, to: \"http://api.example.test\" } } }\n";
    let kept = route(&["ttl: 1h", "ttl_by_status: { 407: 1h }"]).replace("/**", "/kept");
    let larder = Larder::start(&origin, &format!("{mount}{kept}")).await;
    // The second request for `/kept` is served from the store.
    for path in ["/kept", "/kept", "/passed"] {
        for (url, base) in [("http://api.example.test", ""), ("", "/api")] {
            for method in ["GET", "HEAD", "POST"] {
                let mut client = larder.client().await;
                let head = format!("{method} {url}{base}{path} HTTP/1.1\r\nHost: localhost\r\n");
                client.send(format!("{head}Content-Length: 0\r\n\r\n")).await;
                let answer = timeout(SOON, client.response(method)).await.expect("soon").expect("one");
                let case = format!("{method} {url}{base}{path}");
                assert_eq!(answer.status, 502, "{case}");
                assert_eq!(answer.field("proxy-authenticate"), None, "{case}");
                assert_eq!(answer.field("proxy-authorization"), None, "{case}");
                let proxy_status = answer.field("proxy-status").unwrap_or_default();
                let expected = "larder; error=http_protocol_error; received-status=407; \
                                details=\"origin_407\"";
                assert_eq!(proxy_status, expected, "{case}");
                assert!(!answer.text().contains("password, please"), "{case}");
                assert!(method == "HEAD" || answer.text().contains("\"origin_407\""), "{case}");
                assert!(!answer.cache_status().is_empty(), "{case}");
            }
        }
    }
    for seen in origin.requests() {
        assert_eq!(seen.field("proxy-authorization"), None);
    }
}

/// The store is shared with clients of the proxy, which get the origin's own references.
#[tokio::test]
async fn references_to_the_origin_are_rewritten_for_clients_of_the_mount_alone() {
    let places = [
        ("/new", "/api/new"),
        ("http://api.example.test/new?a=1", "/api/new?a=1"),
        ("//api.example.test:80/new", "/api/new"),
        ("new", "new"),
        ("../../new", "/api/new"),
        ("https://api.example.test/new", "https://api.example.test/new"),
        ("http://elsewhere.example/new", "http://elsewhere.example/new"),
    ];
    let origin = Origin::start(move |seen| {
        let place = places[seen.target.rsplit('/').next().unwrap().parse::<usize>().unwrap()].0;
        let status = if seen.method == "POST" { 201 } else { 301 };
        MockResponse::new(status, &[&format!("Location: {place}"), &format!("Content-Location: {place}")], "")
    })
    .await;
    let larder = mounted(&origin).await;
    for (at, (received, rewritten)) in places.into_iter().enumerate() {
        let path = format!("/deep/{at}");
        for method in ["GET", "GET", "POST"] {
            let mut client = larder.client().await;
            let answer = ask_directly(&mut client, method, &format!("/api{path}"), "localhost").await;
            for name in ["location", "content-location"] {
                assert_eq!(answer.field(name), Some(rewritten), "{method} {received}: {name}");
            }
        }
        let proxied = larder.get(&path).await;
        assert_eq!(proxied.field("location"), Some(received), "the store is unchanged");
        assert_eq!(larder.get(&path).await.field("content-location"), Some(received));
    }
}
