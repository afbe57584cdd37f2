//! The state that all connections of a fake share.
//!
//! Owns: the API, the script in progress and the counts, behind one lock. Never touches: connections.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::fake::api::{Api, Call, Failure};
use crate::fake::call_log::{CallLog, Counts};
use crate::fake::response::MockResponse;
use crate::fake::script::Script;
use crate::fake::script::playback::{Effect, Playback};

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
    pub(super) fn new(api: A, script: Script, clock: Clock) -> Self {
        let playback = Playback::new(script.clone(), clock.now());
        let state = State { api: api.clone(), playback, counts: Counts::default() };
        let changes = watch::Sender::new(());
        Self { clock, initial: (api, script), state: Mutex::new(state), changes }
    }

    /// Reads the state of the API.
    pub(super) fn read<T>(&self, read: impl FnOnce(&A) -> T) -> T {
        read(&self.state.lock().api)
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
