//! Requests that fill an empty store although they are conditional, or `HEAD` (RFC 9111 §4.3, RFC 9110 §9.3.2).

use crate::caching::{is_hit, secs};
use crate::client::Response;
use crate::concurrent::bounded;
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Gate, MockResponse, Origin, ReceivedRequest};

const DATE: &str = "Last-Modified: Thu, 14 Jan 2027 08:00:00 GMT";

/// A resource with a tag and a date. It answers conditions as origins do.
fn resource(seen: &ReceivedRequest) -> MockResponse {
    let same = seen.field("if-none-match") == Some("\"1\"") || seen.field("if-modified-since").is_some();
    match (seen.method.as_str(), same) {
        (_, true) => MockResponse::raw(format!("HTTP/1.1 304 x\r\nETag: \"1\"\r\n{DATE}\r\n\r\n")),
        ("HEAD", _) => MockResponse::raw(format!(
            "HTTP/1.1 200 x\r\nETag: \"1\"\r\n{DATE}\r\nContent-Length: 4\r\nX-Rev: 1\r\n\r\n"
        )),
        (_, false) => MockResponse::new(200, &["ETag: \"1\"", DATE], "body"),
    }
}

async fn head(larder: &Larder, path: &str, fields: &[&str]) -> Response {
    let mut client = larder.client().await;
    client.send_request("HEAD", &format!("{API}{path}"), fields).await;
    client.response("HEAD").await.expect("a response")
}

#[tokio::test]
async fn a_client_that_is_always_conditional_warms_the_store() {
    bounded(async {
        for field in ["If-None-Match: \"1\"", "If-Modified-Since: Fri, 15 Jan 2027 08:00:00 GMT"] {
            let origin = Origin::start(resource).await;
            let larder = Larder::with_policy(&origin, &["ttl: 30m"]).await;
            for n in 0..5 {
                let answer = larder.get_with("/x", &[field]).await;
                assert_eq!((answer.status, answer.text().as_str()), (304, ""), "{field}");
                assert_eq!(answer.field("etag"), Some("\"1\""), "{field}");
                assert_eq!(is_hit(&answer), n > 0, "{field}");
            }
            let other = larder.get_with("/x", &["If-None-Match: \"2\""]).await;
            assert_eq!((other.status, other.text().as_str(), origin.calls()), (200, "body", 1), "{field}");
            let seen = &origin.requests()[0];
            assert_eq!((seen.field("if-none-match"), seen.field("if-modified-since")), (None, None));
        }
    })
    .await;
}

#[tokio::test]
async fn conditional_requests_at_once_are_one_call() {
    bounded(async {
        let gate = Gate::new();
        let open = gate.clone();
        let origin = Origin::start(move |seen| resource(seen).after(&open)).await;
        let larder = Larder::with_policy(&origin, &["ttl: 30m"]).await;
        let (same, other, plain, ()) = tokio::join!(
            larder.get_with("/x", &["If-None-Match: \"1\""]),
            larder.get_with("/x", &["If-None-Match: \"2\""]),
            larder.get("/x"),
            async {
                larder.wait_for_waiters(3).await;
                gate.open();
            },
        );
        assert_eq!((same.status, other.status, plain.status), (304, 200, 200));
        assert_eq!((other.text().as_str(), plain.text().as_str(), origin.calls()), ("body", "body", 1));
    })
    .await;
}

/// RFC 9110 §13.1.1: only the origin evaluates these.
#[tokio::test]
async fn conditions_for_the_origin_are_forwarded_as_before() {
    bounded(async {
        for (name, value) in [("if-match", "\"1\""), ("if-unmodified-since", "Fri, 15 Jan 2027 08:00:00 GMT")]
        {
            let field = &format!("{name}: {value}");
            let origin = Origin::start(resource).await;
            let larder = Larder::with_policy(&origin, &["ttl: 30m"]).await;
            let answer = larder.get_with("/x", &[field, "If-None-Match: \"1\""]).await;
            assert_eq!(answer.status, 304, "{field}");
            let seen = &origin.requests()[0];
            assert_eq!((seen.field(name), seen.field("if-none-match")), (Some(value), Some("\"1\"")));
        }
    })
    .await;
}

#[tokio::test]
async fn conditions_are_forwarded_after_an_uncacheable_response() {
    bounded(async {
        let origin = Origin::start(|seen| match seen.field("if-none-match") {
            Some(_) => MockResponse::raw("HTTP/1.1 304 x\r\nETag: \"1\"\r\nCache-Control: no-store\r\n\r\n"),
            None => MockResponse::new(200, &["ETag: \"1\"", "Cache-Control: no-store"], "body"),
        })
        .await;
        let larder = Larder::with_policy(&origin, &[]).await;
        for call in 0..4 {
            let answer = larder.get_with("/x", &["If-None-Match: \"1\""]).await;
            assert_eq!(answer.status, 304, "{call}");
            assert_eq!(origin.requests()[call].field("if-none-match").is_some(), call > 0, "{call}");
        }
        // The memory ends, and the response may be cacheable now.
        larder.clock.advance(secs(31));
        larder.get_with("/x", &["If-None-Match: \"1\""]).await;
        assert_eq!(origin.requests()[4].field("if-none-match"), None);
    })
    .await;
}

/// Only the origin can say that the client has a response that it does not identify.
#[tokio::test]
async fn a_large_response_without_validator_is_requested_again_as_received() {
    bounded(async {
        for (fields, calls) in [(&[][..], 2), (&["ETag: \"1\""], 1)] {
            let origin = Origin::start(move |seen| match seen.field("if-none-match") {
                Some(_) => MockResponse::raw("HTTP/1.1 304 x\r\nETag: \"1\"\r\n\r\n"),
                None => MockResponse::new(200, fields, vec![b'x'; 100_000]),
            })
            .await;
            let yaml = format!("store: {{ max_object: 64KiB }}\n{}", route(&["ttl: 30m"]));
            let larder = Larder::start(&origin, &yaml).await;
            let answer = larder.get_with("/x", &["If-None-Match: \"1\""]).await;
            assert_eq!((answer.status, origin.calls()), (304, calls), "{fields:?}");
            let next = larder.get_with("/x", &["If-None-Match: \"1\""]).await;
            assert_eq!((next.status, origin.calls()), (304, calls + 1), "{fields:?}");
            assert!(origin.requests()[calls].field("if-none-match").is_some(), "{fields:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn head_requests_alone_are_served_from_the_first() {
    bounded(async {
        let origin = Origin::start(resource).await;
        let larder = Larder::with_policy(&origin, &["ttl: 30m"]).await;
        for n in 0..5 {
            let answer = head(&larder, "/x", &[]).await;
            assert_eq!((answer.status, answer.field("content-length")), (200, Some("4")));
            assert_eq!((answer.field("x-rev"), is_hit(&answer)), (Some("1"), n > 0));
        }
        let known = head(&larder, "/x", &["If-None-Match: \"1\""]).await;
        assert_eq!((known.status, is_hit(&known), origin.calls()), (304, true, 1));
        // A GET is never served from it, and serves later requests of both methods.
        let get = larder.get("/x").await;
        assert_eq!((get.text().as_str(), origin.calls()), ("body", 2));
        assert!(is_hit(&head(&larder, "/x", &[]).await) && is_hit(&larder.get("/x").await));
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

#[tokio::test]
async fn head_requests_at_once_are_one_call_that_no_get_joins() {
    bounded(async {
        let gate = Gate::new();
        let open = gate.clone();
        let origin = Origin::start(move |seen| resource(seen).after(&open)).await;
        let larder = Larder::with_policy(&origin, &["ttl: 30m"]).await;
        let (one, two, get, ()) =
            tokio::join!(head(&larder, "/x", &[]), head(&larder, "/x", &[]), larder.get("/x"), async {
                larder.wait_for_waiters(3).await;
                gate.open();
            });
        assert_eq!((one.field("content-length"), two.field("content-length")), (Some("4"), Some("4")));
        assert_eq!((get.text().as_str(), origin.calls()), ("body", 2));
    })
    .await;
}

#[tokio::test]
async fn a_stale_head_is_revalidated_and_served_on_errors() {
    bounded(async {
        let origin = Origin::start(resource).await;
        let larder = Larder::with_policy(&origin, &["ttl: 1m", "stale_if_error: { for: 1h }"]).await;
        head(&larder, "/x", &[]).await;
        larder.clock.advance(secs(61));
        let answer = head(&larder, "/x", &[]).await;
        assert_eq!(answer.cache_status(), "larder; fwd=stale; fwd-status=304; stored; ttl=60");
        assert_eq!((answer.status, answer.field("content-length")), (200, Some("4")));
        let seen = &origin.requests()[1];
        assert_eq!((seen.method.as_str(), seen.field("if-none-match")), ("HEAD", Some("\"1\"")));
        larder.clock.advance(secs(61));
        origin.set_script(|_| MockResponse::raw("HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n"));
        let stale = head(&larder, "/x", &[]).await;
        assert_eq!((stale.status, stale.field("content-length")), (200, Some("4")));
        assert_eq!(larder.get("/x").await.status, 503, "never from the response to a HEAD");
    })
    .await;
}

#[tokio::test]
async fn a_write_invalidates_the_response_to_a_head() {
    bounded(async {
        let origin = Origin::start(|seen| match seen.method.as_str() {
            "DELETE" => MockResponse::raw("HTTP/1.1 204 x\r\n\r\n"),
            _ => resource(seen),
        })
        .await;
        let larder = Larder::with_policy(&origin, &["ttl: 30m"]).await;
        head(&larder, "/x", &[]).await;
        let mut client = larder.client().await;
        client.send_request("DELETE", &format!("{API}/x"), &[]).await;
        client.response("DELETE").await.expect("a response");
        assert!(!is_hit(&head(&larder, "/x", &[]).await));
        assert_eq!(origin.calls(), 3);
    })
    .await;
}

/// Polling by HEAD after one GET: the change outdates the response to GET, and further polls hit.
#[tokio::test]
async fn polling_by_head_hits_after_the_resource_has_changed() {
    bounded(async {
        let origin = Origin::start(resource).await;
        let larder = Larder::with_policy(&origin, &["ttl: 1m"]).await;
        larder.get("/x").await;
        larder.clock.advance(secs(61));
        origin
            .set_script(|_| MockResponse::raw("HTTP/1.1 200 x\r\nETag: \"2\"\r\nContent-Length: 9\r\n\r\n"));
        let mut answers = Vec::new();
        for _ in 0..4 {
            answers.push(is_hit(&head(&larder, "/x", &[]).await));
        }
        assert_eq!(answers.last(), Some(&true), "{answers:?}");
        assert!(origin.calls() <= 3, "{}", origin.calls());
    })
    .await;
}

/// Decision 37: the later request has the newer response.
#[tokio::test]
async fn a_head_older_than_a_stale_get_is_not_used() {
    bounded(async {
        let origin = Origin::start(|seen| match seen.method.as_str() {
            "HEAD" => MockResponse::raw("HTTP/1.1 200 x\r\nCache-Control: max-age=3600\r\n\r\n"),
            _ => MockResponse::new(200, &["Cache-Control: max-age=5"], "body"),
        })
        .await;
        let larder = Larder::with_policy(&origin, &[]).await;
        head(&larder, "/x", &[]).await;
        larder.clock.advance(secs(10));
        larder.get("/x").await;
        larder.clock.advance(secs(10));
        assert!(!is_hit(&head(&larder, "/x", &[]).await));
        assert!(is_hit(&head(&larder, "/x", &[]).await), "the new one is stored");
        assert_eq!(origin.calls(), 3);
    })
    .await;
}

/// A rule on bodies cannot judge the response to a HEAD.
#[tokio::test]
async fn a_head_is_not_stored_where_rules_decide_by_the_body() {
    bounded(async {
        let origin = Origin::start(resource).await;
        let rules =
            "upstreams: { api: { hosts: [api.example.test], success: { json: { \"$.ok\": [true] } } } }\n";
        let larder = Larder::start(&origin, &format!("{rules}{}", route(&["ttl: 30m"]))).await;
        for calls in 1..3 {
            assert_eq!(head(&larder, "/x", &[]).await.status, 200);
            assert_eq!(origin.calls(), calls);
        }
    })
    .await;
}

#[tokio::test]
async fn a_head_entry_survives_a_restart_without_its_body() {
    bounded(async {
        let origin = Origin::start(resource).await;
        let directory = tempfile::tempdir().unwrap();
        let store = format!("store: {{ path: '{}' }}\n", directory.path().display());
        let yaml = format!("{store}{}", route(&["ttl: 30m"]));
        let larder = Larder::start(&origin, &yaml).await;
        head(&larder, "/x", &[]).await;
        larder.server.stop().await;
        let larder = Larder::start(&origin, &yaml).await;
        let answer = head(&larder, "/x", &[]).await;
        assert_eq!((is_hit(&answer), answer.field("content-length")), (true, Some("4")));
        assert_eq!(larder.get("/x").await.text(), "body");
        assert_eq!(origin.calls(), 2);
        larder.server.stop().await;
    })
    .await;
}
