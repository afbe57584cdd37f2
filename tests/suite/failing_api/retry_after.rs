//! `Retry-After` of a 429 or 503: how long calls wait, and the longest wait.

use crate::concurrent::bounded;
use crate::failing_api::{MAX_BACKOFF, MIN_BACKOFF, MINUTE, closing_origin, ok, with_stale_entry};
use crate::failing_origin::{
    SECOND, advance_until_response, error_class, expect_next_call, in_order, round_trip, since, start_get,
    too_many_requests, yaml,
};
use crate::larder_under_test::Larder;
use crate::origin::Origin;
use std::time::Duration;

/// The `Retry-After` values of UPS-07, each with the earliest and the latest time of the next call.
/// `None`: larder does not wait that long.
fn retry_after_values(larder: &Larder) -> Vec<(String, Option<(Duration, Duration)>)> {
    let guess = Some((MIN_BACKOFF, MAX_BACKOFF));
    let date = httpdate::fmt_http_date(larder.clock.now() + 5 * SECOND);
    let half = Duration::from_millis(1500);
    vec![
        ("1".to_owned(), Some((SECOND, SECOND))),
        (date, Some((5 * SECOND, 5 * SECOND))),
        ("-5".to_owned(), guess),
        ("999999999".to_owned(), None),
        ("abc".to_owned(), guess),
        ("1.5".to_owned(), Some((half, half))),
    ]
}

/// One origin, one larder and one value each.
async fn for_each_value() -> Vec<(Origin, Larder, String, Option<(Duration, Duration)>)> {
    let mut all = Vec::new();
    for place in 0..6 {
        let origin = closing_origin().await;
        let larder = with_stale_entry(&origin, &yaml("", &[])).await;
        let (value, wait) = retry_after_values(&larder).swap_remove(place);
        all.push((origin, larder, value, wait));
    }
    all
}

#[tokio::test]
async fn ups_07_a_cold_key_is_retried_at_retry_after_but_not_in_31_years() {
    bounded(async {
        for (origin, larder, value, wait) in for_each_value().await {
            let field = format!("Retry-After: {value}");
            origin.set_script(in_order(vec![too_many_requests(&[&field]), ok("here")]));
            let pending = start_get(&larder, "/cold", &[]).await;
            let Some((from, to)) = wait else {
                let answer = pending.await.unwrap();
                assert_eq!((answer.status, answer.text().as_str()), (429, "slow down"));
                assert_eq!(answer.field("retry-after"), Some(value.as_str()), "unchanged");
                assert_eq!(origin.calls(), 2);
                continue;
            };
            expect_next_call(&larder, &origin, from, to).await;
            let answer = pending.await.unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (200, "here"), "{value}");
        }
    })
    .await;
}

#[tokio::test]
async fn ups_07_an_origin_that_always_limits_is_called_four_times_at_most() {
    bounded(async {
        for (origin, larder, value, _) in for_each_value().await {
            let field = format!("Retry-After: {value}");
            origin.set_script(move |_| too_many_requests(&[&field]));
            let pending = start_get(&larder, "/cold", &[]).await;
            let (answer, took) = advance_until_response(&larder, pending, Duration::from_millis(250)).await;
            assert_eq!((answer.status, answer.text().as_str()), (429, "slow down"), "{value}");
            assert_eq!(answer.field("retry-after"), Some(value.as_str()), "unchanged");
            assert!(origin.calls() <= 1 + 4, "{value}: {}", origin.calls());
            assert!(took <= 17 * SECOND, "{value}: {took:?} with a budget of 15 s");
        }
    })
    .await;
}

#[tokio::test]
async fn ups_07_a_warm_key_is_served_stale_at_once_for_every_retry_after() {
    bounded(async {
        for (origin, larder, value, _) in for_each_value().await {
            let field = format!("Retry-After: {value}");
            origin.set_script(move |_| too_many_requests(&[&field]));
            let begun = larder.clock.now();
            assert_eq!(larder.get("/x").await.text(), "old", "{value}");
            assert_eq!(since(&larder, begun), Duration::ZERO);
            for _ in 0..80 {
                larder.clock.advance(SECOND / 4);
                round_trip(&larder).await;
            }
            assert!(origin.calls() <= 1 + 4, "{value}: {}", origin.calls());
            assert_eq!(larder.get("/x").await.text(), "old", "{value}");
        }
    })
    .await;
}

#[tokio::test]
async fn ups_07_a_retry_after_of_31_years_is_capped_at_one_hour() {
    bounded(async {
        let origin = closing_origin().await;
        let larder = with_stale_entry(&origin, &yaml("", &[])).await;
        origin.set_script(|_| too_many_requests(&["Retry-After: 999999999"]));
        let first = larder.get("/x").await;
        assert!(first.cache_status().contains("fwd-status=429"), "{}", first.cache_status());
        larder.clock.advance(59 * MINUTE);
        origin.set_script(|_| ok("new"));
        let in_cooldown = larder.get("/x").await;
        assert!(
            in_cooldown.cache_status().contains("stale-if-error/cooldown-quota"),
            "{:?}",
            in_cooldown.fields
        );
        assert_eq!(error_class(&larder.get("/cold").await), "quota_spent");
        larder.clock.advance(59 * SECOND);
        assert_eq!(larder.get("/x").await.text(), "old");
        assert_eq!(origin.calls(), 2);
        larder.clock.advance(SECOND);
        assert_eq!(larder.get("/x").await.text(), "new");
    })
    .await;
}
