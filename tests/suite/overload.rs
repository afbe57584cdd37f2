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

/// A larder that keeps what `origin` answers, with few descriptors.
async fn cramped(origin: &Origin) -> (Process, House) {
    let yaml = format!(
        "version: 1\nlisten: 127.0.0.1:0\nadmin: {{ listen: 127.0.0.1:0 }}\n\
         resolve: {{ api.example.test: \"{}\" }}\n\
         routes: [{{ name: api, match: {{ host: api.example.test }}, ttl: 1h }}]\n",
        origin.addr
    );
    Process::run_within(FILES, &yaml).await
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

async fn all_are_served(mut knocking: JoinSet<u16>, clients: usize) {
    let mut served = 0;
    while let Some(status) = timeout(PATIENCE, knocking.join_next()).await.expect("in time") {
        assert_eq!(status.expect("a client asks on"), 200);
        served += 1;
    }
    assert_eq!(served, clients);
}

/// What `/metrics` says of accepts that failed.
async fn accept_errors(admin: &mut Client) -> usize {
    admin.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let page = timeout(PATIENCE, admin.answer("GET")).await.expect("in time").expect("a page");
    let page = page.text();
    let line = page.lines().find_map(|line| line.strip_prefix("larder_accept_errors_total "));
    line.and_then(|count| count.parse().ok()).expect("the series is there")
}

/// Those who came first keep their connections; the others wait without costing anything, and nobody
/// is let in without the descriptors that an answer may need.
#[tokio::test]
async fn ovl_05_clients_beyond_the_open_files_wait_and_nobody_gets_an_error() {
    // What 128 files are enough for: one for the connection and one for a call each, beside 32.
    const PLACES: usize = 48;
    bounded(async {
        let origin = Origin::always(Answer::new(200, &[], "ok")).await;
        let (mut larder, _house) = cramped(&origin).await;
        let mut admin = Client::connect(larder.admin().await).await;
        let mut staying = Vec::new();
        for _ in 0..PLACES {
            let mut client = Client::connect(larder.addr().await).await;
            assert_eq!(asks(&mut client, "/kept").await.status, 200);
            staying.push(client);
        }
        let mut knocking = knocking(larder.addr().await, CLIENTS - PLACES);
        let (begun, busy) = (clock::monotonic(), larder.cpu());
        let mut tick = interval(Duration::from_millis(20));
        for n in 0..50 {
            tick.tick().await;
            assert!(asks(&mut staying[0], "/kept").await.cache_status().contains("hit"));
            assert_eq!(asks(&mut staying[n % PLACES], &format!("/cold/{n}")).await.status, 200);
        }
        let (took, busy) =
            (clock::monotonic().duration_since(begun), larder.cpu().saturating_sub(busy));
        assert!(knocking.try_join_next().is_none(), "accepting is paused");
        assert!(busy < took / 2, "{busy:?} of {took:?}");
        drop(staying);
        timeout(RECOVERED, all_are_served(knocking, CLIENTS - PLACES)).await.expect("in 5 s");
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
        // An accept that waited before the limit fell has its descriptor already.
        let mut early = Client::connect(larder.addr().await).await;
        early.ask("GET", &format!("{API}/kept"), &[]).await;
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
        assert_eq!((cold.status, origin.calls()), (502, 1), "{}", cold.text());
        larder.limit_files(FILES);
        timeout(RECOVERED, all_are_served(knocking, CLIENTS)).await.expect("in 5 s");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ovl_09_a_thousand_keys_that_expire_together_are_asked_for_once_each() {
    bounded(async {
        let origin = Origin::always(Answer::new(200, &[], "ok")).await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        all_ask(&larder, 1).await;
        assert_eq!(origin.calls(), KEYS);
        larder.clock.advance(Duration::from_secs(3601));
        let got = all_ask(&larder, EACH).await;
        assert_eq!(got.len(), KEYS * EACH);
        assert!(got.iter().all(|status| *status == 200));
        assert_eq!(origin.calls(), 2 * KEYS, "twenty thousand requests, a thousand calls");
    })
    .await;
}
