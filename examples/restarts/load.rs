//! The app: 500 requests a second, half of them on kept-alive connections.
//!
//! Owns: what counts as a failed request. Never touches: the larders.

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
use crate::client::{Answer, Connection, Failure};

/// One request every so often.
const EVERY: Duration = Duration::from_millis(2);

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the app saw.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) latencies: Vec<Duration>,
    pub(crate) hits: usize,
    pub(crate) on_kept: usize,
    pub(crate) last: usize,
    pub(crate) failures: Vec<String>,
}

/// The app as it runs.
pub(crate) struct Load {
    pub(crate) proxy: SocketAddr,
    answered: watch::Receiver<usize>,
    over: Arc<AtomicBool>,
    running: JoinHandle<Seen>,
}

impl Load {
    pub(crate) fn start(proxy: SocketAddr) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (counted, answered) = watch::channel(0);
        let app = Arc::new(App {
            proxy,
            idle: Mutex::default(),
            seen: Mutex::default(),
            asked: AtomicUsize::new(0),
            counted,
        });
        let running = tokio::spawn(run(app, Arc::clone(&over)));
        Self { proxy, answered, over, running }
    }

    /// Waits for so many more answers.
    pub(crate) async fn more(&self, requests: usize) {
        let mut answered = self.answered.clone();
        let until = *answered.borrow() + requests;
        // The app outlives this; were it gone, there would be nothing to wait for.
        let _gone = answered.wait_for(|count| *count >= until).await;
    }

    pub(crate) async fn stop(self) -> Result<Seen, Failure> {
        self.over.store(true, Ordering::Relaxed);
        Ok(self.running.await?)
    }
}

struct App {
    proxy: SocketAddr,
    idle: Mutex<Vec<Connection>>,
    seen: Mutex<Seen>,
    asked: AtomicUsize,
    counted: watch::Sender<usize>,
}

async fn run(app: Arc<App>, over: Arc<AtomicBool>) -> Seen {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut asking = JoinSet::new();
    while !over.load(Ordering::Relaxed) {
        ticks.tick().await;
        let app = Arc::clone(&app);
        asking.spawn(async move { app.ask().await });
        while asking.try_join_next().is_some() {}
    }
    while asking.join_next().await.is_some() {}
    std::mem::take(&mut *app.seen.lock())
}

impl App {
    /// One request, on a kept-alive connection every second time.
    async fn ask(&self) {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let kept = number.is_multiple_of(2);
        let idle = if kept { self.idle.lock().pop() } else { None };
        let reused = idle.is_some();
        let since = clock::monotonic();
        let outcome = timeout(PATIENCE, self.answer(number, idle)).await;
        let latency = clock::monotonic() - since;
        let outcome = outcome.unwrap_or_else(|_| Err("no answer in time".into()));
        let mut seen = self.seen.lock();
        match outcome {
            Ok((answer, connection)) => {
                seen.latencies.push(latency);
                seen.hits += usize::from(answer.hit);
                seen.on_kept += usize::from(reused);
                seen.last += usize::from(answer.last);
                if kept && !answer.last {
                    self.idle.lock().push(connection);
                }
            }
            Err(error) => {
                let how = if reused { "kept" } else { "fresh" };
                seen.failures.push(format!("request {number} ({how}): {error}"));
            }
        }
        drop(seen);
        self.counted.send_modify(|count| *count += 1);
    }

    async fn answer(
        &self,
        number: usize,
        idle: Option<Connection>,
    ) -> Result<(Answer, Connection), Failure> {
        let mut connection = match idle {
            Some(connection) => connection,
            None => Connection::open(self.proxy).await?,
        };
        let target = format!("http://{HOST}{}", path(number));
        let answer = connection.get(&target, HOST, "Authorization: Bot example\r\n").await?;
        if answer.status != 200 || answer.body.is_empty() {
            return Err(format!("answered with {}", answer.status).into());
        }
        Ok((answer, connection))
    }
}

/// Most are for one of 200 members; every tenth is for what no route caches.
fn path(number: usize) -> String {
    if number % 10 == 9 {
        return "/api/v10/guilds/81384788765712384/roles".to_owned();
    }
    let user = 80_351_110_224_678_912 + number % 199;
    format!("/api/v10/guilds/81384788765712384/members/{user}")
}
