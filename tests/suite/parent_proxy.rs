//! Networks whose only way out is a proxy: what larder's parent proxy gets, what never reaches it, and how its
//! refusals are reported.

use std::net::{Ipv4Addr, SocketAddr};

use larder::server::ServerDeps;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::client::{Client, Response};
use crate::concurrent::bounded;
use crate::dns::Dns;
use crate::failing_origin::error_class;
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{MockResponse, Origin};
use crate::parent::{Parent, Script};
use crate::process::{ConfigDir, program, text};
use crate::tls_client::TlsClient;
use crate::tls_origin::{Certificate, Protocols, TestCa, TlsOrigin};

const CREDENTIAL: &str = "user:p%40ss";
/// In lower case, because the case of a field name means nothing.
const AUTHORIZATION: &str = "proxy-authorization: basic dxnlcjpwqhnz\r\n";

/// Dependencies with a name server that knows none of these tests' names, as inside such a network.
async fn without_names() -> (Dns, ServerDeps) {
    let dns = Dns::start(|_, _| Vec::new()).await;
    let deps = ServerDeps { name_server: Some(dns.addr), ..ServerDeps::default() };
    (dns, deps)
}

/// A larder with the parent of the caller's environment.
async fn larder_behind(parent: &Parent, yaml: &str) -> (Dns, Larder) {
    let (dns, deps) = without_names().await;
    let url = format!("http://{CREDENTIAL}@{}", parent.addr);
    let variables = [("http_proxy", url.as_str()), ("HTTPS_PROXY", &url)];
    (dns, Larder::with_variables(yaml, deps, &variables).await)
}

fn unused() -> SocketAddr {
    "127.0.0.1:9".parse().unwrap()
}

async fn get(larder: &Larder, url: &str) -> Response {
    bounded(async { larder.client().await.get(url, &["Proxy-Authorization: Basic Y2xpZW50"]).await }).await
}

#[tokio::test]
async fn plain_requests_reach_the_parent_in_absolute_form() {
    let parent = Parent::start(Script::tunnelling_to(unused())).await;
    let (_dns, larder) = larder_behind(&parent, &route(&["ttl: 1m"])).await;
    for expected in ["fwd=uri-miss", "hit"] {
        let response = get(&larder, &format!("{API}/x?y=1")).await;
        assert_eq!(response.text(), "by the parent");
        assert!(response.cache_status().contains(expected), "{}", response.cache_status());
    }
    // A host without a route passes through.
    assert_eq!(get(&larder, "http://other.example.test/").await.text(), "by the parent");
    assert_eq!(parent.lines(), [format!("GET {API}/x?y=1"), "GET http://other.example.test/".to_owned()]);
    for request in parent.requests() {
        assert_eq!(request.head.to_lowercase().matches("proxy-authorization").count(), 1, "{}", request.head);
        assert!(request.head.to_lowercase().contains(AUTHORIZATION), "{}", request.head);
        assert!(!request.head.contains("Y2xpZW50"), "the client's credential is for larder");
    }
}

#[tokio::test]
async fn an_origin_behind_a_tunnel_gets_no_credential_of_the_parent() {
    let authority = TestCa::new();
    let plain = Origin::always(MockResponse::new(200, &[], "secure")).await;
    let origin = TlsOrigin::in_front_of(&authority, plain.addr).await;
    let parent = Parent::start(Script::tunnelling_to(origin.addr)).await;
    let upstream = format!(
        "upstreams: {{ up: {{ hosts: [\"https://api.example.test\"], tls: {{ extra_roots: [\"{}\"] }} }} }}\n",
        authority.root().display()
    );
    let (_dns, larder) = larder_behind(&parent, &(upstream + &route(&["ttl: 1m"]))).await;
    for path in ["/x", "/y"] {
        let response = get(&larder, &format!("{API}{path}")).await;
        assert_eq!(response.text(), "secure", "{}", response.cache_status());
    }
    assert_eq!(parent.lines(), ["CONNECT api.example.test:443"], "the tunnel is used again");
    assert!(parent.requests()[0].head.to_lowercase().contains(AUTHORIZATION));
    assert!(plain.requests().iter().all(|request| request.field("proxy-authorization").is_none()));
}

#[tokio::test]
async fn a_blind_tunnel_goes_through_the_parent() {
    let authority = TestCa::new();
    let origin = TlsOrigin::start(&authority, Certificate::Good, Protocols::H1, "blind").await;
    let parent = Parent::start(Script::tunnelling_to(origin.addr)).await;
    let (_dns, larder) = larder_behind(&parent, "").await;
    let roots = std::fs::read_to_string(authority.root()).unwrap();
    let client = TlsClient::trusting(larder.addr(), &roots, &[]);
    let mut client = client.http1("secure.example.test").await;
    client.send("GET /x HTTP/1.1\r\nHost: secure.example.test\r\n\r\n").await;
    assert_eq!(client.next_response("GET").await.unwrap().text(), "blind");
    assert_eq!(parent.lines(), ["CONNECT secure.example.test:443"]);
}

#[tokio::test]
async fn a_websocket_over_http_goes_through_a_tunnel() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let parent = Parent::start(Script::tunnelling_to(listener.local_addr().unwrap())).await;
    let (_dns, larder) = larder_behind(&parent, "").await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let switch =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi";
        stream.write_all(switch.as_bytes()).await.unwrap();
        let _end = stream.read_u8().await;
    });
    let mut client = larder.client().await;
    client.send_request("GET", &format!("{API}/ws"), &["Connection: Upgrade", "Upgrade: websocket"]).await;
    bounded(client.read_until("\r\n\r\nhi")).await;
    assert_eq!(parent.lines(), ["CONNECT api.example.test:80"]);
}

#[tokio::test]
async fn socks5h_gets_the_name_and_socks5_the_address() {
    let origin = Origin::always(MockResponse::new(200, &[], "by socks")).await;
    let parent = Parent::start(Script::tunnelling_to(origin.addr)).await;
    let dns = Dns::start(|name, _| match name {
        "api.example.test" => vec![Ipv4Addr::new(192, 0, 2, 7).into()],
        _ => Vec::new(),
    })
    .await;
    for (scheme, credential, target, head) in
        [("socks5h", "user:p%40ss@", "api.example.test:80", "user:p@ss"), ("socks5", "", "192.0.2.7:80", "")]
    {
        let deps = ServerDeps { name_server: Some(dns.addr), ..ServerDeps::default() };
        let yaml = format!("proxy: \"{scheme}://{credential}{}\"\n{}", parent.addr, route(&["ttl: 1m"]));
        let larder = Larder::with_deps(&yaml, deps).await;
        let response = get(&larder, &format!("{API}/x")).await;
        assert_eq!(response.text(), "by socks", "{scheme}: {}", response.cache_status());
        let last = parent.requests().pop().unwrap();
        assert_eq!((last.target.as_str(), last.head.as_str()), (target, head), "{scheme}");
    }
    assert!(origin.requests().iter().all(|request| request.target == "/x"));
}

#[tokio::test]
async fn a_parent_over_tls_is_verified_by_the_callers_roots() {
    let authority = TestCa::new();
    let plain = Parent::start(Script::tunnelling_to(unused())).await;
    let parent = TlsOrigin::in_front_of(&authority, plain.addr).await;
    let url = format!("https://{CREDENTIAL}@{}", parent.addr);
    let root = authority.root();
    for (variable, expected) in [("REQUESTS_CA_BUNDLE", 200), ("UNRELATED", 502)] {
        let (_dns, deps) = without_names().await;
        let variables = [("http_proxy", url.as_str()), (variable, root.to_str().unwrap())];
        let larder = Larder::with_variables(&route(&["ttl: 1m"]), deps, &variables).await;
        let response = get(&larder, &format!("{API}/x")).await;
        assert_eq!(response.status, expected, "{variable}: {}", response.text());
        if expected == 502 {
            assert_eq!(error_class(&response), "parent-proxy-tls");
        }
    }
    assert_eq!(plain.lines(), [format!("GET {API}/x")]);
}

/// A company that inspects TLS issues the certificates of origins itself.
#[tokio::test]
async fn the_callers_roots_are_trusted_for_origins_too() {
    let authority = TestCa::new();
    let origin = TlsOrigin::start(&authority, Certificate::Good, Protocols::H1, "inspected").await;
    let yaml = format!(
        "resolve: {{ api.example.test: \"{}\" }}\nupstreams: {{ up: {{ hosts: [\"https://api.example.test\"] }} }}\n{}",
        origin.addr,
        route(&["ttl: 1m"])
    );
    let root = authority.root();
    for variable in ["NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE"] {
        let variables = [(variable, root.to_str().unwrap())];
        let larder = Larder::with_variables(&yaml, ServerDeps::default(), &variables).await;
        assert_eq!(get(&larder, &format!("{API}/x")).await.text(), "inspected", "{variable}");
    }
    let larder = Larder::bare(&yaml).await;
    assert_eq!(get(&larder, &format!("{API}/x")).await.status, 502);
}

#[tokio::test]
async fn each_refusal_of_the_parent_is_larders_own_502_with_its_class() {
    const AUTHENTICATE: &str =
        "HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\nContent-Length: 5\r\n\r\nlogin";
    const FORBIDDEN: &str = "HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n";
    const UNAVAILABLE: &str = "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n";
    const NOT_HTTP: &str = "SSH-2.0-x\r\n\r\n";
    let https = "upstreams: { up: { hosts: [\"https://api.example.test\"] } }\n";
    for (upstream, response, class) in [
        (https, AUTHENTICATE, "parent-proxy-authentication"),
        ("", AUTHENTICATE, "parent-proxy-authentication"),
        (https, FORBIDDEN, "parent-proxy-refused"),
        (https, UNAVAILABLE, "parent-proxy-no-origin"),
        (https, NOT_HTTP, "parent-proxy-protocol"),
    ] {
        let script = Script::tunnelling_to(unused());
        let parent = Parent::start(Script { to_connect: response, to_requests: response, ..script }).await;
        for routes in [route(&["ttl: 1m"]), String::new()] {
            let (_dns, larder) = larder_behind(&parent, &format!("{upstream}{routes}")).await;
            let response = get(&larder, &format!("{API}/x")).await;
            assert_eq!((response.status, error_class(&response)), (502, class.to_owned()), "{upstream}");
            assert!(response.field("proxy-authenticate").is_none() && !response.text().contains("login"));
        }
    }
}

#[tokio::test]
async fn an_unreachable_parent_is_reported_and_never_bypassed() {
    let origin = Origin::always(MockResponse::new(200, &[], "direct")).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let dns = Dns::start(|_, _| vec![Ipv4Addr::LOCALHOST.into()]).await;
    let deps = ServerDeps { name_server: Some(dns.addr), ..ServerDeps::default() };
    let larder = Larder::with_deps(&format!("proxy: http://{closed}\n{}", route(&["ttl: 1m"])), deps).await;
    let url = format!("http://api.example.test:{}/x", origin.addr.port());
    let response = get(&larder, &url).await;
    assert_eq!((response.status, error_class(&response)), (502, "parent-proxy-unreachable".to_owned()));
    assert_eq!(origin.calls(), 0);
}

#[tokio::test]
async fn exempt_hosts_and_resolve_rules_are_dialled_directly() {
    let origin = Origin::always(MockResponse::new(200, &[], "direct")).await;
    let parent = Parent::start(Script::tunnelling_to(unused())).await;
    let url = format!("http://{}", parent.addr);
    let port = origin.addr.port();
    let dns = Dns::start(|_, _| vec![Ipv4Addr::LOCALHOST.into()]).await;
    let yaml = format!(
        "resolve: {{ ruled.example.test: \"{}\" }}\nupstreams:\n  off: {{ hosts: [off.example.test], proxy: off }}\n  \
         own: {{ hosts: [own.near.example.test], proxy: \"{url}\" }}\n",
        origin.addr
    );
    let variables = [("http_proxy", url.as_str()), ("NO_PROXY", "near.example.test")];
    let deps = ServerDeps { name_server: Some(dns.addr), ..ServerDeps::default() };
    let larder = Larder::with_variables(&yaml, deps, &variables).await;
    for (host, expected) in [
        ("ruled.example.test", "direct"),
        ("off.example.test", "direct"),
        ("a.near.example.test", "direct"),
        ("localhost", "direct"),
        ("127.0.0.1", "direct"),
        ("own.near.example.test", "by the parent"),
        ("far.example.test", "by the parent"),
    ] {
        assert_eq!(get(&larder, &format!("http://{host}:{port}/x")).await.text(), expected, "{host}");
    }
}

#[tokio::test]
async fn fwd_04_only_permitted_destinations_are_sent_to_the_parent() {
    let parent = Parent::start(Script::tunnelling_to(unused())).await;
    let dns = Dns::start(|name, _| match name {
        "private.example.test" => vec![Ipv4Addr::new(10, 0, 0, 1).into()],
        // One public address does not excuse the private one: the parent chooses between them.
        "both.example.test" => vec![Ipv4Addr::new(192, 0, 2, 7).into(), Ipv4Addr::new(10, 0, 0, 1).into()],
        "cloud.example.test" => vec![Ipv4Addr::new(169, 254, 169, 254).into()],
        "public.example.test" => vec![Ipv4Addr::new(93, 184, 216, 34).into()],
        _ => Vec::new(),
    })
    .await;
    let yaml = format!(
        "listen: 0.0.0.0:0\naccess: {{ clients: [127.0.0.0/8] }}\nproxy: http://{}\n\
         destinations: {{ allow: [listed.example.test], deny: [denied.example.test] }}\n",
        parent.addr
    );
    let deps = ServerDeps { name_server: Some(dns.addr), ..ServerDeps::default() };
    let larder = Larder::with_deps(&yaml, deps).await;
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), larder.addr().port());
    for (host, status) in [
        ("private.example.test", 403),
        ("both.example.test", 403),
        ("cloud.example.test", 403),
        ("169.254.169.254", 403),
        ("10.0.0.1", 403),
        ("metadata.google.internal", 403),
        ("denied.example.test", 403),
        ("unlisted.example.test", 403),
        ("public.example.test:22", 403),
        ("listed.example.test", 200),
        ("public.example.test", 200),
    ] {
        let response =
            bounded(async { Client::connect(address).await.get(&format!("http://{host}/"), &[]).await });
        assert_eq!(response.await.status, status, "{host}");
    }
    assert_eq!(parent.lines(), ["GET http://listed.example.test/", "GET http://public.example.test/"]);
}

#[tokio::test]
async fn fwd_04_metadata_and_numbers_are_never_sent_to_the_parent() {
    let parent = Parent::start(Script::tunnelling_to(unused())).await;
    let (_dns, larder) = larder_behind(&parent, "").await;
    let hosts = [
        "169.254.169.254",
        "metadata.google.internal",
        "0xa9fea9fe",
        "2852039166",
        "a.0xa9fea9fe",
        "169.254.169.254.nip.io",
        "a9fea9fe.nip.io",
    ];
    for host in hosts {
        let status = get(&larder, &format!("http://{host}/")).await.status;
        assert!([400, 403, 502].contains(&status), "{host}: {status}");
    }
    assert_eq!(parent.lines(), [""; 0]);
}

/// A rule about networks cannot judge a name that only the parent can look up.
#[tokio::test]
async fn with_a_denied_network_unresolved_names_need_to_be_allowed() {
    let parent = Parent::start(Script::tunnelling_to(unused())).await;
    let rules = "destinations: { deny: [10.0.0.0/8], allow: [listed.example.test] }\n";
    let (_dns, larder) = larder_behind(&parent, rules).await;
    for host in ["10.0.0.5.nip.io", "unlisted.example.test"] {
        let refused = get(&larder, &format!("http://{host}/")).await;
        assert_eq!(refused.status, 403, "{host}: {}", refused.text());
    }
    assert_eq!(parent.lines(), [""; 0]);
    get(&larder, "http://listed.example.test/").await;
    assert_eq!(parent.lines().len(), 1);
}

#[tokio::test]
async fn a_parent_that_resolves_to_larder_is_ignored() {
    let origin = Origin::always(MockResponse::new(200, &[], "direct")).await;
    let larder = Larder::bare("").await;
    let yaml = format!(
        "resolve: {{ me.example.test: \"{}\" }}\nproxy: http://me.example.test:3128\n",
        larder.addr()
    );
    larder.reload_bare(&yaml).await.unwrap();
    let url = format!("http://0.0.0.0:{}/x", origin.addr.port());
    assert_eq!(get(&larder, &url).await.text(), "direct");
}

#[tokio::test]
async fn a_stale_response_is_served_while_the_parent_is_down() {
    let to_requests = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 13\r\n\r\nby the parent";
    let parent = Parent::start(Script { to_requests, ..Script::tunnelling_to(unused()) }).await;
    let yaml = route(&["ttl: 1m", "stale_if_error: { for: 1h, on: [connect] }"]);
    let (_dns, larder) = larder_behind(&parent, &yaml).await;
    assert_eq!(get(&larder, &format!("{API}/x")).await.text(), "by the parent");
    drop(parent);
    larder.clock.advance(std::time::Duration::from_secs(120));
    let response = get(&larder, &format!("{API}/x")).await;
    assert_eq!(response.text(), "by the parent");
    assert!(response.cache_status().contains("stale-if-error"), "{}", response.cache_status());
}

/// The proxy of the caller's environment is larder's parent, and its credential is printed nowhere.
#[tokio::test]
async fn exec_check_and_run_name_the_parent_without_its_credential() {
    let parent = Parent::start(Script::tunnelling_to(unused())).await;
    let config = ConfigDir::with(&format!("version: 1\nlisten: 127.0.0.1:0\n{}", route(&["ttl: 1m"])));
    let url = format!("http://{CREDENTIAL}@{}", parent.addr);
    let run = async |arguments: &[&str]| {
        let mut command = Command::new(program());
        command.args(arguments).env("http_proxy", &url).env("HTTPS_PROXY", &url).env_remove("NO_PROXY");
        command.env_remove("no_proxy").env("XDG_CACHE_HOME", config.directory.path()).kill_on_drop(true);
        let output = bounded(command.output()).await.unwrap();
        text(&output.stdout) + &text(&output.stderr)
    };
    let file = config.config.to_str().unwrap();
    let script = "import urllib.request as u; print(u.urlopen('http://api.example.test/x').read().decode())";
    let printed = run(&["exec", "--config", file, "--", "python3", "-c", script]).await;
    let masked = format!("http://***@{}", parent.addr);
    assert!(printed.contains("by the parent") && printed.contains(&masked), "{printed}");
    assert_eq!(parent.lines(), ["GET http://api.example.test/x"]);
    assert!(parent.requests()[0].head.to_lowercase().contains(AUTHORIZATION));
    let checked = run(&["check", file]).await;
    assert!(checked.contains(&format!("parent proxy    {masked}")), "{checked}");
    for output in [printed, checked] {
        assert!(
            !output.contains("p%40ss") && !output.contains("p@ss") && !output.contains("dXNl"),
            "{output}"
        );
    }
}
