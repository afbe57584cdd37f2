//! The clients: those that ask for an answer, and those that send nonsense.
//!
//! Owns: what they do and what they count. Never touches: larder's own counts.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use larder::clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::HOST;
use crate::client::{Connection, Failure};

/// What everybody asks for.
pub(crate) const PATH: &str = "/popular";

/// Requests on a connection before its client leaves.
const ON_ONE: usize = 50;

/// What a 503 says in `Retry-After`.
const COME_AGAIN: Duration = Duration::from_secs(1);

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// What clients saw.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) took: Duration,
    /// Answers that were asked for.
    pub(crate) good: u64,
    /// From connecting to the 503.
    pub(crate) told: Vec<Duration>,
    pub(crate) failures: Vec<String>,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.good += other.good;
        self.told.extend(other.told);
        self.failures.extend(other.failures);
    }
}

/// So many clients ask for so long.
pub(crate) async fn requests(
    proxy: SocketAddr,
    clients: usize,
    time: Duration,
) -> Result<Seen, Failure> {
    all(clients, time, move |until| visit(proxy, until)).await
}

/// So many clients send malformed requests for so long.
pub(crate) async fn malformed(
    proxy: SocketAddr,
    clients: usize,
    time: Duration,
) -> Result<Seen, Failure> {
    all(clients, time, move |until| send_nonsense(proxy, until)).await
}

/// How long until a newcomer is served.
pub(crate) async fn recovers(proxy: SocketAddr) -> Result<Duration, Failure> {
    let since = clock::monotonic();
    let mut seen = Seen::default();
    while seen.good == 0 {
        one_connection(proxy, since + PATIENCE, 1, &mut seen).await?;
    }
    Ok(clock::monotonic().duration_since(since))
}

async fn all<F>(clients: usize, time: Duration, act: impl Fn(Instant) -> F) -> Result<Seen, Failure>
where
    F: Future<Output = Seen> + Send + 'static,
{
    let since = clock::monotonic();
    let mut acting = JoinSet::new();
    for _ in 0..clients {
        acting.spawn(act(since + time));
    }
    let mut seen = Seen::default();
    while let Some(one) = acting.join_next().await {
        seen.add(one?);
    }
    // Those who waited a second before they found that the time was up asked for nothing meanwhile.
    seen.took = time;
    Ok(seen)
}

async fn visit(proxy: SocketAddr, until: Instant) -> Seen {
    let mut seen = Seen::default();
    while clock::monotonic() < until {
        let told = seen.told.len();
        match timeout(PATIENCE, one_connection(proxy, until, ON_ONE, &mut seen)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => seen.failures.push(error.to_string()),
            Err(_elapsed) => seen.failures.push("no answer in time".to_owned()),
        }
        if seen.told.len() > told {
            let left = until.saturating_duration_since(clock::monotonic());
            sleep(COME_AGAIN.min(left)).await;
        }
    }
    seen
}

/// Asks on one connection until `until`, so often at most, or until told to come again.
async fn one_connection(
    proxy: SocketAddr,
    until: Instant,
    times: usize,
    seen: &mut Seen,
) -> Result<(), Failure> {
    let since = clock::monotonic();
    let mut connection = Connection::open(proxy).await?;
    for _ in 0..times {
        let answer = connection.get(&format!("http://{HOST}{PATH}"), HOST, "").await?;
        match answer.status {
            // What comes too late is no goodput.
            200 => seen.good += u64::from(clock::monotonic() < until),
            503 => {
                seen.told.push(clock::monotonic().duration_since(since));
                return Ok(());
            }
            other => return Err(format!("{other}").into()),
        }
        if clock::monotonic() >= until {
            break;
        }
    }
    Ok(())
}

async fn send_nonsense(proxy: SocketAddr, until: Instant) -> Seen {
    let mut seen = Seen::default();
    while clock::monotonic() < until {
        match timeout(PATIENCE, refused(proxy)).await {
            Ok(Ok(true)) => seen.good += 1,
            Ok(Ok(false)) => seen.failures.push("it was not answered 400".to_owned()),
            Ok(Err(error)) => seen.failures.push(error.to_string()),
            Err(_elapsed) => seen.failures.push("no answer in time".to_owned()),
        }
    }
    seen
}

/// Sends a malformed request; whether it is refused as one.
async fn refused(proxy: SocketAddr) -> Result<bool, Failure> {
    let mut stream = TcpStream::connect(proxy).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nno colon here\r\n\r\n").await?;
    let mut answer = Vec::with_capacity(1024);
    stream.read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.1 400 "))
}
