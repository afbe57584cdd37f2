//! The clients: those that send valid requests, and those that send malformed ones.
//!
//! Owns: the clients and their counts. Never touches: larder's own counts.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use larder::clock::Clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::HOST;
use crate::client::{Connection, Failure};

/// The path of all requests.
pub(crate) const PATH: &str = "/popular";

/// Requests on a connection before its client disconnects.
const REQUESTS_PER_CONNECTION: usize = 50;

/// The value of `Retry-After` in a 503.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Longer than anything here takes.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The results that the clients observed.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) took: Duration,
    /// Responses with status 200.
    pub(crate) good: u64,
    /// The times from connecting to the 503.
    pub(crate) rejection_times: Vec<Duration>,
    pub(crate) failures: Vec<String>,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.good += other.good;
        self.rejection_times.extend(other.rejection_times);
        self.failures.extend(other.failures);
    }
}

/// Runs this many clients with valid requests for this time.
pub(crate) async fn requests(proxy: SocketAddr, clients: usize, time: Duration) -> Result<Seen, Failure> {
    all(clients, time, move |until| send_valid(proxy, until)).await
}

/// Runs this many clients with malformed requests for this time.
pub(crate) async fn malformed(proxy: SocketAddr, clients: usize, time: Duration) -> Result<Seen, Failure> {
    all(clients, time, move |until| send_malformed(proxy, until)).await
}

/// The time until a new client is served.
pub(crate) async fn recovery_time(proxy: SocketAddr) -> Result<Duration, Failure> {
    let since = Clock::system().instant();
    let mut seen = Seen::default();
    while seen.good == 0 {
        one_connection(proxy, since + TIMEOUT, 1, &mut seen).await?;
    }
    Ok(Clock::system().instant().duration_since(since))
}

async fn all<F>(clients: usize, time: Duration, client: impl Fn(Instant) -> F) -> Result<Seen, Failure>
where
    F: Future<Output = Seen> + Send + 'static,
{
    let since = Clock::system().instant();
    let mut running = JoinSet::new();
    for _ in 0..clients {
        running.spawn(client(since + time));
    }
    let mut seen = Seen::default();
    while let Some(one) = running.join_next().await {
        seen.add(one?);
    }
    // A client that waits for a second after `until` sends nothing meanwhile, so that wait does not count.
    seen.took = time;
    Ok(seen)
}

async fn send_valid(proxy: SocketAddr, until: Instant) -> Seen {
    let mut seen = Seen::default();
    while Clock::system().instant() < until {
        let rejected = seen.rejection_times.len();
        match timeout(TIMEOUT, one_connection(proxy, until, REQUESTS_PER_CONNECTION, &mut seen)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => seen.failures.push(error.to_string()),
            Err(_elapsed) => seen.failures.push("no response in time".to_owned()),
        }
        if seen.rejection_times.len() > rejected {
            let left = until.saturating_duration_since(Clock::system().instant());
            sleep(RETRY_AFTER.min(left)).await;
        }
    }
    seen
}

/// Sends up to `times` requests on one connection, until `until` or a 503.
async fn one_connection(
    proxy: SocketAddr,
    until: Instant,
    times: usize,
    seen: &mut Seen,
) -> Result<(), Failure> {
    let since = Clock::system().instant();
    let mut connection = Connection::open(proxy).await?;
    for _ in 0..times {
        let response = connection.get(&format!("http://{HOST}{PATH}"), HOST, "").await?;
        match response.status {
            // A response after the end of the time is not counted as goodput.
            200 => seen.good += u64::from(Clock::system().instant() < until),
            503 => {
                seen.rejection_times.push(Clock::system().instant().duration_since(since));
                return Ok(());
            }
            other => return Err(format!("{other}").into()),
        }
        if Clock::system().instant() >= until {
            break;
        }
    }
    Ok(())
}

async fn send_malformed(proxy: SocketAddr, until: Instant) -> Seen {
    let mut seen = Seen::default();
    while Clock::system().instant() < until {
        match timeout(TIMEOUT, is_rejected(proxy)).await {
            Ok(Ok(true)) => seen.good += 1,
            Ok(Ok(false)) => seen.failures.push("the status was not 400".to_owned()),
            Ok(Err(error)) => seen.failures.push(error.to_string()),
            Err(_elapsed) => seen.failures.push("no response in time".to_owned()),
        }
    }
    seen
}

/// Sends a malformed request; returns whether the response is 400.
async fn is_rejected(proxy: SocketAddr) -> Result<bool, Failure> {
    let mut stream = TcpStream::connect(proxy).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nno colon here\r\n\r\n").await?;
    let mut response = Vec::with_capacity(1024);
    stream.read_to_end(&mut response).await?;
    Ok(response.starts_with(b"HTTP/1.1 400 "))
}
