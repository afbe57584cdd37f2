//! Invalidation by unsafe methods (RFC 9111 §4.4).

use crate::caching::{echo, is_hit, send};
use crate::concurrent::bounded;
use crate::larder_under_test::{API, Larder};
use crate::origin::{Gate, MockResponse, Origin};

#[tokio::test]
async fn cch_10_other_methods_reach_the_origin_unsafe_ones_invalidate() {
    bounded(async {
        for (method, status, hit_after) in [
            ("POST", 200, false),
            ("POST", 302, false),
            ("PUT", 204, false),
            ("DELETE", 200, false),
            ("PATCH", 201, false),
            ("PURGE", 200, false),
            ("FROBNICATE", 200, false),
            ("POST", 400, true),
            ("DELETE", 500, true),
            ("PURGE", 405, true),
            ("OPTIONS", 200, true),
        ] {
            let origin = Origin::start(move |seen| match seen.method.as_str() {
                "GET" => MockResponse::new(200, &[], "stored"),
                _ if status == 204 => MockResponse::raw("HTTP/1.1 204 x\r\n\r\n"),
                other => MockResponse::new(status, &[], other),
            })
            .await;
            // All scopes and variants are invalidated; here those of two users.
            let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
            let (mine, other) = (["Authorization: a"], ["Authorization: b"]);
            larder.get_with("/x?q", &mine).await;
            larder.get_with("/x?q", &other).await;
            larder.get_with("/x?other", &mine).await;
            let answer = send(&larder, method, "/x?q", &mine).await;
            assert_eq!(answer.status, status);
            if status != 204 {
                assert_eq!(answer.text(), method, "it reached the origin");
            }
            for fields in [&mine, &other] {
                let after = larder.get_with("/x?q", fields).await;
                assert_eq!(is_hit(&after), hit_after, "{method} {status}: {}", after.cache_status());
            }
            assert!(is_hit(&larder.get_with("/x?other", &mine).await), "{method}: not that one");
            let invalidated = larder.metric("larder_invalidations_total{source=\"unsafe-method\"}");
            assert_eq!(invalidated > 0.5, !hit_after, "{method} {status}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_unsafe_method_also_invalidates_same_origin_locations_only() {
    bounded(async {
        let origin = Origin::start(|seen| match seen.method.as_str() {
            "POST" => MockResponse::new(
                201,
                &["Location: /items/7?full", "Content-Location: http://other.test/y"],
                "",
            ),
            _ => MockResponse::new(200, &[], "stored"),
        })
        .await;
        let addr = origin.addr;
        let larder = Larder::bare(&format!(
            "resolve: {{ api.example.test: \"{addr}\", other.test: \"{addr}\" }}\n\
             routes: [{{ name: all, match: {{ host: \"*\" }}, ttl: 1h }}]\n"
        ))
        .await;
        let urls =
            ["http://api.example.test/items", "http://api.example.test/items/7?full", "http://other.test/y"];
        for url in urls {
            larder.client().await.get(url, &[]).await;
        }
        assert_eq!(send(&larder, "POST", "/items", &[]).await.status, 201);
        for (url, hit) in urls.into_iter().zip([false, false, true]) {
            assert_eq!(is_hit(&larder.client().await.get(url, &[]).await), hit, "{url}");
        }
    })
    .await;
}

/// The key rule of the routes that store the target applies, not the query of the unsafe call.
#[tokio::test]
async fn an_unsafe_method_invalidates_entries_keyed_by_a_part_of_the_query() {
    bounded(async {
        let origin = echo().await;
        for rule in ["exclude: [utm]", "include: [a]"] {
            let key = format!("key: {{ query: {{ {rule} }} }}");
            let larder = Larder::with_policy(&origin, &["ttl: 1h", &key]).await;
            larder.get("/x?a=1&utm=2").await;
            larder.get("/x?a=2&utm=2").await;
            assert!(is_hit(&larder.get("/x?a=1&utm=3").await), "{rule}");
            assert_eq!(send(&larder, "POST", "/x?a=1", &[]).await.status, 200);
            assert!(!is_hit(&larder.get("/x?a=1&utm=2").await), "{rule}");
            assert!(is_hit(&larder.get("/x?a=2").await), "{rule}: another target");
            assert_eq!(send(&larder, "DELETE", "/x?utm=9&a=2", &[]).await.status, 200);
            assert!(!is_hit(&larder.get("/x?a=2").await), "{rule}");
        }
    })
    .await;
}

/// An invalidated fill does not store its response, and later requests do not join it.
#[tokio::test]
async fn an_invalidation_during_a_fill_discards_its_response() {
    bounded(async {
        let gate = Gate::new();
        let first = gate.clone();
        let origin = Origin::start(move |seen| match (seen.method.as_str(), seen.index) {
            ("POST", _) => MockResponse::new(200, &[], "changed"),
            (_, 0) => MockResponse::new(200, &[], "before").after(&first),
            _ => MockResponse::new(200, &[], "after"),
        })
        .await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        let mut early = larder.client().await;
        early.send_request("GET", &format!("{API}/x"), &[]).await;
        origin.wait_for_calls(1).await;
        assert_eq!(send(&larder, "POST", "/x", &[]).await.text(), "changed");
        assert_eq!(larder.get("/x").await.text(), "after", "it does not join the invalidated fill");
        gate.open();
        assert_eq!(early.response("GET").await.unwrap().text(), "before", "requested before the change");
        let stored = larder.get("/x").await;
        assert_eq!((stored.text().as_str(), is_hit(&stored)), ("after", true));
        assert_eq!(origin.calls(), 3);
    })
    .await;
}
