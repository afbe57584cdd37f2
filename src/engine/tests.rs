//! Tests of the engine with a scripted in-memory origin and a manual clock.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::clock::Clock;
use crate::engine::Engine;
use crate::engine::deps::{EngineDeps, EngineLimits};
use crate::engine::fast_path::FastPath;
use crate::engine::mode::ModeSwitch;
use crate::engine::response::{ClientResponse, EngineResult, ResponseBody};
use crate::engine::router::Router;
use crate::key::{CacheKey, KeyBuilder};
use crate::policy::upstream::ResponseRules;
use crate::policy::{Mode, Policy, RetryPolicy, Ttl};
use crate::route::pattern::{HostPattern, PathPattern, Pattern};
use crate::route::table::{Route, Table};
use crate::semantics::redaction::Redactor;
use crate::semantics::request::ProxyRequest;
use crate::semantics::target::Target;
use crate::semantics::vary::{VariantId, VaryFields};
use crate::store::Store;
use crate::store::tiered::{self, TieredStore};
use crate::stored::StoredResponse;
use crate::telemetry::Telemetry;
use crate::upstream::in_flight_bytes::InFlightBytes;
use crate::upstream::interim::Interims;
use crate::upstream::outcome::classify;
use crate::upstream::outcome::error::UpstreamError;
use crate::upstream::routed_request::RoutedRequest;
use crate::upstream::routing::UpstreamTable;
use crate::upstream::{Body, BodyFraming, Origin, UpstreamRequest, UpstreamResponse};

/// The origin's action for one call, in the order of the calls.
enum Act {
    Respond(StatusCode, &'static [(&'static str, &'static str)], BodyFraming, Script),
    Fail(UpstreamError),
    Panic,
    Hang,
}

type Script = mpsc::UnboundedReceiver<Piece>;

enum Piece {
    Bytes(Bytes),
    End,
}

/// Writes the body of one scripted response.
struct Writer(mpsc::UnboundedSender<Piece>);

impl Writer {
    fn write(&self, bytes: impl Into<Bytes>) {
        self.0.send(Piece::Bytes(bytes.into())).expect("the fill reads");
    }

    fn end(&self) {
        self.0.send(Piece::End).expect("the fill reads");
    }

    /// Resolves once the fill has dropped the body.
    async fn dropped(&self) {
        self.0.closed().await;
    }
}

/// A 200 whose body is sent by the writer.
fn response(fields: &'static [(&'static str, &'static str)], framing: BodyFraming) -> (Writer, Act) {
    let (sender, script) = mpsc::unbounded_channel();
    (Writer(sender), Act::Respond(StatusCode::OK, fields, framing, script))
}

struct Scripted {
    acts: Mutex<VecDeque<Act>>,
    calls: watch::Sender<usize>,
    /// One permit for each call that may continue.
    permits: Semaphore,
    clock: Clock,
}

#[async_trait]
impl Origin for Scripted {
    async fn fetch(&self, _call: &UpstreamRequest) -> Result<UpstreamResponse, UpstreamError> {
        let act = self.acts.lock().pop_front().expect("a call that is in the script");
        self.calls.send_modify(|calls| *calls += 1);
        self.permits.acquire().await.expect("the semaphore stays open").forget();
        match act {
            Act::Respond(status, fields, framing, script) => {
                let headers: HeaderMap = fields
                    .iter()
                    .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)))
                    .collect();
                let now = self.clock.now();
                Ok(UpstreamResponse {
                    body_uninspected: false,
                    status,
                    outcome: classify::response(status, &headers, None, &ResponseRules::default(), now),
                    headers,
                    request_time: now,
                    response_time: now,
                    framing,
                    wait_reason: None,
                    body: Box::new(ScriptedBody(script)),
                    storing_limit: Duration::from_secs(60),
                })
            }
            Act::Fail(failure) => Err(failure),
            Act::Panic => panic!("the origin's future panics"),
            Act::Hang => std::future::pending().await,
        }
    }
}

struct ScriptedBody(Script);

#[async_trait]
impl Body for ScriptedBody {
    async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        match self.0.recv().await {
            Some(Piece::Bytes(bytes)) => Ok(Some(bytes)),
            Some(Piece::End) => Ok(None),
            None => Err(UpstreamError::Cut),
        }
    }
}

struct Bench {
    engine: Arc<Engine>,
    origin: Arc<Scripted>,
    telemetry: Arc<Telemetry>,
    store: Arc<TieredStore>,
    in_flight: Arc<InFlightBytes>,
    router: Router,
}

const LIMITS: EngineLimits = EngineLimits { max_object: 1 << 20, waiters_per_key: 100 };

impl Bench {
    fn new(acts: impl IntoIterator<Item = Act>, limits: EngineLimits) -> Self {
        Self::with_in_flight_limit(acts, limits, 64 << 20)
    }

    /// Creates a bench with this limit for bodies in flight.
    fn with_in_flight_limit(
        acts: impl IntoIterator<Item = Act>,
        limits: EngineLimits,
        in_flight: usize,
    ) -> Self {
        Self::build(acts, limits, in_flight, (PathBuf::new(), 0))
    }

    /// Creates a bench whose store has a disk tier of `disk` bytes at `path`.
    fn on_disk(acts: impl IntoIterator<Item = Act>, path: PathBuf, disk: u64) -> Self {
        Self::build(acts, LIMITS, 64 << 20, (path, disk))
    }

    fn build(
        acts: impl IntoIterator<Item = Act>,
        limits: EngineLimits,
        in_flight: usize,
        (path, disk): (PathBuf, u64),
    ) -> Self {
        let clock = Clock::manual(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let telemetry = Telemetry::new(&["api".into()], &[]);
        let origin = Arc::new(Scripted {
            acts: Mutex::new(acts.into_iter().collect()),
            calls: watch::Sender::new(0),
            permits: Semaphore::new(0),
            clock: clock.clone(),
        });
        let settings = tiered::Settings {
            path,
            memory: 64 << 20,
            disk,
            max_object: limits.max_object,
            sweep_every: Duration::from_secs(60),
            takes_over: false,
            secret: crate::store::state_db::Secret::from_bytes([7; 32]),
        };
        let store = TieredStore::open(settings, clock.clone(), &telemetry);
        let in_flight = InFlightBytes::new(in_flight);
        let key_builder = Arc::new(KeyBuilder::new([7; 32], &[], Redactor::default()));
        let switch = Arc::new(ModeSwitch::new(Mode::Cache));
        let engine = Engine::new(&EngineDeps {
            store: Arc::clone(&store) as Arc<dyn Store>,
            origin: Arc::clone(&origin) as Arc<dyn Origin>,
            telemetry: Arc::clone(&telemetry),
            key_builder: Arc::clone(&key_builder),
            clock,
            limits,
            in_flight: Arc::clone(&in_flight),
            switch: Arc::clone(&switch),
            pending_calls: Arc::default(),
            persistent_facts: Arc::default(),
            via: HeaderValue::from_static("1.1 larder"),
        });
        let route = Route {
            name: "api".into(),
            index: 0,
            pattern: Pattern {
                host: HostPattern::parse("api.example").expect("a host"),
                methods: vec![Method::GET],
                path: PathPattern::any(),
                headers: Vec::new(),
                query: Vec::new(),
            },
            policy: Arc::new(Policy {
                ttl: Ttl::Override(Duration::from_secs(60)),
                retry: RetryPolicy { retries: 0, ..RetryPolicy::default() },
                ..Policy::origin()
            }),
        };
        let router = Router {
            routes: Table::new(vec![route]),
            default_policy: Arc::new(Policy::origin()),
            upstreams: Arc::new(UpstreamTable::new(Vec::new())),
            key_builder,
            switch,
        };
        Self { engine, origin, telemetry, store, in_flight, router }
    }

    fn routed(&self, request: ProxyRequest) -> Arc<RoutedRequest> {
        Arc::new(self.router.route(request, None))
    }

    /// The cache key of [`request`].
    fn key(&self) -> CacheKey {
        self.router.route(request(), None).key.expect("the request is cached")
    }

    /// Lets this many calls continue.
    fn open(&self, calls: usize) {
        self.origin.permits.add_permits(calls);
    }

    async fn reached(&self, calls: usize) {
        let mut seen = self.origin.calls.subscribe();
        seen.wait_for(|seen| *seen >= calls).await.expect("the origin lives");
    }

    fn calls(&self) -> usize {
        *self.origin.calls.borrow()
    }

    fn send(&self) -> JoinHandle<ClientResponse> {
        let (engine, routed) = (Arc::clone(&self.engine), self.routed(request()));
        tokio::spawn(async move {
            match engine.respond(&routed, None, &Interims::new()).await {
                EngineResult::Reply(reply) => *reply,
                EngineResult::Pass(reason) => panic!("passed: {}", reason.token()),
            }
        })
    }

    async fn waiting(&self, clients: usize) {
        while self.engine.waiting() != clients {
            tokio::task::yield_now().await;
        }
    }

    /// The stored body, requested without an upstream call.
    async fn stored(&self) -> Option<Vec<u8>> {
        let mut request = request();
        request.headers.insert("cache-control", HeaderValue::from_static("only-if-cached"));
        match self.engine.respond(&self.routed(request), None, &Interims::new()).await {
            EngineResult::Reply(reply) if reply.status == StatusCode::OK => {
                Some(read(*reply).await.expect("a stored body is whole"))
            }
            EngineResult::Reply(_) => None,
            EngineResult::Pass(reason) => panic!("passed: {}", reason.token()),
        }
    }

    fn counts(&self, series: &str) -> bool {
        self.telemetry.render().lines().any(|line| line == series)
    }
}

fn request() -> ProxyRequest {
    ProxyRequest::get(Target::absolute("http://api.example/x").expect("a target"))
}

async fn read(reply: ClientResponse) -> Result<Vec<u8>, UpstreamError> {
    match reply.body {
        ResponseBody::Empty => Ok(Vec::new()),
        ResponseBody::Whole(bytes) => Ok(bytes.to_vec()),
        ResponseBody::Pieces(pieces) => Ok(pieces.concat()),
        ResponseBody::Growing { mut reader, .. } => {
            let mut all = Vec::new();
            while let Some(piece) = reader.next().await? {
                all.extend_from_slice(&piece);
            }
            Ok(all)
        }
    }
}

/// Fails if `future` never completes. With paused time this takes no real time.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(3600), future).await.expect("the future completes")
}

#[tokio::test(start_paused = true)]
async fn past_the_total_deadline_a_body_is_passed_on_but_not_stored() {
    for fields in [&[][..], &[("set-cookie", "a=b")]] {
        for framing in [BodyFraming::Delimited, BodyFraming::Length(9)] {
            let (origin, act) = response(fields, framing);
            let bench = Bench::new([act], LIMITS);
            bench.open(1);
            let reply = soon(bench.send()).await.unwrap();
            let reading = tokio::spawn(read(reply));
            origin.write("some ");
            tokio::time::sleep(Duration::from_secs(600)).await;
            origin.write("more");
            origin.end();
            assert_eq!(soon(reading).await.unwrap().unwrap(), b"some more", "{framing:?}");
            assert_eq!(bench.stored().await, None, "{framing:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_is_bounded_and_four_waiters_fetch_separately_after_it() {
    let acts = (0..5).map(|_| Act::Hang);
    let bench = Bench::new(acts, LIMITS);
    let pending: Vec<_> = (0..20).map(|_| bench.send()).collect();
    bench.waiting(20).await;
    assert_eq!(bench.calls(), 1);
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(bench.calls(), 1, "not before coalesce.wait");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(bench.calls(), 5);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(bench.calls(), 5, "the others wait for the first fetch");
    drop(pending);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_past_the_bound_gets_the_response_when_it_arrives() {
    let (body, act) = response(&[], BodyFraming::Length(4));
    let bench = Bench::new([act, Act::Hang, Act::Hang, Act::Hang, Act::Hang], LIMITS);
    let pending: Vec<_> = (0..20).map(|_| bench.send()).collect();
    bench.waiting(20).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    bench.open(1);
    body.write("late");
    body.end();
    let mut responses = 0;
    for one in pending {
        // Four of them fetched separately and hang with their own calls.
        if let Ok(reply) = timeout(Duration::from_secs(60), one).await {
            assert_eq!(read(reply.unwrap()).await.unwrap(), b"late");
            responses += 1;
        }
    }
    assert_eq!((responses, bench.calls()), (16, 5));
}

#[tokio::test(start_paused = true)]
async fn a_stalled_reader_is_detached_from_a_body_that_is_not_kept() {
    let (body, act) = response(&[], BodyFraming::Delimited);
    let limits = EngineLimits { max_object: 1000, ..LIMITS };
    let bench = Bench::new([act], limits);
    let (lively, stalled) = (bench.send(), bench.send());
    bench.waiting(2).await;
    bench.open(1);
    let (lively, stalled) = (soon(lively).await.unwrap(), soon(stalled).await.unwrap());
    let reading = tokio::spawn(read(lively));
    for _ in 0..8 {
        body.write(vec![b'x'; 64 << 10]);
    }
    body.end();
    assert_eq!(soon(reading).await.unwrap().unwrap().len(), 8 * (64 << 10));
    assert_eq!(soon(read(stalled)).await, Err(UpstreamError::BodyTimeout), "never a clean end");
    assert_eq!(bench.stored().await, None);
    assert!(bench.counts("larder_not_stored_total{reason=\"too-large\",route=\"api\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn over_the_in_flight_limit_fills_are_neither_shared_nor_stored() {
    let (first, one) = response(&[], BodyFraming::Delimited);
    let (second, two) = response(&[], BodyFraming::Length(3));
    let (third, three) = response(&[], BodyFraming::Length(3));
    let bench = Bench::with_in_flight_limit([one, two, three], LIMITS, 1000);
    bench.open(3);
    // One body without reader uses up the budget.
    let unread = soon(bench.send()).await.unwrap();
    first.write(vec![b'x'; 2000]);
    while !bench.in_flight.is_full() {
        tokio::task::yield_now().await;
    }
    let pending = [bench.send(), bench.send()];
    soon(bench.reached(3)).await;
    for (writer, text) in [(&second, "two"), (&third, "thr")] {
        writer.write(text);
        writer.end();
    }
    let mut bodies = Vec::new();
    for one in pending {
        bodies.push(soon(read(soon(one).await.unwrap())).await.unwrap());
    }
    bodies.sort();
    assert_eq!(bodies, [b"thr".to_vec(), b"two".to_vec()], "each request gets its own response");
    assert_eq!(bench.stored().await, None);
    assert!(bench.counts("larder_not_stored_total{reason=\"no-room\",route=\"api\"} 2"));
    // With free capacity again the key collapses as before.
    drop(unread);
    soon(first.dropped()).await;
    while bench.in_flight.is_full() {
        tokio::task::yield_now().await;
    }
    let fetches = &bench.engine.fills.in_flight_fetches;
    assert!(!fetches.is_collapsing_disabled(&bench.key(), bench.engine.now()));
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_origins_future_leaves_no_client_waiting() {
    let (body, good) = response(&[], BodyFraming::Length(4));
    let bench = Bench::new([Act::Panic, good], LIMITS);
    let pending: Vec<_> = (0..10).map(|_| bench.send()).collect();
    bench.waiting(10).await;
    bench.open(1);
    for one in pending {
        let reply = soon(one).await.unwrap();
        assert_eq!((reply.status, reply.error), (StatusCode::INTERNAL_SERVER_ERROR, Some("internal")));
    }
    assert_eq!((bench.engine.waiting(), bench.calls()), (0, 1));
    bench.open(1);
    body.write("good");
    body.end();
    let reply = soon(bench.send()).await.unwrap();
    assert_eq!(read(reply).await.unwrap(), b"good", "no request joins the failed fill");
}

#[tokio::test(start_paused = true)]
async fn a_fill_without_readers_continues_only_if_it_will_be_stored() {
    for (fields, status, stored) in [
        (&[][..], StatusCode::OK, true),
        (&[("set-cookie", "a=b")], StatusCode::OK, false),
        (&[("content-type", "text/event-stream")], StatusCode::OK, false),
        (&[], StatusCode::SERVICE_UNAVAILABLE, false),
    ] {
        let (sender, script) = mpsc::unbounded_channel();
        let body = Writer(sender);
        let act = Act::Respond(status, fields, BodyFraming::Delimited, script);
        let bench = Bench::new([act], LIMITS);
        bench.open(1);
        let reply = soon(bench.send()).await.unwrap();
        body.write("some ");
        drop(reply);
        if stored {
            body.write("more");
            body.end();
            while bench.stored().await.as_deref() != Some(b"some more") {
                tokio::task::yield_now().await;
            }
        } else {
            soon(body.dropped()).await;
            assert_eq!(bench.stored().await, None, "{fields:?} {status}");
            assert_eq!(bench.engine.waiting(), 0);
        }
    }
}

/// RFC 9111 §4.4: a request after the change neither joins the fetch nor gets the old response.
#[tokio::test(start_paused = true)]
async fn an_invalidation_during_a_fill_takes_precedence() {
    let (old, one) = response(&[], BodyFraming::Length(3));
    let (new, two) = response(&[], BodyFraming::Length(3));
    let bench = Bench::new([one, two], LIMITS);
    let early = bench.send();
    soon(bench.reached(1)).await;
    let post = ProxyRequest { method: Method::POST, ..request() };
    bench.engine.purger.invalidate(&post, StatusCode::OK, &HeaderMap::new(), || ()).await;
    let late = bench.send();
    soon(bench.reached(2)).await;
    bench.open(2);
    for (writer, text) in [(&old, "old"), (&new, "new")] {
        writer.write(text);
        writer.end();
    }
    assert_eq!(read(soon(early).await.unwrap()).await.unwrap(), b"old");
    assert_eq!(read(soon(late).await.unwrap()).await.unwrap(), b"new");
    assert_eq!(bench.stored().await.as_deref(), Some(&b"new"[..]));
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_shared_and_the_next_request_makes_a_new_call() {
    let bench = Bench::new([Act::Fail(UpstreamError::Refused), Act::Fail(UpstreamError::Dns)], LIMITS);
    let pending: Vec<_> = (0..10).map(|_| bench.send()).collect();
    bench.waiting(10).await;
    bench.open(2);
    for one in pending {
        assert_eq!(soon(one).await.unwrap().error, Some("connect-refused"));
    }
    assert_eq!(soon(bench.send()).await.unwrap().error, Some("dns"));
    assert_eq!(bench.calls(), 2);
}

/// A body is not stored if its framing cannot reveal a truncation; a body that is too short is truncated.
#[tokio::test(start_paused = true)]
async fn only_a_body_known_to_be_complete_is_stored() {
    for (framing, end, stored) in [
        (BodyFraming::Length(4), true, true),
        (BodyFraming::Delimited, true, true),
        (BodyFraming::Length(5), true, false),
        (BodyFraming::Length(5), false, false),
        (BodyFraming::Delimited, false, false),
        (BodyFraming::Close, true, false),
    ] {
        let (body, act) = response(&[], framing);
        let bench = Bench::new([act], LIMITS);
        bench.open(1);
        let reply = soon(bench.send()).await.unwrap();
        body.write("four");
        if end {
            body.end();
        }
        drop(body);
        let seen = soon(read(reply)).await;
        assert_eq!(seen.is_ok(), end && framing != BodyFraming::Length(5), "{framing:?} {end}");
        assert_eq!(bench.stored().await.is_some(), stored, "{framing:?} {end}");
    }
}

/// RFC 9111 §4.2.3: the age on arrival is that of the received `Age`, although the field is not stored.
#[tokio::test]
async fn an_age_that_is_not_stored_counts_all_the_same() {
    let fields = &[("age", "90"), ("cache-control", "max-age=100, no-cache=\"age\"")];
    let (body, act) = response(fields, BodyFraming::Length(3));
    let bench = Bench::new([act], LIMITS);
    bench.open(1);
    body.write("old");
    body.end();
    assert_eq!(read(bench.send().await.unwrap()).await.unwrap(), b"old");
    let hit = bench.send().await.unwrap();
    assert_eq!(hit.headers.get("age").map(HeaderValue::as_bytes), Some(&b"90"[..]));
}

/// The fast path's lookup is the only one in memory, with and without a disk below.
#[tokio::test]
async fn a_cold_miss_looks_into_memory_once() {
    for disk in [0, 64 << 20] {
        let (body, act) = response(&[], BodyFraming::Length(4));
        let dir = tempfile::tempdir().expect("a directory");
        let bench = Bench::on_disk([act], dir.path().join("store"), disk);
        bench.open(1);
        let routed = bench.routed(request());
        let FastPath::Miss(looked_up) = bench.engine.fast_path(&routed) else {
            panic!("nothing is stored");
        };
        assert!(looked_up.is_some());
        body.write("cold");
        body.end();
        let result = bench.engine.respond(&routed, looked_up, &Interims::new()).await;
        assert_eq!(bench.store.memory_lookups(), 1, "disk of {disk} bytes");
        let EngineResult::Reply(reply) = result else { panic!("the engine responds") };
        assert_eq!(read(*reply).await.unwrap(), b"cold");
    }
}

#[tokio::test]
async fn a_part_stored_under_the_key_of_a_whole_is_not_served_as_one() {
    let (whole, act) = response(&[], BodyFraming::Delimited);
    let bench = Bench::new([act], LIMITS);
    let fields = [("content-range", "bytes 0-3/20"), ("etag", "\"a\"")]
        .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)));
    let now = bench.engine.clock.now();
    let part = StoredResponse::new(
        StatusCode::PARTIAL_CONTENT,
        &HeaderMap::from_iter(fields),
        Bytes::from_static(b"part"),
        (VaryFields::default(), VariantId::SOLE),
        (now, now),
    );
    let (store, key) = (&bench.store, bench.key());
    store.put(&key, Arc::new(part), store.watch(key.target_id()).epoch, None);
    assert_eq!(bench.stored().await, None);
    bench.open(1);
    let reply = bench.send();
    whole.write("whole");
    whole.end();
    assert_eq!(read(reply.await.unwrap()).await.unwrap(), b"whole");
    assert_eq!(bench.stored().await.unwrap(), b"whole");
}
