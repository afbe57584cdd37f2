//! The app: 500 requests a second, half of them on kept-alive connections.
//!
//! Owns: the definition of a failed request. Never touches: the larders.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use larder::clock;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::HOST;
use crate::client::{Connection, Failure, Response};

/// The interval between requests.
const INTERVAL: Duration = Duration::from_millis(2);

/// Longer than anything here takes.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The results that the app observed.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) latencies: Vec<Duration>,
    pub(crate) hits: usize,
    pub(crate) on_kept: usize,
    pub(crate) last_on_connection: usize,
    pub(crate) failures: Vec<String>,
}

/// The running app.
pub(crate) struct Load {
    pub(crate) proxy: SocketAddr,
    finished: watch::Receiver<usize>,
    stopping: Arc<AtomicBool>,
    running: JoinHandle<Seen>,
}

impl Load {
    pub(crate) fn start(proxy: SocketAddr) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let (finished_sender, finished) = watch::channel(0);
        let app = Arc::new(App {
            proxy,
            idle: Mutex::default(),
            seen: Mutex::default(),
            sent: AtomicUsize::new(0),
            finished_sender,
        });
        let running = tokio::spawn(run(app, Arc::clone(&stopping)));
        Self { proxy, finished, stopping, running }
    }

    /// Waits for this many more responses.
    pub(crate) async fn wait_for_responses(&self, requests: usize) {
        let mut finished = self.finished.clone();
        let until = *finished.borrow() + requests;
        // This cannot fail: the app outlives this call.
        let _reached = finished.wait_for(|count| *count >= until).await;
    }

    pub(crate) async fn stop(self) -> Result<Seen, Failure> {
        self.stopping.store(true, Ordering::Relaxed);
        Ok(self.running.await?)
    }
}

struct App {
    proxy: SocketAddr,
    idle: Mutex<Vec<Connection>>,
    seen: Mutex<Seen>,
    sent: AtomicUsize,
    finished_sender: watch::Sender<usize>,
}

async fn run(app: Arc<App>, stopping: Arc<AtomicBool>) -> Seen {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut requests = JoinSet::new();
    while !stopping.load(Ordering::Relaxed) {
        ticks.tick().await;
        let app = Arc::clone(&app);
        requests.spawn(async move { app.send().await });
        while requests.try_join_next().is_some() {}
    }
    while requests.join_next().await.is_some() {}
    std::mem::take(&mut *app.seen.lock())
}

impl App {
    /// Sends one request, every second time on a kept-alive connection.
    async fn send(&self) {
        let number = self.sent.fetch_add(1, Ordering::Relaxed);
        let kept = number.is_multiple_of(2);
        let idle = if kept { self.idle.lock().pop() } else { None };
        let reused = idle.is_some();
        let since = clock::Clock::system().instant();
        let outcome = timeout(TIMEOUT, self.exchange(number, idle)).await;
        let latency = clock::Clock::system().instant() - since;
        let outcome = outcome.unwrap_or_else(|_| Err("no response in time".into()));
        let mut seen = self.seen.lock();
        match outcome {
            Ok((response, connection)) => {
                seen.latencies.push(latency);
                seen.hits += usize::from(response.hit);
                seen.on_kept += usize::from(reused);
                seen.last_on_connection += usize::from(response.closes_connection);
                if kept && !response.closes_connection {
                    self.idle.lock().push(connection);
                }
            }
            Err(error) => {
                let how = if reused { "kept" } else { "fresh" };
                seen.failures.push(format!("request {number} ({how}): {error}"));
            }
        }
        drop(seen);
        self.finished_sender.send_modify(|count| *count += 1);
    }

    async fn exchange(
        &self,
        number: usize,
        idle: Option<Connection>,
    ) -> Result<(Response, Connection), Failure> {
        let mut connection = match idle {
            Some(connection) => connection,
            None => Connection::open(self.proxy).await?,
        };
        let target = format!("http://{HOST}{}", path(number));
        let response = connection.get(&target, HOST, "Authorization: Bot example\r\n").await?;
        if response.status != 200 || response.body.is_empty() {
            return Err(format!("status {}", response.status).into());
        }
        Ok((response, connection))
    }
}

/// Most requests are for one of 199 members; every tenth is for a path without a route.
fn path(number: usize) -> String {
    if number % 10 == 9 {
        return "/api/v10/guilds/81384788765712384/roles".to_owned();
    }
    let user = 80_351_110_224_678_912 + number % 199;
    format!("/api/v10/guilds/81384788765712384/members/{user}")
}
