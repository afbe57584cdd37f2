//! A fake of Discord's API: roles, members and the calling user, each answer determined by the ids
//! that are asked for.
//!
//! Owns: its listener, its counts, its data and how it behaves at the moment.
//! Never touches: the clock, except to tell when a rate limit ends.

mod answer;
pub mod behaviour;
mod data;
mod endpoint;
mod serve;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::fake::discord::behaviour::{Behaviour, Fault};
use crate::fake::discord::data::Data;

/// How a fake starts, and what [`Fake::reset`] returns to.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The `Cache-Control` of successful answers to `GET`; none by default, as at Discord.
    pub cache_control: Option<HeaderValue>,
    /// How it behaves at first.
    pub behaviour: Behaviour,
}

/// What was asked of a fake since it started or was reset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Calls {
    /// All calls, those that failed included.
    pub total: u64,
    /// Bytes of the bodies that were sent.
    pub bytes: u64,
    /// Calls by method and path pattern, such as `GET /guilds/{guild}/roles`.
    pub by_endpoint: BTreeMap<String, u64>,
}

/// A running fake. Dropped, it stops.
pub struct Fake {
    /// Where it listens.
    pub addr: SocketAddr,
    api: Arc<Api>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

/// Starts a fake on `addr`; port 0 takes a free one.
pub async fn start(addr: SocketAddr, options: Options) -> io::Result<Fake> {
    let listener = TcpListener::bind(addr).await?;
    let addr = listener.local_addr()?;
    let api = Arc::new(Api::new(options));
    let (stop, stopping) = watch::channel(false);
    let serving = tokio::spawn(serve::serve(listener, Arc::clone(&api), stopping));
    Ok(Fake { addr, api, stop, serving })
}

impl Fake {
    /// What was asked so far.
    pub fn calls(&self) -> Calls {
        self.api.calls()
    }

    /// Forgets counts and changed data and behaves as at the start.
    pub fn reset(&self) {
        self.api.reset();
    }

    /// From now on behaves like this.
    pub fn behave(&self, behaviour: Behaviour) {
        self.api.behave(behaviour);
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
struct Api {
    options: Options,
    state: Mutex<State>,
}

/// What changes while it runs.
struct State {
    calls: Calls,
    data: Data,
    behaviour: Behaviour,
}

impl State {
    fn new(options: &Options) -> Self {
        let behaviour = options.behaviour.clone();
        Self { calls: Calls::default(), data: Data::default(), behaviour }
    }
}

impl Api {
    fn new(options: Options) -> Self {
        let state = Mutex::new(State::new(&options));
        Self { options, state }
    }

    fn calls(&self) -> Calls {
        self.state.lock().calls.clone()
    }

    fn reset(&self) {
        *self.state.lock() = State::new(&self.options);
    }

    fn behave(&self, behaviour: Behaviour) {
        self.state.lock().behaviour = behaviour;
    }

    /// Counts a call and says how to treat it: how long to wait, which fault to show, and which of
    /// all calls it is.
    fn begin(&self, endpoint: &str) -> (Duration, Option<Fault>, u64) {
        let mut state = self.state.lock();
        let number = state.calls.total;
        state.calls.total += 1;
        *state.calls.by_endpoint.entry(endpoint.to_owned()).or_default() += 1;
        let fault = state.behaviour.next_fault();
        (state.behaviour.latency, fault, number)
    }

    fn sent(&self, bytes: u64) {
        self.state.lock().calls.bytes += bytes;
    }
}

/// How long answers that have begun may take after a stop.
const LAST_WORDS: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
