//! The engine against a scripted origin in memory, with time that the tests turn.

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
use crate::engine::mode::ModeSwitch;
use crate::engine::response::{ClientResponse, EngineResult, ResponseBody};
use crate::engine::{Engine, EngineDeps, EngineLimits};
use crate::key::KeyBuilder;
use crate::policy::upstream::ResponseRules;
use crate::policy::{Mode, Policy, RetryPolicy, Ttl};
use crate::route::pattern::{HostPattern, PathPattern, Pattern};
use crate::route::table::Route;
use crate::semantics::redaction::Redactor;
use crate::semantics::request::ProxyRequest;
use crate::semantics::target::Target;
use crate::semantics::vary::{VariantId, VaryFields};
use crate::store::tiered::{self, TieredStore};
use crate::stored::StoredResponse;
use crate::telemetry::Telemetry;
use crate::upstream::classify;
use crate::upstream::error::UpstreamError;
use crate::upstream::in_flight_bytes::InFlightBytes;
use crate::upstream::interim::Interims;
use crate::upstream::{Body, BodyFraming, Origin, UpstreamRequest, UpstreamResponse};

/// What the origin does with one call, in the order of the calls.
enum Act {
    Answer(StatusCode, &'static [(&'static str, &'static str)], BodyFraming, Script),
    Fail(UpstreamError),
    Panic,
    Hang,
}

type Script = mpsc::UnboundedReceiver<Piece>;

enum Piece {
    Bytes(Bytes),
    End,
}

/// Writes the body of one scripted answer.
struct Writer(mpsc::UnboundedSender<Piece>);

impl Writer {
    fn write(&self, bytes: impl Into<Bytes>) {
        self.0.send(Piece::Bytes(bytes.into())).expect("the fill reads");
    }

    fn end(&self) {
        self.0.send(Piece::End).expect("the fill reads");
    }

    /// Resolves once the fill has let go of the body.
    async fn let_go(&self) {
        self.0.closed().await;
    }
}

/// A 200 whose body the writer sends.
fn answer(fields: &'static [(&'static str, &'static str)], framing: BodyFraming) -> (Writer, Act) {
    let (sender, script) = mpsc::unbounded_channel();
    (Writer(sender), Act::Answer(StatusCode::OK, fields, framing, script))
}

struct Scripted {
    acts: Mutex<VecDeque<Act>>,
    calls: watch::Sender<usize>,
    /// One permit for each call that may go on.
    gate: Semaphore,
    clock: Clock,
}

#[async_trait]
impl Origin for Scripted {
    async fn fetch(&self, _call: &UpstreamRequest) -> Result<UpstreamResponse, UpstreamError> {
        let act = self.acts.lock().pop_front().expect("a call that the script knows");
        self.calls.send_modify(|calls| *calls += 1);
        self.gate.acquire().await.expect("the gate stays").forget();
        match act {
            Act::Answer(status, fields, framing, script) => {
                let headers: HeaderMap = fields
                    .iter()
                    .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)))
                    .collect();
                let now = self.clock.now();
                Ok(UpstreamResponse {
                    unread: false,
                    status,
                    verdict: classify::answer(
                        status,
                        &headers,
                        None,
                        &ResponseRules::default(),
                        now,
                    ),
                    headers,
                    request_time: now,
                    response_time: now,
                    framing,
                    waited: None,
                    body: Box::new(ScriptedBody(script)),
                    total: Duration::from_secs(60),
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
    account: Arc<Telemetry>,
    route: Arc<Route>,
}

const BOUNDS: EngineLimits = EngineLimits { max_object: 1 << 20, waiters_per_key: 100 };

impl Bench {
    fn new(acts: impl IntoIterator<Item = Act>, bounds: EngineLimits) -> Self {
        Self::within(acts, bounds, 64 << 20)
    }

    /// With this cap of bodies in flight.
    fn within(acts: impl IntoIterator<Item = Act>, bounds: EngineLimits, in_flight: usize) -> Self {
        let clock = Clock::by_hand(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let account = Telemetry::new(&["api".into()], &[]);
        let origin = Arc::new(Scripted {
            acts: Mutex::new(acts.into_iter().collect()),
            calls: watch::Sender::new(0),
            gate: Semaphore::new(0),
            clock: clock.clone(),
        });
        let settings = tiered::Settings {
            path: PathBuf::new(),
            memory: 64 << 20,
            disk: 0,
            max_object: bounds.max_object,
            sweep_every: Duration::from_secs(60),
            secret: crate::store::state_db::Secret::from_bytes([7; 32]),
        };
        let store = TieredStore::open(settings, clock.clone(), &account);
        let engine = Engine::new(EngineDeps {
            store,
            origin: Arc::clone(&origin) as Arc<dyn Origin>,
            account: Arc::clone(&account),
            keyring: Arc::new(KeyBuilder::new([7; 32], &[], Redactor::default())),
            clock,
            bounds,
            in_flight: InFlightBytes::new(in_flight),
            switch: Arc::new(ModeSwitch::new(Mode::Cache)),
            underway: Arc::default(),
            remembered: Arc::default(),
            via: HeaderValue::from_static("1.1 larder"),
        });
        let route = Arc::new(Route {
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
        });
        Self { engine, origin, account, route }
    }

    /// Lets this many calls go on.
    fn open(&self, calls: usize) {
        self.origin.gate.add_permits(calls);
    }

    async fn reached(&self, calls: usize) {
        let mut seen = self.origin.calls.subscribe();
        seen.wait_for(|seen| *seen >= calls).await.expect("the origin lives");
    }

    fn calls(&self) -> usize {
        *self.origin.calls.borrow()
    }

    fn ask(&self) -> JoinHandle<ClientResponse> {
        let (engine, route) = (Arc::clone(&self.engine), Arc::clone(&self.route));
        tokio::spawn(async move {
            let mut asked = asked();
            match engine.answer(&mut asked, &route, &Interims::new()).await {
                EngineResult::Reply(reply) => *reply,
                EngineResult::Pass(why) => panic!("passed: {}", why.token()),
            }
        })
    }

    async fn waiting(&self, clients: usize) {
        while self.engine.waiting() != clients {
            tokio::task::yield_now().await;
        }
    }

    /// Whether a value is stored, without asking the origin.
    async fn stored(&self) -> Option<Vec<u8>> {
        let mut asked = asked();
        asked.headers.insert("cache-control", HeaderValue::from_static("only-if-cached"));
        match self.engine.answer(&mut asked, &self.route, &Interims::new()).await {
            EngineResult::Reply(reply) if reply.status == StatusCode::OK => {
                Some(read(*reply).await.expect("a stored body is whole"))
            }
            EngineResult::Reply(_) => None,
            EngineResult::Pass(why) => panic!("passed: {}", why.token()),
        }
    }

    fn counts(&self, series: &str) -> bool {
        self.account.render().lines().any(|line| line == series)
    }
}

fn asked() -> ProxyRequest {
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

/// With paused time this costs nothing; it says that what follows would otherwise never happen.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(3600), what).await.expect("it happens")
}

#[tokio::test(start_paused = true)]
async fn past_the_total_deadline_a_body_flows_on_and_is_not_kept() {
    for fields in [&[][..], &[("set-cookie", "a=b")]] {
        for framing in [BodyFraming::Marked, BodyFraming::Length(9)] {
            let (origin, act) = answer(fields, framing);
            let bench = Bench::new([act], BOUNDS);
            bench.open(1);
            let reply = soon(bench.ask()).await.unwrap();
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
async fn a_wait_is_bounded_and_four_ask_for_themselves_after_it() {
    let acts = (0..5).map(|_| Act::Hang);
    let bench = Bench::new(acts, BOUNDS);
    let asking: Vec<_> = (0..20).map(|_| bench.ask()).collect();
    bench.waiting(20).await;
    assert_eq!(bench.calls(), 1);
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(bench.calls(), 1, "not before coalesce.wait");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(bench.calls(), 5);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(bench.calls(), 5, "the others wait for what the first brings");
    drop(asking);
}

#[tokio::test(start_paused = true)]
async fn who_waits_past_the_bound_takes_the_answer_when_it_comes() {
    let (body, act) = answer(&[], BodyFraming::Length(4));
    let bench = Bench::new([act, Act::Hang, Act::Hang, Act::Hang, Act::Hang], BOUNDS);
    let asking: Vec<_> = (0..20).map(|_| bench.ask()).collect();
    bench.waiting(20).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    bench.open(1);
    body.write("late");
    body.end();
    let mut answered = 0;
    for one in asking {
        // Four of them asked for themselves, and hang with their own calls.
        if let Ok(reply) = timeout(Duration::from_secs(60), one).await {
            assert_eq!(read(reply.unwrap()).await.unwrap(), b"late");
            answered += 1;
        }
    }
    assert_eq!((answered, bench.calls()), (16, 5));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_nothing_is_detached_from_what_is_not_kept() {
    let (body, act) = answer(&[], BodyFraming::Marked);
    let bounds = EngineLimits { max_object: 1000, ..BOUNDS };
    let bench = Bench::new([act], bounds);
    let (lively, stalled) = (bench.ask(), bench.ask());
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
async fn beyond_the_cap_of_bodies_in_flight_fills_are_unshared_and_unstored() {
    let (first, one) = answer(&[], BodyFraming::Marked);
    let (second, two) = answer(&[], BodyFraming::Length(3));
    let (third, three) = answer(&[], BodyFraming::Length(3));
    let bench = Bench::within([one, two, three], BOUNDS, 1000);
    bench.open(3);
    // One whose body nobody reads spends the budget.
    let holding = soon(bench.ask()).await.unwrap();
    first.write(vec![b'x'; 2000]);
    while !bench.engine.in_flight.is_spent() {
        tokio::task::yield_now().await;
    }
    let asking = [bench.ask(), bench.ask()];
    soon(bench.reached(3)).await;
    for (writer, text) in [(&second, "two"), (&third, "thr")] {
        writer.write(text);
        writer.end();
    }
    let mut bodies = Vec::new();
    for one in asking {
        bodies.push(soon(read(soon(one).await.unwrap())).await.unwrap());
    }
    bodies.sort();
    assert_eq!(bodies, [b"thr".to_vec(), b"two".to_vec()], "each its own");
    assert_eq!(bench.stored().await, None);
    assert!(bench.counts("larder_not_stored_total{reason=\"no-room\",route=\"api\"} 2"));
    // When there is room again, nothing is left of it: the key collapses as before.
    drop(holding);
    soon(first.let_go()).await;
    while bench.engine.in_flight.is_spent() {
        tokio::task::yield_now().await;
    }
    assert!(!bench.engine.flights.is_collapsing_disabled(&key(&bench), bench.engine.clock.now()));
}

fn key(bench: &Bench) -> crate::key::CacheKey {
    let mut asked = asked();
    crate::semantics::accept_encoding::reduce(&mut asked.headers);
    bench.engine.keyring.key(&asked, &bench.route.policy)
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_origins_future_leaves_nobody_waiting_then_or_later() {
    let (body, good) = answer(&[], BodyFraming::Length(4));
    let bench = Bench::new([Act::Panic, good], BOUNDS);
    let asking: Vec<_> = (0..10).map(|_| bench.ask()).collect();
    bench.waiting(10).await;
    bench.open(1);
    for one in asking {
        let reply = soon(one).await.unwrap();
        assert_eq!(
            (reply.status, reply.error),
            (StatusCode::INTERNAL_SERVER_ERROR, Some("internal"))
        );
    }
    assert_eq!((bench.engine.waiting(), bench.calls()), (0, 1));
    bench.open(1);
    body.write("good");
    body.end();
    let reply = soon(bench.ask()).await.unwrap();
    assert_eq!(read(reply).await.unwrap(), b"good", "nobody joins what died");
}

#[tokio::test(start_paused = true)]
async fn a_fill_without_readers_goes_on_only_if_its_answer_will_be_stored() {
    for (fields, status, stored) in [
        (&[][..], StatusCode::OK, true),
        (&[("set-cookie", "a=b")], StatusCode::OK, false),
        (&[("content-type", "text/event-stream")], StatusCode::OK, false),
        (&[], StatusCode::SERVICE_UNAVAILABLE, false),
    ] {
        let (sender, script) = mpsc::unbounded_channel();
        let body = Writer(sender);
        let act = Act::Answer(status, fields, BodyFraming::Marked, script);
        let bench = Bench::new([act], BOUNDS);
        bench.open(1);
        let reply = soon(bench.ask()).await.unwrap();
        body.write("some ");
        drop(reply);
        if stored {
            body.write("more");
            body.end();
            while bench.stored().await.as_deref() != Some(b"some more") {
                tokio::task::yield_now().await;
            }
        } else {
            soon(body.let_go()).await;
            assert_eq!(bench.stored().await, None, "{fields:?} {status}");
            assert_eq!(bench.engine.waiting(), 0);
        }
    }
}

/// RFC 9111 §4.4: old data is neither stored nor joined by who comes after the change.
#[tokio::test(start_paused = true)]
async fn an_invalidation_during_a_fill_wins_over_it() {
    let (old, one) = answer(&[], BodyFraming::Length(3));
    let (new, two) = answer(&[], BodyFraming::Length(3));
    let bench = Bench::new([one, two], BOUNDS);
    let early = bench.ask();
    soon(bench.reached(1)).await;
    let post = ProxyRequest { method: Method::POST, ..asked() };
    bench.engine.invalidate(&post, StatusCode::OK, &HeaderMap::new(), || ()).await;
    let late = bench.ask();
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
async fn a_failure_is_everyones_and_the_next_one_asks_anew() {
    let bench =
        Bench::new([Act::Fail(UpstreamError::Refused), Act::Fail(UpstreamError::Dns)], BOUNDS);
    let asking: Vec<_> = (0..10).map(|_| bench.ask()).collect();
    bench.waiting(10).await;
    bench.open(2);
    for one in asking {
        assert_eq!(soon(one).await.unwrap().error, Some("connect-refused"));
    }
    assert_eq!(soon(bench.ask()).await.unwrap().error, Some("dns"));
    assert_eq!(bench.calls(), 2);
}

/// Whatever framing hides a cut stays out of the store; a body that is too short is a cut one.
#[tokio::test(start_paused = true)]
async fn only_a_body_known_to_be_whole_is_stored() {
    for (framing, end, stored) in [
        (BodyFraming::Length(4), true, true),
        (BodyFraming::Marked, true, true),
        (BodyFraming::Length(5), true, false),
        (BodyFraming::Length(5), false, false),
        (BodyFraming::Marked, false, false),
        (BodyFraming::Close, true, false),
    ] {
        let (body, act) = answer(&[], framing);
        let bench = Bench::new([act], BOUNDS);
        bench.open(1);
        let reply = soon(bench.ask()).await.unwrap();
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

#[tokio::test]
async fn a_part_under_the_key_of_a_whole_is_never_taken_for_one() {
    let (whole, act) = answer(&[], BodyFraming::Marked);
    let bench = Bench::new([act], BOUNDS);
    let fields = [("content-range", "bytes 0-3/20"), ("etag", "\"a\"")]
        .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)));
    let now = bench.engine.clock.now();
    let part = StoredResponse::new(
        StatusCode::PARTIAL_CONTENT,
        &HeaderMap::from_iter(fields),
        Bytes::from_static(b"part"),
        (VaryFields::default(), VariantId::SOLE),
        (now, now),
        Duration::ZERO,
    );
    let (store, key) =
        (&bench.engine.store, bench.engine.keyring.key(&asked(), &bench.route.policy));
    store.put(&key, Arc::new(part), store.watch(key.target_id()).mark, None);
    assert_eq!(bench.stored().await, None);
    let mut head = asked();
    head.method = Method::HEAD;
    let passed = bench.engine.answer(&mut head, &bench.route, &Interims::new()).await;
    assert!(matches!(passed, EngineResult::Pass(_)));
    bench.open(1);
    let reply = bench.ask();
    whole.write("whole");
    whole.end();
    assert_eq!(read(reply.await.unwrap()).await.unwrap(), b"whole");
    assert_eq!(bench.stored().await.unwrap(), b"whole");
}
