//! Limits as promised: over kills and stops, for requests that come at once, for clients that leave.

use std::ffi::OsStr;
use std::fs;
use std::time::SystemTime;

use larder::store::state_db::{RowOwner, StateDb};
use larder::telemetry::cost::CostReport;

use crate::client::Client;
use crate::cost::copied;
use crate::crowd::{Crowd, bounded};
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Answer, Gate, Origin, Step};
use crate::process::{House, Process, eventually};
use crate::storm::class;

// ---- over kills and stops

/// `api.example.test` with these keys as the upstream `api`, nothing tried again.
fn housed(origin: &Origin, upstream: &str) -> House {
    let resolve = format!("resolve: {{ api.example.test: \"{}\" }}", origin.addr);
    let free = "listen: 127.0.0.1:0\nadmin: { listen: 127.0.0.1:0 }\ndefaults: { retry: off }";
    let upstream = format!("upstreams: {{ api: {{ hosts: [api.example.test], {upstream} }} }}");
    let route = route(&["ttl: 1h", "scope: shared"]);
    House::with(&format!("version: 1\n{free}\n{resolve}\n{upstream}\n{route}"))
}

fn run(house: &House) -> Process {
    Process::start(&[OsStr::new("run"), house.config.as_os_str()])
}

/// The status of an answer to a path of its own, and the class of larder's error.
async fn asked(larder: &Process, path: &str) -> (u16, String) {
    let mut client = Client::connect(larder.addr().await).await;
    let answer = client.get(&format!("{API}{path}"), &[]).await;
    (answer.status, class(&answer))
}

async fn ended(mut larder: Process, signal: &str) {
    larder.signal(signal);
    larder.ended().await;
}

/// Whether a larder that was killed now would leave so many rows of limits.
fn are_kept(house: &House, rows: usize) -> bool {
    let copy = tempfile::tempdir().unwrap();
    let from = house.directory.path().join("larder-data/state/db");
    // A file may go while it is copied: then the next copy is whole.
    if copied(&from, &copy.path().join("db")).is_err() {
        return false;
    }
    let Ok((state, _)) = StateDb::open(copy.path(), SystemTime::UNIX_EPOCH) else { return false };
    let kept = state.rows(RowOwner::Limits).len();
    state.close();
    kept == rows
}

#[tokio::test]
async fn a_crash_loop_does_not_spend_a_quota() {
    bounded(async {
        let origin = Origin::always(Answer::new(200, &[], "here")).await;
        let house = housed(&origin, "rate_limit: { limit: 2/d, max_wait: 0s }");
        for start in 0..4 {
            let larder = run(&house);
            let got = asked(&larder, &format!("/{start}")).await;
            let expected = if start < 2 { (200, "") } else { (429, "paced") };
            assert_eq!((got.0, got.1.as_str()), expected, "start {start}");
            // At once: the call was on disk before it went out.
            ended(larder, if start < 3 { "KILL" } else { "TERM" }).await;
        }
        assert_eq!(asked(&run(&house), "/stopped").await, (429, "paced".to_owned()));
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_crash_loop_does_not_earn_a_ban() {
    bounded(async {
        let origin = Origin::always(Answer::new(401, &[], "no")).await;
        let guard = "ban_guard: { statuses: [401], limit: 5/10m, trip_at: 0.8 }";
        let house = housed(&origin, guard);
        for start in 0..4 {
            let larder = run(&house);
            assert_eq!(asked(&larder, &format!("/{start}")).await.0, 401, "start {start}");
            if start == 0 {
                eventually("a count", || are_kept(&house, 1)).await;
            }
            ended(larder, if start == 0 { "KILL" } else { "TERM" }).await;
        }
        let larder = run(&house);
        assert_eq!(asked(&larder, "/banned").await, (429, "ban_guard".to_owned()));
        assert_eq!(origin.calls(), 4);
    })
    .await;
}

#[tokio::test]
async fn the_apis_own_word_holds_over_a_kill() {
    bounded(async {
        let origin = Origin::always(Answer::new(429, &["Retry-After: 3000"], "later")).await;
        let house = housed(&origin, "rate_limit: { max_wait: 0s }");
        let larder = run(&house);
        assert_eq!(asked(&larder, "/x").await.0, 429);
        eventually("a hold", || are_kept(&house, 1)).await;
        ended(larder, "KILL").await;
        origin.now(|_| Answer::new(200, &[], "here"));
        let larder = run(&house);
        assert_eq!(asked(&larder, "/y").await, (429, "rate_limited".to_owned()));
        assert_eq!(origin.calls(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_start_that_cannot_open_the_state_uses_nothing_on_disk_and_loses_nothing() {
    bounded(async {
        let origin = Origin::always(Answer::new(200, &[], "here")).await;
        let house = housed(&origin, "rate_limit: { limit: 2/d, max_wait: 0s }");
        let larder = run(&house);
        assert_eq!(asked(&larder, "/0").await.0, 200);
        assert_eq!(asked(&larder, "/1").await.0, 200);
        ended(larder, "TERM").await;
        // A directory in the place of the file: no user may open that.
        let state = house.directory.path().join("larder-data/state");
        let (file, away) = (state.join("db/db"), state.join("away"));
        fs::rename(&file, &away).unwrap();
        fs::create_dir(&file).unwrap();
        let larder = run(&house);
        let mut admin = Client::connect(larder.admin().await).await;
        admin.send("GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let ready = admin.answer("GET").await.expect("an answer");
        assert!(ready.text().contains("memory only"), "{}", ready.text());
        assert!(ready.text().contains("left as it is"), "{}", ready.text());
        assert_eq!(asked(&larder, "/0").await.0, 200);
        assert_eq!(origin.calls(), 3, "what was purged is unknown: nothing stored is used");
        ended(larder, "TERM").await;
        fs::remove_dir(&file).unwrap();
        fs::rename(&away, &file).unwrap();
        let larder = run(&house);
        assert_eq!(asked(&larder, "/1").await.0, 200);
        assert_eq!(origin.calls(), 3, "what is stored is usable again");
        assert_eq!(asked(&larder, "/2").await, (429, "paced".to_owned()), "and what was counted");
        assert_eq!(fs::read_dir(&state).unwrap().count(), 2, "the secret and the database");
    })
    .await;
}

#[tokio::test]
async fn without_a_disk_limits_begin_anew_and_nothing_waits() {
    bounded(async {
        let origin = Origin::always(Answer::new(200, &[], "here")).await;
        let limit = "upstreams: { api: { hosts: [api.example.test], rate_limit: { limit: 2/d, \
                     max_wait: 0s } } }";
        let yaml = format!("{limit}\n{}", route(&["ttl: 1h"]));
        for _ in 0..2 {
            let larder = Larder::start(&origin, &yaml).await;
            for (path, status) in [("/a", 200), ("/b", 200), ("/a", 200), ("/c", 429)] {
                assert_eq!(larder.get(path).await.status, status, "{path}");
            }
        }
        assert_eq!(origin.calls(), 4);
    })
    .await;
}

// ---- budgets and calls under way

fn spending(larder: &Larder) -> CostReport {
    larder.server.controls().cost().remove(0)
}

fn is(amount: f64, expected: f64) -> bool {
    (amount - expected).abs() < 1e-9
}

fn costing(cost: &str) -> String {
    let upstream = format!("{{ hosts: [api.example.test], cost: {{ {cost} }} }}");
    format!("upstreams: {{ api: {upstream} }}\n{}", route(&["ttl: 1h", "scope: shared"]))
}

#[tokio::test]
async fn fifty_requests_at_once_spend_no_more_than_the_budget() {
    bounded(async {
        let gate = Gate::new();
        let origin = Origin::always(Answer::new(200, &[], "here").after(&gate)).await;
        let yaml = costing("credits: 1, budget: { credits: 5/day, at_limit: refuse }");
        let larder = Larder::start(&origin, &yaml).await;
        let crowd = Crowd::plain_each(&larder, 50, "/x").await;
        origin.reached(5).await;
        gate.open();
        let mut statuses: Vec<_> =
            crowd.answers().await.iter().map(|answer| answer.status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [[200; 5].as_slice(), &[429; 45]].concat());
        assert_eq!(origin.calls(), 5);
        assert!(is(spending(&larder).today.credits, 5.0), "{:?}", spending(&larder));
    })
    .await;
}

#[tokio::test]
async fn one_request_after_another_spends_a_budget_to_its_last_credit() {
    bounded(async {
        let body = "{\"n\":1}";
        let fields = ["Content-Type: application/json", "X-Credits: 1"];
        let origin = Origin::always(Answer::new(200, &fields, body)).await;
        for credits in ["1", "{ header: X-Credits }", "\"$.n\""] {
            let before = origin.calls();
            let budget = "budget: { credits: 5/day, at_limit: refuse }";
            let yaml = costing(&format!("credits: {credits}, {budget}"));
            let larder = Larder::start(&origin, &yaml).await;
            let mut client = larder.client().await;
            for call in 0..7 {
                let url = format!("{API}/{call}");
                // Both ways out: a cached route's, and the pass-through.
                let method = if call % 2 == 0 { "GET" } else { "OPTIONS" };
                client.ask(method, &url, &[]).await;
                let status = client.answer(method).await.unwrap().status;
                assert_eq!(status, if call < 5 { 200 } else { 429 }, "{credits}, call {call}");
                if call >= 4 {
                    client = larder.client().await;
                }
            }
            assert_eq!(origin.calls() - before, 5, "{credits}");
        }
    })
    .await;
}

// ---- clients that leave

/// An upstream whose answers tell their price in JSON.
fn priced() -> String {
    costing("currency: USD, per_credit: 0.01, credits: \"$.status.credit_count\"")
}

/// The head of a JSON answer of so many bytes, and its first ones.
fn begun(length: usize, body: &str) -> Answer {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    Answer::raw(format!("{head}{body}"))
}

async fn booked(larder: &Larder, calls: u64, credits: f64) {
    larder.until("it is in the books", |larder| spending(larder).today.calls == calls).await;
    assert!(is(spending(larder).today.credits, credits), "{:?}", spending(larder));
}

#[tokio::test]
async fn a_post_whose_client_leaves_in_the_middle_is_in_the_books_once() {
    bounded(async {
        let (body, gate) = ("{\"status\":{\"credit_count\":3}}", Gate::new());
        let release = gate.clone();
        let origin = Origin::start(move |seen| match seen.target.as_str() {
            "/whole" => begun(body.len(), body),
            "/left" => begun(200_000, body).then([Step::UntilGone]),
            "/late" => begun(body.len(), body).after(&release),
            "/unanswered" => Answer(vec![Step::UntilGone]),
            other => panic!("{other}"),
        })
        .await;
        let yaml = priced().replace("cost:", "timeouts: { first_byte: 2s }, cost:");
        let larder = Larder::start(&origin, &yaml).await;
        let posted = |path: &str, body: &str, length: usize| {
            format!(
                "POST {API}{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}"
            )
        };
        let mut client = larder.client().await;
        client.send(posted("/whole", "x", 1)).await;
        assert_eq!(client.answer("POST").await.unwrap().status, 200);
        booked(&larder, 1, 3.0).await;
        // In the middle of the answer.
        let mut client = larder.client().await;
        client.send(posted("/left", "x", 1)).await;
        client.reads("credit_count").await;
        drop(client);
        booked(&larder, 2, 6.0).await;
        origin.left(1).await;
        // Before the answer came, all of the request having been sent: its answer is heard all the same.
        let mut client = larder.client().await;
        client.send(posted("/late", "x", 1)).await;
        origin.reached(3).await;
        drop(client);
        larder.counts("larder_requests_total{result=\"error\",route=\"none\"}", 2.0).await;
        gate.open();
        booked(&larder, 3, 9.0).await;
        // Where none comes in time, the API has done it all the same.
        let mut client = larder.client().await;
        client.send(posted("/unanswered", "x", 1)).await;
        origin.reached(4).await;
        drop(client);
        booked(&larder, 4, 12.0).await;
        origin.left(2).await;
        // In the middle of its own request: no API does half of one.
        let mut client = larder.client().await;
        client.send(posted("/unanswered", "x", 100)).await;
        larder.until("its call is under way", |larder| in_flight(larder) == 1).await;
        drop(client);
        larder.until("it has ended", |larder| in_flight(larder) == 0).await;
        booked(&larder, 4, 12.0).await;
    })
    .await;
}

fn in_flight(larder: &Larder) -> usize {
    larder.server.controls().upstreams().remove(0).in_flight
}

#[tokio::test]
async fn a_price_that_cannot_be_read_is_the_usual_one_and_an_errors_is_none() {
    bounded(async {
        let json = "Content-Type: application/json";
        let origin = Origin::start(move |seen| match seen.target.as_str() {
            "/told" => Answer::new(200, &[json], "{\"status\":{\"credit_count\":4}}"),
            "/silent" => Answer::new(200, &[json], "{}"),
            "/broken" => Answer::new(200, &[json], "{\"status\":"),
            _ => Answer::new(500, &[], "no"),
        })
        .await;
        let larder = Larder::start(&origin, &priced()).await;
        let (mut calls, mut credits) = (0, 0.0);
        for (path, price) in [("/told", 4.0), ("/silent", 0.0), ("/broken", 4.0), ("/error", 0.0)] {
            for method in ["GET", "POST"] {
                let mut client = larder.client().await;
                client.ask(method, &format!("{API}{path}"), &["Content-Length: 0"]).await;
                client.answer(method).await.unwrap();
                (calls, credits) = (calls + 1, credits + price);
                booked(&larder, calls, credits).await;
            }
        }
    })
    .await;
}
