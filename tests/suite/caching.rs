//! What is kept, for whom, for how long, and how it is answered from: the cases CCH-… and the rows of
//! RFC 9111 that need both ends to be seen.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::Strategy;
use proptest::strategy::ValueTree;
use proptest::string::string_regex;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::client::{Client, End, Response};
use crate::crowd::bounded;
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Answer, Gate, Origin, Seen, Step};

const HOUR: Duration = Duration::from_secs(3600);

/// An origin whose body tells which call it answers.
async fn numbered(status: u16, fields: &'static [&'static str]) -> Origin {
    Origin::start(move |seen| Answer::new(status, fields, format!("call {}", seen.index))).await
}

/// An origin whose body is the target it was asked for.
async fn echo() -> Origin {
    Origin::start(|seen| Answer::new(200, &[], &seen.target)).await
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn is_hit(answer: &Response) -> bool {
    answer.cache_status().starts_with("larder; hit")
}

async fn send(larder: &Larder, method: &str, path: &str, fields: &[&str]) -> Response {
    let mut client = larder.client().await;
    client.ask(method, &format!("{API}{path}"), fields).await;
    client.answer(method).await.expect("an answer")
}

#[tokio::test]
async fn cch_02_a_cookie_reaches_nobody_but_who_it_was_set_for() {
    bounded(async {
        let fields = &["Set-Cookie: sid=1", "Cache-Control: max-age=60", "X-Else: 1"];
        for (policy, second_hits, second_cookie) in [
            (&["ttl: 1h"][..], false, true),
            (&["ttl: origin"], false, true),
            (&["ttl: 1h", "set_cookie: strip", "scope: shared"], true, false),
            (&["ttl: origin", "set_cookie: strip"], true, false),
            (&["ttl: origin", "set_cookie: keep"], true, true),
        ] {
            let origin = numbered(200, fields).await;
            let larder = Larder::with_policy(&origin, policy).await;
            let first = larder.get("/x").await;
            assert_eq!(first.field("set-cookie"), Some("sid=1"), "{policy:?}: its own");
            let second = larder.get("/x").await;
            assert_eq!(is_hit(&second), second_hits, "{policy:?}");
            assert_eq!(second.field("set-cookie").is_some(), second_cookie, "{policy:?}");
            assert_eq!(second.field("x-else"), Some("1"));
            assert_eq!(origin.calls(), if second_hits { 1 } else { 2 }, "{policy:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn cch_03_prohibitions_hold_unless_the_operators_ttl_sets_them_aside() {
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
            for said in ["private", "no-store", "no-cache", "PRIVATE", "private=\"x-mine\""] {
                let field = format!("Cache-Control: {said}, max-age=60");
                let origin = Origin::start(move |seen| {
                    Answer::new(200, &[&field, "X-Mine: 1"], format!("call {}", seen.index))
                })
                .await;
                let larder = Larder::with_policy(&origin, &[form]).await;
                assert_eq!(larder.get("/x").await.field("x-mine"), Some("1"));
                let second = larder.get("/x").await;
                let why = format!("{form}, {said}");
                let keeps = overrides || said.starts_with("private=");
                assert_eq!(is_hit(&second), keeps, "{why}: {}", second.cache_status());
                assert_eq!(second.text(), if keeps { "call 0" } else { "call 1" }, "{why}");
                if said.starts_with("private=") {
                    assert_eq!(second.field("x-mine"), None, "{why}");
                }
            }
        }
    })
    .await;
}

/// The cap itself with thousands of variants is a test of the store; here, that it is in force.
#[tokio::test]
async fn cch_05_variants_of_one_url_are_capped_and_the_newest_stay() {
    bounded(async {
        let origin = Origin::start(|seen| {
            Answer::new(200, &["Vary: X-V"], seen.field("x-v").unwrap_or("none"))
        })
        .await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h", "scope: shared"]).await;
        let mut client = larder.client().await;
        for n in 0..300 {
            client.get(&format!("{API}/x"), &[&format!("X-V: {n}")]).await;
        }
        let entries = larder.metric("larder_entries{tier=\"memory\"}");
        assert!((64.0..=66.0).contains(&entries), "{entries}");
        for (n, hit) in [(299, true), (236, true), (0, false)] {
            let answer = client.get(&format!("{API}/x"), &[&format!("X-V: {n}")]).await;
            assert_eq!((is_hit(&answer), answer.text()), (hit, n.to_string()));
        }
    })
    .await;
}

#[tokio::test]
async fn cch_07_only_what_rfc_3986_calls_equivalent_shares_an_answer() {
    let different =
        ["//a", "/a;x", "/A", "/a?", "/a", "/a%2Fb", "/a/b", "/b", "/%40", "/a?x", "/a?x=", "/a/"];
    bounded(async {
        let origin = echo().await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        for hit in [false, true] {
            for path in different {
                let answer = larder.get(path).await;
                assert_eq!((answer.text().as_str(), is_hit(&answer)), (path, hit), "{path}");
            }
        }
        assert_eq!(origin.calls(), different.len());
        // What an origin may read as another path is no route's to keep.
        for path in [
            "/a/../b",
            "/a/%2e%2e/b",
            "/a/./b",
            "/a/..%2fb",
            "/a/..;/b",
            "/a/..%c1%9cb",
            "/a/%c0%ae%c0%ae/b",
            "/a/%uff0e%uff0e/b",
            "/a/x%c0%afb",
        ] {
            let calls = origin.calls();
            for _ in 0..2 {
                let answer = larder.get(path).await;
                assert_eq!((answer.text().as_str(), is_hit(&answer)), (path, false), "{path}");
            }
            assert_eq!(origin.calls(), calls + 2, "{path}");
        }
        let calls = origin.calls();
        for same in [
            "http://API.Example.Test/a",
            "http://api.example.test:80/a",
            "HTTP://api.example.test/a",
            "http://api.example.test/%61",
        ] {
            let answer = larder.client().await.get(same, &[]).await;
            assert!(is_hit(&answer), "{same}: {}", answer.cache_status());
        }
        assert_eq!(origin.calls(), calls);
    })
    .await;
}

#[tokio::test]
async fn cch_08_key_parts_do_not_run_into_each_other() {
    bounded(async {
        let origin = Origin::start(|seen| {
            let field = |name| seen.field(name).unwrap_or("-").to_owned();
            Answer::new(200, &[], format!("{} {} {}", seen.target, field("x-a"), field("x-b")))
        })
        .await;
        let policy = ["ttl: 1h", "key: { headers: [X-A, X-B] }"];
        let larder = Larder::with_policy(&origin, &policy).await;
        let mut all = std::collections::BTreeSet::new();
        for (path, fields) in [
            ("/x", &["X-A: AB"][..]),
            ("/x", &["X-A: A", "X-B: B"]),
            ("/x", &["X-B: AB"]),
            ("/x", &["X-A: A|B"]),
            ("/x", &["X-A: A,B"]),
            ("/x", &[]),
            ("/x|y", &[]),
            ("/x?a=1&b=2", &[]),
            ("/x?b=2&a=1", &[]),
            ("/x?k=v%26", &[]),
            ("/x?k=v&", &[]),
            ("/x?k=v", &[]),
            ("/x/y?", &[]),
        ] {
            let first = larder.get_with(path, fields).await;
            let again = larder.get_with(path, fields).await;
            assert!(!is_hit(&first) && is_hit(&again), "{path} {fields:?}");
            assert_eq!(first.text(), again.text());
            assert!(all.insert(first.text()), "{path} {fields:?}: {}", first.text());
        }
        assert_eq!(origin.calls(), all.len());
    })
    .await;
}

#[tokio::test]
async fn cch_09_two_origins_share_nothing() {
    bounded(async {
        let origin = Origin::start(|seen| Answer::new(200, &[], seen.field("host").unwrap())).await;
        let (addr, port) = (origin.addr, origin.addr.port());
        let larder = Larder::bare(&format!(
            "resolve: {{ one.test: \"{addr}\", two.test: \"{addr}\" }}\n\
             routes: [{{ name: all, match: {{ host: \"*\" }}, ttl: 1h, scope: shared }}]\n"
        ))
        .await;
        for hit in [false, true] {
            for host in ["one.test", "two.test", &format!("one.test:{port}"), "one.test:81"] {
                let answer = larder.client().await.get(&format!("http://{host}/x"), &[]).await;
                assert_eq!((answer.text(), is_hit(&answer)), (host.to_owned(), hit));
            }
        }
    })
    .await;
}

#[tokio::test]
async fn cch_10_head_is_answered_from_a_stored_get() {
    bounded(async {
        let origin = Origin::always(Answer::new(200, &["ETag: \"a\""], "12345")).await;
        let larder = Larder::with_policy(&origin, &["ttl: 1m"]).await;
        larder.get("/x").await;
        let mut client = larder.client().await;
        client.ask("HEAD", &format!("{API}/x"), &[]).await;
        let head = client.answer("HEAD").await.unwrap();
        assert_eq!((head.status, head.field("content-length")), (200, Some("5")));
        assert_eq!(head.cache_status(), "larder; hit; ttl=60");
        // The connection is in step: no body followed.
        assert_eq!(client.get(&format!("{API}/x"), &[]).await.text(), "12345");
        assert_eq!(origin.calls(), 1);
    })
    .await;
}

const OVERRIDES: [(&str, &[&str]); 3] = [
    ("?_method=DELETE", &[]),
    ("?a=1&X-HTTP-Method-Override=PATCH", &[]),
    ("?a=1", &["X-HTTP-Method-Override: DELETE"]),
];

#[tokio::test]
async fn cch_10_what_names_another_method_than_its_own_is_never_stored_or_answered_from_the_store()
{
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
            // What a plain request has stored is no answer to it either, not even for want of a better.
            let plain = larder.get("/x?a=1").await;
            assert!(!is_hit(&plain) && is_hit(&larder.get("/x?a=1").await));
            larder.clock.advance(secs(120));
            origin.now(|_| Answer::new(500, &[], ""));
            assert_eq!(send(&larder, "HEAD", "/x?a=1", &[]).await.status, 200, "stale");
            assert_eq!(send(&larder, "HEAD", &path, fields).await.status, 500, "{path}");
        }
    })
    .await;
}

/// It may be meant as a POST.
#[tokio::test]
async fn what_names_another_method_than_its_own_is_not_made_again() {
    bounded(async {
        for (query, fields) in OVERRIDES {
            let policy = ["ttl: 1m", "retry: { retries: 2, backoff: { initial: 1ms } }"];
            let origin = numbered(200, &[]).await;
            let larder = Larder::with_policy(&origin, &policy).await;
            // On a connection that has been used before, its end before an answer may mean that it was dead.
            larder.get("/open").await;
            origin.now(|_| Answer::closed());
            let path = format!("/x{query}");
            assert_eq!(send(&larder, "GET", &path, fields).await.status, 502, "{path}");
            assert_eq!(origin.calls(), 2, "{path}");
            origin.now(|_| Answer::new(503, &[], ""));
            assert_eq!(send(&larder, "GET", &path, fields).await.status, 503, "{path}");
            assert_eq!(origin.calls(), 3, "{path}");
        }
    })
    .await;
}

#[tokio::test]
async fn cch_10_other_methods_reach_the_origin_and_unsafe_ones_invalidate_on_success() {
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
                "GET" => Answer::new(200, &[], "stored"),
                _ if status == 204 => Answer::raw("HTTP/1.1 204 x\r\n\r\n"),
                other => Answer::new(status, &[], other),
            })
            .await;
            // All scopes and variants go: here two users'.
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
                assert_eq!(
                    is_hit(&after),
                    hit_after,
                    "{method} {status}: {}",
                    after.cache_status()
                );
            }
            assert!(is_hit(&larder.get_with("/x?other", &mine).await), "{method}: not that one");
            let invalidated = larder.metric("larder_invalidations_total{source=\"unsafe-method\"}");
            assert_eq!(invalidated > 0.5, !hit_after, "{method} {status}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_unsafe_method_invalidates_same_origin_locations_too_and_no_others() {
    bounded(async {
        let origin = Origin::start(|seen| match seen.method.as_str() {
            "POST" => Answer::new(
                201,
                &["Location: /items/7?full", "Content-Location: http://other.test/y"],
                "",
            ),
            _ => Answer::new(200, &[], "stored"),
        })
        .await;
        let addr = origin.addr;
        let larder = Larder::bare(&format!(
            "resolve: {{ api.example.test: \"{addr}\", other.test: \"{addr}\" }}\n\
             routes: [{{ name: all, match: {{ host: \"*\" }}, ttl: 1h }}]\n"
        ))
        .await;
        let urls = [
            "http://api.example.test/items",
            "http://api.example.test/items/7?full",
            "http://other.test/y",
        ];
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

/// The rule is that of the routes that keep the target, whatever the unsafe call's own query says.
#[tokio::test]
async fn an_unsafe_method_invalidates_what_a_route_keeps_under_a_part_of_the_query() {
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

#[tokio::test]
async fn cch_14_errors_are_kept_only_where_somebody_says_so() {
    bounded(async {
        let fresh: &'static [&'static str] = &["Cache-Control: max-age=60"];
        for (policy, fields, kept, not_kept) in [
            (
                &["ttl: 1h"][..],
                &[][..],
                &[200, 203, 300, 301, 308][..],
                &[302, 400, 401, 403, 404, 410, 413, 414, 429, 431, 500, 501, 503][..],
            ),
            (
                &["ttl: 1h", "ttl_by_status: { 404: 5m, 5xx: 1s }"],
                &[],
                &[404, 500, 503],
                &[400, 410, 429],
            ),
            (&["ttl: origin"], fresh, &[200, 404, 410, 500, 501, 302], &[400, 413, 414, 431, 206]),
            (&["ttl: origin"], &[], &[], &[200, 404, 500, 302]),
        ] {
            let origin = Origin::start(move |seen| {
                let status = seen.target.trim_start_matches('/').parse().expect("a status");
                Answer::new(status, fields, format!("call {}", seen.index))
            })
            .await;
            let larder = Larder::with_policy(&origin, policy).await;
            let all = kept.iter().map(|s| (*s, true)).chain(not_kept.iter().map(|s| (*s, false)));
            for (status, keeps) in all {
                let path = format!("/{status}");
                // What an earlier 429 held is over.
                larder.clock.advance(secs(60));
                let (first, second) = (larder.get(&path).await, larder.get(&path).await);
                assert_eq!((first.status, second.status), (status, status));
                let why = format!("{policy:?} {fields:?} {status}: {}", second.cache_status());
                assert_eq!(is_hit(&second), keeps, "{why}");
                assert_eq!(first.text() == second.text(), keeps, "{why}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn ttl_by_status_has_its_own_lifetime() {
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
async fn cch_15_a_hit_tells_its_age_and_nothing_of_the_connection_it_came_on() {
    bounded(async {
        let origin = Origin::always(Answer::new(
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
        for gone in ["x-secret", "keep-alive", "proxy-authenticate"] {
            assert_eq!(hit.field(gone), None, "{gone}");
        }
        assert_eq!(hit.field("x-kept"), Some("1"));
        assert!(hit.field("content-security-policy").is_some());
        larder.counts("larder_requests_total{result=\"hit\",route=\"api\"}", 1.0).await;
    })
    .await;
}

#[tokio::test]
async fn an_age_from_upstream_counts_and_is_passed_on_added_up() {
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
async fn cch_16_an_error_is_hidden_within_the_window_and_shown_after_it() {
    let broken: [(&str, Answer, u16); 9] = [
        ("500", Answer::new(500, &[], "no"), 500),
        ("502", Answer::new(502, &[], "no"), 502),
        ("503", Answer::new(503, &[], "no"), 503),
        ("504", Answer::new(504, &[], "no"), 504),
        ("429", Answer::new(429, &[], "no"), 429),
        ("closed", Answer::closed(), 502),
        ("reset", Answer(vec![Step::Reset]), 502),
        ("time-out", Answer::hung(), 504),
        ("garbage", Answer::raw("\x01\x02garbage\r\n\r\n").then([Step::Close]), 502),
    ];
    bounded(async {
        for (policy, fields, window) in [
            ("ttl: 1m", "X-Nothing: 1", 24 * HOUR),
            ("ttl: 1m\n    stale_if_error: { for: 10m }", "X-Nothing: 1", secs(600)),
            ("ttl: origin", "Cache-Control: max-age=60, stale-if-error=30", secs(30)),
            ("ttl: origin\n    stale_if_error: { for: 2h }", "Cache-Control: max-age=60", 2 * HOUR),
        ] {
            let origin = Origin::always(Answer::closed()).await;
            // Only the row that times out has a short time.
            let patient = larder_with(&origin, "20s", policy).await;
            let impatient = larder_with(&origin, "400ms", policy).await;
            for (name, answer, shown) in &broken {
                let larder = if *name == "time-out" { &impatient } else { &patient };
                let (path, before) = (format!("/{name}"), origin.calls());
                // What an earlier 429 held is over.
                larder.clock.advance(secs(60));
                let prime = Answer::new(200, &[fields, "Connection: close"], "old");
                origin.now(move |_| prime.clone().then([Step::Close]));
                assert_eq!(larder.get(&path).await.text(), "old");
                let again = answer.clone();
                origin.now(move |_| again.clone());
                larder.clock.advance(secs(60) + window.saturating_sub(secs(1)));
                let hidden = larder.get(&path).await;
                let says = hidden.cache_status();
                let why = format!("{name}, {policy}: {says}");
                assert_eq!((hidden.status, hidden.text().as_str()), (200, "old"), "{why}");
                assert!(says.starts_with("larder; fwd=stale;"), "{why}");
                assert!(says.contains("stale-if-error/"), "{why}");
                let age = (secs(59) + window).as_secs().to_string();
                assert_eq!(hidden.all("age"), [&age], "{why}");
                larder.clock.advance(secs(1));
                assert_eq!(larder.get(&path).await.status, *shown, "{why}");
                assert_eq!(origin.calls() - before, 3, "{why}");
            }
        }
    })
    .await;
}

async fn larder_with(origin: &Origin, first_byte: &str, policy: &str) -> Larder {
    let up = format!("hosts: [api.example.test], timeouts: {{ first_byte: {first_byte} }}");
    Larder::start(origin, &format!("upstreams: {{ up: {{ {up} }} }}\n{}", route(&[policy]))).await
}

/// RFC 9111 §4.2.4: not against the origin's word.
#[tokio::test]
async fn what_must_be_revalidated_is_never_served_stale() {
    bounded(async {
        for directive in ["must-revalidate", "proxy-revalidate", "s-maxage=60", "no-cache"] {
            let field =
                format!("Cache-Control: max-age=60, stale-while-revalidate=600, {directive}");
            let origin = Origin::start(move |seen| match seen.index {
                0 => Answer::new(200, &[&field, "ETag: \"a\""], "old"),
                _ => Answer::closed(),
            })
            .await;
            let policy = ["ttl: origin", "scope: shared", "stale_if_error: { for: 1h }"];
            let larder = Larder::with_policy(&origin, &policy).await;
            larder.get("/x").await;
            larder.clock.advance(secs(61));
            for wish in ["X-Nothing: 1", "Cache-Control: max-stale"] {
                let answer = larder.get_with("/x", &[wish]).await;
                assert_eq!(answer.status, 502, "{directive} {wish}: {}", answer.cache_status());
            }
        }
    })
    .await;
}

#[tokio::test]
async fn cch_21_codings_are_never_mixed_and_bytes_pass_as_they_are() {
    bounded(async {
        // One origin says what it varies by, one does not.
        for vary in ["Vary: Accept-Encoding", "X-Nothing: 1"] {
            let origin = Origin::start(move |seen| {
                let accepts = seen.field("accept-encoding").unwrap_or_default();
                let coding = ["br", "gzip"].into_iter().find(|coding| accepts.contains(coding));
                match coding {
                    Some(coding) => {
                        let field = format!("Content-Encoding: {coding}");
                        Answer::new(200, &[vary, &field], format!("\u{1}{coding} bytes"))
                    }
                    None => Answer::new(200, &[vary], "plain"),
                }
            })
            .await;
            let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
            for round in 0..2 {
                for (accepts, body) in [
                    (&["Accept-Encoding: gzip"][..], "\u{1}gzip bytes"),
                    (&["Accept-Encoding: gzip, br"], "\u{1}br bytes"),
                    (&[], "plain"),
                    (&["Accept-Encoding: br;q=0, gzip;q=0"], "plain"),
                    (&["Accept-Encoding: identity"], "plain"),
                    (&["Accept-Encoding: x-gzip, deflate"], "\u{1}gzip bytes"),
                ] {
                    let answer = larder.get_with("/x", accepts).await;
                    let why = format!("{vary} {round} {accepts:?}: {}", answer.cache_status());
                    let coding = body.strip_prefix('\u{1}').and_then(|b| b.split(' ').next());
                    // Where the origin does not vary by it, what is not encoded is for everybody.
                    let plain = !vary.starts_with("Vary") && answer.text() == "plain";
                    let (body, coding) = if plain { ("plain", None) } else { (body, coding) };
                    assert_eq!(answer.text(), body, "{why}");
                    assert_eq!(answer.field("content-encoding"), coding, "{why}");
                }
            }
            assert_eq!(origin.calls(), 3, "{vary}");
        }
    })
    .await;
}

#[tokio::test]
async fn cch_22_odd_freshness_is_taken_conservatively() {
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
async fn a_304_freshens_what_later_clients_see() {
    bounded(async {
        let origin = Origin::start(|seen| match seen.field("if-none-match") {
            Some("W/\"a\"") => Answer::raw(
                "HTTP/1.1 304 x\r\nETag: W/\"a\"\r\nCache-Control: max-age=100\r\nX-Rev: 2\r\n\
                 Content-Length: 999\r\nX-RateLimit-Remaining: 7\r\n\r\n",
            ),
            _ => Answer::new(
                200,
                &["ETag: W/\"a\"", "Cache-Control: max-age=60", "X-Rev: 1", "X-Old: 1"],
                "body",
            ),
        })
        .await;
        let larder = Larder::with_policy(&origin, &[]).await;
        larder.get("/x").await;
        larder.clock.advance(secs(60));
        let asker = larder.get("/x").await;
        assert_eq!(asker.cache_status(), "larder; fwd=stale; fwd-status=304; stored; ttl=100");
        larder.clock.advance(secs(99));
        let later = larder.get("/x").await;
        assert_eq!(later.cache_status(), "larder; hit; ttl=1");
        for answer in [asker, later] {
            assert_eq!((answer.text().as_str(), answer.end), ("body", End::Whole));
            assert_eq!(answer.field("content-length"), Some("4"));
            assert_eq!((answer.all("x-rev"), answer.field("x-old")), (vec!["2"], Some("1")));
        }
        assert_eq!(origin.calls(), 2);
        larder.counts("larder_requests_total{result=\"revalidated\",route=\"api\"}", 1.0).await;
    })
    .await;
}

/// RFC 9111 §4.3.4: a 304 with another strong tag confirms nothing that is stored here.
#[tokio::test]
async fn a_304_about_something_else_leads_to_the_whole() {
    bounded(async {
        let origin = Origin::start(|seen| match (seen.index, seen.field("if-none-match")) {
            (0, _) => Answer::new(200, &["ETag: \"a\""], "old"),
            (_, Some(_)) => Answer::raw("HTTP/1.1 304 x\r\nETag: \"b\"\r\n\r\n"),
            (_, None) => Answer::new(200, &["ETag: \"b\""], "new"),
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
async fn an_error_to_a_revalidation_never_drops_what_is_stored() {
    bounded(async {
        for status in [429, 403, 408, 500, 503, 404] {
            let origin = Origin::start(move |seen| match seen.index {
                1 => Answer::new(status, &[], "no"),
                2 => Answer::raw("HTTP/1.1 304 x\r\n\r\n"),
                _ => Answer::new(200, &["ETag: \"a\""], "kept"),
            })
            .await;
            let larder = Larder::with_policy(&origin, &["ttl: 1m"]).await;
            larder.get("/x").await;
            larder.clock.advance(secs(61));
            larder.get("/x").await;
            // A 429 is heeded for a second, even one that says nothing of when to come back.
            larder.clock.advance(secs(1));
            let after = larder.get("/x").await;
            assert_eq!(after.text(), "kept", "{status}: {}", after.cache_status());
            assert_eq!(origin.seen()[2].field("if-none-match"), Some("\"a\""), "{status}");
        }
    })
    .await;
}

#[tokio::test]
async fn conditional_requests_are_answered_from_the_store() {
    bounded(async {
        let origin = Origin::always(Answer::new(
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
                for name in ["etag", "vary", "cache-control", "content-location", "expires", "date"]
                {
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
async fn a_stale_answer_is_validated_first_and_then_answers_the_clients_condition() {
    bounded(async {
        let origin = Origin::start(|seen| match seen.field("if-none-match") {
            Some("\"a\"") => Answer::raw("HTTP/1.1 304 x\r\nETag: \"a\"\r\n\r\n"),
            Some(other) => Answer::new(500, &[], other),
            None => Answer::new(200, &["ETag: \"a\""], "body"),
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
async fn single_ranges_are_cut_from_the_store_with_all_its_fields() {
    bounded(async {
        let origin =
            Origin::always(Answer::new(200, &["ETag: \"a\"", "X-Else: 1"], "0123456789")).await;
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

/// Even an origin that sends a part nobody asked for does not get it stored.
#[tokio::test]
async fn an_unasked_for_206_is_never_kept_as_an_answer() {
    bounded(async {
        let origin =
            numbered(206, &["Cache-Control: max-age=60", "Content-Range: bytes 0-5/10"]).await;
        for policy in ["ttl: 1h", "ttl: origin"] {
            let larder = Larder::with_policy(&origin, &[policy]).await;
            let first = larder.get("/x").await.text();
            assert_ne!(larder.get("/x").await.text(), first, "{policy}");
        }
    })
    .await;
}

#[tokio::test]
async fn variants_stand_side_by_side_and_fields_not_named_do_not_matter() {
    bounded(async {
        let origin = Origin::start(|seen| {
            let field = |name| seen.field(name).unwrap_or("-");
            Answer::new(
                200,
                &["Vary: Accept-Language, X-B", "Cache-Control: max-age=60"],
                format!("{} {}", field("accept-language"), field("x-b")),
            )
        })
        .await;
        let larder = Larder::with_policy(&origin, &["scope: shared"]).await;
        for (fields, body, hit) in [
            (&["Accept-Language: de, en"][..], "de, en -", false),
            (&["Accept-Language: EN,de", "X-Other: 1"], "de, en -", true),
            (&["Accept-Language: de, en", "X-B: 1"], "de, en 1", false),
            (&[], "- -", false),
            (&["Accept-Language: de, en", "X-B: "], "de, en ", false),
            (&["Accept-Language: fr"], "fr -", false),
            (&["Accept-Language: de, en"], "de, en -", true),
            (&["X-Other: 2"], "- -", true),
            (&["X-B: 1", "Accept-Language: de,en"], "de, en 1", true),
        ] {
            let answer = larder.get_with("/x", fields).await;
            assert_eq!((answer.text().as_str(), is_hit(&answer)), (body, hit), "{fields:?}");
        }
        assert!(larder.get_with("/x", &["X-B: 9"]).await.cache_status().contains("fwd=vary-miss"));
    })
    .await;
}

#[tokio::test]
async fn vary_star_never_matches() {
    bounded(async {
        for vary in ["Vary: *", "Vary: X-A, *", "Vary: , *"] {
            let origin = Origin::start(move |seen| {
                Answer::new(200, &[vary], format!("call {}", seen.index))
            })
            .await;
            let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
            larder.get("/x").await;
            assert_eq!(larder.get("/x").await.text(), "call 1", "{vary}");
        }
    })
    .await;
}

#[tokio::test]
async fn stale_while_revalidate_answers_at_once_and_asks_once_in_the_background() {
    bounded(async {
        let gate = Gate::new();
        let later = gate.clone();
        let origin = Origin::start(move |seen| {
            let answer = Answer::new(200, &[], format!("call {}", seen.index));
            if seen.index == 0 { answer } else { answer.after(&later) }
        })
        .await;
        let larder =
            Larder::with_policy(&origin, &["ttl: 1m", "stale_while_revalidate: 10m"]).await;
        larder.get("/x").await;
        larder.clock.advance(secs(61));
        for _ in 0..20 {
            let answer = larder.get("/x").await;
            assert_eq!(answer.text(), "call 0");
            let says = "larder; hit; ttl=-1; detail=\"stale-while-revalidate\"";
            assert_eq!(answer.cache_status(), says);
        }
        origin.reached(2).await;
        gate.open();
        refreshed(&larder, "replaced", 1.0).await;
        let fresh = larder.get("/x").await;
        assert_eq!(
            (fresh.text().as_str(), fresh.cache_status()),
            ("call 1", "larder; hit; ttl=60")
        );
        assert_eq!(origin.calls(), 2);
        // Past the window nobody gets it any more.
        larder.clock.advance(secs(60 + 600));
        assert_eq!(larder.get("/x").await.text(), "call 2");
    })
    .await;
}

async fn refreshed(larder: &Larder, outcome: &str, times: f64) {
    let series = format!(
        "larder_refreshes_total{{outcome=\"{outcome}\",route=\"api\",trigger=\"stale-while-revalidate\"}}"
    );
    larder.counts(&series, times).await;
}

#[tokio::test]
async fn a_background_refresh_tells_how_it_ended() {
    bounded(async {
        for (answer, outcome, then) in [
            (
                Answer::raw("HTTP/1.1 304 x\r\nETag: \"a\"\r\n\r\n"),
                "confirmed",
                "larder; hit; ttl=60",
            ),
            (Answer::new(200, &[], "new"), "replaced", "larder; hit; ttl=60"),
            (Answer::new(200, &["Set-Cookie: a=b"], "new"), "not-stored", "larder; hit; ttl=-1"),
            (Answer::new(503, &[], "no"), "failed", "larder; hit; ttl=-1"),
            (Answer::closed(), "failed", "larder; hit; ttl=-1"),
            (
                Answer::raw("HTTP/1.1 200 x\r\nContent-Length: 9\r\n\r\nhalf").then([Step::Close]),
                "failed",
                "larder; hit; ttl=-1",
            ),
        ] {
            for method in ["GET", "HEAD"] {
                let prime = Answer::new(200, &["ETag: \"a\"", "Connection: close"], "old")
                    .then([Step::Close]);
                let origin = Origin::always(prime).await;
                let larder =
                    Larder::with_policy(&origin, &["ttl: 1m", "stale_while_revalidate: 1h"]).await;
                larder.get("/x").await;
                larder.clock.advance(secs(61));
                let again = answer.clone();
                origin.now(move |_| again.clone());
                send(&larder, method, "/x", &["Range: bytes=0-1", "If-None-Match: \"a\""]).await;
                refreshed(&larder, outcome, 1.0).await;
                assert_eq!(origin.seen()[1].method, "GET", "{method} {outcome}");
                assert_eq!(origin.seen()[1].field("range"), None);
                let next = larder.get("/x").await;
                assert!(
                    next.cache_status().starts_with(then),
                    "{outcome}: {}",
                    next.cache_status()
                );
            }
        }
    })
    .await;
}

#[tokio::test]
async fn request_directives_are_honoured() {
    bounded(async {
        let origin = numbered(200, &["Cache-Control: max-age=60"]).await;
        let larder = Larder::with_policy(&origin, &[]).await;
        let ask = |field: &'static str| {
            let larder = &larder;
            async move { larder.get_with("/x", &[field]).await }
        };
        let refused = ask("Cache-Control: only-if-cached").await;
        assert_eq!((refused.status, origin.calls()), (504, 0));
        assert!(refused.text().contains("\"class\":\"only_if_cached\""));
        assert_eq!(ask("X-Request-Id: 1").await.text(), "call 0");
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
            assert_eq!(ask(field).await.text(), body, "{field}");
        }
        let both = larder.get_with("/x", &["Pragma: no-cache", "Cache-Control: max-age=60"]).await;
        assert_eq!(both.text(), "call 6", "Pragma counts only alone");
        larder.clock.advance(secs(70));
        let stale = ask("Cache-Control: max-stale=10").await;
        assert_eq!(stale.cache_status(), "larder; hit; ttl=-10; detail=\"max-stale\"");
        assert_eq!(ask("Cache-Control: only-if-cached").await.status, 504);
        assert_eq!(ask("Cache-Control: max-stale").await.text(), "call 6");
        assert_eq!(ask("Cache-Control: max-stale=9").await.text(), "call 7");
    })
    .await;
}

#[tokio::test]
async fn fields_of_one_exchange_are_left_out_of_hits_only() {
    bounded(async {
        let once = [
            "X-RateLimit-Remaining: 7",
            "X-RateLimit-Reset-After: 1.5",
            "RateLimit: r=1",
            "RateLimit-Policy: p",
            "Retry-After: 9",
        ];
        let origin = Origin::always(Answer::new(200, &once, "body")).await;
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
async fn a_scope_header_keeps_users_apart_and_is_not_sent_upstream() {
    bounded(async {
        let origin =
            Origin::start(|seen| Answer::new(200, &[], format!("call {}", seen.index))).await;
        let larder =
            Larder::with_policy(&origin, &["ttl: 1h", "scope: { header: X-Larder-User }"]).await;
        // One user keeps the cache when the token rotates.
        for (fields, body) in [
            (&["X-Larder-User: ann", "Authorization: t1"][..], "call 0"),
            (&["X-Larder-User: ann", "Authorization: t2"], "call 0"),
            (&["X-Larder-User: bob", "Authorization: t1"], "call 1"),
            (&["Authorization: t1"], "call 2"),
            (&["X-Larder-User: ", "Authorization: t1"], "call 3"),
            (&[], "call 4"),
            (&["X-Larder-User: bob"], "call 1"),
        ] {
            assert_eq!(larder.get_with("/x", fields).await.text(), body, "{fields:?}");
        }
        // Nor by the ways that pass through.
        send(&larder, "POST", "/y", &["X-Larder-User: ann"]).await;
        larder.get_with("/z", &["X-Larder-User: ann", "Cache-Control: no-store"]).await;
        assert!(origin.seen().iter().all(|seen| seen.field("x-larder-user").is_none()));
    })
    .await;
}

#[tokio::test]
async fn the_forms_of_ttl_mean_what_they_say() {
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

#[tokio::test]
async fn authorization_keeps_an_answer_out_of_a_shared_scope_unless_the_origin_allows() {
    bounded(async {
        for (said, shared) in [
            ("max-age=60", false),
            ("public, max-age=60", true),
            ("s-maxage=60", true),
            ("must-revalidate, max-age=60", true),
        ] {
            let field = format!("Cache-Control: {said}");
            let origin = Origin::start(move |seen| {
                Answer::new(200, &[&field], seen.field("authorization").unwrap_or("nobody"))
            })
            .await;
            let larder = Larder::with_policy(&origin, &["scope: shared"]).await;
            assert_eq!(larder.get_with("/x", &["Authorization: ann"]).await.text(), "ann");
            let other = larder.get_with("/x", &["Authorization: bob"]).await.text();
            assert_eq!(other, if shared { "ann" } else { "bob" }, "{said}");
        }
    })
    .await;
}

/// What a HEAD has done to the stored response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum After {
    Fresh,
    Unchanged,
    Outdated,
}

/// RFC 9111 §4.3.5: a HEAD that was written through tells whether what is stored is still right.
#[tokio::test]
async fn a_head_that_passes_through_freshens_or_outdates_the_stored_get() {
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
                "HEAD" => Answer::raw(format!("HTTP/1.1 200 x\r\n{}\r\n\r\n", fields.join("\r\n"))),
                _ if seen.index > 0 => Answer::new(503, &[], "no"),
                _ => Answer::new(
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
            larder.counts("larder_invalidations_total{source=\"head\"}", invalidated).await;
        }
    })
    .await;
}

/// What was invalidated while a fill ran is neither stored by it nor joined by newcomers.
#[tokio::test]
async fn an_invalidation_during_a_fill_wins_over_it() {
    bounded(async {
        let gate = Gate::new();
        let first = gate.clone();
        let origin = Origin::start(move |seen| match (seen.method.as_str(), seen.index) {
            ("POST", _) => Answer::new(200, &[], "changed"),
            (_, 0) => Answer::new(200, &[], "before").after(&first),
            _ => Answer::new(200, &[], "after"),
        })
        .await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        let mut early = larder.client().await;
        early.ask("GET", &format!("{API}/x"), &[]).await;
        origin.reached(1).await;
        assert_eq!(send(&larder, "POST", "/x", &[]).await.text(), "changed");
        assert_eq!(larder.get("/x").await.text(), "after", "it does not wait for the old one");
        gate.open();
        assert_eq!(early.answer("GET").await.unwrap().text(), "before", "asked before the change");
        let stored = larder.get("/x").await;
        assert_eq!((stored.text().as_str(), is_hit(&stored)), ("after", true));
        assert_eq!(origin.calls(), 3);
    })
    .await;
}

#[tokio::test]
async fn a_get_with_a_body_is_neither_stored_nor_answered_from_the_store() {
    bounded(async {
        let origin = Origin::start(|seen| {
            Answer::new(
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
                .send(format!(
                    "GET {API}/x HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}"
                ))
                .await;
            let answer = client.answer("GET").await.unwrap();
            assert!(answer.text().ends_with(body), "{}", answer.text());
        }
        assert_eq!(larder.get("/x").await.text(), "call 0 ");
    })
    .await;
}

/// The same cases at every run: a property that fails here fails for everyone.
fn runner() -> TestRunner {
    TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]))
}

fn sample<T>(runner: &mut TestRunner, strategy: impl Strategy<Value = T>) -> T {
    strategy.new_tree(runner).expect("a case").current()
}

/// The telling words in any case, somewhere in a name that nobody has heard of.
fn credential_name() -> impl Strategy<Value = String> {
    let word = "([kK][eE][yY]|[tT]oken|TOKEN|[aA][uU][tT][hH]|[sS]ecret|seSSion|[sS]ignature|tenant|TENANT|[uU]ser)";
    string_regex(&"X-([a-z]{1,3}-)?[a-zA-Z]{0,4}{word}[a-zA-Z0-9]{0,4}".replace("{word}", word))
        .expect("a regular expression")
}

#[tokio::test]
async fn a_planted_credential_header_never_lets_one_client_see_anothers_body() {
    bounded(async {
        let mut runner = runner();
        let origin = Origin::start(|seen| {
            let planted = seen
                .fields
                .iter()
                .find(|(name, _)| name.to_ascii_lowercase().starts_with("x-"))
                .cloned();
            Answer::new(200, &[], planted.map_or("nobody".to_owned(), |(_, value)| value))
        })
        .await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        let mut client = larder.client().await;
        for case in 0..80 {
            let name = sample(&mut runner, credential_name());
            let url = format!("{API}/{case}");
            for round in 0..2 {
                for who in ["ann", "bob", "nobody", "Ann", "ann,bob"] {
                    let line = format!("{name}: {who}");
                    let fields: &[&str] = if who == "nobody" { &[] } else { &[&line] };
                    let answer = client.get(&url, fields).await;
                    assert_eq!(answer.text(), who, "{name} in round {round}");
                    assert_eq!(is_hit(&answer), round == 1, "{name}: {}", answer.cache_status());
                }
            }
        }
    })
    .await;
}

/// What makes a request somebody's: every credential it carries, line by line.
fn identity(fields: &[(String, String)]) -> String {
    let mut all: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (name, value) in fields {
        let name = name.to_ascii_lowercase();
        if CREDENTIALS.iter().any(|known| known.eq_ignore_ascii_case(&name)) {
            all.entry(name).or_default().push(value);
        }
    }
    format!("{all:?}")
}

const CREDENTIALS: [&str; 6] =
    ["Authorization", "Cookie", "X-Api-Key", "X-Tenant-Id", "X-My-Thing", "Forwarded-User"];

#[tokio::test]
async fn no_request_without_the_same_credentials_ever_gets_a_scoped_body() {
    bounded(async {
        let mut runner = runner();
        let origin = Origin::start(|seen: &Seen| {
            Answer::new(200, &["Vary: X-Noise"], identity(&seen.fields))
        })
        .await;
        let yaml = format!("credential_headers: [X-My-Thing]\n{}", route(&["ttl: 1h"]));
        let larder = Larder::start(&origin, &yaml).await;
        let mut clients: Vec<Client> = Vec::new();
        for _ in 0..4 {
            clients.push(larder.client().await);
        }
        let mut hits = 0;
        let line = || {
            let name = proptest::sample::select(CREDENTIALS.to_vec());
            let value = proptest::sample::select(vec!["a", "b", "a, b", "ab"]);
            (name, value)
        };
        for n in 0..400 {
            let lines = sample(&mut runner, proptest::collection::vec(line(), 0..3));
            let mut fields: Vec<(String, String)> =
                lines.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            if n % 3 == 0 {
                fields.push(("X-Noise".to_owned(), (n % 2).to_string()));
            }
            let raw: Vec<String> = fields.iter().map(|(n, v)| format!("{n}: {v}")).collect();
            let raw: Vec<&str> = raw.iter().map(String::as_str).collect();
            let answer = clients[n % 4].get(&format!("{API}/x"), &raw).await;
            assert_eq!(answer.text(), identity(&fields), "{raw:?}: {}", answer.cache_status());
            hits += usize::from(is_hit(&answer));
        }
        assert!(hits > 50, "{hits}: the store took part");
    })
    .await;
}

/// RFC 9110 §9.3.3: explicit freshness and a `Content-Location` that is the target.
#[tokio::test]
async fn an_answer_to_a_post_serves_later_gets_only_when_it_says_so() {
    for (location, fresh, hit) in
        [("/x", "max-age=60", true), ("/other", "max-age=60", false), ("/x", "no-store", false)]
    {
        let origin = Origin::start(move |seen| {
            let location = format!("Content-Location: {location}");
            let fresh = format!("Cache-Control: {fresh}");
            Answer::new(200, &[&location, &fresh], format!("by {}", seen.method))
        })
        .await;
        let larder = Larder::with_policy(&origin, &["ttl: origin"]).await;
        let mut client = larder.client().await;
        client
            .send(format!(
                "POST {API}/x HTTP/1.1\r\nHost: api.example.test\r\nContent-Length: 2\r\n\r\nhi"
            ))
            .await;
        assert_eq!(client.answer("POST").await.unwrap().text(), "by POST");
        let got = larder.get("/x").await;
        let expected = if hit { "by POST" } else { "by GET" };
        assert_eq!(got.text(), expected, "{location} {fresh}: {}", got.cache_status());
        assert_eq!(origin.calls(), if hit { 1 } else { 2 });
    }
}

/// A `POST` that the origin cuts is never stored for a later `GET`.
#[tokio::test]
async fn a_cut_answer_to_a_post_is_not_stored() {
    let head = "HTTP/1.1 200 OK\r\nContent-Location: /x\r\nCache-Control: max-age=60\r\n";
    let cut = Answer::raw(format!("{head}Content-Length: 100\r\n\r\nhalf")).then([Step::Close]);
    let origin = Origin::start(move |seen| {
        if seen.method == "POST" { cut.clone() } else { Answer::new(200, &[], "whole") }
    })
    .await;
    let larder = Larder::with_policy(&origin, &["ttl: origin"]).await;
    let mut client = larder.client().await;
    client
        .send(format!(
            "POST {API}/x HTTP/1.1\r\nHost: api.example.test\r\nContent-Length: 0\r\n\r\n"
        ))
        .await;
    assert_eq!(client.answer("POST").await.unwrap().end, End::Cut);
    assert_eq!(larder.get("/x").await.text(), "whole");
}
