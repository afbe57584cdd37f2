//! HEAD, unsafe methods and method overrides (RFC 9111 §4, §4.3.5).

use crate::caching::{After, OVERRIDES, is_hit, numbered, secs, send};
use crate::client::End;
use crate::concurrent::bounded;
use crate::larder_under_test::{API, Larder};
use crate::origin::{MockResponse, Origin, Step};

#[tokio::test]
async fn cch_10_head_is_served_from_a_stored_get() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(200, &["ETag: \"a\""], "12345")).await;
        let larder = Larder::with_policy(&origin, &["ttl: 1m"]).await;
        larder.get("/x").await;
        let mut client = larder.client().await;
        client.send_request("HEAD", &format!("{API}/x"), &[]).await;
        let head = client.response("HEAD").await.unwrap();
        assert_eq!((head.status, head.field("content-length")), (200, Some("5")));
        assert_eq!(head.cache_status(), "larder; hit; ttl=60");
        // No body followed the head: the next response is read correctly.
        assert_eq!(client.get(&format!("{API}/x"), &[]).await.text(), "12345");
        assert_eq!(origin.calls(), 1);
    })
    .await;
}

#[tokio::test]
async fn cch_10_a_request_with_a_method_override_bypasses_the_store() {
    bounded(async {
        for (query, fields) in OVERRIDES {
            let origin = numbered(200, &["ETag: \"1\""]).await;
            let stale = "stale_if_error: { for: 24h, cooldown: 0s }";
            let larder = Larder::with_policy(&origin, &["ttl: 1m", "scope: shared", stale]).await;
            let path = format!("/x{query}");
            for method in ["GET", "GET", "HEAD"] {
                let before = origin.calls();
                let answer = send(&larder, method, &path, fields).await;
                assert!(answer.cache_status().contains("fwd=bypass"), "{method} {path}");
                assert_eq!(origin.calls(), before + 1, "{method} {path}");
            }
            // The stored response of a plain request is not served to it either, not even as stale-if-error.
            let plain = larder.get("/x?a=1").await;
            assert!(!is_hit(&plain) && is_hit(&larder.get("/x?a=1").await));
            larder.clock.advance(secs(120));
            origin.set_script(|_| MockResponse::new(500, &[], ""));
            assert_eq!(send(&larder, "HEAD", "/x?a=1", &[]).await.status, 200, "stale");
            assert_eq!(send(&larder, "HEAD", &path, fields).await.status, 500, "{path}");
        }
    })
    .await;
}

/// The origin may process such a request as a POST.
#[tokio::test]
async fn a_request_with_a_method_override_is_not_retried() {
    bounded(async {
        for (query, fields) in OVERRIDES {
            let policy = ["ttl: 1m", "retry: { retries: 2, backoff: { initial: 1ms } }"];
            let origin = numbered(200, &[]).await;
            let larder = Larder::with_policy(&origin, &policy).await;
            // A reused connection that ends before a response may have been dead before the request.
            larder.get("/open").await;
            origin.set_script(|_| MockResponse::closed());
            let path = format!("/x{query}");
            assert_eq!(send(&larder, "GET", &path, fields).await.status, 502, "{path}");
            assert_eq!(origin.calls(), 2, "{path}");
            origin.set_script(|_| MockResponse::new(503, &[], ""));
            assert_eq!(send(&larder, "GET", &path, fields).await.status, 503, "{path}");
            assert_eq!(origin.calls(), 3, "{path}");
        }
    })
    .await;
}

/// RFC 9111 §4.3.5: the response to a forwarded HEAD shows whether the stored response is still valid.
#[tokio::test]
async fn a_forwarded_head_freshens_or_invalidates_the_stored_get() {
    bounded(async {
        for (fields, after) in [
            (&["ETag: \"a\"", "Content-Length: 3", "X-Rev: 2"][..], After::Fresh),
            (&["ETag: \"a\"", "X-Rev: 2"], After::Fresh),
            (&["Last-Modified: Thu, 14 Jan 2027 08:00:00 GMT", "X-Rev: 2"], After::Fresh),
            (&["ETag: \"b\"", "Content-Length: 3"], After::Outdated),
            (&["ETag: W/\"a\""], After::Outdated),
            (&["ETag: \"a\"", "Content-Length: 4"], After::Outdated),
            (&["Content-Length: 4"], After::Outdated),
            (&["Last-Modified: Fri, 15 Jan 2027 08:00:00 GMT"], After::Outdated),
            (&["Content-Length: 3", "X-Rev: 2"], After::Unchanged),
            (&["ETag: \"g\"", "Content-Encoding: gzip"], After::Unchanged),
            (&["ETag: \"a\"", "X-Rev: 2", "Set-Cookie: a=b"], After::Unchanged),
        ] {
            let origin = Origin::start(move |seen| match seen.method.as_str() {
                "HEAD" => MockResponse::raw(format!("HTTP/1.1 200 x\r\n{}\r\n\r\n", fields.join("\r\n"))),
                _ if seen.index > 0 => MockResponse::new(503, &[], "no"),
                _ => MockResponse::new(
                    200,
                    &["ETag: \"a\"", "Last-Modified: Thu, 14 Jan 2027 08:00:00 GMT", "X-Rev: 1"],
                    "old",
                ),
            })
            .await;
            let larder = Larder::with_policy(&origin, &["ttl: 1m"]).await;
            larder.get("/x").await;
            larder.clock.advance(secs(61));
            let head = send(&larder, "HEAD", "/x", &[]).await;
            assert_eq!((head.status, origin.calls()), (200, 2), "{fields:?}");
            let next = larder.get("/x").await;
            let outdated = larder.metric("larder_invalidations_total{source=\"head\"}");
            let found = match (next.status, next.cache_status()) {
                (200, "larder; hit; ttl=60") => After::Fresh,
                (200, _) if outdated > 0.0 => After::Outdated,
                _ => After::Unchanged,
            };
            assert_eq!(found, after, "{fields:?}: {}", next.cache_status());
            let (revision, invalidated) = match after {
                After::Fresh => (Some("2"), 0.0),
                After::Unchanged => (Some("1"), 0.0),
                After::Outdated => (Some("1"), 1.0),
            };
            assert_eq!(next.field("x-rev"), revision, "{fields:?}");
            larder.wait_for_metric("larder_invalidations_total{source=\"head\"}", invalidated).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_get_with_a_body_is_neither_stored_nor_served_from_the_store() {
    bounded(async {
        let origin = Origin::start(|seen| {
            MockResponse::new(
                200,
                &[],
                format!("call {} {}", seen.index, String::from_utf8_lossy(&seen.body)),
            )
        })
        .await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        larder.get("/x").await;
        for body in ["one", "two"] {
            let mut client = larder.client().await;
            let length = body.len();
            client
                .send(format!("GET {API}/x HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}"))
                .await;
            let answer = client.response("GET").await.unwrap();
            assert!(answer.text().ends_with(body), "{}", answer.text());
        }
        assert_eq!(larder.get("/x").await.text(), "call 0 ");
    })
    .await;
}

/// RFC 9110 §9.3.3: explicit freshness and a `Content-Location` that is the target.
#[tokio::test]
async fn a_response_to_a_post_serves_later_gets_only_if_it_allows_it() {
    for (location, fresh, hit) in
        [("/x", "max-age=60", true), ("/other", "max-age=60", false), ("/x", "no-store", false)]
    {
        let origin = Origin::start(move |seen| {
            let location = format!("Content-Location: {location}");
            let fresh = format!("Cache-Control: {fresh}");
            MockResponse::new(200, &[&location, &fresh], format!("by {}", seen.method))
        })
        .await;
        let larder = Larder::with_policy(&origin, &["ttl: origin"]).await;
        let mut client = larder.client().await;
        client
            .send(format!("POST {API}/x HTTP/1.1\r\nHost: api.example.test\r\nContent-Length: 2\r\n\r\nhi"))
            .await;
        assert_eq!(client.response("POST").await.unwrap().text(), "by POST");
        let got = larder.get("/x").await;
        let expected = if hit { "by POST" } else { "by GET" };
        assert_eq!(got.text(), expected, "{location} {fresh}: {}", got.cache_status());
        assert_eq!(origin.calls(), if hit { 1 } else { 2 });
    }
}

/// A truncated response to a `POST` is never stored for a later `GET`.
#[tokio::test]
async fn a_truncated_response_to_a_post_is_not_stored() {
    let head = "HTTP/1.1 200 OK\r\nContent-Location: /x\r\nCache-Control: max-age=60\r\n";
    let cut = MockResponse::raw(format!("{head}Content-Length: 100\r\n\r\nhalf")).then([Step::Close]);
    let origin =
        Origin::start(
            move |seen| {
                if seen.method == "POST" { cut.clone() } else { MockResponse::new(200, &[], "whole") }
            },
        )
        .await;
    let larder = Larder::with_policy(&origin, &["ttl: origin"]).await;
    let mut client = larder.client().await;
    client
        .send(format!("POST {API}/x HTTP/1.1\r\nHost: api.example.test\r\nContent-Length: 0\r\n\r\n"))
        .await;
    assert_eq!(client.response("POST").await.unwrap().end, End::Truncated);
    assert_eq!(larder.get("/x").await.text(), "whole");
}
