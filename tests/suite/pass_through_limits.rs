//! Cooldowns and retries of pass-through calls, errors in response bodies, larder's own credential,
//! and the cost of calls.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use larder::policy::upstream::OverBudgetAction;
use larder::telemetry::cost::CostReport;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::client::{Client, End, Response};
use crate::concurrent::bounded;
use crate::failing_origin::{
    SECOND, api_status, cooldowns, error_class, expect_next_call, in_order, round_trip, start_get,
    too_many_requests, yaml,
};
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Gate, MockResponse, Origin, Step};
use crate::process::{ConfigDir, Process, run_larder, text};

const JSON: &str = "Content-Type: application/json";

/// Sends a request other than a `GET`; the task returns its response.
async fn start_request(
    larder: &Larder,
    method: &'static str,
    url: &str,
    body: &[u8],
) -> JoinHandle<Response> {
    let mut client = larder.client().await;
    let mut bytes = format!("{method} {url} HTTP/1.1\r\nHost: x\r\n").into_bytes();
    if method != "HEAD" {
        bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    client.send(bytes).await;
    tokio::spawn(async move { client.response(method).await.expect("a response") })
}

async fn post(larder: &Larder, path: &str) -> Response {
    start_request(larder, "POST", &format!("{API}{path}"), b"hi").await.await.unwrap()
}

fn unavailable() -> MockResponse {
    MockResponse::new(503, &["Retry-After: 2", "X-Own: kept"], "down")
}

/// `POST /replayed` may be retried, because its route allows it.
fn yaml_with_replay() -> String {
    let posts = "  - name: posts\n    match: { host: api.example.test, method: POST, path: /replayed }\n    \
                 retry: { methods: [POST] }\n";
    let others = "  - name: writes\n    match: { host: api.example.test, method: POST, path: /w }\n";
    format!("{}{posts}{others}", yaml("", &[]))
}

// ---- retries of pass-through calls

#[tokio::test]
async fn a_post_is_retried_with_its_body_if_its_route_allows_it() {
    bounded(async {
        let origin = Origin::start(in_order(vec![unavailable(), MockResponse::new(200, &[], "done")])).await;
        let larder = Larder::start(&origin, &yaml_with_replay()).await;
        let body = vec![b'x'; 60_000];
        let pending = start_request(&larder, "POST", &format!("{API}/replayed"), &body).await;
        expect_next_call(&larder, &origin, 2 * SECOND, 2 * SECOND).await;
        let answer = pending.await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "done"));
        assert!(answer.cache_status().ends_with("detail=\"retried/server-error\""), "{answer:?}");
        let seen = origin.requests();
        assert_eq!(seen.len(), 2);
        assert!(seen.iter().all(|seen| seen.method == "POST" && seen.body == body));
        origin.set_script(in_order(vec![unavailable(), MockResponse::new(200, &[], "done")]));
        let mut client = larder.client().await;
        let head = format!("POST {API}/replayed HTTP/1.1\r\nHost: x\r\n");
        client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")).await;
        expect_next_call(&larder, &origin, 2 * SECOND, 2 * SECOND).await;
        assert_eq!(client.response("POST").await.unwrap().text(), "done");
        assert_eq!(origin.requests()[3].body, b"abc");
        let retries = "larder_upstream_retries_total{cause=\"server-error\",upstream=\"api\"}";
        larder.wait_for_metric(retries, 2.0).await;
    })
    .await;
}

#[tokio::test]
async fn a_post_that_no_route_allows_or_that_is_too_long_is_not_retried() {
    bounded(async {
        let origin = Origin::always(unavailable()).await;
        let larder = Larder::start(&origin, &yaml_with_replay()).await;
        let long = vec![b'x'; 100_000];
        for (path, body) in [("/w", &b"hi"[..]), ("/elsewhere", b"hi"), ("/replayed", &long)] {
            let before = origin.calls();
            let pending = start_request(&larder, "POST", &format!("{API}{path}"), body).await;
            let answer = pending.await.unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (503, "down"), "{path}");
            assert_eq!(answer.field("x-own"), Some("kept"));
            assert_eq!(answer.field("retry-after"), Some("2"), "unchanged");
            assert_eq!((origin.calls() - before, larder.clock.sleepers()), (1, 0), "{path}");
            assert_eq!(origin.requests().last().unwrap().body, body);
        }
    })
    .await;
}

#[tokio::test]
async fn a_head_is_retried_like_a_get() {
    bounded(async {
        let origin =
            Origin::start(in_order(vec![unavailable(), MockResponse::new(200, &["X-Own: new"], "")])).await;
        let larder = Larder::start(&origin, &yaml("", &[])).await;
        let pending = start_request(&larder, "HEAD", &format!("{API}/x"), b"").await;
        expect_next_call(&larder, &origin, 2 * SECOND, 2 * SECOND).await;
        let answer = pending.await.unwrap();
        assert_eq!((answer.status, answer.field("x-own")), (200, Some("new")));
        assert!(origin.requests().iter().all(|seen| seen.method == "HEAD"));
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

#[tokio::test]
async fn if_the_breaker_would_block_a_retry_the_origins_error_is_passed_on() {
    bounded(async {
        let origin = Origin::always(unavailable()).await;
        let breaker = "breaker: { failures: 1, within: 30s, open_for: 60s }";
        let larder = Larder::start(&origin, &yaml(breaker, &[])).await;
        let answer = start_request(&larder, "HEAD", &format!("{API}/x"), b"").await.await.unwrap();
        assert_eq!((answer.status, answer.field("x-own")), (503, Some("kept")));
        assert_eq!((origin.calls(), larder.clock.sleepers()), (1, 0));
    })
    .await;
}

#[tokio::test]
async fn a_429_of_a_pass_through_call_blocks_all_calls_until_retry_after() {
    bounded(async {
        let origin = Origin::always(too_many_requests(&["Retry-After: 30"])).await;
        let larder = Larder::start(&origin, &yaml("", &[])).await;
        let first = post(&larder, "/w").await;
        assert_eq!((first.status, first.text().as_str()), (429, "slow down"));
        for answer in [post(&larder, "/w").await, larder.get("/cold").await] {
            assert_eq!((answer.status, error_class(&answer).as_str()), (429, "rate_limited"));
            assert_eq!(answer.field("retry-after"), Some("30"));
            // The API's own words for the same URL, larder's for another one.
            assert!(answer.cache_status().ends_with("/cooldown-rate-limited\""), "{answer:?}");
        }
        assert_eq!(origin.calls(), 1);
        larder.clock.advance(30 * SECOND);
        origin.set_script(|_| MockResponse::new(200, &[], "again"));
        assert_eq!(post(&larder, "/w").await.text(), "again");
        assert_eq!(larder.get("/cold").await.text(), "again");
    })
    .await;
}

// ---- errors in response bodies

/// `ok` must be true; code 8 is a limit per minute, code 9 is a daily quota.
const RULES: &str = "success: { json: { \"$.ok\": [true] } }, errors: [\
                     { json: { \"$.code\": [8] }, class: minute }, \
                     { json: { \"$.code\": [9] }, class: quota, hold: until-utc-midnight }]";

const GOOD: &str = "{\"ok\":true}";
const BAD: &str = "{\"ok\":false}";
const MINUTE: &str = "{\"ok\":false,\"code\":8}";
const QUOTA: &str = "{\"ok\":false,\"code\":9}";
/// The test clock starts at 08:00.
const TO_MIDNIGHT: &str = "57600";

fn json_response(body: &str) -> MockResponse {
    MockResponse::new(200, &[JSON], body)
}

fn gzip(body: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn a_200_with_an_error_in_its_body_is_replaced_by_a_stale_response() {
    bounded(async {
        let origin = Origin::always(json_response(GOOD)).await;
        let larder = Larder::start(&origin, &yaml(RULES, &["retry: off"])).await;
        larder.get("/x").await;
        larder.clock.advance(61 * SECOND);
        origin.set_script(|_| json_response(BAD));
        let stale = larder.get("/x").await;
        assert_eq!((stale.status, stale.text().as_str()), (200, GOOD));
        let expected = "larder; fwd=stale; fwd-status=200; ttl=-1; \
                        detail=\"stale-if-error/server-error\"";
        assert_eq!(stale.cache_status(), expected);
        let in_cooldown = larder.get("/x").await;
        assert!(
            in_cooldown.cache_status().contains("stale-if-error/cooldown-server-error"),
            "{in_cooldown:?}"
        );
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

#[tokio::test]
async fn without_a_stale_response_a_200_with_an_error_passes_and_is_not_stored() {
    bounded(async {
        for coded in [false, true] {
            let body = if coded { gzip(BAD) } else { BAD.as_bytes().to_vec() };
            let fields = if coded { vec![JSON, "Content-Encoding: gzip"] } else { vec![JSON] };
            let answer = MockResponse::new(200, &fields, &body);
            let origin = Origin::always(answer).await;
            let larder = Larder::start(&origin, &yaml(RULES, &["retry: off"])).await;
            for calls in 1..=2 {
                let passed = larder.get_with("/x", &["Accept-Encoding: gzip, br"]).await;
                assert_eq!((passed.status, &passed.body), (200, &body), "unchanged");
                assert_eq!(passed.cache_status(), "larder; fwd=uri-miss; fwd-status=200");
                assert_eq!(origin.calls(), calls);
            }
            let accept_encoding = origin.requests()[0].field("accept-encoding").map(str::to_owned);
            assert_eq!(accept_encoding.as_deref(), Some("gzip"), "the coding that larder can decode");
        }
    })
    .await;
}

#[tokio::test]
async fn a_rate_limit_in_the_body_only_is_retried_like_a_429() {
    bounded(async {
        let origin = Origin::start(in_order(vec![json_response(MINUTE), json_response(GOOD)])).await;
        let larder = Larder::start(&origin, &yaml(RULES, &["retry: { on: [429] }"])).await;
        let pending = start_get(&larder, "/x", &[]).await;
        expect_next_call(&larder, &origin, SECOND * 8 / 10, SECOND * 12 / 10).await;
        let answer = pending.await.unwrap();
        assert_eq!(answer.text(), GOOD);
        assert!(answer.cache_status().ends_with("detail=\"retried/rate-limited\""), "{answer:?}");
    })
    .await;
}

#[tokio::test]
async fn a_spent_quota_in_the_body_blocks_calls_until_midnight() {
    bounded(async {
        let origin = Origin::always(json_response(GOOD)).await;
        let larder = Larder::start(&origin, &yaml(RULES, &[])).await;
        larder.get("/x").await;
        origin.set_script(|_| json_response(QUOTA));
        let first = larder.get("/cold").await;
        assert_eq!((first.status, first.text().as_str()), (200, QUOTA), "the origin's response");
        let next = larder.get("/other").await;
        assert_eq!((next.status, error_class(&next).as_str()), (429, "quota_spent"));
        assert_eq!(next.field("retry-after"), Some(TO_MIDNIGHT));
        assert_eq!(cooldowns(&larder), [("credential", "quota", true)]);
        larder.clock.advance(61 * SECOND);
        let stale = larder.get("/x").await;
        assert!(stale.cache_status().ends_with("\"stale-if-error/cooldown-quota\""), "{stale:?}");
        // A call waits at most fifteen seconds for a cooldown to end.
        larder.clock.advance((57_600 - 61 - 16) * SECOND);
        assert_eq!(error_class(&larder.get("/other").await), "quota_spent");
        assert_eq!(origin.calls(), 2);
        larder.clock.advance(16 * SECOND);
        origin.set_script(|_| json_response(GOOD));
        assert_eq!(larder.get("/other").await.text(), GOOD);
    })
    .await;
}

#[tokio::test]
async fn a_quota_error_in_a_passing_body_is_not_delayed_and_blocks_later_calls() {
    bounded(async {
        for coded in [false, true] {
            let body = if coded { gzip(QUOTA) } else { QUOTA.as_bytes().to_vec() };
            let fields = if coded { vec![JSON, "Content-Encoding: gzip"] } else { vec![JSON] };
            let origin = Origin::always(MockResponse::new(200, &fields, &body)).await;
            let larder = Larder::start(&origin, &yaml(RULES, &[])).await;
            let first = post(&larder, "/w").await;
            assert_eq!((first.status, &first.body), (200, &body));
            larder.wait_until("the body is read", |larder| !cooldowns(larder).is_empty()).await;
            for answer in [post(&larder, "/w").await, larder.get("/x").await] {
                assert_eq!((answer.status, error_class(&answer).as_str()), (429, "quota_spent"));
            }
            assert_eq!(origin.calls(), 1);
        }
    })
    .await;
}

#[tokio::test]
async fn errors_in_passing_bodies_open_the_breaker_and_a_success_closes_it() {
    bounded(async {
        let origin = Origin::always(json_response(BAD)).await;
        let rules = format!("{RULES}, breaker: {{ failures: 3, within: 30s, open_for: 30s }}");
        let larder = Larder::start(&origin, &yaml(&rules, &["retry: off"])).await;
        let breaker = |state: &'static str| move |larder: &Larder| api_status(larder).breaker == Some(state);
        for _ in 0..3 {
            assert_eq!(post(&larder, "/w").await.text(), BAD);
            round_trip(&larder).await;
        }
        larder.wait_until("it is open", breaker("open")).await;
        let open = post(&larder, "/w").await;
        assert_eq!((open.status, error_class(&open).as_str()), (503, "breaker_open"));
        larder.clock.advance(30 * SECOND);
        assert_eq!(post(&larder, "/w").await.text(), BAD);
        larder.wait_until("it is open again", breaker("open")).await;
        larder.clock.advance(30 * SECOND);
        for body in ["{\"ok\":true}", "{\"ok\":true} and bytes that are no JSON"] {
            origin.set_script(move |_| json_response(body));
            assert_eq!(post(&larder, "/w").await.text(), body);
            larder.wait_until("it is closed", breaker("closed")).await;
        }
        assert_eq!((api_status(&larder).in_flight, origin.calls()), (0, 6));
    })
    .await;
}

/// RFC 9110 §9.3.3: such a response to a `POST` may serve a later `GET`; an error may not.
#[tokio::test]
async fn an_error_in_a_200_to_a_post_is_not_stored_for_later_gets() {
    bounded(async {
        for (body, kept) in [(GOOD, true), (BAD, false)] {
            let location = format!("Content-Location: {API}/x");
            let fields = [JSON, "Cache-Control: max-age=60", &location];
            let origin = Origin::always(MockResponse::new(200, &fields, body)).await;
            let larder = Larder::start(&origin, &yaml(RULES, &["ttl: origin", "retry: off"])).await;
            assert_eq!(post(&larder, "/x").await.text(), body);
            let get = larder.get("/x").await;
            assert_eq!(get.cache_status().contains("hit"), kept, "{body}: {}", get.cache_status());
            assert_eq!(origin.calls(), if kept { 1 } else { 2 });
        }
    })
    .await;
}

#[tokio::test]
async fn a_rate_limit_in_the_head_the_body_or_both_is_counted_once() {
    bounded(async {
        let wait = "Retry-After: 1";
        let cases = [
            (MockResponse::new(429, &[JSON, wait], MINUTE), [1.0, 0.0]),
            (MockResponse::new(200, &[JSON], MINUTE), [1.0, 0.0]),
            (MockResponse::new(429, &[JSON, wait], GOOD), [1.0, 0.0]),
            (MockResponse::new(429, &[JSON, wait], QUOTA), [1.0, 1.0]),
        ];
        for (answer, expected) in cases {
            let origin = Origin::always(answer).await;
            let rules = format!("{RULES}, cost: {{ credits: \"$.code\" }}");
            let larder = Larder::start(&origin, &yaml(&rules, &["retry: off"])).await;
            post(&larder, "/w").await;
            larder.wait_until("it is read", |larder| cost_report(larder).today.calls == 1).await;
            round_trip(&larder).await;
            for (class, expected) in ["rate-limited", "quota"].into_iter().zip(expected) {
                let series = "larder_upstream_rate_limited_total";
                larder
                    .wait_for_metric(&format!("{series}{{class=\"{class}\",upstream=\"api\"}}"), expected)
                    .await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn bodies_that_rules_cannot_read_are_classified_by_their_head() {
    bounded(async {
        let large = format!("{{\"ok\":false,\"x\":\"{}\"}}", "x".repeat(9 << 20));
        let bomb = gzip(&format!("{{\"ok\":false,\"x\":\"{}\"}}", " ".repeat(9 << 20)));
        let bodies: [(&[&str], &[u8]); 5] = [
            (&["Content-Type: text/html"], BAD.as_bytes()),
            (&[JSON], b"{\"ok\":false"),
            (&[JSON], b"oops"),
            (&[JSON, "Content-Encoding: gzip"], &bomb),
            (&[JSON], large.as_bytes()),
        ];
        for (place, (fields, body)) in bodies.into_iter().enumerate() {
            let origin = Origin::always(MockResponse::new(200, fields, body)).await;
            let larder = Larder::start(&origin, &yaml(RULES, &[])).await;
            let gzip = ["Accept-Encoding: gzip"];
            let cached = larder.get_with("/x", &gzip).await;
            assert_eq!((cached.status, cached.end), (200, End::Complete), "{place}");
            assert!(cached.body == body, "{place}: unchanged");
            let kept = cached.cache_status().contains("stored");
            // The last two cannot be read and may be errors.
            assert_eq!(kept, place < 3, "{place}: {}", cached.cache_status());
            let passed = post(&larder, "/w").await;
            assert!(passed.status == 200 && passed.body == body, "{place}");
            assert_eq!((origin.calls(), cooldowns(&larder)), (2, Vec::new()), "{place}");
        }
    })
    .await;
}

/// `limits.in_flight` applies to bodies that rules read, too: a body that finds no room passes unread.
#[tokio::test]
async fn bodies_that_rules_read_count_towards_the_in_flight_limit() {
    bounded(async {
        let (gate, half) = (Gate::new(), "x".repeat(200_000));
        let body = format!("{{\"ok\":true,\"a\":\"{half}{half}\"}}");
        let (first, last) = body.split_at(200_000);
        let head = format!("{JSON}\r\nContent-Length: {}", body.len());
        let (step, release) = (format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{first}"), gate.clone());
        let last = last.as_bytes().to_vec();
        let origin = Origin::start(move |_| {
            let waits = MockResponse::raw(step.clone()).then([Step::Wait(release.clone())]);
            waits.then([Step::Write(last.clone())])
        })
        .await;
        let rules = "success: { json: { \"$.ok\": [true] } }";
        let policy = "limits: { in_flight: 1MiB }\nstore: { max_object: 512KiB }\n";
        let larder = Larder::start(&origin, &format!("{policy}{}", yaml(rules, &["ttl: 1h"]))).await;
        let (count, mut begun) = tokio::sync::watch::channel(0);
        let count = std::sync::Arc::new(count);
        let ask = |n: usize, method: &'static str| {
            let (addr, count) = (larder.addr(), std::sync::Arc::clone(&count));
            tokio::spawn(async move {
                let mut client = Client::connect(addr).await;
                let url = format!("{API}/{n}");
                client.send_request(method, &url, &["Content-Length: 0"]).await;
                client.read_until("HTTP/1.1 200").await;
                count.send_modify(|count| *count += 1);
                client.response(method).await.expect("a response")
            })
        };
        // A fill reads its body first, because the body can be an error; a pass-through call is
        // delayed in neither case.
        let fills: Vec<_> = (0..12).map(|n| ask(n, "GET")).collect();
        begun.wait_for(|begun| *begun >= 6).await.expect("the bodies pass");
        let posts: Vec<_> = (12..24).map(|n| ask(n, "POST")).collect();
        begun.wait_for(|begun| *begun >= 18).await.expect("the bodies pass");
        gate.open();
        for answer in fills.into_iter().chain(posts) {
            assert_eq!(answer.await.unwrap().body, body.as_bytes());
        }
    })
    .await;
}

/// A body that a rule cannot read may be an error: it replaces no stored response and is not stored.
#[tokio::test]
async fn a_body_that_a_rule_could_not_read_is_not_stored() {
    bounded(async {
        let good = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let long = "x".repeat(400_000);
        let is_good = std::sync::Arc::clone(&good);
        let origin = Origin::start(move |call| {
            let ok = is_good.load(std::sync::atomic::Ordering::Relaxed);
            let body = format!("{{\"ok\":{ok},\"a\":\"{long}\"}}");
            let body = if call.target.starts_with("/short") { format!("{{\"ok\":{ok}}}") } else { body };
            MockResponse::new(200, &[JSON, "Content-Location: /posted"], &body)
        })
        .await;
        let rules = "success: { json: { \"$.ok\": [true] } }";
        let policy = "limits: { in_flight: 1MiB }\nstore: { max_object: 512KiB }\n";
        let larder =
            Larder::start(&origin, &format!("{policy}{}", yaml(rules, &["ttl: 1h", "retry: off"]))).await;
        good.store(false, std::sync::atomic::Ordering::Relaxed);
        for _ in 0..2 {
            let answer = larder.get("/long").await;
            assert_eq!((answer.status, answer.body.len()), (200, 400_000 + 19));
            assert!(!answer.cache_status().contains("hit"), "{}", answer.cache_status());
        }
        let unread = "larder_not_stored_total{reason=\"unread\",route=\"api\"}";
        assert!(larder.metric(unread) >= 2.0);
        // A POST's response is stored for later GETs of its `Content-Location`, but not an unread one.
        let mut client = larder.client().await;
        client.send_request("POST", &format!("{API}/posted"), &["Content-Length: 0"]).await;
        assert_eq!(client.response("POST").await.expect("a response").status, 200);
        assert!(!larder.get("/posted").await.cache_status().contains("hit"));
        // A short body is always read.
        assert!(!larder.get("/short").await.cache_status().contains("stored"));
    })
    .await;
}

// ---- larder's own credential

const SECRET: &str = "larders-own-s3cret";

/// A file that only its owner may read.
fn secret_file(directory: &tempfile::TempDir) -> String {
    let path = directory.path().join("key");
    fs::write(&path, format!("{SECRET}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

fn credential(file: &str) -> String {
    format!("credential: {{ header: X-Api-Key, file: \"{file}\", prefix: \"Key \" }}")
}

const OTHER: &str = "http://other.example.test";

/// Calls to `api.example.test` carry larder's credential; `other.example.test` is another origin.
fn two_hosts(origin: &Origin, other: &Origin, file: &str) -> String {
    let names = format!("api.example.test: \"{}\", other.example.test: \"{}\"", origin.addr, other.addr);
    let upstream = format!("{{ hosts: [api.example.test], {} }}", credential(file));
    let routes = route(&["ttl: 1m"]);
    let others = "  - { name: other, match: { host: other.example.test, path: /kept }, ttl: 1m }\n";
    format!("resolve: {{ {names} }}\nupstreams: {{ api: {upstream} }}\n{routes}{others}")
}

#[tokio::test]
async fn calls_carry_larders_credential_and_all_clients_share_the_entries() {
    bounded(async {
        let directory = tempfile::tempdir().unwrap();
        let (origin, other) = (
            Origin::always(MockResponse::new(200, &[], "here")).await,
            Origin::always(MockResponse::new(200, &[], "there")).await,
        );
        let larder = Larder::bare(&two_hosts(&origin, &other, &secret_file(&directory))).await;
        for fields in [&[][..], &["X-Api-Key: placeholder-a"], &["X-Api-Key: placeholder-b"]] {
            assert_eq!(larder.get_with("/x", fields).await.text(), "here");
        }
        assert_eq!(origin.calls(), 1, "one entry for all of them");
        // Requests with any other credential still have their own entries.
        larder.get_with("/x", &["Authorization: me", "X-Api-Key: placeholder-a"]).await;
        post(&larder, "/w").await;
        assert_eq!(origin.calls(), 3);
        for seen in origin.requests() {
            let shown: Vec<_> =
                seen.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("x-api-key")).collect();
            assert_eq!(shown.len(), 1, "{}", seen.raw_head);
            assert_eq!(shown[0].1, format!("Key {SECRET}"));
            assert!(!seen.raw_head.contains("placeholder"), "{}", seen.raw_head);
        }
    })
    .await;
}

/// RFC 9110 §9.3.8: an origin returns a TRACE request unchanged.
#[tokio::test]
async fn a_trace_does_not_carry_larders_credential() {
    bounded(async {
        let directory = tempfile::tempdir().unwrap();
        let origin = Origin::start(|seen| MockResponse::new(200, &[], &seen.raw_head)).await;
        let yaml = two_hosts(&origin, &origin, &secret_file(&directory));
        let larder = Larder::bare(&yaml).await;
        let mut client = larder.client().await;
        for fields in [&[][..], &["X-Api-Key: the client's own"]] {
            client.send_request("TRACE", &format!("{API}/x"), fields).await;
            let answer = client.response("TRACE").await.expect("a response");
            assert_eq!(answer.status, 200);
            assert!(answer.text().starts_with("TRACE /x"), "{}", answer.text());
            assert!(!answer.text().contains(SECRET), "{}", answer.text());
        }
    })
    .await;
}

#[tokio::test]
async fn no_cross_site_page_can_use_larders_credential() {
    bounded(async {
        let directory = tempfile::tempdir().unwrap();
        let (origin, other) = (
            Origin::always(MockResponse::new(200, &[], "here")).await,
            Origin::always(MockResponse::new(200, &[], "there")).await,
        );
        let yaml = two_hosts(&origin, &other, &secret_file(&directory));
        let named = "prefix: \"Key \", allow_origins: [\"http://localhost:3000\"]";
        let larder = Larder::bare(&yaml.replace("prefix: \"Key \"", named)).await;
        larder.get("/x").await;
        let calls = origin.calls();
        let cross = "Sec-Fetch-Site: cross-site";
        for page in [
            &["Origin: https://page.example"][..],
            &["Origin: https://page.example", cross],
            &["Origin: null", "Sec-Fetch-Site: same-site"],
            &[cross, "Sec-Fetch-Mode: no-cors"],
            &["Referer: https://page.example/x", "User-Agent: Mozilla/5.0 (X11) Chrome/140"],
            &["User-Agent: Mozilla/5.0 (X11) Chrome/140"],
            &["Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image"],
        ] {
            // Stored responses were fetched with the credential, too.
            for path in ["/x", "/y"] {
                let answer = larder.get_with(path, page).await;
                assert_eq!(answer.status, 403, "{path} {page:?}");
                assert!(answer.text().contains("credential.allow_origins"), "{}", answer.text());
            }
            let mut client = larder.client().await;
            client.send_request("POST", &format!("{API}/w"), &[page, &["Content-Length: 0"]].concat()).await;
            assert_eq!(client.response("POST").await.expect("a response").status, 403, "{page:?}");
            // Larder does not restrict requests to a host without larder's credential.
            let elsewhere = get_url(&larder, &format!("{OTHER}/kept"), page).await;
            assert_eq!(elsewhere.status, 200, "{page:?}");
        }
        assert_eq!(origin.calls(), calls);
        for page in [
            &[][..],
            &["Sec-Fetch-Site: none"],
            &["Origin: http://api.example.test", "Sec-Fetch-Site: same-origin"],
            &["Referer: http://api.example.test/docs", "User-Agent: Mozilla/5.0 (X11) Chrome/140"],
            &["Referer: https://our.app.example/"],
            &["Origin: http://localhost:3000", cross],
            &["Referer: http://localhost:3000/page", cross],
        ] {
            assert_eq!(larder.get_with("/x", page).await.text(), "here", "{page:?}");
        }
    })
    .await;
}

async fn get_url(larder: &Larder, url: &str, fields: &[&str]) -> Response {
    larder.client().await.get(url, fields).await
}

#[tokio::test]
async fn larder_is_the_private_cache_of_its_own_credential() {
    bounded(async {
        let directory = tempfile::tempdir().unwrap();
        let own = &["Cache-Control: private, max-age=60"];
        let origin = Origin::always(MockResponse::new(200, own, "the account's")).await;
        let upstream = credential(&secret_file(&directory));
        let yaml = format!(
            "upstreams: {{ api: {{ hosts: [api.example.test], {upstream} }} }}\n{}",
            route(&["ttl: origin"])
        );
        let larder = Larder::start(&origin, &yaml).await;
        for _ in 0..2 {
            assert_eq!(larder.get("/x").await.text(), "the account's");
        }
        assert_eq!(origin.calls(), 1, "a private response is stored for all that may use the credential");
        let without = Larder::start(&origin, &route(&["ttl: origin"])).await;
        for _ in 0..2 {
            without.get("/x").await;
        }
        assert_eq!(origin.calls(), 3, "and is not stored without larder's credential");
    })
    .await;
}

#[tokio::test]
async fn no_other_host_gets_larders_credential_even_after_a_redirect() {
    bounded(async {
        let directory = tempfile::tempdir().unwrap();
        let location = format!("Location: {OTHER}/kept");
        let moved = MockResponse::new(302, &[&location], "");
        let origin = Origin::always(moved).await;
        let other = Origin::always(MockResponse::new(200, &[], "there")).await;
        let larder = Larder::bare(&two_hosts(&origin, &other, &secret_file(&directory))).await;
        let answer = larder.get("/x").await;
        assert_eq!((answer.status, answer.field("location")), (302, Some("http://other.example.test/kept")));
        assert_eq!(other.calls(), 0, "larder follows no redirect");
        for path in ["/kept", "/passed"] {
            let mut client = larder.client().await;
            let there = client.get(&format!("{OTHER}{path}"), &["X-Api-Key: the-clients"]).await;
            assert_eq!(there.text(), "there");
        }
        // The target selects the origin, not the `Host` field.
        let mut client = larder.client().await;
        client.send(format!("GET {OTHER}/passed HTTP/1.1\r\nHost: api.example.test\r\n\r\n")).await;
        client.response("GET").await.unwrap();
        assert_eq!(other.calls(), 3);
        for seen in other.requests() {
            assert!(!seen.raw_head.contains(SECRET), "{}", seen.raw_head);
        }
        assert_eq!(other.requests()[0].field("x-api-key"), Some("the-clients"));
    })
    .await;
}

#[tokio::test]
async fn larders_credential_is_in_no_log_config_metric_or_explanation() {
    for format in ["json", "pretty"] {
        let directory = tempfile::tempdir().unwrap();
        let file = secret_file(&directory);
        let origin = Origin::start(|seen| match seen.target.as_str() {
            "/closed" => MockResponse::closed(),
            "/limited" => MockResponse::new(429, &["Retry-After: 1"], "no"),
            _ => MockResponse::new(200, &[], "here"),
        })
        .await;
        let free = "version: 1\nlisten: 127.0.0.1:0\nadmin: { listen: 127.0.0.1:0 }\n";
        let log = format!("log: {{ format: {format}, level: trace }}\n");
        let fast = "defaults: { retry: { backoff: { initial: 10ms } } }\n";
        let yaml = format!("{free}{log}{fast}{}", two_hosts(&origin, &origin, &file));
        let files = ConfigDir::with(&yaml);
        let mut running = Process::start(&[OsStr::new("run"), files.config.as_os_str()]);
        let (addr, admin) = (running.addr().await, running.admin().await);
        let mut all = String::new();
        for path in ["/x", "/x", "/closed", "/limited"] {
            let mut client = Client::connect(addr).await;
            let answer = client.get(&format!("{API}{path}"), &["X-Api-Key: placeholder"]).await;
            all.push_str(&format!("{:?} {}\n", answer.fields, answer.text()));
        }
        for path in ["/metrics", "/v1/config", "/v1/upstreams", "/v1/entries", "/v1/cost"] {
            let mut client = Client::connect(admin).await;
            client.send(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")).await;
            all.push_str(&text(&client.read_to_end().await));
        }
        let explain = ["--explain", "GET", "http://api.example.test/x"];
        let mut arguments = vec![OsStr::new("check"), files.config.as_os_str()];
        arguments.extend(explain.map(OsStr::new));
        let explained = run_larder(&arguments).await;
        assert_eq!(explained.status.code(), Some(0), "{}", text(&explained.stderr));
        all.push_str(&text(&explained.stdout));
        all.push_str(&text(&explained.stderr));
        running.signal("TERM");
        running.wait_for_exit().await;
        all.push_str(&running.out.text());
        all.push_str(&running.err.text());
        assert!(all.contains("Exchange") || all.contains("api.example.test"), "it was logged");
        assert!(!all.contains(SECRET), "{format}: {all}");
        assert!(origin.requests().iter().any(|seen| seen.raw_head.contains(SECRET)));
    }
}

// ---- the cost of calls

fn yaml_with_cost(credits: &str, budget: &str) -> String {
    let budget = if budget.is_empty() { String::new() } else { format!(", budget: {{ {budget} }}") };
    let cost = format!("cost: {{ currency: USD, per_credit: 0.5, credits: {credits}{budget} }}");
    yaml(&cost, &["retry: off"])
}

fn cost_report(larder: &Larder) -> CostReport {
    larder.server.admin_api().cost().remove(0)
}

fn is_close(amount: f64, expected: f64) -> bool {
    (amount - expected).abs() < 1e-9
}

#[tokio::test]
async fn credits_are_counted_for_fills_and_pass_through_calls_from_each_source() {
    bounded(async {
        let body = "{\"status\":{\"credit_count\":3}}";
        for (credits, each) in
            [("\"$.status.credit_count\"", 3.0), ("{ header: X-Credits }", 2.0), ("1", 1.0)]
        {
            let origin = Origin::always(MockResponse::new(200, &[JSON, "X-Credits: 2"], body)).await;
            let larder = Larder::start(&origin, &yaml_with_cost(credits, "")).await;
            larder.get("/x").await;
            assert!(
                is_close(cost_report(&larder).today.credits, each),
                "{credits}: {:?}",
                cost_report(&larder)
            );
            post(&larder, "/w").await;
            let both = |larder: &Larder| is_close(cost_report(larder).today.credits, 2.0 * each);
            larder.wait_until("both are counted", both).await;
            for _ in 0..3 {
                larder.get("/x").await;
            }
            larder.wait_until("three hits", |larder| cost_report(larder).today.avoided_calls == 3).await;
            let spent = cost_report(&larder).today;
            assert!(
                is_close(spent.credits, 2.0 * each) && is_close(spent.money, each),
                "{credits}: {spent:?}"
            );
            assert!(is_close(larder.metric("larder_cost_total{upstream=\"api\"}"), each), "{credits}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_304_and_an_error_cost_nothing_with_a_fixed_cost_per_call() {
    bounded(async {
        let origin = Origin::start(|seen| match seen.field("if-none-match") {
            Some(_) => MockResponse::raw("HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\n\r\n"),
            None if seen.target == "/x" => MockResponse::new(200, &["ETag: \"v1\""], "here"),
            None => MockResponse::new(500, &[], "broken"),
        })
        .await;
        let larder = Larder::start(&origin, &yaml_with_cost("1", "")).await;
        larder.get("/x").await;
        larder.clock.advance(61 * SECOND);
        let confirmed = larder.get("/x").await;
        assert!(confirmed.cache_status().contains("fwd-status=304"), "{confirmed:?}");
        larder.get("/broken").await;
        assert_eq!(origin.calls(), 3);
        assert!(is_close(cost_report(&larder).today.credits, 1.0), "{:?}", cost_report(&larder));
    })
    .await;
}

/// The test clock starts in January, 16 days and 16 hours before the 1st of February.
const TO_FEBRUARY: u64 = (16 * 24 + 16) * 3600;

/// A larder that has spent its budget of two calls: `/x` is stale by a second, `/y` is fresh.
async fn larder_over_budget(origin: &Origin, at_limit: OverBudgetAction) -> Larder {
    let action = match at_limit {
        OverBudgetAction::StaleOnly => "stale-only",
        OverBudgetAction::Refuse => "refuse",
        OverBudgetAction::Warn => "warn",
    };
    let budget = format!("credits: 2/month, at_limit: {action}");
    let larder = Larder::start(origin, &yaml_with_cost("1", &budget)).await;
    larder.get("/x").await;
    larder.clock.advance(61 * SECOND);
    larder.get("/y").await;
    larder
}

#[tokio::test]
async fn a_spent_budget_serves_stored_responses_and_sends_retry_after() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(200, &[], "here")).await;
        let larder = larder_over_budget(&origin, OverBudgetAction::StaleOnly).await;
        assert_eq!(larder.get("/y").await.cache_status(), "larder; hit; ttl=60");
        let stale = larder.get("/x").await;
        let expected = "larder; hit; ttl=-1; detail=\"stale-if-error/budget\"";
        assert_eq!((stale.status, stale.cache_status()), (200, expected));
        for cold in [larder.get("/cold").await, post(&larder, "/w").await] {
            assert_eq!((cold.status, error_class(&cold).as_str()), (429, "budget_spent"));
            let until = (TO_FEBRUARY - 61).to_string();
            assert_eq!(cold.field("retry-after"), Some(until.as_str()));
            assert_eq!(cold.cache_status(), "larder; detail=\"refused/budget\"");
        }
        assert_eq!(origin.calls(), 2);
        let (_, budget_status) = cost_report(&larder).budget.unwrap();
        assert!(budget_status.spent && is_close(budget_status.share, 1.0), "{budget_status:?}");
        larder.wait_for_metric("larder_upstream_refused_total{cause=\"budget\",upstream=\"api\"}", 2.0).await;
        larder.clock.advance(Duration::from_secs(TO_FEBRUARY));
        assert_eq!(larder.get("/cold").await.status, 200, "a new month");
    })
    .await;
}

#[tokio::test]
async fn with_a_spent_budget_refuse_serves_nothing_stale_and_warn_allows_calls() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(200, &[], "here")).await;
        let larder = larder_over_budget(&origin, OverBudgetAction::Refuse).await;
        assert_eq!(
            larder.get("/y").await.cache_status(),
            "larder; hit; ttl=60",
            "a fresh response is served"
        );
        for path in ["/x", "/cold"] {
            let answer = larder.get(path).await;
            assert_eq!((answer.status, error_class(&answer).as_str()), (429, "budget_spent"), "{path}");
        }
        assert_eq!(origin.calls(), 2);
        let larder = larder_over_budget(&origin, OverBudgetAction::Warn).await;
        for path in ["/x", "/cold"] {
            assert!(larder.get(path).await.cache_status().contains("stored"), "{path}");
        }
        assert_eq!(origin.calls(), 6);
        let (_, budget_status) = cost_report(&larder).budget.unwrap();
        assert!(budget_status.spent && is_close(budget_status.share, 2.0), "{budget_status:?}");
    })
    .await;
}

/// The usage of this month that `larder cost` reports.
async fn month_usage(admin: std::net::SocketAddr) -> Value {
    let output = run_larder(&["cost", "--json", "--admin", &admin.to_string()]).await;
    let report: Value = serde_json::from_str(&text(&output.stdout)).unwrap_or_default();
    report["upstreams"][0]["month"].clone()
}

#[tokio::test]
async fn the_cost_of_calls_and_a_spent_budget_survive_a_restart() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(200, &[JSON], "{\"n\":3}")).await;
        let resolve = format!("resolve: {{ api.example.test: \"{}\" }}\n", origin.addr);
        let free = "version: 1\nlisten: 127.0.0.1:0\nadmin: { listen: 127.0.0.1:0 }\n";
        let cost = yaml_with_cost("\"$.n\"", "credits: 6/month");
        let files = ConfigDir::with(&format!("{free}{resolve}{cost}"));
        let arguments = [OsStr::new("run"), files.config.as_os_str()];
        let mut first = Process::start(&arguments);
        let addr = first.addr().await;
        for path in ["/a", "/b"] {
            let answer = Client::connect(addr).await.get(&format!("{API}{path}"), &[]).await;
            assert_eq!(answer.status, 200);
        }
        let before = month_usage(first.admin().await).await;
        assert_eq!((before["credits"].as_f64(), before["calls"].as_u64()), (Some(6.0), Some(2)));
        first.signal("TERM");
        assert_eq!(first.wait_for_exit().await.code(), Some(0));
        let second = Process::start(&arguments);
        let cold = Client::connect(second.addr().await).await.get(&format!("{API}/c"), &[]).await;
        assert_eq!((cold.status, error_class(&cold).as_str()), (429, "budget_spent"));
        let after = month_usage(second.admin().await).await;
        assert_eq!((after["credits"].as_f64(), after["calls"].as_u64()), (Some(6.0), Some(2)));
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

// ---- calls that are never blocked

#[tokio::test]
async fn a_host_without_an_upstream_is_called_after_any_response() {
    bounded(async {
        let answers = [
            too_many_requests(&["Retry-After: 600"]),
            unavailable(),
            MockResponse::new(403, &["X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 600"], "no"),
        ];
        let again = answers.iter().cycle().take(12).cloned().collect();
        let origin = Origin::start(in_order(again)).await;
        let larder = Larder::start(&origin, "defaults: { coalesce: { wait: 10s } }\n").await;
        for call in 1..=12 {
            let answer = larder.get("/x").await;
            assert!([429, 503, 403].contains(&answer.status), "{answer:?}");
            assert_eq!((origin.calls(), larder.clock.sleepers()), (call, 0));
        }
        assert!(larder.server.admin_api().upstreams().is_empty(), "no upstream is recorded");
    })
    .await;
}

#[tokio::test]
async fn a_tunnel_is_never_blocked() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(503, &[], "down")).await;
        let port = origin.addr.port();
        let keys = "breaker: { failures: 1, open_for: 1h }, rate_limit: { limit: 1/h, max_wait: 0s }";
        let file = format!("tls: {{ passthrough: [api.example.test] }}\n{}", yaml(keys, &["retry: off"]));
        let larder = Larder::start(&origin, &file).await;
        assert_eq!(larder.get("/x").await.text(), "down");
        assert!(!error_class(&larder.get("/y").await).is_empty(), "requests that larder reads are blocked");
        for _ in 0..5 {
            let mut client = larder.client().await;
            let authority = format!("api.example.test:{port}");
            client.send(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n")).await;
            assert_eq!(client.response("CONNECT").await.unwrap().status, 200);
            // Neither HTTP nor TLS: larder does not read these bytes.
            client.send("\u{1}OPAQUE /t -\r\n\r\n").await;
            assert_eq!(client.response("GET").await.unwrap().text(), "down");
        }
        assert_eq!(origin.calls(), 1 + 5);
        assert!(!error_class(&larder.get("/z").await).is_empty(), "and still are");
    })
    .await;
}
