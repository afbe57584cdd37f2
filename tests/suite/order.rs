//! The order of responses is that of their requests: in any interleaving, the response to an older
//! request never replaces the response to a newer one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::client::{Client, Response};
use crate::concurrent::bounded;
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Gate, MockResponse, Origin};

/// An API that numbers its responses; the first one waits for a gate.
async fn counting(first: &Gate, fields: &'static [&'static str]) -> Origin {
    let first = first.clone();
    Origin::start(move |seen| {
        let answer = MockResponse::new(200, fields, format!("v{}", seen.index + 1));
        if seen.index == 0 { answer.after(&first) } else { answer }
    })
    .await
}

/// A larder with one request in flight, for `/x`: the first response of its [`counting`] origin waits.
struct Held {
    gate: Gate,
    origin: Origin,
    larder: Larder,
    slow: Client,
}

impl Held {
    async fn start(method: &str, fields: &'static [&'static str], ttl: &str) -> Self {
        let gate = Gate::new();
        let origin = counting(&gate, fields).await;
        let larder = Larder::with_policy(&origin, &[ttl]).await;
        let slow = start_request(&larder, method, "/x", &["Content-Length: 0"]).await;
        origin.wait_for_calls(1).await;
        Self { gate, origin, larder, slow }
    }
}

/// Sends a request and returns its client.
async fn start_request(larder: &Larder, method: &str, path: &str, fields: &[&str]) -> Client {
    let mut client = larder.client().await;
    client.send_request(method, &format!("{API}{path}"), fields).await;
    client
}

async fn response_to(mut client: Client, method: &str) -> Response {
    client.response(method).await.expect("a response")
}

#[tokio::test]
async fn a_fetch_from_before_a_forced_refresh_does_not_replace_it() {
    bounded(async {
        let Held { gate, origin, larder, slow } = Held::start("GET", &[], "ttl: 1h").await;
        let forced = larder.get_with("/x", &["Cache-Control: no-cache"]).await;
        assert_eq!(forced.text(), "v2");
        // No request joins the older fetch, and its response replaces nothing.
        assert_eq!(larder.get("/x").await.text(), "v2");
        gate.open();
        assert_eq!(response_to(slow, "GET").await.text(), "v1", "for its own client only");
        assert_eq!(larder.get("/x").await.text(), "v2");
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_request_after_an_unstored_response_joins_no_older_fetch() {
    bounded(async {
        let Held { gate, origin: _origin, larder, slow } = Held::start("GET", &[], "ttl: 1h").await;
        let fetched = larder.get_with("/x", &["Cache-Control: no-cache, no-store"]).await;
        assert_eq!(fetched.text(), "v2");
        assert_eq!(larder.get("/x").await.text(), "v3", "not the first, which is older than v2");
        gate.open();
        assert_eq!(response_to(slow, "GET").await.text(), "v1");
        assert_eq!(larder.get("/x").await.text(), "v3");
    })
    .await;
}

/// Such a response is not a version of the resource, and must not outdate a fetch for which others wait.
#[tokio::test]
async fn a_response_that_is_no_version_does_not_outdate_a_fetch() {
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
                0 => MockResponse::new(200, &[], "v1").after(&first),
                1 => MockResponse::new(status, &[], ""),
                _ => MockResponse::new(200, &[], "v2"),
            })
            .await;
            let larder = Larder::with_policy(&origin, &["ttl: 1h", "scope: shared"]).await;
            let slow = start_request(&larder, "GET", "/x", &[]).await;
            origin.wait_for_calls(1).await;
            let error = start_request(&larder, method, "/x", &[fields]).await;
            assert_eq!(response_to(error, method).await.status, status);
            let joins = start_request(&larder, "GET", "/x", &[]).await;
            gate.open();
            for client in [slow, joins] {
                assert_eq!(response_to(client, "GET").await.text(), "v1", "{method} {status}");
            }
            assert_eq!(larder.get("/x").await.text(), "v1", "{method} {status}: it is stored");
        }
    })
    .await;
}

#[tokio::test]
async fn a_retry_is_newer_than_a_request_made_before_it() {
    bounded(async {
        let origin = Origin::start(|seen| match seen.index {
            0 => MockResponse::new(503, &[], "no"),
            index => MockResponse::new(200, &[], format!("v{index}")),
        })
        .await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h", "retry: { retries: 1 }"]).await;
        let asleep = larder.clock.sleepers();
        let retried = start_request(&larder, "GET", "/x", &[]).await;
        origin.wait_for_calls(1).await;
        while larder.clock.sleepers() == asleep {
            tokio::task::yield_now().await;
        }
        let forced = larder.get_with("/x", &["Cache-Control: no-cache"]).await;
        assert_eq!(forced.text(), "v1");
        larder.clock.advance(Duration::from_secs(60));
        assert_eq!(response_to(retried, "GET").await.text(), "v2");
        assert_eq!(larder.get("/x").await.text(), "v2");
    })
    .await;
}

/// The POST's response arrives after that of a later GET, and its own invalidation outdates the stored one.
#[tokio::test]
async fn a_posts_response_is_not_stored_over_that_of_a_later_get() {
    bounded(async {
        for field in ["Cache-Control: no-cache", "Cache-Control: no-cache, no-store"] {
            let gate = Gate::new();
            let first = gate.clone();
            let origin = Origin::start(move |seen| match seen.index {
                0 => {
                    let fields = ["Content-Location: /x", "Cache-Control: max-age=600"];
                    MockResponse::new(200, &fields, "v1").after(&first)
                }
                index => MockResponse::new(200, &["Cache-Control: max-age=600"], format!("v{}", index + 1)),
            })
            .await;
            let larder = Larder::with_policy(&origin, &["scope: shared"]).await;
            let post = start_request(&larder, "POST", "/x", &[]).await;
            origin.wait_for_calls(1).await;
            assert_eq!(larder.get_with("/x", &[field]).await.text(), "v2");
            gate.open();
            assert_eq!(response_to(post, "POST").await.text(), "v1");
            assert_eq!(larder.get("/x").await.text(), "v3", "{field}");
        }
    })
    .await;
}

/// The stored response is outdated even if the newer one is too large to store.
#[tokio::test]
async fn a_newer_response_that_is_too_large_outdates_the_stored_response() {
    bounded(async {
        // The status and the extra fields of the newer response, the requested language, the
        // expected body of the next response.
        let cases: [(u16, &'static [&'static str], &str, &str); 4] = [
            (200, &[], "en", "v3"),
            // A private response is no version for other clients.
            (200, &["Set-Cookie: a=b"], "en", "v1"),
            (404, &[], "en", "v1"),
            // A response of another variant does not outdate this one.
            (200, &[], "de", "v1"),
        ];
        for (status, extra, language, expected) in cases {
            let origin = Origin::start(move |seen| {
                let fields = [extra, &["Vary: Accept-Language"]].concat();
                if seen.index == 1 {
                    return MockResponse::new(status, &fields, "large ".repeat(20_000));
                }
                MockResponse::new(200, &["Vary: Accept-Language"], format!("v{}", seen.index + 1))
            })
            .await;
            let larder = Larder::start(&origin, &small()).await;
            let accept_language = |language| format!("Accept-Language: {language}");
            assert_eq!(larder.get_with("/x", &[&accept_language("en")]).await.text(), "v1");
            let request_fields = ["Cache-Control: no-cache", &accept_language(language)];
            assert_eq!(larder.get_with("/x", &request_fields).await.text().len(), 120_000);
            let after = larder.get_with("/x", &[&accept_language("en")]).await;
            assert_eq!(after.text(), expected, "{status} {extra:?} in {language}");
        }
    })
    .await;
}

/// A configuration whose store takes no large bodies.
fn small() -> String {
    let policy = route(&["ttl: 1h", "scope: shared", "retry: off"]);
    format!("store: {{ max_object: 64KiB }}\n{policy}")
}

#[tokio::test]
async fn a_newer_full_response_that_is_too_large_outdates_a_stored_part() {
    bounded(async {
        let origin = Origin::start(|seen| {
            if seen.index == 1 {
                return MockResponse::new(200, &[], "new ".repeat(30_000));
            }
            let fields = ["Content-Range: bytes 0-3/120000", "ETag: \"1\""];
            MockResponse::new(206, &fields, format!("old{}", seen.index))
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

/// A reload makes no response newer: the order of the requests counts.
#[tokio::test]
async fn a_fetch_from_before_a_reload_is_outdated_by_one_after_it() {
    bounded(async {
        let Held { gate, origin, larder, slow } = Held::start("GET", &[], "ttl: 1h").await;
        larder.reload(&origin, &route(&["ttl: 2h"])).await.unwrap();
        let fetched = larder.get_with("/x", &["Cache-Control: no-cache, no-store"]).await;
        assert_eq!(fetched.text(), "v2");
        gate.open();
        assert_eq!(response_to(slow, "GET").await.text(), "v1");
        assert_eq!(larder.get("/x").await.text(), "v3");
    })
    .await;
}

#[tokio::test]
async fn of_two_stored_post_responses_the_later_request_wins() {
    bounded(async {
        let fields = &["Content-Location: /x", "Cache-Control: max-age=600"];
        let Held { gate, origin: _origin, larder, slow } = Held::start("POST", fields, "ttl: origin").await;
        let quick = start_request(&larder, "POST", "/x", &["Content-Length: 0"]).await;
        assert_eq!(response_to(quick, "POST").await.text(), "v2");
        gate.open();
        assert_eq!(response_to(slow, "POST").await.text(), "v1");
        assert_ne!(larder.get("/x").await.text(), "v1");
    })
    .await;
}

#[tokio::test]
async fn after_a_step_back_of_the_clock_new_responses_are_stored() {
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

// ---- writes with an unknown outcome

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
                return MockResponse::new(200, &[], format!("v{n}"));
            }
            match seen.target.trim_start_matches('/').parse() {
                Ok(status) => MockResponse::new(status, &[], "no"),
                Err(_) if seen.target == "/hung" => MockResponse::hang(),
                Err(_) => MockResponse::closed(),
            }
        })
        .await;
        let yaml = "upstreams: { api: { hosts: [api.example.test], timeouts: { first_byte: 200ms } } }\n\
                    defaults: { stale_if_error: { cooldown: 0s } }\n";
        let larder = Larder::start(&origin, &format!("{yaml}{}", route(&["ttl: 1h", "retry: off"]))).await;
        for (path, unknown) in writes {
            let before = larder.get(path).await.text();
            let write = start_request(&larder, "PATCH", path, &["Content-Length: 0"]).await;
            response_to(write, "PATCH").await;
            assert_eq!(larder.get(path).await.text() != before, unknown, "{path}");
        }
        // The invalidation is soft: the outdated response is still served if the API fails.
        let before = larder.get("/504").await.text();
        response_to(start_request(&larder, "PATCH", "/504", &["Content-Length: 0"]).await, "PATCH").await;
        origin.set_script(|_| MockResponse::closed());
        assert_eq!(larder.get("/504").await.text(), before);
    })
    .await;
}

/// The client disconnects, so that the outcome stays unknown.
#[tokio::test]
async fn a_write_whose_client_disconnects_outdates_its_target() {
    bounded(async {
        let gate = Gate::new();
        let released = gate.clone();
        let origin = Origin::start(move |seen| match seen.method.as_str() {
            "GET" => MockResponse::new(200, &[], format!("v{}", seen.index)),
            _ => MockResponse::new(200, &[], "done").after(&released),
        })
        .await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        let before = larder.get("/x").await.text();
        let write = start_request(&larder, "PUT", "/x", &["Content-Length: 0"]).await;
        origin.wait_for_calls(2).await;
        drop(write);
        let gone = "larder_invalidations_total{source=\"unknown-outcome\"}";
        larder.wait_until("larder notices the disconnect", |larder| larder.metric(gone) > 0.0).await;
        assert_ne!(larder.get("/x").await.text(), before);
        gate.open();
    })
    .await;
}

// ---- responses that end stale-if-error

/// An API that responds with a status that the test can change.
async fn responding_with(status: &Arc<AtomicUsize>) -> Origin {
    let status = Arc::clone(status);
    Origin::start(move |_| {
        let status = u16::try_from(status.load(Ordering::Relaxed)).unwrap();
        MockResponse::new(status, &[], format!("status {status}"))
    })
    .await
}

const NO_COOLDOWN: &str = "defaults: { stale_if_error: { cooldown: 0s } }\n";

#[tokio::test]
async fn a_gone_or_forbidden_resource_is_not_served_stale_on_errors() {
    bounded(async {
        let now = Arc::new(AtomicUsize::new(200));
        let origin = responding_with(&now).await;
        let config = |list: &str| {
            let policy = format!("stale_if_error: {{ for: 1h{list} }}");
            format!("{NO_COOLDOWN}{}", route(&["ttl: 1s", "scope: shared", "retry: off", &policy]))
        };
        let larder = Larder::start(&origin, &config("")).await;
        let set_status = |status| now.store(status, Ordering::Relaxed);
        let after = async |path: &str, status, fields: &[&str]| {
            set_status(200);
            larder.get(path).await;
            larder.clock.advance(Duration::from_secs(2));
            set_status(status);
            assert_eq!(larder.get_with(path, fields).await.text(), format!("status {status}"));
            set_status(503);
            larder.get(path).await.text()
        };
        for status in [404, 410, 401, 403] {
            assert_eq!(after(&format!("/{status}"), status, &[]).await, "status 503");
        }
        // Other statuses, and a refused credential, do not end stale-if-error.
        assert_eq!(after("/400", 400, &[]).await, "status 200");
        for status in [401, 403] {
            let bad = &["Authorization: Bearer bad"];
            assert_eq!(after(&format!("/bad/{status}"), status, bad).await, "status 200");
        }
        // A new response may be served stale again.
        set_status(200);
        larder.get("/404").await;
        larder.clock.advance(Duration::from_secs(2));
        set_status(503);
        assert_eq!(larder.get("/404").await.text(), "status 200");
        larder.reload(&origin, &config(", ends_on: [410]")).await.unwrap();
        assert_eq!(after("/kept", 404, &[]).await, "status 200");
        assert_eq!(after("/gone", 410, &[]).await, "status 503");
    })
    .await;
}

#[tokio::test]
async fn a_refused_credential_does_not_end_stale_if_error_for_others() {
    bounded(async {
        let now = Arc::new(AtomicUsize::new(200));
        let origin = responding_with(&now).await;
        let yaml = format!("{NO_COOLDOWN}{}", route(&["ttl: 1s", "retry: off"]));
        let larder = Larder::start(&origin, &yaml).await;
        let set_status = |status| now.store(status, Ordering::Relaxed);
        let (mine, theirs) = (["Authorization: Bearer a"], ["Authorization: Bearer b"]);
        for (status, others) in [(401, "status 200"), (403, "status 200"), (404, "status 503")] {
            let path = format!("/{status}");
            set_status(200);
            for fields in [&mine, &theirs] {
                larder.get_with(&path, fields).await;
            }
            larder.clock.advance(Duration::from_secs(2));
            set_status(status);
            larder.get_with(&path, &mine).await;
            set_status(503);
            assert_eq!(larder.get_with(&path, &mine).await.text(), "status 503", "{status}");
            assert_eq!(larder.get_with(&path, &theirs).await.text(), others, "{status}");
        }
    })
    .await;
}

/// Under the query rule of route `a`, which does not match them, `/items?id=7` and `/items` would be one.
#[tokio::test]
async fn the_query_rule_of_another_route_does_not_merge_two_resources() {
    bounded(async {
        let now = Arc::new(AtomicUsize::new(200));
        let current = Arc::clone(&now);
        let origin = Origin::start(move |seen| {
            let status = u16::try_from(current.load(Ordering::Relaxed)).unwrap();
            let status = match (&*seen.method, seen.target.contains('?')) {
                ("DELETE", _) => 200,
                (_, true) => 404,
                (_, false) => status,
            };
            MockResponse::new(status, &[], format!("status {status}"))
        })
        .await;
        let routes = format!(
            "{NO_COOLDOWN}routes:\n  - {{ name: a, match: {{ host: api.example.test, path: /static/** }}, key: {{ query: {{ include: [] }} }} }}\n  \
             - {{ name: b, match: {{ host: api.example.test, path: /items }}, ttl: 1s, scope: shared, retry: off }}\n"
        );
        let larder = Larder::start(&origin, &routes).await;
        larder.get("/items").await;
        larder.clock.advance(Duration::from_secs(2));
        assert_eq!(larder.get("/items?id=none").await.status, 404);
        let delete = start_request(&larder, "DELETE", "/items?id=7", &[]).await;
        assert_eq!(response_to(delete, "DELETE").await.status, 200);
        now.store(503, Ordering::Relaxed);
        assert_eq!(larder.get("/items").await.text(), "status 200", "served stale");
    })
    .await;
}

// ---- changes without a new response

#[tokio::test]
async fn an_empty_head_response_leaves_a_stored_get_for_stale_if_error() {
    bounded(async {
        let origin = Origin::start(|seen| match seen.method.as_str() {
            "HEAD" => MockResponse::new(200, &[], ""),
            _ => MockResponse::new(200, &["ETag: \"1\""], "v1"),
        })
        .await;
        let larder = Larder::with_policy(&origin, &["ttl: 1s", "scope: shared", "retry: off"]).await;
        larder.get("/x").await;
        larder.clock.advance(Duration::from_secs(2));
        let head = start_request(&larder, "HEAD", "/x", &[]).await;
        assert_eq!(response_to(head, "HEAD").await.field("content-length"), Some("0"));
        origin.close().await;
        assert_eq!(larder.get("/x").await.text(), "v1");
    })
    .await;
}

#[tokio::test]
async fn a_restored_route_does_not_revive_a_resource_changed_meanwhile() {
    bounded(async {
        let origin = Origin::start(|seen| MockResponse::new(200, &[], format!("v{}", seen.index))).await;
        let rules = [&["ttl: 1h"][..], &["ttl: 1h", "key: { query: { include: [id] } }"]];
        for (n, policy) in rules.into_iter().enumerate() {
            let larder = Larder::start(&origin, &route(policy)).await;
            let path = format!("/{n}?id=1&utm=2");
            let before = larder.get(&path).await.text();
            larder.reload(&origin, "").await.unwrap();
            let put = start_request(&larder, "PUT", &path, &["Content-Length: 0"]).await;
            response_to(put, "PUT").await;
            larder.reload(&origin, &route(policy)).await.unwrap();
            assert_ne!(larder.get(&path).await.text(), before, "{policy:?}");
        }
    })
    .await;
}

// ---- cooldowns of single endpoints

#[tokio::test]
async fn endpoints_that_always_fail_do_not_keep_a_healthy_one_stale() {
    bounded(async {
        let origin = Origin::start(|seen| {
            let broken = seen.target.starts_with("/broken");
            MockResponse::new(if broken { 500 } else { 200 }, &[], format!("v{}", seen.index))
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

/// The head of a probe's response shows that the API works again, however long its body takes.
#[tokio::test]
async fn a_probe_with_a_slow_body_does_not_block_other_calls() {
    bounded(async {
        let gate = Gate::new();
        let released = gate.clone();
        let origin = Origin::start(move |seen| match seen.target.as_str() {
            "/limited" => MockResponse::new(429, &["Retry-After: 1"], ""),
            "/stream" => {
                let json = ["Content-Type: application/json"];
                let begun = MockResponse::chunked_open(200, &json, &[b"{\"ok\":true,"]);
                begun.then([crate::origin::Step::Wait(released.clone())])
            }
            _ => MockResponse::new(200, &["Content-Type: application/json"], "{\"ok\":true}"),
        })
        .await;
        let api = "upstreams: { api: { hosts: [api.example.test], rate_limit: { max_wait: 0s }, \
                   success: { json: { \"$.ok\": [true] } } } }\n";
        let larder = Larder::start(&origin, &format!("{api}{}", route(&["ttl: 1h", "retry: off"]))).await;
        for method in ["POST", "GET"] {
            let limited = start_request(&larder, "POST", "/limited", &["Content-Length: 0"]).await;
            assert_eq!(response_to(limited, "POST").await.status, 429);
            larder.clock.advance(Duration::from_secs(2));
            let calls = origin.calls();
            let _slow = start_request(&larder, method, "/stream", &["Content-Length: 0"]).await;
            origin.wait_for_calls(calls + 1).await;
            // Waits until the head has reached larder.
            let mut status = 0;
            while status != 200 {
                status = larder.get(&format!("/other/{method}")).await.status;
            }
            let post = start_request(&larder, "POST", "/other", &["Content-Length: 0"]).await;
            assert_eq!(response_to(post, "POST").await.status, 200);
        }
        gate.open();
    })
    .await;
}
