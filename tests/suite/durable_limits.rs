//! Limits hold across kills and stops, for concurrent requests and for clients that disconnect.

use std::ffi::OsStr;
use std::fs;
use std::time::SystemTime;

use larder::store::state_db::{RowOwner, StateDb};
use larder::telemetry::cost::CostReport;

use crate::client::Client;
use crate::concurrent::{ConcurrentRequests, bounded};
use crate::cost::copy_tree;
use crate::failing_origin::error_class;
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Gate, MockResponse, Origin, Step};
use crate::process::{ConfigDir, Process, eventually};

// ---- kills and stops

/// `api.example.test` as the upstream `api` with these keys, without retries.
fn config_dir_for(origin: &Origin, upstream: &str) -> ConfigDir {
    let resolve = format!("resolve: {{ api.example.test: \"{}\" }}", origin.addr);
    let free = "listen: 127.0.0.1:0\nadmin: { listen: 127.0.0.1:0 }\ndefaults: { retry: off }";
    let upstream = format!("upstreams: {{ api: {{ hosts: [api.example.test], {upstream} }} }}");
    let route = route(&["ttl: 1h", "scope: shared"]);
    ConfigDir::with(&format!("version: 1\n{free}\n{resolve}\n{upstream}\n{route}"))
}

fn run(config_dir: &ConfigDir) -> Process {
    Process::start(&[OsStr::new("run"), config_dir.config.as_os_str()])
}

/// Requests `path` on a new connection; returns the status and the class of larder's error.
async fn get(larder: &Process, path: &str) -> (u16, String) {
    let mut client = Client::connect(larder.addr().await).await;
    let answer = client.get(&format!("{API}{path}"), &[]).await;
    (answer.status, error_class(&answer))
}

async fn stop(mut larder: Process, signal: &str) {
    larder.signal(signal);
    larder.wait_for_exit().await;
}

/// Whether exactly `rows` rows of limits would survive a kill at this moment.
fn are_stored(config_dir: &ConfigDir, rows: usize) -> bool {
    let copy = tempfile::tempdir().unwrap();
    let from = config_dir.directory.path().join("larder-data/state/db");
    // A file may disappear during the copy; the next copy is complete.
    if copy_tree(&from, &copy.path().join("db")).is_err() {
        return false;
    }
    let Ok((state, _)) = StateDb::open(copy.path(), SystemTime::UNIX_EPOCH) else { return false };
    let stored = state.take_rows(RowOwner::Limits).len();
    state.close();
    stored == rows
}

#[tokio::test]
async fn a_crash_loop_does_not_spend_a_quota() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(200, &[], "here")).await;
        let config_dir = config_dir_for(&origin, "rate_limit: { limit: 2/d, max_wait: 0s }");
        for start in 0..4 {
            let larder = run(&config_dir);
            let response = get(&larder, &format!("/{start}")).await;
            let expected = if start < 2 { (200, "") } else { (429, "rate_limit") };
            assert_eq!((response.0, response.1.as_str()), expected, "start {start}");
            // The kill may follow at once: the call was on disk before it was sent.
            stop(larder, if start < 3 { "KILL" } else { "TERM" }).await;
        }
        assert_eq!(get(&run(&config_dir), "/stopped").await, (429, "rate_limit".to_owned()));
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_crash_loop_does_not_earn_a_ban() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(401, &[], "no")).await;
        let guard = "ban_guard: { statuses: [401], limit: 5/10m, trip_at: 0.8 }";
        let config_dir = config_dir_for(&origin, guard);
        for start in 0..4 {
            let larder = run(&config_dir);
            assert_eq!(get(&larder, &format!("/{start}")).await.0, 401, "start {start}");
            if start == 0 {
                eventually("a count", || are_stored(&config_dir, 1)).await;
            }
            stop(larder, if start == 0 { "KILL" } else { "TERM" }).await;
        }
        let larder = run(&config_dir);
        assert_eq!(get(&larder, "/banned").await, (429, "ban_guard".to_owned()));
        assert_eq!(origin.calls(), 4);
    })
    .await;
}

#[tokio::test]
async fn a_retry_after_of_the_api_survives_a_kill() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(429, &["Retry-After: 3000"], "later")).await;
        let config_dir = config_dir_for(&origin, "rate_limit: { max_wait: 0s }");
        let larder = run(&config_dir);
        assert_eq!(get(&larder, "/x").await.0, 429);
        eventually("a cooldown", || are_stored(&config_dir, 1)).await;
        stop(larder, "KILL").await;
        origin.set_script(|_| MockResponse::new(200, &[], "here"));
        let larder = run(&config_dir);
        assert_eq!(get(&larder, "/y").await, (429, "rate_limited".to_owned()));
        assert_eq!(origin.calls(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_start_with_an_unreadable_state_uses_no_disk_and_loses_nothing() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(200, &[], "here")).await;
        let config_dir = config_dir_for(&origin, "rate_limit: { limit: 2/d, max_wait: 0s }");
        let larder = run(&config_dir);
        assert_eq!(get(&larder, "/0").await.0, 200);
        assert_eq!(get(&larder, "/1").await.0, 200);
        stop(larder, "TERM").await;
        // A directory instead of the file: no user can open it as a database.
        let state = config_dir.directory.path().join("larder-data/state");
        let (file, moved) = (state.join("db/db"), state.join("away"));
        fs::rename(&file, &moved).unwrap();
        fs::create_dir(&file).unwrap();
        let larder = run(&config_dir);
        let mut admin = Client::connect(larder.admin().await).await;
        admin.send("GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let ready = admin.response("GET").await.expect("an answer");
        assert!(ready.text().contains("memory only"), "{}", ready.text());
        assert!(ready.text().contains("left as it is"), "{}", ready.text());
        assert_eq!(get(&larder, "/0").await.0, 200);
        assert_eq!(origin.calls(), 3, "the purges are unknown, so no stored response is used");
        stop(larder, "TERM").await;
        fs::remove_dir(&file).unwrap();
        fs::rename(&moved, &file).unwrap();
        let larder = run(&config_dir);
        assert_eq!(get(&larder, "/1").await.0, 200);
        assert_eq!(origin.calls(), 3, "stored responses are used again");
        assert_eq!(get(&larder, "/2").await, (429, "rate_limit".to_owned()), "and so are the counts");
        assert_eq!(fs::read_dir(&state).unwrap().count(), 2, "the secret and the database");
    })
    .await;
}

#[tokio::test]
async fn without_a_disk_limits_start_anew_and_no_call_waits() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(200, &[], "here")).await;
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

// ---- budgets and calls in flight

fn cost_report(larder: &Larder) -> CostReport {
    larder.server.admin_api().cost().remove(0)
}

fn approx_equals(amount: f64, expected: f64) -> bool {
    (amount - expected).abs() < 1e-9
}

fn costing(cost: &str) -> String {
    let upstream = format!("{{ hosts: [api.example.test], cost: {{ {cost} }} }}");
    format!("upstreams: {{ api: {upstream} }}\n{}", route(&["ttl: 1h", "scope: shared"]))
}

#[tokio::test]
async fn fifty_concurrent_requests_spend_no_more_than_the_budget() {
    bounded(async {
        let gate = Gate::new();
        let origin = Origin::always(MockResponse::new(200, &[], "here").after(&gate)).await;
        let yaml = costing("credits: 1, budget: { credits: 5/day, at_limit: refuse }");
        let larder = Larder::start(&origin, &yaml).await;
        let crowd = ConcurrentRequests::send_to_each_path(&larder, 50, "/x").await;
        origin.wait_for_calls(5).await;
        gate.open();
        let mut statuses: Vec<_> = crowd.responses().await.iter().map(|answer| answer.status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [[200; 5].as_slice(), &[429; 45]].concat());
        assert_eq!(origin.calls(), 5);
        assert!(approx_equals(cost_report(&larder).today.credits, 5.0), "{:?}", cost_report(&larder));
    })
    .await;
}

#[tokio::test]
async fn sequential_requests_spend_a_budget_to_its_last_credit() {
    bounded(async {
        let body = "{\"n\":1}";
        let fields = ["Content-Type: application/json", "X-Credits: 1"];
        let origin = Origin::always(MockResponse::new(200, &fields, body)).await;
        for credits in ["1", "{ header: X-Credits }", "\"$.n\""] {
            let before = origin.calls();
            let budget = "budget: { credits: 5/day, at_limit: refuse }";
            let yaml = costing(&format!("credits: {credits}, {budget}"));
            let larder = Larder::start(&origin, &yaml).await;
            let mut client = larder.client().await;
            for call in 0..7 {
                let url = format!("{API}/{call}");
                // Both paths: a cached route, and the pass-through.
                let method = if call % 2 == 0 { "GET" } else { "OPTIONS" };
                client.send_request(method, &url, &[]).await;
                let status = client.response(method).await.unwrap().status;
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

// ---- clients that disconnect

/// An upstream whose responses contain their price in JSON.
fn priced() -> String {
    costing("currency: USD, per_credit: 0.01, credits: \"$.status.credit_count\"")
}

/// The head of a JSON response of `length` bytes, and the first bytes of its body.
fn partial_json(length: usize, body: &str) -> MockResponse {
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
    MockResponse::raw(format!("{head}{body}"))
}

/// Waits for `calls` charged calls and checks their credits.
async fn until_charged(larder: &Larder, calls: u64, credits: f64) {
    larder.wait_until("it is charged", |larder| cost_report(larder).today.calls == calls).await;
    assert!(approx_equals(cost_report(larder).today.credits, credits), "{:?}", cost_report(larder));
}

#[tokio::test]
async fn a_post_whose_client_disconnects_is_charged_once() {
    bounded(async {
        let (body, gate) = ("{\"status\":{\"credit_count\":3}}", Gate::new());
        let release = gate.clone();
        let origin = Origin::start(move |seen| match seen.target.as_str() {
            "/whole" => partial_json(body.len(), body),
            "/left" => partial_json(200_000, body).then([Step::UntilDisconnect]),
            "/late" => partial_json(body.len(), body).after(&release),
            "/unanswered" => MockResponse(vec![Step::UntilDisconnect]),
            other => panic!("{other}"),
        })
        .await;
        let yaml = priced().replace("cost:", "timeouts: { first_byte: 2s }, cost:");
        let larder = Larder::start(&origin, &yaml).await;
        let posted = |path: &str, body: &str, length: usize| {
            format!("POST {API}{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}")
        };
        let mut client = larder.client().await;
        client.send(posted("/whole", "x", 1)).await;
        assert_eq!(client.response("POST").await.unwrap().status, 200);
        until_charged(&larder, 1, 3.0).await;
        // A disconnect during the response.
        let mut client = larder.client().await;
        client.send(posted("/left", "x", 1)).await;
        client.read_until("credit_count").await;
        drop(client);
        until_charged(&larder, 2, 6.0).await;
        origin.wait_for_disconnects(1).await;
        // A disconnect before the response, after the whole request: larder still receives the response.
        let mut client = larder.client().await;
        client.send(posted("/late", "x", 1)).await;
        origin.wait_for_calls(3).await;
        drop(client);
        larder.wait_for_metric("larder_requests_total{result=\"error\",route=\"none\"}", 2.0).await;
        gate.open();
        until_charged(&larder, 3, 9.0).await;
        // Without a response in time, larder assumes that the API has processed the call.
        let mut client = larder.client().await;
        client.send(posted("/unanswered", "x", 1)).await;
        origin.wait_for_calls(4).await;
        drop(client);
        until_charged(&larder, 4, 12.0).await;
        origin.wait_for_disconnects(2).await;
        // A disconnect during the request: no API processes half a request.
        let mut client = larder.client().await;
        client.send(posted("/unanswered", "x", 100)).await;
        larder.wait_until("its call is in flight", |larder| in_flight(larder) == 1).await;
        drop(client);
        larder.wait_until("it has ended", |larder| in_flight(larder) == 0).await;
        until_charged(&larder, 4, 12.0).await;
    })
    .await;
}

fn in_flight(larder: &Larder) -> usize {
    larder.server.admin_api().upstreams().remove(0).in_flight
}

#[tokio::test]
async fn an_unreadable_price_is_the_usual_one_and_an_error_costs_nothing() {
    bounded(async {
        let json = "Content-Type: application/json";
        let origin = Origin::start(move |seen| match seen.target.as_str() {
            "/priced" => MockResponse::new(200, &[json], "{\"status\":{\"credit_count\":4}}"),
            "/silent" => MockResponse::new(200, &[json], "{}"),
            "/broken" => MockResponse::new(200, &[json], "{\"status\":"),
            _ => MockResponse::new(500, &[], "no"),
        })
        .await;
        let larder = Larder::start(&origin, &priced()).await;
        let (mut calls, mut credits) = (0, 0.0);
        for (path, price) in [("/priced", 4.0), ("/silent", 0.0), ("/broken", 4.0), ("/error", 0.0)] {
            for method in ["GET", "POST"] {
                let mut client = larder.client().await;
                client.send_request(method, &format!("{API}{path}"), &["Content-Length: 0"]).await;
                client.response(method).await.unwrap();
                (calls, credits) = (calls + 1, credits + price);
                until_charged(&larder, calls, credits).await;
            }
        }
    })
    .await;
}
