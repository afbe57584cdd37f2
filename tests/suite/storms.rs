//! The API says no: what clients get, how often it is asked, and when.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use larder::policy::Mode;
use parking_lot::Mutex;

use crate::client::Client;
use crate::crowd::{Crowd, bounded};
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Answer, Gate, Origin};
use crate::process::Process;
use crate::storm::{
    SECOND, api, asking, class, gets, holds, in_order, limited, next_call, settled, since, turned,
    yaml,
};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// 8 of 10 and 12 of 10: the jitter of the first back-off.
const SHORT: Duration = Duration::from_millis(800);
const LONG: Duration = Duration::from_millis(1200);

fn ok(body: &str) -> Answer {
    Answer::new(200, &[], body)
}

/// A larder that has `/x` as `old`, stale by a second.
async fn warm(origin: &Origin, yaml: &str) -> Larder {
    origin.now(|_| ok("old"));
    let larder = Larder::start(origin, yaml).await;
    assert_eq!(larder.get("/x").await.text(), "old");
    larder.clock.advance(61 * SECOND);
    larder
}

async fn nowhere() -> Origin {
    Origin::always(Answer::closed()).await
}

/// What UPS-07 lets an origin say, and when larder comes back: not before and not after; `None`: it
/// does not wait for that.
fn words(larder: &Larder) -> Vec<(String, Option<(Duration, Duration)>)> {
    let guess = Some((SHORT, LONG));
    let date = httpdate::fmt_http_date(larder.clock.now() + 5 * SECOND);
    let half = Duration::from_millis(1500);
    vec![
        ("1".to_owned(), Some((SECOND, SECOND))),
        (date, Some((5 * SECOND, 5 * SECOND))),
        ("-5".to_owned(), guess),
        ("999999999".to_owned(), None),
        ("abc".to_owned(), guess),
        ("1.5".to_owned(), Some((half, half))),
    ]
}

/// A larder and its origin for each word.
async fn for_each_word() -> Vec<(Origin, Larder, String, Option<(Duration, Duration)>)> {
    let mut all = Vec::new();
    for place in 0..6 {
        let origin = nowhere().await;
        let larder = warm(&origin, &yaml("", &[])).await;
        let (word, wait) = words(&larder).swap_remove(place);
        all.push((origin, larder, word, wait));
    }
    all
}

#[tokio::test]
async fn ups_07_a_cold_key_comes_back_when_retry_after_says_and_not_in_31_years() {
    bounded(async {
        for (origin, larder, word, wait) in for_each_word().await {
            let field = format!("Retry-After: {word}");
            origin.now(in_order(vec![limited(&[&field]), ok("here")]));
            let asked = asking(&larder, "/cold", &[]).await;
            let Some((from, to)) = wait else {
                let answer = asked.await.unwrap();
                assert_eq!((answer.status, answer.text().as_str()), (429, "slow down"));
                assert_eq!(answer.field("retry-after"), Some(word.as_str()), "as it came");
                assert_eq!(origin.calls(), 2);
                continue;
            };
            next_call(&larder, &origin, from, to).await;
            let answer = asked.await.unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (200, "here"), "{word}");
        }
    })
    .await;
}

#[tokio::test]
async fn ups_07_an_origin_that_never_relents_is_asked_four_times_at_most() {
    bounded(async {
        for (origin, larder, word, _) in for_each_word().await {
            let field = format!("Retry-After: {word}");
            origin.now(move |_| limited(&[&field]));
            let asked = asking(&larder, "/cold", &[]).await;
            let (answer, took) = turned(&larder, asked, Duration::from_millis(250)).await;
            assert_eq!((answer.status, answer.text().as_str()), (429, "slow down"), "{word}");
            assert_eq!(answer.field("retry-after"), Some(word.as_str()), "as it came");
            assert!(origin.calls() <= 1 + 4, "{word}: {}", origin.calls());
            assert!(took <= 17 * SECOND, "{word}: {took:?} with a budget of 15 s");
        }
    })
    .await;
}

#[tokio::test]
async fn ups_07_a_warm_key_is_stale_at_once_whatever_retry_after_says() {
    bounded(async {
        for (origin, larder, word, _) in for_each_word().await {
            let field = format!("Retry-After: {word}");
            origin.now(move |_| limited(&[&field]));
            let begun = larder.clock.now();
            assert_eq!(larder.get("/x").await.text(), "old", "{word}");
            assert_eq!(since(&larder, begun), Duration::ZERO);
            for _ in 0..80 {
                larder.clock.advance(SECOND / 4);
                settled(&larder).await;
            }
            assert!(origin.calls() <= 1 + 4, "{word}: {}", origin.calls());
            assert_eq!(larder.get("/x").await.text(), "old", "{word}");
        }
    })
    .await;
}

#[tokio::test]
async fn ups_07_a_word_of_31_years_is_believed_for_an_hour() {
    bounded(async {
        let origin = nowhere().await;
        let larder = warm(&origin, &yaml("", &[])).await;
        origin.now(|_| limited(&["Retry-After: 999999999"]));
        let first = larder.get("/x").await;
        assert!(first.cache_status().contains("fwd-status=429"), "{}", first.cache_status());
        larder.clock.advance(59 * MINUTE);
        origin.now(|_| ok("new"));
        let held = larder.get("/x").await;
        assert!(held.cache_status().contains("stale-if-error/cooldown-quota"), "{:?}", held.fields);
        assert_eq!(class(&larder.get("/cold").await), "quota_spent");
        larder.clock.advance(59 * SECOND);
        assert_eq!(larder.get("/x").await.text(), "old");
        assert_eq!(origin.calls(), 2);
        larder.clock.advance(SECOND);
        assert_eq!(larder.get("/x").await.text(), "new");
    })
    .await;
}

#[tokio::test]
async fn a_cold_key_that_is_429_twice_waits_as_it_is_told_and_is_answered() {
    bounded(async {
        let twice = vec![limited(&["Retry-After: 2"]), limited(&["Retry-After: 3"]), ok("here")];
        let origin = Origin::start(in_order(twice)).await;
        let larder = Larder::start(&origin, &yaml("", &[])).await;
        let asked = asking(&larder, "/x", &[]).await;
        next_call(&larder, &origin, 2 * SECOND, 2 * SECOND).await;
        next_call(&larder, &origin, 3 * SECOND, 3 * SECOND).await;
        let answer = asked.await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "here"));
        let expected = "larder; fwd=uri-miss; fwd-status=200; stored; ttl=60; \
                        detail=\"retried/rate-limited\"";
        assert_eq!(answer.cache_status(), expected);
        let retries = "larder_upstream_retries_total{cause=\"rate-limited\",upstream=\"api\"}";
        larder.counts(retries, 2.0).await;
        let limits = "larder_upstream_rate_limited_total{class=\"rate-limited\",upstream=\"api\"}";
        larder.counts(limits, 2.0).await;
    })
    .await;
}

#[tokio::test]
async fn without_a_word_of_the_origin_the_waits_double_and_the_last_429_is_its_own() {
    bounded(async {
        let origin = Origin::always(limited(&["X-Own: kept"])).await;
        let larder = Larder::start(&origin, &yaml("", &[])).await;
        let asked = asking(&larder, "/x", &[]).await;
        for factor in [1, 2, 4] {
            next_call(&larder, &origin, factor * SHORT, factor * LONG).await;
        }
        let answer = asked.await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (429, "slow down"));
        assert_eq!(answer.field("x-own"), Some("kept"));
        assert_eq!(answer.field("retry-after"), None, "none is made up");
        let expected = "larder; fwd=uri-miss; fwd-status=429; detail=\"retried/rate-limited\"";
        assert_eq!(answer.cache_status(), expected);
        assert_eq!(origin.calls(), 4);
    })
    .await;
}

#[tokio::test]
async fn what_the_plan_does_not_name_is_not_asked_again() {
    bounded(async {
        let origin = Origin::always(Answer::new(500, &[], "broken")).await;
        let larder = Larder::start(&origin, &yaml("", &["retry: { on: [429] }"])).await;
        let answer = larder.get("/x").await;
        assert_eq!((answer.status, answer.text().as_str()), (500, "broken"));
        assert_eq!((origin.calls(), larder.clock.sleepers()), (1, 0));
        assert!(!answer.cache_status().contains("detail"), "{}", answer.cache_status());
    })
    .await;
}

#[tokio::test]
async fn a_warm_key_is_answered_stale_while_the_retries_go_on_behind() {
    bounded(async {
        let origin = nowhere().await;
        let larder = warm(&origin, &yaml("", &[])).await;
        origin.now(in_order(vec![
            limited(&["Retry-After: 2"]),
            limited(&["Retry-After: 2"]),
            ok("new"),
        ]));
        let first = larder.get("/x").await;
        assert_eq!((first.status, first.text().as_str()), (200, "old"));
        let expected = "larder; fwd=stale; fwd-status=429; ttl=-1; \
                        detail=\"stale-if-error/rate-limited\"";
        assert_eq!(first.cache_status(), expected);
        let held = larder.get("/x").await;
        let expected = "larder; hit; ttl=-1; detail=\"stale-if-error/cooldown-rate-limited\"";
        assert_eq!((held.text().as_str(), held.cache_status()), ("old", expected));
        assert_eq!(holds(&larder), [("credential", "rate-limited", true)]);
        assert_eq!(origin.calls(), 2, "held: it is not asked");
        next_call(&larder, &origin, 2 * SECOND, 2 * SECOND).await;
        assert_eq!(larder.get("/x").await.text(), "old");
        next_call(&larder, &origin, 2 * SECOND, 2 * SECOND).await;
        let fresh = gets(&larder, "/x", "new").await;
        assert!(fresh.cache_status().starts_with("larder; hit; ttl=60"), "{:?}", fresh.fields);
        assert_eq!((origin.calls(), holds(&larder)), (4, Vec::new()));
        let served = "larder_stale_served_total{cause=\"rate-limited\",route=\"api\"}";
        larder.counts(served, 1.0).await;
    })
    .await;
}

#[tokio::test]
async fn fifty_clients_of_a_cold_key_wait_for_one_retry_however_long_it_takes() {
    bounded(async {
        const WAIT: Duration = Duration::from_millis(50);
        let origin = Origin::start(in_order(vec![limited(&["Retry-After: 1"]), ok("here")])).await;
        let larder = Larder::start(&origin, &yaml("", &["coalesce: { wait: 50ms }"])).await;
        let leader = asking(&larder, "/x", &[]).await;
        larder.until("the retry waits", |larder| larder.clock.sleepers() == 1).await;
        let crowd = Crowd::plain(&larder, 49, "/x").await;
        larder.waiting(50).await;
        // The patience of waiters is real time, and this test is about its end.
        tokio::time::sleep(4 * WAIT).await;
        assert_eq!(origin.calls(), 1, "nobody asks for himself");
        larder.clock.advance(SECOND);
        let mut answers = crowd.answers().await;
        answers.push(leader.await.unwrap());
        for answer in answers {
            assert_eq!((answer.status, answer.text().as_str()), (200, "here"));
        }
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_leader_that_goes_away_while_a_retry_waits_leaves_the_others_their_answer() {
    bounded(async {
        let origin = Origin::start(in_order(vec![limited(&["Retry-After: 1"]), ok("here")])).await;
        let larder = Larder::start(&origin, &yaml("", &[])).await;
        let mut leader = larder.client().await;
        leader.ask("GET", &format!("{API}/x"), &[]).await;
        larder.until("the retry waits", |larder| larder.clock.sleepers() == 1).await;
        let crowd = Crowd::plain(&larder, 3, "/x").await;
        larder.waiting(4).await;
        drop(leader);
        larder.waiting(3).await;
        next_call(&larder, &origin, SECOND, SECOND).await;
        for answer in crowd.answers().await {
            assert_eq!((answer.status, answer.text().as_str()), (200, "here"));
        }
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

#[tokio::test]
async fn fresh_for_an_hour_stale_for_a_day_then_honestly_gone() {
    bounded(async {
        let origin = Origin::always(ok("here")).await;
        let larder = Larder::start(&origin, &yaml("", &["ttl: 1h", "retry: off"])).await;
        larder.get("/x").await;
        origin.now(|_| Answer::new(502, &[], "gone"));
        larder.clock.advance(3599 * SECOND);
        let fresh = larder.get("/x").await;
        assert_eq!(fresh.cache_status(), "larder; hit; ttl=1");
        larder.clock.advance(24 * HOUR);
        let stale = larder.get("/x").await;
        assert_eq!((stale.status, stale.text().as_str()), (200, "here"));
        assert!(stale.cache_status().contains("ttl=-86399"), "{}", stale.cache_status());
        larder.clock.advance(SECOND);
        let gone = larder.get("/x").await;
        assert_eq!((gone.status, gone.text().as_str()), (502, "gone"), "the origin's own");
        assert_eq!(gone.cache_status(), "larder; fwd=stale; fwd-status=502");
    })
    .await;
}

/// UPS-08: what retries add is bounded by what all calls of the API are.
#[tokio::test]
async fn ups_08_half_of_the_calls_fail_and_retries_add_a_fifth_at_most() {
    bounded(async {
        let targets = Arc::new(Mutex::new(HashSet::new()));
        let (asked, coin) = (Arc::clone(&targets), AtomicBool::new(false));
        let origin = Origin::start(move |seen| {
            asked.lock().insert(seen.target.clone());
            let fails = coin.fetch_xor(true, Ordering::SeqCst);
            if fails { Answer::new(503, &[], "half down") } else { ok("here") }
        })
        .await;
        let larder = Larder::start(&origin, &yaml("", &[])).await;
        let (mut crowds, mut requests) = (Vec::new(), 0);
        for step in 0..50 {
            crowds.push(Crowd::plain_each(&larder, 20, &format!("/{step}")).await);
            requests += 20;
            larder.until("all are there", |_| targets.lock().len() == requests).await;
            larder.clock.advance(SECOND / 10);
        }
        let done = Arc::new(AtomicBool::new(false));
        let answers = async {
            let mut answers = Vec::new();
            for crowd in crowds {
                answers.extend(crowd.answers().await);
            }
            done.store(true, Ordering::SeqCst);
            answers
        };
        let hand = async {
            while !done.load(Ordering::SeqCst) {
                larder.clock.advance(SECOND / 10);
                settled(&larder).await;
            }
        };
        let (answers, ()) = tokio::join!(answers, hand);
        assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 503)));
        let calls = origin.calls();
        assert!(calls > requests, "there were retries");
        assert!(calls <= requests * 12 / 10 + 10, "{calls} calls for {requests} requests");
        let spent = "larder_upstream_refused_total{cause=\"retry-budget\",upstream=\"api\"}";
        assert!(larder.metric(spent) > 0.0, "and more were wished for");
    })
    .await;
}

/// The ways in which an origin is away.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outage {
    Refused,
    Closed,
    Unavailable,
    Silent,
}

impl Outage {
    async fn begin(self, origin: &Origin) {
        origin.now(move |_| match self {
            Self::Refused | Self::Closed => Answer::closed(),
            Self::Unavailable => Answer::new(503, &[], "down"),
            Self::Silent => Answer::hung(),
        });
        if self == Self::Refused {
            origin.close().await;
        }
    }
}

/// Ten minutes without an origin: every key, every minute, then twenty clients for each at once.
async fn outage(how: Outage) {
    const KEYS: usize = 20;
    let origin = Origin::always(ok("old")).await;
    let addr = origin.addr.to_string();
    let timeouts = "timeouts: { first_byte: 300ms }";
    let larder = Larder::start(&origin, &yaml(timeouts, &[])).await;
    for key in 0..KEYS {
        assert_eq!(larder.get(&format!("/{key}")).await.text(), "old");
    }
    how.begin(&origin).await;
    larder.clock.advance(MINUTE);
    for minute in 0..10 {
        for key in 0..KEYS {
            let answer = larder.get(&format!("/{key}")).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "old"), "{how:?} {minute}");
        }
        larder.clock.advance(MINUTE);
    }
    // A call that hangs still would begin another hold when it ends.
    larder.until("no call is under way", |larder| api(larder).in_flight == 0).await;
    larder.clock.advance(MINUTE);
    let calls = origin.calls() - KEYS;
    assert!(calls <= 60, "{how:?}: {calls} calls for {} requests", 10 * KEYS);
    let fetched: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let counted = Arc::clone(&fetched);
    let healed = move |target: &str| {
        *counted.lock().entry(target.to_owned()).or_default() += 1;
        ok("new")
    };
    let origin = if how == Outage::Refused {
        Origin::start_at(&addr, move |seen| healed(&seen.target)).await
    } else {
        origin.now(move |seen| healed(&seen.target));
        origin
    };
    let mut crowds = Vec::new();
    for key in 0..KEYS {
        crowds.push(Crowd::plain(&larder, 20, &format!("/{key}")).await);
    }
    for crowd in crowds {
        assert!(crowd.answers().await.iter().all(|answer| answer.status == 200), "{how:?}");
    }
    larder.clock.advance(MINUTE / 2);
    for key in 0..KEYS {
        gets(&larder, &format!("/{key}"), "new").await;
    }
    let fetched = fetched.lock();
    assert!(fetched.len() == KEYS && fetched.values().all(|&calls| calls == 1), "{fetched:?}");
    drop(origin);
}

#[tokio::test]
async fn ups_11_an_origin_that_refuses_for_ten_minutes_is_not_noticed() {
    bounded(outage(Outage::Refused)).await;
}

#[tokio::test]
async fn ups_11_an_origin_that_closes_for_ten_minutes_is_not_noticed() {
    bounded(outage(Outage::Closed)).await;
}

#[tokio::test]
async fn ups_11_an_origin_that_is_503_for_ten_minutes_is_not_noticed() {
    bounded(outage(Outage::Unavailable)).await;
}

#[tokio::test]
async fn ups_11_an_origin_that_is_silent_for_ten_minutes_is_not_noticed() {
    bounded(outage(Outage::Silent)).await;
}

#[tokio::test]
async fn in_an_outage_a_head_too_is_answered_from_what_is_stale() {
    bounded(async {
        let origin = nowhere().await;
        let larder = warm(&origin, &yaml("", &[])).await;
        origin.now(|_| limited(&["Retry-After: 60"]));
        assert_eq!(larder.get("/x").await.text(), "old");
        let mut client = larder.client().await;
        client.ask("HEAD", &format!("{API}/x"), &[]).await;
        let head = client.answer("HEAD").await.unwrap();
        assert_eq!((head.status, head.field("content-length")), (200, Some("3")));
        let expected = "larder; hit; ttl=-1; detail=\"stale-if-error/cooldown-rate-limited\"";
        assert_eq!(head.cache_status(), expected);
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

#[tokio::test]
async fn in_an_outage_every_kind_of_get_of_a_warm_key_is_answered() {
    bounded(async {
        let cases: [(&[&str], u16, &str); 7] = [
            (&[], 200, "old"),
            (&["If-None-Match: \"v1\""], 304, ""),
            (&["If-None-Match: \"v2\""], 200, "old"),
            (&["Range: bytes=0-1"], 206, "ol"),
            (&["Cache-Control: no-cache"], 200, "old"),
            (&["Cache-Control: max-age=0"], 200, "old"),
            (&["Pragma: no-cache"], 200, "old"),
        ];
        for held in [false, true] {
            for (fields, status, body) in &cases {
                let origin = Origin::always(Answer::new(200, &["ETag: \"v1\""], "old")).await;
                let larder = Larder::start(&origin, &yaml("", &[])).await;
                larder.get("/x").await;
                larder.clock.advance(61 * SECOND);
                origin.now(|_| limited(&["Retry-After: 60"]));
                if held {
                    larder.get("/x").await;
                }
                let answer = larder.get_with("/x", fields).await;
                assert_eq!((answer.status, answer.text().as_str()), (*status, *body), "{fields:?}");
                let told = answer.cache_status();
                assert!(told.contains("stale-if-error") && told.contains("rate-limited"), "{told}");
                assert_eq!(told.contains("; hit"), held, "{told}");
                assert_eq!(origin.calls(), 2);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn waiters_share_the_last_429_whatever_may_be_stale() {
    bounded(async {
        let on_5xx = "stale_if_error: { on: [5xx] }";
        for policy in [&[][..], &[on_5xx]] {
            let origin = Origin::always(limited(&["Retry-After: 2", "X-Own: kept"])).await;
            let larder = Larder::start(&origin, &yaml("", policy)).await;
            let leader = asking(&larder, "/x", &[]).await;
            larder.until("the retry waits", |larder| larder.clock.sleepers() == 1).await;
            let crowd = Crowd::plain(&larder, 20, "/x").await;
            larder.waiting(21).await;
            for _ in 0..3 {
                next_call(&larder, &origin, 2 * SECOND, 2 * SECOND).await;
            }
            let mut answers = crowd.answers().await;
            answers.push(leader.await.unwrap());
            for answer in answers {
                assert_eq!((answer.status, answer.text().as_str()), (429, "slow down"));
                assert_eq!(answer.field("retry-after"), Some("2"), "as it came");
                assert_eq!(answer.field("x-own"), Some("kept"));
            }
            assert_eq!(origin.calls(), 4);
        }
    })
    .await;
}

// ---- what larder does by itself, and says

fn refused(cause: &str) -> String {
    format!("larder_upstream_refused_total{{cause=\"{cause}\",upstream=\"api\"}}")
}

#[tokio::test]
async fn an_open_breaker_is_told_everywhere_survives_a_reload_and_one_call_closes_it() {
    bounded(async {
        let origin = nowhere().await;
        let file = yaml("breaker: { failures: 3, within: 30s, open_for: 40s }", &["retry: off"]);
        let larder = warm(&origin, &file).await;
        assert_eq!(api(&larder).breaker, Some("closed"));
        origin.now(|_| Answer::new(503, &[], "down"));
        for path in ["/a", "/b", "/c"] {
            assert_eq!(larder.get(path).await.text(), "down", "the origin's own");
        }
        let open = larder.get("/d").await;
        assert_eq!((open.status, class(&open).as_str()), (503, "breaker_open"));
        assert_eq!(open.field("retry-after"), Some("40"));
        assert_eq!(open.cache_status(), "larder; detail=\"refused/breaker\"");
        assert_eq!(api(&larder).breaker, Some("open"));
        assert!(holds(&larder).contains(&("upstream", "breaker", true)), "{:?}", api(&larder));
        larder.counts(&refused("breaker"), 1.0).await;
        let stale = larder.get("/x").await;
        assert!(stale.cache_status().ends_with("detail=\"stale-if-error/breaker\""), "{stale:?}");
        larder.reload(&origin, &file).await.unwrap();
        assert_eq!(class(&larder.get("/d").await), "breaker_open");
        assert_eq!(origin.calls(), 4);
        larder.clock.advance(40 * SECOND);
        assert_eq!(api(&larder).breaker, Some("half-open"));
        let gate = Gate::new();
        let answer = ok("new").after(&gate);
        origin.now(move |_| answer.clone());
        let probe = asking(&larder, "/e", &[]).await;
        origin.reached(5).await;
        let refused = asking(&larder, "/f", &[]).await;
        larder.until("it waits for the probe", |larder| larder.clock.sleepers() > 0).await;
        larder.clock.advance(2 * SECOND);
        assert_eq!(class(&refused.await.unwrap()), "breaker_open", "one call tries");
        gate.open();
        assert_eq!(probe.await.unwrap().text(), "new");
        assert_eq!(api(&larder).breaker, Some("closed"));
        assert_eq!(larder.get("/f").await.text(), "new");
    })
    .await;
}

#[tokio::test]
async fn a_probe_that_fails_opens_the_breaker_again() {
    bounded(async {
        let origin = Origin::always(Answer::new(503, &[], "down")).await;
        let breaker = "breaker: { failures: 2, within: 30s, open_for: 30s }";
        let larder = Larder::start(&origin, &yaml(breaker, &["retry: off"])).await;
        for path in ["/a", "/b"] {
            larder.get(path).await;
        }
        for probe in 1..=3 {
            assert_eq!(class(&larder.get("/c").await), "breaker_open");
            larder.clock.advance(30 * SECOND);
            assert_eq!(larder.get("/c").await.text(), "down");
            assert_eq!(origin.calls(), 2 + probe);
        }
    })
    .await;
}

/// A request with a body, which passes through.
async fn post(larder: &Larder, path: &str) -> crate::client::Response {
    posting(larder, path).await.answer("POST").await.expect("an answer")
}

#[tokio::test]
async fn the_ban_guard_counts_what_passes_through_and_stops_before_the_ban() {
    bounded(async {
        let origin = nowhere().await;
        let guard = "ban_guard: { statuses: [401, 403, 429], limit: 10/10m }";
        let file = yaml(guard, &["retry: off"]);
        let larder = warm(&origin, &file).await;
        origin.now(|_| Answer::new(403, &[], "no"));
        for call in 0..8 {
            let answer =
                if call % 2 == 0 { post(&larder, "/w").await } else { larder.get("/c").await };
            assert_eq!((answer.status, answer.text().as_str()), (403, "no"), "{call}");
        }
        assert_eq!(api(&larder).ban_guard, Some((8, 8)));
        larder.reload(&origin, &file).await.unwrap();
        for answer in [post(&larder, "/w").await, larder.get("/c").await] {
            assert_eq!((answer.status, class(&answer).as_str()), (429, "ban_guard"));
            assert_eq!(answer.cache_status(), "larder; detail=\"refused/invalid-requests\"");
            let after: u64 = answer.field("retry-after").unwrap().parse().unwrap();
            assert!((600..=660).contains(&after), "{after}");
        }
        let stale = larder.get("/x").await;
        assert!(stale.cache_status().ends_with("\"stale-if-error/invalid-requests\""));
        assert_eq!(origin.calls(), 9);
        assert!(holds(&larder).contains(&("upstream", "ban-guard", true)));
        larder.counts(&refused("ban-guard"), 2.0).await;
        larder.clock.advance(11 * MINUTE);
        origin.now(|_| ok("new"));
        assert_eq!(post(&larder, "/w").await.text(), "new");
        assert_eq!(api(&larder).ban_guard, Some((0, 8)));
    })
    .await;
}

#[tokio::test]
async fn a_pace_lets_calls_wait_for_their_turn_and_refuses_those_that_would_wait_too_long() {
    bounded(async {
        let origin = Origin::always(ok("here")).await;
        let rate_limit = "rate_limit: { limit: 2/10s, max_wait: 10s }";
        let larder = Larder::start(&origin, &yaml(rate_limit, &["retry: off"])).await;
        larder.get("/a").await;
        larder.get("/b").await;
        assert_eq!(api(&larder).limits[0].left, 0);
        let mut waiting = Vec::new();
        for place in 0..2 {
            waiting.push(asking(&larder, &format!("/c{place}"), &[]).await);
            larder.until("it waits", |larder| api(larder).waiting == place + 1).await;
        }
        let late = larder.get("/d").await;
        assert_eq!((late.status, class(&late).as_str()), (429, "paced"));
        assert_eq!(late.field("retry-after"), Some("20"));
        assert_eq!(late.cache_status(), "larder; detail=\"refused/rate_limit\"");
        larder.counts(&refused("rate_limit"), 1.0).await;
        assert_eq!(origin.calls(), 2);
        larder.clock.advance(10 * SECOND);
        for asked in waiting {
            let answer = asked.await.unwrap();
            let expected = "larder; fwd=uri-miss; fwd-status=200; stored; ttl=60; \
                            detail=\"waited/rate_limit\"";
            assert_eq!(answer.cache_status(), expected);
        }
        larder
            .counts("larder_upstream_waits_total{cause=\"rate-limit\",upstream=\"api\"}", 3.0)
            .await;
    })
    .await;
}

#[tokio::test]
async fn who_waits_for_an_answer_stands_in_no_line_for_another() {
    bounded(async {
        const WAIT: Duration = Duration::from_millis(50);
        let origin = Origin::always(ok("here")).await;
        let rate_limit = "rate_limit: { limit: 1/10s, max_wait: 15s }";
        let policy = ["retry: off", "coalesce: { wait: 50ms }"];
        let larder = Larder::start(&origin, &yaml(rate_limit, &policy)).await;
        larder.get("/a").await;
        let crowd = Crowd::plain(&larder, 10, "/x").await;
        larder.waiting(10).await;
        // The patience of waiters is real time, and this test is about its end.
        tokio::time::sleep(4 * WAIT).await;
        assert_eq!(api(&larder).waiting, 1, "the one call");
        larder.clock.advance(10 * SECOND);
        for answer in crowd.answers().await {
            assert_eq!((answer.status, answer.text().as_str()), (200, "here"));
        }
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

#[tokio::test]
async fn who_has_something_stale_does_not_wait_for_a_turn_in_vain() {
    bounded(async {
        let origin = nowhere().await;
        let rate_limit = "rate_limit: { limit: 2/10m, max_wait: 0s }";
        let larder = warm(&origin, &yaml(rate_limit, &["retry: off"])).await;
        larder.get("/b").await;
        let stale = larder.get("/x").await;
        assert_eq!((stale.status, stale.text().as_str()), (200, "old"));
        let expected = "larder; hit; ttl=-1; detail=\"stale-if-error/rate_limit\"";
        assert_eq!(stale.cache_status(), expected);
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

#[tokio::test]
async fn calls_in_flight_are_capped_on_both_ways_out() {
    bounded(async {
        let gate = Gate::new();
        let slow = ok("here").after(&gate);
        let origin = Origin::always(slow).await;
        let rate_limit = "rate_limit: { in_flight: 2, max_wait: 1s }";
        let larder = Larder::start(&origin, &yaml(rate_limit, &["retry: off"])).await;
        let first = [asking(&larder, "/a", &[]).await, asking(&larder, "/b", &[]).await];
        origin.reached(2).await;
        let third = asking(&larder, "/c", &[]).await;
        larder.until("it waits", |larder| api(larder).waiting == 1).await;
        assert_eq!(api(&larder).in_flight, 2);
        larder.clock.advance(SECOND);
        let third = third.await.unwrap();
        assert_eq!((third.status, class(&third).as_str()), (503, "in_flight"));
        assert_eq!(third.cache_status(), "larder; detail=\"refused/in-flight\"");
        larder.counts(&refused("in-flight"), 1.0).await;
        let posted = {
            let mut client = posting(&larder, "/w").await;
            tokio::spawn(async move { client.answer("POST").await })
        };
        larder.until("it waits", |larder| api(larder).waiting == 1).await;
        gate.open();
        let posted = posted.await.unwrap().unwrap();
        assert_eq!((posted.status, posted.text().as_str()), (200, "here"));
        assert!(posted.cache_status().contains("waited/in-flight"), "{posted:?}");
        for asked in first {
            assert_eq!(asked.await.unwrap().status, 200);
        }
    })
    .await;
}

#[tokio::test]
async fn when_a_hold_ends_one_call_goes_ahead_and_the_others_follow_it() {
    bounded(async {
        let origin = Origin::always(limited(&["Retry-After: 5"])).await;
        let larder = Larder::start(&origin, &yaml("", &[])).await;
        let first = asking(&larder, "/a", &[]).await;
        larder.until("the retry waits", |larder| larder.clock.sleepers() == 1).await;
        let crowds = [Crowd::plain(&larder, 10, "/b").await, Crowd::plain(&larder, 10, "/c").await];
        larder.until("all wait", |larder| larder.clock.sleepers() == 3).await;
        larder.waiting(21).await;
        // The probe fails: nobody else has asked.
        next_call(&larder, &origin, 5 * SECOND, 5 * SECOND).await;
        larder.until("all wait", |larder| larder.clock.sleepers() == 3).await;
        assert_eq!(origin.calls(), 2);
        let gate = Gate::new();
        let answer = ok("here").after(&gate);
        origin.now(move |_| answer.clone());
        next_call(&larder, &origin, 5 * SECOND, 5 * SECOND).await;
        settled(&larder).await;
        assert_eq!(origin.calls(), 3, "the others wait for its answer");
        gate.open();
        assert_eq!(first.await.unwrap().text(), "here");
        for crowd in crowds {
            assert!(crowd.answers().await.iter().all(|answer| answer.text() == "here"));
        }
        assert_eq!(origin.calls(), 5);
    })
    .await;
}

#[tokio::test]
async fn the_log_tells_of_every_retry_and_every_stale_answer_and_why() {
    let limits = AtomicUsize::new(1);
    let origin = Origin::start(move |seen| match seen.field("cache-control") {
        Some(_) => Answer::new(503, &[], "down"),
        None if limits.fetch_sub(1, Ordering::SeqCst) == 1 => limited(&[]),
        None => ok("here"),
    })
    .await;
    let free = "version: 1\nlisten: 127.0.0.1:0\nadmin: { listen: 127.0.0.1:0 }\n";
    let resolve = format!("resolve: {{ api.example.test: \"{}\" }}\n", origin.addr);
    let fast = "retry: { backoff: { initial: 10ms } }";
    let file = format!("{free}log: {{ format: json }}\n{resolve}{}", yaml("", &[fast]));
    let (larder, _house) = Process::run(&file).await;
    let mut client = Client::connect(larder.addr().await).await;
    let url = format!("{API}/x");
    assert_eq!(client.get(&url, &[]).await.text(), "here");
    let retried = larder.err.line("Call to origin retried").await;
    for part in
        ["\"upstream\":\"api\"", "\"route\":\"api\"", "\"cause\":\"rate-limited\"", "\"wait\":0.0"]
    {
        assert!(retried.contains(part), "{part}: {retried}");
    }
    assert_eq!(client.get(&url, &["Cache-Control: no-cache"]).await.text(), "here");
    let stale = larder.err.line("Stale answer served").await;
    for part in ["\"route\":\"api\"", "\"cause\":\"server-error\""] {
        assert!(stale.contains(part), "{part}: {stale}");
    }
}

#[tokio::test]
async fn a_reload_while_retries_wait_loses_nobody_and_asks_no_sooner() {
    bounded(async {
        let origin = Origin::start(in_order(vec![limited(&["Retry-After: 5"]), ok("here")])).await;
        let file = yaml("", &[]);
        let larder = Larder::start(&origin, &file).await;
        let before = asking(&larder, "/x", &[]).await;
        larder.until("the retry waits", |larder| larder.clock.sleepers() == 1).await;
        larder.reload(&origin, &file).await.unwrap();
        let after = asking(&larder, "/y", &[]).await;
        larder.until("both wait", |larder| larder.clock.sleepers() == 2).await;
        next_call(&larder, &origin, 5 * SECOND, 5 * SECOND).await;
        for asked in [before, after] {
            assert_eq!(asked.await.unwrap().text(), "here");
        }
        assert_eq!(origin.calls(), 3);
    })
    .await;
}

#[tokio::test]
async fn a_larder_that_goes_offline_while_a_retry_waits_makes_no_call() {
    bounded(async {
        let origin = Origin::always(limited(&["Retry-After: 5"])).await;
        let larder = Larder::start(&origin, &yaml("", &[])).await;
        let asked = asking(&larder, "/x", &[]).await;
        larder.until("the retry waits", |larder| larder.clock.sleepers() == 1).await;
        larder.server.controls().set_mode(Mode::Offline);
        larder.clock.advance(5 * SECOND);
        let answer = asked.await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (429, "slow down"));
        assert_eq!(origin.calls(), 1);
    })
    .await;
}

/// The request of a client that passes through, with the client.
async fn posting(larder: &Larder, path: &str) -> Client {
    let mut client = larder.client().await;
    let head = format!("POST {API}{path} HTTP/1.1\r\nHost: api.example.test\r\n");
    client.send(format!("{head}Content-Length: 2\r\n\r\nhi")).await;
    client
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_its_place_and_its_probe_to_its_call() {
    bounded(async {
        let (origin, gate) = (nowhere().await, Gate::new());
        let keys =
            "rate_limit: { in_flight: 1, max_wait: 0s }, breaker: { failures: 1, open_for: 30s }";
        let larder = Larder::start(&origin, &yaml(keys, &["retry: off"])).await;
        origin.now(|_| Answer::new(503, &[], "down"));
        assert_eq!(post(&larder, "/w").await.text(), "down");
        assert_eq!(api(&larder).breaker, Some("open"));
        larder.clock.advance(30 * SECOND);
        let release = gate.clone();
        origin.now(move |_| ok("here").after(&release));
        let probe = posting(&larder, "/w").await;
        origin.reached(2).await;
        assert_eq!(class(&post(&larder, "/w").await), "breaker_open", "one call tries");
        drop(probe);
        larder.counts("larder_requests_total{result=\"error\",route=\"none\"}", 2.0).await;
        assert_eq!(class(&post(&larder, "/w").await), "breaker_open", "it still does");
        assert_eq!((api(&larder).in_flight, origin.calls()), (1, 2));
        gate.open();
        larder.until("it is answered", |larder| api(larder).in_flight == 0).await;
        assert_eq!(api(&larder).breaker, Some("closed"));
        assert_eq!(post(&larder, "/w").await.text(), "here");
    })
    .await;
}

#[tokio::test]
async fn a_learned_limit_is_kept_to_before_the_origin_says_no() {
    bounded(async {
        let left = Arc::new(AtomicUsize::new(2));
        let counted = Arc::clone(&left);
        let origin = Origin::start(move |_| {
            let left = counted.load(Ordering::SeqCst).saturating_sub(1);
            counted.store(left, Ordering::SeqCst);
            let left = format!("X-RateLimit-Remaining: {left}");
            let fields = [
                "X-RateLimit-Limit: 2",
                &left,
                "X-RateLimit-Reset-After: 1.500",
                "X-RateLimit-Bucket: b",
            ];
            Answer::new(200, &fields, "here")
        })
        .await;
        let larder =
            Larder::start(&origin, &yaml("rate_limit: { learn: true, max_wait: 2s }", &[])).await;
        for path in ["/things?n=1", "/things?n=2"] {
            assert_eq!(larder.get(path).await.status, 200);
        }
        let third = asking(&larder, "/things?n=3", &[]).await;
        left.store(2, Ordering::SeqCst);
        let wait = Duration::from_millis(1500);
        next_call(&larder, &origin, wait, wait).await;
        let answer = third.await.unwrap();
        assert!(answer.cache_status().contains("detail=\"waited/rate_limit\""), "{answer:?}");
        assert!(api(&larder).limits.iter().any(|limit| limit.limit == 2), "{:?}", api(&larder));
    })
    .await;
}

#[tokio::test]
async fn the_end_of_a_spent_quota_is_believed_for_longer_than_max_hold() {
    bounded(async {
        let origin = nowhere().await;
        let larder = warm(&origin, &yaml("", &["stale_if_error: { max_cooldown: 10m }"])).await;
        let reset = larder.clock.now() + 2 * HOUR;
        let reset = reset.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let reset = format!("X-RateLimit-Reset: {reset}");
        origin.now(move |_| Answer::new(403, &["X-RateLimit-Remaining: 0", &reset], "no more"));
        let first = larder.get("/x").await;
        assert!(
            first
                .cache_status()
                .contains("fwd-status=403; ttl=-1; detail=\"stale-if-error/quota\""),
            "{first:?}"
        );
        assert_eq!(class(&larder.get("/cold").await), "quota_spent");
        larder.clock.advance(HOUR);
        let cold = larder.get("/cold").await;
        assert_eq!(
            (class(&cold).as_str(), cold.field("retry-after")),
            ("quota_spent", Some("3600"))
        );
        assert_eq!(origin.calls(), 2);
        larder.clock.advance(HOUR);
        origin.now(|_| ok("new"));
        assert_eq!(larder.get("/cold").await.text(), "new");
    })
    .await;
}

#[tokio::test]
async fn a_limit_that_others_used_up_holds_its_key_alone_and_leads_to_no_ban() {
    bounded(async {
        let guard = "ban_guard: { statuses: [429], limit: 4/10m, trip_at: 0.5 }";
        let origin = Origin::start(|seen| match seen.target.as_str() {
            "/shared" => limited(&["Retry-After: 30", "X-RateLimit-Scope: shared"]),
            _ => ok("here"),
        })
        .await;
        let larder = Larder::start(&origin, &yaml(guard, &["retry: off"])).await;
        assert_eq!(larder.get("/shared").await.text(), "slow down");
        assert_eq!(class(&larder.get("/shared").await), "rate_limited");
        assert_eq!(larder.get("/other").await.text(), "here");
        assert_eq!(holds(&larder), [("key", "shared-limit", true)]);
        assert_eq!(api(&larder).ban_guard, Some((0, 2)));
    })
    .await;
}

// ---- two users

/// Everybody gets what is theirs; while `limited` only A is told off.
fn two_users(limits: &Arc<AtomicUsize>) -> impl Fn(&crate::origin::Seen) -> Answer + use<> {
    let limits = Arc::clone(limits);
    move |seen| {
        let who = seen.field("authorization").unwrap_or("nobody").to_owned();
        let left = limits.load(Ordering::SeqCst);
        if who == "A" && left > 0 {
            limits.fetch_sub(1, Ordering::SeqCst);
            return limited(&["Retry-After: 5"]);
        }
        ok(&format!("of {who}"))
    }
}

const A: &str = "Authorization: A";
const B: &str = "Authorization: B";

#[tokio::test]
async fn one_users_429_is_not_anothers_and_nobody_gets_what_is_anothers() {
    bounded(async {
        let limits = Arc::new(AtomicUsize::new(0));
        let origin = Origin::start(two_users(&limits)).await;
        let lines = format!("defaults: {{ coalesce: {{ wait: 10s }} }}\n{}", route(&["ttl: 1m"]));
        let larder = Larder::start(&origin, &lines).await;
        limits.store(1, Ordering::SeqCst);
        let leader = asking(&larder, "/x", &[A]).await;
        larder.until("the retry waits", |larder| larder.clock.sleepers() == 1).await;
        let waiters = [asking(&larder, "/x", &[A]).await, asking(&larder, "/x", &[A]).await];
        larder.waiting(3).await;
        for path in ["/x", "/y", "/x"] {
            assert_eq!(larder.get_with(path, &[B]).await.text(), "of B");
        }
        next_call(&larder, &origin, 5 * SECOND, 5 * SECOND).await;
        for asked in [leader].into_iter().chain(waiters) {
            assert_eq!(asked.await.unwrap().text(), "of A");
        }
        // Both are stale now; A is told off again, and shown its own.
        larder.clock.advance(2 * MINUTE);
        limits.store(9, Ordering::SeqCst);
        for path in ["/x", "/x"] {
            let a = larder.get_with(path, &[A]).await;
            assert!(a.cache_status().contains("stale-if-error") && a.text() == "of A", "{a:?}");
            let b = larder.get_with(path, &[B]).await;
            assert!(!b.cache_status().contains("stale-if-error") && b.text() == "of B", "{b:?}");
        }
        // A third user has nothing, and is asked for.
        assert_eq!(larder.get_with("/x", &["Authorization: C"]).await.text(), "of C");
    })
    .await;
}

#[tokio::test]
async fn an_origin_that_is_down_shows_each_user_their_own_and_a_stranger_nothing() {
    bounded(async {
        let limits = Arc::new(AtomicUsize::new(0));
        let origin = Origin::start(two_users(&limits)).await;
        let lines = format!(
            "defaults: {{ coalesce: {{ wait: 10s }} }}\n{}",
            route(&["ttl: 1m", "retry: off"])
        );
        let larder = Larder::start(&origin, &lines).await;
        for who in [A, B] {
            larder.get_with("/x", &[who]).await;
        }
        larder.clock.advance(2 * MINUTE);
        origin.now(|_| Answer::new(503, &[], "down"));
        for _ in 0..2 {
            assert_eq!(larder.get_with("/x", &[A]).await.text(), "of A");
            assert_eq!(larder.get_with("/x", &[B]).await.text(), "of B");
            for stranger in [&["Authorization: C"][..], &[]] {
                let answer = larder.get_with("/x", stranger).await;
                assert_eq!((answer.status, answer.text().as_str()), (503, "down"));
            }
        }
    })
    .await;
}

#[tokio::test]
async fn who_may_not_be_shown_what_is_stale_is_not_kept_back_for_its_sake() {
    bounded(async {
        let origin = nowhere().await;
        // Nothing stale takes the place of a connection that fails, only of a 5xx.
        let policy = ["retry: off", "stale_if_error: { for: 24h, on: [5xx] }"];
        let larder = warm(&origin, &yaml("timeouts: { first_byte: 300ms }", &policy)).await;
        origin.now(|_| Answer::hung());
        assert_eq!(larder.get("/x").await.status, 504, "the origin was asked");
        assert!(holds(&larder).contains(&("key", "timeout", false)), "{:?}", api(&larder));
        origin.now(|_| ok("new"));
        let after = larder.get("/x").await;
        assert_eq!((after.status, after.text().as_str()), (200, "new"), "and is asked again");
    })
    .await;
}

#[tokio::test]
async fn a_retry_that_nobody_would_let_through_is_not_waited_for() {
    bounded(async {
        let origin = Origin::always(Answer::new(503, &[], "down")).await;
        let breaker = "breaker: { failures: 1, within: 30s, open_for: 60s }";
        let larder = Larder::start(&origin, &yaml(breaker, &[])).await;
        let answer = larder.get("/cold").await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (503, "down"),
            "the origin's own, at once"
        );
        assert_eq!((origin.calls(), api(&larder).retries.0), (1, 0), "and none is counted");
    })
    .await;
}
