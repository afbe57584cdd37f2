//! Freshness, age, stale windows and request directives (RFC 9111 §4.2, RFC 5861).

use crate::caching::{HOUR, is_hit, numbered, secs, send};
use crate::concurrent::bounded;
use crate::larder_under_test::{Larder, route};
use crate::origin::{Gate, MockResponse, Origin, Step};

#[tokio::test]
async fn cch_03_prohibitions_apply_unless_the_ttl_of_the_operator_overrides() {
    let forms = [
        ("ttl: 30m", true),
        ("ttl: forever", true),
        ("ttl: origin", false),
        ("set_cookie: strip", false), // no ttl at all
        ("ttl: { fallback: 30m }", false),
        ("ttl: { min: 1m, max: 1h }", false),
    ];
    bounded(async {
        for (form, overrides) in forms {
            for directive in ["private", "no-store", "no-cache", "PRIVATE", "private=\"x-mine\""] {
                let field = format!("Cache-Control: {directive}, max-age=60");
                let origin = Origin::start(move |seen| {
                    MockResponse::new(200, &[&field, "X-Mine: 1"], format!("call {}", seen.index))
                })
                .await;
                let larder = Larder::with_policy(&origin, &[form]).await;
                assert_eq!(larder.get("/x").await.field("x-mine"), Some("1"));
                let second = larder.get("/x").await;
                let context = format!("{form}, {directive}");
                let stores = overrides || directive.starts_with("private=");
                assert_eq!(is_hit(&second), stores, "{context}: {}", second.cache_status());
                assert_eq!(second.text(), if stores { "call 0" } else { "call 1" }, "{context}");
                if directive.starts_with("private=") {
                    assert_eq!(second.field("x-mine"), None, "{context}");
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn cch_14_errors_are_stored_only_if_policy_or_origin_allow_it() {
    bounded(async {
        let fresh: &'static [&'static str] = &["Cache-Control: max-age=60"];
        for (policy, fields, stored, not_stored) in [
            (
                &["ttl: 1h"][..],
                &[][..],
                &[200, 203, 300, 301, 308][..],
                &[302, 400, 401, 403, 404, 410, 413, 414, 429, 431, 500, 501, 503][..],
            ),
            (&["ttl: 1h", "ttl_by_status: { 404: 5m, 5xx: 1s }"], &[], &[404, 500, 503], &[400, 410, 429]),
            (&["ttl: origin"], fresh, &[200, 404, 410, 500, 501, 302], &[400, 413, 414, 431, 206]),
            (&["ttl: origin"], &[], &[], &[200, 404, 500, 302]),
        ] {
            let origin = Origin::start(move |seen| {
                let status = seen.target.trim_start_matches('/').parse().expect("a status");
                MockResponse::new(status, fields, format!("call {}", seen.index))
            })
            .await;
            let larder = Larder::with_policy(&origin, policy).await;
            let all = stored.iter().map(|s| (*s, true)).chain(not_stored.iter().map(|s| (*s, false)));
            for (status, expected) in all {
                let path = format!("/{status}");
                // The cooldown of an earlier 429 ends.
                larder.clock.advance(secs(60));
                let (first, second) = (larder.get(&path).await, larder.get(&path).await);
                assert_eq!((first.status, second.status), (status, status));
                let context = format!("{policy:?} {fields:?} {status}: {}", second.cache_status());
                assert_eq!(is_hit(&second), expected, "{context}");
                let is_replayed = second.cache_status().contains("replayed/");
                assert_eq!(first.text() == second.text(), expected || is_replayed, "{context}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn ttl_by_status_sets_the_lifetime_of_its_status() {
    bounded(async {
        let origin = numbered(404, &[]).await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h", "ttl_by_status: { 404: 5m }"]).await;
        larder.get("/x").await;
        larder.clock.advance(secs(299));
        assert_eq!(larder.get("/x").await.cache_status(), "larder; hit; ttl=1");
        larder.clock.advance(secs(1));
        assert_eq!(larder.get("/x").await.text(), "call 1");
    })
    .await;
}

#[tokio::test]
async fn cch_15_a_hit_has_an_age_and_no_fields_of_its_original_connection() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(
            200,
            &[
                "Cache-Control: max-age=60",
                "Connection: X-Secret, keep-alive",
                "X-Secret: hop",
                "Keep-Alive: timeout=5",
                "Proxy-Authenticate: Basic",
                "X-Kept: 1",
                "Content-Security-Policy: default-src 'none'",
            ],
            "body",
        ))
        .await;
        let larder = Larder::with_policy(&origin, &[]).await;
        larder.get("/x").await;
        larder.clock.advance(secs(3));
        let hit = larder.get("/x").await;
        assert_eq!(hit.all("age"), ["3"]);
        assert_eq!(hit.all("date").len(), 1, "{:?}", hit.fields);
        assert_eq!(hit.cache_status(), "larder; hit; ttl=57");
        for absent in ["x-secret", "keep-alive", "proxy-authenticate"] {
            assert_eq!(hit.field(absent), None, "{absent}");
        }
        assert_eq!(hit.field("x-kept"), Some("1"));
        assert!(hit.field("content-security-policy").is_some());
        larder.wait_for_metric("larder_requests_total{result=\"hit\",route=\"api\"}", 1.0).await;
    })
    .await;
}

#[tokio::test]
async fn an_age_from_upstream_counts_and_is_added_to_the_age_of_a_hit() {
    bounded(async {
        let origin = numbered(200, &["Cache-Control: max-age=60", "Age: 50"]).await;
        let larder = Larder::with_policy(&origin, &[]).await;
        larder.get("/x").await;
        larder.clock.advance(secs(9));
        let hit = larder.get("/x").await;
        assert_eq!((hit.all("age"), hit.cache_status()), (vec!["59"], "larder; hit; ttl=1"));
        larder.clock.advance(secs(1));
        assert_eq!(larder.get("/x").await.text(), "call 1");
    })
    .await;
}

#[tokio::test]
async fn cch_16_an_error_is_hidden_within_the_stale_window_and_served_after_it() {
    let broken: [(&str, MockResponse, u16); 9] = [
        ("500", MockResponse::new(500, &[], "no"), 500),
        ("502", MockResponse::new(502, &[], "no"), 502),
        ("503", MockResponse::new(503, &[], "no"), 503),
        ("504", MockResponse::new(504, &[], "no"), 504),
        ("429", MockResponse::new(429, &[], "no"), 429),
        ("closed", MockResponse::closed(), 502),
        ("reset", MockResponse(vec![Step::Reset]), 502),
        ("time-out", MockResponse::hang(), 504),
        ("garbage", MockResponse::raw("\x01\x02garbage\r\n\r\n").then([Step::Close]), 502),
    ];
    bounded(async {
        for (policy, fields, window) in [
            ("ttl: 1m", "X-Nothing: 1", 24 * HOUR),
            ("ttl: 1m\n    stale_if_error: { for: 10m }", "X-Nothing: 1", secs(600)),
            ("ttl: origin", "Cache-Control: max-age=60, stale-if-error=30", secs(30)),
            ("ttl: origin\n    stale_if_error: { for: 2h }", "Cache-Control: max-age=60", 2 * HOUR),
        ] {
            let origin = Origin::always(MockResponse::closed()).await;
            // Only the case that times out uses a short timeout.
            let patient = larder_with(&origin, "20s", policy).await;
            let impatient = larder_with(&origin, "400ms", policy).await;
            for (name, answer, expected) in &broken {
                let larder = if *name == "time-out" { &impatient } else { &patient };
                let (path, before) = (format!("/{name}"), origin.calls());
                // The cooldown of an earlier 429 ends.
                larder.clock.advance(secs(60));
                let prime = MockResponse::new(200, &[fields, "Connection: close"], "old");
                origin.set_script(move |_| prime.clone().then([Step::Close]));
                assert_eq!(larder.get(&path).await.text(), "old");
                let again = answer.clone();
                origin.set_script(move |_| again.clone());
                larder.clock.advance(secs(60) + window.saturating_sub(secs(1)));
                let hidden = larder.get(&path).await;
                let cache_status = hidden.cache_status();
                let context = format!("{name}, {policy}: {cache_status}");
                assert_eq!((hidden.status, hidden.text().as_str()), (200, "old"), "{context}");
                assert!(cache_status.starts_with("larder; fwd=stale;"), "{context}");
                assert!(cache_status.contains("stale-if-error/"), "{context}");
                let age = (secs(59) + window).as_secs().to_string();
                assert_eq!(hidden.all("age"), [&age], "{context}");
                larder.clock.advance(secs(1));
                assert_eq!(larder.get(&path).await.status, *expected, "{context}");
                assert_eq!(origin.calls() - before, 3, "{context}");
            }
        }
    })
    .await;
}

async fn larder_with(origin: &Origin, first_byte: &str, policy: &str) -> Larder {
    let up = format!("hosts: [api.example.test], timeouts: {{ first_byte: {first_byte} }}");
    Larder::start(origin, &format!("upstreams: {{ up: {{ {up} }} }}\n{}", route(&[policy]))).await
}

/// RFC 9111 §4.2.4: a directive of the origin forbids stale responses.
#[tokio::test]
async fn a_response_that_must_be_revalidated_is_never_served_stale() {
    bounded(async {
        for directive in ["must-revalidate", "proxy-revalidate", "s-maxage=60", "no-cache"] {
            let field = format!("Cache-Control: max-age=60, stale-while-revalidate=600, {directive}");
            let origin = Origin::start(move |seen| match seen.index {
                0 => MockResponse::new(200, &[&field, "ETag: \"a\""], "old"),
                _ => MockResponse::closed(),
            })
            .await;
            let policy = ["ttl: origin", "scope: shared", "stale_if_error: { for: 1h }"];
            let larder = Larder::with_policy(&origin, &policy).await;
            larder.get("/x").await;
            larder.clock.advance(secs(61));
            for request_field in ["X-Nothing: 1", "Cache-Control: max-stale"] {
                let answer = larder.get_with("/x", &[request_field]).await;
                assert_eq!(answer.status, 502, "{directive} {request_field}: {}", answer.cache_status());
            }
        }
    })
    .await;
}

#[tokio::test]
async fn cch_22_malformed_freshness_is_treated_conservatively() {
    bounded(async {
        for (fields, second_hits, hits_after_a_century) in [
            (&["Cache-Control: max-age=99999999999999999999"][..], true, false),
            (&["Cache-Control: max-age=-1"], false, false),
            (&["Cache-Control: max-age=0, max-age=60"], false, false),
            (&["Cache-Control: max-age=60.5"], false, false),
            (&["Expires: 0"], false, false),
            (&["Cache-Control: max-age=60", "Date: Thu, 01 Jan 2099 00:00:00 GMT"], true, false),
            (&["Cache-Control: max-age=60", "Age: 4294967296"], false, false),
            (&["Cache-Control: max-age=60", "Age: 99999999999999999999999"], false, false),
            (&["Cache-Control: max-age=60", "Age: -5"], true, false),
            (&["Cache-Control: s-maxage=0, max-age=60"], false, false),
        ] {
            let origin = numbered(200, fields).await;
            let larder = Larder::with_policy(&origin, &["scope: shared"]).await;
            larder.get("/x").await;
            let second = larder.get("/x").await;
            assert_eq!(is_hit(&second), second_hits, "{fields:?}: {}", second.cache_status());
            larder.clock.advance(100 * 366 * 24 * HOUR);
            assert_eq!(is_hit(&larder.get("/x").await), hits_after_a_century, "{fields:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn stale_while_revalidate_responds_at_once_and_refreshes_once() {
    bounded(async {
        let gate = Gate::new();
        let later = gate.clone();
        let origin = Origin::start(move |seen| {
            let answer = MockResponse::new(200, &[], format!("call {}", seen.index));
            if seen.index == 0 { answer } else { answer.after(&later) }
        })
        .await;
        let larder = Larder::with_policy(&origin, &["ttl: 1m", "stale_while_revalidate: 10m"]).await;
        larder.get("/x").await;
        larder.clock.advance(secs(61));
        for _ in 0..20 {
            let answer = larder.get("/x").await;
            assert_eq!(answer.text(), "call 0");
            let expected = "larder; hit; ttl=-1; detail=\"stale-while-revalidate\"";
            assert_eq!(answer.cache_status(), expected);
        }
        origin.wait_for_calls(2).await;
        gate.open();
        until_refreshed(&larder, "replaced", 1.0).await;
        let fresh = larder.get("/x").await;
        assert_eq!((fresh.text().as_str(), fresh.cache_status()), ("call 1", "larder; hit; ttl=60"));
        assert_eq!(origin.calls(), 2);
        // After the window the stale response is not served any more.
        larder.clock.advance(secs(60 + 600));
        assert_eq!(larder.get("/x").await.text(), "call 2");
    })
    .await;
}

async fn until_refreshed(larder: &Larder, outcome: &str, times: f64) {
    let series = format!(
        "larder_refreshes_total{{outcome=\"{outcome}\",route=\"api\",trigger=\"stale-while-revalidate\"}}"
    );
    larder.wait_for_metric(&series, times).await;
}

#[tokio::test]
async fn a_background_refresh_counts_its_outcome() {
    bounded(async {
        for (answer, outcome, next_status) in [
            (MockResponse::raw("HTTP/1.1 304 x\r\nETag: \"a\"\r\n\r\n"), "confirmed", "larder; hit; ttl=60"),
            (MockResponse::new(200, &[], "new"), "replaced", "larder; hit; ttl=60"),
            (MockResponse::new(200, &["Set-Cookie: a=b"], "new"), "not-stored", "larder; hit; ttl=-1"),
            (MockResponse::new(503, &[], "no"), "failed", "larder; hit; ttl=-1"),
            (MockResponse::closed(), "failed", "larder; hit; ttl=-1"),
            (
                MockResponse::raw("HTTP/1.1 200 x\r\nContent-Length: 9\r\n\r\nhalf").then([Step::Close]),
                "failed",
                "larder; hit; ttl=-1",
            ),
        ] {
            for method in ["GET", "HEAD"] {
                let prime =
                    MockResponse::new(200, &["ETag: \"a\"", "Connection: close"], "old").then([Step::Close]);
                let origin = Origin::always(prime).await;
                let larder = Larder::with_policy(&origin, &["ttl: 1m", "stale_while_revalidate: 1h"]).await;
                larder.get("/x").await;
                larder.clock.advance(secs(61));
                let again = answer.clone();
                origin.set_script(move |_| again.clone());
                send(&larder, method, "/x", &["Range: bytes=0-1", "If-None-Match: \"a\""]).await;
                until_refreshed(&larder, outcome, 1.0).await;
                assert_eq!(origin.requests()[1].method, "GET", "{method} {outcome}");
                assert_eq!(origin.requests()[1].field("range"), None);
                let next = larder.get("/x").await;
                assert!(next.cache_status().starts_with(next_status), "{outcome}: {}", next.cache_status());
            }
        }
    })
    .await;
}

/// The head of such a refresh is a success; without a cooldown each stale hit would start another call.
#[tokio::test]
async fn a_refresh_that_the_origin_cuts_starts_the_cooldown_of_its_key() {
    bounded(async {
        let origin =
            Origin::always(MockResponse::new(200, &["Connection: close"], "old").then([Step::Close])).await;
        let policy = ["ttl: 1m", "stale_while_revalidate: 1h", "stale_if_error: { for: 1h, cooldown: 30s }"];
        let larder = Larder::with_policy(&origin, &policy).await;
        larder.get("/x").await;
        larder.clock.advance(secs(61));
        origin.set_script(|_| {
            MockResponse::raw("HTTP/1.1 200 x\r\nContent-Length: 9\r\n\r\nhalf").then([Step::Close])
        });
        larder.get("/x").await;
        until_refreshed(&larder, "failed", 1.0).await;
        for _ in 0..5 {
            assert_eq!(larder.get("/x").await.text(), "old");
        }
        assert_eq!(origin.calls(), 2);
        larder.clock.advance(secs(31));
        larder.get("/x").await;
        until_refreshed(&larder, "failed", 2.0).await;
    })
    .await;
}

#[tokio::test]
async fn request_directives_are_honoured() {
    bounded(async {
        let origin = numbered(200, &["Cache-Control: max-age=60"]).await;
        let larder = Larder::with_policy(&origin, &[]).await;
        let get = |field: &'static str| {
            let larder = &larder;
            async move { larder.get_with("/x", &[field]).await }
        };
        let refused = get("Cache-Control: only-if-cached").await;
        assert_eq!((refused.status, origin.calls()), (504, 0));
        assert!(refused.text().contains("\"class\":\"only_if_cached\""));
        assert_eq!(refused.cache_status(), "larder; detail=\"only-if-cached\"", "nothing was forwarded");
        assert_eq!(get("X-Request-Id: 1").await.text(), "call 0");
        larder.clock.advance(secs(20));
        for (field, body) in [
            ("Cache-Control: only-if-cached", "call 0"),
            ("Cache-Control: max-age=20", "call 0"),
            ("Cache-Control: min-fresh=40", "call 0"),
            ("Cache-Control: no-store", "call 1"),
            ("X-Request-Id: 1", "call 0"), // no-store did not write either
            ("Cache-Control: max-age=19", "call 2"),
            ("Cache-Control: min-fresh=61", "call 3"),
            ("Cache-Control: no-cache", "call 4"),
            ("Cache-Control: max-age=0", "call 5"),
            ("Pragma: no-cache", "call 6"),
            ("Pragma: other", "call 6"),
            ("Cache-Control: unknown=1, max-age=999", "call 6"),
        ] {
            assert_eq!(get(field).await.text(), body, "{field}");
        }
        let both = larder.get_with("/x", &["Pragma: no-cache", "Cache-Control: max-age=60"]).await;
        assert_eq!(both.text(), "call 6", "Pragma counts only without Cache-Control");
        larder.clock.advance(secs(70));
        let stale = get("Cache-Control: max-stale=10").await;
        assert_eq!(stale.cache_status(), "larder; hit; ttl=-10; detail=\"max-stale\"");
        assert_eq!(get("Cache-Control: only-if-cached").await.status, 504);
        assert_eq!(get("Cache-Control: max-stale").await.text(), "call 6");
        assert_eq!(get("Cache-Control: max-stale=9").await.text(), "call 7");
    })
    .await;
}

#[tokio::test]
async fn fields_of_one_exchange_are_omitted_from_hits_only() {
    bounded(async {
        let once = [
            "X-RateLimit-Remaining: 7",
            "X-RateLimit-Reset-After: 1.5",
            "RateLimit: r=1",
            "RateLimit-Policy: p",
            "Retry-After: 9",
        ];
        let origin = Origin::always(MockResponse::new(200, &once, "body")).await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        let (first, hit) = (larder.get("/x").await, larder.get("/x").await);
        for line in once {
            let name = line.split(':').next().unwrap();
            assert!(first.field(name).is_some(), "{name}");
            assert_eq!(hit.field(name), None, "{name}");
        }
    })
    .await;
}

#[tokio::test]
async fn each_form_of_ttl_sets_its_documented_lifetime() {
    bounded(async {
        let explicit: &'static [&'static str] = &["Cache-Control: max-age=100"];
        let short: &'static [&'static str] = &["Cache-Control: max-age=10"];
        let none: &'static [&'static str] = &[];
        for (form, fields, lifetime) in [
            ("ttl: 30m", explicit, 1800),
            ("ttl: 30m", none, 1800),
            ("ttl: { fallback: 30m }", explicit, 100),
            ("ttl: { fallback: 30m }", none, 1800),
            ("ttl: { min: 1m, max: 90s }", explicit, 90),
            ("ttl: { min: 1m, max: 90s }", short, 60),
            ("ttl: origin", explicit, 100),
            ("set_cookie: strip", explicit, 100),
        ] {
            let origin = numbered(200, fields).await;
            let larder = Larder::with_policy(&origin, &[form]).await;
            larder.get("/x").await;
            larder.clock.advance(secs(lifetime - 1));
            let hit = larder.get("/x").await;
            assert_eq!(hit.cache_status(), "larder; hit; ttl=1", "{form} {fields:?}");
            larder.clock.advance(secs(1));
            assert_eq!(larder.get("/x").await.text(), "call 1", "{form} {fields:?}");
        }
        let origin = numbered(200, none).await;
        let larder = Larder::with_policy(&origin, &["ttl: forever"]).await;
        larder.get("/x").await;
        larder.clock.advance(1000 * 365 * 24 * HOUR);
        assert!(is_hit(&larder.get("/x").await));
    })
    .await;
}
