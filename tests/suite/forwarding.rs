//! Forwarding rules: destinations, listeners, clients and users, loops, and hop-by-hop fields.

use std::io::{ErrorKind, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use larder::config;
use larder::config::env::Env;
use larder::server::ServerDeps;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::client::{Client, Response};
use crate::dns::Dns;
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{MockResponse, Origin};

const SOON: Duration = Duration::from_secs(10);

/// Listens on every address of this machine; only loopback clients have access.
const REACHABLE: &str = "listen: 0.0.0.0:0\naccess: { clients: [127.0.0.0/8] }\n";

/// A route that caches every response of every host.
const EVERYTHING: &str = "routes:\n  - name: all\n    match: { host: \"*\", path: /** }\n    ttl: 1h\n";

/// A listening address to which larder must never connect.
struct Forbidden(std::net::TcpListener);

impl Forbidden {
    fn at(address: &str) -> Self {
        let listener = std::net::TcpListener::bind(address).expect("the address is free");
        listener.set_nonblocking(true).expect("a listener can be made non-blocking");
        Self(listener)
    }

    fn addr(&self) -> SocketAddr {
        self.0.local_addr().expect("a bound listener has an address")
    }

    fn assert_untouched(&self) {
        // On loopback a connection is in the backlog before `connect` returns.
        let accepted = self.0.accept().map(|(_, peer)| peer).map_err(|error| error.kind());
        assert_eq!(accepted, Err(ErrorKind::WouldBlock), "{} was dialled", self.addr());
    }
}

fn denied(larder: &Larder, reason: &str) -> f64 {
    larder.metric(&format!("larder_denied_total{{reason=\"{reason}\"}}"))
}

async fn get(larder: &Larder, url: &str) -> Response {
    let mut client = larder.client().await;
    timeout(SOON, client.get(url, &[])).await.expect("a response in time")
}

async fn connect(larder: &Larder, target: &str) -> Response {
    let mut client = larder.client().await;
    client.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")).await;
    timeout(SOON, client.response("CONNECT")).await.expect("a response in time").expect("a response")
}

fn assert_denied(answer: &Response, reason: &str) {
    let text = answer.text();
    assert_eq!(answer.status, 403, "{text}");
    let body: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(body["larder_error"]["class"], reason);
    let expected = format!("larder; error=destination_ip_prohibited; details=\"{reason}\"");
    assert_eq!(answer.field("proxy-status"), Some(expected.as_str()));
    let cache_status = answer.field("cache-status").unwrap_or_default();
    assert!(!cache_status.contains("fwd="), "nothing was forwarded: {cache_status}");
}

/// Requests `authority` with `GET`, `CONNECT` and `POST`; each request is denied for `reason` and counted.
async fn assert_every_method_is_denied(larder: &Larder, authority: &str, reason: &str) {
    let before = denied(larder, reason);
    assert_denied(&get(larder, &format!("http://{authority}/x")).await, reason);
    assert_denied(&connect(larder, authority).await, reason);
    let mut client = larder.client().await;
    let head =
        format!("POST http://{authority}/x HTTP/1.1\r\nHost: {authority}\r\nContent-Length: 5\r\n\r\nhello");
    client.send(head).await;
    let answer = timeout(SOON, client.response("POST")).await.expect("in time").expect("a response");
    assert_denied(&answer, reason);
    assert!((denied(larder, reason) - before - 3.0).abs() < 0.1, "each is counted once");
}

#[tokio::test]
async fn fwd_01_a_denied_destination_is_never_dialled() {
    let origin = Origin::always(MockResponse::new(200, &[], "ok")).await;
    let forbidden = Forbidden::at("127.0.0.1:0");
    let port = forbidden.addr().port();
    let deny = format!("destinations: {{ deny: [\"127.0.0.1:{port}\", \"[::1]:{port}\"] }}\n");
    for routes in ["", EVERYTHING] {
        let larder = Larder::start(&origin, &format!("{deny}{routes}")).await;
        assert_every_method_is_denied(&larder, &forbidden.addr().to_string(), "destination-denied").await;
        let by_name = format!("localhost:{port}");
        assert_every_method_is_denied(&larder, &by_name, "destination-denied").await;
        assert_eq!(larder.get("/x").await.status, 200, "other destinations are open");
    }
    forbidden.assert_untouched();
}

#[tokio::test]
async fn fwd_01_a_reachable_listener_opens_only_private_addresses_in_allow() {
    let origin = Origin::always(MockResponse::new(200, &[], "ok")).await;
    let forbidden = Forbidden::at("127.0.0.1:0");
    let allow = format!("destinations: {{ allow: [\"{}\"], ports: all }}\n", origin.addr);
    for routes in ["", EVERYTHING] {
        let larder = Larder::start(&origin, &format!("{REACHABLE}{allow}{routes}")).await;
        assert_every_method_is_denied(&larder, &forbidden.addr().to_string(), "destination-private").await;
        assert_eq!(get(&larder, &format!("http://{}/x", origin.addr)).await.status, 200);
        assert_eq!(larder.get("/x").await.status, 200, "by name too");
        assert_eq!(connect(&larder, &origin.addr.to_string()).await.status, 200);
    }
    forbidden.assert_untouched();
}

/// A host name in `allow` does not permit a private address to which it resolves.
#[tokio::test]
async fn fwd_01_a_host_name_in_allow_opens_no_private_address() {
    let forbidden = Forbidden::at("127.0.0.1:0");
    let dns = Dns::start(|_, _| vec![IpAddr::from([127, 0, 0, 1])]).await;
    let yaml = format!("{REACHABLE}destinations: {{ allow: [api.example.test], ports: all }}\n");
    let larder = with_dns(&yaml, &dns).await;
    let authority = format!("api.example.test:{}", forbidden.addr().port());
    assert_every_method_is_denied(&larder, &authority, "destination-private").await;
    forbidden.assert_untouched();
}

#[tokio::test]
async fn fwd_02_a_tunnel_opens_only_to_allowed_ports() {
    let forbidden = Forbidden::at("127.0.0.1:0");
    let larder = Larder::bare("destinations: { ports: [443] }\n").await;
    let authority = forbidden.addr().to_string();
    assert_every_method_is_denied(&larder, &authority, "destination-port").await;
    let yaml = format!("{REACHABLE}destinations: {{ allow: [127.0.0.0/8] }}\n");
    let larder = Larder::bare(&yaml).await;
    assert_every_method_is_denied(&larder, &authority, "destination-port").await;
    forbidden.assert_untouched();
}

#[tokio::test]
async fn fwd_02_a_malformed_authority_opens_no_tunnel() {
    let larder = Larder::bare("").await;
    for target in [
        "host",
        "host:",
        "host:0",
        "host:65536",
        "host:+80",
        "host:80:80",
        "http://host:80",
        "http://host/",
        ":80",
        "/",
        "*",
        "user@host:80",
        "[::1:80",
        "::1:80",
        "a..b:80",
    ] {
        let before = denied(&larder, "malformed_target");
        let answer = connect(&larder, target).await;
        assert_eq!(answer.status, 400, "{target}");
        assert!(answer.text().contains("\"malformed_target\""), "{target}: {}", answer.text());
        assert!(denied(&larder, "malformed_target") > before, "{target}");
    }
}

/// These addresses need no set-up on this host; [`in_a_separate_network_namespace`] tests the others.
#[tokio::test]
async fn fwd_04_a_reachable_listener_refuses_private_addresses_in_any_spelling() {
    let forbidden = Forbidden::at("0.0.0.0:0");
    let port = forbidden.addr().port();
    let larder = Larder::bare(&format!("{REACHABLE}destinations: {{ ports: all }}\n")).await;
    for host in [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "localhost",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "10.0.0.1",
        "100.64.0.1",
        "[fd00::1]",
        "[fe80::1]",
    ] {
        assert_every_method_is_denied(&larder, &format!("{host}:{port}"), "destination-private").await;
    }
    forbidden.assert_untouched();
}

#[tokio::test]
async fn fwd_04_cloud_metadata_is_refused_even_if_allow_lists_it() {
    for listen in ["", REACHABLE] {
        let yaml = format!(
            "{listen}destinations: {{ allow: [0.0.0.0/0, \"::/0\", metadata.google.internal], ports: all }}\n"
        );
        let larder = Larder::bare(&yaml).await;
        for host in ["169.254.169.254", "[fd00:ec2::254]", "[::ffff:169.254.169.254]"] {
            assert_every_method_is_denied(&larder, &format!("{host}:80"), "destination-metadata").await;
        }
        // The address of the name does not matter.
        let yaml = format!("{yaml}resolve: {{ metadata.google.internal: \"127.0.0.1:9\" }}\n");
        let larder = Larder::bare(&yaml).await;
        for host in ["metadata.google.internal", "METADATA.google.internal"] {
            assert_every_method_is_denied(&larder, &format!("{host}:80"), "destination-metadata").await;
        }
    }
}

/// Only the C library accepts these spellings of an address; other parsers read another address.
#[tokio::test]
async fn fwd_04_numeric_hosts_that_are_no_addresses_are_refused() {
    let forbidden = Forbidden::at("127.0.0.1:0");
    let dns = Dns::start(|_, _| Vec::new()).await;
    let larder = with_dns("", &dns).await;
    for host in ["2130706433", "0x7f000001", "127.1", "0177.0.0.1", "127.0.0.01"] {
        let answer = get(&larder, &format!("http://{host}:{}/", forbidden.addr().port())).await;
        assert_eq!(answer.status, 400, "{host}: {}", answer.text());
        assert!(answer.text().contains("malformed_target"), "{host}: {}", answer.text());
    }
    forbidden.assert_untouched();
}

/// Runs [`in_a_separate_network_namespace`] in a new network namespace, which has addresses of the
/// kinds that a sandbox lacks. Needs root and iproute2.
#[test]
fn fwd_04_private_and_metadata_addresses_on_the_network_are_guarded() {
    let program = std::env::current_exe().expect("a test runs from a file");
    let set_up = "ip link set lo up && for a in 169.254.169.254/32 10.0.0.1/32 100.64.0.1/32 fd00::1/128 \
                  fd00:ec2::254/128; do ip addr add $a dev lo nodad 2>/dev/null || ip addr add $a dev lo || exit 77; done";
    let script = format!(
        "{set_up}; exec \"$0\" --exact forwarding::in_a_separate_network_namespace --ignored --nocapture"
    );
    let run = Command::new("unshare").args(["-n", "sh", "-c", &script]).arg(&program).output();
    let Ok(output) = run else {
        return skipped("there is no `unshare` here");
    };
    let printed =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if !printed.contains("running 1 test") {
        return skipped(&printed);
    }
    assert!(output.status.success(), "{printed}");
    assert!(printed.contains("1 passed"), "{printed}");
}

#[expect(clippy::print_stderr, reason = "a skipped case is printed by name")]
fn skipped(cause: &str) {
    eprintln!("skipped: FWD-04 on the network: {}", cause.trim());
}

#[tokio::test]
#[ignore = "run by fwd_04_private_and_metadata_addresses_on_the_network_are_guarded, in a new network namespace"]
async fn in_a_separate_network_namespace() {
    let metadata = [Forbidden::at("169.254.169.254:80"), Forbidden::at("[fd00:ec2::254]:80")];
    let private = ["10.0.0.1:80", "100.64.0.1:80", "[fd00::1]:80"];
    let open = "destinations: { allow: [0.0.0.0/0, \"::/0\"] }\n";
    let both = format!("{REACHABLE}{open}");
    for yaml in ["", open, REACHABLE, both.as_str()] {
        let larder = Larder::bare(yaml).await;
        for at in &metadata {
            let authority = at.addr().to_string();
            assert_every_method_is_denied(&larder, &authority, "destination-metadata").await;
            at.assert_untouched();
        }
        for address in private {
            if yaml == REACHABLE {
                let at = Forbidden::at(address);
                assert_every_method_is_denied(&larder, address, "destination-private").await;
                at.assert_untouched();
            } else {
                let origin = TcpListener::bind(address).await.expect("the address was added");
                let url = format!("http://{address}/");
                let request = get(&larder, &url);
                let respond = async {
                    let (mut stream, _) = origin.accept().await.expect("larder connects");
                    read_head(&mut stream).await;
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                    stream.write_all(answer).await.expect("larder reads");
                };
                let (answer, ()) = tokio::join!(request, respond);
                assert_eq!(answer.status, 200, "{address} with {yaml:?}");
            }
        }
    }
    let wildcard = Forbidden::at("0.0.0.0:8080");
    let larder = Larder::bare(&format!("{REACHABLE}destinations: {{ ports: all }}\n")).await;
    assert_every_method_is_denied(&larder, "0.0.0.0:8080", "destination-private").await;
    wildcard.assert_untouched();
}

async fn with_dns(yaml: &str, dns: &Dns) -> Larder {
    let parts = ServerDeps { name_server: Some(dns.addr), ..ServerDeps::default() };
    Larder::with_deps(yaml, parts).await
}

/// Two loopback addresses with the same port: the first is allowed, the second is not.
async fn twins() -> (Origin, Forbidden) {
    loop {
        let origin = Origin::start_at("127.0.0.2:0", |_| MockResponse::new(200, &[], "allowed")).await;
        let twin = std::net::TcpListener::bind(("127.0.0.1", origin.addr.port()));
        if let Ok(listener) = twin {
            listener.set_nonblocking(true).expect("a listener can be made non-blocking");
            return (origin, Forbidden(listener));
        }
    }
}

#[tokio::test]
async fn fwd_05_a_name_that_moves_to_a_denied_address_is_not_dialled() {
    let (origin, forbidden) = twins().await;
    let dns = Dns::start(|_, nth| vec![IpAddr::from([127, 0, 0, if nth == 0 { 2 } else { 1 }])]).await;
    let yaml = format!("{REACHABLE}destinations: {{ allow: [127.0.0.2], ports: all }}\n");
    let larder = with_dns(&yaml, &dns).await;
    let url = format!("http://rebind.example.test:{}/", origin.addr.port());
    assert_eq!(get(&larder, &url).await.text(), "allowed");
    for _ in 0..3 {
        assert_denied(&get(&larder, &url).await, "destination-private");
    }
    let authority = format!("rebind.example.test:{}", origin.addr.port());
    assert_denied(&connect(&larder, &authority).await, "destination-private");
    forbidden.assert_untouched();
    assert_eq!(dns.queried_names().len(), 5, "each request resolves and checks the name");
}

#[tokio::test]
async fn fwd_05_of_a_mixed_dns_response_only_allowed_addresses_are_dialled() {
    let (origin, forbidden) = twins().await;
    let dns = Dns::start(|_, nth| {
        let (good, bad) = (IpAddr::from([127, 0, 0, 2]), IpAddr::from([127, 0, 0, 1]));
        let v6: IpAddr = "::1".parse().expect("an address");
        if nth % 2 == 0 { vec![bad, v6, good] } else { vec![good, bad, v6] }
    })
    .await;
    let yaml = format!("{REACHABLE}destinations: {{ allow: [127.0.0.2], ports: all }}\n");
    let larder = with_dns(&yaml, &dns).await;
    for n in 0..4 {
        // Separate names, so that no pooled connection replaces a look-up or a dial.
        let url = format!("http://mixed-{}.example.test:{}/", n / 2, origin.addr.port());
        assert_eq!(get(&larder, &url).await.text(), "allowed");
    }
    let authority = format!("mixed-9.example.test:{}", origin.addr.port());
    assert_eq!(connect(&larder, &authority).await.status, 200);
    forbidden.assert_untouched();
}

#[tokio::test]
async fn fwd_06_a_redirect_is_relayed_and_not_followed() {
    let forbidden = Forbidden::at("127.0.0.1:0");
    let location = format!("http://{}/", forbidden.addr());
    let field = format!("Location: {location}");
    let origin = Origin::always(MockResponse::new(302, &[&field], "")).await;
    for yaml in [String::new(), route(&["ttl: 1h", "ttl_by_status: { 302: 1h }"])] {
        let larder = Larder::start(&origin, &yaml).await;
        for _ in 0..2 {
            let answer = larder.get("/x").await;
            assert_eq!((answer.status, answer.field("location")), (302, Some(location.as_str())));
        }
    }
    forbidden.assert_untouched();
}

#[tokio::test]
async fn fwd_07_larder_does_not_connect_to_its_own_port() {
    let open = "destinations: { allow: [0.0.0.0/0, \"::/0\"], ports: all }\n";
    for listen in ["", REACHABLE, "listen: [\"127.0.0.1:0\", \"[::1]:0\"]\n"] {
        for routes in ["", EVERYTHING] {
            let larder = Larder::bare(&format!("{listen}{open}{routes}")).await;
            let port = larder.addr().port();
            for host in ["127.0.0.1", "0.0.0.0", "localhost", "LOCALHOST", "[::ffff:127.0.0.1]"] {
                assert_every_method_is_denied(&larder, &format!("{host}:{port}"), "destination-own-port")
                    .await;
            }
            for own in larder.server.addrs().iter().skip(1) {
                assert_every_method_is_denied(&larder, &own.to_string(), "destination-own-port").await;
            }
        }
    }
}

#[tokio::test]
async fn fwd_07_a_request_with_this_larder_in_via_is_refused() {
    let origin = Origin::always(MockResponse::new(200, &[], "ok")).await;
    let larder = Larder::start(&origin, "").await;
    assert_eq!(larder.get("/x").await.status, 200);
    let via = origin.requests()[0].field("via").expect("larder adds its name").to_owned();
    for value in [via.clone(), format!("1.1 other, {via}"), format!("{via}, 1.0 other (comment)")] {
        let answer = larder.get_with("/x", &[&format!("Via: {value}")]).await;
        assert_eq!(answer.status, 508, "{value}");
        assert!(answer.text().contains("\"loop\""), "{}", answer.text());
        let status = answer.field("proxy-status").unwrap();
        assert!(status.contains("error=proxy_loop_detected"), "{status}");
    }
    let (protocol, name) = via.split_once(' ').unwrap();
    // Another larder is no loop, nor is one whose name only starts with this one's.
    for value in ["1.1 larder", "1.1 larder-00000000", &format!("{protocol} {name}x")] {
        let answer = larder.get_with("/x", &[&format!("Via: {value}")]).await;
        assert_eq!(answer.status, 200, "{value}");
    }
    assert_eq!(origin.calls(), 4);
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut bytes).await.expect("larder writes"), 0, "a head");
    }
    String::from_utf8(bytes).expect("a head of text")
}

/// A relay between two larders that can rewrite the origin form to the absolute form.
struct Relay {
    addr: SocketAddr,
    to: Arc<OnceCell<SocketAddr>>,
    passed: Arc<AtomicUsize>,
}

impl Relay {
    async fn start(rewrite: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let (to, passed) = (Arc::new(OnceCell::new()), Arc::new(AtomicUsize::new(0)));
        let (target, count) = (Arc::clone(&to), Arc::clone(&passed));
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let target: SocketAddr = *target.get().expect("set before the first request");
                tokio::spawn(async move {
                    let mut head = read_head(&mut from).await;
                    if rewrite {
                        head = head.replacen(" /", " http://ring.example.test/", 1);
                    }
                    let mut onward = TcpStream::connect(target).await.expect("larder listens");
                    onward.write_all(head.as_bytes()).await.expect("larder reads");
                    let _either_closed = copy_bidirectional(&mut from, &mut onward).await;
                });
            }
        });
        Self { addr, to, passed }
    }
}

/// Two larders, each of which connects to the other one for the API.
#[tokio::test]
async fn fwd_07_a_loop_of_two_ends_when_the_first_finds_its_own_name() {
    for routes in ["", EVERYTHING] {
        let relays = [Relay::start(true).await, Relay::start(true).await];
        let mut larders = Vec::new();
        for relay in &relays {
            let resolve = format!("resolve: {{ ring.example.test: \"{}\" }}\n", relay.addr);
            larders.push(Larder::bare(&format!("{resolve}{routes}")).await);
        }
        relays[0].to.set(larders[1].addr()).unwrap();
        relays[1].to.set(larders[0].addr()).unwrap();
        let answer = get(&larders[0], "http://ring.example.test/x").await;
        assert_eq!(answer.status, 508, "{}", answer.text());
        let passed = relays.map(|relay| relay.passed.load(Ordering::SeqCst));
        assert_eq!(passed, [1, 1], "two hops, then no more");
        assert!((denied(&larders[0], "loop") - 1.0).abs() < 0.1);
    }
}

/// Without the rewrite the second larder receives a request in origin form, which it refuses.
#[tokio::test]
async fn fwd_07_a_larder_that_is_called_as_an_origin_refuses_at_once() {
    let relays = [Relay::start(false).await, Relay::start(false).await];
    let mut larders = Vec::new();
    for relay in &relays {
        let resolve = format!("resolve: {{ ring.example.test: \"{}\" }}\n", relay.addr);
        larders.push(Larder::bare(&resolve).await);
    }
    relays[0].to.set(larders[1].addr()).unwrap();
    relays[1].to.set(larders[0].addr()).unwrap();
    let answer = get(&larders[0], "http://ring.example.test/x").await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().contains("not_a_proxy_request"), "{}", answer.text());
    assert_eq!(relays.map(|relay| relay.passed.load(Ordering::SeqCst)), [1, 0]);
}

#[tokio::test]
async fn fwd_08_the_admin_listener_is_unreachable_through_the_proxy() {
    let open = "destinations: { allow: [0.0.0.0/0, \"::/0\"], ports: all }\n";
    for listen in ["", REACHABLE] {
        let larder = Larder::bare(&format!("{listen}{open}{EVERYTHING}")).await;
        let admin = larder.server.admin_addr().expect("there is an admin listener");
        for path in ["/metrics", "/healthz", "/config", "/v1/purge"] {
            let answer = get(&larder, &format!("http://{admin}{path}")).await;
            assert_denied(&answer, "destination-own-port");
        }
        for host in ["127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]"] {
            let authority = format!("{host}:{}", admin.port());
            assert_every_method_is_denied(&larder, &authority, "destination-own-port").await;
        }
    }
}

#[test]
fn fwd_11_a_reachable_listener_requires_access_clients() {
    for listen in ["0.0.0.0:3128", "[::]:3128", "10.1.2.3:3128"] {
        let yaml = format!("version: 1\nlisten: \"{listen}\"\n");
        let report = config::parse("proxy.yaml", &yaml, &Env::default()).expect_err("refused").to_string();
        assert!(report.contains("would be an open proxy"), "{report}");
        assert!(report.contains("access.clients"), "the fix: {report}");
    }
    let default = config::parse("proxy.yaml", "version: 1\n", &Env::default()).expect("a good file");
    assert!(default.listen.iter().all(|address| address.ip().is_loopback()), "{:?}", default.listen);
}

#[tokio::test]
async fn a_reachable_listener_serves_no_entry_of_a_loopback_listener() {
    let origin = Origin::always(MockResponse::new(200, &[], "private")).await;
    let listen = "listen: [\"127.0.0.1:0\", \"0.0.0.0:0\"]\naccess: { clients: [127.0.0.0/8] }\n";
    let policy = route(&["ttl: 1h", "scope: shared"]);
    let larder = Larder::start(&origin, &format!("{listen}{policy}")).await;
    let url = format!("{API}/x");
    let [loopback, reachable] = larder.server.addrs() else { panic!("two listeners") };
    for _ in 0..2 {
        let answer = Client::connect(*loopback).await.get(&url, &[]).await;
        assert_eq!(answer.text(), "private");
    }
    assert_eq!(origin.calls(), 1, "it is stored");
    let answer = Client::connect(*reachable).await.get(&url, &[]).await;
    assert_eq!((answer.status, answer.text().contains("private\"")), (403, false), "{}", answer.text());
    let only_stored = ["Cache-Control: only-if-cached"];
    let answer = Client::connect(*reachable).await.get(&url, &only_stored).await;
    assert_eq!(answer.status, 504, "{}", answer.text());
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn a_client_outside_access_is_refused_before_it_sends_a_request() {
    let larder = Larder::bare("access: { clients: [10.0.0.0/8] }\n").await;
    let mut client = larder.client().await;
    let answer = timeout(SOON, client.response("GET")).await.expect("the refusal needs no request").unwrap();
    assert_eq!(answer.status, 403);
    assert!(answer.text().contains("\"client_denied\""), "{}", answer.text());
    assert!(timeout(SOON, client.is_closed()).await.unwrap());
    assert!((denied(&larder, "client_denied") - 1.0).abs() < 0.1);
}

#[tokio::test]
async fn a_larder_with_users_serves_only_them_and_forwards_no_password() {
    let origin = Origin::start(|seen| MockResponse::new(200, &[], &seen.target)).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users");
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap();
    file.write_all(b"# users\nann:s3cret\n").unwrap();
    for routes in ["", EVERYTHING] {
        let yaml = format!("access: {{ users_file: {} }}\n{routes}", path.display());
        let larder = Larder::start(&origin, &yaml).await;
        let calls = origin.calls();
        // ann:s3cret, ann:wrong
        let (right, wrong) = ("Basic YW5uOnMzY3JldA==", "Basic YW5uOndyb25n");
        for fields in
            [&[][..], &[format!("Proxy-Authorization: {wrong}")], &[format!("Authorization: {right}")]]
        {
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            let answer = larder.get_with("/x", &fields).await;
            assert_eq!(answer.status, 407, "{fields:?}");
            assert_eq!(answer.field("proxy-authenticate"), Some("Basic realm=\"larder\""));
            assert!(answer.text().contains("\"user_required\""), "{}", answer.text());
        }
        let authority = origin.addr.to_string();
        let tunnel = connect(&larder, &authority).await;
        assert_eq!((tunnel.status, tunnel.field("proxy-authenticate").is_some()), (407, true));
        assert_eq!(origin.calls(), calls);
        assert!((denied(&larder, "user_required") - 4.0).abs() < 0.1);
        let known = format!("Proxy-Authorization: {right}");
        assert_eq!(larder.get_with("/x", &[&known]).await.status, 200);
        let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{known}\r\n\r\n");
        let mut client = larder.client().await;
        client.send(head).await;
        assert_eq!(client.response("CONNECT").await.unwrap().status, 200);
    }
    for seen in origin.requests() {
        assert_eq!(seen.field("proxy-authorization"), None, "{}", seen.raw_head);
    }
}

/// Fields that larder removes from requests and from responses.
const ENDED: [&str; 8] = [
    "x-hop",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
    "proxy-authenticate",
    "proxy-authorization",
];

#[tokio::test]
async fn hop_by_hop_fields_are_removed_in_both_directions() {
    let origin = Origin::always(MockResponse::new(
        200,
        &[
            "Connection: X-Hop, close",
            "X-Hop: 1",
            "Keep-Alive: timeout=5",
            "Proxy-Connection: x",
            "Trailer: X-T",
            "Upgrade: h2c",
            "Proxy-Authenticate: Basic",
            "TE: trailers",
            "X-Kept: yes",
            "Via: 1.0 front",
        ],
        "ok",
    ))
    .await;
    let request = [
        "Connection: X-Hop, keep-alive",
        "X-Hop: 1",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "TE: trailers",
        "Trailer: X-T",
        "Proxy-Authorization: Basic eDp5",
        "X-Kept: yes",
        "Via: 1.0 app",
    ];
    for yaml in [String::new(), route(&["ttl: 1h"])] {
        let larder = Larder::start(&origin, &yaml).await;
        // The second request is a hit if a route caches.
        for _ in 0..2 {
            let answer = larder.get_with("/x", &request).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
            for name in ENDED {
                assert_eq!(answer.field(name), None, "{name} in {:?}", answer.fields);
            }
            assert_eq!(answer.field("x-kept"), Some("yes"));
            let via = answer.all("via").join(", ");
            assert!(via.starts_with("1.0 front, 1.1 larder-"), "{via}");
        }
        let seen = origin.requests().last().cloned().unwrap();
        for name in ENDED {
            assert_eq!(seen.field(name), None, "{name} in {}", seen.raw_head);
        }
        assert_eq!(seen.field("x-kept"), Some("yes"));
        let via: Vec<_> = seen.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case("via")).collect();
        let via = via.iter().map(|(_, v)| v.as_str()).collect::<Vec<_>>().join(", ");
        assert!(via.starts_with("1.0 app, 1.1 larder-"), "{via}");
    }
    assert_eq!(origin.calls(), 3);
}

#[tokio::test]
async fn ipv4_and_ipv6_listeners_serve_from_one_store() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return skipped("this host has no IPv6");
    }
    let origin = Origin::start(|seen| MockResponse::new(200, &[], &seen.target)).await;
    let listen = "listen: [\"127.0.0.1:0\", \"[::1]:0\", \"127.0.0.1:0\"]\n";
    let larder = Larder::start(&origin, &format!("{listen}{}", route(&["ttl: 1h"]))).await;
    assert_eq!(larder.server.addrs().len(), 3);
    assert!(larder.server.addrs()[1].is_ipv6());
    for address in larder.server.addrs() {
        let mut client = Client::connect(*address).await;
        assert_eq!(client.get(&format!("{API}/x"), &[]).await.text(), "/x");
    }
    assert_eq!(origin.calls(), 1, "one store for all listeners");
}

#[tokio::test]
async fn an_origin_at_an_ipv6_address_gets_a_host_field_in_brackets() {
    let Ok(probe) = std::net::TcpListener::bind("[::1]:0") else {
        return skipped("this host has no IPv6");
    };
    drop(probe);
    let origin = Origin::start_at("[::1]:0", |_| MockResponse::new(200, &[], "six")).await;
    for routes in ["", EVERYTHING] {
        let larder = Larder::bare(routes).await;
        assert_eq!(get(&larder, &format!("http://{}/x", origin.addr)).await.text(), "six");
        assert_eq!(connect(&larder, &origin.addr.to_string()).await.status, 200);
    }
    let host = origin.addr.to_string();
    assert!(origin.requests().iter().all(|seen| seen.field("host") == Some(host.as_str())));
}
