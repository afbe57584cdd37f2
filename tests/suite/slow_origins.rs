//! Origins that take their time: a soft deadline ends no call, it only makes something better than waiting
//! possible.

use std::time::Duration;

use crate::client::Response;
use crate::concurrent::bounded;
use crate::failing_origin::{api_status, cooldowns, error_class, start_get, yaml};
use crate::larder_under_test::{API, Larder};
use crate::origin::{Gate, MockResponse, Origin, Step, chunk};

/// Soft deadlines that pass soon.
const SOFT: &str = "timeouts: { first_byte: { soft: 50ms }, between_bytes: { soft: 50ms } }";

/// An origin that answers once the gate is open.
async fn slow_origin() -> (Origin, Gate) {
    let gate = Gate::new();
    let origin = Origin::always(MockResponse::new(200, &[], "slow but good").after(&gate)).await;
    (origin, gate)
}

/// Waits until the soft deadline of the only call has passed: it no longer counts as in flight.
async fn wait_until_slow(larder: &Larder) {
    larder.wait_until("the call is slow", |larder| api_status(larder).in_flight == 0).await;
}

async fn start(larder: &Larder, method: &str, path: &str) -> tokio::task::JoinHandle<Response> {
    let mut client = larder.client().await;
    let fields: &[&str] = if method == "POST" { &["Content-Length: 0"] } else { &[] };
    client.send_request(method, &format!("{API}{path}"), fields).await;
    let method = method.to_owned();
    tokio::spawn(async move { client.response(&method).await.expect("a response") })
}

#[tokio::test]
async fn a_slow_response_arrives_on_every_path_after_a_single_call() {
    bounded(async {
        for (method, routed) in [("GET", true), ("POST", true), ("GET", false)] {
            let (origin, gate) = slow_origin().await;
            let mut text = yaml(SOFT, &[]);
            if !routed {
                text = text.replace("match: { host: api.example.test", "match: { host: other.test");
            }
            let larder = Larder::start(&origin, &text).await;
            let pending = start(&larder, method, "/report").await;
            origin.wait_for_calls(1).await;
            wait_until_slow(&larder).await;
            gate.open();
            let answer = pending.await.unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (200, "slow but good"), "{method} {routed}");
            assert_eq!(origin.calls(), 1, "{method} {routed}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_slow_call_counts_as_a_failure_until_its_response_arrives() {
    bounded(async {
        let (origin, gate) = slow_origin().await;
        let larder = Larder::start(&origin, &yaml(SOFT, &[])).await;
        let pending = start_get(&larder, "/report", &[]).await;
        origin.wait_for_calls(1).await;
        wait_until_slow(&larder).await;
        assert_eq!(cooldowns(&larder), [("key", "timeout", false)]);
        gate.open();
        assert_eq!(pending.await.unwrap().status, 200);
        assert_eq!(cooldowns(&larder), [], "it arrived after all");
    })
    .await;
}

#[tokio::test]
async fn a_slow_call_that_fails_is_not_repeated() {
    bounded(async {
        for routed in [true, false] {
            let gate = Gate::new();
            let origin = Origin::always(MockResponse::new(504, &[], "gateway").after(&gate)).await;
            let policy = ["retry: { backoff: { initial: 1ms } }"];
            let method = if routed { "GET" } else { "HEAD" };
            let larder = Larder::start(&origin, &yaml(SOFT, &policy)).await;
            let pending = start(&larder, method, "/report").await;
            origin.wait_for_calls(1).await;
            wait_until_slow(&larder).await;
            gate.open();
            assert_eq!(pending.await.unwrap().status, 504);
            assert_eq!(origin.calls(), 1, "{method}");
        }
    })
    .await;
}

#[tokio::test]
async fn slow_calls_leave_their_places_to_others() {
    bounded(async {
        let (origin, gate) = slow_origin().await;
        let limited = format!("{SOFT}, rate_limit: {{ in_flight: 1, max_wait: 20s }}");
        let larder = Larder::start(&origin, &yaml(&limited, &[])).await;
        let mut pending = Vec::new();
        for path in ["/a", "/b", "/c"] {
            pending.push(start_get(&larder, path, &[]).await);
        }
        origin.wait_for_calls(3).await;
        gate.open();
        for one in pending {
            assert_eq!(one.await.unwrap().status, 200);
        }
    })
    .await;
}

#[tokio::test]
async fn a_stale_response_replaces_a_slow_one_which_is_stored_when_it_comes() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(200, &[], "old")).await;
        let larder = Larder::start(&origin, &yaml(SOFT, &[])).await;
        larder.get("/x").await;
        larder.clock.advance(Duration::from_secs(61));
        let gate = Gate::new();
        let slow = MockResponse::new(200, &[], "new").after(&gate);
        origin.set_script(move |_| slow.clone());
        let stale = larder.get("/x").await;
        assert_eq!((stale.status, stale.text().as_str()), (200, "old"));
        let expected = "larder; fwd=stale; ttl=-1; detail=\"stale-if-error/first-byte-timeout\"";
        assert_eq!(stale.cache_status(), expected);
        assert_eq!(larder.get("/x").await.text(), "old", "in a cooldown");
        gate.open();
        larder.wait_until("it is stored", |larder| cooldowns(larder).is_empty()).await;
        let fresh = larder.get("/x").await;
        assert_eq!((fresh.text().as_str(), origin.calls()), ("new", 2));
    })
    .await;
}

#[tokio::test]
async fn a_slow_call_ends_with_its_last_client_and_later_ones_do_not_join_it() {
    bounded(async {
        let origin = Origin::always(MockResponse(vec![Step::UntilDisconnect])).await;
        let larder = Larder::start(&origin, &yaml(SOFT, &[])).await;
        let mut first = larder.client().await;
        first.send_request("GET", &format!("{API}/x"), &[]).await;
        origin.wait_for_calls(1).await;
        wait_until_slow(&larder).await;
        origin.set_script(|_| MockResponse::new(200, &[], "recovered"));
        assert_eq!(larder.get("/x").await.text(), "recovered", "a call of its own");
        drop(first);
        origin.wait_for_disconnects(1).await;
    })
    .await;
}

#[tokio::test]
async fn patience_and_written_deadlines_end_a_call() {
    bounded(async {
        for (limits, timeouts, policy) in [
            ("limits: { patience: 1s }\n", SOFT, ""),
            ("limits: { patience: 1s }\n", "timeouts: { first_byte: off }", ""),
            ("", "timeouts: { first_byte: 200ms }", ""),
            ("", SOFT, "timeouts: { first_byte: 200ms }"),
        ] {
            let origin = Origin::always(MockResponse(vec![Step::UntilDisconnect])).await;
            let policy: &[&str] = if policy.is_empty() { &["retry: off"] } else { &["retry: off", policy] };
            let larder = Larder::start(&origin, &format!("{limits}{}", yaml(timeouts, policy))).await;
            for method in ["GET", "HEAD"] {
                let answer = start(&larder, method, "/x").await.await.unwrap();
                assert_eq!(answer.status, 504, "{limits} {timeouts} {policy:?} {method}");
                if method == "GET" {
                    assert_eq!(error_class(&answer), "first-byte-timeout");
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_may_be_silent_while_its_client_reads_and_is_stored_when_whole() {
    bounded(async {
        for path in ["/stored", "/none"] {
            let gate = Gate::new();
            let rest = MockResponse::chunked_open(200, &[], &[b"one "])
                .then([Step::Pause(Duration::from_millis(300)), Step::Wait(gate.clone())])
                .then([Step::Write(chunk(b"two")), Step::Write(b"0\r\n\r\n".to_vec())]);
            let origin = Origin::always(rest).await;
            let mut text = yaml(SOFT, &[]);
            if path == "/none" {
                text = text.replace("match: { host: api.example.test", "match: { host: other.test");
            }
            let larder = Larder::start(&origin, &text).await;
            let pending = start_get(&larder, path, &[]).await;
            origin.wait_for_calls(1).await;
            gate.open();
            assert_eq!(pending.await.unwrap().text(), "one two");
            if path == "/stored" {
                assert!(larder.get(path).await.cache_status().contains("hit"));
                assert_eq!(origin.calls(), 1);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_silent_body_that_no_client_reads_is_cut_and_its_key_is_free_before() {
    bounded(async {
        let silent = MockResponse::chunked_open(200, &[], &[b"one"]).then([Step::UntilDisconnect]);
        let origin = Origin::always(silent).await;
        let larder = Larder::start(&origin, &yaml(SOFT, &[])).await;
        let mut first = larder.client().await;
        first.send_request("GET", &format!("{API}/x"), &[]).await;
        first.read_until("one").await;
        larder.wait_until("no request joins it", |larder| larder.server.waiting() == 0).await;
        origin.set_script(|_| MockResponse::new(200, &[], "whole"));
        assert_eq!(larder.get("/x").await.text(), "whole", "a call of its own");
        drop(first);
        origin.wait_for_disconnects(1).await;
        assert_eq!(larder.get("/x").await.text(), "whole");
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

/// A head and the first bytes of a body that then falls silent.
fn silent_body() -> MockResponse {
    let json = ["Content-Type: application/json"];
    MockResponse::chunked_open(200, &json, &[b"{\"ok\":"]).then([Step::UntilDisconnect])
}

/// A larder with a stale response for `/x`, whose origin then sends a body that falls silent.
async fn with_silent_body(upstream: &str) -> (Origin, Larder) {
    let json = ["Content-Type: application/json"];
    let origin = Origin::always(MockResponse::new(200, &json, "{\"ok\":true}")).await;
    let larder = Larder::start(&origin, &yaml(upstream, &[])).await;
    larder.get("/x").await;
    larder.clock.advance(Duration::from_secs(61));
    origin.set_script(|_| silent_body());
    (origin, larder)
}

#[tokio::test]
async fn a_body_that_rules_read_is_slow_from_the_soft_deadline_on() {
    bounded(async {
        let rules = format!("{SOFT}, success: {{ json: {{ \"$.ok\": [true] }} }}");
        let (origin, larder) = with_silent_body(&rules).await;
        let stale = larder.get("/x").await;
        assert_eq!((stale.status, stale.text().as_str()), (200, "{\"ok\":true}"));
        assert!(stale.cache_status().contains("stale-if-error/first-byte-timeout"), "{stale:?}");
        assert_eq!((api_status(&larder).in_flight, origin.calls()), (0, 2));
    })
    .await;
}

#[tokio::test]
async fn a_silent_body_puts_its_key_into_a_cooldown() {
    bounded(async {
        let (origin, larder) = with_silent_body(SOFT).await;
        let mut first = larder.client().await;
        first.send_request("GET", &format!("{API}/x"), &[]).await;
        first.read_until("{\"ok\":").await;
        larder.wait_until("it is slow", |larder| !cooldowns(larder).is_empty()).await;
        let stale = larder.get("/x").await;
        assert_eq!((stale.text().as_str(), origin.calls()), ("{\"ok\":true}", 2), "no further call hangs");
    })
    .await;
}
