//! A running fake: starting, inspecting, setting its faults, stopping.
//!
//! Owns: the listener's lifetime. Never touches: the responses of an API.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::fake::api::Api;
use crate::fake::call_log::CallLog;
use crate::fake::faults::Faults;
use crate::fake::handler;
use crate::fake::script::Script;
use crate::fake::shared::Shared;

/// Maximum time for responses that have begun, after a stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

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
        self.shared.read(read)
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
