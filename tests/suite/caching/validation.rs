//! Validation, conditional requests and ranges (RFC 9111 §4.3, RFC 9110 §13, §14).

use crate::caching::{is_hit, numbered, secs};
use crate::client::End;
use crate::concurrent::bounded;
use crate::larder_under_test::Larder;
use crate::origin::{MockResponse, Origin};

#[tokio::test]
async fn a_304_freshens_the_response_for_later_clients() {
    bounded(async {
        let origin = Origin::start(|seen| match seen.field("if-none-match") {
            Some("W/\"a\"") => MockResponse::raw(
                "HTTP/1.1 304 x\r\nETag: W/\"a\"\r\nCache-Control: max-age=100\r\nX-Rev: 2\r\n\
                 Content-Length: 999\r\nX-RateLimit-Remaining: 7\r\n\r\n",
            ),
            _ => MockResponse::new(
                200,
                &["ETag: W/\"a\"", "Cache-Control: max-age=60", "X-Rev: 1", "X-Old: 1"],
                "body",
            ),
        })
        .await;
        let larder = Larder::with_policy(&origin, &[]).await;
        larder.get("/x").await;
        larder.clock.advance(secs(60));
        let first = larder.get("/x").await;
        assert_eq!(first.cache_status(), "larder; fwd=stale; fwd-status=304; stored; ttl=100");
        larder.clock.advance(secs(99));
        let later = larder.get("/x").await;
        assert_eq!(later.cache_status(), "larder; hit; ttl=1");
        for answer in [first, later] {
            assert_eq!((answer.text().as_str(), answer.end), ("body", End::Complete));
            assert_eq!(answer.field("content-length"), Some("4"));
            assert_eq!((answer.all("x-rev"), answer.field("x-old")), (vec!["2"], Some("1")));
        }
        assert_eq!(origin.calls(), 2);
        larder.wait_for_metric("larder_requests_total{result=\"revalidated\",route=\"api\"}", 1.0).await;
    })
    .await;
}

/// RFC 9111 §4.3.4: a 304 with another strong tag confirms no stored response.
#[tokio::test]
async fn a_304_for_another_representation_causes_a_full_request() {
    bounded(async {
        let origin = Origin::start(|seen| match (seen.index, seen.field("if-none-match")) {
            (0, _) => MockResponse::new(200, &["ETag: \"a\""], "old"),
            (_, Some(_)) => MockResponse::raw("HTTP/1.1 304 x\r\nETag: \"b\"\r\n\r\n"),
            (_, None) => MockResponse::new(200, &["ETag: \"b\""], "new"),
        })
        .await;
        let larder = Larder::with_policy(&origin, &["ttl: 1m"]).await;
        larder.get("/x").await;
        larder.clock.advance(secs(61));
        assert_eq!(larder.get("/x").await.text(), "new");
        let hit = larder.get("/x").await;
        assert_eq!((hit.text().as_str(), is_hit(&hit)), ("new", true));
        assert_eq!(origin.calls(), 3);
    })
    .await;
}

#[tokio::test]
async fn an_error_in_a_revalidation_never_drops_the_stored_response() {
    bounded(async {
        for status in [429, 403, 408, 500, 503, 404] {
            let origin = Origin::start(move |seen| match seen.index {
                1 => MockResponse::new(status, &[], "no"),
                2 => MockResponse::raw("HTTP/1.1 304 x\r\n\r\n"),
                _ => MockResponse::new(200, &["ETag: \"a\""], "kept"),
            })
            .await;
            let larder = Larder::with_policy(&origin, &["ttl: 1m"]).await;
            larder.get("/x").await;
            larder.clock.advance(secs(61));
            larder.get("/x").await;
            // A 429 starts a cooldown of one second, even without `Retry-After`.
            larder.clock.advance(secs(1));
            let after = larder.get("/x").await;
            assert_eq!(after.text(), "kept", "{status}: {}", after.cache_status());
            assert_eq!(origin.requests()[2].field("if-none-match"), Some("\"a\""), "{status}");
        }
    })
    .await;
}

#[tokio::test]
async fn conditional_requests_are_served_from_the_store() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(
            200,
            &[
                "ETag: \"a,b\"",
                "Last-Modified: Thu, 14 Jan 2027 08:00:00 GMT",
                "Vary: X-Q",
                "Cache-Control: max-age=600",
                "Content-Location: /c",
                "Expires: Thu, 01 Jan 2026 00:00:00 GMT",
                "X-Else: 1",
            ],
            "body",
        ))
        .await;
        let larder = Larder::with_policy(&origin, &[]).await;
        larder.get("/x").await;
        for (fields, status) in [
            (&["If-None-Match: \"a,b\""][..], 304),
            (&["If-None-Match: \"z\", W/\"a,b\""], 304),
            (&["If-None-Match: *"], 304),
            (&["If-None-Match: \"z\""], 200),
            (&["If-None-Match: \"z\"", "If-Modified-Since: Fri, 15 Jan 2027 08:00:00 GMT"], 200),
            (&["If-Modified-Since: Thu, 14 Jan 2027 08:00:00 GMT"], 304),
            (&["If-Modified-Since: Thursday, 14-Jan-27 08:00:00 GMT"], 304),
            (&["If-Modified-Since: Thu, 14 Jan 2027 07:59:59 GMT"], 200),
            (&["If-Modified-Since: nonsense"], 200),
        ] {
            let answer = larder.get_with("/x", fields).await;
            assert_eq!(answer.status, status, "{fields:?}: {}", answer.cache_status());
            assert!(is_hit(&answer), "{fields:?}");
            if status == 304 {
                for name in ["etag", "vary", "cache-control", "content-location", "expires", "date"] {
                    assert!(answer.field(name).is_some(), "{fields:?}: {name}");
                }
                assert_eq!((answer.field("x-else"), answer.text()), (None, String::new()));
            }
        }
        assert_eq!(origin.calls(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_stale_response_is_validated_before_the_clients_condition_is_checked() {
    bounded(async {
        let origin = Origin::start(|seen| match seen.field("if-none-match") {
            Some("\"a\"") => MockResponse::raw("HTTP/1.1 304 x\r\nETag: \"a\"\r\n\r\n"),
            Some(other) => MockResponse::new(500, &[], other),
            None => MockResponse::new(200, &["ETag: \"a\""], "body"),
        })
        .await;
        let larder = Larder::with_policy(&origin, &["ttl: 1m"]).await;
        larder.get("/x").await;
        larder.clock.advance(secs(61));
        let fresh_copy = larder.get_with("/x", &["If-None-Match: \"a\""]).await;
        assert_eq!(fresh_copy.status, 304, "{}", fresh_copy.cache_status());
        larder.clock.advance(secs(61));
        let old_copy = larder.get_with("/x", &["If-None-Match: \"older\""]).await;
        assert_eq!((old_copy.status, old_copy.text().as_str()), (200, "body"));
        assert_eq!(origin.calls(), 3);
    })
    .await;
}

#[tokio::test]
async fn single_ranges_are_served_from_the_store_with_all_fields() {
    bounded(async {
        let origin =
            Origin::always(MockResponse::new(200, &["ETag: \"a\"", "X-Else: 1"], "0123456789")).await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        larder.get("/x").await;
        for (range, status, body, content_range) in [
            ("bytes=2-4", 206, "234", Some("bytes 2-4/10")),
            ("bytes=7-", 206, "789", Some("bytes 7-9/10")),
            ("bytes=-3", 206, "789", Some("bytes 7-9/10")),
            ("bytes=0-99", 206, "0123456789", Some("bytes 0-9/10")),
            ("bytes=10-", 416, "", Some("bytes */10")),
            ("bytes=4-2", 200, "0123456789", None),
            ("lines=1-2", 200, "0123456789", None),
        ] {
            let answer = larder.get_with("/x", &[&format!("Range: {range}")]).await;
            assert_eq!((answer.status, answer.text().as_str()), (status, body), "{range}");
            assert_eq!(answer.field("content-range"), content_range, "{range}");
            assert_eq!(answer.field("content-length"), Some(body.len().to_string().as_str()));
            assert_eq!(answer.field("x-else"), Some("1"), "{range}");
            assert!(is_hit(&answer), "{range}");
        }
        let other = larder.get_with("/x", &["Range: bytes=2-4", "If-Range: \"b\""]).await;
        assert_eq!((other.status, other.text().as_str()), (200, "0123456789"));
        assert_eq!(origin.calls(), 1);
    })
    .await;
}

/// A partial response without a range request is not stored either.
#[tokio::test]
async fn an_unrequested_206_is_never_stored() {
    bounded(async {
        let origin = numbered(206, &["Cache-Control: max-age=60", "Content-Range: bytes 0-5/10"]).await;
        for policy in ["ttl: 1h", "ttl: origin"] {
            let larder = Larder::with_policy(&origin, &[policy]).await;
            let first = larder.get("/x").await.text();
            assert_ne!(larder.get("/x").await.text(), first, "{policy}");
        }
    })
    .await;
}
