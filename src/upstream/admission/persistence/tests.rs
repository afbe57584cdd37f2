//! Limits from one larder to the next, through rows that a test carries over.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use parking_lot::Mutex;

use super::*;
use crate::clock::Clock;
use crate::config::env::Env;
use crate::config::{self, Upstream};
use crate::policy::upstream::{BanGuardRule, Rate, RateLimit, UpstreamPolicy};
use crate::policy::{Policy, StatusMatch};
use crate::semantics::target::Target;
use crate::telemetry::Telemetry;
use crate::upstream::admission::call::CallContext;
use crate::upstream::admission::{AdmissionControl, Permit};
use crate::upstream::rejection::{RejectReason, Rejection};
use crate::upstream::routing::{UpstreamTable, UpstreamTarget};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Rows on a disk, by their keys.
type Stored = std::collections::BTreeMap<Vec<u8>, Vec<u8>>;

/// A disk that asks when it is waited for, as the store's thread does.
#[derive(Debug, Default)]
struct Kept {
    rows: Mutex<Stored>,
    settled: Mutex<usize>,
    nudged: Mutex<usize>,
}

/// [`Kept`], which asks these.
struct Asking(Arc<Kept>, std::sync::Weak<UpstreamRegistry>, Clock);

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asking")
    }
}

impl Asking {
    fn ask(&self) {
        let Some(traffics) = self.1.upgrade() else { return };
        let mut rows = self.0.rows.lock();
        for UsageRow { key, value } in traffics.changed(self.2.now(), self.2.instant()) {
            match value {
                Some(value) => drop(rows.insert(key, value)),
                None => drop(rows.remove(&key)),
            }
        }
    }
}

#[async_trait]
impl LimitStore for Asking {
    async fn settle(&self) {
        *self.0.settled.lock() += 1;
        self.ask();
    }

    fn nudge(&self) {
        *self.0.nudged.lock() += 1;
        self.ask();
    }
}

/// A larder that has just started, with what `rows` say.
struct Bench {
    gate: AdmissionControl,
    traffics: Arc<UpstreamRegistry>,
    kept: Arc<Kept>,
    clock: Clock,
    place: UpstreamTarget,
    unread: usize,
}

impl Bench {
    fn new(conduct: &UpstreamPolicy, rows: &Stored, clock: &Clock) -> Self {
        let yaml = "{ version: 1, upstreams: { api: { hosts: [api.example] } } }";
        let config = config::parse("proxy.yaml", yaml, &Env::default()).unwrap();
        let mut upstream: Arc<Upstream> = Arc::clone(&config.upstreams[0]);
        Arc::make_mut(&mut upstream).conduct = conduct.clone();
        let traffics = Arc::new(UpstreamRegistry::default());
        let found = rows.iter().map(|(key, value)| (&key[..], &value[..]));
        let unread = traffics.restore(found, clock.now(), clock.instant());
        let kept = Arc::new(Kept { rows: Mutex::new(rows.clone()), ..Kept::default() });
        let asking = Asking(Arc::clone(&kept), Arc::downgrade(&traffics), clock.clone());
        traffics.keep_in(Arc::new(asking));
        let account = Telemetry::new(&["route".into()], &["api".into()]);
        let gate = AdmissionControl::new(account, Arc::clone(&traffics), clock.clone());
        let place = UpstreamTable::new(vec![upstream]).place(&target("/"));
        Self { gate, traffics, kept, clock: clock.clone(), place, unread }
    }

    /// A larder that starts after this one was killed.
    fn killed(&self, conduct: &UpstreamPolicy) -> Self {
        Self::new(conduct, &self.kept.rows.lock(), &self.clock)
    }

    /// A larder that starts after this one has stopped.
    fn stopped(&self, conduct: &UpstreamPolicy) -> Self {
        self.traffics.close();
        self.asked();
        self.killed(conduct)
    }

    /// The disk asks, as it does several times a second.
    fn asked(&self) {
        let (kept, traffics) = (Arc::clone(&self.kept), Arc::downgrade(&self.traffics));
        Asking(kept, traffics, self.clock.clone()).ask();
    }

    async fn enter(&self, knock: CallContext) -> Result<Permit, Rejection> {
        self.gate.acquire(&self.place, knock).await
    }

    async fn answered(&self, knock: CallContext, status: u16, fields: &[(&'static str, &str)]) {
        let fields: HeaderMap = fields
            .iter()
            .map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
            })
            .collect();
        let mut pass = self.enter(knock).await.expect("it passes");
        pass.answered(StatusCode::from_u16(status).unwrap(), &fields, None);
    }

    /// How many calls pass at once.
    async fn passes(&self) -> usize {
        let mut passed = 0;
        while self.enter(knock("/")).await.is_ok() {
            passed += 1;
        }
        passed
    }
}

fn target(path: &str) -> Target {
    Target::absolute(&format!("http://api.example{path}")).unwrap()
}

fn knock(path: &str) -> CallContext {
    CallContext::new(0, &Policy::origin(), &Method::GET, &target(path), 0)
}

fn clock() -> Clock {
    Clock::by_hand(SystemTime::UNIX_EPOCH + SECOND * 1_800_000_000)
}

fn paced(count: u32, per: Duration) -> UpstreamPolicy {
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
async fn a_window_goes_on_after_a_kill_at_any_call() {
    let clock = clock();
    let conduct = paced(2, DAY);
    let mut bench = Bench::new(&conduct, &Stored::new(), &clock);
    let mut calls = 0;
    for _ in 0..5 {
        clock.advance(HOUR);
        calls += usize::from(bench.enter(knock("/")).await.is_ok());
        bench = bench.killed(&conduct);
    }
    assert_eq!(calls, 2);
    let held = bench.enter(knock("/")).await.err().expect("two a day");
    assert_eq!(held, Rejection { cause: RejectReason::Pace, left: 20 * HOUR });
    clock.advance(held.left);
    assert_eq!(bench.killed(&conduct).passes().await, 1);
}

#[tokio::test]
async fn a_kill_uses_up_a_little_of_a_large_window_and_a_stop_nothing() {
    let (clock, conduct) = (clock(), paced(6_400, DAY));
    let bench = Bench::new(&conduct, &Stored::new(), &clock);
    for _ in 0..1_000 {
        bench.enter(knock("/")).await.unwrap();
        bench.asked();
    }
    assert!(*bench.kept.settled.lock() <= 2, "{} calls waited", bench.kept.settled.lock());
    let killed = bench.killed(&conduct).passes().await;
    assert!((5_300..=5_400).contains(&killed), "{killed} of 5,400 are left");
    assert_eq!(bench.stopped(&conduct).passes().await, 5_400);
}

#[tokio::test]
async fn a_short_window_is_on_no_disk_and_waits_for_none() {
    let (clock, conduct) = (clock(), paced(2, 59 * SECOND));
    let bench = Bench::new(&conduct, &Stored::new(), &clock);
    assert_eq!(bench.passes().await, 2);
    assert_eq!(bench.stopped(&conduct).passes().await, 2);
    assert_eq!(*bench.kept.settled.lock(), 0);
}

#[tokio::test]
async fn each_credential_has_its_own_window_and_those_that_are_over_leave_the_disk() {
    let (clock, conduct) = (clock(), paced(1, HOUR));
    let bench = Bench::new(&conduct, &Stored::new(), &clock);
    for credential in 0..50 {
        bench.enter(CallContext { credential, ..knock("/") }).await.unwrap();
    }
    assert_eq!(bench.kept.rows.lock().len(), 50);
    let after = bench.killed(&conduct);
    for credential in 0..50 {
        assert!(
            after.enter(CallContext { credential, ..knock("/") }).await.is_err(),
            "{credential}"
        );
    }
    clock.advance(HOUR);
    after.asked();
    assert_eq!(after.kept.rows.lock().len(), 0);
}

#[tokio::test]
async fn a_configuration_that_changed_counts_the_calls_before_it() {
    let clock = clock();
    let bench = Bench::new(&paced(2, DAY), &Stored::new(), &clock);
    assert_eq!(bench.passes().await, 2);
    for (conduct, left) in
        [(paced(5, DAY), 3), (paced(1, DAY), 0), (paced(3, HOUR), 1), (paced(2, 7 * DAY), 0)]
    {
        let rows = bench.kept.rows.lock().clone();
        assert_eq!(
            Bench::new(&conduct, &rows, &clock).passes().await,
            left,
            "{:?}",
            conduct.rate_limit
        );
    }
    let free = Bench::new(&UpstreamPolicy::default(), &bench.kept.rows.lock(), &clock);
    free.enter(knock("/")).await.unwrap();
}

#[tokio::test]
async fn a_ban_guard_counts_on_and_what_it_holds_stays_held() {
    let (clock, conduct) = (clock(), guarded(5));
    let mut bench = Bench::new(&conduct, &Stored::new(), &clock);
    for _ in 0..4 {
        bench.answered(knock("/"), 401, &[]).await;
        bench = bench.killed(&conduct);
    }
    let held = bench.enter(knock("/")).await.err().expect("four of five");
    assert_eq!(held, Rejection { cause: RejectReason::InvalidRequests, left: 610 * SECOND });
    clock.advance(held.left);
    bench = bench.killed(&conduct);
    bench.answered(knock("/"), 200, &[]).await;
    bench.asked();
    assert_eq!(bench.kept.rows.lock().len(), 0, "nothing of it counts any more");
}

#[tokio::test]
async fn a_large_guard_is_written_in_its_turn() {
    let (clock, conduct) = (clock(), guarded(10_000));
    let bench = Bench::new(&conduct, &Stored::new(), &clock);
    for _ in 0..100 {
        bench.answered(knock("/"), 401, &[]).await;
    }
    assert_eq!(*bench.kept.nudged.lock(), 0);
    bench.asked();
    assert_eq!(bench.kept.rows.lock().len(), 1);
}

#[tokio::test]
async fn firm_holds_of_every_reach_stay_and_soft_ones_go() {
    let (clock, conduct) = (clock(), UpstreamPolicy::default());
    let word = ("retry-after", "3000");
    let bucket = [word, ("x-ratelimit-bucket", "abcd"), ("x-ratelimit-remaining", "0")];
    let keyed = |key| CallContext { key: Some(key), ..knock("/keyed") };
    let bench = Bench::new(&conduct, &Stored::new(), &clock);
    bench.answered(CallContext { credential: 1, ..knock("/") }, 429, &[word]).await;
    bench.answered(knock("/guilds/1000/roles"), 429, &bucket).await;
    bench.answered(keyed(1), 503, &[word]).await;
    bench.answered(keyed(2), 503, &[]).await;
    assert!(*bench.kept.nudged.lock() >= 3);
    clock.advance(1_000 * SECOND);
    let after = bench.killed(&conduct);
    for held in
        [CallContext { credential: 1, ..knock("/x") }, knock("/guilds/1000/roles"), keyed(1)]
    {
        let left = after.enter(held).await.err().expect("it is held").left;
        assert_eq!(left, 2_000 * SECOND);
    }
    let stale = CallContext { yields: true, ..keyed(2) };
    for free in [stale, knock("/guilds/2000/roles"), knock("/users")] {
        assert!(after.enter(free).await.is_ok());
    }
}

#[tokio::test]
async fn a_host_that_only_a_route_names_stays_held() {
    let clock = clock();
    let bench = Bench::new(&UpstreamPolicy::default(), &Stored::new(), &clock);
    let unnamed = UpstreamTable::new(Vec::new()).place(&target("/"));
    let mut pass = bench.gate.acquire(&unnamed, knock("/")).await.unwrap();
    let fields = [(http::header::RETRY_AFTER, HeaderValue::from_static("600"))];
    pass.answered(StatusCode::TOO_MANY_REQUESTS, &fields.into_iter().collect(), None);
    let after = bench.killed(&UpstreamPolicy::default());
    assert!(after.gate.acquire(&unnamed, knock("/")).await.is_err());
    assert!(after.enter(knock("/")).await.is_ok(), "an upstream of the same host is another");
}

#[tokio::test]
async fn a_clock_that_was_set_back_locks_a_limit_for_its_length_and_no_longer() {
    let bench = Bench::new(&paced(1, HOUR), &Stored::new(), &clock());
    bench.enter(knock("/")).await.unwrap();
    bench
        .answered(CallContext { credential: 1, ..knock("/") }, 429, &[("retry-after", "600")])
        .await;
    let back = Clock::by_hand(SystemTime::UNIX_EPOCH + SECOND * 1_500_000_000);
    let mut after = Bench::new(&paced(1, HOUR), &bench.kept.rows.lock(), &back);
    for _ in 0..6 {
        assert!(after.enter(knock("/")).await.is_err());
        after.asked();
        // The rows are dated by this clock now: they grow old by it over restarts.
        back.advance(HOUR / 6);
        after = after.killed(&paced(1, HOUR));
    }
    assert!(after.enter(knock("/")).await.is_ok());
    assert!(after.enter(CallContext { credential: 1, ..knock("/") }).await.is_ok());
}

#[tokio::test]
async fn rows_that_cannot_be_read_are_counted_and_cost_nothing_else() {
    let clock = clock();
    let bench = Bench::new(&paced(2, DAY), &Stored::new(), &clock);
    bench.enter(knock("/")).await.unwrap();
    let mut rows = bench.kept.rows.lock().clone();
    let (key, value) = rows.first_key_value().map(|(k, v)| (k.clone(), v.clone())).unwrap();
    rows.insert([&key[..], b"x"].concat(), value[..value.len() - 1].to_vec());
    rows.insert(b"?".to_vec(), Vec::new());
    let after = Bench::new(&paced(2, DAY), &rows, &clock);
    assert_eq!(after.unread, 2);
    assert_eq!(after.passes().await, 1);
}

#[tokio::test]
async fn where_no_disk_asks_little_is_remembered_for_it() {
    let (clock, conduct) = (clock(), paced(2, DAY));
    let bench = Bench::new(&conduct, &Stored::new(), &clock);
    let gate = AdmissionControl::new(Telemetry::new(&[], &["api".into()]), Arc::default(), clock);
    let bucket =
        [("retry-after", "600"), ("x-ratelimit-bucket", "abcd"), ("x-ratelimit-remaining", "0")];
    let bucket = bucket
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    for credential in 1..3 * MOST as u128 {
        let knock = CallContext { credential, ..knock("/") };
        let mut pass = gate.acquire(&bench.place, knock).await.unwrap();
        pass.answered(StatusCode::TOO_MANY_REQUESTS, &bucket.clone().into_iter().collect(), None);
    }
    let traffic = gate.traffics.known("api").unwrap();
    let state = traffic.state.lock();
    assert!(state.unsaved.windows.len() <= 2 * MOST, "{}", state.unsaved.windows.len());
    assert!(state.held_shapes.len() <= MOST, "{}", state.held_shapes.len());
}

#[tokio::test]
async fn a_larder_that_takes_over_adds_what_the_other_let_out() {
    let (clock, conduct) = (clock(), paced(4, DAY));
    let before = Bench::new(&conduct, &Stored::new(), &clock);
    before.enter(knock("/")).await.unwrap();
    let after = Bench::new(&conduct, &Stored::new(), &clock);
    after.enter(knock("/")).await.unwrap();
    before.traffics.close();
    before.asked();
    let rows = before.kept.rows.lock().clone();
    let rows = rows.iter().map(|(key, value)| (&key[..], &value[..]));
    assert_eq!(after.traffics.restore(rows, clock.now(), clock.instant()), 0);
    assert_eq!(after.passes().await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_costs_a_moment_and_no_call() {
    #[derive(Debug)]
    struct Hanging;

    #[async_trait]
    impl LimitStore for Hanging {
        async fn settle(&self) {
            std::future::pending::<()>().await;
        }

        fn nudge(&self) {}
    }

    let bench = Bench::new(&paced(2, DAY), &Stored::new(), &clock());
    let traffics = Arc::new(UpstreamRegistry::default());
    traffics.keep_in(Arc::new(Hanging));
    let account = Telemetry::new(&["route".into()], &["api".into()]);
    let gate = AdmissionControl::new(account, traffics, bench.clock.clone());
    assert!(gate.acquire(&bench.place, knock("/")).await.is_ok());
}
