//! Admission control on a simulated clock: which calls are admitted, wait, or are rejected.

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::task::JoinHandle;
use xxhash_rust::xxh3::xxh3_64;

use super::*;
use crate::config::env::Env;
use crate::config::{self, Upstream};
use crate::policy::StatusMatch;
use crate::policy::upstream::{
    BanGuardRule, CircuitBreaker, Cost, CostBudget, CreditSource, JsonRule, OutcomeClass, OverBudgetAction,
    Period, Rate, RateLimitKind, UpstreamPolicy,
};
use crate::semantics::json_path::JsonPath;
use crate::semantics::redaction::Redactor;
use crate::semantics::target::Target;
use crate::telemetry::log::captured::CapturedLog;
use crate::upstream::admission::call::CallAudience;
use crate::upstream::outcome::error::UpstreamError;
use crate::upstream::routed_request::RoutedRequest;
use crate::upstream::routing::UpstreamTable;

const SECOND: Duration = Duration::from_secs(1);
const LIMITED: RejectReason = RejectReason::Failed(OutcomeClass::RateLimited(RateLimitKind::Minute));

struct Bench {
    control: AdmissionControl,
    clock: Clock,
    target: UpstreamTarget,
}

impl Bench {
    /// An upstream with this policy.
    fn new(policy: UpstreamPolicy) -> Self {
        let yaml = "{ version: 1, upstreams: { api: { hosts: [api.example] } } }";
        let config = config::parse("proxy.yaml", yaml, &Env::default()).unwrap();
        let mut upstream: Arc<Upstream> = Arc::clone(&config.upstreams[0]);
        Arc::make_mut(&mut upstream).policy = policy;
        let clock = Clock::manual(SystemTime::UNIX_EPOCH + SECOND * 1_800_000_000);
        let telemetry = Telemetry::new(&["route".into()], &["api".into()]);
        let control = AdmissionControl::new(telemetry, Arc::default(), clock.clone());
        let target = UpstreamTable::new(vec![upstream]).lookup(&request_target("/"));
        Self { control, clock, target }
    }

    async fn acquire(&self, call: CallContext) -> Result<Permit, Rejection> {
        self.control.acquire(call.at(&self.target)).await
    }

    /// Starts to acquire in the background, and returns once the call waits or is decided.
    async fn spawn_acquire(&self, call: CallContext) -> JoinHandle<Result<Permit, Rejection>> {
        let (control, target) = (self.control.clone(), self.target.clone());
        let before = self.clock.sleepers();
        let acquiring = tokio::spawn(async move { control.acquire(call.at(&target)).await });
        while self.clock.sleepers() == before && !acquiring.is_finished() {
            tokio::task::yield_now().await;
        }
        acquiring
    }

    /// A call that is admitted and gets this response at once.
    async fn complete(&self, call: CallContext, status: u16, fields: &[(&'static str, &str)]) {
        let mut permit = self.acquire(call).await.expect("it is admitted");
        respond(&mut permit, status, fields);
    }

    fn metric(&self, line: &str) -> bool {
        self.control.telemetry.render().contains(line)
    }
}

fn respond(permit: &mut Permit, status: u16, fields: &[(&'static str, &str)]) {
    let fields = fields
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value")));
    permit.on_response(StatusCode::from_u16(status).unwrap(), &fields.collect(), None);
}

fn request_target(path: &str) -> Target {
    Target::absolute(&format!("http://api.example{path}")).unwrap()
}

fn call(path: &str) -> CallContext {
    let routed = Arc::new(RoutedRequest::get(request_target(path)));
    CallContext { governed: true, ..CallContext::new(&routed, 0) }
}

fn keyed(key: u128) -> CallContext {
    CallContext { key: Some(key), ..call("/") }
}

fn with_stale(key: u128) -> CallContext {
    CallContext { has_stale: true, ..keyed(key) }
}

fn with_cooldown_wait(path: &str, cooldown_wait: Duration) -> CallContext {
    CallContext { cooldown_wait, ..call(path) }
}

fn rejected(result: Result<Permit, Rejection>) -> Rejection {
    result.err().expect("it is rejected")
}

async fn joined(acquiring: JoinHandle<Result<Permit, Rejection>>) -> Result<Permit, Rejection> {
    acquiring.await.expect("admission control does not panic")
}

#[tokio::test]
async fn a_rate_limit_blocks_its_credential_for_its_retry_after() {
    let bench = Bench::new(UpstreamPolicy::default());
    bench.complete(call("/"), 429, &[("retry-after", "7")]).await;
    let rejection = rejected(bench.acquire(call("/other")).await);
    assert_eq!(rejection, Rejection { reason: LIMITED, left: 7 * SECOND });
    let other = CallContext { credential: 5, ..call("/") };
    assert!(bench.acquire(other).await.is_ok(), "another credential has another limit");
    bench.clock.advance(7 * SECOND);
    assert!(bench.acquire(call("/other")).await.is_ok());
    assert!(bench.metric("larder_upstream_rate_limited_total{class=\"rate-limited\",upstream=\"api\"} 1"));
    assert!(
        bench.metric("larder_upstream_refused_total{cause=\"cooldown-rate-limited\",upstream=\"api\"} 1")
    );
}

#[tokio::test]
async fn max_cooldown_limits_a_retry_after_but_not_the_end_of_a_quota() {
    let bench = Bench::new(UpstreamPolicy::default());
    bench.complete(call("/"), 429, &[("retry-after", "999999999")]).await;
    assert_eq!(rejected(bench.acquire(call("/")).await).left, 3600 * SECOND);
    let bench = Bench::new(UpstreamPolicy::default());
    let quota = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1800010000")];
    bench.complete(call("/"), 403, &quota).await;
    assert_eq!(rejected(bench.acquire(call("/")).await).left, 10_000 * SECOND);
}

#[tokio::test]
async fn a_rate_limit_without_retry_after_backs_off_exponentially() {
    for headers in [&[][..], &[("retry-after", "0")], &[("retry-after", "-5")], &[("retry-after", "abc")]] {
        let bench = Bench::new(UpstreamPolicy::default());
        for seconds in [1, 2, 4, 8] {
            bench.complete(call("/"), 429, headers).await;
            assert_eq!(rejected(bench.acquire(call("/")).await).left, seconds * SECOND, "{headers:?}");
            bench.clock.advance(seconds * SECOND);
        }
        bench.complete(call("/"), 200, &[]).await;
        bench.complete(call("/"), 429, headers).await;
        assert_eq!(rejected(bench.acquire(call("/")).await).left, SECOND, "it starts again");
    }
}

#[tokio::test]
async fn a_patient_call_waits_for_the_end_of_a_cooldown() {
    let bench = Bench::new(UpstreamPolicy::default());
    bench.complete(call("/"), 429, &[("retry-after", "2")]).await;
    let waiting = bench.spawn_acquire(with_cooldown_wait("/", 15 * SECOND)).await;
    assert_eq!(rejected(bench.acquire(with_cooldown_wait("/", SECOND)).await).left, 2 * SECOND);
    bench.clock.advance(2 * SECOND);
    let permit = joined(waiting).await.expect("the cooldown is over");
    assert_eq!(permit.waited(), Some(LIMITED));
}

#[tokio::test]
async fn after_a_cooldown_one_call_probes_and_the_others_wait() {
    let bench = Bench::new(UpstreamPolicy::default());
    bench.complete(call("/"), 429, &[("retry-after", "2")]).await;
    bench.clock.advance(2 * SECOND);
    let mut probe = bench.acquire(call("/")).await.expect("the probe");
    assert_eq!(rejected(bench.acquire(call("/")).await).left, Duration::ZERO);
    let waiting = bench.spawn_acquire(with_cooldown_wait("/", 15 * SECOND)).await;
    respond(&mut probe, 429, &[("retry-after", "3")]);
    assert_eq!(rejected(bench.acquire(call("/")).await).left, 3 * SECOND, "it was renewed");
    while bench.clock.sleepers() == 0 {
        tokio::task::yield_now().await;
    }
    bench.clock.advance(3 * SECOND);
    let mut second = joined(waiting).await.expect("the next probe");
    assert!(bench.acquire(call("/")).await.is_err());
    respond(&mut second, 200, &[]);
    assert!(bench.acquire(call("/")).await.is_ok() && bench.acquire(call("/")).await.is_ok());
}

#[tokio::test]
async fn an_abandoned_probe_lets_the_next_call_probe() {
    let bench = Bench::new(UpstreamPolicy::default());
    bench.complete(call("/"), 429, &[("retry-after", "2")]).await;
    bench.clock.advance(2 * SECOND);
    let probe = bench.acquire(call("/")).await.expect("the probe");
    let waiting = bench.spawn_acquire(with_cooldown_wait("/", 15 * SECOND)).await;
    drop(probe);
    assert!(joined(waiting).await.is_ok());
}

#[tokio::test]
async fn a_stalled_call_releases_its_probe_and_its_slot() {
    let mut policy = UpstreamPolicy::default();
    (policy.rate_limit.in_flight, policy.rate_limit.max_wait) = (1, 5 * SECOND);
    let bench = Bench::new(policy);
    bench.complete(call("/"), 429, &[("retry-after", "2")]).await;
    bench.clock.advance(2 * SECOND);
    let mut slow = bench.acquire(call("/")).await.expect("the probe");
    let waiting = bench.spawn_acquire(with_cooldown_wait("/", 15 * SECOND)).await;
    slow.on_client_stalled();
    let mut probe = joined(waiting).await.expect("there is capacity, and it is the probe");
    // The stalled call does not release a second slot.
    respond(&mut slow, 200, &[]);
    respond(&mut probe, 200, &[]);
    let _one = bench.acquire(call("/")).await.expect("there is capacity for one");
    assert!(!bench.spawn_acquire(call("/")).await.is_finished());
}

/// Otherwise clients that stall calls and leave could leave any number of calls behind.
#[tokio::test]
async fn a_call_that_continues_without_its_client_is_in_flight_again() {
    let mut policy = UpstreamPolicy::default();
    (policy.rate_limit.in_flight, policy.rate_limit.max_wait) = (1, 5 * SECOND);
    let bench = Bench::new(policy);
    let mut left = bench.acquire(call("/")).await.expect("there is capacity");
    assert!(!left.continues_without_client(false), "an incomplete request, and no ban guard");
    left.on_client_stalled();
    let mut other = bench.acquire(call("/")).await.expect("there is capacity");
    assert!(left.continues_without_client(true));
    respond(&mut other, 200, &[]);
    let waiting = bench.spawn_acquire(call("/")).await;
    assert!(!waiting.is_finished());
    respond(&mut left, 200, &[]);
    joined(waiting).await.expect("there is capacity");
}

/// A client may make up any number of credentials.
#[tokio::test]
async fn made_up_credentials_do_not_reset_an_exhausted_limit() {
    let mut policy = UpstreamPolicy::default();
    policy.rate_limit.limit = Some(Rate { count: 2, per: 86_400 * SECOND });
    policy.rate_limit.max_wait = Duration::ZERO;
    let bench = Bench::new(policy);
    let with_credential = |credential| CallContext { credential, ..call("/") };
    for _ in 0..2 {
        bench.complete(with_credential(1), 200, &[]).await;
    }
    for credential in 2..=4_096 {
        for _ in 0..2 {
            bench.complete(with_credential(credential), 200, &[]).await;
        }
    }
    // Later credentials share one limit instead of resetting those of others.
    let mut more = 0;
    for credential in 4_097..5_000 {
        more += usize::from(bench.acquire(with_credential(credential)).await.is_ok());
    }
    assert_eq!(more, 2);
    assert_eq!(rejected(bench.acquire(with_credential(1)).await).reason, RejectReason::RateLimit);
    // Once their windows are over, there is capacity for others.
    bench.clock.advance(86_400 * SECOND);
    assert!(
        bench.acquire(with_credential(20_000)).await.is_ok()
            && bench.acquire(with_credential(1)).await.is_ok()
    );
}

#[tokio::test]
async fn three_failing_keys_start_the_cooldown_of_their_endpoint() {
    let bench = Bench::new(UpstreamPolicy::default());
    for key in 1..=2 {
        bench.complete(keyed(key), 503, &[]).await;
        let rejection =
            bench.control.check_admission(&with_stale(key).at(&bench.target)).expect("its own failure");
        assert_eq!(
            rejection,
            Rejection { reason: RejectReason::Failed(OutcomeClass::Server), left: 30 * SECOND }
        );
        assert_eq!(bench.control.check_admission(&with_stale(9).at(&bench.target)), None);
        assert!(bench.acquire(keyed(key)).await.is_ok(), "a call without a stale response goes out");
    }
    bench.complete(keyed(3), 500, &[]).await;
    assert!(bench.control.check_admission(&with_stale(9).at(&bench.target)).is_some());
    assert!(bench.acquire(keyed(9)).await.is_ok(), "a call without a stale response goes out");
    bench.complete(keyed(9), 200, &[]).await;
    assert_eq!(bench.control.check_admission(&with_stale(8).at(&bench.target)), None, "it has recovered");
    assert!(bench.control.check_admission(&with_stale(1).at(&bench.target)).is_some(), "this key has not");
}

/// The members that still fail always come first.
#[tokio::test]
async fn a_recovered_member_gets_to_probe_among_failing_members() {
    for paths in [["/x?a", "/x?b", "/x?c"], ["/v/a", "/v/b", "/v/c"], ["/a", "/b", "/c"]] {
        let bench = Bench::new(UpstreamPolicy::default());
        let with_stale = |n: usize| {
            let key = Some(n as u128);
            CallContext { key, has_stale: true, ..call(paths[n]) }
        };
        for n in 0..3 {
            bench.complete(with_stale(n), 503, &[]).await;
        }
        let mut seconds = 0;
        loop {
            for n in [0, 1] {
                if bench.control.check_admission(&with_stale(n).at(&bench.target)).is_none() {
                    bench.complete(with_stale(n), 503, &[]).await;
                }
            }
            if seconds % 2 == 0 && bench.control.check_admission(&with_stale(2).at(&bench.target)).is_none() {
                break;
            }
            bench.clock.advance(SECOND);
            seconds += 1;
            assert!(seconds < 160, "{paths:?}: five cooldowns");
        }
    }
}

/// After they have started a cooldown once, their failures count no more.
#[tokio::test]
async fn failing_endpoints_do_not_keep_healthy_ones_in_cooldown() {
    let bench = Bench::new(UpstreamPolicy::default());
    let broken = ["/a", "/b", "/c"];
    let all = async |status| {
        for (key, path) in (1..).zip(broken) {
            bench.complete(CallContext { key: Some(key), ..call(path) }, status, &[]).await;
        }
    };
    let healthy = || CallContext { key: Some(9), has_stale: true, ..call("/well") };
    all(503).await;
    assert!(bench.control.check_admission(&healthy().at(&bench.target)).is_some());
    for _ in 0..10 {
        bench.clock.advance(3 * SECOND);
        all(503).await;
    }
    assert_eq!(bench.control.check_admission(&healthy().at(&bench.target)), None, "30 seconds are over");
    // One of them probes first, and leaves the next probe to the others.
    bench.clock.advance(30 * SECOND);
    bench.complete(CallContext { has_stale: true, key: Some(1), ..call("/a") }, 503, &[]).await;
    bench.complete(healthy(), 200, &[]).await;
    // Beside a healthy endpoint they start no further cooldown of the origin.
    for _ in 0..10 {
        bench.clock.advance(40 * SECOND);
        all(503).await;
        assert_eq!(bench.control.check_admission(&healthy().at(&bench.target)), None);
    }
    // Their failures count again after a success.
    all(200).await;
    all(503).await;
    assert!(bench.control.check_admission(&healthy().at(&bench.target)).is_some());
}

/// It fails under many keys, but counts as one endpoint.
#[tokio::test]
async fn an_endpoint_that_fails_for_every_id_counts_once() {
    let bench = Bench::new(UpstreamPolicy::default());
    let broken = async |id: u128| {
        let path = format!("/broken/no-{id}");
        bench.complete(CallContext { key: Some(id), ..call(&path) }, 500, &[]).await;
    };
    let healthy = || CallContext { key: Some(9), has_stale: true, ..call("/well") };
    let mut stale_seconds = 0;
    for second in 0..300 {
        for n in 0..10 {
            broken(1_000 + second * 10 + n).await;
        }
        bench.clock.advance(SECOND);
        if bench.control.check_admission(&healthy().at(&bench.target)).is_some() {
            stale_seconds += 1;
        } else {
            bench.complete(healthy(), 200, &[]).await;
        }
    }
    assert!(stale_seconds <= 30, "{stale_seconds} of 300");
}

/// Failing neighbours: paths with the same parent, with queries, with names that do not look like ids.
#[tokio::test]
async fn a_healthy_endpoint_is_stale_for_at_most_one_cooldown() {
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
        let healthy = || CallContext { key: Some(9), has_stale: true, ..call("/v1/well") };
        let mut stale_seconds = 0;
        for second in 0..300 {
            for (n, path) in (0..).zip(failing) {
                let path = path(second);
                let key = Some(1_000 + u128::from(xxh3_64(path.as_bytes())) + n);
                let bad = CallContext { key, has_stale: second % 2 == 0, ..call(&path) };
                if bench.control.check_admission(&bad.at(&bench.target)).is_none() {
                    bench.complete(bad, 503, &[]).await;
                }
            }
            bench.clock.advance(SECOND);
            if bench.control.check_admission(&healthy().at(&bench.target)).is_some() {
                stale_seconds += 1;
            } else {
                bench.complete(healthy(), 200, &[]).await;
            }
        }
        assert!(stale_seconds <= 30, "case {case}: {stale_seconds} of 300");
    }
}

/// One call in thirty seconds probes the origin, however many clients wait.
#[tokio::test]
async fn a_dead_origin_gets_one_probe_per_cooldown() {
    for path in
        [|_| "/all/alike".to_owned(), |key: u128| format!("/{}", ["a", "b", "c", "d"][key as usize % 4])]
    {
        let bench = Bench::new(UpstreamPolicy::default());
        let mut calls = 0;
        for second in 0..300 {
            for key in 0..40 {
                let call = CallContext { key: Some(key), has_stale: true, ..call(&path(key)) };
                if bench.control.check_admission(&call.at(&bench.target)).is_none() {
                    calls += 1;
                    bench.complete(call, 503, &[]).await;
                }
            }
            bench.clock.advance(SECOND);
            assert!(calls <= 6 + second / 30, "{calls} after {second} seconds");
        }
    }
}

#[tokio::test]
async fn an_unreachable_origin_is_in_cooldown_at_once_for_all_keys() {
    let bench = Bench::new(UpstreamPolicy::default());
    let mut permit = bench.acquire(keyed(1)).await.unwrap();
    permit.on_failure(UpstreamError::Refused);
    let rejection =
        bench.control.check_admission(&with_stale(9).at(&bench.target)).expect("the whole origin");
    assert_eq!(
        rejection,
        Rejection { reason: RejectReason::Failed(OutcomeClass::Network), left: 30 * SECOND }
    );
    let mut other = bench.target.clone();
    other.port = 8443;
    assert_eq!(
        bench.control.check_admission(&with_stale(9).at(&other)),
        None,
        "another port is another origin"
    );
}

#[tokio::test]
async fn failures_within_larder_start_no_cooldown() {
    let bench = Bench::new(UpstreamPolicy::default());
    for failure in [UpstreamError::Abandoned, UpstreamError::Exhausted, UpstreamError::Internal] {
        bench.acquire(keyed(1)).await.unwrap().on_failure(failure);
        drop(bench.acquire(keyed(1)).await.unwrap());
    }
    assert_eq!(bench.control.check_admission(&with_stale(1).at(&bench.target)), None);
}

#[tokio::test]
async fn a_breaker_blocks_all_calls_and_then_lets_one_probe_through() {
    let rule = CircuitBreaker { failures: 3, within: 30 * SECOND, open_for: 20 * SECOND };
    let bench = Bench::new(UpstreamPolicy { breaker: Some(rule), ..UpstreamPolicy::default() });
    for _ in 0..3 {
        bench.complete(keyed(1), 500, &[]).await;
    }
    let rejection = rejected(bench.acquire(keyed(2)).await);
    assert_eq!(rejection, Rejection { reason: RejectReason::Breaker, left: 20 * SECOND });
    assert_eq!(bench.control.report(&[])[..], []);
    bench.clock.advance(20 * SECOND);
    bench.complete(keyed(2), 502, &[]).await;
    assert_eq!(rejected(bench.acquire(keyed(2)).await).left, 20 * SECOND, "it opened again");
    bench.clock.advance(20 * SECOND);
    bench.complete(keyed(2), 200, &[]).await;
    assert!(bench.acquire(keyed(1)).await.is_ok());
}

/// Ten responses in a minute lead to a ban; the guard trips at eight.
fn trips_at_eight() -> BanGuardRule {
    let exact = |code| StatusMatch::Exact(StatusCode::from_u16(code).unwrap());
    BanGuardRule {
        statuses: [401, 403, 429].map(exact).to_vec(),
        limit: Rate { count: 10, per: 60 * SECOND },
        trip_at: 0.8,
    }
}

#[tokio::test]
async fn the_ban_guard_counts_every_call_and_blocks_before_the_ban() {
    let bench = Bench::new(UpstreamPolicy { ban_guard: Some(trips_at_eight()), ..UpstreamPolicy::default() });
    // With and without a route, with different credentials.
    for n in 0..8 {
        let call = CallContext { governed: n % 2 == 0, credential: n, ..call("/") };
        bench.complete(call, 401, &[]).await;
    }
    let rejection = rejected(bench.acquire(call("/")).await);
    assert_eq!(rejection.reason, RejectReason::BanGuard);
    bench.clock.advance(rejection.left);
    assert!(bench.acquire(call("/")).await.is_ok());
}

#[tokio::test]
async fn a_block_of_all_calls_to_an_upstream_is_logged_once() {
    let breaker = CircuitBreaker { failures: 2, within: 60 * SECOND, open_for: 5 * SECOND };
    for (policy, status, cause, seconds) in [
        (UpstreamPolicy { breaker: Some(breaker), ..UpstreamPolicy::default() }, 500, "breaker", 5),
        (
            UpstreamPolicy { ban_guard: Some(trips_at_eight()), ..UpstreamPolicy::default() },
            401,
            "ban-guard",
            61,
        ),
    ] {
        let (bench, written) = (Bench::new(policy), CapturedLog::default());
        let _log = tracing::subscriber::set_default(written.subscriber());
        for n in 0..8 {
            let result = bench.acquire(keyed(n)).await;
            if let Ok(mut permit) = result {
                respond(&mut permit, status, &[]);
            }
        }
        bench.clock.advance(5 * SECOND);
        if let Ok(mut probe) = bench.acquire(keyed(9)).await {
            respond(&mut probe, status, &[]);
        }
        let lines = written.lines();
        assert_eq!(lines.len(), 1, "{lines:?}");
        let (line, expected) = (&lines[0], (&"api".into(), &cause.into(), &seconds.into()));
        assert_eq!((&line["upstream"], &line["reason"], &line["seconds"]), expected);
    }
}

#[tokio::test]
async fn a_shared_limit_blocks_only_its_key() {
    let bench = Bench::new(UpstreamPolicy::default());
    let shared = [("retry-after", "5"), ("x-ratelimit-scope", "shared"), ("x-ratelimit-remaining", "0")];
    bench.complete(keyed(1), 429, &shared).await;
    assert!(bench.acquire(keyed(1)).await.is_err());
    assert!(bench.acquire(keyed(2)).await.is_ok());
}

#[tokio::test]
async fn a_bucket_is_blocked_per_resource_and_other_buckets_are_not() {
    let bench = Bench::new(UpstreamPolicy::default());
    let bucket = [("retry-after", "5"), ("x-ratelimit-bucket", "abcd1234"), ("x-ratelimit-remaining", "0")];
    bench.complete(call("/guilds/1000/roles"), 429, &bucket).await;
    assert!(bench.acquire(call("/guilds/1000/roles")).await.is_err());
    assert!(bench.acquire(call("/guilds/2000/roles")).await.is_ok(), "another guild");
    assert!(bench.acquire(call("/users/@me")).await.is_ok(), "another bucket");
    let global = [("retry-after", "5"), ("x-ratelimit-global", "true")];
    bench.complete(call("/users/@me"), 429, &global).await;
    assert!(bench.acquire(call("/channels/7")).await.is_err(), "everything of this credential");
}

#[tokio::test]
async fn a_rate_limit_admits_calls_in_order_and_clients_first() {
    let mut policy = UpstreamPolicy::default();
    policy.rate_limit.limit = Some(Rate { count: 2, per: SECOND });
    policy.rate_limit.max_wait = 5 * SECOND;
    let bench = Bench::new(policy);
    let mut out = Vec::new();
    for _ in 0..2 {
        out.push(bench.acquire(call("/")).await.expect("two at once"));
    }
    let third = bench.spawn_acquire(call("/")).await;
    let fourth = bench.spawn_acquire(call("/")).await;
    let background =
        bench.spawn_acquire(CallContext { audience: CallAudience::background().into(), ..call("/") }).await;
    let fifth = bench.spawn_acquire(call("/")).await;
    bench.clock.advance(SECOND);
    out.push(joined(third).await.expect("the first in the queue"));
    out.push(joined(fourth).await.expect("the second"));
    assert!(!fifth.is_finished() && !background.is_finished());
    bench.clock.advance(SECOND);
    let fifth = joined(fifth).await.expect("clients before background work");
    assert_eq!(fifth.waited(), Some(RejectReason::RateLimit));
    assert_eq!(joined(background).await.err(), None, "and background work last");
}

/// As many slow uploads as the ban guard allows must not keep all other calls out.
#[tokio::test]
async fn a_stalled_call_must_end_if_others_wait_for_its_slot() {
    let policy = UpstreamPolicy { ban_guard: Some(trips_at_eight()), ..UpstreamPolicy::default() };
    let bench = Bench::new(policy);
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut one = bench.acquire(call("/")).await.expect("eight are allowed");
        one.on_client_stalled();
        slow.push(one);
        bench.clock.advance(SECOND / 100);
    }
    let next = bench.spawn_acquire(call("/")).await;
    assert!(!next.is_finished(), "the stalled calls keep their slots at first");
    bench.clock.advance(SECOND);
    let _next = joined(next).await.expect("the slot of the first stalled call");
    slow[0].preemption().expect("it is stalled").notified().await;
    let second = bench.acquire(call("/")).await.expect("and the slot of the second");
    slow[1].preemption().expect("it is stalled").notified().await;
    // Their responses still count, and they have no slots any more.
    for mut left in slow.drain(..2) {
        assert!(left.continues_without_client(false));
        respond(&mut left, 401, &[]);
    }
    drop(second);
    // Six are allowed now, of which one has just started.
    let _third = bench.acquire(call("/")).await.expect("two more stalled calls must end");
    for left in &slow[..2] {
        left.preemption().expect("it is stalled").notified().await;
    }
    assert_eq!(bench.control.report(&[bench.target.upstream.clone().unwrap()])[0].in_flight, 2);
}

/// A fill whose clients have left, and a refresh that a client has joined.
#[tokio::test]
async fn the_queue_position_follows_whether_a_client_waits() {
    let mut policy = UpstreamPolicy::default();
    (policy.rate_limit.in_flight, policy.rate_limit.max_wait) = (1, 5 * SECOND);
    let bench = Bench::new(policy);
    let audiences = [true, false].map(|is_there| {
        let audience = Arc::new(CallAudience::background());
        audience.set_present(is_there);
        audience
    });
    let mut out = bench.acquire(call("/")).await.expect("one at a time");
    let [left, rejoined] =
        audiences.clone().map(|audience| bench.spawn_acquire(CallContext { audience, ..call("/") }));
    let (left, rejoined) = (left.await, rejoined.await);
    let client = bench.spawn_acquire(call("/")).await;
    audiences[0].set_present(false);
    audiences[1].set_present(true);
    tokio::task::yield_now().await;
    for next in [client, rejoined, left] {
        respond(&mut out, 200, &[]);
        out = joined(next).await.expect("it is the first");
    }
}

#[tokio::test]
async fn a_call_that_cannot_go_out_in_time_gets_the_estimated_wait() {
    let mut policy = UpstreamPolicy::default();
    policy.rate_limit.limit = Some(Rate { count: 1, per: 60 * SECOND });
    let bench = Bench::new(policy);
    let _first = bench.acquire(call("/")).await.expect("one a minute");
    let rejection = rejected(bench.acquire(call("/")).await);
    assert_eq!(
        rejection,
        Rejection { reason: RejectReason::RateLimit, left: 60 * SECOND },
        "a wait of two seconds is too short"
    );
    assert!(bench.metric("larder_upstream_refused_total{cause=\"rate-limit\",upstream=\"api\"} 1"));
}

#[tokio::test]
async fn a_cancelled_wait_leaves_the_queue() {
    let mut policy = UpstreamPolicy::default();
    (policy.rate_limit.in_flight, policy.rate_limit.max_wait) = (1, 5 * SECOND);
    let bench = Bench::new(policy);
    let first = bench.acquire(call("/")).await.expect("one at a time");
    let gone = bench.spawn_acquire(call("/")).await;
    let next = bench.spawn_acquire(call("/")).await;
    gone.abort();
    assert!(gone.await.is_err());
    drop(first);
    assert!(joined(next).await.is_ok());
    assert_eq!(bench.clock.sleepers(), 0);
}

#[tokio::test]
async fn no_more_calls_are_in_flight_than_the_limit_allows() {
    let mut policy = UpstreamPolicy::default();
    policy.rate_limit.in_flight = 2;
    let bench = Bench::new(policy);
    let mut first = bench.acquire(call("/")).await.expect("one");
    let _second = bench.acquire(call("/")).await.expect("two");
    let third = bench.spawn_acquire(call("/")).await;
    assert!(!third.is_finished());
    respond(&mut first, 200, &[]);
    let third = joined(third).await.expect("there is capacity");
    assert_eq!(third.waited(), Some(RejectReason::InFlight));
    let fourth = bench.spawn_acquire(call("/")).await;
    bench.clock.advance(2 * SECOND);
    assert_eq!(rejected(joined(fourth).await).reason, RejectReason::InFlight);
}

/// However many calls arrive at once, no ninth goes out before the outcome of the eight is known.
#[tokio::test]
async fn no_more_calls_are_in_flight_than_the_ban_guard_allows() {
    let bench = Bench::new(UpstreamPolicy { ban_guard: Some(trips_at_eight()), ..UpstreamPolicy::default() });
    let mut out = Vec::new();
    for _ in 0..8 {
        out.push(bench.acquire(call("/")).await.expect("one of eight"));
    }
    // A stalled call may get such a response too.
    out[0].on_client_stalled();
    out[0].on_client_stalled();
    let ninth = bench.spawn_acquire(call("/")).await;
    assert!(!ninth.is_finished());
    respond(&mut out[1], 200, &[]);
    let mut ninth = joined(ninth).await.expect("one call has succeeded");
    let tenth = bench.spawn_acquire(with_cooldown_wait("/", SECOND)).await;
    for permit in out.iter_mut().chain([&mut ninth]) {
        respond(permit, 401, &[]);
    }
    assert_eq!(rejected(joined(tenth).await).reason, RejectReason::BanGuard);
}

/// The head of the response has arrived, and the client reads the body slowly.
#[tokio::test]
async fn a_call_releases_its_slot_once() {
    let mut policy = UpstreamPolicy::default();
    policy.rate_limit.in_flight = 2;
    let path = JsonPath::parse("$.code").unwrap();
    policy.rules.success = vec![JsonRule { path, values: vec![0.into()] }];
    let bench = Bench::new(policy);
    let mut slow = bench.acquire(call("/")).await.expect("one");
    let _other = bench.acquire(call("/")).await.expect("two");
    slow.on_head_unread(StatusCode::OK, &HeaderMap::new());
    slow.on_client_stalled();
    let _third = bench.acquire(call("/")).await.expect("in the slot of the first");
    let fourth = bench.spawn_acquire(call("/")).await;
    assert!(!fourth.is_finished());
    fourth.abort();
}

#[tokio::test]
async fn a_learned_limit_is_kept_before_the_origin_enforces_it() {
    let mut policy = UpstreamPolicy::default();
    policy.rate_limit.learn = true;
    let bench = Bench::new(policy);
    let fields =
        [("x-ratelimit-limit", "2"), ("x-ratelimit-remaining", "1"), ("x-ratelimit-reset-after", "1.5")];
    bench.complete(call("/"), 200, &fields).await;
    bench
        .complete(
            call("/"),
            200,
            &[("x-ratelimit-limit", "2"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset-after", "1.5")],
        )
        .await;
    let waiting = bench.spawn_acquire(call("/")).await;
    assert!(!waiting.is_finished());
    bench.clock.advance(SECOND * 3 / 2);
    assert!(joined(waiting).await.is_ok());
}

#[tokio::test]
async fn the_state_of_an_upstream_outlives_its_configuration() {
    let bench = Bench::new(UpstreamPolicy::default());
    bench.complete(call("/"), 429, &[("retry-after", "7")]).await;
    let registry = Arc::clone(&bench.control.registry);
    let telemetry = bench.control.telemetry.with_names(&[], &["api".into()], Redactor::default());
    let reloaded = AdmissionControl::new(telemetry, registry, bench.clock.clone());
    assert_eq!(
        reloaded.check_admission(&call("/").at(&bench.target)).map(|rejection| rejection.left),
        Some(7 * SECOND)
    );
}

#[tokio::test]
async fn made_up_hosts_do_not_evict_the_rate_limit_of_an_api() {
    let bench = Bench::new(UpstreamPolicy::default());
    let host = |number: usize| {
        let target = Target::absolute(&format!("http://h{number}.test/")).unwrap();
        UpstreamTable::new(Vec::new()).lookup(&target)
    };
    let named = call("/");
    let mut permit = bench.control.acquire(named.at(&host(0))).await.unwrap();
    respond(&mut permit, 429, &[("retry-after", "600")]);
    for number in 1..3_000 {
        let mut permit = bench.control.acquire(named.at(&host(number))).await.unwrap();
        permit.on_failure(UpstreamError::Refused);
    }
    assert!(bench.control.check_admission(&named.at(&host(0))).is_some());
    // Nor do many other hosts with a shorter rate limit.
    for number in 3_000..5_000 {
        let mut permit = bench.control.acquire(named.at(&host(number))).await.unwrap();
        respond(&mut permit, 429, &[("retry-after", "60")]);
    }
    assert!(bench.control.check_admission(&named.at(&host(0))).is_some());
    assert!(bench.control.registry.unconfigured().len() <= 1024);
}

#[tokio::test]
async fn calls_to_hosts_without_a_route_or_upstream_are_never_blocked() {
    let bench = Bench::new(UpstreamPolicy::default());
    let target = UpstreamTable::new(Vec::new()).lookup(&request_target("/"));
    let unknown = CallContext { governed: false, ..call("/") };
    for _ in 0..20 {
        let mut permit = bench.control.acquire(unknown.at(&target)).await.expect("it is admitted");
        respond(&mut permit, 429, &[("retry-after", "60")]);
    }
    assert_eq!(bench.control.check_admission(&unknown.at(&target)), None);
    let routed = CallContext { governed: true, ..call("/") };
    let mut permit = bench.control.acquire(routed.at(&target)).await.expect("it is admitted");
    respond(&mut permit, 429, &[("retry-after", "60")]);
    assert!(bench.control.check_admission(&routed.at(&target)).is_some(), "a route names the host");
}

#[tokio::test]
async fn retries_are_limited_to_a_fifth_of_the_calls() {
    let bench = Bench::new(UpstreamPolicy::default());
    for _ in 0..1000 {
        bench.complete(keyed(1), 503, &[]).await;
    }
    let acquire_retry = || {
        bench.control.try_acquire_retry(
            &keyed(1).at(&bench.target),
            Reason::Outcome(OutcomeClass::Server),
            SECOND,
        )
    };
    assert_eq!((0..1000).filter(|_| acquire_retry()).count(), 200);
    assert!(bench.metric("larder_upstream_retries_total{cause=\"server-error\",upstream=\"api\"} 200"));
    assert!(bench.metric("larder_upstream_refused_total{cause=\"retry-budget\",upstream=\"api\"} 800"));
}

#[tokio::test]
async fn the_status_lists_the_cooldowns_and_their_ends() {
    let bench = Bench::new(UpstreamPolicy::default());
    for key in 1..=3 {
        bench.complete(keyed(key), 503, &[]).await;
    }
    bench.complete(call("/"), 429, &[("retry-after", "7")]).await;
    let upstream = bench.target.upstream.clone().unwrap();
    let report = bench.control.report(&[upstream]).remove(0);
    let shown: Vec<_> = report
        .cooldowns
        .iter()
        .map(|cooldown| {
            (cooldown.scope, cooldown.reason, cooldown.firm, cooldown.left.as_secs(), cooldown.count)
        })
        .collect();
    let expected = [
        ("credential", "rate-limited", true, 7, 1),
        ("endpoint", "server-error", false, 30, 1),
        ("key", "server-error", false, 30, 3),
    ];
    assert_eq!(shown, expected);
}

// ---- reservations and prices

/// A budget of credits per day. Each call costs one, or what its response states.
fn budgeted(credits: CreditSource, day: f64) -> Bench {
    let budget =
        CostBudget { credits: day, period: Period::Day, warn_at: 0.8, at_limit: OverBudgetAction::Refuse };
    let (currency, budget) = ("credits".to_owned(), Some(budget));
    let cost = Cost { currency, credits, per_credit: 1.0, not_modified: false, budget };
    let bench = Bench::new(UpstreamPolicy { cost: Some(cost), ..UpstreamPolicy::default() });
    bench.control.telemetry.cost().set_prices(&[bench.target.upstream.clone().unwrap()]);
    bench
}

fn in_body() -> CreditSource {
    CreditSource::Body(JsonPath::parse("$.credits").unwrap())
}

impl Bench {
    /// The recorded calls of today, and their cost.
    fn spent(&self) -> (u64, u64) {
        let spent = self.control.telemetry.cost().reports(self.clock.now()).remove(0).today;
        (spent.calls, format!("{:.0}", spent.credits).parse().unwrap())
    }
}

#[tokio::test]
async fn calls_in_flight_reserve_their_price_and_release_the_rest() {
    let bench = budgeted(CreditSource::PerCall(1.0), 2.0);
    let spent = RejectReason::Budget { stale: false };
    let mut first = bench.acquire(call("/")).await.unwrap();
    let second = bench.acquire(call("/")).await.unwrap();
    let rejection = rejected(bench.acquire(call("/")).await);
    assert_eq!(rejection, Rejection { reason: spent, left: Duration::ZERO });
    assert_eq!(bench.control.check_admission(&call("/").at(&bench.target)), Some(rejection));
    let waiting = bench.spawn_acquire(with_cooldown_wait("/", SECOND)).await;
    drop(second);
    let mut third = joined(waiting).await.expect("the credit of the dropped call is released");
    respond(&mut first, 500, &[]);
    let mut fourth =
        bench.acquire(call("/")).await.expect("an error costs nothing, so its credit is released");
    fourth.on_failure(UpstreamError::Refused);
    respond(&mut third, 200, &[]);
    bench.complete(call("/"), 200, &[]).await;
    let rejection = rejected(bench.acquire(with_cooldown_wait("/", SECOND)).await);
    assert!(rejection.reason == spent && rejection.left > SECOND, "{rejection:?}");
    assert_eq!(bench.spent(), (3, 2));
}

#[tokio::test]
async fn a_queued_call_reserves_no_credits() {
    let mut bench = budgeted(CreditSource::PerCall(1.0), 2.0);
    let upstream = Arc::make_mut(bench.target.upstream.as_mut().unwrap());
    (upstream.policy.rate_limit.in_flight, upstream.policy.rate_limit.max_wait) = (1, 5 * SECOND);
    let mut first = bench.acquire(call("/")).await.unwrap();
    let waiting = bench.spawn_acquire(call("/")).await;
    assert_eq!(bench.control.check_admission(&call("/").at(&bench.target)), None, "one is under way, of two");
    respond(&mut first, 200, &[]);
    joined(waiting).await.expect("it is the first");
}

#[tokio::test]
async fn the_price_in_a_body_is_recorded_once_however_the_body_ends() {
    let head = |permit: &mut Permit, status| {
        permit.on_head_unread(StatusCode::from_u16(status).unwrap(), &HeaderMap::new());
    };
    let (ok, none) = (StatusCode::OK, HeaderMap::new());
    let bench = budgeted(in_body(), 100.0);
    let mut read = bench.acquire(call("/")).await.unwrap();
    head(&mut read, 200);
    assert_eq!(bench.spent(), (0, 0), "its body contains the price");
    read.on_body(ok, &none, &serde_json::json!({ "credits": 3 }));
    drop(read);
    assert_eq!(bench.spent(), (1, 3));
    let mut left = bench.acquire(call("/")).await.unwrap();
    head(&mut left, 200);
    drop(left);
    assert_eq!(bench.spent(), (2, 6), "the usual price");
    let mut given_up = bench.acquire(call("/")).await.unwrap();
    head(&mut given_up, 200);
    given_up.finish_without_body();
    assert_eq!(bench.spent(), (3, 9));
    drop(given_up);
    assert_eq!(bench.spent(), (3, 9), "once");
    let mut error = bench.acquire(call("/")).await.unwrap();
    head(&mut error, 500);
    drop(error);
    assert_eq!(bench.spent(), (4, 9), "an error that states no price costs nothing");
    let mut unanswered = bench.acquire(call("/")).await.unwrap();
    unanswered.on_client_gone();
    drop(unanswered);
    assert_eq!(bench.spent(), (5, 12), "the request was sent");
    drop(bench.acquire(call("/")).await.unwrap());
    assert_eq!(bench.spent(), (5, 12), "this one was not");
}
