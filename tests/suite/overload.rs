//! More than larder can take: too few descriptors, whole shelves that expire at once, floods.

use std::net::SocketAddr;
use std::time::Duration;

use larder::clock;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use crate::client::{Client, Response};
use crate::crowd::bounded;
use crate::larder_under_test::{API, Larder};
use crate::origin::{Answer, Origin, Step};
use crate::process::{House, PATIENCE, Process};

const CLIENTS: usize = 400;
const FILES: u32 = 128;
const RECOVERED: Duration = Duration::from_secs(5);

/// A larder that keeps what `origin` answers, with at most so many open files.
async fn kept(origin: &Origin, more: &str, files: Option<u32>) -> (Process, House) {
    let yaml = format!(
        "version: 1\nlisten: 127.0.0.1:0\nadmin: {{ listen: 127.0.0.1:0 }}\n\
         resolve: {{ api.example.test: \"{}\" }}\n\
         routes: [{{ name: api, match: {{ host: api.example.test }}, ttl: 1h, retry: off }}]\n{more}",
        origin.addr
    );
    match files {
        Some(files) => Process::run_within(&format!("-n {files}"), &yaml).await,
        None => Process::run(&yaml).await,
    }
}

async fn cramped(origin: &Origin) -> (Process, House) {
    kept(origin, "", Some(FILES)).await
}

/// Asks on a connection that stays open.
async fn asks(client: &mut Client, path: &str) -> Response {
    timeout(PATIENCE, client.get(&format!("{API}{path}"), &[])).await.expect("an answer in time")
}

/// Clients that each ask once on a connection of their own and then leave.
fn knocking(addr: SocketAddr, clients: usize) -> JoinSet<u16> {
    let mut knocking = JoinSet::new();
    for _ in 0..clients {
        knocking.spawn(async move { asks(&mut Client::connect(addr).await, "/kept").await.status });
    }
    knocking
}

/// All of them get an answer with this status.
async fn all_get(expected: u16, mut knocking: JoinSet<u16>, clients: usize) {
    let mut answered = 0;
    while let Some(status) = timeout(PATIENCE, knocking.join_next()).await.expect("in time") {
        assert_eq!(status.expect("a client asks on"), expected);
        answered += 1;
    }
    assert_eq!(answered, clients);
}

/// Clients that have got an answer and keep their connections.
async fn staying(addr: SocketAddr, clients: usize) -> Vec<Client> {
    let mut staying = Vec::new();
    for _ in 0..clients {
        let mut client = Client::connect(addr).await;
        assert_eq!(asks(&mut client, "/kept").await.status, 200);
        staying.push(client);
    }
    staying
}

/// Comes back until it is served.
async fn until_let_in(addr: SocketAddr) {
    while asks(&mut Client::connect(addr).await, "/kept").await.status != 200 {}
}

async fn metrics(admin: &mut Client) -> String {
    admin.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    timeout(PATIENCE, admin.answer("GET")).await.expect("in time").expect("a page").text()
}

/// What `/metrics` says of accepts that failed.
async fn accept_errors(admin: &mut Client) -> usize {
    let page = metrics(admin).await;
    let line = page.lines().find_map(|line| line.strip_prefix("larder_accept_errors_total "));
    line.and_then(|count| count.parse().ok()).expect("the series is there")
}

/// Those who came first keep their connections and have all they need; the others cost next to
/// nothing: they wait, and are turned away when it takes long. Nobody is let in without the descriptors
/// that an answer may need.
#[tokio::test]
async fn ovl_05_clients_beyond_the_open_files_are_not_let_in_and_those_inside_have_all_they_need() {
    // Three eighths of what 128 files are beside 32, and as many for their calls.
    const PLACES: usize = 36;
    bounded(async {
        let origin = Origin::always(Answer::new(200, &[], "ok")).await;
        let (mut larder, _house) = cramped(&origin).await;
        let mut admin = Client::connect(larder.admin().await).await;
        let mut staying = staying(larder.addr().await, PLACES).await;
        let knocking = knocking(larder.addr().await, CLIENTS - PLACES);
        let (begun, busy) = (clock::monotonic(), larder.cpu());
        let mut tick = interval(Duration::from_millis(20));
        for n in 0..100 {
            tick.tick().await;
            assert!(asks(&mut staying[0], "/kept").await.cache_status().contains("hit"));
            assert_eq!(asks(&mut staying[n % PLACES], &format!("/cold/{n}")).await.status, 200);
        }
        let (took, busy) =
            (clock::monotonic().duration_since(begun), larder.cpu().saturating_sub(busy));
        assert!(busy < took / 2, "{busy:?} of {took:?}");
        all_get(503, knocking, CLIENTS - PLACES).await;
        drop(staying);
        timeout(RECOVERED, until_let_in(larder.addr().await)).await.expect("in 5 s");
        assert_eq!(
            accept_errors(&mut admin).await,
            0,
            "there was a descriptor for all who came in"
        );
        larder.signal("TERM");
        assert!(larder.ended().await.success());
    })
    .await;
}

/// Each waits for its next call a minute long.
#[tokio::test]
async fn ovl_05_what_waits_for_its_next_call_keeps_no_descriptor_from_a_call() {
    bounded(async {
        let origin = Origin::always(Answer::new(200, &[], "ok")).await;
        let hosts = ["a", "b", "c", "d", "e"].map(|name| format!("{name}.example.test"));
        let to = |host: &String| format!("{host}: '{}'", origin.addr);
        let resolve = hosts.iter().map(to).collect::<Vec<_>>().join(", ");
        let (process, _house) = Process::run(&format!(
            "version: 1\nlisten: 127.0.0.1:0\nadmin: off\nstore: {{ disk: off }}\n\
             resolve: {{ {resolve} }}\n"
        ))
        .await;
        let mut client = Client::connect(process.addr().await).await;
        for (n, host) in hosts.iter().enumerate() {
            if n == 2 {
                process.limit_files(process.next_file());
            }
            let answer = client.get(&format!("http://{host}/"), &[]).await;
            assert_eq!(answer.status, 200, "{host}: {}", answer.text());
        }
        assert_eq!((origin.calls(), origin.connections()), (5, 5));
    })
    .await;
}

/// However the descriptors went: nothing can be opened any more, not even for those who knock.
#[tokio::test]
async fn ovl_05_without_descriptors_accepting_backs_off_hits_go_on_and_it_recovers() {
    bounded(async {
        // Every call to it needs a connection of its own.
        let last = Answer::new(200, &["Connection: close"], "ok").then([Step::Close]);
        let origin = Origin::always(last).await;
        let (mut larder, _house) = cramped(&origin).await;
        let mut client = Client::connect(larder.addr().await).await;
        let mut admin = Client::connect(larder.admin().await).await;
        assert_eq!(asks(&mut client, "/kept").await.status, 200);
        larder.limit_files(8);
        let knocking = knocking(larder.addr().await, CLIENTS);
        let (begun, busy) = (clock::monotonic(), larder.cpu());
        let mut tick = interval(Duration::from_millis(20));
        while accept_errors(&mut admin).await < 40 {
            for _ in 0..10 {
                tick.tick().await;
                assert!(asks(&mut client, "/kept").await.cache_status().contains("hit"));
            }
        }
        let (took, busy) =
            (clock::monotonic().duration_since(begun), larder.cpu().saturating_sub(busy));
        assert!(busy < took / 2, "{busy:?} of {took:?}");
        assert!(took > Duration::from_secs(1), "it backs off: {took:?}");
        // What needs a descriptor gets a word, not a silence.
        let cold = asks(&mut client, "/cold").await;
        assert_eq!((cold.status, origin.calls()), (503, 1), "{}", cold.text());
        larder.limit_files(FILES);
        timeout(RECOVERED, all_get(200, knocking, CLIENTS)).await.expect("in 5 s");
        let mut client = Client::connect(larder.addr().await).await;
        assert_eq!(asks(&mut client, "/cold").await.status, 200);
        larder.signal("TERM");
        assert!(larder.ended().await.success());
        let told = larder.err.all().iter().filter(|line| line.contains("Accept failed")).count();
        let seconds = usize::try_from(clock::monotonic().duration_since(begun).as_secs()).unwrap();
        assert!((1..=seconds + 1).contains(&told), "{told} lines in {seconds} s");
    })
    .await;
}

/// Keys that are asked for together.
const KEYS: usize = 1000;
const EACH: usize = 20;

/// Every key is asked for by so many clients at the same time: what they got.
async fn all_ask(larder: &Larder, clients: usize) -> Vec<u16> {
    const LANES: usize = 10;
    let mut asking = JoinSet::new();
    for client in 0..clients * LANES {
        let mut client_of_lane = larder.client().await;
        asking.spawn(async move {
            let mut got = Vec::new();
            for key in (client % LANES..KEYS).step_by(LANES) {
                got.push(asks(&mut client_of_lane, &format!("/{key}")).await.status);
            }
            got
        });
    }
    asking.join_all().await.concat()
}

/// It takes as long as an unoptimised larder takes for 21,000 answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ovl_09_a_thousand_keys_that_expire_together_are_asked_for_once_each() {
    let all = async {
        let origin = Origin::always(Answer::new(200, &[], "ok")).await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        all_ask(&larder, 1).await;
        assert_eq!(origin.calls(), KEYS);
        larder.clock.advance(Duration::from_secs(3601));
        let got = all_ask(&larder, EACH).await;
        assert_eq!(got.len(), KEYS * EACH);
        assert!(got.iter().all(|status| *status == 200));
        assert_eq!(origin.calls(), 2 * KEYS, "twenty thousand requests, a thousand calls");
    };
    timeout(Duration::from_secs(60), all).await.expect("it does not hang");
}

/// The option: what was stored within the same second expires little by little.
#[tokio::test]
async fn ovl_09_with_ttl_jitter_what_was_stored_together_expires_little_by_little() {
    const LATER: Duration = Duration::from_millis(1);
    const SOME: usize = 200;
    bounded(async {
        let origin = Origin::always(Answer::new(200, &[], "ok")).await;
        let larder = Larder::with_policy(&origin, &["ttl: 1000s", "ttl_jitter: 20%"]).await;
        let mut client = larder.client().await;
        for key in 0..SOME {
            larder.clock.advance(LATER);
            assert_eq!(asks(&mut client, &format!("/{key}")).await.status, 200);
        }
        // 800 s: none has expired. 900 s: about half. 1,000 s: all.
        for (turned, share) in [(799, 0..=0), (101, 40..=60), (101, 40..=60), (1, 0..=0)] {
            let before = origin.calls();
            larder.clock.advance(Duration::from_secs(turned));
            for key in 0..SOME {
                assert_eq!(asks(&mut client, &format!("/{key}")).await.status, 200);
            }
            let asked = (origin.calls() - before) * 100 / (SOME);
            assert!(share.contains(&asked), "{turned} s later: {asked} %");
        }
    })
    .await;
}

/// Four times as many clients as there are places, which come again and again, and clients that send
/// nonsense: those inside do not notice, the others are told at once, and the log grows slowly.
#[tokio::test]
async fn ovl_11_a_crowd_is_told_503_and_malformed_requests_400_and_the_log_grows_slowly() {
    const PLACES: usize = 16;
    bounded(async {
        let origin = Origin::always(Answer::new(200, &[], "ok")).await;
        let (mut larder, _house) = kept(&origin, "limits: { connections: 16 }\n", None).await;
        let (addr, begun) = (larder.addr().await, clock::monotonic());
        let mut admin = Client::connect(larder.admin().await).await;
        for n in 0..500 {
            let mut client = Client::connect(addr).await;
            client.send(format!("GET /{n} HTTP/1.1\r\nno colon here\r\n\r\n")).await;
            assert_eq!(client.answer("GET").await.expect("an answer").status, 400);
        }
        let mut staying = staying(addr, PLACES).await;
        // Full for a second: from here on whoever comes is told at once.
        all_get(503, knocking(addr, 1), 1).await;
        for _ in 0..10 {
            let since = clock::monotonic();
            let told = timeout(PATIENCE, Client::connect(addr).await.get(API, &[])).await;
            let told = told.expect("in time");
            assert_eq!((told.status, told.field("retry-after")), (503, Some("1")));
            assert!(told.text().contains("\"connections\""), "{}", told.text());
            assert!(clock::monotonic().duration_since(since) < Duration::from_secs(1));
            all_get(503, knocking(addr, 3 * PLACES), 3 * PLACES).await;
            for client in &mut staying {
                assert_eq!(asks(client, "/kept").await.status, 200);
            }
        }
        drop(staying);
        timeout(Duration::from_secs(2), until_let_in(addr)).await.expect("it recovers in 2 s");
        let denied = |reason| format!("larder_denied_total{{reason=\"{reason}\"}} ");
        let page = metrics(&mut admin).await;
        let counted = |reason| {
            let line = page.lines().find_map(|line| line.strip_prefix(&denied(reason)));
            line.and_then(|count| count.parse::<usize>().ok()).unwrap_or_default()
        };
        assert_eq!(counted("malformed_head"), 500, "{page}");
        assert!(counted("connections") >= 11 + 30 * PLACES, "{page}");
        larder.signal("TERM");
        assert!(larder.ended().await.success());
        let seconds = usize::try_from(clock::monotonic().duration_since(begun).as_secs()).unwrap();
        let told = larder.err.all().iter().filter(|line| line.contains("refused")).count();
        assert!((1..=10 * (seconds + 2)).contains(&told), "{told} lines in {seconds} s");
    })
    .await;
}
