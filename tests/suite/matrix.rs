//! The concurrency matrix: fifty clients ask for the same at once, with nothing stored (cold) and
//! with something stale, and the origin does each thing that origins do. For each: how often the
//! origin was asked, what every client saw, what is stored afterwards.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::client::{End, Response};
use crate::crowd::{Crowd, bounded};
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Answer, Gate, Origin, Step, chunk};

/// How many ask at once.
const N: usize = 50;

/// What is stored before the crowd comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Cold,
    Stale,
}

const BOTH: [Start; 2] = [Start::Cold, Start::Stale];

/// The operator's word: stale answers stand in for errors for a day.
const OVERRIDE: &[&str] = &["ttl: 1m"];

/// The origin's word.
const ORIGIN: &[&str] = &["ttl: origin", "stale_if_error: { for: 1h }"];

/// A larder before an origin that answers, once the gate is open, as the row says.
struct Scene {
    origin: Origin,
    larder: Larder,
    gate: Gate,
    /// Calls before the crowd came.
    before: usize,
}

impl Scene {
    async fn new(start: Start, policy: &[&str], answer: Answer) -> Self {
        Self::with(start, &route(policy), answer).await
    }

    async fn with(start: Start, yaml: &str, answer: Answer) -> Self {
        // Its connection is not kept, so that no retry on a pooled one blurs the count of calls.
        let fields = ["ETag: \"old\"", "Cache-Control: max-age=60", "Connection: close"];
        let origin = Origin::always(Answer::new(200, &fields, "old").then([Step::Close])).await;
        let larder = Larder::start(&origin, yaml).await;
        if start == Start::Stale {
            assert_eq!(larder.get("/x").await.text(), "old");
            larder.clock.advance(Duration::from_secs(61));
        }
        let before = origin.calls();
        let gate = Gate::new();
        let gated = answer.after(&gate);
        origin.now(move |_| gated.clone());
        Self { origin, larder, gate, before }
    }

    /// The whole crowd waits for one fill, then the origin answers.
    async fn play(&self) -> Vec<Response> {
        let crowd = Crowd::plain(&self.larder, N, "/x").await;
        self.larder.waiting(N).await;
        self.gate.open();
        crowd.answers().await
    }

    /// Calls since the crowd came.
    fn calls(&self) -> usize {
        self.origin.calls() - self.before
    }

    /// What is stored, asked for without letting larder ask the origin.
    async fn stored(&self) -> Option<String> {
        let answer =
            self.larder.get_with("/x", &["Cache-Control: only-if-cached, max-stale"]).await;
        (answer.status != 504).then(|| answer.text())
    }
}

fn assert_all(answers: &[Response], status: u16, body: &str, why: &str) {
    assert_eq!(answers.len(), N);
    for answer in answers {
        let seen = (answer.status, answer.text(), answer.end);
        assert_eq!(seen, (status, body.to_owned(), End::Whole), "{why}: {}", answer.cache_status());
    }
}

fn collapsed(answers: &[Response]) -> usize {
    answers.iter().filter(|answer| answer.cache_status().contains("; collapsed")).count()
}

#[tokio::test]
async fn a_200_is_fetched_once_for_all_and_stored() {
    bounded(async {
        let framings = [Answer::new(200, &[], "new"), Answer::chunked(200, &[], &[b"n", b"ew"])];
        for (start, answer) in BOTH.into_iter().flat_map(|s| framings.clone().map(|a| (s, a))) {
            let scene = Scene::new(start, OVERRIDE, answer).await;
            let answers = scene.play().await;
            assert_all(&answers, 200, "new", &format!("{start:?}"));
            assert_eq!(collapsed(&answers), N - 1, "{start:?}");
            assert_eq!(scene.calls(), 1, "{start:?}");
            assert_eq!(scene.stored().await.as_deref(), Some("new"), "{start:?}");
            scene.larder.counts("larder_coalesced_requests_total{route=\"api\"}", 49.0).await;
            let why = if start == Start::Cold { "uri-miss" } else { "stale" };
            for answer in &answers {
                let says = format!("larder; fwd={why}; fwd-status=200; stored; ttl=60");
                assert!(answer.cache_status().starts_with(&says), "{}", answer.cache_status());
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_304_confirms_once_for_all_who_wait() {
    bounded(async {
        let answer = Answer::raw("HTTP/1.1 304 x\r\nETag: \"old\"\r\nX-New: 1\r\n\r\n");
        let scene = Scene::new(Start::Stale, OVERRIDE, answer).await;
        let answers = scene.play().await;
        assert_all(&answers, 200, "old", "304");
        assert_eq!((collapsed(&answers), scene.calls()), (N - 1, 1));
        for answer in &answers {
            assert!(answer.cache_status().contains("fwd-status=304"), "{}", answer.cache_status());
            assert_eq!(answer.field("x-new"), Some("1"), "freshened for all");
        }
        let asked = scene.origin.seen().pop().unwrap();
        assert_eq!(asked.field("if-none-match"), Some("\"old\""));
        let hit = scene.larder.get("/x").await;
        assert_eq!((hit.field("x-new"), hit.cache_status()), (Some("1"), "larder; hit; ttl=60"));
        assert_eq!(scene.calls(), 1);
    })
    .await;
}

/// With nothing stored a client's own condition is its own question: the origin answers each.
#[tokio::test]
async fn conditional_requests_on_nothing_each_get_the_origins_word() {
    bounded(async {
        let scene =
            Scene::new(Start::Cold, OVERRIDE, Answer::raw("HTTP/1.1 304 x\r\nETag: \"c\"\r\n\r\n"))
                .await;
        let crowd =
            Crowd::asks(&scene.larder, N, "/x", |_| vec!["If-None-Match: \"c\"".into()]).await;
        scene.origin.reached(N).await;
        scene.gate.open();
        assert_all(&crowd.answers().await, 304, "", "conditional");
        assert_eq!((scene.calls(), scene.stored().await), (N, None));
        // Nor does that say anything about requests without a condition.
        let gate = Gate::new();
        let whole = Answer::new(200, &[], "whole").after(&gate);
        scene.origin.now(move |_| whole.clone());
        let crowd = Crowd::plain(&scene.larder, N, "/x").await;
        scene.larder.waiting(N).await;
        gate.open();
        assert_all(&crowd.answers().await, 200, "whole", "afterwards");
        assert_eq!(scene.calls(), N + 1);
    })
    .await;
}

#[tokio::test]
async fn an_origins_error_is_asked_for_once_and_hidden_by_what_is_stale() {
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
                let why = format!("{status} {fields:?} {start:?}");
                let scene = Scene::new(start, OVERRIDE, Answer::new(status, fields, "no")).await;
                let answers = scene.play().await;
                assert_eq!(scene.calls(), 1, "{why}");
                match start {
                    Start::Cold => {
                        assert_all(&answers, status, "no", &why);
                        assert_eq!(collapsed(&answers), N - 1, "{why}");
                        for answer in &answers {
                            let told = answer.field("retry-after");
                            assert_eq!(told, fields.first().map(|_| "7"), "{why}");
                        }
                        assert_eq!(scene.stored().await, None, "{why}");
                    }
                    Start::Stale => {
                        assert_all(&answers, 200, "old", &why);
                        let says = format!(
                            "fwd-status={status}; ttl=-1; detail=\"stale-if-error/{cause}\""
                        );
                        for answer in &answers {
                            assert_eq!(answer.cache_status(), format!("larder; fwd=stale; {says}"));
                            assert_eq!(answer.field("retry-after"), None, "{why}");
                        }
                        assert_eq!(scene.stored().await.as_deref(), Some("old"), "{why}");
                        let series =
                            format!("larder_stale_served_total{{cause=\"{cause}\",route=\"api\"}}");
                        scene.larder.counts(&series, 50.0).await;
                    }
                }
            }
        }
    })
    .await;
}

/// Between the look-up of the name and the refusal lies a gate, so that all wait for one attempt.
#[tokio::test]
async fn a_refused_connection_is_tried_once_and_hidden_by_what_is_stale() {
    bounded(async {
        for start in BOTH {
            let dns = crate::dns::Dns::start(|_, _| vec![[127, 0, 0, 1].into()]).await;
            let prime = Answer::new(200, &["Connection: close"], "old").then([Step::Close]);
            let origin = Origin::always(prime).await;
            let port = origin.addr.port();
            let larder = Larder::with_parts(
                "routes:\n  - name: api\n    match: { host: slow.test }\n    ttl: 1m\n",
                larder::server::ServerDeps { name_server: Some(dns.addr), ..Default::default() },
            )
            .await;
            let url = format!("http://slow.test:{port}/x");
            if start == Start::Stale {
                assert_eq!(larder.client().await.get(&url, &[]).await.text(), "old");
                larder.clock.advance(Duration::from_secs(61));
            }
            let gate = dns.hold();
            origin.close().await;
            let mut asking = Vec::new();
            for _ in 0..N {
                let (mut client, url) = (larder.client().await, url.clone());
                asking.push(tokio::spawn(async move { client.get(&url, &[]).await }));
            }
            larder.waiting(N).await;
            gate.open();
            let mut answers = Vec::new();
            for asked in asking {
                answers.push(asked.await.unwrap());
            }
            let refused = "larder_upstream_requests_total{code=\"connect-refused\",route=\"api\",upstream=\"none\"}";
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
                        let says = "larder; fwd=stale; ttl=-1; detail=\"stale-if-error/connect-refused\"";
                        assert_eq!(answer.cache_status(), says);
                    }
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_closed_without_an_answer_is_one_call_for_all() {
    bounded(async {
        for start in BOTH {
            let scene = Scene::new(start, OVERRIDE, Answer::closed()).await;
            let answers = scene.play().await;
            assert_eq!(scene.calls(), 1, "{start:?}");
            match start {
                Start::Cold => {
                    for answer in &answers {
                        assert_eq!((answer.status, answer.end), (502, End::Whole));
                        assert!(
                            answer.text().contains("\"class\":\"closed\""),
                            "{}",
                            answer.text()
                        );
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

/// Nobody takes a cut body for a whole one, and nobody after them gets it.
#[tokio::test]
async fn a_cut_body_is_cut_for_all_and_stored_for_none() {
    let head = "HTTP/1.1 200 x\r\nETag: \"cut\"\r\n";
    let rows = [
        ("after the head", format!("{head}Content-Length: 9\r\n\r\n").into_bytes(), ""),
        ("length", format!("{head}Content-Length: 9\r\n\r\nhalf").into_bytes(), "half"),
        (
            "chunked",
            format!("{head}Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").into(),
            "half",
        ),
        ("in a chunk", format!("{head}Transfer-Encoding: chunked\r\n\r\n9\r\nhalf").into(), "half"),
    ];
    bounded(async {
        for (name, bytes, seen) in rows {
            for start in BOTH {
                let answer = Answer::raw(bytes.clone()).then([Step::Close]);
                let scene = Scene::new(start, OVERRIDE, answer).await;
                let answers = scene.play().await;
                for answer in &answers {
                    let got = (answer.status, answer.text(), answer.end);
                    assert_eq!(got, (200, seen.to_owned(), End::Cut), "{name} {start:?}");
                }
                assert_eq!(scene.calls(), 1, "{name} {start:?}");
                let kept = (start == Start::Stale).then(|| "old".to_owned());
                assert_eq!(scene.stored().await, kept, "{name} {start:?}");
                let next = scene.larder.get("/x").await;
                assert_eq!(next.end, End::Cut, "the next one asks anew");
                assert_eq!(scene.calls(), 2, "{name} {start:?}");
            }
        }
    })
    .await;
}

/// It takes its six seconds: the deadline is a real one.
#[tokio::test]
async fn a_time_out_is_one_call_for_all_and_hidden_by_what_is_stale() {
    let upstream =
        "upstreams: { up: { hosts: [api.example.test], timeouts: { first_byte: 3s } } }\n";
    bounded(async {
        for start in BOTH {
            let yaml = format!("{upstream}{}", route(OVERRIDE));
            let scene = Scene::with(start, &yaml, Answer::new(200, &[], "never")).await;
            let crowd = Crowd::plain(&scene.larder, N, "/x").await;
            scene.larder.waiting(N).await;
            let answers = crowd.answers().await;
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
                    assert!(
                        answers[0].cache_status().contains("stale-if-error/first-byte-timeout")
                    );
                }
            }
            assert_eq!(scene.larder.server.waiting(), 0, "nobody is left waiting");
        }
    })
    .await;
}

#[tokio::test]
async fn a_slow_drip_is_fetched_once_and_seen_by_all_as_it_comes() {
    bounded(async {
        for start in BOTH {
            let (second, last) = (Gate::new(), Gate::new());
            let drip = Answer::chunked_open(200, &[], &[b"a"]).then([
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
                client.ask("GET", &format!("{API}/x"), &[]).await;
                clients.push(client);
            }
            scene.larder.waiting(N).await;
            scene.gate.open();
            for client in &mut clients {
                client.reads("1\r\na\r\n").await;
            }
            second.open();
            for client in &mut clients {
                client.reads("1\r\nb\r\n").await;
            }
            assert_ne!(scene.stored().await.as_deref(), Some("abc"), "not before its end");
            last.open();
            for client in &mut clients {
                let answer = client.answer("GET").await.unwrap();
                assert_eq!((answer.text().as_str(), answer.end), ("abc", End::Whole));
            }
            assert_eq!(scene.calls(), 1, "{start:?}");
            assert_eq!(scene.stored().await.as_deref(), Some("abc"));
        }
    })
    .await;
}

/// An origin that counts how many of its calls wait for their head at once, and gives every call a
/// body of its own.
struct Counting {
    waiting: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Counting {
    /// The first call waits for `gate`, the others for `hold`.
    fn at(
        origin: &Origin,
        fields: &'static [&'static str],
        before: usize,
        gate: &Gate,
        hold: &Gate,
    ) -> Self {
        let counting = Self { waiting: Arc::default(), most: Arc::default() };
        let (waiting, most) = (Arc::clone(&counting.waiting), Arc::clone(&counting.most));
        let (gate, hold) = (gate.clone(), hold.clone());
        origin.now(move |seen| {
            let first = seen.index == before;
            let now = waiting.fetch_add(1, Ordering::SeqCst) + 1;
            if !first {
                most.fetch_max(now, Ordering::SeqCst);
            }
            let done = Arc::clone(&waiting);
            let answered = Step::Do(Arc::new(move || {
                done.fetch_sub(1, Ordering::SeqCst);
            }));
            let mut answer = Answer::new(200, fields, format!("call {}", seen.index));
            answer.0.insert(0, answered);
            answer.after(if first { &gate } else { &hold })
        });
        counting
    }
}

async fn each_its_own(start: Start, policy: &[&str], fields: &'static [&'static str]) {
    let scene = Scene::new(start, policy, Answer::hung()).await;
    let hold = Gate::new();
    let counting = Counting::at(&scene.origin, fields, scene.before, &scene.gate, &hold);
    let crowd = Crowd::plain(&scene.larder, N, "/x").await;
    scene.larder.waiting(N).await;
    assert_eq!(scene.calls(), 1, "while they wait");
    scene.gate.open();
    // Once the head says so nobody waits for anybody.
    scene.origin.reached(scene.before + N).await;
    hold.open();
    let answers = crowd.answers().await;
    let bodies: BTreeSet<String> = answers.iter().map(Response::text).collect();
    assert_eq!(bodies.len(), N, "everyone has an answer of its own");
    assert_eq!(collapsed(&answers), 0);
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.end == End::Whole));
    assert_eq!(scene.calls(), N);
    assert_eq!(counting.most.load(Ordering::SeqCst), N - 1, "at once");
    let kept = (start == Start::Stale).then(|| "old".to_owned());
    assert_eq!(scene.stored().await, kept);

    // The second burst does not wait for anybody, as long as the verdict is remembered.
    let (gate, before) = (Gate::new(), scene.origin.calls());
    let second = Answer::new(200, fields, "second").after(&gate);
    scene.origin.now(move |_| second.clone());
    let crowd = Crowd::plain(&scene.larder, N, "/x").await;
    scene.origin.reached(before + N).await;
    gate.open();
    assert_all(&crowd.answers().await, 200, "second", "second burst");

    scene.larder.clock.advance(Duration::from_secs(31));
    let (gate, before) = (Gate::new(), scene.origin.calls());
    let third = Answer::new(200, fields, "third").after(&gate);
    scene.origin.now(move |_| third.clone());
    let crowd = Crowd::plain(&scene.larder, N, "/x").await;
    scene.larder.waiting(N).await;
    assert_eq!(scene.origin.calls(), before + 1, "they wait again");
    gate.open();
    assert_all(&crowd.answers().await, 200, "third", "third burst");
    assert_eq!(scene.origin.calls(), before + N);
}

#[tokio::test]
async fn an_uncacheable_answer_is_its_askers_alone_and_remembered_for_30s() {
    bounded(async {
        for start in BOTH {
            each_its_own(start, ORIGIN, &["Cache-Control: no-store"]).await;
        }
    })
    .await;
}

#[tokio::test]
async fn cch_19_a_private_answer_is_its_askers_alone() {
    bounded(async {
        for start in BOTH {
            each_its_own(start, ORIGIN, &["Cache-Control: private, max-age=60"]).await;
        }
    })
    .await;
}

#[tokio::test]
async fn cch_19_an_answer_with_set_cookie_is_its_askers_alone() {
    bounded(async {
        for start in BOTH {
            each_its_own(start, OVERRIDE, &["Set-Cookie: sid=1", "Cache-Control: max-age=60"])
                .await;
        }
    })
    .await;
}

/// An error that is somebody's own is not shared either.
#[tokio::test]
async fn cch_19_a_private_error_is_its_askers_alone() {
    bounded(async {
        for fields in [&["Cache-Control: private"][..], &["Set-Cookie: sid=1"]] {
            let scene = Scene::new(Start::Cold, ORIGIN, Answer::hung()).await;
            let gate = scene.gate.clone();
            scene.origin.now(move |seen| {
                Answer::new(503, fields, format!("call {}", seen.index)).after(&gate)
            });
            let answers = scene.play().await;
            let bodies: BTreeSet<String> = answers.iter().map(Response::text).collect();
            assert_eq!((bodies.len(), scene.calls()), (N, N), "{fields:?}");
            assert!(answers.iter().all(|answer| answer.status == 503));
        }
    })
    .await;
}

/// A 304 that says `private` or brings a cookie confirms the answer for its asker only.
#[tokio::test]
async fn cch_19_a_304_that_is_private_or_brings_a_cookie_confirms_for_its_asker_only() {
    bounded(async {
        for field in ["Cache-Control: private", "Set-Cookie: sid=SECRET"] {
            let scene = Scene::new(Start::Stale, ORIGIN, Answer::hung()).await;
            let gate = scene.gate.clone();
            scene.origin.now(move |seen| {
                let call = seen.index;
                let head =
                    format!("HTTP/1.1 304 x\r\nETag: \"old\"\r\nX-Call: {call}\r\n{field}\r\n\r\n");
                Answer::raw(head).after(&gate)
            });
            let answers = scene.play().await;
            assert_all(&answers, 200, "old", field);
            let calls: BTreeSet<_> = answers.iter().map(|a| a.field("x-call").unwrap()).collect();
            assert_eq!((calls.len(), scene.calls()), (N, N), "{field}: each its own 304");
            assert_eq!(collapsed(&answers), 0, "{field}");
            let kept =
                scene.larder.get_with("/x", &["Cache-Control: only-if-cached, max-stale"]).await;
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
            let scene = Scene::new(start, OVERRIDE, Answer::hung()).await;
            let gate = scene.gate.clone();
            scene.origin.now(move |seen| {
                let lang = seen.field("x-lang").unwrap_or("none").to_owned();
                Answer::new(200, &["Vary: X-Lang"], lang).after(&gate)
            });
            for round in ["fetched", "stored"] {
                let crowd = Crowd::asks(&scene.larder, N, "/x", language).await;
                if round == "fetched" {
                    scene.larder.waiting(N).await;
                    scene.gate.open();
                }
                for (place, answer) in crowd.answers().await.into_iter().enumerate() {
                    let mine = format!("l{}", place % LANGUAGES);
                    assert_eq!((answer.text(), answer.end), (mine, End::Whole), "{start:?}");
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
async fn an_endless_event_stream_is_everyones_own_and_ends_with_its_client() {
    bounded(async {
        for start in BOTH {
            let fields = ["Content-Type: text/event-stream"];
            let events =
                Answer::chunked_open(200, &fields, &[b"data: 1\n\n"]).then([Step::UntilGone]);
            let scene = Scene::new(start, OVERRIDE, events).await;
            let mut clients = Vec::new();
            for _ in 0..N {
                let mut client = scene.larder.client().await;
                client.ask("GET", &format!("{API}/x"), &[]).await;
                clients.push(client);
            }
            scene.larder.waiting(N).await;
            scene.gate.open();
            for client in &mut clients {
                client.reads("data: 1\n\n").await;
            }
            assert_eq!(scene.calls(), N, "{start:?}");
            drop(clients);
            scene.origin.left(N).await;
            let kept = (start == Start::Stale).then(|| "old".to_owned());
            assert_eq!(scene.stored().await, kept, "{start:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn ups_12_the_leaders_client_goes_and_the_others_get_everything() {
    bounded(async {
        for start in BOTH {
            let body = "x".repeat(200_000);
            let scene = Scene::new(start, OVERRIDE, Answer::new(200, &[], &body)).await;
            let mut leader = scene.larder.client().await;
            leader.ask("GET", &format!("{API}/x"), &[]).await;
            scene.larder.waiting(1).await;
            let crowd = Crowd::plain(&scene.larder, N - 1, "/x").await;
            scene.larder.waiting(N).await;
            socket2::SockRef::from(&leader.stream).set_linger(Some(Duration::ZERO)).unwrap();
            drop(leader);
            scene.larder.waiting(N - 1).await;
            scene.gate.open();
            for answer in crowd.answers().await {
                assert_eq!((answer.status, answer.end), (200, End::Whole));
                assert_eq!(answer.body.len(), body.len());
            }
            assert_eq!(scene.calls(), 1, "{start:?}");
            assert_eq!(scene.stored().await.map(|kept| kept.len()), Some(body.len()));
        }
    })
    .await;
}

#[tokio::test]
async fn waiters_clients_go_and_the_others_get_everything() {
    bounded(async {
        for start in BOTH {
            let scene = Scene::new(start, OVERRIDE, Answer::new(200, &[], "new")).await;
            let mut crowd = Crowd::plain(&scene.larder, N + 10, "/x").await;
            scene.larder.waiting(N + 10).await;
            crowd.leave(10);
            scene.larder.waiting(N).await;
            scene.gate.open();
            assert_all(&crowd.answers().await, 200, "new", "the rest");
            assert_eq!(scene.calls(), 1, "{start:?}");
            assert_eq!(scene.stored().await.as_deref(), Some("new"));
        }
    })
    .await;
}

/// The answer is stored though nobody is left to read it.
#[tokio::test]
async fn all_clients_go_and_the_answer_is_stored_all_the_same() {
    bounded(async {
        for start in BOTH {
            let rest = Gate::new();
            let answer = Answer::chunked_open(200, &[], &[b"new "])
                .then([Step::Wait(rest.clone()), Step::Write(chunk(b"and whole"))])
                .then([Step::Write(b"0\r\n\r\n".to_vec())]);
            let scene = Scene::new(start, OVERRIDE, answer).await;
            let mut crowd = Crowd::plain(&scene.larder, N, "/x").await;
            scene.larder.waiting(N).await;
            crowd.leave(N);
            scene.larder.waiting(0).await;
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

/// Who insists on the origin's word gets it, whether or not others wait, and nobody waits for it.
#[tokio::test]
async fn requests_that_insist_are_never_joined_and_never_join() {
    bounded(async {
        for start in BOTH {
            for insists in
                ["Cache-Control: no-cache", "Cache-Control: max-age=0", "Pragma: no-cache"]
            {
                let scene = Scene::new(start, OVERRIDE, Answer::new(200, &[], "new")).await;
                let others = Crowd::plain(&scene.larder, 10, "/x").await;
                scene.larder.waiting(10).await;
                let crowd = Crowd::asks(&scene.larder, N, "/x", |_| vec![insists.into()]).await;
                scene.origin.reached(scene.before + 1 + N).await;
                assert_eq!(scene.larder.server.waiting(), 10, "{insists} {start:?}");
                scene.gate.open();
                let answers = crowd.answers().await;
                assert_all(&answers, 200, "new", insists);
                assert_eq!(collapsed(&answers), 0, "{insists}");
                assert_eq!(collapsed(&others.answers().await), 9, "{insists}");
                assert_eq!(scene.calls(), 1 + N, "{insists} {start:?}");
            }
        }
    })
    .await;
}

/// CCH-20: nobody waits for another user's answer.
#[tokio::test]
async fn cch_20_fifty_users_are_fifty_calls_and_fifty_answers() {
    bounded(async {
        let scene = Scene::new(Start::Cold, OVERRIDE, Answer::hung()).await;
        let gate = scene.gate.clone();
        scene.origin.now(move |seen| {
            Answer::new(200, &[], seen.field("authorization").unwrap_or("nobody")).after(&gate)
        });
        let user = |place: usize| vec![format!("Authorization: Bearer u{place}")];
        let crowd = Crowd::asks(&scene.larder, N, "/x", user).await;
        scene.larder.waiting(N).await;
        scene.origin.reached(N).await;
        scene.gate.open();
        for (place, answer) in crowd.answers().await.into_iter().enumerate() {
            assert_eq!(answer.text(), format!("Bearer u{place}"));
            assert!(!answer.cache_status().contains("collapsed"));
        }
        let again = Crowd::asks(&scene.larder, N, "/x", user).await;
        for (place, answer) in again.answers().await.into_iter().enumerate() {
            assert_eq!(answer.text(), format!("Bearer u{place}"));
            assert!(answer.cache_status().starts_with("larder; hit"));
        }
        assert_eq!(scene.calls(), N);
    })
    .await;
}
