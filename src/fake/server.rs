//! A running fake: starting, inspecting, setting its faults, stopping.
//!
//! Owns: the listener's lifetime; the state that all connections share. Never touches: the responses of
//! an API.

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

/// A running fake. It stops when it is dropped.
pub struct FakeServer<A: Api> {
    /// The address that it listens on.
    pub addr: SocketAddr,
    shared: Arc<Shared<A>>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

/// Starts a fake of `api` on `addr`; port 0 selects a free one. Its windows, phases and latencies run by
/// `clock`.
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
    /// Counts of the calls so far.
    pub fn calls(&self) -> CallLog {
        self.shared.calls()
    }

    /// Calls by second of the fake's clock, since 1970; seconds without calls are omitted.
    pub fn calls_by_second(&self) -> BTreeMap<u64, u64> {
        self.shared.calls_by_second()
    }

    /// Clears counts, limits and changed data, and restores the initial script.
    pub fn reset(&self) {
        self.shared.reset();
    }

    /// Sets these faults from now on.
    pub fn behave(&self, behaviour: Faults) {
        self.play(Script::from(behaviour));
    }

    /// Plays this script from now on; its first phase begins now.
    pub fn play(&self, script: Script) {
        self.shared.play(script);
    }

    /// Reads the state of the API.
    pub(super) fn with_api<T>(&self, read: impl FnOnce(&A) -> T) -> T {
        read(&self.shared.state.lock().api)
    }

    /// Stops listening, waits for responses that have begun, and returns when they have finished; the
    /// port is free then.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        if tokio::time::timeout(STOP_TIMEOUT, &mut self.serving).await.is_err() {
            self.serving.abort();
        }
    }
}

/// The state that all connections share.
pub(super) struct Shared<A> {
    pub(super) clock: Clock,
    initial: (A, Script),
    state: Mutex<State<A>>,
    changes: watch::Sender<()>,
}

/// The part of it that changes while the fake runs.
struct State<A> {
    api: A,
    playback: Playback,
    counts: Counts,
}

impl<A: Api> Shared<A> {
    fn new(api: A, script: Script, clock: Clock) -> Self {
        let playback = Playback::new(script.clone(), clock.now());
        let state = State { api: api.clone(), playback, counts: Counts::default() };
        let changes = watch::Sender::new(());
        Self { clock, initial: (api, script), state: Mutex::new(state), changes }
    }

    pub(super) fn calls(&self) -> CallLog {
        self.state.lock().counts.calls.clone()
    }

    pub(super) fn calls_by_second(&self) -> BTreeMap<u64, u64> {
        self.state.lock().counts.by_second()
    }

    pub(super) fn reset(&self) {
        let (api, script) = self.initial.clone();
        let playback = Playback::new(script, self.clock.now());
        *self.state.lock() = State { api, playback, counts: Counts::default() };
        self.changes.send_replace(());
    }

    pub(super) fn play(&self, script: Script) {
        self.state.lock().playback = Playback::new(script, self.clock.now());
        self.changes.send_replace(());
    }

    /// Counts a call; its effect and its sequence number.
    pub(super) fn begin(&self, endpoint: &str) -> (Effect, u64) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let effect = state.playback.next(now);
        let number = state.counts.record_call(endpoint, effect.phase.as_deref(), now);
        // A phase that refuses connections may have begun with this call, and no clock notifies the
        // listener of that.
        if state.playback.refuses(now) {
            self.changes.send_replace(());
        }
        (effect, number)
    }

    pub(super) fn respond(&self, call: &Call<'_>, failure: Option<Failure>) -> MockResponse {
        self.state.lock().api.respond(call, failure)
    }

    pub(super) fn probe(&self, name: &str) -> Option<serde_json::Value> {
        self.state.lock().api.probe(name)
    }

    pub(super) fn record_response(&self, response: Option<&MockResponse>, bytes: usize) {
        self.state.lock().counts.record_response(response.map(|response| response.status), bytes);
    }

    /// Whether connections are refused now.
    pub(super) fn refuses(&self) -> bool {
        self.state.lock().playback.refuses(self.clock.now())
    }

    /// Notified of every script that is set from now on.
    pub(super) fn script_changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Returns when another phase may have begun.
    pub(super) async fn phase_changed(&self) {
        let until = self.state.lock().playback.until_phase_change(self.clock.now());
        match until {
            Some(time) => self.clock.sleep(time).await,
            None => std::future::pending().await,
        }
    }
}

/// Maximum time for responses that have begun, after a stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
