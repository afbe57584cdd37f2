//! Limits and outages with several credentials: one client never receives the response of another.

use crate::concurrent::bounded;
use crate::failing_api::{MINUTE, closing_origin, ok, with_stale_entry};
use crate::failing_origin::{
    SECOND, api_status, cooldowns, expect_next_call, start_get, too_many_requests, yaml,
};
use crate::larder_under_test::{Larder, route};
use crate::origin::{MockResponse, Origin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

// ---- two users

/// Each user gets an own body; while `limits` is not zero, A gets a 429.
fn two_users(limits: &Arc<AtomicUsize>) -> impl Fn(&crate::origin::ReceivedRequest) -> MockResponse + use<> {
    let limits = Arc::clone(limits);
    move |seen| {
        let user = seen.field("authorization").unwrap_or("anonymous").to_owned();
        let left = limits.load(Ordering::SeqCst);
        if user == "A" && left > 0 {
            limits.fetch_sub(1, Ordering::SeqCst);
            return too_many_requests(&["Retry-After: 5"]);
        }
        ok(&format!("of {user}"))
    }
}

const A: &str = "Authorization: A";

const B: &str = "Authorization: B";

#[tokio::test]
async fn a_429_of_one_user_affects_no_other_and_no_body_is_shared() {
    bounded(async {
        let limits = Arc::new(AtomicUsize::new(0));
        let origin = Origin::start(two_users(&limits)).await;
        let lines = format!("defaults: {{ coalesce: {{ wait: 10s }} }}\n{}", route(&["ttl: 1m"]));
        let larder = Larder::start(&origin, &lines).await;
        limits.store(1, Ordering::SeqCst);
        let leader = start_get(&larder, "/x", &[A]).await;
        larder.wait_until("the retry waits", |larder| larder.clock.sleepers() == 1).await;
        let waiters = [start_get(&larder, "/x", &[A]).await, start_get(&larder, "/x", &[A]).await];
        larder.wait_for_waiters(3).await;
        for path in ["/x", "/y", "/x"] {
            assert_eq!(larder.get_with(path, &[B]).await.text(), "of B");
        }
        expect_next_call(&larder, &origin, 5 * SECOND, 5 * SECOND).await;
        for pending in [leader].into_iter().chain(waiters) {
            assert_eq!(pending.await.unwrap().text(), "of A");
        }
        // Both responses are stale now; A gets a 429 again, and its own stale response.
        larder.clock.advance(2 * MINUTE);
        limits.store(9, Ordering::SeqCst);
        for path in ["/x", "/x"] {
            let a = larder.get_with(path, &[A]).await;
            assert!(a.cache_status().contains("stale-if-error") && a.text() == "of A", "{a:?}");
            let b = larder.get_with(path, &[B]).await;
            assert!(!b.cache_status().contains("stale-if-error") && b.text() == "of B", "{b:?}");
        }
        // A third user has no stored response, so the origin is called.
        assert_eq!(larder.get_with("/x", &["Authorization: C"]).await.text(), "of C");
    })
    .await;
}

#[tokio::test]
async fn in_an_outage_each_user_gets_its_own_stale_response_and_others_get_none() {
    bounded(async {
        let limits = Arc::new(AtomicUsize::new(0));
        let origin = Origin::start(two_users(&limits)).await;
        let lines =
            format!("defaults: {{ coalesce: {{ wait: 10s }} }}\n{}", route(&["ttl: 1m", "retry: off"]));
        let larder = Larder::start(&origin, &lines).await;
        for credential in [A, B] {
            larder.get_with("/x", &[credential]).await;
        }
        larder.clock.advance(2 * MINUTE);
        origin.set_script(|_| MockResponse::new(503, &[], "down"));
        for _ in 0..2 {
            assert_eq!(larder.get_with("/x", &[A]).await.text(), "of A");
            assert_eq!(larder.get_with("/x", &[B]).await.text(), "of B");
            for fields in [&["Authorization: C"][..], &[]] {
                let answer = larder.get_with("/x", fields).await;
                assert_eq!((answer.status, answer.text().as_str()), (503, "down"));
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_soft_cooldown_blocks_no_call_if_stale_is_not_permitted() {
    bounded(async {
        let origin = closing_origin().await;
        // Stale responses replace a 5xx only, not a network failure.
        let policy = ["retry: off", "stale_if_error: { for: 24h, on: [5xx] }"];
        let larder = with_stale_entry(&origin, &yaml("timeouts: { first_byte: 300ms }", &policy)).await;
        origin.set_script(|_| MockResponse::hang());
        assert_eq!(larder.get("/x").await.status, 504, "the origin was called");
        assert!(cooldowns(&larder).contains(&("key", "timeout", false)), "{:?}", api_status(&larder));
        origin.set_script(|_| ok("new"));
        let after = larder.get("/x").await;
        assert_eq!((after.status, after.text().as_str()), (200, "new"), "and is called again");
    })
    .await;
}
