//! Authentication of a connection (NTLM, Negotiate): an authenticated connection serves only the client that
//! signed in on it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use h2::Reason;
use http::Request;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::client::{Client, Response};
use crate::concurrent::bounded;
use crate::intercepted::{self, InterceptionSetup, h2_over, is_h2};
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Gate, MockResponse, Origin, ReceivedRequest, Step};
use crate::process::Process;

/// A host that no route matches.
const OTHER: &str = "http://other.example.test";

/// An origin that authenticates connections: a first step, a challenge, then a user name.
#[derive(Default)]
struct ConnectionAuth {
    started: HashSet<usize>,
    users: HashMap<usize, String>,
}

impl ConnectionAuth {
    fn answer(&mut self, seen: &ReceivedRequest) -> MockResponse {
        let credentials = seen.field("authorization").unwrap_or_default();
        let connection = seen.connection;
        if credentials.ends_with(" one") {
            self.started.insert(connection);
        } else if let Some((_, name)) = credentials.split_once(" three ")
            && self.started.contains(&connection)
        {
            self.users.insert(connection, name.to_owned());
        }
        if let Some(name) = self.users.get(&connection) {
            let body = if seen.method == "HEAD" { "" } else { name };
            return MockResponse::new(200, &["Cache-Control: public, max-age=600", "ETag: \"1\""], body);
        }
        let challenge = match credentials.split_once(' ') {
            Some((scheme, _)) => format!("WWW-Authenticate: {scheme} two"),
            None => "WWW-Authenticate: Negotiate, NTLM".to_owned(),
        };
        MockResponse::new(401, &[&challenge], "sign in")
    }
}

async fn authenticating_origin() -> Origin {
    let state = Arc::new(Mutex::new(ConnectionAuth::default()));
    Origin::start(move |seen| state.lock().answer(seen)).await
}

/// A larder with `policy` for the API and no route for the other host; both resolve to `origin`.
async fn larder(origin: &Origin, policy: &[&str]) -> Larder {
    let to = format!("'{}'", origin.addr);
    let resolve = format!("resolve: {{ api.example.test: {to}, other.example.test: {to} }}\n");
    Larder::bare(&format!("{resolve}{}", route(policy))).await
}

/// Signs `name` in at `url` and checks the response to every step.
async fn sign_in<S: AsyncRead + AsyncWrite + Unpin>(
    client: &mut Client<S>,
    url: &str,
    scheme: &str,
    name: &str,
) {
    for (step, status) in [("", 401), ("one", 401), (&*format!("three {name}"), 200)] {
        let field = format!("Authorization: {scheme} {step}");
        let fields: &[&str] = if step.is_empty() { &[] } else { &[&field] };
        let answer = client.get(url, fields).await;
        assert_eq!(answer.status, status, "{url} {step}: {}", answer.text());
        if status == 401 {
            let support = answer.field("proxy-support");
            assert_eq!(support, Some("Session-Based-Authentication"), "{url} {step}");
        } else {
            assert_eq!(answer.text(), name, "{url}");
        }
    }
}

/// Checks that a new connection to `url` is not authenticated.
async fn requires_sign_in(larder: &Larder, url: &str) {
    let mut client = larder.client().await;
    for method in ["GET", "HEAD", "POST"] {
        client.send_request(method, url, &["Content-Length: 0"]).await;
        let answer = client.response(method).await.expect("an answer");
        assert_eq!(answer.status, 401, "{method} {url}: {}", answer.text());
    }
}

#[tokio::test]
async fn an_authenticated_connection_is_not_shared_and_nothing_is_stored() {
    for policy in [&["ttl: 1h"][..], &["ttl: 1h", "scope: shared", "ttl_by_status: { 401: 1h }"]] {
        let origin = authenticating_origin().await;
        let larder = larder(&origin, policy).await;
        for (base, scheme) in [(API, "NTLM"), (API, "negotiate"), (OTHER, "NTLM")] {
            let url = format!("{base}/me");
            let (mut alice, mut bob) = (larder.client().await, larder.client().await);
            sign_in(&mut alice, &url, scheme, "alice").await;
            requires_sign_in(&larder, &url).await;
            sign_in(&mut bob, &url, scheme, "bob").await;
            // After the sign-in no request needs credentials.
            for (client, name) in [(&mut alice, "alice"), (&mut bob, "bob")] {
                for path in ["/me", "/me?other", "/me"] {
                    let answer = client.get(&format!("{base}{path}"), &[]).await;
                    assert_eq!((answer.status, answer.text().as_str()), (200, name), "{path}");
                    assert!(!answer.cache_status().contains("; hit"), "{}", answer.cache_status());
                }
                client.send_request("HEAD", &url, &[]).await;
                assert_eq!(client.response("HEAD").await.expect("an answer").status, 200);
            }
            requires_sign_in(&larder, &url).await;
            drop((alice, bob));
            requires_sign_in(&larder, &url).await;
        }
        assert!(larder.metric("larder_entries{tier=\"memory\"}") < 0.5);
    }
}

/// The end of an idle connection, which the origin performs when the test triggers it.
#[derive(Clone)]
struct ConnectionEnd {
    bytes: &'static [u8],
    now: Gate,
    done: Gate,
}

impl ConnectionEnd {
    fn new(bytes: &'static [u8]) -> Self {
        Self { bytes, now: Gate::new(), done: Gate::new() }
    }

    fn steps(&self) -> Vec<Step> {
        let done = self.done.clone();
        let mut steps = vec![Step::Wait(self.now.clone()), Step::Write(self.bytes.to_vec())];
        steps.push(Step::Do(Arc::new(move || done.open())));
        // The close follows before any other task runs; after unsolicited bytes the connection stays open.
        steps.push(if self.bytes.is_empty() { Step::Close } else { Step::Hang });
        steps
    }

    /// Performs the end and waits until it is done.
    async fn trigger(&self) {
        self.now.open();
        self.done.wait_open().await;
    }
}

async fn origin_that_ends(ending: ConnectionEnd) -> Origin {
    let state = Mutex::new(ConnectionAuth::default());
    Origin::start(move |seen| match &*seen.target {
        "/last" => state.lock().answer(seen).then(ending.steps()),
        "/closed" => MockResponse::closed(),
        "/bye" => MockResponse::new(200, &["Connection: close"], "bye"),
        "/open" => MockResponse::new(200, &["Cache-Control: public, max-age=600"], "anybody"),
        _ => state.lock().answer(seen),
    })
    .await
}

/// Checks that larder requires a new sign-in: it responds with 401 and closes the connection.
async fn must_sign_in_again(client: &mut Client, method: &str, url: &str) {
    client.send_request(method, url, &["Content-Length: 0"]).await;
    let answer = client.response(method).await.expect("an answer");
    assert_eq!(answer.status, 401, "{method} {url}: {}", answer.text());
    assert_eq!(answer.field("www-authenticate"), Some("NTLM"));
    assert_eq!(answer.field("proxy-support"), Some("Session-Based-Authentication"));
    assert_eq!(answer.field("connection"), Some("close"));
    assert_eq!(answer.field("cache-status"), Some("larder"));
    assert!(answer.field("proxy-status").is_some_and(|status| status.contains("signed_out")));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn requests_of_a_signed_in_client_are_forwarded_as_they_are() {
    let origin = authenticating_origin().await;
    let larder = larder(&origin, &["ttl: 1h"]).await;
    let mut client = larder.client().await;
    let url = format!("{API}/me");
    sign_in(&mut client, &url, "NTLM", "alice").await;
    for (field, forwarded) in
        [("Accept-Encoding: deflate, gzip;q=0.5", Some("deflate, gzip;q=0.5")), ("Accept: */*", None)]
    {
        for method in ["GET", "POST"] {
            client.send_request(method, &url, &[field, "Content-Length: 0"]).await;
            let answer = client.response(method).await.expect("an answer");
            let reason = if method == "GET" { "fwd=bypass" } else { "fwd=method" };
            assert!(answer.cache_status().contains(reason), "{method} {}", answer.cache_status());
            let seen = origin.requests().pop().expect("a request");
            assert_eq!(seen.field("accept-encoding"), forwarded, "{method} {field}");
        }
    }
}

#[tokio::test]
async fn a_lost_sign_in_requires_a_new_one_and_makes_no_call() {
    let unsolicited = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbob";
    for (bytes, base) in [(&b""[..], API), (b"", OTHER), (unsolicited, API)] {
        for (method, path) in [("GET", "/me"), ("HEAD", "/me"), ("POST", "/me"), ("GET", "/open")] {
            let ending = ConnectionEnd::new(bytes);
            let origin = origin_that_ends(ending.clone()).await;
            let larder = larder(&origin, &["ttl: 1h", "scope: shared"]).await;
            // The public response is stored, but it is not served on an authenticated connection.
            let open = larder.client().await.get(&format!("{base}/open"), &[]).await;
            assert_eq!(open.text(), "anybody");
            let mut alice = larder.client().await;
            sign_in(&mut alice, &format!("{base}/me"), "ntlm", "alice").await;
            assert_eq!(alice.get(&format!("{base}/last"), &[]).await.text(), "alice");
            ending.trigger().await;
            let (calls, url) = (origin.calls(), format!("{base}{path}"));
            must_sign_in_again(&mut alice, method, &url).await;
            assert_eq!(origin.calls(), calls, "no call was made");
            let mut alice = larder.client().await;
            sign_in(&mut alice, &format!("{base}/me"), "NTLM", "alice").await;
            assert_eq!(alice.get(&format!("{base}/me"), &[]).await.text(), "alice");
        }
    }
}

#[tokio::test]
async fn a_request_with_credentials_is_forwarded_after_a_lost_sign_in() {
    let ending = ConnectionEnd::new(b"");
    let origin = origin_that_ends(ending.clone()).await;
    let larder = larder(&origin, &["ttl: 1h"]).await;
    let mut alice = larder.client().await;
    sign_in(&mut alice, &format!("{API}/me"), "NTLM", "alice").await;
    assert_eq!(alice.get(&format!("{API}/last"), &[]).await.text(), "alice");
    ending.trigger().await;
    let answer = alice.get(&format!("{API}/me"), &["Authorization: Basic YTpi"]).await;
    assert_eq!((answer.status, answer.text().as_str()), (401, "sign in"), "the response of the origin");
    // A request to another origin, where no user had signed in, is also forwarded.
    assert_eq!(alice.get(&format!("{OTHER}/open"), &[]).await.text(), "anybody");
    for (step, status) in [("one", 401), ("three alice", 200)] {
        let field = format!("Authorization: NTLM {step}");
        assert_eq!(alice.get(&format!("{API}/me"), &[&field]).await.status, status);
    }
    assert_eq!(alice.get(&format!("{API}/me"), &[]).await.text(), "alice");
}

/// The POST was sent; larder cannot determine whether the origin processed it.
#[tokio::test]
async fn a_post_that_loses_the_sign_in_at_the_origin_is_not_retried() {
    let origin = origin_that_ends(ConnectionEnd::new(b"")).await;
    let larder = larder(&origin, &["ttl: 1h"]).await;
    for base in [API, OTHER] {
        let url = format!("{base}/closed");
        let mut alice = larder.client().await;
        sign_in(&mut alice, &format!("{base}/me"), "NTLM", "alice").await;
        alice.send_request("POST", &url, &["Content-Length: 0"]).await;
        assert_eq!(alice.response("POST").await.expect("an answer").status, 502);
        assert!(alice.is_closed().await);
        let mut alice = larder.client().await;
        sign_in(&mut alice, &format!("{base}/me"), "NTLM", "alice").await;
        must_sign_in_again(&mut alice, "GET", &url).await;
    }
}

#[tokio::test]
async fn a_close_by_the_origin_also_closes_the_authenticated_client_connection() {
    let origin = origin_that_ends(ConnectionEnd::new(b"")).await;
    let larder = larder(&origin, &["ttl: 1h"]).await;
    let mut alice = larder.client().await;
    let answer = alice.get(&format!("{API}/bye"), &[]).await;
    assert_ne!(answer.field("connection"), Some("close"), "a connection without a sign-in");
    sign_in(&mut alice, &format!("{API}/me"), "NTLM", "alice").await;
    let answer = alice.get(&format!("{API}/bye"), &[]).await;
    assert_eq!((answer.text().as_str(), answer.field("connection")), ("bye", Some("close")));
    assert!(alice.is_closed().await);
}

/// A signed-in client does not receive a public stored response, not even during a cooldown.
#[tokio::test]
async fn a_signed_in_client_gets_no_head_from_the_store_during_a_cooldown() {
    let state = Mutex::new(ConnectionAuth::default());
    let origin = Origin::start(move |seen| match &*seen.target {
        "/open" => MockResponse::new(200, &["Cache-Control: public, max-age=60"], "anybody"),
        "/busy" => MockResponse::new(429, &["Retry-After: 3000"], ""),
        _ => state.lock().answer(seen),
    })
    .await;
    let larder = larder(&origin, &["scope: shared", "stale_if_error: { for: 24h }"]).await;
    let (mut alice, mut other) = (larder.client().await, larder.client().await);
    sign_in(&mut alice, &format!("{API}/me"), "NTLM", "alice").await;
    let url = format!("{API}/open");
    other.get(&url, &[]).await;
    larder.clock.advance(Duration::from_secs(120));
    assert_eq!(other.get(&format!("{API}/busy"), &[]).await.status, 429);
    let calls = origin.calls();
    for (client, status) in [(&mut other, 200), (&mut alice, 429)] {
        client.send_request("HEAD", &url, &[]).await;
        assert_eq!(client.response("HEAD").await.expect("an answer").status, status);
    }
    assert_eq!(origin.calls(), calls, "the cooldown blocks the call");
}

/// A reload may change the trusted certificates and the permitted destinations.
#[tokio::test]
async fn a_reload_that_changes_how_an_origin_is_reached_ends_its_sign_ins() {
    let origin = authenticating_origin().await;
    let larder = larder(&origin, &["ttl: 1h"]).await;
    let url = format!("{API}/me");
    let (mut alice, mut bob) = (larder.client().await, larder.client().await);
    sign_in(&mut alice, &url, "NTLM", "alice").await;
    let to = |more: &str| format!("resolve: {{ api.example.test: '{}' }}\n{more}", origin.addr);
    larder.reload_bare(&to(&route(&["ttl: 2h"]))).await.expect("it is valid");
    must_sign_in_again(&mut alice, "GET", &url).await;
    sign_in(&mut bob, &url, "NTLM", "bob").await;
    larder.reload_bare(&to(&route(&["ttl: 3h"]))).await.expect("it is valid");
    assert_eq!(bob.get(&url, &[]).await.text(), "bob", "the origin is reached as before");
    let upstream = "upstreams: { api: { hosts: [api.example.test] } }\n";
    larder.reload_bare(&to(upstream)).await.expect("it is valid");
    must_sign_in_again(&mut bob, "POST", &url).await;
}

#[tokio::test]
async fn responses_with_other_schemes_are_stored_as_usual() {
    let answer = ["Cache-Control: max-age=600", "WWW-Authenticate: Basic realm=\"NTLM\""];
    let origin = Origin::always(MockResponse::new(200, &answer, "kept")).await;
    let larder = larder(&origin, &["ttl: 1h"]).await;
    let mut client = larder.client().await;
    for hit in [false, true] {
        let answer: Response = client.get(&format!("{API}/x"), &["Authorization: Basic TlRMTTo="]).await;
        assert_eq!(answer.cache_status().contains("; hit"), hit);
        assert_eq!(answer.field("proxy-support"), None);
    }
}

#[tokio::test]
async fn streams_of_one_connection_share_no_sign_in() {
    let scene =
        InterceptionSetup::start(authenticating_origin().await, &route(&["ttl: 1h", "scope: shared"])).await;
    let mut h2 = scene.h2().await;
    let url = format!("https://{}/me", intercepted::API);
    for step in ["NTLM one", "NTLM three alice"] {
        let request = Request::get(&url).header("authorization", step);
        let (status, _, _) = intercepted::send(&mut h2, request, None).await;
        // Each call has its own connection, so no sign-in gets beyond the first step.
        assert_eq!(status, 401, "{step}");
    }
    assert_eq!(intercepted::get(&mut h2, &url).await.0, 401);
    assert_eq!(scene.origin.connections(), 3);
}

/// Idle connections are closed for new calls, and a lack of descriptors is no failure of an origin.
#[tokio::test]
async fn idle_sign_ins_yield_descriptors_and_a_lack_is_no_failure_of_the_origin() {
    bounded(async {
        let state = Mutex::new(ConnectionAuth::default());
        let origin = Origin::start(move |seen| match &*seen.target {
            "/open" => MockResponse::new(200, &[], "anybody"),
            _ => state.lock().answer(seen),
        })
        .await;
        let hosts = ["a", "b", "c", "d", "e", "f", "g"].map(|name| format!("{name}.example.test"));
        let to = |host: &String| format!("{host}: '{}'", origin.addr);
        let resolve = hosts.iter().map(to).collect::<Vec<_>>().join(", ");
        let (process, _config_dir) = Process::run(&format!(
            "version: 1\nlisten: 127.0.0.1:0\nadmin: off\nstore: {{ disk: off }}\n\
             resolve: {{ {resolve} }}\nupstreams: {{ all: {{ hosts: ['*.example.test'], \
             breaker: {{ failures: 1, within: 1m, open_for: 10m }} }} }}\n"
        ))
        .await;
        let proxy = process.addr().await;
        let url = |host: &str| format!("http://{host}/me");
        let mut alice = Client::connect(proxy).await;
        for host in &hosts[..2] {
            sign_in(&mut alice, &url(host), "NTLM", "alice").await;
        }
        let mut others = [Client::connect(proxy).await, Client::connect(proxy).await];
        for other in &mut others {
            // These clients do not sign in; the request ensures that larder has accepted their connections.
            assert_eq!(other.get(&format!("http://{}/open", hosts[6]), &[]).await.status, 200);
        }
        process.limit_open_files(process.next_fd());
        // The longest idle connection is closed first, then the other one; each call keeps its descriptor.
        for (other, host) in others.iter_mut().zip(&hosts[2..4]) {
            assert_eq!(other.get(&url(host), &["Authorization: NTLM one"]).await.status, 401);
        }
        assert_eq!(alice.get(&url(&hosts[4]), &["Authorization: NTLM one"]).await.status, 401);
        // The limit is so low that closing an idle connection does not help.
        process.limit_open_files(8);
        let answer = others[0].get(&url(&hosts[5]), &["Authorization: NTLM one"]).await;
        assert_eq!((answer.status, answer.text().contains("LimitNOFILE")), (503, true));
        process.limit_open_files(1024);
        let answer = others[1].get(&url(&hosts[5]), &["Authorization: NTLM one"]).await;
        assert_eq!(answer.status, 401, "{}", answer.text());
        // The client whose sign-in was lost must sign in again; it is not treated as anonymous.
        must_sign_in_again(&mut alice, "POST", &url(&hosts[0])).await;
    })
    .await;
}

const INTERCEPTED: &str = "https://api.example.test/me";

/// Waits until a connection accepts no further requests.
async fn until_drained(h2: &intercepted::H2) {
    bounded(async {
        while h2.clone().ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// HTTP/2 comes from the interception only: the origin may not support it, and clients sign in over HTTP/1.
#[tokio::test]
async fn a_challenge_over_http_2_makes_the_next_connection_http_1() {
    for yaml in [route(&["ttl: 1h"]), "tls: { intercept: [api.example.test] }\n".to_owned()] {
        for scheme in ["NTLM", "Negotiate"] {
            let scene = InterceptionSetup::start(authenticating_origin().await, &yaml).await;
            let mut h2 = h2_over(scene.connect_any_version().await).await;
            let (answer, _) = intercepted::head(&mut h2, Request::get(INTERCEPTED));
            let answer = bounded(answer).await.expect("the challenge itself is forwarded");
            assert_eq!(answer.status(), 401);
            assert_eq!(answer.headers()["www-authenticate"], "Negotiate, NTLM");
            let (mut read, mut body) = (answer.into_body(), Vec::new());
            while let Some(piece) = bounded(read.data()).await {
                body.extend_from_slice(&piece.expect("a whole body"));
            }
            assert_eq!(body, b"sign in");
            // The connection is closed to new requests with the end of the response.
            assert!(h2.clone().ready().await.is_err(), "the connection accepts further requests");
            let next = scene.connect_any_version().await;
            assert!(!is_h2(&next));
            let mut alice = Client::over(next);
            sign_in(&mut alice, INTERCEPTED, scheme, "alice").await;
            assert_eq!(alice.get(INTERCEPTED, &[]).await.text(), "alice");
            let mut other = Client::over(scene.connect_any_version().await);
            assert_eq!(other.get(INTERCEPTED, &[]).await.status, 401);
        }
    }
}

/// RFC 9113 §7. The challenge would apply to a connection that the client does not have.
#[tokio::test]
async fn a_sign_in_step_over_http_2_must_be_repeated_over_http_1() {
    let scene = InterceptionSetup::start(authenticating_origin().await, &route(&["ttl: 1h"])).await;
    let mut h2 = h2_over(scene.connect_any_version().await).await;
    let first = || Request::get(INTERCEPTED).header("authorization", "NTLM one");
    let (answer, _) = intercepted::head(&mut h2, first());
    let reset = bounded(answer).await.expect_err("no answer");
    assert_eq!(reset.reason(), Some(Reason::HTTP_1_1_REQUIRED));
    assert!(!is_h2(&scene.connect_any_version().await));
    // The connection accepts requests until a response on it requires a sign-in.
    assert_eq!(intercepted::get(&mut h2, INTERCEPTED).await.0, 401);
    until_drained(&h2).await;
    // A sign-in that completes in one step (Kerberos) is forwarded unchanged.
    scene.origin.set_script(|_| MockResponse::new(200, &["WWW-Authenticate: Negotiate done"], "alice"));
    let mut h2 = scene.h2().await;
    let single_step = Request::get(INTERCEPTED).header("authorization", "Negotiate ticket");
    assert_eq!(intercepted::send(&mut h2, single_step, None).await.0, 200);
    assert!(bounded(h2.ready()).await.is_ok());
}

#[tokio::test]
async fn a_client_that_supports_only_http_2_is_not_rejected() {
    let scene = InterceptionSetup::start(authenticating_origin().await, &route(&["ttl: 1h"])).await;
    let mut h2 = scene.h2().await;
    for _ in 0..3 {
        assert_eq!(intercepted::get(&mut h2, INTERCEPTED).await.0, 401);
    }
    // Another client may have marked the host meanwhile; this client still offers only HTTP/2.
    until_drained(&{
        let mut both = h2_over(scene.connect_any_version().await).await;
        assert_eq!(intercepted::get(&mut both, INTERCEPTED).await.0, 401);
        both
    })
    .await;
    assert!(!is_h2(&scene.connect_any_version().await));
    assert_eq!(intercepted::get(&mut scene.h2().await, INTERCEPTED).await.0, 401);
    assert_eq!(intercepted::get(&mut h2, INTERCEPTED).await.0, 401);
}

#[tokio::test]
async fn a_reload_keeps_the_hosts_that_authenticate_connections() {
    let scene = InterceptionSetup::start(authenticating_origin().await, &route(&["ttl: 1h"])).await;
    let mut h2 = h2_over(scene.connect_any_version().await).await;
    assert_eq!(intercepted::get(&mut h2, INTERCEPTED).await.0, 401);
    scene.reload(&route(&["ttl: 2h"])).await;
    assert!(!is_h2(&scene.connect_any_version().await));
}

/// A 401 with another scheme does not mark the host.
#[tokio::test]
async fn other_schemes_keep_http_2() {
    let challenge = ["WWW-Authenticate: Basic realm=\"NTLM\", Bearer"];
    let scene = InterceptionSetup::caching(MockResponse::new(401, &challenge, "sign in")).await;
    let mut h2 = h2_over(scene.connect_any_version().await).await;
    for _ in 0..2 {
        assert_eq!(intercepted::get(&mut h2, INTERCEPTED).await.0, 401);
    }
    assert!(is_h2(&scene.connect_any_version().await));
}

/// No list of schemes is complete: an unknown scheme may authenticate a connection too.
#[tokio::test]
async fn a_connection_that_used_an_unknown_scheme_is_not_shared() {
    let users = Mutex::new(HashMap::<usize, String>::new());
    let origin = Origin::start(move |seen| {
        let mut users = users.lock();
        if let Some(name) = seen.field("authorization") {
            users.insert(seen.connection, name.to_owned());
        }
        match users.get(&seen.connection) {
            Some(name) => MockResponse::new(200, &[], name),
            None => MockResponse::new(401, &["WWW-Authenticate: Zork"], ""),
        }
    })
    .await;
    let larder = larder(&origin, &["ttl: 1h"]).await;
    for (base, path) in [(API, "/me"), (OTHER, "/me"), (API, "/other"), (OTHER, "/other")] {
        let url = format!("{base}{path}");
        for name in ["Zork alice", "Zork bob", "c0ffee"] {
            let mut client = larder.client().await;
            let answer = client.get(&url, &[&format!("Authorization: {name}")]).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, name), "{url}");
        }
        requires_sign_in(&larder, &url).await;
    }
    // Two hosts, three credentials and none: only connections with the same credential are reused.
    assert_eq!(origin.connections(), 8);
}
