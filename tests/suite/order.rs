//! Newer means asked later: whatever the interleaving, an answer to an older question replaces none to a newer one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::client::{Client, Response};
use crate::crowd::bounded;
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Answer, Gate, Origin};

/// An API whose answers tell how many calls came before; the first waits for a gate.
async fn counting(first: &Gate, fields: &'static [&'static str]) -> Origin {
    let first = first.clone();
    Origin::start(move |seen| {
        let answer = Answer::new(200, fields, format!("v{}", seen.index + 1));
        if seen.index == 0 { answer.after(&first) } else { answer }
    })
    .await
}

/// A request that is on its way.
async fn begun(larder: &Larder, method: &str, path: &str, fields: &[&str]) -> Client {
    let mut client = larder.client().await;
    client.ask(method, &format!("{API}{path}"), fields).await;
    client
}

async fn answered(mut client: Client, method: &str) -> Response {
    client.answer(method).await.expect("an answer")
}

#[tokio::test]
async fn what_was_asked_for_before_a_forced_refresh_does_not_replace_it() {
    bounded(async {
        let gate = Gate::new();
        let origin = counting(&gate, &[]).await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        let slow = begun(&larder, "GET", "/x", &[]).await;
        origin.reached(1).await;
        let forced = larder.get_with("/x", &["Cache-Control: no-cache"]).await;
        assert_eq!(forced.text(), "v2");
        // Nobody joins the older one, and it replaces nothing when it ends.
        assert_eq!(larder.get("/x").await.text(), "v2");
        gate.open();
        assert_eq!(answered(slow, "GET").await.text(), "v1", "its own client's");
        assert_eq!(larder.get("/x").await.text(), "v2");
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

#[tokio::test]
async fn who_comes_after_an_answer_that_is_not_kept_joins_no_older_call() {
    bounded(async {
        let gate = Gate::new();
        let origin = counting(&gate, &[]).await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        let slow = begun(&larder, "GET", "/x", &[]).await;
        origin.reached(1).await;
        let fetched = larder.get_with("/x", &["Cache-Control: no-cache, no-store"]).await;
        assert_eq!(fetched.text(), "v2");
        assert_eq!(larder.get("/x").await.text(), "v3", "not the first, which is older than v2");
        gate.open();
        assert_eq!(answered(slow, "GET").await.text(), "v1");
        assert_eq!(larder.get("/x").await.text(), "v3");
    })
    .await;
}

/// Which says nothing of what there is, and must not cost others what they wait for together.
#[tokio::test]
async fn what_is_no_version_overtakes_no_call() {
    bounded(async {
        for (method, status, fields) in [
            ("GET", 400, "Cache-Control: no-store"),
            ("GET", 401, "Cache-Control: no-cache"),
            ("GET", 416, "Range: bytes=99-"),
            ("HEAD", 200, "Accept: */*"),
        ] {
            let gate = Gate::new();
            let first = gate.clone();
            let origin = Origin::start(move |seen| match seen.index {
                0 => Answer::new(200, &[], "v1").after(&first),
                1 => Answer::new(status, &[], ""),
                _ => Answer::new(200, &[], "v2"),
            })
            .await;
            let larder = Larder::with_policy(&origin, &["ttl: 1h", "scope: shared"]).await;
            let slow = begun(&larder, "GET", "/x", &[]).await;
            origin.reached(1).await;
            let error = begun(&larder, method, "/x", &[fields]).await;
            assert_eq!(answered(error, method).await.status, status);
            let joins = begun(&larder, "GET", "/x", &[]).await;
            gate.open();
            for client in [slow, joins] {
                assert_eq!(answered(client, "GET").await.text(), "v1", "{method} {status}");
            }
            assert_eq!(larder.get("/x").await.text(), "v1", "{method} {status}: it is kept");
        }
    })
    .await;
}

#[tokio::test]
async fn a_call_that_is_made_again_is_newer_than_what_was_asked_for_meanwhile() {
    bounded(async {
        let origin = Origin::start(|seen| match seen.index {
            0 => Answer::new(503, &[], "no"),
            index => Answer::new(200, &[], format!("v{index}")),
        })
        .await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h", "retry: { retries: 1 }"]).await;
        let asleep = larder.clock.sleepers();
        let retried = begun(&larder, "GET", "/x", &[]).await;
        origin.reached(1).await;
        while larder.clock.sleepers() == asleep {
            tokio::task::yield_now().await;
        }
        let forced = larder.get_with("/x", &["Cache-Control: no-cache"]).await;
        assert_eq!(forced.text(), "v1");
        larder.clock.advance(Duration::from_secs(60));
        assert_eq!(answered(retried, "GET").await.text(), "v2");
        assert_eq!(larder.get("/x").await.text(), "v2");
    })
    .await;
}

/// Its answer comes after one that was asked for later, and its own invalidation makes room for it.
#[tokio::test]
async fn a_posts_answer_is_not_recorded_over_what_a_later_get_was_given() {
    bounded(async {
        for field in ["Cache-Control: no-cache", "Cache-Control: no-cache, no-store"] {
            let gate = Gate::new();
            let first = gate.clone();
            let origin = Origin::start(move |seen| match seen.index {
                0 => {
                    let fields = ["Content-Location: /x", "Cache-Control: max-age=600"];
                    Answer::new(200, &fields, "v1").after(&first)
                }
                index => {
                    Answer::new(200, &["Cache-Control: max-age=600"], format!("v{}", index + 1))
                }
            })
            .await;
            let larder = Larder::with_policy(&origin, &["scope: shared"]).await;
            let post = begun(&larder, "POST", "/x", &[]).await;
            origin.reached(1).await;
            assert_eq!(larder.get_with("/x", &[field]).await.text(), "v2");
            gate.open();
            assert_eq!(answered(post, "POST").await.text(), "v1");
            assert_eq!(larder.get("/x").await.text(), "v3", "{field}");
        }
    })
    .await;
}

/// Where larder had no room for the newer one, the older one has had its time all the same.
#[tokio::test]
async fn a_newer_answer_that_is_too_large_outdates_what_is_stored_for_the_same_request() {
    bounded(async {
        // The status; what it says; the language that is asked for; what is given afterwards.
        let news: [(u16, &'static [&'static str], &str, &str); 4] = [
            (200, &[], "en", "v3"),
            // Of what is the asker's alone no other is a version.
            (200, &["Set-Cookie: a=b"], "en", "v1"),
            (404, &[], "en", "v1"),
            // Another variant's says nothing about this one.
            (200, &[], "de", "v1"),
        ];
        for (status, says, language, expected) in news {
            let origin = Origin::start(move |seen| {
                let fields = [says, &["Vary: Accept-Language"]].concat();
                if seen.index == 1 {
                    return Answer::new(status, &fields, "large ".repeat(20_000));
                }
                Answer::new(200, &["Vary: Accept-Language"], format!("v{}", seen.index + 1))
            })
            .await;
            let larder = Larder::start(&origin, &small()).await;
            let asked_in = |language| format!("Accept-Language: {language}");
            assert_eq!(larder.get_with("/x", &[&asked_in("en")]).await.text(), "v1");
            let asks = ["Cache-Control: no-cache", &asked_in(language)];
            assert_eq!(larder.get_with("/x", &asks).await.text().len(), 120_000);
            let after = larder.get_with("/x", &[&asked_in("en")]).await;
            assert_eq!(after.text(), expected, "{status} {says:?} in {language}");
        }
    })
    .await;
}

/// A store that takes no large bodies.
fn small() -> String {
    let policy = route(&["ttl: 1h", "scope: shared", "retry: off"]);
    format!("store: {{ max_object: 64KiB }}\n{policy}")
}

#[tokio::test]
async fn a_newer_whole_that_is_too_large_outdates_a_stored_part() {
    bounded(async {
        let origin = Origin::start(|seen| {
            if seen.index == 1 {
                return Answer::new(200, &[], "new ".repeat(30_000));
            }
            let fields = ["Content-Range: bytes 0-3/120000", "ETag: \"1\""];
            Answer::new(206, &fields, format!("old{}", seen.index))
        })
        .await;
        let larder = Larder::start(&origin, &small()).await;
        let part = &["Range: bytes=0-3"];
        assert_eq!(larder.get_with("/x", part).await.text(), "old0");
        assert_eq!(larder.get_with("/x", part).await.text(), "old0");
        let whole = larder.get_with("/x", &["Cache-Control: no-cache"]).await;
        assert_eq!(whole.text().len(), 120_000);
        assert_eq!(larder.get_with("/x", part).await.text(), "old2");
    })
    .await;
}

/// Also what another configuration asked for: a reload makes no answer newer.
#[tokio::test]
async fn what_was_asked_for_before_a_reload_is_overtaken_by_what_is_asked_after_it() {
    bounded(async {
        let gate = Gate::new();
        let origin = counting(&gate, &[]).await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        let slow = begun(&larder, "GET", "/x", &[]).await;
        origin.reached(1).await;
        larder.reload(&origin, &route(&["ttl: 2h"])).await.unwrap();
        let fetched = larder.get_with("/x", &["Cache-Control: no-cache, no-store"]).await;
        assert_eq!(fetched.text(), "v2");
        gate.open();
        assert_eq!(answered(slow, "GET").await.text(), "v1");
        assert_eq!(larder.get("/x").await.text(), "v3");
    })
    .await;
}

#[tokio::test]
async fn of_two_posts_that_are_recorded_the_one_that_was_asked_later_stays() {
    bounded(async {
        let gate = Gate::new();
        let fields = &["Content-Location: /x", "Cache-Control: max-age=600"];
        let origin = counting(&gate, fields).await;
        let larder = Larder::with_policy(&origin, &["ttl: origin"]).await;
        let slow = begun(&larder, "POST", "/x", &["Content-Length: 0"]).await;
        origin.reached(1).await;
        let quick = begun(&larder, "POST", "/x", &["Content-Length: 0"]).await;
        assert_eq!(answered(quick, "POST").await.text(), "v2");
        gate.open();
        assert_eq!(answered(slow, "POST").await.text(), "v1");
        assert_ne!(larder.get("/x").await.text(), "v1");
    })
    .await;
}

#[tokio::test]
async fn after_a_step_back_of_the_clock_new_answers_are_kept() {
    bounded(async {
        let gate = Gate::new();
        gate.open();
        let origin = counting(&gate, &[]).await;
        let larder = Larder::with_policy(&origin, &["ttl: 1m"]).await;
        for minutes in [1, 10, 60] {
            larder.get("/x").await;
            larder.clock.set_back(Duration::from_secs(60 * minutes));
            let newest = larder.get_with("/x", &["Cache-Control: no-cache"]).await.text();
            assert_eq!(larder.get("/x").await.text(), newest, "{minutes} minutes");
        }
    })
    .await;
}

// ---- writes of which nobody knows what came of them

#[tokio::test]
async fn a_write_whose_outcome_is_unknown_outdates_its_target() {
    bounded(async {
        let writes = [
            ("/502", true),
            ("/504", true),
            ("/524", true),
            ("/closed", true),
            ("/hung", true),
            ("/500", false),
            ("/409", false),
        ];
        let reads = Arc::new(AtomicUsize::new(0));
        let read = Arc::clone(&reads);
        let origin = Origin::start(move |seen| {
            if seen.method == "GET" {
                let n = read.fetch_add(1, Ordering::Relaxed);
                return Answer::new(200, &[], format!("v{n}"));
            }
            match seen.target.trim_start_matches('/').parse() {
                Ok(status) => Answer::new(status, &[], "no"),
                Err(_) if seen.target == "/hung" => Answer::hung(),
                Err(_) => Answer::closed(),
            }
        })
        .await;
        let yaml = "upstreams: { api: { hosts: [api.example.test], timeouts: { first_byte: 200ms } } }\n\
                    defaults: { stale_if_error: { cooldown: 0s } }\n";
        let larder =
            Larder::start(&origin, &format!("{yaml}{}", route(&["ttl: 1h", "retry: off"]))).await;
        for (path, unknown) in writes {
            let before = larder.get(path).await.text();
            let write = begun(&larder, "PATCH", path, &["Content-Length: 0"]).await;
            answered(write, "PATCH").await;
            assert_eq!(larder.get(path).await.text() != before, unknown, "{path}");
        }
        // Softly: where the API cannot be asked, what is there stands in.
        let before = larder.get("/504").await.text();
        answered(begun(&larder, "PATCH", "/504", &["Content-Length: 0"]).await, "PATCH").await;
        origin.now(|_| Answer::closed());
        assert_eq!(larder.get("/504").await.text(), before);
    })
    .await;
}

/// The client leaves, and nobody will ever know.
#[tokio::test]
async fn a_write_whose_client_leaves_outdates_its_target() {
    bounded(async {
        let gate = Gate::new();
        let released = gate.clone();
        let origin = Origin::start(move |seen| match seen.method.as_str() {
            "GET" => Answer::new(200, &[], format!("v{}", seen.index)),
            _ => Answer::new(200, &[], "done").after(&released),
        })
        .await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        let before = larder.get("/x").await.text();
        let write = begun(&larder, "PUT", "/x", &["Content-Length: 0"]).await;
        origin.reached(2).await;
        drop(write);
        let gone = "larder_invalidations_total{source=\"unknown-outcome\"}";
        larder.until("it has noticed", |larder| larder.metric(gone) > 0.0).await;
        assert_ne!(larder.get("/x").await.text(), before);
        gate.open();
    })
    .await;
}

// ---- what ends the right to stand in for errors

/// An API that answers with a status which can be changed.
async fn saying(status: &Arc<AtomicUsize>) -> Origin {
    let status = Arc::clone(status);
    Origin::start(move |_| {
        let status = u16::try_from(status.load(Ordering::Relaxed)).unwrap();
        Answer::new(status, &[], format!("said {status}"))
    })
    .await
}

const NO_HOLD: &str = "defaults: { stale_if_error: { cooldown: 0s } }\n";

#[tokio::test]
async fn what_is_gone_or_forbidden_stands_in_for_no_later_error() {
    bounded(async {
        let now = Arc::new(AtomicUsize::new(200));
        let origin = saying(&now).await;
        let ends = |list: &str| {
            let policy = format!("stale_if_error: {{ for: 1h{list} }}");
            format!("{NO_HOLD}{}", route(&["ttl: 1s", "scope: shared", "retry: off", &policy]))
        };
        let larder = Larder::start(&origin, &ends("")).await;
        let say = |status| now.store(status, Ordering::Relaxed);
        let after = async |path: &str, status, fields: &[&str]| {
            say(200);
            larder.get(path).await;
            larder.clock.advance(Duration::from_secs(2));
            say(status);
            assert_eq!(larder.get_with(path, fields).await.text(), format!("said {status}"));
            say(503);
            larder.get(path).await.text()
        };
        for status in [404, 410, 401, 403] {
            assert_eq!(after(&format!("/{status}"), status, &[]).await, "said 503");
        }
        // Other answers, and what one credential may not have.
        assert_eq!(after("/400", 400, &[]).await, "said 200");
        for status in [401, 403] {
            let bad = &["Authorization: Bearer bad"];
            assert_eq!(after(&format!("/bad/{status}"), status, bad).await, "said 200");
        }
        // A new answer has the right again.
        say(200);
        larder.get("/404").await;
        larder.clock.advance(Duration::from_secs(2));
        say(503);
        assert_eq!(larder.get("/404").await.text(), "said 200");
        larder.reload(&origin, &ends(", ends_on: [410]")).await.unwrap();
        assert_eq!(after("/kept", 404, &[]).await, "said 200");
        assert_eq!(after("/gone", 410, &[]).await, "said 503");
    })
    .await;
}

#[tokio::test]
async fn what_one_credential_may_not_have_stands_in_for_others() {
    bounded(async {
        let now = Arc::new(AtomicUsize::new(200));
        let origin = saying(&now).await;
        let yaml = format!("{NO_HOLD}{}", route(&["ttl: 1s", "retry: off"]));
        let larder = Larder::start(&origin, &yaml).await;
        let say = |status| now.store(status, Ordering::Relaxed);
        let (mine, theirs) = (["Authorization: Bearer a"], ["Authorization: Bearer b"]);
        for (status, others) in [(401, "said 200"), (403, "said 200"), (404, "said 503")] {
            let path = format!("/{status}");
            say(200);
            for fields in [&mine, &theirs] {
                larder.get_with(&path, fields).await;
            }
            larder.clock.advance(Duration::from_secs(2));
            say(status);
            larder.get_with(&path, &mine).await;
            say(503);
            assert_eq!(larder.get_with(&path, &mine).await.text(), "said 503", "{status}");
            assert_eq!(larder.get_with(&path, &theirs).await.text(), others, "{status}");
        }
    })
    .await;
}

/// Under the rule of a route that is not theirs `/items?id=7` and `/items` would be one.
#[tokio::test]
async fn what_is_said_of_a_resource_reaches_no_other_by_another_routes_query_rule() {
    bounded(async {
        let now = Arc::new(AtomicUsize::new(200));
        let said = Arc::clone(&now);
        let origin = Origin::start(move |seen| {
            let status = u16::try_from(said.load(Ordering::Relaxed)).unwrap();
            let status = match (&*seen.method, seen.target.contains('?')) {
                ("DELETE", _) => 200,
                (_, true) => 404,
                (_, false) => status,
            };
            Answer::new(status, &[], format!("said {status}"))
        })
        .await;
        let routes = format!(
            "{NO_HOLD}routes:\n  - {{ name: a, match: {{ host: api.example.test, path: /static/** }}, key: {{ query: {{ include: [] }} }} }}\n  \
             - {{ name: b, match: {{ host: api.example.test, path: /items }}, ttl: 1s, scope: shared, retry: off }}\n"
        );
        let larder = Larder::start(&origin, &routes).await;
        larder.get("/items").await;
        larder.clock.advance(Duration::from_secs(2));
        assert_eq!(larder.get("/items?id=none").await.status, 404);
        let delete = begun(&larder, "DELETE", "/items?id=7", &[]).await;
        assert_eq!(answered(delete, "DELETE").await.status, 200);
        now.store(503, Ordering::Relaxed);
        assert_eq!(larder.get("/items").await.text(), "said 200", "it stands in");
    })
    .await;
}

// ---- what was changed by other ways than an answer

#[tokio::test]
async fn a_head_of_nothing_leaves_what_a_get_brought_to_stand_in() {
    bounded(async {
        let origin = Origin::start(|seen| match seen.method.as_str() {
            "HEAD" => Answer::new(200, &[], ""),
            _ => Answer::new(200, &["ETag: \"1\""], "v1"),
        })
        .await;
        let larder =
            Larder::with_policy(&origin, &["ttl: 1s", "scope: shared", "retry: off"]).await;
        larder.get("/x").await;
        larder.clock.advance(Duration::from_secs(2));
        let head = begun(&larder, "HEAD", "/x", &[]).await;
        assert_eq!(answered(head, "HEAD").await.field("content-length"), Some("0"));
        origin.close().await;
        assert_eq!(larder.get("/x").await.text(), "v1");
    })
    .await;
}

#[tokio::test]
async fn a_route_that_comes_back_does_not_revive_what_was_changed_meanwhile() {
    bounded(async {
        let origin = Origin::start(|seen| Answer::new(200, &[], format!("v{}", seen.index))).await;
        let rules = [&["ttl: 1h"][..], &["ttl: 1h", "key: { query: { include: [id] } }"]];
        for (n, policy) in rules.into_iter().enumerate() {
            let larder = Larder::start(&origin, &route(policy)).await;
            let path = format!("/{n}?id=1&utm=2");
            let before = larder.get(&path).await.text();
            larder.reload(&origin, "").await.unwrap();
            let put = begun(&larder, "PUT", &path, &["Content-Length: 0"]).await;
            answered(put, "PUT").await;
            larder.reload(&origin, &route(policy)).await.unwrap();
            assert_ne!(larder.get(&path).await.text(), before, "{policy:?}");
        }
    })
    .await;
}

// ---- holds that are fair

#[tokio::test]
async fn endpoints_that_always_fail_keep_no_healthy_one_stale() {
    bounded(async {
        let origin = Origin::start(|seen| {
            let broken = seen.target.starts_with("/broken");
            Answer::new(if broken { 500 } else { 200 }, &[], format!("v{}", seen.index))
        })
        .await;
        let larder = Larder::with_policy(&origin, &["ttl: 1s", "retry: off"]).await;
        let mut last = larder.get("/well").await.text();
        for _ in 0..60 {
            larder.clock.advance(Duration::from_secs(3));
            for n in 0..2 {
                larder.get(&format!("/broken/{n}")).await;
            }
            let well = larder.get("/well").await;
            assert_ne!(well.text(), last, "{}", well.cache_status());
            last = well.text();
        }
    })
    .await;
}

/// Its head says that the API answers again, however long its body takes.
#[tokio::test]
async fn a_probe_whose_body_is_read_for_long_keeps_nobody_waiting() {
    bounded(async {
        let gate = Gate::new();
        let released = gate.clone();
        let origin = Origin::start(move |seen| match seen.target.as_str() {
            "/limited" => Answer::new(429, &["Retry-After: 1"], ""),
            "/stream" => {
                let json = ["Content-Type: application/json"];
                let begun = Answer::chunked_open(200, &json, &[b"{\"ok\":true,"]);
                begun.then([crate::origin::Step::Wait(released.clone())])
            }
            _ => Answer::new(200, &["Content-Type: application/json"], "{\"ok\":true}"),
        })
        .await;
        let api = "upstreams: { api: { hosts: [api.example.test], rate_limit: { max_wait: 0s }, \
                   success: { json: { \"$.ok\": [true] } } } }\n";
        let larder =
            Larder::start(&origin, &format!("{api}{}", route(&["ttl: 1h", "retry: off"]))).await;
        for method in ["POST", "GET"] {
            let limited = begun(&larder, "POST", "/limited", &["Content-Length: 0"]).await;
            assert_eq!(answered(limited, "POST").await.status, 429);
            larder.clock.advance(Duration::from_secs(2));
            let calls = origin.calls();
            let _slow = begun(&larder, method, "/stream", &["Content-Length: 0"]).await;
            origin.reached(calls + 1).await;
            // Its head has to reach larder.
            let mut status = 0;
            while status != 200 {
                status = larder.get(&format!("/other/{method}")).await.status;
            }
            let post = begun(&larder, "POST", "/other", &["Content-Length: 0"]).await;
            assert_eq!(answered(post, "POST").await.status, 200);
        }
        gate.open();
    })
    .await;
}
