//! The gate on a clock that the tests turn: who passes, who waits for how long, who is refused.

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tokio::task::JoinHandle;
use xxhash_rust::xxh3::xxh3_64;

use super::*;
use crate::config::env::Env;
use crate::config::{self, Upstream};
use crate::policy::upstream::{
    BanGuardRule, CircuitBreaker, Cost, CostBudget, CreditSource, JsonRule, OutcomeClass,
    OverBudgetAction, Period, Rate, RateLimitKind,
};
use crate::policy::{Policy, StatusMatch};
use crate::semantics::json_path::JsonPath;
use crate::semantics::redaction::Redactor;
use crate::semantics::target::Target;
use crate::telemetry::log::captured::CapturedLog;
use crate::upstream::admission::call::CallAudience;
use crate::upstream::error::UpstreamError;
use crate::upstream::routing::UpstreamTable;

const SECOND: Duration = Duration::from_secs(1);
const LIMITED: RejectReason =
    RejectReason::Failed(OutcomeClass::RateLimited(RateLimitKind::Minute));

struct Bench {
    gate: AdmissionControl,
    clock: Clock,
    place: UpstreamTarget,
}

impl Bench {
    /// An upstream that is treated like this.
    fn new(conduct: UpstreamPolicy) -> Self {
        let yaml = "{ version: 1, upstreams: { api: { hosts: [api.example] } } }";
        let config = config::parse("proxy.yaml", yaml, &Env::default()).unwrap();
        let mut upstream: Arc<Upstream> = Arc::clone(&config.upstreams[0]);
        Arc::make_mut(&mut upstream).conduct = conduct;
        let clock = Clock::by_hand(SystemTime::UNIX_EPOCH + SECOND * 1_800_000_000);
        let account = Telemetry::new(&["route".into()], &["api".into()]);
        let gate = AdmissionControl::new(account, Arc::default(), clock.clone());
        let place = UpstreamTable::new(vec![upstream]).place(&target("/"));
        Self { gate, clock, place }
    }

    async fn enter(&self, knock: CallContext) -> Result<Permit, Rejection> {
        self.gate.acquire(&self.place, knock).await
    }

    /// In the background, until it waits or is through.
    async fn entering(&self, knock: CallContext) -> JoinHandle<Result<Permit, Rejection>> {
        let (gate, place) = (self.gate.clone(), self.place.clone());
        let before = self.clock.sleepers();
        let entering = tokio::spawn(async move { gate.acquire(&place, knock).await });
        while self.clock.sleepers() == before && !entering.is_finished() {
            tokio::task::yield_now().await;
        }
        entering
    }

    /// A call that is answered at once.
    async fn answered(&self, knock: CallContext, status: u16, fields: &[(&'static str, &str)]) {
        let mut pass = self.enter(knock).await.expect("it passes");
        answer(&mut pass, status, fields);
    }

    fn metric(&self, line: &str) -> bool {
        self.gate.account.render().contains(line)
    }
}

fn answer(pass: &mut Permit, status: u16, fields: &[(&'static str, &str)]) {
    let fields = fields.iter().map(|(name, value)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
    });
    pass.answered(StatusCode::from_u16(status).unwrap(), &fields.collect(), None);
}

fn target(path: &str) -> Target {
    Target::absolute(&format!("http://api.example{path}")).unwrap()
}

fn knock(path: &str) -> CallContext {
    CallContext::new(0, &Policy::origin(), &Method::GET, &target(path), 0)
}

fn keyed(key: u128) -> CallContext {
    CallContext { key: Some(key), ..knock("/") }
}

fn yielding(key: u128) -> CallContext {
    CallContext { yields: true, ..keyed(key) }
}

fn patient(path: &str, patience: Duration) -> CallContext {
    CallContext { patience, ..knock(path) }
}

fn refused(entered: Result<Permit, Rejection>) -> Rejection {
    entered.err().expect("it is refused")
}

async fn done(entering: JoinHandle<Result<Permit, Rejection>>) -> Result<Permit, Rejection> {
    entering.await.expect("the gate does not panic")
}

#[tokio::test]
async fn a_rate_limit_holds_its_credential_for_as_long_as_it_says() {
    let bench = Bench::new(UpstreamPolicy::default());
    bench.answered(knock("/"), 429, &[("retry-after", "7")]).await;
    let held = refused(bench.enter(knock("/other")).await);
    assert_eq!(held, Rejection { cause: LIMITED, left: 7 * SECOND });
    let other = CallContext { credential: 5, ..knock("/") };
    assert!(bench.enter(other).await.is_ok(), "another credential has another limit");
    bench.clock.advance(7 * SECOND);
    assert!(bench.enter(knock("/other")).await.is_ok());
    assert!(
        bench.metric(
            "larder_upstream_rate_limited_total{class=\"rate-limited\",upstream=\"api\"} 1"
        )
    );
    assert!(bench.metric(
        "larder_upstream_refused_total{cause=\"cooldown-rate-limited\",upstream=\"api\"} 1"
    ));
}

#[tokio::test]
async fn nobody_is_believed_who_asks_for_more_than_max_hold_unless_it_is_a_quota() {
    let bench = Bench::new(UpstreamPolicy::default());
    bench.answered(knock("/"), 429, &[("retry-after", "999999999")]).await;
    assert_eq!(refused(bench.enter(knock("/")).await).left, 3600 * SECOND);
    let bench = Bench::new(UpstreamPolicy::default());
    let quota = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1800010000")];
    bench.answered(knock("/"), 403, &quota).await;
    assert_eq!(refused(bench.enter(knock("/")).await).left, 10_000 * SECOND);
}

#[tokio::test]
async fn a_rate_limit_without_a_word_holds_for_one_two_and_four_seconds() {
    for word in
        [&[][..], &[("retry-after", "0")], &[("retry-after", "-5")], &[("retry-after", "abc")]]
    {
        let bench = Bench::new(UpstreamPolicy::default());
        for seconds in [1, 2, 4, 8] {
            bench.answered(knock("/"), 429, word).await;
            assert_eq!(refused(bench.enter(knock("/")).await).left, seconds * SECOND, "{word:?}");
            bench.clock.advance(seconds * SECOND);
        }
        bench.answered(knock("/"), 200, &[]).await;
        bench.answered(knock("/"), 429, word).await;
        assert_eq!(refused(bench.enter(knock("/")).await).left, SECOND, "it begins anew");
    }
}

#[tokio::test]
async fn who_has_time_waits_for_the_end_of_a_hold() {
    let bench = Bench::new(UpstreamPolicy::default());
    bench.answered(knock("/"), 429, &[("retry-after", "2")]).await;
    let waiting = bench.entering(patient("/", 15 * SECOND)).await;
    assert_eq!(refused(bench.enter(patient("/", SECOND)).await).left, 2 * SECOND);
    bench.clock.advance(2 * SECOND);
    let pass = done(waiting).await.expect("it was its turn");
    assert_eq!(pass.waited(), Some(LIMITED));
}

#[tokio::test]
async fn when_a_hold_is_over_one_call_goes_ahead_and_the_others_wait_for_its_answer() {
    let bench = Bench::new(UpstreamPolicy::default());
    bench.answered(knock("/"), 429, &[("retry-after", "2")]).await;
    bench.clock.advance(2 * SECOND);
    let mut probe = bench.enter(knock("/")).await.expect("the probe");
    assert_eq!(refused(bench.enter(knock("/")).await).left, Duration::ZERO);
    let waiting = bench.entering(patient("/", 15 * SECOND)).await;
    answer(&mut probe, 429, &[("retry-after", "3")]);
    assert_eq!(refused(bench.enter(knock("/")).await).left, 3 * SECOND, "it was renewed");
    while bench.clock.sleepers() == 0 {
        tokio::task::yield_now().await;
    }
    bench.clock.advance(3 * SECOND);
    let mut second = done(waiting).await.expect("the next probe");
    assert!(bench.enter(knock("/")).await.is_err());
    answer(&mut second, 200, &[]);
    assert!(bench.enter(knock("/")).await.is_ok() && bench.enter(knock("/")).await.is_ok());
}

#[tokio::test]
async fn a_probe_that_is_given_up_leaves_its_place_to_the_next() {
    let bench = Bench::new(UpstreamPolicy::default());
    bench.answered(knock("/"), 429, &[("retry-after", "2")]).await;
    bench.clock.advance(2 * SECOND);
    let probe = bench.enter(knock("/")).await.expect("the probe");
    let waiting = bench.entering(patient("/", 15 * SECOND)).await;
    drop(probe);
    assert!(done(waiting).await.is_ok());
}

#[tokio::test]
async fn a_call_that_its_client_holds_up_gives_its_probe_and_its_place_to_others() {
    let mut conduct = UpstreamPolicy::default();
    (conduct.rate_limit.in_flight, conduct.rate_limit.max_wait) = (1, 5 * SECOND);
    let bench = Bench::new(conduct);
    bench.answered(knock("/"), 429, &[("retry-after", "2")]).await;
    bench.clock.advance(2 * SECOND);
    let mut slow = bench.enter(knock("/")).await.expect("the probe");
    let waiting = bench.entering(patient("/", 15 * SECOND)).await;
    slow.step_aside();
    let mut probe = done(waiting).await.expect("there is room, and it is the probe");
    // The one that stepped aside leaves no second place free.
    answer(&mut slow, 200, &[]);
    answer(&mut probe, 200, &[]);
    let _one = bench.enter(knock("/")).await.expect("there is room for one");
    assert!(!bench.entering(knock("/")).await.is_finished());
}

/// Or clients that hold calls up and leave would leave any number of them behind.
#[tokio::test]
async fn a_call_that_goes_on_without_its_client_is_among_the_others_again() {
    let mut conduct = UpstreamPolicy::default();
    (conduct.rate_limit.in_flight, conduct.rate_limit.max_wait) = (1, 5 * SECOND);
    let bench = Bench::new(conduct);
    let mut left = bench.enter(knock("/")).await.expect("there is room");
    assert!(!left.outlives_its_client(false), "half a request, and no guard that counts");
    left.step_aside();
    let mut other = bench.enter(knock("/")).await.expect("there is room");
    assert!(left.outlives_its_client(true));
    answer(&mut other, 200, &[]);
    let waiting = bench.entering(knock("/")).await;
    assert!(!waiting.is_finished());
    answer(&mut left, 200, &[]);
    done(waiting).await.expect("there is room");
}

/// A client may make up credentials without end.
#[tokio::test]
async fn made_up_credentials_do_not_reset_the_limit_of_one_that_is_at_it() {
    let mut conduct = UpstreamPolicy::default();
    conduct.rate_limit.limit = Some(Rate { count: 2, per: 86_400 * SECOND });
    conduct.rate_limit.max_wait = Duration::ZERO;
    let bench = Bench::new(conduct);
    let of = |credential| CallContext { credential, ..knock("/") };
    for _ in 0..2 {
        bench.answered(of(1), 200, &[]).await;
    }
    for credential in 2..=4_096 {
        for _ in 0..2 {
            bench.answered(of(credential), 200, &[]).await;
        }
    }
    // Those that come later share one limit, rather than reset those of others.
    let mut more = 0;
    for credential in 4_097..5_000 {
        more += usize::from(bench.enter(of(credential)).await.is_ok());
    }
    assert_eq!(more, 2);
    assert_eq!(refused(bench.enter(of(1)).await).cause, RejectReason::Pace);
    // Once their windows are over, others have room.
    bench.clock.advance(86_400 * SECOND);
    assert!(bench.enter(of(20_000)).await.is_ok() && bench.enter(of(1)).await.is_ok());
}

#[tokio::test]
async fn one_failing_key_is_held_alone_and_three_in_a_row_speak_for_their_endpoint() {
    let bench = Bench::new(UpstreamPolicy::default());
    for key in 1..=2 {
        bench.answered(keyed(key), 503, &[]).await;
        let held =
            bench.gate.check_admission(&bench.place, &yielding(key)).expect("its own failure");
        assert_eq!(
            held,
            Rejection { cause: RejectReason::Failed(OutcomeClass::Server), left: 30 * SECOND }
        );
        assert_eq!(bench.gate.check_admission(&bench.place, &yielding(9)), None);
        assert!(bench.enter(keyed(key)).await.is_ok(), "who has nothing stale asks");
    }
    bench.answered(keyed(3), 500, &[]).await;
    assert!(bench.gate.check_admission(&bench.place, &yielding(9)).is_some());
    assert!(bench.enter(keyed(9)).await.is_ok(), "who has nothing stale asks");
    bench.answered(keyed(9), 200, &[]).await;
    assert_eq!(bench.gate.check_admission(&bench.place, &yielding(8)), None, "it is back");
    assert!(bench.gate.check_admission(&bench.place, &yielding(1)).is_some(), "that one is not");
}

/// Those that still fail always come first.
#[tokio::test]
async fn one_that_failed_and_is_well_again_has_its_turn_however_often_others_ask() {
    for paths in [["/x?a", "/x?b", "/x?c"], ["/v/a", "/v/b", "/v/c"], ["/a", "/b", "/c"]] {
        let bench = Bench::new(UpstreamPolicy::default());
        let yielding = |n: usize| {
            let key = Some(n as u128);
            CallContext { key, yields: true, ..knock(paths[n]) }
        };
        for n in 0..3 {
            bench.answered(yielding(n), 503, &[]).await;
        }
        let mut seconds = 0;
        loop {
            for n in [0, 1] {
                if bench.gate.check_admission(&bench.place, &yielding(n)).is_none() {
                    bench.answered(yielding(n), 503, &[]).await;
                }
            }
            if seconds % 2 == 0 && bench.gate.check_admission(&bench.place, &yielding(2)).is_none()
            {
                break;
            }
            bench.clock.advance(SECOND);
            seconds += 1;
            assert!(seconds < 160, "{paths:?}: five holds");
        }
    }
}

/// They were heard once, and have nothing new to say of the others.
#[tokio::test]
async fn endpoints_that_always_fail_do_not_keep_the_others_from_coming_back() {
    let bench = Bench::new(UpstreamPolicy::default());
    let broken = ["/a", "/b", "/c"];
    let all = async |status| {
        for (key, path) in (1..).zip(broken) {
            bench.answered(CallContext { key: Some(key), ..knock(path) }, status, &[]).await;
        }
    };
    let well = || CallContext { key: Some(9), yields: true, ..knock("/well") };
    all(503).await;
    assert!(bench.gate.check_admission(&bench.place, &well()).is_some());
    for _ in 0..10 {
        bench.clock.advance(3 * SECOND);
        all(503).await;
    }
    assert_eq!(bench.gate.check_admission(&bench.place, &well()), None, "30 seconds are over");
    // One of them comes as the probe first, and leaves its place to the next.
    bench.clock.advance(30 * SECOND);
    bench.answered(CallContext { yields: true, key: Some(1), ..knock("/a") }, 503, &[]).await;
    bench.answered(well(), 200, &[]).await;
    // Beside one that is well they never speak for the origin again.
    for _ in 0..10 {
        bench.clock.advance(40 * SECOND);
        all(503).await;
        assert_eq!(bench.gate.check_admission(&bench.place, &well()), None);
    }
    // Once they have been well they may.
    all(200).await;
    all(503).await;
    assert!(bench.gate.check_admission(&bench.place, &well()).is_some());
}

/// It fails under ever new keys, and is one endpoint all the same.
#[tokio::test]
async fn one_endpoint_that_fails_for_every_id_is_heard_once() {
    let bench = Bench::new(UpstreamPolicy::default());
    let broken = async |id: u128| {
        let path = format!("/broken/no-{id}");
        bench.answered(CallContext { key: Some(id), ..knock(&path) }, 500, &[]).await;
    };
    let well = || CallContext { key: Some(9), yields: true, ..knock("/well") };
    let mut stale = 0;
    for second in 0..300 {
        for n in 0..10 {
            broken(1_000 + second * 10 + n).await;
        }
        bench.clock.advance(SECOND);
        if bench.gate.check_admission(&bench.place, &well()).is_some() {
            stale += 1;
        } else {
            bench.answered(well(), 200, &[]).await;
        }
    }
    assert!(stale <= 30, "{stale} of 300");
}

/// What fails beside it: other paths with the same parent, with queries, with names that look like no ids.
#[tokio::test]
async fn an_endpoint_that_is_well_is_stale_for_one_hold_at_most_whatever_fails_beside_it() {
    type PathAt = fn(u128) -> String;
    let failing: [&[PathAt]; 5] = [
        &[|id| format!("/v1/bad?i={id}")],
        &[|id| format!("/v1/bad?i={}", id % 5)],
        &[|_| "/v1/a".into(), |_| "/v1/b".into(), |_| "/v1/c".into()],
        &[|_| "/v1/a".into(), |_| "/v2/b".into(), |_| "/v3/c".into(), |_| "/v4/d".into()],
        &[|id| format!("/v1/no-{}/stats", id % 50)],
    ];
    for (case, failing) in failing.into_iter().enumerate() {
        let bench = Bench::new(UpstreamPolicy::default());
        let well = || CallContext { key: Some(9), yields: true, ..knock("/v1/well") };
        let mut stale = 0;
        for second in 0..300 {
            for (n, path) in (0..).zip(failing) {
                let path = path(second);
                let key = Some(1_000 + u128::from(xxh3_64(path.as_bytes())) + n);
                let bad = CallContext { key, yields: second % 2 == 0, ..knock(&path) };
                if bench.gate.check_admission(&bench.place, &bad).is_none() {
                    bench.answered(bad, 503, &[]).await;
                }
            }
            bench.clock.advance(SECOND);
            if bench.gate.check_admission(&bench.place, &well()).is_some() {
                stale += 1;
            } else {
                bench.answered(well(), 200, &[]).await;
            }
        }
        assert!(stale <= 30, "case {case}: {stale} of 300");
    }
}

/// Once in thirty seconds somebody finds out whether it is back, however many want to know.
#[tokio::test]
async fn a_dead_origin_is_left_alone() {
    for path in [
        |_| "/all/alike".to_owned(),
        |key: u128| format!("/{}", ["a", "b", "c", "d"][key as usize % 4]),
    ] {
        let bench = Bench::new(UpstreamPolicy::default());
        let mut calls = 0;
        for second in 0..300 {
            for key in 0..40 {
                let knock = CallContext { key: Some(key), yields: true, ..knock(&path(key)) };
                if bench.gate.check_admission(&bench.place, &knock).is_none() {
                    calls += 1;
                    bench.answered(knock, 503, &[]).await;
                }
            }
            bench.clock.advance(SECOND);
            assert!(calls <= 6 + second / 30, "{calls} after {second} seconds");
        }
    }
}

#[tokio::test]
async fn an_origin_that_cannot_be_reached_is_held_at_once_for_all_its_keys() {
    let bench = Bench::new(UpstreamPolicy::default());
    let mut pass = bench.enter(keyed(1)).await.unwrap();
    pass.failed(UpstreamError::Refused);
    let held = bench.gate.check_admission(&bench.place, &yielding(9)).expect("all of it");
    assert_eq!(
        held,
        Rejection { cause: RejectReason::Failed(OutcomeClass::Network), left: 30 * SECOND }
    );
    let mut other = bench.place.clone();
    other.port = 8443;
    assert_eq!(
        bench.gate.check_admission(&other, &yielding(9)),
        None,
        "another port is another origin"
    );
}

#[tokio::test]
async fn what_larder_itself_did_is_held_against_nobody() {
    let bench = Bench::new(UpstreamPolicy::default());
    for failure in [UpstreamError::Abandoned, UpstreamError::Exhausted, UpstreamError::Internal] {
        bench.enter(keyed(1)).await.unwrap().failed(failure);
        drop(bench.enter(keyed(1)).await.unwrap());
    }
    assert_eq!(bench.gate.check_admission(&bench.place, &yielding(1)), None);
}

#[tokio::test]
async fn a_breaker_opens_for_everybody_and_one_call_tries_again() {
    let rule = CircuitBreaker { failures: 3, within: 30 * SECOND, open_for: 20 * SECOND };
    let bench = Bench::new(UpstreamPolicy { breaker: Some(rule), ..UpstreamPolicy::default() });
    for _ in 0..3 {
        bench.answered(keyed(1), 500, &[]).await;
    }
    let held = refused(bench.enter(keyed(2)).await);
    assert_eq!(held, Rejection { cause: RejectReason::Breaker, left: 20 * SECOND });
    assert_eq!(bench.gate.report(&[])[..], []);
    bench.clock.advance(20 * SECOND);
    bench.answered(keyed(2), 502, &[]).await;
    assert_eq!(refused(bench.enter(keyed(2)).await).left, 20 * SECOND, "it opened again");
    bench.clock.advance(20 * SECOND);
    bench.answered(keyed(2), 200, &[]).await;
    assert!(bench.enter(keyed(1)).await.is_ok());
}

/// Ten a minute lead to a ban; eight are borne.
fn ten_borne() -> BanGuardRule {
    let exact = |code| StatusMatch::Exact(StatusCode::from_u16(code).unwrap());
    BanGuardRule {
        statuses: [401, 403, 429].map(exact).to_vec(),
        limit: Rate { count: 10, per: 60 * SECOND },
        trip_at: 0.8,
    }
}

#[tokio::test]
async fn the_ban_guard_counts_every_call_and_stops_before_the_ban() {
    let bench =
        Bench::new(UpstreamPolicy { ban_guard: Some(ten_borne()), ..UpstreamPolicy::default() });
    // Of a route and of none, with one credential and another.
    for call in 0..8 {
        let knock = CallContext { governed: call % 2 == 0, credential: call, ..knock("/") };
        bench.answered(knock, 401, &[]).await;
    }
    let held = refused(bench.enter(knock("/")).await);
    assert_eq!(held.cause, RejectReason::InvalidRequests);
    bench.clock.advance(held.left);
    assert!(bench.enter(knock("/")).await.is_ok());
}

#[tokio::test]
async fn an_upstream_of_which_all_calls_are_held_back_is_named_once() {
    let breaker = CircuitBreaker { failures: 2, within: 60 * SECOND, open_for: 5 * SECOND };
    for (conduct, status, cause, seconds) in [
        (UpstreamPolicy { breaker: Some(breaker), ..UpstreamPolicy::default() }, 500, "breaker", 5),
        (
            UpstreamPolicy { ban_guard: Some(ten_borne()), ..UpstreamPolicy::default() },
            401,
            "ban-guard",
            61,
        ),
    ] {
        let (bench, written) = (Bench::new(conduct), CapturedLog::default());
        let _log = tracing::subscriber::set_default(written.log());
        for call in 0..8 {
            let passed = bench.enter(keyed(call)).await;
            if let Ok(mut pass) = passed {
                answer(&mut pass, status, &[]);
            }
        }
        bench.clock.advance(5 * SECOND);
        if let Ok(mut probe) = bench.enter(keyed(9)).await {
            answer(&mut probe, status, &[]);
        }
        let lines = written.lines();
        assert_eq!(lines.len(), 1, "{lines:?}");
        let (told, expected) = (&lines[0], (&"api".into(), &cause.into(), &seconds.into()));
        assert_eq!((&told["upstream"], &told["cause"], &told["seconds"]), expected);
    }
}

#[tokio::test]
async fn a_shared_limit_is_nobodys_fault_and_holds_its_resource_alone() {
    let bench = Bench::new(UpstreamPolicy::default());
    let shared =
        [("retry-after", "5"), ("x-ratelimit-scope", "shared"), ("x-ratelimit-remaining", "0")];
    bench.answered(keyed(1), 429, &shared).await;
    assert!(bench.enter(keyed(1)).await.is_err());
    assert!(bench.enter(keyed(2)).await.is_ok());
}

#[tokio::test]
async fn a_bucket_is_held_for_its_resource_and_other_buckets_go_on() {
    let bench = Bench::new(UpstreamPolicy::default());
    let bucket =
        [("retry-after", "5"), ("x-ratelimit-bucket", "abcd1234"), ("x-ratelimit-remaining", "0")];
    bench.answered(knock("/guilds/1000/roles"), 429, &bucket).await;
    assert!(bench.enter(knock("/guilds/1000/roles")).await.is_err());
    assert!(bench.enter(knock("/guilds/2000/roles")).await.is_ok(), "another guild");
    assert!(bench.enter(knock("/users/@me")).await.is_ok(), "another bucket");
    let global = [("retry-after", "5"), ("x-ratelimit-global", "true")];
    bench.answered(knock("/users/@me"), 429, &global).await;
    assert!(bench.enter(knock("/channels/7")).await.is_err(), "everything of this credential");
}

#[tokio::test]
async fn a_pace_lets_calls_out_in_their_order_and_refuses_who_would_wait_too_long() {
    let mut conduct = UpstreamPolicy::default();
    conduct.rate_limit.limit = Some(Rate { count: 2, per: SECOND });
    conduct.rate_limit.max_wait = 5 * SECOND;
    let bench = Bench::new(conduct);
    let mut out = Vec::new();
    for _ in 0..2 {
        out.push(bench.enter(knock("/")).await.expect("two at once"));
    }
    let third = bench.entering(knock("/")).await;
    let fourth = bench.entering(knock("/")).await;
    let background =
        bench.entering(CallContext { audience: CallAudience::nobody().into(), ..knock("/") }).await;
    let fifth = bench.entering(knock("/")).await;
    bench.clock.advance(SECOND);
    out.push(done(third).await.expect("the first in line"));
    out.push(done(fourth).await.expect("the second"));
    assert!(!fifth.is_finished() && !background.is_finished());
    bench.clock.advance(SECOND);
    let fifth = done(fifth).await.expect("clients before background work");
    assert_eq!(fifth.waited(), Some(RejectReason::Pace));
    assert_eq!(done(background).await.err(), None, "and that at last");
}

/// Slow uploads, as many as the guard bears: whoever sends them must not keep everybody else out.
#[tokio::test]
async fn a_call_that_its_client_holds_up_makes_way_where_others_wait_for_its_place() {
    let conduct = UpstreamPolicy { ban_guard: Some(ten_borne()), ..UpstreamPolicy::default() };
    let bench = Bench::new(conduct);
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut one = bench.enter(knock("/")).await.expect("eight are borne");
        one.step_aside();
        slow.push(one);
        bench.clock.advance(SECOND / 100);
    }
    let next = bench.entering(knock("/")).await;
    assert!(!next.is_finished(), "not so soon");
    bench.clock.advance(SECOND);
    let _next = done(next).await.expect("the place of the first that was slow");
    slow[0].way().expect("it is slow").notified().await;
    let second = bench.enter(knock("/")).await.expect("and that of the second");
    slow[1].way().expect("it is slow").notified().await;
    // What they are answered all the same counts, and they have no place any more.
    for mut left in slow.drain(..2) {
        assert!(left.outlives_its_client(false));
        answer(&mut left, 401, &[]);
    }
    drop(second);
    // Six are borne now, of which one has just begun.
    let _third = bench.enter(knock("/")).await.expect("two more make way");
    for left in &slow[..2] {
        left.way().expect("it is slow").notified().await;
    }
    assert_eq!(bench.gate.report(&[bench.place.upstream.clone().unwrap()])[0].in_flight, 2);
}

/// A fill whose clients have left, and a refresh that a client has joined.
#[tokio::test]
async fn a_place_in_line_is_that_of_who_waits_now() {
    let mut conduct = UpstreamPolicy::default();
    (conduct.rate_limit.in_flight, conduct.rate_limit.max_wait) = (1, 5 * SECOND);
    let bench = Bench::new(conduct);
    let audiences = [true, false].map(|is_there| {
        let audience = Arc::new(CallAudience::nobody());
        audience.is(is_there);
        audience
    });
    let mut out = bench.enter(knock("/")).await.expect("one at a time");
    let [left, joined] =
        audiences.clone().map(|audience| bench.entering(CallContext { audience, ..knock("/") }));
    let (left, joined) = (left.await, joined.await);
    let client = bench.entering(knock("/")).await;
    audiences[0].is(false);
    audiences[1].is(true);
    tokio::task::yield_now().await;
    for next in [client, joined, left] {
        answer(&mut out, 200, &[]);
        out = done(next).await.expect("its turn");
    }
}

#[tokio::test]
async fn who_gets_no_turn_in_time_is_told_when_there_is_one() {
    let mut conduct = UpstreamPolicy::default();
    conduct.rate_limit.limit = Some(Rate { count: 1, per: 60 * SECOND });
    let bench = Bench::new(conduct);
    let _first = bench.enter(knock("/")).await.expect("one a minute");
    let held = refused(bench.enter(knock("/")).await);
    assert_eq!(
        held,
        Rejection { cause: RejectReason::Pace, left: 60 * SECOND },
        "two seconds would not help"
    );
    assert!(bench.metric("larder_upstream_refused_total{cause=\"rate-limit\",upstream=\"api\"} 1"));
}

#[tokio::test]
async fn who_gives_up_waiting_leaves_its_place_in_the_line() {
    let mut conduct = UpstreamPolicy::default();
    (conduct.rate_limit.in_flight, conduct.rate_limit.max_wait) = (1, 5 * SECOND);
    let bench = Bench::new(conduct);
    let first = bench.enter(knock("/")).await.expect("one at a time");
    let gone = bench.entering(knock("/")).await;
    let next = bench.entering(knock("/")).await;
    gone.abort();
    assert!(gone.await.is_err());
    drop(first);
    assert!(done(next).await.is_ok());
    assert_eq!(bench.clock.sleepers(), 0);
}

#[tokio::test]
async fn no_more_calls_than_the_cap_wait_for_an_answer() {
    let mut conduct = UpstreamPolicy::default();
    conduct.rate_limit.in_flight = 2;
    let bench = Bench::new(conduct);
    let mut first = bench.enter(knock("/")).await.expect("one");
    let _second = bench.enter(knock("/")).await.expect("two");
    let third = bench.entering(knock("/")).await;
    assert!(!third.is_finished());
    answer(&mut first, 200, &[]);
    let third = done(third).await.expect("there is room");
    assert_eq!(third.waited(), Some(RejectReason::InFlight));
    let fourth = bench.entering(knock("/")).await;
    bench.clock.advance(2 * SECOND);
    assert_eq!(refused(done(fourth).await).cause, RejectReason::InFlight);
}

/// However many come at once, no ninth goes out before it is known what the eight came to.
#[tokio::test]
async fn no_more_calls_are_under_way_than_the_ban_guard_bears() {
    let bench =
        Bench::new(UpstreamPolicy { ban_guard: Some(ten_borne()), ..UpstreamPolicy::default() });
    let mut out = Vec::new();
    for _ in 0..8 {
        out.push(bench.enter(knock("/")).await.expect("one of eight"));
    }
    // A call that its client holds up can be answered so too.
    out[0].step_aside();
    out[0].step_aside();
    let ninth = bench.entering(knock("/")).await;
    assert!(!ninth.is_finished());
    answer(&mut out[1], 200, &[]);
    let mut ninth = done(ninth).await.expect("one has ended well");
    let tenth = bench.entering(patient("/", SECOND)).await;
    for pass in out.iter_mut().chain([&mut ninth]) {
        answer(pass, 401, &[]);
    }
    assert_eq!(refused(done(tenth).await).cause, RejectReason::InvalidRequests);
}

/// The head of its answer has come, and then its client is slow to take the body.
#[tokio::test]
async fn a_call_that_is_answered_gives_its_place_back_once() {
    let mut conduct = UpstreamPolicy::default();
    conduct.rate_limit.in_flight = 2;
    let path = JsonPath::parse("$.code").unwrap();
    conduct.rules.success = vec![JsonRule { path, values: vec![0.into()] }];
    let bench = Bench::new(conduct);
    let mut slow = bench.enter(knock("/")).await.expect("one");
    let _other = bench.enter(knock("/")).await.expect("two");
    slow.on_head_unread(StatusCode::OK, &HeaderMap::new());
    slow.step_aside();
    let _third = bench.enter(knock("/")).await.expect("in the place of the first");
    let fourth = bench.entering(knock("/")).await;
    assert!(!fourth.is_finished());
    fourth.abort();
}

#[tokio::test]
async fn a_learned_limit_is_kept_to_before_the_origin_has_to_say_so() {
    let mut conduct = UpstreamPolicy::default();
    conduct.rate_limit.learn = true;
    let bench = Bench::new(conduct);
    let told = [
        ("x-ratelimit-limit", "2"),
        ("x-ratelimit-remaining", "1"),
        ("x-ratelimit-reset-after", "1.5"),
    ];
    bench.answered(knock("/"), 200, &told).await;
    bench
        .answered(
            knock("/"),
            200,
            &[
                ("x-ratelimit-limit", "2"),
                ("x-ratelimit-remaining", "0"),
                ("x-ratelimit-reset-after", "1.5"),
            ],
        )
        .await;
    let waiting = bench.entering(knock("/")).await;
    assert!(!waiting.is_finished());
    bench.clock.advance(SECOND * 3 / 2);
    assert!(done(waiting).await.is_ok());
}

#[tokio::test]
async fn what_is_known_of_an_upstream_outlives_its_configuration() {
    let bench = Bench::new(UpstreamPolicy::default());
    bench.answered(knock("/"), 429, &[("retry-after", "7")]).await;
    let traffics = Arc::clone(&bench.gate.traffics);
    let account = bench.gate.account.renamed(&[], &["api".into()], Redactor::default());
    let reloaded = AdmissionControl::new(account, traffics, bench.clock.clone());
    assert_eq!(
        reloaded.check_admission(&bench.place, &knock("/")).map(|held| held.left),
        Some(7 * SECOND)
    );
}

#[tokio::test]
async fn hosts_that_are_made_up_push_no_word_of_an_api_out() {
    let bench = Bench::new(UpstreamPolicy::default());
    let host = |number: usize| {
        let target = Target::absolute(&format!("http://h{number}.test/")).unwrap();
        UpstreamTable::new(Vec::new()).place(&target)
    };
    let named = knock("/");
    let mut pass = bench.gate.acquire(&host(0), named.clone()).await.unwrap();
    answer(&mut pass, 429, &[("retry-after", "600")]);
    for number in 1..3_000 {
        let mut pass = bench.gate.acquire(&host(number), named.clone()).await.unwrap();
        pass.failed(UpstreamError::Refused);
    }
    assert!(bench.gate.check_admission(&host(0), &named).is_some());
    // Nor do so many others of which the API has said so, for less time.
    for number in 3_000..5_000 {
        let mut pass = bench.gate.acquire(&host(number), named.clone()).await.unwrap();
        answer(&mut pass, 429, &[("retry-after", "60")]);
    }
    assert!(bench.gate.check_admission(&host(0), &named).is_some());
    assert!(bench.gate.traffics.others().len() <= 1024);
}

#[tokio::test]
async fn hosts_that_nobody_named_are_never_kept_back() {
    let bench = Bench::new(UpstreamPolicy::default());
    let place = UpstreamTable::new(Vec::new()).place(&target("/"));
    let unknown = CallContext { governed: false, ..knock("/") };
    for _ in 0..20 {
        let mut pass = bench.gate.acquire(&place, unknown.clone()).await.expect("it passes");
        answer(&mut pass, 429, &[("retry-after", "60")]);
    }
    assert_eq!(bench.gate.check_admission(&place, &unknown), None);
    let routed = CallContext { governed: true, ..knock("/") };
    let mut pass = bench.gate.acquire(&place, routed.clone()).await.expect("it passes");
    answer(&mut pass, 429, &[("retry-after", "60")]);
    assert!(bench.gate.check_admission(&place, &routed).is_some(), "a route is a name");
}

#[tokio::test]
async fn the_retries_of_all_calls_are_a_fifth_of_them() {
    let bench = Bench::new(UpstreamPolicy::default());
    for _ in 0..100 {
        bench.answered(keyed(1), 503, &[]).await;
    }
    let spare = || bench.gate.try_acquire_retry(&bench.place, &keyed(1), "server-error", SECOND);
    assert_eq!((0..100).filter(|_| spare()).count(), 20);
    assert!(
        bench.metric("larder_upstream_retries_total{cause=\"server-error\",upstream=\"api\"} 20")
    );
    assert!(
        bench.metric("larder_upstream_refused_total{cause=\"retry-budget\",upstream=\"api\"} 80")
    );
}

#[tokio::test]
async fn the_report_shows_what_is_held_and_until_when() {
    let bench = Bench::new(UpstreamPolicy::default());
    for key in 1..=3 {
        bench.answered(keyed(key), 503, &[]).await;
    }
    bench.answered(knock("/"), 429, &[("retry-after", "7")]).await;
    let upstream = bench.place.upstream.clone().unwrap();
    let report = bench.gate.report(&[upstream]).remove(0);
    let shown: Vec<_> = report
        .holds
        .iter()
        .map(|held| (held.reach, held.cause, held.firm, held.left.as_secs(), held.count))
        .collect();
    let expected = [
        ("credential", "rate-limited", true, 7, 1),
        ("endpoint", "server-error", false, 30, 1),
        ("key", "server-error", false, 30, 3),
    ];
    assert_eq!(shown, expected);
}

// ---- reservations and bills

/// A budget of so many credits a day; each call costs one, or what its answer says.
fn budgeted(credits: CreditSource, day: f64) -> Bench {
    let budget = CostBudget {
        credits: day,
        period: Period::Day,
        warn_at: 0.8,
        at_limit: OverBudgetAction::Refuse,
    };
    let (currency, budget) = ("credits".to_owned(), Some(budget));
    let cost = Cost { currency, credits, per_credit: 1.0, not_modified: false, budget };
    let bench = Bench::new(UpstreamPolicy { cost: Some(cost), ..UpstreamPolicy::default() });
    bench.gate.account.ledger().price(&[bench.place.upstream.clone().unwrap()]);
    bench
}

fn in_body() -> CreditSource {
    CreditSource::Body(JsonPath::parse("$.credits").unwrap())
}

impl Bench {
    /// Calls in the books of today, and what they cost.
    fn spent(&self) -> (u64, u64) {
        let spent = self.gate.account.ledger().spendings(self.clock.now()).remove(0).today;
        (spent.calls, format!("{:.0}", spent.credits).parse().unwrap())
    }
}

#[tokio::test]
async fn calls_under_way_take_their_price_and_whatever_ends_them_gives_the_rest_back() {
    let bench = budgeted(CreditSource::PerCall(1.0), 2.0);
    let spent = RejectReason::Budget { stale: false };
    let mut first = bench.enter(knock("/")).await.unwrap();
    let second = bench.enter(knock("/")).await.unwrap();
    let held = refused(bench.enter(knock("/")).await);
    assert_eq!(held, Rejection { cause: spent, left: Duration::ZERO });
    assert_eq!(bench.gate.check_admission(&bench.place, &knock("/")), Some(held));
    let waiting = bench.entering(patient("/", SECOND)).await;
    drop(second);
    let mut third = done(waiting).await.expect("the dropped call's credit is free again");
    answer(&mut first, 500, &[]);
    let mut fourth = bench.enter(knock("/")).await.expect("so is that of an error, which is free");
    fourth.failed(UpstreamError::Refused);
    answer(&mut third, 200, &[]);
    bench.answered(knock("/"), 200, &[]).await;
    let held = refused(bench.enter(patient("/", SECOND)).await);
    assert!(held.cause == spent && held.left > SECOND, "{held:?}");
    assert_eq!(bench.spent(), (3, 2));
}

#[tokio::test]
async fn a_call_that_waits_for_its_turn_reserves_nothing_meanwhile() {
    let mut bench = budgeted(CreditSource::PerCall(1.0), 2.0);
    let upstream = Arc::make_mut(bench.place.upstream.as_mut().unwrap());
    (upstream.conduct.rate_limit.in_flight, upstream.conduct.rate_limit.max_wait) = (1, 5 * SECOND);
    let mut first = bench.enter(knock("/")).await.unwrap();
    let waiting = bench.entering(knock("/")).await;
    assert_eq!(
        bench.gate.check_admission(&bench.place, &knock("/")),
        None,
        "one is under way, of two"
    );
    answer(&mut first, 200, &[]);
    done(waiting).await.expect("its turn");
}

#[tokio::test]
async fn the_price_in_a_body_is_in_the_books_once_however_the_body_ends() {
    let head = |pass: &mut Permit, status| {
        pass.on_head_unread(StatusCode::from_u16(status).unwrap(), &HeaderMap::new());
    };
    let (ok, none) = (StatusCode::OK, HeaderMap::new());
    let bench = budgeted(in_body(), 100.0);
    let mut read = bench.enter(knock("/")).await.unwrap();
    head(&mut read, 200);
    assert_eq!(bench.spent(), (0, 0), "its body tells");
    read.read(ok, &none, &serde_json::json!({ "credits": 3 }));
    drop(read);
    assert_eq!(bench.spent(), (1, 3));
    let mut left = bench.enter(knock("/")).await.unwrap();
    head(&mut left, 200);
    drop(left);
    assert_eq!(bench.spent(), (2, 6), "the usual price");
    let mut given_up = bench.enter(knock("/")).await.unwrap();
    head(&mut given_up, 200);
    given_up.finish_without_body();
    assert_eq!(bench.spent(), (3, 9));
    drop(given_up);
    assert_eq!(bench.spent(), (3, 9), "once");
    let mut error = bench.enter(knock("/")).await.unwrap();
    head(&mut error, 500);
    drop(error);
    assert_eq!(bench.spent(), (4, 9), "an error that says nothing costs nothing");
    let mut unanswered = bench.enter(knock("/")).await.unwrap();
    unanswered.left();
    drop(unanswered);
    assert_eq!(bench.spent(), (5, 12), "the request was sent");
    drop(bench.enter(knock("/")).await.unwrap());
    assert_eq!(bench.spent(), (5, 12), "this one was not");
}
