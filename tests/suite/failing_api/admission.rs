//! Circuit breaker, ban guard, rate limits, the in-flight limit and cooldowns, over real sockets.

use crate::client::Client;
use crate::concurrent::{ConcurrentRequests, bounded};
use crate::failing_api::{HOUR, MINUTE, closing_origin, ok, with_stale_entry};
use crate::failing_origin::{
    SECOND, api_status, cooldowns, error_class, expect_next_call, round_trip, start_get, too_many_requests,
    yaml,
};
use crate::larder_under_test::{API, Larder};
use crate::origin::{Gate, MockResponse, Origin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The metric of calls refused for `cause`.
fn refused_total(cause: &str) -> String {
    format!("larder_upstream_refused_total{{cause=\"{cause}\",upstream=\"api\"}}")
}

#[tokio::test]
async fn an_open_breaker_is_reported_survives_a_reload_and_is_closed_by_a_probe() {
    bounded(async {
        let origin = closing_origin().await;
        let file = yaml("breaker: { failures: 3, within: 30s, open_for: 40s }", &["retry: off"]);
        let larder = with_stale_entry(&origin, &file).await;
        assert_eq!(api_status(&larder).breaker, Some("closed"));
        origin.set_script(|_| MockResponse::new(503, &[], "down"));
        for path in ["/a", "/b", "/c"] {
            assert_eq!(larder.get(path).await.text(), "down", "the response of the origin");
        }
        let open = larder.get("/d").await;
        assert_eq!((open.status, error_class(&open).as_str()), (503, "breaker_open"));
        assert_eq!(open.field("retry-after"), Some("40"));
        assert_eq!(open.cache_status(), "larder; detail=\"refused/breaker\"");
        assert_eq!(api_status(&larder).breaker, Some("open"));
        assert!(cooldowns(&larder).contains(&("upstream", "breaker", true)), "{:?}", api_status(&larder));
        larder.wait_for_metric(&refused_total("breaker"), 1.0).await;
        let stale = larder.get("/x").await;
        assert!(stale.cache_status().ends_with("detail=\"stale-if-error/breaker\""), "{stale:?}");
        larder.reload(&origin, &file).await.unwrap();
        assert_eq!(error_class(&larder.get("/d").await), "breaker_open");
        assert_eq!(origin.calls(), 4);
        larder.clock.advance(40 * SECOND);
        assert_eq!(api_status(&larder).breaker, Some("half-open"));
        let gate = Gate::new();
        let answer = ok("new").after(&gate);
        origin.set_script(move |_| answer.clone());
        let probe = start_get(&larder, "/e", &[]).await;
        origin.wait_for_calls(5).await;
        let refused = start_get(&larder, "/f", &[]).await;
        larder.wait_until("it waits for the probe", |larder| larder.clock.sleepers() > 0).await;
        larder.clock.advance(2 * SECOND);
        assert_eq!(error_class(&refused.await.unwrap()), "breaker_open", "one call is the probe");
        gate.open();
        assert_eq!(probe.await.unwrap().text(), "new");
        assert_eq!(api_status(&larder).breaker, Some("closed"));
        assert_eq!(larder.get("/f").await.text(), "new");
    })
    .await;
}

#[tokio::test]
async fn a_probe_that_fails_opens_the_breaker_again() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(503, &[], "down")).await;
        let breaker = "breaker: { failures: 2, within: 30s, open_for: 30s }";
        let larder = Larder::start(&origin, &yaml(breaker, &["retry: off"])).await;
        for path in ["/a", "/b"] {
            larder.get(path).await;
        }
        for probe in 1..=3 {
            assert_eq!(error_class(&larder.get("/c").await), "breaker_open");
            larder.clock.advance(30 * SECOND);
            assert_eq!(larder.get("/c").await.text(), "down");
            assert_eq!(origin.calls(), 2 + probe);
        }
    })
    .await;
}

/// The response to a request with a body, which is passed through.
async fn post(larder: &Larder, path: &str) -> crate::client::Response {
    posting(larder, path).await.response("POST").await.expect("an answer")
}

#[tokio::test]
async fn the_ban_guard_counts_passed_through_calls_and_trips_before_the_ban() {
    bounded(async {
        let origin = closing_origin().await;
        let guard = "ban_guard: { statuses: [401, 403, 429], limit: 10/10m }";
        let file = yaml(guard, &["retry: off"]);
        let larder = with_stale_entry(&origin, &file).await;
        origin.set_script(|_| MockResponse::new(403, &[], "no"));
        for call in 0..8 {
            let answer = if call % 2 == 0 { post(&larder, "/w").await } else { larder.get("/c").await };
            assert_eq!((answer.status, answer.text().as_str()), (403, "no"), "{call}");
        }
        assert_eq!(api_status(&larder).ban_guard, Some((8, 8)));
        larder.reload(&origin, &file).await.unwrap();
        for answer in [post(&larder, "/w").await, larder.get("/c").await] {
            assert_eq!((answer.status, error_class(&answer).as_str()), (429, "ban_guard"));
            assert_eq!(answer.cache_status(), "larder; detail=\"refused/ban-guard\"");
            let after: u64 = answer.field("retry-after").unwrap().parse().unwrap();
            assert!((600..=660).contains(&after), "{after}");
        }
        let stale = larder.get("/x").await;
        assert!(stale.cache_status().ends_with("\"stale-if-error/ban-guard\""));
        assert_eq!(origin.calls(), 9);
        assert!(cooldowns(&larder).contains(&("upstream", "ban-guard", true)));
        larder.wait_for_metric(&refused_total("ban-guard"), 2.0).await;
        larder.clock.advance(11 * MINUTE);
        origin.set_script(|_| ok("new"));
        assert_eq!(post(&larder, "/w").await.text(), "new");
        assert_eq!(api_status(&larder).ban_guard, Some((0, 8)));
    })
    .await;
}

#[tokio::test]
async fn a_rate_limit_queues_calls_and_refuses_those_that_would_wait_too_long() {
    bounded(async {
        let origin = Origin::always(ok("here")).await;
        let rate_limit = "rate_limit: { limit: 2/10s, max_wait: 10s }";
        let larder = Larder::start(&origin, &yaml(rate_limit, &["retry: off"])).await;
        larder.get("/a").await;
        larder.get("/b").await;
        assert_eq!(api_status(&larder).limits[0].left, 0);
        let mut waiting = Vec::new();
        for position in 0..2 {
            waiting.push(start_get(&larder, &format!("/c{position}"), &[]).await);
            larder.wait_until("it waits", |larder| api_status(larder).waiting == position + 1).await;
        }
        let late = larder.get("/d").await;
        assert_eq!((late.status, error_class(&late).as_str()), (429, "rate_limit"));
        assert_eq!(late.field("retry-after"), Some("20"));
        assert_eq!(late.cache_status(), "larder; detail=\"refused/rate-limit\"");
        larder.wait_for_metric(&refused_total("rate-limit"), 1.0).await;
        assert_eq!(origin.calls(), 2);
        larder.clock.advance(10 * SECOND);
        for pending in waiting {
            let answer = pending.await.unwrap();
            let expected = "larder; fwd=uri-miss; fwd-status=200; stored; ttl=60; \
                            detail=\"waited/rate-limit\"";
            assert_eq!(answer.cache_status(), expected);
        }
        larder
            .wait_for_metric("larder_upstream_waits_total{cause=\"rate-limit\",upstream=\"api\"}", 3.0)
            .await;
    })
    .await;
}

#[tokio::test]
async fn waiters_for_a_response_are_not_queued_for_calls_of_their_own() {
    bounded(async {
        const WAIT: Duration = Duration::from_millis(50);
        let origin = Origin::always(ok("here")).await;
        let rate_limit = "rate_limit: { limit: 1/10s, max_wait: 15s }";
        let policy = ["retry: off", "coalesce: { wait: 50ms }"];
        let larder = Larder::start(&origin, &yaml(rate_limit, &policy)).await;
        larder.get("/a").await;
        let crowd = ConcurrentRequests::send_plain(&larder, 10, "/x").await;
        larder.wait_for_waiters(10).await;
        // The timeout of waiters uses real time, and this test needs it to expire.
        tokio::time::sleep(4 * WAIT).await;
        assert_eq!(api_status(&larder).waiting, 1, "the one call");
        larder.clock.advance(10 * SECOND);
        for answer in crowd.responses().await {
            assert_eq!((answer.status, answer.text().as_str()), (200, "here"));
        }
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

#[tokio::test]
async fn with_a_stale_response_a_call_does_not_wait_for_the_rate_limit() {
    bounded(async {
        let origin = closing_origin().await;
        let rate_limit = "rate_limit: { limit: 2/10m, max_wait: 0s }";
        let larder = with_stale_entry(&origin, &yaml(rate_limit, &["retry: off"])).await;
        larder.get("/b").await;
        let stale = larder.get("/x").await;
        assert_eq!((stale.status, stale.text().as_str()), (200, "old"));
        let expected = "larder; hit; ttl=-1; detail=\"stale-if-error/rate-limit\"";
        assert_eq!(stale.cache_status(), expected);
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

#[tokio::test]
async fn calls_in_flight_are_capped_on_both_paths() {
    bounded(async {
        let gate = Gate::new();
        let slow = ok("here").after(&gate);
        let origin = Origin::always(slow).await;
        let rate_limit = "rate_limit: { in_flight: 2, max_wait: 1s }";
        let larder = Larder::start(&origin, &yaml(rate_limit, &["retry: off"])).await;
        let first = [start_get(&larder, "/a", &[]).await, start_get(&larder, "/b", &[]).await];
        origin.wait_for_calls(2).await;
        let third = start_get(&larder, "/c", &[]).await;
        larder.wait_until("it waits", |larder| api_status(larder).waiting == 1).await;
        assert_eq!(api_status(&larder).in_flight, 2);
        larder.clock.advance(SECOND);
        let third = third.await.unwrap();
        assert_eq!((third.status, error_class(&third).as_str()), (503, "in_flight"));
        assert_eq!(third.cache_status(), "larder; detail=\"refused/in-flight\"");
        larder.wait_for_metric(&refused_total("in-flight"), 1.0).await;
        let posted = {
            let mut client = posting(&larder, "/w").await;
            tokio::spawn(async move { client.response("POST").await })
        };
        larder.wait_until("it waits", |larder| api_status(larder).waiting == 1).await;
        gate.open();
        let posted = posted.await.unwrap().unwrap();
        assert_eq!((posted.status, posted.text().as_str()), (200, "here"));
        assert!(posted.cache_status().contains("waited/in-flight"), "{posted:?}");
        for pending in first {
            assert_eq!(pending.await.unwrap().status, 200);
        }
    })
    .await;
}

#[tokio::test]
async fn when_a_cooldown_ends_one_probe_goes_first_and_the_others_follow() {
    bounded(async {
        let origin = Origin::always(too_many_requests(&["Retry-After: 5"])).await;
        let larder = Larder::start(&origin, &yaml("", &[])).await;
        let first = start_get(&larder, "/a", &[]).await;
        larder.wait_until("the retry waits", |larder| larder.clock.sleepers() == 1).await;
        let crowds = [
            ConcurrentRequests::send_plain(&larder, 10, "/b").await,
            ConcurrentRequests::send_plain(&larder, 10, "/c").await,
        ];
        larder.wait_until("all wait", |larder| larder.clock.sleepers() == 3).await;
        larder.wait_for_waiters(21).await;
        // The probe fails: no other call was made.
        expect_next_call(&larder, &origin, 5 * SECOND, 5 * SECOND).await;
        larder.wait_until("all wait", |larder| larder.clock.sleepers() == 3).await;
        assert_eq!(origin.calls(), 2);
        let gate = Gate::new();
        let answer = ok("here").after(&gate);
        origin.set_script(move |_| answer.clone());
        expect_next_call(&larder, &origin, 5 * SECOND, 5 * SECOND).await;
        round_trip(&larder).await;
        assert_eq!(origin.calls(), 3, "the others wait for its response");
        gate.open();
        assert_eq!(first.await.unwrap().text(), "here");
        for crowd in crowds {
            assert!(crowd.responses().await.iter().all(|answer| answer.text() == "here"));
        }
        assert_eq!(origin.calls(), 5);
    })
    .await;
}

/// Sends a request with a body, which is passed through, and returns its client.
async fn posting(larder: &Larder, path: &str) -> Client {
    let mut client = larder.client().await;
    let head = format!("POST {API}{path} HTTP/1.1\r\nHost: api.example.test\r\n");
    client.send(format!("{head}Content-Length: 2\r\n\r\nhi")).await;
    client
}

#[tokio::test]
async fn after_a_disconnect_the_call_keeps_its_permit_and_its_probe() {
    bounded(async {
        let (origin, gate) = (closing_origin().await, Gate::new());
        let keys = "rate_limit: { in_flight: 1, max_wait: 0s }, breaker: { failures: 1, open_for: 30s }";
        let larder = Larder::start(&origin, &yaml(keys, &["retry: off"])).await;
        origin.set_script(|_| MockResponse::new(503, &[], "down"));
        assert_eq!(post(&larder, "/w").await.text(), "down");
        assert_eq!(api_status(&larder).breaker, Some("open"));
        larder.clock.advance(30 * SECOND);
        let release = gate.clone();
        origin.set_script(move |_| ok("here").after(&release));
        let probe = posting(&larder, "/w").await;
        origin.wait_for_calls(2).await;
        assert_eq!(error_class(&post(&larder, "/w").await), "breaker_open", "one call is the probe");
        drop(probe);
        larder.wait_for_metric("larder_requests_total{result=\"error\",route=\"none\"}", 2.0).await;
        assert_eq!(error_class(&post(&larder, "/w").await), "breaker_open", "the probe is still in flight");
        assert_eq!((api_status(&larder).in_flight, origin.calls()), (1, 2));
        gate.open();
        larder.wait_until("it is answered", |larder| api_status(larder).in_flight == 0).await;
        assert_eq!(api_status(&larder).breaker, Some("closed"));
        assert_eq!(post(&larder, "/w").await.text(), "here");
    })
    .await;
}

#[tokio::test]
async fn a_learned_limit_is_respected_before_the_origin_refuses_a_call() {
    bounded(async {
        let left = Arc::new(AtomicUsize::new(2));
        let counted = Arc::clone(&left);
        let origin = Origin::start(move |_| {
            let left = counted.load(Ordering::SeqCst).saturating_sub(1);
            counted.store(left, Ordering::SeqCst);
            let left = format!("X-RateLimit-Remaining: {left}");
            let fields =
                ["X-RateLimit-Limit: 2", &left, "X-RateLimit-Reset-After: 1.500", "X-RateLimit-Bucket: b"];
            MockResponse::new(200, &fields, "here")
        })
        .await;
        let larder = Larder::start(&origin, &yaml("rate_limit: { learn: true, max_wait: 2s }", &[])).await;
        for path in ["/things?n=1", "/things?n=2"] {
            assert_eq!(larder.get(path).await.status, 200);
        }
        let third = start_get(&larder, "/things?n=3", &[]).await;
        left.store(2, Ordering::SeqCst);
        let wait = Duration::from_millis(1500);
        expect_next_call(&larder, &origin, wait, wait).await;
        let answer = third.await.unwrap();
        assert!(answer.cache_status().contains("detail=\"waited/rate-limit\""), "{answer:?}");
        assert!(api_status(&larder).limits.iter().any(|limit| limit.limit == 2), "{:?}", api_status(&larder));
    })
    .await;
}

#[tokio::test]
async fn the_reset_time_of_a_spent_quota_may_exceed_max_cooldown() {
    bounded(async {
        let origin = closing_origin().await;
        let larder = with_stale_entry(&origin, &yaml("", &["stale_if_error: { max_cooldown: 10m }"])).await;
        let reset = larder.clock.now() + 2 * HOUR;
        let reset = reset.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let reset = format!("X-RateLimit-Reset: {reset}");
        origin.set_script(move |_| MockResponse::new(403, &["X-RateLimit-Remaining: 0", &reset], "no more"));
        let first = larder.get("/x").await;
        assert!(
            first.cache_status().contains("fwd-status=403; ttl=-1; detail=\"stale-if-error/quota\""),
            "{first:?}"
        );
        assert_eq!(error_class(&larder.get("/cold").await), "quota_spent");
        larder.clock.advance(HOUR);
        let cold = larder.get("/cold").await;
        assert_eq!((error_class(&cold).as_str(), cold.field("retry-after")), ("quota_spent", Some("3600")));
        assert_eq!(origin.calls(), 2);
        larder.clock.advance(HOUR);
        origin.set_script(|_| ok("new"));
        assert_eq!(larder.get("/cold").await.text(), "new");
    })
    .await;
}

#[tokio::test]
async fn a_shared_limit_blocks_only_its_key_and_the_ban_guard_ignores_it() {
    bounded(async {
        let guard = "ban_guard: { statuses: [429], limit: 4/10m, trip_at: 0.5 }";
        let origin = Origin::start(|seen| match seen.target.as_str() {
            "/shared" => too_many_requests(&["Retry-After: 30", "X-RateLimit-Scope: shared"]),
            _ => ok("here"),
        })
        .await;
        let larder = Larder::start(&origin, &yaml(guard, &["retry: off"])).await;
        assert_eq!(larder.get("/shared").await.text(), "slow down");
        assert_eq!(error_class(&larder.get("/shared").await), "rate_limited");
        assert_eq!(larder.get("/other").await.text(), "here");
        assert_eq!(cooldowns(&larder), [("key", "shared-limit", true)]);
        assert_eq!(api_status(&larder).ban_guard, Some((0, 2)));
    })
    .await;
}
