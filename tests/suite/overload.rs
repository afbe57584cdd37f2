//! Overload: too few file descriptors, many entries that expire at once, floods of requests.

use std::net::SocketAddr;
use std::time::Duration;

use larder::clock::Clock;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use crate::client::{Client, Response};
use crate::concurrent::bounded;
use crate::larder_under_test::{API, Larder};
use crate::origin::{MockResponse, Origin, Step};
use crate::process::{ConfigDir, Process, TIMEOUT};

const CLIENTS: usize = 400;
const FILES: u32 = 128;
const RECOVERED: Duration = Duration::from_secs(5);

/// A larder that caches the responses of `origin`, with an optional limit on open files.
async fn caching_larder(origin: &Origin, extra: &str, files: Option<u32>) -> (Process, ConfigDir) {
    let yaml = format!(
        "version: 1\nlisten: 127.0.0.1:0\nadmin: {{ listen: 127.0.0.1:0 }}\n\
         resolve: {{ api.example.test: \"{}\" }}\n\
         routes: [{{ name: api, match: {{ host: api.example.test }}, ttl: 1h, retry: off }}]\n{extra}",
        origin.addr
    );
    match files {
        Some(files) => Process::run_with_ulimit(&format!("-n {files}"), &yaml).await,
        None => Process::run(&yaml).await,
    }
}

async fn larder_with_few_files(origin: &Origin) -> (Process, ConfigDir) {
    caching_larder(origin, "", Some(FILES)).await
}

/// Sends a request on a connection that stays open.
async fn get(client: &mut Client, path: &str) -> Response {
    timeout(TIMEOUT, client.get(&format!("{API}{path}"), &[])).await.expect("a response in time")
}

/// Clients that each send one request on their own connection and then disconnect.
fn one_request_each(addr: SocketAddr, clients: usize) -> JoinSet<u16> {
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        tasks.spawn(async move { get(&mut Client::connect(addr).await, "/kept").await.status });
    }
    tasks
}

/// Asserts that all of them get a response with this status.
async fn all_get(expected: u16, mut tasks: JoinSet<u16>, clients: usize) {
    let mut answered = 0;
    while let Some(status) = timeout(TIMEOUT, tasks.join_next()).await.expect("in time") {
        assert_eq!(status.expect("no client panics"), expected);
        answered += 1;
    }
    assert_eq!(answered, clients);
}

/// Clients that have received a response and keep their connections open.
async fn connected_clients(addr: SocketAddr, clients: usize) -> Vec<Client> {
    let mut connected = Vec::new();
    for _ in 0..clients {
        let mut client = Client::connect(addr).await;
        assert_eq!(get(&mut client, "/kept").await.status, 200);
        connected.push(client);
    }
    connected
}

/// Connects again until a request is served.
async fn until_served(addr: SocketAddr) {
    while get(&mut Client::connect(addr).await, "/kept").await.status != 200 {}
}

async fn metrics(admin: &mut Client) -> String {
    admin.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    timeout(TIMEOUT, admin.response("GET")).await.expect("in time").expect("a page").text()
}

/// The number of failed accepts in `/metrics`.
async fn accept_errors(admin: &mut Client) -> usize {
    let page = metrics(admin).await;
    let line = page.lines().find_map(|line| line.strip_prefix("larder_accept_errors_total "));
    line.and_then(|count| count.parse().ok()).expect("the series is there")
}

/// The first clients keep their connections and are served. The others cost almost nothing: they wait, and
/// are refused after a while. Larder accepts no connection without the descriptors that a response may need.
#[tokio::test]
async fn ovl_05_clients_beyond_the_file_limit_wait_and_the_others_are_served() {
    // 128 files less a reserve of 32 leave 96: three eighths of them for clients, and as many for
    // their calls.
    const PLACES: usize = 36;
    bounded(async {
        let origin = Origin::always(MockResponse::new(200, &[], "ok")).await;
        let (mut larder, _files) = larder_with_few_files(&origin).await;
        let mut admin = Client::connect(larder.admin().await).await;
        let mut connected = connected_clients(larder.addr().await, PLACES).await;
        let newcomers = one_request_each(larder.addr().await, CLIENTS - PLACES);
        let (begun, busy) = (Clock::system().instant(), larder.cpu_time());
        let mut tick = interval(Duration::from_millis(20));
        for n in 0..100 {
            tick.tick().await;
            assert!(get(&mut connected[0], "/kept").await.cache_status().contains("hit"));
            assert_eq!(get(&mut connected[n % PLACES], &format!("/cold/{n}")).await.status, 200);
        }
        let (took, busy) =
            (Clock::system().instant().duration_since(begun), larder.cpu_time().saturating_sub(busy));
        assert!(busy < took / 2, "{busy:?} of {took:?}");
        all_get(503, newcomers, CLIENTS - PLACES).await;
        drop(connected);
        timeout(RECOVERED, until_served(larder.addr().await)).await.expect("in 5 s");
        assert_eq!(accept_errors(&mut admin).await, 0, "every accepted client had a descriptor");
        larder.signal("TERM");
        assert!(larder.wait_for_exit().await.success());
    })
    .await;
}

/// A pooled connection stays open for a minute.
#[tokio::test]
async fn ovl_05_an_idle_pooled_connection_keeps_no_descriptor_from_a_call() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(200, &[], "ok")).await;
        let hosts = ["a", "b", "c", "d", "e"].map(|name| format!("{name}.example.test"));
        let to = |host: &String| format!("{host}: '{}'", origin.addr);
        let resolve = hosts.iter().map(to).collect::<Vec<_>>().join(", ");
        let (process, _files) = Process::run(&format!(
            "version: 1\nlisten: 127.0.0.1:0\nadmin: off\nstore: {{ disk: off }}\n\
             resolve: {{ {resolve} }}\n"
        ))
        .await;
        let mut client = Client::connect(process.addr().await).await;
        for (n, host) in hosts.iter().enumerate() {
            if n == 2 {
                process.limit_open_files(process.next_fd());
            }
            let answer = client.get(&format!("http://{host}/"), &[]).await;
            assert_eq!(answer.status, 200, "{host}: {}", answer.text());
        }
        assert_eq!((origin.calls(), origin.connections()), (5, 5));
    })
    .await;
}

/// No descriptor is left, not even for accepting a connection.
#[tokio::test]
async fn ovl_05_without_descriptors_accepts_back_off_and_hits_are_served() {
    bounded(async {
        // Every call needs a new connection.
        let last = MockResponse::new(200, &["Connection: close"], "ok").then([Step::Close]);
        let origin = Origin::always(last).await;
        let (mut larder, _files) = larder_with_few_files(&origin).await;
        let mut client = Client::connect(larder.addr().await).await;
        let mut admin = Client::connect(larder.admin().await).await;
        assert_eq!(get(&mut client, "/kept").await.status, 200);
        larder.limit_open_files(8);
        let newcomers = one_request_each(larder.addr().await, CLIENTS);
        let (begun, busy) = (Clock::system().instant(), larder.cpu_time());
        let mut tick = interval(Duration::from_millis(20));
        while accept_errors(&mut admin).await < 40 {
            for _ in 0..10 {
                tick.tick().await;
                assert!(get(&mut client, "/kept").await.cache_status().contains("hit"));
            }
        }
        let (took, busy) =
            (Clock::system().instant().duration_since(begun), larder.cpu_time().saturating_sub(busy));
        assert!(busy < took / 2, "{busy:?} of {took:?}");
        assert!(took > Duration::from_secs(1), "it backs off: {took:?}");
        // A request that needs a descriptor gets an error response.
        let cold = get(&mut client, "/cold").await;
        assert_eq!((cold.status, origin.calls()), (503, 1), "{}", cold.text());
        larder.limit_open_files(FILES);
        timeout(RECOVERED, all_get(200, newcomers, CLIENTS)).await.expect("in 5 s");
        let mut client = Client::connect(larder.addr().await).await;
        assert_eq!(get(&mut client, "/cold").await.status, 200);
        larder.signal("TERM");
        assert!(larder.wait_for_exit().await.success());
        let logged = larder.err.all().iter().filter(|line| line.contains("Accept failed")).count();
        let seconds = usize::try_from(Clock::system().instant().duration_since(begun).as_secs()).unwrap();
        assert!((1..=seconds + 1).contains(&logged), "{logged} lines in {seconds} s");
    })
    .await;
}

/// The number of keys that are requested together.
const KEYS: usize = 1000;
const EACH: usize = 20;

/// Requests every key from that many clients at the same time and returns the statuses.
async fn request_all_keys(larder: &Larder, clients: usize) -> Vec<u16> {
    const LANES: usize = 10;
    let mut tasks = JoinSet::new();
    for client in 0..clients * LANES {
        let mut client_of_lane = larder.client().await;
        tasks.spawn(async move {
            let mut got = Vec::new();
            for key in (client % LANES..KEYS).step_by(LANES) {
                got.push(get(&mut client_of_lane, &format!("/{key}")).await.status);
            }
            got
        });
    }
    tasks.join_all().await.concat()
}

/// The duration is that of 21,000 responses of an unoptimised larder.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ovl_09_a_thousand_keys_that_expire_together_are_fetched_once_each() {
    let all = async {
        let origin = Origin::always(MockResponse::new(200, &[], "ok")).await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        request_all_keys(&larder, 1).await;
        assert_eq!(origin.calls(), KEYS);
        larder.clock.advance(Duration::from_secs(3601));
        let got = request_all_keys(&larder, EACH).await;
        assert_eq!(got.len(), KEYS * EACH);
        assert!(got.iter().all(|status| *status == 200));
        assert_eq!(origin.calls(), 2 * KEYS, "twenty thousand requests, a thousand calls");
    };
    timeout(Duration::from_secs(60), all).await.expect("it does not hang");
}

/// With the option, entries that were stored within the same second expire gradually.
#[tokio::test]
async fn ovl_09_with_ttl_jitter_entries_stored_together_expire_gradually() {
    const LATER: Duration = Duration::from_millis(1);
    const SOME: usize = 200;
    bounded(async {
        let origin = Origin::always(MockResponse::new(200, &[], "ok")).await;
        let larder = Larder::with_policy(&origin, &["ttl: 1000s", "ttl_jitter: 20%"]).await;
        let mut client = larder.client().await;
        for key in 0..SOME {
            larder.clock.advance(LATER);
            assert_eq!(get(&mut client, &format!("/{key}")).await.status, 200);
        }
        // 800 s: none has expired. 900 s: about half. 1,000 s: all.
        for (advanced, share) in [(799, 0..=0), (101, 40..=60), (101, 40..=60), (1, 0..=0)] {
            let before = origin.calls();
            larder.clock.advance(Duration::from_secs(advanced));
            for key in 0..SOME {
                assert_eq!(get(&mut client, &format!("/{key}")).await.status, 200);
            }
            let fetched = (origin.calls() - before) * 100 / (SOME);
            assert!(share.contains(&fetched), "{advanced} s later: {fetched} %");
        }
    })
    .await;
}

/// Waves of four times as many clients as `limits.connections`, and clients that send malformed heads:
/// connected clients are served as usual, the others get a 503 at once, and the log grows slowly.
#[tokio::test]
async fn ovl_11_excess_clients_get_503_malformed_requests_400_and_few_lines() {
    const PLACES: usize = 16;
    bounded(async {
        let origin = Origin::always(MockResponse::new(200, &[], "ok")).await;
        let (mut larder, _files) = caching_larder(&origin, "limits: { connections: 16 }\n", None).await;
        let (addr, begun) = (larder.addr().await, Clock::system().instant());
        let mut admin = Client::connect(larder.admin().await).await;
        for n in 0..500 {
            let mut client = Client::connect(addr).await;
            client.send(format!("GET /{n} HTTP/1.1\r\nno colon here\r\n\r\n")).await;
            assert_eq!(client.response("GET").await.expect("a response").status, 400);
        }
        let mut connected = connected_clients(addr, PLACES).await;
        // Full for a second: from here on larder refuses new clients at once.
        all_get(503, one_request_each(addr, 1), 1).await;
        for _ in 0..10 {
            let since = Clock::system().instant();
            let refusal = timeout(TIMEOUT, Client::connect(addr).await.get(API, &[])).await;
            let refusal = refusal.expect("in time");
            assert_eq!((refusal.status, refusal.field("retry-after")), (503, Some("1")));
            assert!(refusal.text().contains("\"connections\""), "{}", refusal.text());
            assert!(Clock::system().instant().duration_since(since) < Duration::from_secs(1));
            all_get(503, one_request_each(addr, 3 * PLACES), 3 * PLACES).await;
            for client in &mut connected {
                assert_eq!(get(client, "/kept").await.status, 200);
            }
        }
        drop(connected);
        timeout(Duration::from_secs(2), until_served(addr)).await.expect("it recovers in 2 s");
        let denied = |reason| format!("larder_denied_total{{reason=\"{reason}\"}} ");
        let page = metrics(&mut admin).await;
        let counted = |reason| {
            let line = page.lines().find_map(|line| line.strip_prefix(&denied(reason)));
            line.and_then(|count| count.parse::<usize>().ok()).unwrap_or_default()
        };
        assert_eq!(counted("malformed_head"), 500, "{page}");
        assert!(counted("connections") >= 11 + 30 * PLACES, "{page}");
        larder.signal("TERM");
        assert!(larder.wait_for_exit().await.success());
        let seconds = usize::try_from(Clock::system().instant().duration_since(begun).as_secs()).unwrap();
        let logged = larder.err.all().iter().filter(|line| line.contains("refused")).count();
        assert!((1..=10 * (seconds + 2)).contains(&logged), "{logged} lines in {seconds} s");
    })
    .await;
}
