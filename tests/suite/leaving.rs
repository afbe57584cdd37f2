//! Clients that leave before their answer: what becomes of a call that went out counts all the same, and it
//! keeps its place until then.

use std::net::SocketAddr;
use std::time::Duration;

use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::crowd::bounded;
use crate::intercepted::{self, Scene};
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Answer, Gate, Origin, Step};
use crate::storm::{api, class, holds, yaml};

const GUARD: &str = "ban_guard: { statuses: [401], limit: 10/10m }, rate_limit: { max_wait: 0s }";

/// An operator who says how many calls there may be at once has them counted until they are over.
const BOUND: &str = "rate_limit: { in_flight: 64 }";

fn post(path: &str, length: usize, body: &str) -> String {
    format!("POST {API}{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// Requests that no route caches, with a body and without.
fn passing(n: usize) -> String {
    match n % 2 {
        0 => post(&format!("/{n}"), 2, "hi"),
        _ => format!("DELETE {API}/{n} HTTP/1.1\r\nHost: x\r\n\r\n"),
    }
}

/// How many exchanges without a route broke off.
fn broken_off(larder: &Larder) -> f64 {
    larder.metric("larder_requests_total{result=\"error\",route=\"none\"}")
}

/// A client whose call has reached the origin leaves, and larder has missed it.
async fn leaves(larder: &Larder, origin: &Origin, request: String) {
    let (calls, before) = (origin.calls(), broken_off(larder));
    let mut client = larder.client().await;
    client.send(request).await;
    origin.reached(calls + 1).await;
    drop(client);
    larder.until("it is missed", |larder| broken_off(larder) > before).await;
}

/// What a client that stays is told.
async fn asks(larder: &Larder, request: String) -> (u16, String) {
    let mut client = larder.client().await;
    client.send(request).await;
    let answer = client.answer("POST").await.expect("an answer");
    (answer.status, class(&answer))
}

fn in_flight(larder: &Larder) -> usize {
    api(larder).in_flight
}

#[tokio::test]
async fn the_ban_guard_counts_what_clients_that_left_were_answered() {
    bounded(async {
        let gate = Gate::new();
        let release = gate.clone();
        let origin = Origin::start(move |_| Answer::new(401, &[], "no").after(&release)).await;
        let larder = Larder::start(&origin, &yaml(GUARD, &["retry: off"])).await;
        for n in 0..8 {
            leaves(&larder, &origin, passing(n)).await;
        }
        // Each of the eight may be answered with a 401: no more go out.
        assert_eq!(asks(&larder, post("/w", 2, "hi")).await.0, 503);
        assert_eq!((origin.calls(), in_flight(&larder)), (8, 8));
        gate.open();
        larder.until("all are counted", |larder| in_flight(larder) == 0).await;
        assert_eq!(api(&larder).ban_guard, Some((8, 8)));
        let refused = (429, "ban_guard".to_owned());
        assert_eq!(asks(&larder, post("/w", 2, "hi")).await, refused);
        let calls = "larder_upstream_requests_total{code=\"401\",route=\"none\",upstream=\"api\"}";
        larder.counts(calls, 8.0).await;
        assert_eq!(origin.calls(), 8);
    })
    .await;
}

#[tokio::test]
async fn no_more_calls_than_in_flight_are_under_way_however_many_clients_leave() {
    bounded(async {
        let gate = Gate::new();
        let release = gate.clone();
        let origin = Origin::start(move |_| Answer::new(200, &[], "ok").after(&release)).await;
        let rate_limit = "rate_limit: { in_flight: 2, max_wait: 0s }";
        let larder = Larder::start(&origin, &yaml(rate_limit, &["retry: off"])).await;
        leaves(&larder, &origin, passing(0)).await;
        leaves(&larder, &origin, passing(1)).await;
        for n in 0..4 {
            assert_eq!(asks(&larder, passing(n)).await.0, 503);
        }
        assert_eq!(origin.calls(), 2);
        gate.open();
        larder.until("both are answered", |larder| in_flight(larder) == 0).await;
        // Nobody took the answers, and their connections go on.
        assert_eq!(asks(&larder, passing(0)).await.0, 200);
        assert_eq!(origin.calls(), 3);
    })
    .await;
}

/// A connection of HTTP/2 that ends takes all that is asked on it along.
#[tokio::test]
async fn a_connection_of_http_2_that_ends_gives_no_place_back() {
    bounded(async {
        let gate = Gate::new();
        let release = gate.clone();
        let origin = Origin::start(move |_| Answer::new(401, &[], "no").after(&release)).await;
        let scene = Scene::before(origin, &format!(", {GUARD}"), &route(&["ttl: 1h"])).await;
        let (client, name) = (scene.client(&["h2"]), intercepted::API);
        let stream = client.connect(&format!("{name}:443"), name).await.expect("a handshake");
        let (mut send, connection) = h2::client::handshake(stream).await.expect("larder speaks it");
        let driver = tokio::spawn(connection);
        let mut asked = Vec::new();
        for n in 0..8 {
            let url = format!("https://{}/{n}", intercepted::API);
            asked.push(intercepted::head(&mut send, Request::delete(url)));
        }
        scene.origin.reached(8).await;
        let places = scene.larder.server.places_taken();
        driver.abort();
        let gone = |larder: &Larder| larder.server.places_taken() < places;
        scene.larder.until("it is missed", gone).await;
        assert_eq!(in_flight(&scene.larder), 8);
        gate.open();
        scene.larder.until("all are counted", |larder| in_flight(larder) == 0).await;
        assert_eq!(api(&scene.larder).ban_guard, Some((8, 8)));
    })
    .await;
}

/// An origin that answers 401 to each head, whatever of its body is missing, once `gate` is open.
async fn refusing_heads(gate: &Gate) -> (SocketAddr, tokio::sync::watch::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (heads, seen) = tokio::sync::watch::channel(0);
    let gate = gate.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(refuses(stream, gate.clone(), heads.clone()));
        }
    });
    (addr, seen)
}

async fn refuses(mut stream: TcpStream, gate: Gate, heads: tokio::sync::watch::Sender<usize>) {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    heads.send_modify(|heads| *heads += 1);
    gate.passed().await;
    let answer = b"HTTP/1.1 401 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
    let _gone = stream.write_all(answer).await;
}

/// Where a guard counts, an early answer to half a request is waited for, for a while.
#[tokio::test]
async fn the_ban_guard_counts_early_answers_to_requests_that_were_never_sent_in_full() {
    bounded(async {
        let gate = Gate::new();
        let (addr, mut heads) = refusing_heads(&gate).await;
        let resolve = format!("resolve: {{ api.example.test: \"{addr}\" }}\n");
        let larder = Larder::bare(&format!("{resolve}{}", yaml(GUARD, &["retry: off"]))).await;
        // The one leaves, the other sends what is no chunk.
        let chunked =
            format!("POST {API}/m HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
        for n in 0..8 {
            let before = broken_off(&larder);
            let mut client = larder.client().await;
            let request = if n % 2 == 0 { post("/h", 100, "half") } else { chunked.clone() };
            client.send(request).await;
            heads.wait_for(|heads| *heads == n + 1).await.unwrap();
            if n % 2 == 1 {
                client.send("no chunk\r\n").await;
                client.answer("POST").await.expect("it is told");
            }
            drop(client);
            larder.until("it is missed", |larder| broken_off(larder) > before).await;
        }
        assert_eq!(asks(&larder, post("/w", 2, "hi")).await.0, 503);
        gate.open();
        larder.until("all are counted", |larder| in_flight(larder) == 0).await;
        assert_eq!(api(&larder).ban_guard, Some((8, 8)));
    })
    .await;
}

#[tokio::test]
async fn half_a_request_that_no_guard_counts_ends_with_its_client() {
    bounded(async {
        let (addr, mut heads) = refusing_heads(&Gate::new()).await;
        let resolve = format!("resolve: {{ api.example.test: \"{addr}\" }}\n");
        let larder = Larder::bare(&format!("{resolve}{}", yaml("", &["retry: off"]))).await;
        let mut client = larder.client().await;
        client.send(post("/h", 100, "half")).await;
        heads.wait_for(|heads| *heads == 1).await.unwrap();
        drop(client);
        larder.until("it is missed", |larder| broken_off(larder) > 0.0).await;
        assert_eq!(in_flight(&larder), 0);
    })
    .await;
}

#[tokio::test]
async fn a_call_that_is_never_answered_gives_its_place_back_when_its_time_is_over() {
    bounded(async {
        let origin = Origin::always(Answer(vec![Step::UntilGone])).await;
        let rate_limit = "rate_limit: { in_flight: 1, max_wait: 0s }, timeouts: { first_byte: 300ms }";
        let larder = Larder::start(&origin, &yaml(rate_limit, &["retry: off"])).await;
        leaves(&larder, &origin, passing(0)).await;
        origin.left(1).await;
        larder.until("its place is free", |larder| in_flight(larder) == 0).await;
        let failed = "larder_upstream_requests_total{code=\"first-byte-timeout\",route=\"none\",upstream=\"api\"}";
        larder.counts(failed, 1.0).await;
    })
    .await;
}

/// RFC 9111 §4.4: what a write changed is asked for again, whoever hears that it was done.
#[tokio::test]
async fn a_write_whose_client_left_invalidates_what_is_stored() {
    bounded(async {
        let gate = Gate::new();
        let release = gate.clone();
        let origin = Origin::start(move |seen| match seen.method.as_str() {
            "GET" => Answer::new(200, &[], "stored"),
            _ => Answer::new(204, &[], "").after(&release),
        })
        .await;
        let larder = Larder::start(&origin, &yaml(BOUND, &["retry: off"])).await;
        larder.get("/0").await;
        assert!(larder.get("/0").await.cache_status().contains("hit"));
        leaves(&larder, &origin, passing(0)).await;
        gate.open();
        larder.until("it is answered", |larder| in_flight(larder) == 0).await;
        larder.counts("larder_invalidations_total{source=\"unsafe-method\"}", 1.0).await;
        assert!(!larder.get("/0").await.cache_status().contains("hit"));
    })
    .await;
}

/// A limit that only a body tells of is heard of, too.
#[tokio::test]
async fn what_a_body_says_that_nobody_took_counts_as_well() {
    bounded(async {
        let gate = Gate::new();
        let release = gate.clone();
        let origin = Origin::start(move |_| {
            let fields = ["Content-Type: application/json"];
            Answer::new(200, &fields, "{\"code\":9}").after(&release)
        })
        .await;
        let quota = "{ json: { \"$.code\": [9] }, class: quota, hold: until-utc-midnight }";
        let rules = format!("errors: [{quota}], {BOUND}");
        let larder = Larder::start(&origin, &yaml(&rules, &["retry: off"])).await;
        leaves(&larder, &origin, passing(0)).await;
        gate.open();
        larder.until("it is read", |larder| !holds(larder).is_empty()).await;
        let refused = (429, "quota_spent".to_owned());
        assert_eq!(asks(&larder, post("/w", 2, "hi")).await, refused);
        assert_eq!(origin.calls(), 1);
    })
    .await;
}

/// Where the answer is short, its connection is another call's afterwards.
#[tokio::test]
async fn the_connection_of_a_short_answer_that_nobody_took_is_used_again() {
    bounded(async {
        let gate = Gate::new();
        let release = gate.clone();
        let origin = Origin::start(move |_| Answer::new(200, &[], "ok").after(&release)).await;
        let larder = Larder::start(&origin, &yaml(BOUND, &["retry: off"])).await;
        leaves(&larder, &origin, passing(0)).await;
        gate.open();
        larder.until("it is answered", |larder| in_flight(larder) == 0).await;
        // Its last bytes may be read a moment after its head.
        for _ in 0..50 {
            assert_eq!(asks(&larder, passing(0)).await.0, 200);
            if origin.seen().iter().skip(1).any(|seen| seen.connection == 0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("never on the first connection");
    })
    .await;
}

/// An API that is paid for its work, and stops where nobody waits, must learn of it.
#[tokio::test]
async fn a_call_that_no_rule_counts_ends_with_its_client() {
    bounded(async {
        let origin = Origin::start(|_| Answer(vec![Step::UntilGone])).await;
        let larder = Larder::start(&origin, &yaml("", &["retry: off"])).await;
        leaves(&larder, &origin, passing(0)).await;
        larder.until("its place is free", |larder| in_flight(larder) == 0).await;
        origin.left(1).await;
    })
    .await;
}
