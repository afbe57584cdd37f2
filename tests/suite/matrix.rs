//! The concurrency matrix: fifty clients request the same URL at once, with nothing stored (cold)
//! or with a stale response, and the origin responds in each way that origins do. Each test checks
//! the number of calls, the response of every client, and the stored response afterwards.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::client::{End, Response};
use crate::concurrent::{ConcurrentRequests, bounded};
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Gate, MockResponse, Origin, Step, chunk};

/// The number of concurrent clients.
const N: usize = 50;

/// The stored response before the clients send their requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Cold,
    Stale,
}

const BOTH: [Start; 2] = [Start::Cold, Start::Stale];

/// The operator's policy: stale responses replace errors for a day.
const OVERRIDE: &[&str] = &["ttl: 1m"];

/// The origin's policy.
const ORIGIN: &[&str] = &["ttl: origin", "stale_if_error: { for: 1h }"];

/// A larder and an origin that sends the response of the row once the gate is open.
struct Scene {
    origin: Origin,
    larder: Larder,
    gate: Gate,
    /// Calls before the clients sent their requests.
    before: usize,
}

impl Scene {
    async fn new(start: Start, policy: &[&str], answer: MockResponse) -> Self {
        Self::with(start, &route(policy), answer).await
    }

    async fn with(start: Start, yaml: &str, answer: MockResponse) -> Self {
        // The connection is not reused, so that no retry on a pooled one changes the number of calls.
        let fields = ["ETag: \"old\"", "Cache-Control: max-age=60", "Connection: close"];
        let origin = Origin::always(MockResponse::new(200, &fields, "old").then([Step::Close])).await;
        let larder = Larder::start(&origin, yaml).await;
        if start == Start::Stale {
            assert_eq!(larder.get("/x").await.text(), "old");
            larder.clock.advance(Duration::from_secs(61));
        }
        let before = origin.calls();
        let gate = Gate::new();
        let gated = answer.after(&gate);
        origin.set_script(move |_| gated.clone());
        Self { origin, larder, gate, before }
    }

    /// All clients wait for one fill, then the origin responds.
    async fn play(&self) -> Vec<Response> {
        let crowd = ConcurrentRequests::send_plain(&self.larder, N, "/x").await;
        self.larder.wait_for_waiters(N).await;
        self.gate.open();
        crowd.responses().await
    }

    /// Calls since the clients sent their requests.
    fn calls(&self) -> usize {
        self.origin.calls() - self.before
    }

    /// The stored response, requested without a call to the origin.
    async fn stored(&self) -> Option<String> {
        let answer = self.larder.get_with("/x", &["Cache-Control: only-if-cached, max-stale"]).await;
        (answer.status != 504).then(|| answer.text())
    }
}

fn assert_all(answers: &[Response], status: u16, body: &str, case: &str) {
    assert_eq!(answers.len(), N);
    for answer in answers {
        let seen = (answer.status, answer.text(), answer.end);
        assert_eq!(seen, (status, body.to_owned(), End::Complete), "{case}: {}", answer.cache_status());
    }
}

fn collapsed(answers: &[Response]) -> usize {
    answers.iter().filter(|answer| answer.cache_status().contains("; collapsed")).count()
}

#[tokio::test]
async fn a_200_is_fetched_once_for_all_and_stored() {
    bounded(async {
        let framings = [MockResponse::new(200, &[], "new"), MockResponse::chunked(200, &[], &[b"n", b"ew"])];
        for (start, answer) in BOTH.into_iter().flat_map(|s| framings.clone().map(|a| (s, a))) {
            let scene = Scene::new(start, OVERRIDE, answer).await;
            let answers = scene.play().await;
            assert_all(&answers, 200, "new", &format!("{start:?}"));
            assert_eq!(collapsed(&answers), N - 1, "{start:?}");
            assert_eq!(scene.calls(), 1, "{start:?}");
            assert_eq!(scene.stored().await.as_deref(), Some("new"), "{start:?}");
            scene.larder.wait_for_metric("larder_coalesced_requests_total{route=\"api\"}", 49.0).await;
            let reason = if start == Start::Cold { "uri-miss" } else { "stale" };
            for answer in &answers {
                let expected = format!("larder; fwd={reason}; fwd-status=200; stored; ttl=60");
                assert!(answer.cache_status().starts_with(&expected), "{}", answer.cache_status());
            }
        }
    })
    .await;
}

#[tokio::test]
async fn one_304_confirms_the_stored_response_for_all_waiters() {
    bounded(async {
        let answer = MockResponse::raw("HTTP/1.1 304 x\r\nETag: \"old\"\r\nX-New: 1\r\n\r\n");
        let scene = Scene::new(Start::Stale, OVERRIDE, answer).await;
        let answers = scene.play().await;
        assert_all(&answers, 200, "old", "304");
        assert_eq!((collapsed(&answers), scene.calls()), (N - 1, 1));
        for answer in &answers {
            assert!(answer.cache_status().contains("fwd-status=304"), "{}", answer.cache_status());
            assert_eq!(answer.field("x-new"), Some("1"), "freshened for all");
        }
        let revalidation = scene.origin.requests().pop().unwrap();
        assert_eq!(revalidation.field("if-none-match"), Some("\"old\""));
        let hit = scene.larder.get("/x").await;
        assert_eq!((hit.field("x-new"), hit.cache_status()), (Some("1"), "larder; hit; ttl=60"));
        assert_eq!(scene.calls(), 1);
    })
    .await;
}

/// Without a stored response one call, without a condition, fills the store for all (decision 42).
#[tokio::test]
async fn with_nothing_stored_conditional_requests_share_one_fill() {
    bounded(async {
        let whole = MockResponse::new(200, &["ETag: \"c\""], "whole");
        let scene = Scene::new(Start::Cold, OVERRIDE, whole).await;
        let crowd =
            ConcurrentRequests::send(&scene.larder, N, "/x", |_| vec!["If-None-Match: \"c\"".into()]).await;
        scene.larder.wait_for_waiters(N).await;
        scene.gate.open();
        assert_all(&crowd.responses().await, 304, "", "conditional");
        assert_eq!((scene.calls(), scene.stored().await.as_deref()), (1, Some("whole")));
        assert_eq!(scene.origin.requests()[0].field("if-none-match"), None);
    })
    .await;
}

#[tokio::test]
async fn an_origin_error_is_fetched_once_and_replaced_by_a_stale_response() {
    let errors = [
        (503, &[][..], "server-error"),
        (503, &["Retry-After: 7"], "server-error"),
        (500, &[], "server-error"),
        (429, &[], "rate-limited"),
        (429, &["Retry-After: 7"], "rate-limited"),
    ];
    bounded(async {
        for (status, fields, cause) in errors {
            for start in BOTH {
                let case = format!("{status} {fields:?} {start:?}");
                let scene = Scene::new(start, OVERRIDE, MockResponse::new(status, fields, "no")).await;
                let answers = scene.play().await;
                assert_eq!(scene.calls(), 1, "{case}");
                match start {
                    Start::Cold => {
                        assert_all(&answers, status, "no", &case);
                        assert_eq!(collapsed(&answers), N - 1, "{case}");
                        for answer in &answers {
                            let retry_after = answer.field("retry-after");
                            assert_eq!(retry_after, fields.first().map(|_| "7"), "{case}");
                        }
                        assert_eq!(scene.stored().await, None, "{case}");
                    }
                    Start::Stale => {
                        assert_all(&answers, 200, "old", &case);
                        let expected =
                            format!("fwd-status={status}; ttl=-1; detail=\"stale-if-error/{cause}\"");
                        for answer in &answers {
                            assert_eq!(answer.cache_status(), format!("larder; fwd=stale; {expected}"));
                            assert_eq!(answer.field("retry-after"), None, "{case}");
                        }
                        assert_eq!(scene.stored().await.as_deref(), Some("old"), "{case}");
                        let series = format!("larder_stale_served_total{{cause=\"{cause}\",route=\"api\"}}");
                        scene.larder.wait_for_metric(&series, 50.0).await;
                    }
                }
            }
        }
    })
    .await;
}

/// A gate delays the look-up of the name before the refusal, so that all clients wait for one attempt.
#[tokio::test]
async fn a_refused_connection_is_tried_once_and_replaced_if_a_response_is_stale() {
    bounded(async {
        for start in BOTH {
            let dns = crate::dns::Dns::start(|_, _| vec![[127, 0, 0, 1].into()]).await;
            let prime = MockResponse::new(200, &["Connection: close"], "old").then([Step::Close]);
            let origin = Origin::always(prime).await;
            let port = origin.addr.port();
            let larder = Larder::with_deps(
                "routes:\n  - name: api\n    match: { host: slow.test }\n    ttl: 1m\n",
                larder::server::ServerDeps { name_server: Some(dns.addr), ..Default::default() },
            )
            .await;
            let url = format!("http://slow.test:{port}/x");
            if start == Start::Stale {
                assert_eq!(larder.client().await.get(&url, &[]).await.text(), "old");
                larder.clock.advance(Duration::from_secs(61));
            }
            let gate = dns.delay_replies();
            origin.close().await;
            let mut pending = Vec::new();
            for _ in 0..N {
                let (mut client, url) = (larder.client().await, url.clone());
                pending.push(tokio::spawn(async move { client.get(&url, &[]).await }));
            }
            larder.wait_for_waiters(N).await;
            gate.open();
            let mut answers = Vec::new();
            for request in pending {
                answers.push(request.await.unwrap());
            }
            let refused =
                "larder_upstream_requests_total{code=\"connect-refused\",route=\"api\",upstream=\"none\"}";
            assert!((larder.metric(refused) - 1.0).abs() < f64::EPSILON, "{start:?}");
            match start {
                Start::Cold => {
                    for answer in &answers {
                        assert_eq!(answer.status, 502);
                        assert!(answer.text().contains("\"class\":\"connect-refused\""));
                    }
                }
                Start::Stale => {
                    assert_all(&answers, 200, "old", "refused");
                    for answer in &answers {
                        let expected = "larder; fwd=stale; ttl=-1; detail=\"stale-if-error/connect-refused\"";
                        assert_eq!(answer.cache_status(), expected);
                    }
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_closed_without_a_response_is_one_call_for_all() {
    bounded(async {
        for start in BOTH {
            let scene = Scene::new(start, OVERRIDE, MockResponse::closed()).await;
            let answers = scene.play().await;
            assert_eq!(scene.calls(), 1, "{start:?}");
            match start {
                Start::Cold => {
                    for answer in &answers {
                        assert_eq!((answer.status, answer.end), (502, End::Complete));
                        assert!(answer.text().contains("\"class\":\"closed\""), "{}", answer.text());
                    }
                    assert_eq!(scene.stored().await, None);
                }
                Start::Stale => {
                    assert_all(&answers, 200, "old", "closed");
                    assert_eq!(scene.stored().await.as_deref(), Some("old"));
                }
            }
        }
    })
    .await;
}

/// Every client detects the cut, and no later request is served the cut body.
#[tokio::test]
async fn a_cut_body_is_cut_for_all_clients_and_never_stored() {
    let head = "HTTP/1.1 200 x\r\nETag: \"cut\"\r\n";
    let rows = [
        ("after the head", format!("{head}Content-Length: 9\r\n\r\n").into_bytes(), ""),
        ("length", format!("{head}Content-Length: 9\r\n\r\nhalf").into_bytes(), "half"),
        ("chunked", format!("{head}Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").into(), "half"),
        ("in a chunk", format!("{head}Transfer-Encoding: chunked\r\n\r\n9\r\nhalf").into(), "half"),
    ];
    bounded(async {
        for (name, bytes, seen) in rows {
            for start in BOTH {
                let answer = MockResponse::raw(bytes.clone()).then([Step::Close]);
                let scene = Scene::new(start, OVERRIDE, answer).await;
                let answers = scene.play().await;
                for answer in &answers {
                    let got = (answer.status, answer.text(), answer.end);
                    assert_eq!(got, (200, seen.to_owned(), End::Truncated), "{name} {start:?}");
                }
                assert_eq!(scene.calls(), 1, "{name} {start:?}");
                let kept = (start == Start::Stale).then(|| "old".to_owned());
                assert_eq!(scene.stored().await, kept, "{name} {start:?}");
                let next = scene.larder.get("/x").await;
                assert_eq!(next.end, End::Truncated, "the next request makes a new call");
                assert_eq!(scene.calls(), 2, "{name} {start:?}");
            }
        }
    })
    .await;
}

/// Takes six seconds, because the deadline uses real time.
#[tokio::test]
async fn a_timeout_is_one_call_for_all_and_replaced_by_a_stale_response() {
    let upstream = "upstreams: { up: { hosts: [api.example.test], timeouts: { first_byte: 3s } } }\n";
    bounded(async {
        for start in BOTH {
            let yaml = format!("{upstream}{}", route(OVERRIDE));
            let scene = Scene::with(start, &yaml, MockResponse::new(200, &[], "never")).await;
            let crowd = ConcurrentRequests::send_plain(&scene.larder, N, "/x").await;
            scene.larder.wait_for_waiters(N).await;
            let answers = crowd.responses().await;
            assert_eq!(scene.calls(), 1, "{start:?}");
            match start {
                Start::Cold => {
                    for answer in &answers {
                        assert_eq!(answer.status, 504);
                        assert!(answer.text().contains("\"class\":\"first-byte-timeout\""));
                    }
                    assert_eq!(scene.stored().await, None);
                }
                Start::Stale => {
                    assert_all(&answers, 200, "old", "time-out");
                    assert!(answers[0].cache_status().contains("stale-if-error/first-byte-timeout"));
                }
            }
            assert_eq!(scene.larder.server.waiting(), 0, "no client is left waiting");
        }
    })
    .await;
}

#[tokio::test]
async fn a_slow_body_is_fetched_once_and_streamed_to_all_clients() {
    bounded(async {
        for start in BOTH {
            let (second, last) = (Gate::new(), Gate::new());
            let drip = MockResponse::chunked_open(200, &[], &[b"a"]).then([
                Step::Wait(second.clone()),
                Step::Write(chunk(b"b")),
                Step::Wait(last.clone()),
                Step::Write(chunk(b"c")),
                Step::Write(b"0\r\n\r\n".to_vec()),
            ]);
            let scene = Scene::new(start, OVERRIDE, drip).await;
            let mut clients = Vec::new();
            for _ in 0..N {
                let mut client = scene.larder.client().await;
                client.send_request("GET", &format!("{API}/x"), &[]).await;
                clients.push(client);
            }
            scene.larder.wait_for_waiters(N).await;
            scene.gate.open();
            for client in &mut clients {
                client.read_until("1\r\na\r\n").await;
            }
            second.open();
            for client in &mut clients {
                client.read_until("1\r\nb\r\n").await;
            }
            assert_ne!(scene.stored().await.as_deref(), Some("abc"), "not stored before its end");
            last.open();
            for client in &mut clients {
                let answer = client.response("GET").await.unwrap();
                assert_eq!((answer.text().as_str(), answer.end), ("abc", End::Complete));
            }
            assert_eq!(scene.calls(), 1, "{start:?}");
            assert_eq!(scene.stored().await.as_deref(), Some("abc"));
        }
    })
    .await;
}

/// Counts the calls that wait for a response head at the same time; every call gets a different body.
struct Counting {
    waiting: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Counting {
    /// The first call waits for `gate`, the others for `later_gate`.
    fn install(
        origin: &Origin,
        fields: &'static [&'static str],
        before: usize,
        gate: &Gate,
        later_gate: &Gate,
    ) -> Self {
        let counting = Self { waiting: Arc::default(), most: Arc::default() };
        let (waiting, most) = (Arc::clone(&counting.waiting), Arc::clone(&counting.most));
        let (gate, later_gate) = (gate.clone(), later_gate.clone());
        origin.set_script(move |seen| {
            let first = seen.index == before;
            let now = waiting.fetch_add(1, Ordering::SeqCst) + 1;
            if !first {
                most.fetch_max(now, Ordering::SeqCst);
            }
            let done = Arc::clone(&waiting);
            let answered = Step::Do(Arc::new(move || {
                done.fetch_sub(1, Ordering::SeqCst);
            }));
            let mut answer = MockResponse::new(200, fields, format!("call {}", seen.index));
            answer.0.insert(0, answered);
            answer.after(if first { &gate } else { &later_gate })
        });
        counting
    }
}

async fn assert_not_shared(start: Start, policy: &[&str], fields: &'static [&'static str]) {
    let scene = Scene::new(start, policy, MockResponse::hang()).await;
    let later_gate = Gate::new();
    let counting = Counting::install(&scene.origin, fields, scene.before, &scene.gate, &later_gate);
    let crowd = ConcurrentRequests::send_plain(&scene.larder, N, "/x").await;
    scene.larder.wait_for_waiters(N).await;
    assert_eq!(scene.calls(), 1, "while they wait");
    scene.gate.open();
    // After the head of a response that is not shareable no client waits for another.
    scene.origin.wait_for_calls(scene.before + N).await;
    later_gate.open();
    let answers = crowd.responses().await;
    let bodies: BTreeSet<String> = answers.iter().map(Response::text).collect();
    assert_eq!(bodies.len(), N, "every client has its own response");
    assert_eq!(collapsed(&answers), 0);
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.end == End::Complete));
    assert_eq!(scene.calls(), N);
    assert_eq!(counting.most.load(Ordering::SeqCst), N - 1, "at once");
    let kept = (start == Start::Stale).then(|| "old".to_owned());
    assert_eq!(scene.stored().await, kept);

    // Collapsing is off for the key: no client of the second burst waits for another.
    let (gate, before) = (Gate::new(), scene.origin.calls());
    let second = MockResponse::new(200, fields, "second").after(&gate);
    scene.origin.set_script(move |_| second.clone());
    let crowd = ConcurrentRequests::send_plain(&scene.larder, N, "/x").await;
    scene.origin.wait_for_calls(before + N).await;
    gate.open();
    assert_all(&crowd.responses().await, 200, "second", "second burst");

    scene.larder.clock.advance(Duration::from_secs(31));
    let (gate, before) = (Gate::new(), scene.origin.calls());
    let third = MockResponse::new(200, fields, "third").after(&gate);
    scene.origin.set_script(move |_| third.clone());
    let crowd = ConcurrentRequests::send_plain(&scene.larder, N, "/x").await;
    scene.larder.wait_for_waiters(N).await;
    assert_eq!(scene.origin.calls(), before + 1, "the clients wait again");
    gate.open();
    assert_all(&crowd.responses().await, 200, "third", "third burst");
    assert_eq!(scene.origin.calls(), before + N);
}

#[tokio::test]
async fn an_uncacheable_response_is_not_shared_and_remembered_for_30s() {
    bounded(async {
        for start in BOTH {
            assert_not_shared(start, ORIGIN, &["Cache-Control: no-store"]).await;
        }
    })
    .await;
}

#[tokio::test]
async fn cch_19_a_private_response_is_not_shared() {
    bounded(async {
        for start in BOTH {
            assert_not_shared(start, ORIGIN, &["Cache-Control: private, max-age=60"]).await;
        }
    })
    .await;
}

#[tokio::test]
async fn cch_19_a_response_with_set_cookie_is_not_shared() {
    bounded(async {
        for start in BOTH {
            assert_not_shared(start, OVERRIDE, &["Set-Cookie: sid=1", "Cache-Control: max-age=60"]).await;
        }
    })
    .await;
}

/// A private error is not shared either.
#[tokio::test]
async fn cch_19_a_private_error_is_not_shared() {
    bounded(async {
        for fields in [&["Cache-Control: private"][..], &["Set-Cookie: sid=1"]] {
            let scene = Scene::new(Start::Cold, ORIGIN, MockResponse::hang()).await;
            let gate = scene.gate.clone();
            scene.origin.set_script(move |seen| {
                MockResponse::new(503, fields, format!("call {}", seen.index)).after(&gate)
            });
            let answers = scene.play().await;
            let bodies: BTreeSet<String> = answers.iter().map(Response::text).collect();
            assert_eq!((bodies.len(), scene.calls()), (N, N), "{fields:?}");
            assert!(answers.iter().all(|answer| answer.status == 503));
        }
    })
    .await;
}

/// A 304 with `private` or a cookie confirms the stored response for its own client only.
#[tokio::test]
async fn cch_19_a_304_with_private_or_set_cookie_confirms_for_one_client_only() {
    bounded(async {
        for field in ["Cache-Control: private", "Set-Cookie: sid=SECRET"] {
            let scene = Scene::new(Start::Stale, ORIGIN, MockResponse::hang()).await;
            let gate = scene.gate.clone();
            scene.origin.set_script(move |seen| {
                let call = seen.index;
                let head = format!("HTTP/1.1 304 x\r\nETag: \"old\"\r\nX-Call: {call}\r\n{field}\r\n\r\n");
                MockResponse::raw(head).after(&gate)
            });
            let answers = scene.play().await;
            assert_all(&answers, 200, "old", field);
            let calls: BTreeSet<_> = answers.iter().map(|a| a.field("x-call").unwrap()).collect();
            assert_eq!((calls.len(), scene.calls()), (N, N), "{field}: each its own 304");
            assert_eq!(collapsed(&answers), 0, "{field}");
            let kept = scene.larder.get_with("/x", &["Cache-Control: only-if-cached, max-stale"]).await;
            assert_eq!((kept.text().as_str(), kept.field("x-call")), ("old", None), "{field}");
            assert_eq!(kept.field("set-cookie"), None);
        }
    })
    .await;
}

#[tokio::test]
async fn cch_19_variants_are_fetched_once_each_and_stored_side_by_side() {
    const LANGUAGES: usize = 5;
    fn language(place: usize) -> Vec<String> {
        vec![format!("X-Lang: l{}", place % LANGUAGES)]
    }
    bounded(async {
        for start in BOTH {
            let scene = Scene::new(start, OVERRIDE, MockResponse::hang()).await;
            let gate = scene.gate.clone();
            scene.origin.set_script(move |seen| {
                let lang = seen.field("x-lang").unwrap_or("none").to_owned();
                MockResponse::new(200, &["Vary: X-Lang"], lang).after(&gate)
            });
            for round in ["fetched", "stored"] {
                let crowd = ConcurrentRequests::send(&scene.larder, N, "/x", language).await;
                if round == "fetched" {
                    scene.larder.wait_for_waiters(N).await;
                    scene.gate.open();
                }
                for (place, answer) in crowd.responses().await.into_iter().enumerate() {
                    let expected = format!("l{}", place % LANGUAGES);
                    assert_eq!((answer.text(), answer.end), (expected, End::Complete), "{start:?}");
                    let hit = answer.cache_status().starts_with("larder; hit");
                    assert_eq!(hit, round == "stored", "{}", answer.cache_status());
                }
                assert_eq!(scene.calls(), LANGUAGES, "{start:?} {round}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_event_stream_is_not_shared_and_ends_with_its_client() {
    bounded(async {
        for start in BOTH {
            let fields = ["Content-Type: text/event-stream"];
            let events =
                MockResponse::chunked_open(200, &fields, &[b"data: 1\n\n"]).then([Step::UntilDisconnect]);
            let scene = Scene::new(start, OVERRIDE, events).await;
            let mut clients = Vec::new();
            for _ in 0..N {
                let mut client = scene.larder.client().await;
                client.send_request("GET", &format!("{API}/x"), &[]).await;
                clients.push(client);
            }
            scene.larder.wait_for_waiters(N).await;
            scene.gate.open();
            for client in &mut clients {
                client.read_until("data: 1\n\n").await;
            }
            assert_eq!(scene.calls(), N, "{start:?}");
            drop(clients);
            scene.origin.wait_for_disconnects(N).await;
            let kept = (start == Start::Stale).then(|| "old".to_owned());
            assert_eq!(scene.stored().await, kept, "{start:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn ups_12_if_the_leader_disconnects_the_others_get_the_whole_response() {
    bounded(async {
        for start in BOTH {
            let body = "x".repeat(200_000);
            let scene = Scene::new(start, OVERRIDE, MockResponse::new(200, &[], &body)).await;
            let mut leader = scene.larder.client().await;
            leader.send_request("GET", &format!("{API}/x"), &[]).await;
            scene.larder.wait_for_waiters(1).await;
            let crowd = ConcurrentRequests::send_plain(&scene.larder, N - 1, "/x").await;
            scene.larder.wait_for_waiters(N).await;
            socket2::SockRef::from(&leader.stream).set_linger(Some(Duration::ZERO)).unwrap();
            drop(leader);
            scene.larder.wait_for_waiters(N - 1).await;
            scene.gate.open();
            for answer in crowd.responses().await {
                assert_eq!((answer.status, answer.end), (200, End::Complete));
                assert_eq!(answer.body.len(), body.len());
            }
            assert_eq!(scene.calls(), 1, "{start:?}");
            assert_eq!(scene.stored().await.map(|kept| kept.len()), Some(body.len()));
        }
    })
    .await;
}

#[tokio::test]
async fn if_some_waiters_disconnect_the_others_get_the_whole_response() {
    bounded(async {
        for start in BOTH {
            let scene = Scene::new(start, OVERRIDE, MockResponse::new(200, &[], "new")).await;
            let mut crowd = ConcurrentRequests::send_plain(&scene.larder, N + 10, "/x").await;
            scene.larder.wait_for_waiters(N + 10).await;
            crowd.disconnect(10);
            scene.larder.wait_for_waiters(N).await;
            scene.gate.open();
            assert_all(&crowd.responses().await, 200, "new", "the rest");
            assert_eq!(scene.calls(), 1, "{start:?}");
            assert_eq!(scene.stored().await.as_deref(), Some("new"));
        }
    })
    .await;
}

/// The fill continues without any client.
#[tokio::test]
async fn if_all_clients_disconnect_the_response_is_stored_all_the_same() {
    bounded(async {
        for start in BOTH {
            let rest = Gate::new();
            let answer = MockResponse::chunked_open(200, &[], &[b"new "])
                .then([Step::Wait(rest.clone()), Step::Write(chunk(b"and whole"))])
                .then([Step::Write(b"0\r\n\r\n".to_vec())]);
            let scene = Scene::new(start, OVERRIDE, answer).await;
            let mut crowd = ConcurrentRequests::send_plain(&scene.larder, N, "/x").await;
            scene.larder.wait_for_waiters(N).await;
            crowd.disconnect(N);
            scene.larder.wait_for_waiters(0).await;
            scene.gate.open();
            rest.open();
            let mut stored = scene.stored().await;
            for _ in 0..500 {
                if stored.as_deref() == Some("new and whole") {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
                stored = scene.stored().await;
            }
            assert_eq!(stored.as_deref(), Some("new and whole"), "{start:?}");
            assert_eq!(scene.calls(), 1, "{start:?}");
        }
    })
    .await;
}

/// A forced refresh makes its own call even if other clients wait, and no client waits for it.
#[tokio::test]
async fn forced_refreshes_do_not_collapse() {
    bounded(async {
        for start in BOTH {
            for field in ["Cache-Control: no-cache", "Cache-Control: max-age=0", "Pragma: no-cache"] {
                let scene = Scene::new(start, OVERRIDE, MockResponse::new(200, &[], "new")).await;
                let others = ConcurrentRequests::send_plain(&scene.larder, 10, "/x").await;
                scene.larder.wait_for_waiters(10).await;
                let crowd = ConcurrentRequests::send(&scene.larder, N, "/x", |_| vec![field.into()]).await;
                scene.origin.wait_for_calls(scene.before + 1 + N).await;
                assert_eq!(scene.larder.server.waiting(), 10, "{field} {start:?}");
                scene.gate.open();
                let answers = crowd.responses().await;
                assert_all(&answers, 200, "new", field);
                assert_eq!(collapsed(&answers), 0, "{field}");
                assert_eq!(collapsed(&others.responses().await), 9, "{field}");
                assert_eq!(scene.calls(), 1 + N, "{field} {start:?}");
            }
        }
    })
    .await;
}

/// CCH-20: no client waits for another user's response.
#[tokio::test]
async fn cch_20_fifty_users_make_fifty_calls_and_get_fifty_responses() {
    bounded(async {
        let scene = Scene::new(Start::Cold, OVERRIDE, MockResponse::hang()).await;
        let gate = scene.gate.clone();
        scene.origin.set_script(move |seen| {
            MockResponse::new(200, &[], seen.field("authorization").unwrap_or("none")).after(&gate)
        });
        let user = |place: usize| vec![format!("Authorization: Bearer u{place}")];
        let crowd = ConcurrentRequests::send(&scene.larder, N, "/x", user).await;
        scene.larder.wait_for_waiters(N).await;
        scene.origin.wait_for_calls(N).await;
        scene.gate.open();
        for (place, answer) in crowd.responses().await.into_iter().enumerate() {
            assert_eq!(answer.text(), format!("Bearer u{place}"));
            assert!(!answer.cache_status().contains("collapsed"));
        }
        let again = ConcurrentRequests::send(&scene.larder, N, "/x", user).await;
        for (place, answer) in again.responses().await.into_iter().enumerate() {
            assert_eq!(answer.text(), format!("Bearer u{place}"));
            assert!(answer.cache_status().starts_with("larder; hit"));
        }
        assert_eq!(scene.calls(), N);
    })
    .await;
}
