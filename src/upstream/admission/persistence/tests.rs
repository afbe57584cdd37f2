//! Limits from one process to the next, with rows that the test carries over.

use std::fmt;

use async_trait::async_trait;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use parking_lot::Mutex;

use super::*;
use crate::clock::Clock;
use crate::config::env::Env;
use crate::config::{self, Upstream};
use crate::policy::StatusMatch;
use crate::policy::upstream::{BanGuardRule, Rate, RateLimit, UpstreamPolicy};
use crate::semantics::target::Target;
use crate::telemetry::Telemetry;
use crate::upstream::admission::call::CallContext;
use crate::upstream::admission::rejection::{RejectReason, Rejection};
use crate::upstream::admission::{AdmissionControl, Permit};
use crate::upstream::routed_request::RoutedRequest;
use crate::upstream::routing::{UpstreamTable, UpstreamTarget};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// The rows on disk, by their keys.
type Stored = std::collections::BTreeMap<Vec<u8>, Vec<u8>>;

/// A disk that counts flushes and nudges.
#[derive(Debug, Default)]
struct FakeDisk {
    rows: Mutex<Stored>,
    flushes: Mutex<usize>,
    nudges: Mutex<usize>,
}

/// A storage on a [`FakeDisk`] that takes the changed rows whenever it is flushed.
struct FakeStore(Arc<FakeDisk>, std::sync::Weak<UpstreamRegistry>, Clock);

impl fmt::Debug for FakeStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeStore")
    }
}

impl FakeStore {
    fn take_rows(&self) {
        let Some(registry) = self.1.upgrade() else { return };
        let mut rows = self.0.rows.lock();
        for StateRow { key, value } in registry.changed_rows(self.2.now(), self.2.instant()) {
            match value {
                Some(value) => drop(rows.insert(key, value)),
                None => drop(rows.remove(&key)),
            }
        }
    }
}

#[async_trait]
impl LimitStore for FakeStore {
    async fn flush(&self) {
        *self.0.flushes.lock() += 1;
        self.take_rows();
    }

    fn flush_soon(&self) {
        *self.0.nudges.lock() += 1;
        self.take_rows();
    }
}

/// A process that has just started with these rows.
struct Bench {
    control: AdmissionControl,
    registry: Arc<UpstreamRegistry>,
    disk: Arc<FakeDisk>,
    clock: Clock,
    target: UpstreamTarget,
    unreadable: usize,
}

impl Bench {
    fn new(policy: &UpstreamPolicy, rows: &Stored, clock: &Clock) -> Self {
        let yaml = "{ version: 1, upstreams: { api: { hosts: [api.example] } } }";
        let config = config::parse("proxy.yaml", yaml, &Env::default()).unwrap();
        let mut upstream: Arc<Upstream> = Arc::clone(&config.upstreams[0]);
        Arc::make_mut(&mut upstream).policy = policy.clone();
        let registry = Arc::new(UpstreamRegistry::default());
        let found = rows.iter().map(|(key, value)| (&key[..], &value[..]));
        let unreadable = registry.restore(found, clock.now(), clock.instant());
        let disk = Arc::new(FakeDisk { rows: Mutex::new(rows.clone()), ..FakeDisk::default() });
        let store = FakeStore(Arc::clone(&disk), Arc::downgrade(&registry), clock.clone());
        registry.set_store(Arc::new(store));
        let telemetry = Telemetry::new(&["route".into()], &["api".into()]);
        let control = AdmissionControl::new(telemetry, Arc::clone(&registry), clock.clone());
        let target = UpstreamTable::new(vec![upstream]).lookup(&request_target("/"));
        Self { control, registry, disk, clock: clock.clone(), target, unreadable }
    }

    /// A process that starts after this one was killed.
    fn after_kill(&self, policy: &UpstreamPolicy) -> Self {
        Self::new(policy, &self.disk.rows.lock(), &self.clock)
    }

    /// A process that starts after this one has stopped.
    fn after_stop(&self, policy: &UpstreamPolicy) -> Self {
        self.registry.close();
        self.flush();
        self.after_kill(policy)
    }

    /// The disk takes the changed rows, as it does several times a second.
    fn flush(&self) {
        let (disk, registry) = (Arc::clone(&self.disk), Arc::downgrade(&self.registry));
        FakeStore(disk, registry, self.clock.clone()).take_rows();
    }

    async fn acquire(&self, call: CallContext) -> Result<Permit, Rejection> {
        self.control.acquire(call.at(&self.target)).await
    }

    async fn complete(&self, call: CallContext, status: u16, fields: &[(&'static str, &str)]) {
        let fields: HeaderMap = fields
            .iter()
            .map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
            })
            .collect();
        let mut permit = self.acquire(call).await.expect("the call is admitted");
        permit.on_response(StatusCode::from_u16(status).unwrap(), &fields, None);
    }

    /// The number of calls that are admitted at once.
    async fn admitted(&self) -> usize {
        let mut admitted = 0;
        while self.acquire(call("/")).await.is_ok() {
            admitted += 1;
        }
        admitted
    }
}

fn request_target(path: &str) -> Target {
    Target::absolute(&format!("http://api.example{path}")).unwrap()
}

fn call(path: &str) -> CallContext {
    let routed = Arc::new(RoutedRequest::get(request_target(path)));
    CallContext { governed: true, ..CallContext::new(&routed, 0) }
}

fn clock() -> Clock {
    Clock::manual(SystemTime::UNIX_EPOCH + SECOND * 1_800_000_000)
}

fn rate_limited(count: u32, per: Duration) -> UpstreamPolicy {
    let limit = Some(Rate { count, per });
    let rate_limit = RateLimit { limit, max_wait: Duration::ZERO, ..RateLimit::default() };
    UpstreamPolicy { rate_limit, ..UpstreamPolicy::default() }
}

fn guarded(count: u32) -> UpstreamPolicy {
    let statuses = vec![StatusMatch::Exact(StatusCode::UNAUTHORIZED)];
    let rule = BanGuardRule { statuses, limit: Rate { count, per: 600 * SECOND }, trip_at: 0.8 };
    UpstreamPolicy { ban_guard: Some(rule), ..UpstreamPolicy::default() }
}

#[tokio::test]
async fn a_window_continues_after_a_kill_at_any_call() {
    let clock = clock();
    let policy = rate_limited(2, DAY);
    let mut bench = Bench::new(&policy, &Stored::new(), &clock);
    let mut calls = 0;
    for _ in 0..5 {
        clock.advance(HOUR);
        calls += usize::from(bench.acquire(call("/")).await.is_ok());
        bench = bench.after_kill(&policy);
    }
    assert_eq!(calls, 2);
    let rejection = bench.acquire(call("/")).await.err().expect("two a day");
    assert_eq!(rejection, Rejection { reason: RejectReason::RateLimit, left: 20 * HOUR });
    clock.advance(rejection.left);
    assert_eq!(bench.after_kill(&policy).admitted().await, 1);
}

#[tokio::test]
async fn a_kill_uses_up_little_of_a_large_window_and_a_stop_nothing() {
    let (clock, policy) = (clock(), rate_limited(6_400, DAY));
    let bench = Bench::new(&policy, &Stored::new(), &clock);
    for _ in 0..1_000 {
        bench.acquire(call("/")).await.unwrap();
        bench.flush();
    }
    assert!(*bench.disk.flushes.lock() <= 2, "{} calls waited", bench.disk.flushes.lock());
    let killed = bench.after_kill(&policy).admitted().await;
    assert!((5_300..=5_400).contains(&killed), "{killed} of 5,400 are left");
    assert_eq!(bench.after_stop(&policy).admitted().await, 5_400);
}

#[tokio::test]
async fn a_short_window_is_not_stored_and_does_not_wait_for_the_disk() {
    let (clock, policy) = (clock(), rate_limited(2, 59 * SECOND));
    let bench = Bench::new(&policy, &Stored::new(), &clock);
    assert_eq!(bench.admitted().await, 2);
    assert_eq!(bench.after_stop(&policy).admitted().await, 2);
    assert_eq!(*bench.disk.flushes.lock(), 0);
}

#[tokio::test]
async fn each_credential_has_its_own_window_and_expired_ones_are_deleted() {
    let (clock, policy) = (clock(), rate_limited(1, HOUR));
    let bench = Bench::new(&policy, &Stored::new(), &clock);
    for credential in 0..50 {
        bench.acquire(CallContext { credential, ..call("/") }).await.unwrap();
    }
    assert_eq!(bench.disk.rows.lock().len(), 50);
    let after = bench.after_kill(&policy);
    for credential in 0..50 {
        assert!(after.acquire(CallContext { credential, ..call("/") }).await.is_err(), "{credential}");
    }
    clock.advance(HOUR);
    after.flush();
    assert_eq!(after.disk.rows.lock().len(), 0);
}

#[tokio::test]
async fn a_changed_configuration_counts_earlier_calls() {
    let clock = clock();
    let bench = Bench::new(&rate_limited(2, DAY), &Stored::new(), &clock);
    assert_eq!(bench.admitted().await, 2);
    for (policy, left) in [
        (rate_limited(5, DAY), 3),
        (rate_limited(1, DAY), 0),
        (rate_limited(3, HOUR), 1),
        (rate_limited(2, 7 * DAY), 0),
    ] {
        let rows = bench.disk.rows.lock().clone();
        assert_eq!(Bench::new(&policy, &rows, &clock).admitted().await, left, "{:?}", policy.rate_limit);
    }
    let unlimited = Bench::new(&UpstreamPolicy::default(), &bench.disk.rows.lock(), &clock);
    unlimited.acquire(call("/")).await.unwrap();
}

#[tokio::test]
async fn a_ban_guard_continues_its_count_and_its_block_after_a_restart() {
    let (clock, policy) = (clock(), guarded(5));
    let mut bench = Bench::new(&policy, &Stored::new(), &clock);
    for _ in 0..4 {
        bench.complete(call("/"), 401, &[]).await;
        bench = bench.after_kill(&policy);
    }
    let rejection = bench.acquire(call("/")).await.err().expect("four of five");
    assert_eq!(rejection, Rejection { reason: RejectReason::BanGuard, left: 610 * SECOND });
    clock.advance(rejection.left);
    bench = bench.after_kill(&policy);
    bench.complete(call("/"), 200, &[]).await;
    bench.flush();
    assert_eq!(bench.disk.rows.lock().len(), 0, "no response counts any more");
}

#[tokio::test]
async fn a_large_ban_guard_is_not_written_at_once() {
    let (clock, policy) = (clock(), guarded(10_000));
    let bench = Bench::new(&policy, &Stored::new(), &clock);
    for _ in 0..100 {
        bench.complete(call("/"), 401, &[]).await;
    }
    assert_eq!(*bench.disk.nudges.lock(), 0);
    bench.flush();
    assert_eq!(bench.disk.rows.lock().len(), 1);
}

#[tokio::test]
async fn firm_cooldowns_of_every_scope_are_stored_and_soft_ones_are_not() {
    let (clock, policy) = (clock(), UpstreamPolicy::default());
    let retry_after = ("retry-after", "3000");
    let bucket = [retry_after, ("x-ratelimit-bucket", "abcd"), ("x-ratelimit-remaining", "0")];
    let keyed = |key| CallContext { key: Some(key), ..call("/keyed") };
    let bench = Bench::new(&policy, &Stored::new(), &clock);
    bench.complete(CallContext { credential: 1, ..call("/") }, 429, &[retry_after]).await;
    bench.complete(call("/guilds/1000/roles"), 429, &bucket).await;
    bench.complete(keyed(1), 503, &[retry_after]).await;
    bench.complete(keyed(2), 503, &[]).await;
    assert!(*bench.disk.nudges.lock() >= 3);
    clock.advance(1_000 * SECOND);
    let after = bench.after_kill(&policy);
    for blocked in [CallContext { credential: 1, ..call("/x") }, call("/guilds/1000/roles"), keyed(1)] {
        let left = after.acquire(blocked).await.err().expect("the call is blocked").left;
        assert_eq!(left, 2_000 * SECOND);
    }
    let stale = CallContext { has_stale: true, ..keyed(2) };
    for free in [stale, call("/guilds/2000/roles"), call("/users")] {
        assert!(after.acquire(free).await.is_ok());
    }
}

#[tokio::test]
async fn the_cooldown_of_a_host_that_only_a_route_names_is_stored() {
    let clock = clock();
    let bench = Bench::new(&UpstreamPolicy::default(), &Stored::new(), &clock);
    let unnamed = UpstreamTable::new(Vec::new()).lookup(&request_target("/"));
    let mut permit = bench.control.acquire(call("/").at(&unnamed)).await.unwrap();
    let fields = [(http::header::RETRY_AFTER, HeaderValue::from_static("600"))];
    permit.on_response(StatusCode::TOO_MANY_REQUESTS, &fields.into_iter().collect(), None);
    let after = bench.after_kill(&UpstreamPolicy::default());
    assert!(after.control.acquire(call("/").at(&unnamed)).await.is_err());
    assert!(after.acquire(call("/")).await.is_ok(), "an upstream with the same host has its own state");
}

#[tokio::test]
async fn a_limit_lasts_at_most_its_length_after_a_clock_was_set_back() {
    let bench = Bench::new(&rate_limited(1, HOUR), &Stored::new(), &clock());
    bench.acquire(call("/")).await.unwrap();
    bench.complete(CallContext { credential: 1, ..call("/") }, 429, &[("retry-after", "600")]).await;
    let back = Clock::manual(SystemTime::UNIX_EPOCH + SECOND * 1_500_000_000);
    let mut after = Bench::new(&rate_limited(1, HOUR), &bench.disk.rows.lock(), &back);
    for _ in 0..6 {
        assert!(after.acquire(call("/")).await.is_err());
        after.flush();
        // The rows now have dates of this clock, so they age by it over restarts.
        back.advance(HOUR / 6);
        after = after.after_kill(&rate_limited(1, HOUR));
    }
    assert!(after.acquire(call("/")).await.is_ok());
    assert!(after.acquire(CallContext { credential: 1, ..call("/") }).await.is_ok());
}

#[tokio::test]
async fn unreadable_rows_are_counted_and_change_nothing_else() {
    let clock = clock();
    let bench = Bench::new(&rate_limited(2, DAY), &Stored::new(), &clock);
    bench.acquire(call("/")).await.unwrap();
    let mut rows = bench.disk.rows.lock().clone();
    let (key, value) = rows.first_key_value().map(|(k, v)| (k.clone(), v.clone())).unwrap();
    rows.insert([&key[..], b"x"].concat(), value[..value.len() - 1].to_vec());
    rows.insert(b"?".to_vec(), Vec::new());
    let after = Bench::new(&rate_limited(2, DAY), &rows, &clock);
    assert_eq!(after.unreadable, 2);
    assert_eq!(after.admitted().await, 1);
}

#[tokio::test]
async fn without_a_storage_few_changes_are_kept() {
    let (clock, policy) = (clock(), rate_limited(2, DAY));
    let bench = Bench::new(&policy, &Stored::new(), &clock);
    let control = AdmissionControl::new(Telemetry::new(&[], &["api".into()]), Arc::default(), clock);
    let bucket = [("retry-after", "600"), ("x-ratelimit-bucket", "abcd"), ("x-ratelimit-remaining", "0")];
    let bucket = bucket.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    for credential in 1..3 * MAX_LIMITS as u128 {
        let call = CallContext { credential, ..call("/") };
        let mut permit = control.acquire(call.at(&bench.target)).await.unwrap();
        permit.on_response(StatusCode::TOO_MANY_REQUESTS, &bucket.clone().into_iter().collect(), None);
    }
    let upstream = control.registry.get("api").unwrap();
    let state = upstream.limiter.lock();
    assert!(state.unsaved.windows.len() <= 2 * MAX_LIMITS, "{}", state.unsaved.windows.len());
    assert!(state.bucket_shapes.len() <= MAX_LIMITS, "{}", state.bucket_shapes.len());
}

#[tokio::test]
async fn a_process_that_takes_over_adds_the_calls_of_the_other() {
    let (clock, policy) = (clock(), rate_limited(4, DAY));
    let before = Bench::new(&policy, &Stored::new(), &clock);
    before.acquire(call("/")).await.unwrap();
    let after = Bench::new(&policy, &Stored::new(), &clock);
    after.acquire(call("/")).await.unwrap();
    before.registry.close();
    before.flush();
    let rows = before.disk.rows.lock().clone();
    let rows = rows.iter().map(|(key, value)| (&key[..], &value[..]));
    assert_eq!(after.registry.restore(rows, clock.now(), clock.instant()), 0);
    assert_eq!(after.admitted().await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_delays_a_call_but_does_not_block_it() {
    #[derive(Debug)]
    struct Hanging;

    #[async_trait]
    impl LimitStore for Hanging {
        async fn flush(&self) {
            std::future::pending::<()>().await;
        }

        fn flush_soon(&self) {}
    }

    let bench = Bench::new(&rate_limited(2, DAY), &Stored::new(), &clock());
    let registry = Arc::new(UpstreamRegistry::default());
    registry.set_store(Arc::new(Hanging));
    let telemetry = Telemetry::new(&["route".into()], &["api".into()]);
    let control = AdmissionControl::new(telemetry, registry, bench.clock.clone());
    assert!(control.acquire(call("/").at(&bench.target)).await.is_ok());
}
