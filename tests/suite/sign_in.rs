//! Sign-ins that count for a connection (NTLM, Negotiate): who signs in on it is the only one it answers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use h2::Reason;
use http::Request;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::client::{Client, Response};
use crate::crowd::bounded;
use crate::intercepted::{self, Scene, h2_over, is_h2};
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Answer, Gate, Origin, Seen, Step};
use crate::process::Process;

/// No route leads here.
const OTHER: &str = "http://other.example.test";

/// Signs users in by connection: a first step, a challenge, and then a name.
#[derive(Default)]
struct Windows {
    begun: HashSet<usize>,
    users: HashMap<usize, String>,
}

impl Windows {
    fn answer(&mut self, seen: &Seen) -> Answer {
        let given = seen.field("authorization").unwrap_or_default();
        let connection = seen.connection;
        if given.ends_with(" one") {
            self.begun.insert(connection);
        } else if let Some((_, name)) = given.split_once(" three ")
            && self.begun.contains(&connection)
        {
            self.users.insert(connection, name.to_owned());
        }
        if let Some(name) = self.users.get(&connection) {
            let body = if seen.method == "HEAD" { "" } else { name };
            return Answer::new(200, &["Cache-Control: public, max-age=600", "ETag: \"1\""], body);
        }
        let challenge = match given.split_once(' ') {
            Some((scheme, _)) => format!("WWW-Authenticate: {scheme} two"),
            None => "WWW-Authenticate: Negotiate, NTLM".to_owned(),
        };
        Answer::new(401, &[&challenge], "who?")
    }
}

async fn windows() -> Origin {
    let state = Arc::new(Mutex::new(Windows::default()));
    Origin::start(move |seen| state.lock().answer(seen)).await
}

/// `policy` for the API; nothing for the other host, which the same origin answers.
async fn larder(origin: &Origin, policy: &[&str]) -> Larder {
    let to = format!("'{}'", origin.addr);
    let resolve = format!("resolve: {{ api.example.test: {to}, other.example.test: {to} }}\n");
    Larder::bare(&format!("{resolve}{}", route(policy))).await
}

/// Signs `name` in at `url`, and shows every step.
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

async fn is_asked_who(larder: &Larder, url: &str) {
    let mut client = larder.client().await;
    for method in ["GET", "HEAD", "POST"] {
        client.ask(method, url, &["Content-Length: 0"]).await;
        let answer = client.answer(method).await.expect("an answer");
        assert_eq!(answer.status, 401, "{method} {url}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_connection_that_signed_in_is_its_clients_and_nothing_of_it_is_stored() {
    for policy in [&["ttl: 1h"][..], &["ttl: 1h", "scope: shared", "ttl_by_status: { 401: 1h }"]] {
        let origin = windows().await;
        let larder = larder(&origin, policy).await;
        for (base, scheme) in [(API, "NTLM"), (API, "negotiate"), (OTHER, "NTLM")] {
            let url = format!("{base}/me");
            let (mut alice, mut bob) = (larder.client().await, larder.client().await);
            sign_in(&mut alice, &url, scheme, "alice").await;
            is_asked_who(&larder, &url).await;
            sign_in(&mut bob, &url, scheme, "bob").await;
            // Signed in, they say nothing more, whatever they ask.
            for (client, name) in [(&mut alice, "alice"), (&mut bob, "bob")] {
                for path in ["/me", "/me?other", "/me"] {
                    let answer = client.get(&format!("{base}{path}"), &[]).await;
                    assert_eq!((answer.status, answer.text().as_str()), (200, name), "{path}");
                    assert!(!answer.cache_status().contains("; hit"), "{}", answer.cache_status());
                }
                client.ask("HEAD", &url, &[]).await;
                assert_eq!(client.answer("HEAD").await.expect("an answer").status, 200);
            }
            is_asked_who(&larder, &url).await;
            drop((alice, bob));
            is_asked_who(&larder, &url).await;
        }
        assert!(larder.metric("larder_entries{tier=\"memory\"}") < 0.5);
    }
}

/// What the origin does with a connection that waits, once the test says so.
#[derive(Clone)]
struct Ending {
    says: &'static [u8],
    now: Gate,
    done: Gate,
}

impl Ending {
    fn new(says: &'static [u8]) -> Self {
        Self { says, now: Gate::new(), done: Gate::new() }
    }

    fn steps(&self) -> Vec<Step> {
        let done = self.done.clone();
        let mut steps = vec![Step::Wait(self.now.clone()), Step::Write(self.says.to_vec())];
        steps.push(Step::Do(Arc::new(move || done.open())));
        // The end follows before anything else may run; what was said unasked stands alone.
        steps.push(if self.says.is_empty() { Step::Close } else { Step::Hang });
        steps
    }

    async fn comes(&self) {
        self.now.open();
        self.done.passed().await;
    }
}

async fn windows_that_ends(ending: Ending) -> Origin {
    let state = Mutex::new(Windows::default());
    Origin::start(move |seen| match &*seen.target {
        "/last" => state.lock().answer(seen).then(ending.steps()),
        "/closed" => Answer::closed(),
        "/bye" => Answer::new(200, &["Connection: close"], "bye"),
        "/open" => Answer::new(200, &["Cache-Control: public, max-age=600"], "anybody"),
        _ => state.lock().answer(seen),
    })
    .await
}

/// The client is led to sign in anew: it is asked, and its connection ends.
async fn is_led_to_sign_in(client: &mut Client, method: &str, url: &str) {
    client.ask(method, url, &["Content-Length: 0"]).await;
    let answer = client.answer(method).await.expect("an answer");
    assert_eq!(answer.status, 401, "{method} {url}: {}", answer.text());
    assert_eq!(answer.field("www-authenticate"), Some("NTLM"));
    assert_eq!(answer.field("proxy-support"), Some("Session-Based-Authentication"));
    assert_eq!(answer.field("connection"), Some("close"));
    assert_eq!(answer.field("cache-status"), Some("larder"));
    assert!(answer.field("proxy-status").is_some_and(|status| status.contains("signed_out")));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn where_the_origin_has_ended_a_sign_in_the_client_is_asked_anew_and_nobody_asks_for_it() {
    let unasked = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbob";
    for (says, base) in [(&b""[..], API), (b"", OTHER), (unasked, API)] {
        for (method, path) in [("GET", "/me"), ("HEAD", "/me"), ("POST", "/me"), ("GET", "/open")] {
            let ending = Ending::new(says);
            let origin = windows_that_ends(ending.clone()).await;
            let larder = larder(&origin, &["ttl: 1h", "scope: shared"]).await;
            // What anybody may have is stored; and yet it is not what the user asks for.
            let open = larder.client().await.get(&format!("{base}/open"), &[]).await;
            assert_eq!(open.text(), "anybody");
            let mut alice = larder.client().await;
            sign_in(&mut alice, &format!("{base}/me"), "ntlm", "alice").await;
            assert_eq!(alice.get(&format!("{base}/last"), &[]).await.text(), "alice");
            ending.comes().await;
            let (calls, url) = (origin.calls(), format!("{base}{path}"));
            is_led_to_sign_in(&mut alice, method, &url).await;
            assert_eq!(origin.calls(), calls, "nobody asked");
            let mut alice = larder.client().await;
            sign_in(&mut alice, &format!("{base}/me"), "NTLM", "alice").await;
            assert_eq!(alice.get(&format!("{base}/me"), &[]).await.text(), "alice");
        }
    }
}

#[tokio::test]
async fn who_says_who_asks_is_not_asked_for_a_lost_sign_in() {
    let ending = Ending::new(b"");
    let origin = windows_that_ends(ending.clone()).await;
    let larder = larder(&origin, &["ttl: 1h"]).await;
    let mut alice = larder.client().await;
    sign_in(&mut alice, &format!("{API}/me"), "NTLM", "alice").await;
    assert_eq!(alice.get(&format!("{API}/last"), &[]).await.text(), "alice");
    ending.comes().await;
    let answer = alice.get(&format!("{API}/me"), &["Authorization: Basic YTpi"]).await;
    assert_eq!((answer.status, answer.text().as_str()), (401, "who?"), "the origin's");
    // The same of another origin, where nobody was.
    assert_eq!(alice.get(&format!("{OTHER}/open"), &[]).await.text(), "anybody");
    for (step, status) in [("one", 401), ("three alice", 200)] {
        let field = format!("Authorization: NTLM {step}");
        assert_eq!(alice.get(&format!("{API}/me"), &[&field]).await.status, status);
    }
    assert_eq!(alice.get(&format!("{API}/me"), &[]).await.text(), "alice");
}

/// It was sent: whether the origin did what it asks for is not known.
#[tokio::test]
async fn a_post_on_which_the_origin_ends_a_sign_in_is_not_asked_for_again() {
    let origin = windows_that_ends(Ending::new(b"")).await;
    let larder = larder(&origin, &["ttl: 1h"]).await;
    for base in [API, OTHER] {
        let url = format!("{base}/closed");
        let mut alice = larder.client().await;
        sign_in(&mut alice, &format!("{base}/me"), "NTLM", "alice").await;
        alice.ask("POST", &url, &["Content-Length: 0"]).await;
        assert_eq!(alice.answer("POST").await.expect("an answer").status, 502);
        assert!(alice.is_closed().await);
        let mut alice = larder.client().await;
        sign_in(&mut alice, &format!("{base}/me"), "NTLM", "alice").await;
        is_led_to_sign_in(&mut alice, "GET", &url).await;
    }
}

#[tokio::test]
async fn an_origin_that_says_it_ends_a_sign_in_ends_the_clients_connection_too() {
    let origin = windows_that_ends(Ending::new(b"")).await;
    let larder = larder(&origin, &["ttl: 1h"]).await;
    let mut alice = larder.client().await;
    let answer = alice.get(&format!("{API}/bye"), &[]).await;
    assert_ne!(answer.field("connection"), Some("close"), "nobody's");
    sign_in(&mut alice, &format!("{API}/me"), "NTLM", "alice").await;
    let answer = alice.get(&format!("{API}/bye"), &[]).await;
    assert_eq!((answer.text().as_str(), answer.field("connection")), ("bye", Some("close")));
    assert!(alice.is_closed().await);
}

/// What anybody may have is no answer to somebody, not even while the origin may not be asked.
#[tokio::test]
async fn who_has_signed_in_is_not_answered_a_head_from_the_store_while_calls_are_held() {
    let state = Mutex::new(Windows::default());
    let origin = Origin::start(move |seen| match &*seen.target {
        "/open" => Answer::new(200, &["Cache-Control: public, max-age=60"], "anybody"),
        "/busy" => Answer::new(429, &["Retry-After: 3000"], ""),
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
        client.ask("HEAD", &url, &[]).await;
        assert_eq!(client.answer("HEAD").await.expect("an answer").status, status);
    }
    assert_eq!(origin.calls(), calls, "it is held");
}

/// A reload may have changed who is trusted, and where one may go.
#[tokio::test]
async fn a_sign_in_ends_with_a_reload_that_changes_the_way_to_its_origin() {
    let origin = windows().await;
    let larder = larder(&origin, &["ttl: 1h"]).await;
    let url = format!("{API}/me");
    let (mut alice, mut bob) = (larder.client().await, larder.client().await);
    sign_in(&mut alice, &url, "NTLM", "alice").await;
    let to = |more: &str| format!("resolve: {{ api.example.test: '{}' }}\n{more}", origin.addr);
    larder.reload_bare(&to(&route(&["ttl: 2h"]))).await.expect("it is valid");
    is_led_to_sign_in(&mut alice, "GET", &url).await;
    sign_in(&mut bob, &url, "NTLM", "bob").await;
    larder.reload_bare(&to(&route(&["ttl: 3h"]))).await.expect("it is valid");
    assert_eq!(bob.get(&url, &[]).await.text(), "bob", "the way is as it was");
    let upstream = "upstreams: { api: { hosts: [api.example.test] } }\n";
    larder.reload_bare(&to(upstream)).await.expect("it is valid");
    is_led_to_sign_in(&mut bob, "POST", &url).await;
}

#[tokio::test]
async fn other_schemes_are_kept_as_ever() {
    let answer = ["Cache-Control: max-age=600", "WWW-Authenticate: Basic realm=\"NTLM\""];
    let origin = Origin::always(Answer::new(200, &answer, "kept")).await;
    let larder = larder(&origin, &["ttl: 1h"]).await;
    let mut client = larder.client().await;
    for hit in [false, true] {
        let answer: Response =
            client.get(&format!("{API}/x"), &["Authorization: Basic TlRMTTo="]).await;
        assert_eq!(answer.cache_status().contains("; hit"), hit);
        assert_eq!(answer.field("proxy-support"), None);
    }
}

#[tokio::test]
async fn streams_of_one_connection_share_no_sign_in() {
    let scene = Scene::with(windows().await, &route(&["ttl: 1h", "scope: shared"])).await;
    let mut h2 = scene.h2().await;
    let url = format!("https://{}/me", intercepted::API);
    for step in ["NTLM one", "NTLM three alice"] {
        let request = Request::get(&url).header("authorization", step);
        let (status, _, _) = intercepted::send(&mut h2, request, None).await;
        // Each call has a connection of its own: nobody gets further than the first step.
        assert_eq!(status, 401, "{step}");
    }
    assert_eq!(intercepted::get(&mut h2, &url).await.0, 401);
    assert_eq!(scene.origin.connections(), 3);
}

/// Connections that only wait make room, and a lack of larder's own is held against no origin.
#[tokio::test]
async fn who_signed_in_keeps_no_descriptor_from_a_call_and_no_origin_is_blamed_for_the_lack() {
    bounded(async {
        let state = Mutex::new(Windows::default());
        let origin = Origin::start(move |seen| match &*seen.target {
            "/open" => Answer::new(200, &[], "anybody"),
            _ => state.lock().answer(seen),
        })
        .await;
        let hosts = ["a", "b", "c", "d", "e", "f", "g"].map(|name| format!("{name}.example.test"));
        let to = |host: &String| format!("{host}: '{}'", origin.addr);
        let resolve = hosts.iter().map(to).collect::<Vec<_>>().join(", ");
        let (process, _house) = Process::run(&format!(
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
            // Nobody signs in here; but they have been let in by now.
            assert_eq!(other.get(&format!("http://{}/open", hosts[6]), &[]).await.status, 200);
        }
        process.limit_files(process.next_file());
        // The connection that has waited longest goes, and then the other; each call keeps what it got.
        for (other, host) in others.iter_mut().zip(&hosts[2..4]) {
            assert_eq!(other.get(&url(host), &["Authorization: NTLM one"]).await.status, 401);
        }
        assert_eq!(alice.get(&url(&hosts[4]), &["Authorization: NTLM one"]).await.status, 401);
        // So low that no connection that goes is of use.
        process.limit_files(8);
        let answer = others[0].get(&url(&hosts[5]), &["Authorization: NTLM one"]).await;
        assert_eq!((answer.status, answer.text().contains("LimitNOFILE")), (503, true));
        process.limit_files(1024);
        let answer = others[1].get(&url(&hosts[5]), &["Authorization: NTLM one"]).await;
        assert_eq!(answer.status, 401, "{}", answer.text());
        // Who had signed in is told so, and not taken for nobody.
        is_led_to_sign_in(&mut alice, "POST", &url(&hosts[0])).await;
    })
    .await;
}

const INTERCEPTED: &str = "https://api.example.test/me";

/// Waits until a connection takes no further requests.
async fn is_left(h2: &intercepted::H2) {
    bounded(async {
        while h2.clone().ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Clients know HTTP/2 from interception alone: the origin may speak none, and they sign in there.
#[tokio::test]
async fn who_is_asked_to_sign_in_over_http_2_does_so_over_the_next_connection() {
    for yaml in [route(&["ttl: 1h"]), "tls: { intercept: [api.example.test] }\n".to_owned()] {
        for scheme in ["NTLM", "Negotiate"] {
            let scene = Scene::with(windows().await, &yaml).await;
            let mut h2 = h2_over(scene.either().await).await;
            let (answer, _) = intercepted::head(&mut h2, Request::get(INTERCEPTED));
            let answer = bounded(answer).await.expect("the question itself is passed on");
            assert_eq!(answer.status(), 401);
            assert_eq!(answer.headers()["www-authenticate"], "Negotiate, NTLM");
            let (mut read, mut body) = (answer.into_body(), Vec::new());
            while let Some(piece) = bounded(read.data()).await {
                body.extend_from_slice(&piece.expect("a whole body"));
            }
            assert_eq!(body, b"who?");
            // It learns of it with the end of the answer: what it asks next goes another way.
            assert!(h2.clone().ready().await.is_err(), "it would have gone on");
            let next = scene.either().await;
            assert!(!is_h2(&next));
            let mut alice = Client::over(next);
            sign_in(&mut alice, INTERCEPTED, scheme, "alice").await;
            assert_eq!(alice.get(INTERCEPTED, &[]).await.text(), "alice");
            let mut other = Client::over(scene.either().await);
            assert_eq!(other.get(INTERCEPTED, &[]).await.status, 401);
        }
    }
}

/// RFC 9113 §7. Its answer would be for a connection that the client does not have.
#[tokio::test]
async fn a_step_of_a_sign_in_over_http_2_is_to_be_taken_again_over_http_1() {
    let scene = Scene::with(windows().await, &route(&["ttl: 1h"])).await;
    let mut h2 = h2_over(scene.either().await).await;
    let first = || Request::get(INTERCEPTED).header("authorization", "NTLM one");
    let (answer, _) = intercepted::head(&mut h2, first());
    let reset = bounded(answer).await.expect_err("no answer");
    assert_eq!(reset.reason(), Some(Reason::HTTP_1_1_REQUIRED));
    assert!(!is_h2(&scene.either().await));
    // Its connection goes on, until it is asked to sign in there.
    assert_eq!(intercepted::get(&mut h2, INTERCEPTED).await.0, 401);
    is_left(&h2).await;
    // What is complete in one step (Kerberos) is answered as it is.
    scene.origin.now(|_| Answer::new(200, &["WWW-Authenticate: Negotiate done"], "alice"));
    let mut h2 = scene.h2().await;
    let ticket = Request::get(INTERCEPTED).header("authorization", "Negotiate ticket");
    assert_eq!(intercepted::send(&mut h2, ticket, None).await.0, 200);
    assert!(bounded(h2.ready()).await.is_ok());
}

#[tokio::test]
async fn a_client_that_speaks_http_2_alone_is_not_sent_away() {
    let scene = Scene::with(windows().await, &route(&["ttl: 1h"])).await;
    let mut h2 = scene.h2().await;
    for _ in 0..3 {
        assert_eq!(intercepted::get(&mut h2, INTERCEPTED).await.0, 401);
    }
    // Others may have noticed meanwhile; what it offers is all there is to agree on.
    is_left(&{
        let mut both = h2_over(scene.either().await).await;
        assert_eq!(intercepted::get(&mut both, INTERCEPTED).await.0, 401);
        both
    })
    .await;
    assert!(!is_h2(&scene.either().await));
    assert_eq!(intercepted::get(&mut scene.h2().await, INTERCEPTED).await.0, 401);
    assert_eq!(intercepted::get(&mut h2, INTERCEPTED).await.0, 401);
}

#[tokio::test]
async fn hosts_that_ask_for_such_a_sign_in_are_known_past_a_reload() {
    let scene = Scene::with(windows().await, &route(&["ttl: 1h"])).await;
    let mut h2 = h2_over(scene.either().await).await;
    assert_eq!(intercepted::get(&mut h2, INTERCEPTED).await.0, 401);
    scene.reload(&route(&["ttl: 2h"])).await;
    assert!(!is_h2(&scene.either().await));
}

/// Any other 401 is none of that.
#[tokio::test]
async fn other_schemes_are_asked_for_over_http_2_as_ever() {
    let challenge = ["WWW-Authenticate: Basic realm=\"NTLM\", Bearer"];
    let scene = Scene::keeping(Answer::new(401, &challenge, "who?")).await;
    let mut h2 = h2_over(scene.either().await).await;
    for _ in 0..2 {
        assert_eq!(intercepted::get(&mut h2, INTERCEPTED).await.0, 401);
    }
    assert!(is_h2(&scene.either().await));
}

/// No list has every scheme: what larder does not know may sign a connection in, too.
#[tokio::test]
async fn nobody_is_answered_on_a_connection_on_which_an_unknown_scheme_was_used() {
    let users = Mutex::new(HashMap::<usize, String>::new());
    let origin = Origin::start(move |seen| {
        let mut users = users.lock();
        if let Some(name) = seen.field("authorization") {
            users.insert(seen.connection, name.to_owned());
        }
        match users.get(&seen.connection) {
            Some(name) => Answer::new(200, &[], name),
            None => Answer::new(401, &["WWW-Authenticate: Zork"], ""),
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
        is_asked_who(&larder, &url).await;
    }
    // Two hosts, three credentials and none: what is used again is one's own.
    assert_eq!(origin.connections(), 8);
}
