//! Retries: waits, waiters, the retry budget, reloads.

use crate::client::Client;
use crate::concurrent::{ConcurrentRequests, bounded};
use crate::failing_api::{MAX_BACKOFF, MIN_BACKOFF, closing_origin, ok, with_stale_entry};
use crate::failing_origin::{
    SECOND, advance_until_response, api_status, cooldowns, expect_next_call, get_until_body, in_order,
    round_trip, start_get, too_many_requests, yaml,
};
use crate::larder_under_test::{API, Larder};
use crate::origin::{MockResponse, Origin};
use crate::process::Process;
use larder::policy::Mode;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

#[tokio::test]
async fn a_cold_key_that_gets_429_twice_waits_for_retry_after_and_succeeds() {
    bounded(async {
        let twice =
            vec![too_many_requests(&["Retry-After: 2"]), too_many_requests(&["Retry-After: 3"]), ok("here")];
        let origin = Origin::start(in_order(twice)).await;
        let larder = Larder::start(&origin, &yaml("", &[])).await;
        let pending = start_get(&larder, "/x", &[]).await;
        expect_next_call(&larder, &origin, 2 * SECOND, 2 * SECOND).await;
        expect_next_call(&larder, &origin, 3 * SECOND, 3 * SECOND).await;
        let answer = pending.await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "here"));
        let expected = "larder; fwd=uri-miss; fwd-status=200; stored; ttl=60; \
                        detail=\"retried/rate-limited\"";
        assert_eq!(answer.cache_status(), expected);
        let retries = "larder_upstream_retries_total{cause=\"rate-limited\",upstream=\"api\"}";
        larder.wait_for_metric(retries, 2.0).await;
        let limits = "larder_upstream_rate_limited_total{class=\"rate-limited\",upstream=\"api\"}";
        larder.wait_for_metric(limits, 2.0).await;
    })
    .await;
}

#[tokio::test]
async fn without_retry_after_the_waits_double_and_the_last_429_is_passed_on() {
    bounded(async {
        let origin = Origin::always(too_many_requests(&["X-Own: kept"])).await;
        let larder = Larder::start(&origin, &yaml("", &[])).await;
        let pending = start_get(&larder, "/x", &[]).await;
        for factor in [1, 2, 4] {
            expect_next_call(&larder, &origin, factor * MIN_BACKOFF, factor * MAX_BACKOFF).await;
        }
        let answer = pending.await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (429, "slow down"));
        assert_eq!(answer.field("x-own"), Some("kept"));
        assert_eq!(answer.field("retry-after"), None, "larder adds none");
        let expected = "larder; fwd=uri-miss; fwd-status=429; detail=\"retried/rate-limited\"";
        assert_eq!(answer.cache_status(), expected);
        assert_eq!(origin.calls(), 4);
    })
    .await;
}

#[tokio::test]
async fn a_status_that_retry_on_does_not_list_is_not_retried() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(500, &[], "broken")).await;
        let larder = Larder::start(&origin, &yaml("", &["retry: { on: [429] }"])).await;
        let answer = larder.get("/x").await;
        assert_eq!((answer.status, answer.text().as_str()), (500, "broken"));
        assert_eq!((origin.calls(), larder.clock.sleepers()), (1, 0));
        assert!(!answer.cache_status().contains("detail"), "{}", answer.cache_status());
    })
    .await;
}

#[tokio::test]
async fn a_warm_key_gets_a_stale_response_while_retries_continue() {
    bounded(async {
        let origin = closing_origin().await;
        let larder = with_stale_entry(&origin, &yaml("", &[])).await;
        origin.set_script(in_order(vec![
            too_many_requests(&["Retry-After: 2"]),
            too_many_requests(&["Retry-After: 2"]),
            ok("new"),
        ]));
        let first = larder.get("/x").await;
        assert_eq!((first.status, first.text().as_str()), (200, "old"));
        let expected = "larder; fwd=stale; fwd-status=429; ttl=-1; \
                        detail=\"stale-if-error/rate-limited\"";
        assert_eq!(first.cache_status(), expected);
        let in_cooldown = larder.get("/x").await;
        let expected = "larder; hit; ttl=-1; detail=\"stale-if-error/cooldown-rate-limited\"";
        assert_eq!((in_cooldown.text().as_str(), in_cooldown.cache_status()), ("old", expected));
        assert_eq!(cooldowns(&larder), [("credential", "rate-limited", true)]);
        assert_eq!(origin.calls(), 2, "no call during the cooldown");
        expect_next_call(&larder, &origin, 2 * SECOND, 2 * SECOND).await;
        assert_eq!(larder.get("/x").await.text(), "old");
        expect_next_call(&larder, &origin, 2 * SECOND, 2 * SECOND).await;
        let fresh = get_until_body(&larder, "/x", "new").await;
        assert!(fresh.cache_status().starts_with("larder; hit; ttl=60"), "{:?}", fresh.fields);
        assert_eq!((origin.calls(), cooldowns(&larder)), (4, Vec::new()));
        let served = "larder_stale_served_total{cause=\"rate-limited\",route=\"api\"}";
        larder.wait_for_metric(served, 1.0).await;
    })
    .await;
}

#[tokio::test]
async fn fifty_clients_of_a_cold_key_wait_for_one_retry_however_long_it_takes() {
    bounded(async {
        const WAIT: Duration = Duration::from_millis(50);
        let origin = Origin::start(in_order(vec![too_many_requests(&["Retry-After: 1"]), ok("here")])).await;
        let larder = Larder::start(&origin, &yaml("", &["coalesce: { wait: 50ms }"])).await;
        let leader = start_get(&larder, "/x", &[]).await;
        larder.wait_until("the retry waits", |larder| larder.clock.sleepers() == 1).await;
        let crowd = ConcurrentRequests::send_plain(&larder, 49, "/x").await;
        larder.wait_for_waiters(50).await;
        // `coalesce.wait` is measured in real time, and this test lets it expire.
        tokio::time::sleep(4 * WAIT).await;
        assert_eq!(origin.calls(), 1, "no waiter makes its own call");
        larder.clock.advance(SECOND);
        let mut answers = crowd.responses().await;
        answers.push(leader.await.unwrap());
        for answer in answers {
            assert_eq!((answer.status, answer.text().as_str()), (200, "here"));
        }
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

#[tokio::test]
async fn waiters_get_the_response_if_the_leader_leaves_while_a_retry_waits() {
    bounded(async {
        let origin = Origin::start(in_order(vec![too_many_requests(&["Retry-After: 1"]), ok("here")])).await;
        let larder = Larder::start(&origin, &yaml("", &[])).await;
        let mut leader = larder.client().await;
        leader.send_request("GET", &format!("{API}/x"), &[]).await;
        larder.wait_until("the retry waits", |larder| larder.clock.sleepers() == 1).await;
        let crowd = ConcurrentRequests::send_plain(&larder, 3, "/x").await;
        larder.wait_for_waiters(4).await;
        drop(leader);
        larder.wait_for_waiters(3).await;
        expect_next_call(&larder, &origin, SECOND, SECOND).await;
        for answer in crowd.responses().await {
            assert_eq!((answer.status, answer.text().as_str()), (200, "here"));
        }
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

/// UPS-08: the number of retries is limited to a share of all calls to the API.
#[tokio::test]
async fn ups_08_if_half_of_the_calls_fail_retries_add_a_fifth_at_most() {
    bounded(async {
        let targets = Arc::new(Mutex::new(HashSet::new()));
        let (requested, coin) = (Arc::clone(&targets), AtomicBool::new(false));
        let origin = Origin::start(move |seen| {
            requested.lock().insert(seen.target.clone());
            let fails = coin.fetch_xor(true, Ordering::SeqCst);
            if fails { MockResponse::new(503, &[], "half down") } else { ok("here") }
        })
        .await;
        let larder = Larder::start(&origin, &yaml("", &[])).await;
        let (mut crowds, mut requests) = (Vec::new(), 0);
        for step in 0..50 {
            crowds.push(ConcurrentRequests::send_to_each_path(&larder, 20, &format!("/{step}")).await);
            requests += 20;
            larder.wait_until("all calls have arrived", |_| targets.lock().len() == requests).await;
            larder.clock.advance(SECOND / 10);
        }
        let done = Arc::new(AtomicBool::new(false));
        let answers = async {
            let mut answers = Vec::new();
            for crowd in crowds {
                answers.extend(crowd.responses().await);
            }
            done.store(true, Ordering::SeqCst);
            answers
        };
        let advance_clock = async {
            while !done.load(Ordering::SeqCst) {
                larder.clock.advance(SECOND / 10);
                round_trip(&larder).await;
            }
        };
        let (answers, ()) = tokio::join!(answers, advance_clock);
        assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 503)));
        let calls = origin.calls();
        assert!(calls > requests, "there were retries");
        assert!(calls <= requests * 12 / 10 + 100, "{calls} calls for {requests} requests");
        let spent = "larder_upstream_refused_total{cause=\"retry-budget\",upstream=\"api\"}";
        assert!(larder.metric(spent) > 0.0, "the budget refused further retries");
    })
    .await;
}

#[tokio::test]
async fn every_retry_and_every_stale_response_is_logged_with_its_reason() {
    let limits = AtomicUsize::new(1);
    let origin = Origin::start(move |seen| match seen.field("cache-control") {
        Some(_) => MockResponse::new(503, &[], "down"),
        None if limits.fetch_sub(1, Ordering::SeqCst) == 1 => too_many_requests(&[]),
        None => ok("here"),
    })
    .await;
    let free = "version: 1\nlisten: 127.0.0.1:0\nadmin: { listen: 127.0.0.1:0 }\n";
    let resolve = format!("resolve: {{ api.example.test: \"{}\" }}\n", origin.addr);
    let fast = "retry: { backoff: { initial: 10ms } }";
    let file = format!("{free}log: {{ format: json }}\n{resolve}{}", yaml("", &[fast]));
    let (larder, _files) = Process::run(&file).await;
    let mut client = Client::connect(larder.addr().await).await;
    let url = format!("{API}/x");
    assert_eq!(client.get(&url, &[]).await.text(), "here");
    let retried = larder.err.wait_for_line("Call to origin retried").await;
    for part in ["\"upstream\":\"api\"", "\"route\":\"api\"", "\"reason\":\"rate-limited\"", "\"wait\":0.0"] {
        assert!(retried.contains(part), "{part}: {retried}");
    }
    assert_eq!(client.get(&url, &["Cache-Control: no-cache"]).await.text(), "here");
    let stale = larder.err.wait_for_line("Stale response served").await;
    for part in ["\"route\":\"api\"", "\"reason\":\"server-error\""] {
        assert!(stale.contains(part), "{part}: {stale}");
    }
}

#[tokio::test]
async fn a_reload_loses_no_waiting_request_and_makes_no_retry_earlier() {
    bounded(async {
        let origin = Origin::start(in_order(vec![too_many_requests(&["Retry-After: 5"]), ok("here")])).await;
        let file = yaml("", &[]);
        let larder = Larder::start(&origin, &file).await;
        let before = start_get(&larder, "/x", &[]).await;
        larder.wait_until("the retry waits", |larder| larder.clock.sleepers() == 1).await;
        larder.reload(&origin, &file).await.unwrap();
        let after = start_get(&larder, "/y", &[]).await;
        larder.wait_until("both wait", |larder| larder.clock.sleepers() == 2).await;
        expect_next_call(&larder, &origin, 5 * SECOND, 5 * SECOND).await;
        for pending in [before, after] {
            assert_eq!(pending.await.unwrap().text(), "here");
        }
        assert_eq!(origin.calls(), 3);
    })
    .await;
}

#[tokio::test]
async fn a_larder_that_goes_offline_while_a_retry_waits_makes_no_call() {
    bounded(async {
        let origin = Origin::always(too_many_requests(&["Retry-After: 5"])).await;
        let larder = Larder::start(&origin, &yaml("", &[])).await;
        let pending = start_get(&larder, "/x", &[]).await;
        larder.wait_until("the retry waits", |larder| larder.clock.sleepers() == 1).await;
        larder.server.admin_api().set_mode(Mode::Offline);
        larder.clock.advance(5 * SECOND);
        let answer = pending.await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (429, "slow down"));
        assert_eq!(origin.calls(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_retry_that_the_breaker_would_block_is_not_waited_for() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(503, &[], "down")).await;
        let breaker = "breaker: { failures: 1, within: 30s, open_for: 60s }";
        let larder = Larder::start(&origin, &yaml(breaker, &[])).await;
        let answer = larder.get("/cold").await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (503, "down"),
            "the origin's error, without a wait"
        );
        assert_eq!((origin.calls(), api_status(&larder).retries.0), (1, 0), "no retry is counted");
    })
    .await;
}

/// Sends a request and advances the clock through its retries, whose number is returned.
async fn count_retries(larder: &Larder, origin: &Origin, method: &str, path: &str) -> usize {
    let calls = origin.calls();
    let mut client = larder.client().await;
    client.send_request(method, &format!("{API}{path}"), &[]).await;
    let method = method.to_owned();
    let request = tokio::spawn(async move { client.response(&method).await.expect("a response") });
    let (answer, _) = advance_until_response(larder, request, SECOND / 2).await;
    assert_eq!(answer.status, 503);
    origin.calls() - calls - 1
}

/// An SDK that retries by itself would multiply larder's retries by its own.
#[tokio::test]
async fn after_failed_retries_a_request_is_one_call_until_the_cooldown_is_over() {
    bounded(async {
        for method in ["GET", "HEAD"] {
            let origin = Origin::always(MockResponse::new(503, &[], "down")).await;
            let larder = Larder::start(&origin, &yaml("", &[])).await;
            let retries = async |path: &str| count_retries(&larder, &origin, method, path).await;
            assert_eq!(retries("/x").await, 3, "{method}");
            assert_eq!([retries("/x").await, retries("/x").await], [0, 0], "{method}");
            assert_eq!(retries("/other").await, 3, "another key");
            larder.clock.advance(31 * SECOND);
            assert_eq!(retries("/x").await, 3, "the cooldown is over");
        }
    })
    .await;
}

/// An SDK whose timeout is shorter than larder's retries leaves and tries again.
#[tokio::test]
async fn a_client_that_leaves_during_retries_ends_and_pauses_them() {
    bounded(async {
        for method in ["GET", "HEAD"] {
            let origin = Origin::always(MockResponse::new(503, &[], "down")).await;
            let larder = Larder::start(&origin, &yaml("", &[])).await;
            let mut client = larder.client().await;
            client.send_request(method, &format!("{API}/x"), &[]).await;
            expect_next_call(&larder, &origin, MIN_BACKOFF, MAX_BACKOFF).await;
            larder.wait_until("the next retry waits", |larder| larder.clock.sleepers() == 1).await;
            drop(client);
            larder.wait_until("it no longer waits", |larder| larder.clock.sleepers() == 0).await;
            assert_eq!(count_retries(&larder, &origin, method, "/x").await, 0, "{method}");
            assert_eq!(origin.calls(), 3, "{method}");
        }
    })
    .await;
}

/// An SDK that signs its calls (`SigV4`) sends other fields with each of its tries.
#[tokio::test]
async fn the_pause_of_retries_is_for_all_credentials() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(503, &[], "down")).await;
        let text = yaml("", &[]).replace("scope: shared", "scope: credential");
        let larder = Larder::start(&origin, &text).await;
        assert_eq!(count_retries(&larder, &origin, "GET", "/x").await, 3);
        let calls = origin.calls();
        for signature in ["a", "b", "c"] {
            let fields = [&*format!("Authorization: AWS4-HMAC-SHA256 Signature={signature}")];
            assert_eq!(larder.get_with("/x", &fields).await.status, 503);
        }
        assert_eq!(origin.calls(), calls + 3);
    })
    .await;
}

#[tokio::test]
async fn a_success_ends_the_pause_of_retries() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(503, &[], "down")).await;
        let larder = Larder::start(&origin, &yaml("", &["ttl: origin"])).await;
        assert_eq!(count_retries(&larder, &origin, "GET", "/x").await, 3);
        origin.set_script(|_| ok("back"));
        assert_eq!(larder.get("/x").await.text(), "back");
        origin.set_script(|_| MockResponse::new(503, &[], "down"));
        assert_eq!(count_retries(&larder, &origin, "GET", "/x").await, 3);
    })
    .await;
}

/// Three failing families put their origin into a cooldown; from then on a new key of it has no retries either.
#[tokio::test]
async fn an_origin_whose_retries_have_failed_gets_one_call_for_each_request() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(503, &[], "down")).await;
        let larder = Larder::start(&origin, &yaml("", &["retry: { backoff: { initial: 100ms } }"])).await;
        for family in 0..3 {
            for endpoint in ["a", "b", "c"] {
                for key in 1..=3 {
                    let path = format!("/family-{family}/{endpoint}/{key}");
                    count_retries(&larder, &origin, "GET", &path).await;
                }
            }
        }
        assert_eq!(count_retries(&larder, &origin, "GET", "/new/key").await, 0);
    })
    .await;
}

#[tokio::test]
async fn an_api_that_forbids_a_retry_gets_one_call() {
    bounded(async {
        for (status, field) in [(503, "x-should-retry: false"), (429, "Stripe-Should-Retry: false")] {
            let origin = Origin::always(MockResponse::new(status, &[field], "no")).await;
            let larder = Larder::start(&origin, &yaml("", &[])).await;
            let answer = larder.get("/x").await;
            assert_eq!((answer.status, answer.text().as_str()), (status, "no"), "{field}");
            assert_eq!((origin.calls(), larder.clock.sleepers()), (1, 0), "{field}");
        }
    })
    .await;
}

#[tokio::test]
async fn should_retry_true_repeats_nothing_that_the_policy_does_not() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(409, &["x-should-retry: true"], "no")).await;
        let larder = Larder::start(&origin, &yaml("", &[])).await;
        assert_eq!(larder.get("/x").await.status, 409);
        assert_eq!((origin.calls(), larder.clock.sleepers()), (1, 0));
    })
    .await;
}

#[tokio::test]
async fn retry_after_ms_is_waited_for() {
    bounded(async {
        let script = vec![too_many_requests(&["retry-after-ms: 300", "Retry-After: 1"]), ok("here")];
        let origin = Origin::start(in_order(script)).await;
        let larder = Larder::start(&origin, &yaml("", &[])).await;
        let pending = start_get(&larder, "/x", &[]).await;
        let wait = Duration::from_millis(300);
        expect_next_call(&larder, &origin, wait, wait).await;
        assert_eq!(pending.await.unwrap().text(), "here");
    })
    .await;
}

#[tokio::test]
async fn an_overloaded_api_is_retried_like_one_that_is_unavailable() {
    bounded(async {
        let script = vec![MockResponse::new(529, &["Retry-After: 2"], "overloaded"), ok("here")];
        let origin = Origin::start(in_order(script)).await;
        let larder = Larder::start(&origin, &yaml("", &[])).await;
        let pending = start_get(&larder, "/x", &[]).await;
        expect_next_call(&larder, &origin, 2 * SECOND, 2 * SECOND).await;
        let answer = pending.await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "here"));
        assert!(answer.cache_status().contains("retried/server-error"), "{}", answer.cache_status());
    })
    .await;
}
