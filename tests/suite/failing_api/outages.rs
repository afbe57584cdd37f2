//! Outages: stale-if-error responses while an API is down.

use crate::concurrent::{ConcurrentRequests, bounded};
use crate::failing_api::{HOUR, MINUTE, closing_origin, ok, with_stale_entry};
use crate::failing_origin::{
    SECOND, api_status, expect_next_call, get_until_body, start_get, too_many_requests, yaml,
};
use crate::larder_under_test::{API, Larder};
use crate::origin::{MockResponse, Origin};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

#[tokio::test]
async fn a_response_is_fresh_for_an_hour_then_stale_for_a_day_then_an_error() {
    bounded(async {
        let origin = Origin::always(ok("here")).await;
        let larder = Larder::start(&origin, &yaml("", &["ttl: 1h", "retry: off"])).await;
        larder.get("/x").await;
        origin.set_script(|_| MockResponse::new(502, &[], "gone"));
        larder.clock.advance(3599 * SECOND);
        let fresh = larder.get("/x").await;
        assert_eq!(fresh.cache_status(), "larder; hit; ttl=1");
        larder.clock.advance(24 * HOUR);
        let stale = larder.get("/x").await;
        assert_eq!((stale.status, stale.text().as_str()), (200, "here"));
        assert!(stale.cache_status().contains("ttl=-86399"), "{}", stale.cache_status());
        larder.clock.advance(SECOND);
        let gone = larder.get("/x").await;
        assert_eq!((gone.status, gone.text().as_str()), (502, "gone"), "the response of the origin");
        assert_eq!(gone.cache_status(), "larder; fwd=stale; fwd-status=502");
    })
    .await;
}

/// The kinds of outage of an origin.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outage {
    Refused,
    Closed,
    Unavailable,
    Silent,
}

impl Outage {
    async fn begin(self, origin: &Origin) {
        origin.set_script(move |_| match self {
            Self::Refused | Self::Closed => MockResponse::closed(),
            Self::Unavailable => MockResponse::new(503, &[], "down"),
            Self::Silent => MockResponse::hang(),
        });
        if self == Self::Refused {
            origin.close().await;
        }
    }
}

/// Ten minutes of an outage: each minute a request for every key, then twenty concurrent clients for each.
async fn outage(kind: Outage) {
    const KEYS: usize = 20;
    let origin = Origin::always(ok("old")).await;
    let addr = origin.addr.to_string();
    let timeouts = "timeouts: { first_byte: 300ms }";
    let larder = Larder::start(&origin, &yaml(timeouts, &[])).await;
    for key in 0..KEYS {
        assert_eq!(larder.get(&format!("/{key}")).await.text(), "old");
    }
    kind.begin(&origin).await;
    larder.clock.advance(MINUTE);
    for minute in 0..10 {
        for key in 0..KEYS {
            let answer = larder.get(&format!("/{key}")).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "old"), "{kind:?} {minute}");
        }
        larder.clock.advance(MINUTE);
    }
    // A call that still hangs would start another cooldown when it ends.
    larder.wait_until("no call is in flight", |larder| api_status(larder).in_flight == 0).await;
    larder.clock.advance(MINUTE);
    let calls = origin.calls() - KEYS;
    assert!(calls <= 60, "{kind:?}: {calls} calls for {} requests", 10 * KEYS);
    let fetched: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let counted = Arc::clone(&fetched);
    let recovered = move |target: &str| {
        *counted.lock().entry(target.to_owned()).or_default() += 1;
        ok("new")
    };
    let origin = if kind == Outage::Refused {
        Origin::start_at(&addr, move |seen| recovered(&seen.target)).await
    } else {
        origin.set_script(move |seen| recovered(&seen.target));
        origin
    };
    let mut crowds = Vec::new();
    for key in 0..KEYS {
        crowds.push(ConcurrentRequests::send_plain(&larder, 20, &format!("/{key}")).await);
    }
    for crowd in crowds {
        assert!(crowd.responses().await.iter().all(|answer| answer.status == 200), "{kind:?}");
    }
    larder.clock.advance(MINUTE / 2);
    for key in 0..KEYS {
        get_until_body(&larder, &format!("/{key}"), "new").await;
    }
    let fetched = fetched.lock();
    assert!(fetched.len() == KEYS && fetched.values().all(|&calls| calls == 1), "{fetched:?}");
    drop(origin);
}

#[tokio::test]
async fn ups_11_clients_do_not_notice_an_origin_that_refuses_for_ten_minutes() {
    bounded(outage(Outage::Refused)).await;
}

#[tokio::test]
async fn ups_11_clients_do_not_notice_an_origin_that_closes_for_ten_minutes() {
    bounded(outage(Outage::Closed)).await;
}

#[tokio::test]
async fn ups_11_clients_do_not_notice_an_origin_that_is_503_for_ten_minutes() {
    bounded(outage(Outage::Unavailable)).await;
}

#[tokio::test]
async fn ups_11_clients_do_not_notice_an_origin_that_is_silent_for_ten_minutes() {
    bounded(outage(Outage::Silent)).await;
}

#[tokio::test]
async fn in_an_outage_a_head_is_also_served_stale() {
    bounded(async {
        let origin = closing_origin().await;
        let larder = with_stale_entry(&origin, &yaml("", &[])).await;
        origin.set_script(|_| too_many_requests(&["Retry-After: 60"]));
        assert_eq!(larder.get("/x").await.text(), "old");
        let mut client = larder.client().await;
        client.send_request("HEAD", &format!("{API}/x"), &[]).await;
        let head = client.response("HEAD").await.unwrap();
        assert_eq!((head.status, head.field("content-length")), (200, Some("3")));
        let expected = "larder; hit; ttl=-1; detail=\"stale-if-error/cooldown-rate-limited\"";
        assert_eq!(head.cache_status(), expected);
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

#[tokio::test]
async fn in_an_outage_every_kind_of_get_of_a_stored_key_is_served() {
    bounded(async {
        let cases: [(&[&str], u16, &str); 7] = [
            (&[], 200, "old"),
            (&["If-None-Match: \"v1\""], 304, ""),
            (&["If-None-Match: \"v2\""], 200, "old"),
            (&["Range: bytes=0-1"], 206, "ol"),
            (&["Cache-Control: no-cache"], 200, "old"),
            (&["Cache-Control: max-age=0"], 200, "old"),
            (&["Pragma: no-cache"], 200, "old"),
        ];
        for in_cooldown in [false, true] {
            for (fields, status, body) in &cases {
                let origin = Origin::always(MockResponse::new(200, &["ETag: \"v1\""], "old")).await;
                let larder = Larder::start(&origin, &yaml("", &[])).await;
                larder.get("/x").await;
                larder.clock.advance(61 * SECOND);
                origin.set_script(|_| too_many_requests(&["Retry-After: 60"]));
                if in_cooldown {
                    larder.get("/x").await;
                }
                let answer = larder.get_with("/x", fields).await;
                assert_eq!((answer.status, answer.text().as_str()), (*status, *body), "{fields:?}");
                let cache_status = answer.cache_status();
                assert!(
                    cache_status.contains("stale-if-error") && cache_status.contains("rate-limited"),
                    "{cache_status}"
                );
                assert_eq!(cache_status.contains("; hit"), in_cooldown, "{cache_status}");
                assert_eq!(origin.calls(), 2);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn waiters_share_the_last_429_regardless_of_stale_if_error() {
    bounded(async {
        let on_5xx = "stale_if_error: { on: [5xx] }";
        for policy in [&[][..], &[on_5xx]] {
            let origin = Origin::always(too_many_requests(&["Retry-After: 2", "X-Own: kept"])).await;
            let larder = Larder::start(&origin, &yaml("", policy)).await;
            let leader = start_get(&larder, "/x", &[]).await;
            larder.wait_until("the retry waits", |larder| larder.clock.sleepers() == 1).await;
            let crowd = ConcurrentRequests::send_plain(&larder, 20, "/x").await;
            larder.wait_for_waiters(21).await;
            for _ in 0..3 {
                expect_next_call(&larder, &origin, 2 * SECOND, 2 * SECOND).await;
            }
            let mut answers = crowd.responses().await;
            answers.push(leader.await.unwrap());
            for answer in answers {
                assert_eq!((answer.status, answer.text().as_str()), (429, "slow down"));
                assert_eq!(answer.field("retry-after"), Some("2"), "as it came");
                assert_eq!(answer.field("x-own"), Some("kept"));
            }
            assert_eq!(origin.calls(), 4);
        }
    })
    .await;
}
