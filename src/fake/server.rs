//! A fake that runs: started, watched, told how to behave, stopped.
//!
//! Owns: the listener's life; what all connections share. Never touches: what an API says.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::fake::api::{Api, Call, Failure};
use crate::fake::call_log::{CallLog, Counts};
use crate::fake::faults::Faults;
use crate::fake::handler;
use crate::fake::response::MockResponse;
use crate::fake::script::Script;
use crate::fake::script::playback::{Effect, Playback};

/// A running fake. Dropped, it stops.
pub struct FakeServer<A: Api> {
    /// Where it listens.
    pub addr: SocketAddr,
    shared: Arc<Shared<A>>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

/// Starts a fake of `api` on `addr`; port 0 takes a free one. Its windows, phases and latencies run
/// by `clock`.
pub async fn start<A: Api>(
    addr: SocketAddr,
    api: A,
    script: Script,
    clock: Clock,
) -> io::Result<FakeServer<A>> {
    let listener = TcpListener::bind(addr).await?;
    let addr = listener.local_addr()?;
    let shared = Arc::new(Shared::new(api, script, clock));
    let (stop, stopping) = watch::channel(false);
    let serving = tokio::spawn(handler::serve(listener, addr, Arc::clone(&shared), stopping));
    Ok(FakeServer { addr, shared, stop, serving })
}

impl<A: Api> FakeServer<A> {
    /// What was asked so far.
    pub fn calls(&self) -> CallLog {
        self.shared.calls()
    }

    /// Calls by second of the fake's clock, since 1970; seconds without any are left out.
    pub fn calls_by_second(&self) -> BTreeMap<u64, u64> {
        self.shared.calls_by_second()
    }

    /// Forgets counts, limits and changed data and behaves as at the start.
    pub fn reset(&self) {
        self.shared.reset();
    }

    /// From now on behaves like this.
    pub fn behave(&self, behaviour: Faults) {
        self.play(Script::from(behaviour));
    }

    /// From now on behaves as this script says, whose first phase begins now.
    pub fn play(&self, script: Script) {
        self.shared.play(script);
    }

    /// Looks at what the API itself keeps.
    pub(super) fn look<T>(&self, look: impl FnOnce(&A) -> T) -> T {
        look(&self.shared.state.lock().api)
    }

    /// Stops listening, lets answers that have begun finish, and returns when they have; the port
    /// is free then.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        if tokio::time::timeout(LAST_WORDS, &mut self.serving).await.is_err() {
            self.serving.abort();
        }
    }
}

/// What all connections share.
pub(super) struct Shared<A> {
    pub(super) clock: Clock,
    first: (A, Script),
    state: Mutex<State<A>>,
    set: watch::Sender<()>,
}

/// What changes while it runs.
struct State<A> {
    api: A,
    course: Playback,
    counts: Counts,
}

impl<A: Api> Shared<A> {
    fn new(api: A, script: Script, clock: Clock) -> Self {
        let course = Playback::new(script.clone(), clock.now());
        let state = State { api: api.clone(), course, counts: Counts::default() };
        let set = watch::Sender::new(());
        Self { clock, first: (api, script), state: Mutex::new(state), set }
    }

    pub(super) fn calls(&self) -> CallLog {
        self.state.lock().counts.calls.clone()
    }

    pub(super) fn calls_by_second(&self) -> BTreeMap<u64, u64> {
        self.state.lock().counts.by_second()
    }

    pub(super) fn reset(&self) {
        let (api, script) = self.first.clone();
        let course = Playback::new(script, self.clock.now());
        *self.state.lock() = State { api, course, counts: Counts::default() };
        self.set.send_replace(());
    }

    pub(super) fn play(&self, script: Script) {
        self.state.lock().course = Playback::new(script, self.clock.now());
        self.set.send_replace(());
    }

    /// Counts a call and says how to treat it, and which of all calls it is.
    pub(super) fn begin(&self, endpoint: &str) -> (Effect, u64) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let met = state.course.next(now);
        let number = state.counts.asked(endpoint, met.phase.as_deref(), now);
        // A phase that refuses may have begun with this call, which no clock tells the listener.
        if state.course.refuses(now) {
            self.set.send_replace(());
        }
        (met, number)
    }

    pub(super) fn answer(&self, call: &Call<'_>, failure: Option<Failure>) -> MockResponse {
        self.state.lock().api.answer(call, failure)
    }

    pub(super) fn probe(&self, name: &str) -> Option<serde_json::Value> {
        self.state.lock().api.probe(name)
    }

    pub(super) fn sent(&self, answer: Option<&MockResponse>, bytes: usize) {
        self.state.lock().counts.sent(answer.map(|answer| answer.status), bytes);
    }

    /// Whether connections are refused now.
    pub(super) fn refuses(&self) -> bool {
        self.state.lock().course.refuses(self.clock.now())
    }

    /// Told of every script that is set from now on.
    pub(super) fn scripts(&self) -> watch::Receiver<()> {
        self.set.subscribe()
    }

    /// Returns when another phase may have begun.
    pub(super) async fn turned(&self) {
        let until = self.state.lock().course.until_turn(self.clock.now());
        match until {
            Some(time) => self.clock.sleep(time).await,
            None => std::future::pending().await,
        }
    }
}

/// How long answers that have begun may take after a stop.
const LAST_WORDS: Duration = Duration::from_secs(2);
