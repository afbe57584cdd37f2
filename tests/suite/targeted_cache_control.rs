//! Targeted fields (RFC 9213) seen from both ends: when larder obeys them, and which are forwarded.

use std::time::Duration;

use crate::concurrent::bounded;
use crate::larder_under_test::{Larder, route};
use crate::origin::{MockResponse, Origin};

const CDN_POLICY: [&str; 3] = ["ttl: origin", "scope: shared", "targeted_cache_control: [CDN-Cache-Control]"];

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Whether the second response for one URL, `pause` after the first, is a hit.
async fn is_reused(policy: &[&str], fields: &[&str], pause: Duration) -> bool {
    let owned: Vec<String> = fields.iter().map(ToString::to_string).collect();
    let origin = Origin::start(move |seen| {
        let lines: Vec<&str> = owned.iter().map(String::as_str).collect();
        MockResponse::new(200, &lines, format!("call {}", seen.index))
    })
    .await;
    let larder = Larder::with_policy(&origin, policy).await;
    let first = larder.get("/x").await;
    assert_eq!(first.text(), "call 0", "{fields:?}");
    larder.clock.advance(pause);
    let second = larder.get("/x").await;
    let hit = second.cache_status().starts_with("larder; hit");
    assert_eq!(second.text(), if hit { "call 0" } else { "call 1" }, "{fields:?}");
    assert_eq!(origin.calls(), if hit { 1 } else { 2 }, "{fields:?}");
    hit
}

/// The behaviours that the public cache tests require of a CDN, and the examples of RFC 9213 §3.1.
#[tokio::test]
async fn a_listed_field_overrides_cache_control_and_expires() {
    const PAST: &str = "Expires: Sun, 06 Nov 1994 08:49:37 GMT";
    const FUTURE: &str = "Expires: Fri, 31 Dec 9999 23:59:59 GMT";
    bounded(async {
        for (fields, reused) in [
            (&["CDN-Cache-Control: max-age=3600"][..], true),
            (&["CDN-Cache-Control: max-age=2147483648"], true),
            (&["CDN-Cache-Control: max-age=99999999999"], true),
            (&["CDN-Cache-Control: max-age=3600", "Age: 7200"], false),
            (&["Cache-Control: max-age=1", "CDN-Cache-Control: max-age =100"], false),
            (&["Cache-Control: max-age=1", "CDN-Cache-Control: max-age= 100"], false),
            (&["CDN-Cache-Control: max-age=0"], false),
            (&["CDN-Cache-Control: foobar, max-age=3600"], true),
            (&["CDN-Cache-Control: MaX-aGe=3600"], false),
            (&["CDN-Cache-Control: max-age=3600", PAST], true),
            (&["CDN-Cache-Control: max-age=3600", "Expires: 0"], true),
            (&["CDN-Cache-Control: max-age=0", FUTURE], false),
            (&["Cache-Control: max-age=1", "CDN-Cache-Control: max-age=3600"], true),
            (&["Cache-Control: max-age=3600", "CDN-Cache-Control: max-age=1"], false),
            (&["CDN-Cache-Control: private", "Cache-Control: max-age=10000", FUTURE], false),
            (&["CDN-Cache-Control: no-cache", "Cache-Control: max-age=10000", FUTURE], false),
            (&["CDN-Cache-Control: no-store", "Cache-Control: max-age=10000", FUTURE], false),
            (&["Cache-Control: no-store", "CDN-Cache-Control: max-age=10000"], true),
            (&["CDN-Cache-Control: max-age=10000, &&&&&", "Cache-Control: no-store"], false),
            (&["CDN-Cache-Control: max-age=10000, &&&&&", "Cache-Control: max-age=60"], true),
            (&["CDN-Cache-Control: max-age=\"10000\"", "Cache-Control: no-store"], false),
            (&["CDN-Cache-Control: max-age=\"10000\"", "Cache-Control: max-age=60"], false),
            (&["Cache-Control: max-age=60, s-maxage=120", "CDN-Cache-Control: max-age=600"], true),
            (&["Cache-Control: no-store"], false),
            (&["CDN-Cache-Control:", "Cache-Control: max-age=60"], true),
            (&["CDN-Cache-Control: no-store", "CDN-Cache-Control: max-age=60"], false),
        ] {
            assert_eq!(is_reused(&CDN_POLICY, fields, secs(3)).await, reused, "{fields:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_field_that_the_route_does_not_list_has_no_effect() {
    bounded(async {
        let fields = &["Cache-Control: no-store", "CDN-Cache-Control: max-age=60"];
        for policy in [
            &["ttl: origin"][..],
            &["ttl: origin", "targeted_cache_control: []"],
            &["ttl: origin", "targeted_cache_control: [Other-Cache-Control]"],
        ] {
            assert!(!is_reused(policy, fields, secs(0)).await, "{policy:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_first_valid_one_of_several_listed_fields_decides() {
    bounded(async {
        let policy = ["ttl: origin", "targeted_cache_control: [Example-Cache-Control, CDN-Cache-Control]"];
        for (fields, reused) in [
            (&["Example-Cache-Control: max-age=60", "CDN-Cache-Control: no-store"][..], true),
            (&["Example-Cache-Control: no-store", "CDN-Cache-Control: max-age=60"], false),
            (&["Example-Cache-Control: ???", "CDN-Cache-Control: max-age=60"], true),
        ] {
            assert_eq!(is_reused(&policy, fields, secs(3)).await, reused, "{fields:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_targeted_field_is_forwarded_with_hits_and_subject_to_the_same_age() {
    bounded(async {
        let fields = &["Cache-Control: max-age=1", "CDN-Cache-Control: max-age=100", "Age: 30"];
        let origin = Origin::always(MockResponse::new(200, fields, "body")).await;
        let larder = Larder::with_policy(&origin, &CDN_POLICY).await;
        let first = larder.get("/x").await;
        assert_eq!(first.field("cdn-cache-control"), Some("max-age=100"));
        assert_eq!(first.cache_status(), "larder; fwd=uri-miss; fwd-status=200; stored; ttl=70");
        larder.clock.advance(secs(69));
        let hit = larder.get("/x").await;
        assert_eq!(hit.cache_status(), "larder; hit; ttl=1");
        assert_eq!(hit.field("cdn-cache-control"), Some("max-age=100"));
        assert_eq!((hit.field("cache-control"), hit.field("age")), (Some("max-age=1"), Some("99")));
        larder.clock.advance(secs(1));
        larder.get("/x").await;
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_304_updates_the_targeted_field() {
    bounded(async {
        let origin = Origin::start(|seen| match seen.index {
            0 => MockResponse::new(200, &["ETag: \"a\"", "CDN-Cache-Control: max-age=10"], "body"),
            _ => MockResponse::raw("HTTP/1.1 304 x\r\nCDN-Cache-Control: max-age=500\r\n\r\n"),
        })
        .await;
        let larder = Larder::start(&origin, &route(&CDN_POLICY)).await;
        larder.get("/x").await;
        larder.clock.advance(secs(11));
        assert_eq!(larder.get("/x").await.text(), "body");
        larder.clock.advance(secs(400));
        assert_eq!(larder.get("/x").await.cache_status(), "larder; hit; ttl=100");
        assert_eq!(origin.calls(), 2);
    })
    .await;
}
