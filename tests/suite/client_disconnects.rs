//! Clients that disconnect before their response: the outcome of a call that was sent still counts, and the
//! call keeps its permit until then.

use std::net::SocketAddr;
use std::time::Duration;

use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::concurrent::bounded;
use crate::failing_origin::{api_status, cooldowns, error_class, yaml};
use crate::intercepted::{self, InterceptionSetup};
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Gate, MockResponse, Origin, Step};

const GUARD: &str = "ban_guard: { statuses: [401], limit: 10/10m }, rate_limit: { max_wait: 0s }";

/// With an in-flight limit each call is counted until it is over.
const BOUND: &str = "rate_limit: { in_flight: 64 }";

fn post(path: &str, length: usize, body: &str) -> String {
    format!("POST {API}{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// Requests that no route caches: an even `n` has a body, an odd one has none.
fn uncached_request(n: usize) -> String {
    match n % 2 {
        0 => post(&format!("/{n}"), 2, "hi"),
        _ => format!("DELETE {API}/{n} HTTP/1.1\r\nHost: x\r\n\r\n"),
    }
}

/// The number of aborted requests without a route.
fn aborted_requests(larder: &Larder) -> f64 {
    larder.metric("larder_requests_total{result=\"error\",route=\"none\"}")
}

/// Sends a request, disconnects once its call has reached the origin, and waits until larder notices it.
async fn disconnect_after_call(larder: &Larder, origin: &Origin, request: String) {
    let (calls, before) = (origin.calls(), aborted_requests(larder));
    let mut client = larder.client().await;
    client.send(request).await;
    origin.wait_for_calls(calls + 1).await;
    drop(client);
    larder.wait_until("the disconnect is noticed", |larder| aborted_requests(larder) > before).await;
}

/// Sends a request and returns its status and the class of larder's error.
async fn status_and_class(larder: &Larder, request: String) -> (u16, String) {
    let mut client = larder.client().await;
    client.send(request).await;
    let answer = client.response("POST").await.expect("an answer");
    (answer.status, error_class(&answer))
}

fn in_flight(larder: &Larder) -> usize {
    api_status(larder).in_flight
}

#[tokio::test]
async fn the_ban_guard_counts_responses_to_disconnected_clients() {
    bounded(async {
        let gate = Gate::new();
        let release = gate.clone();
        let origin = Origin::start(move |_| MockResponse::new(401, &[], "no").after(&release)).await;
        let larder = Larder::start(&origin, &yaml(GUARD, &["retry: off"])).await;
        for n in 0..8 {
            disconnect_after_call(&larder, &origin, uncached_request(n)).await;
        }
        // Each of the eight calls may end with a 401, so no more are sent.
        assert_eq!(status_and_class(&larder, post("/w", 2, "hi")).await.0, 503);
        assert_eq!((origin.calls(), in_flight(&larder)), (8, 8));
        gate.open();
        larder.wait_until("all are counted", |larder| in_flight(larder) == 0).await;
        assert_eq!(api_status(&larder).ban_guard, Some((8, 8)));
        let refused = (429, "ban_guard".to_owned());
        assert_eq!(status_and_class(&larder, post("/w", 2, "hi")).await, refused);
        let calls = "larder_upstream_requests_total{code=\"401\",route=\"none\",upstream=\"api\"}";
        larder.wait_for_metric(calls, 8.0).await;
        assert_eq!(origin.calls(), 8);
    })
    .await;
}

#[tokio::test]
async fn disconnects_do_not_raise_the_number_of_calls_above_in_flight() {
    bounded(async {
        let gate = Gate::new();
        let release = gate.clone();
        let origin = Origin::start(move |_| MockResponse::new(200, &[], "ok").after(&release)).await;
        let rate_limit = "rate_limit: { in_flight: 2, max_wait: 0s }";
        let larder = Larder::start(&origin, &yaml(rate_limit, &["retry: off"])).await;
        disconnect_after_call(&larder, &origin, uncached_request(0)).await;
        disconnect_after_call(&larder, &origin, uncached_request(1)).await;
        for n in 0..4 {
            assert_eq!(status_and_class(&larder, uncached_request(n)).await.0, 503);
        }
        assert_eq!(origin.calls(), 2);
        gate.open();
        larder.wait_until("both are answered", |larder| in_flight(larder) == 0).await;
        // No client read the responses, and the next call succeeds.
        assert_eq!(status_and_class(&larder, uncached_request(0)).await.0, 200);
        assert_eq!(origin.calls(), 3);
    })
    .await;
}

/// The end of an HTTP/2 connection disconnects all of its requests at once.
#[tokio::test]
async fn the_end_of_an_http_2_connection_releases_no_permit() {
    bounded(async {
        let gate = Gate::new();
        let release = gate.clone();
        let origin = Origin::start(move |_| MockResponse::new(401, &[], "no").after(&release)).await;
        let scene =
            InterceptionSetup::start_with_upstream(origin, &format!(", {GUARD}"), &route(&["ttl: 1h"])).await;
        let (client, name) = (scene.client(&["h2"]), intercepted::API);
        let stream = client.connect(&format!("{name}:443"), name).await.expect("a handshake");
        let (mut send, connection) = h2::client::handshake(stream).await.expect("larder speaks it");
        let driver = tokio::spawn(connection);
        let mut pending = Vec::new();
        for n in 0..8 {
            let url = format!("https://{}/{n}", intercepted::API);
            pending.push(intercepted::head(&mut send, Request::delete(url)));
        }
        scene.origin.wait_for_calls(8).await;
        let places = scene.larder.server.connections_taken();
        driver.abort();
        let disconnected = |larder: &Larder| larder.server.connections_taken() < places;
        scene.larder.wait_until("the disconnect is noticed", disconnected).await;
        assert_eq!(in_flight(&scene.larder), 8);
        gate.open();
        scene.larder.wait_until("all are counted", |larder| in_flight(larder) == 0).await;
        assert_eq!(api_status(&scene.larder).ban_guard, Some((8, 8)));
    })
    .await;
}

/// An origin that responds with 401 to each head once `gate` is open, even if the body is incomplete.
async fn refusing_heads(gate: &Gate) -> (SocketAddr, tokio::sync::watch::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (heads, seen) = tokio::sync::watch::channel(0);
    let gate = gate.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(refuse_head(stream, gate.clone(), heads.clone()));
        }
    });
    (addr, seen)
}

async fn refuse_head(mut stream: TcpStream, gate: Gate, heads: tokio::sync::watch::Sender<usize>) {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    heads.send_modify(|heads| *heads += 1);
    gate.wait_open().await;
    let answer = b"HTTP/1.1 401 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
    let _ignored = stream.write_all(answer).await;
}

/// With a ban guard, larder waits a while for an early response to an incomplete request.
#[tokio::test]
async fn the_ban_guard_counts_early_responses_to_incomplete_requests() {
    bounded(async {
        let gate = Gate::new();
        let (addr, mut heads) = refusing_heads(&gate).await;
        let resolve = format!("resolve: {{ api.example.test: \"{addr}\" }}\n");
        let larder = Larder::bare(&format!("{resolve}{}", yaml(GUARD, &["retry: off"]))).await;
        // One client disconnects, the other sends an invalid chunk.
        let chunked = format!("POST {API}/m HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
        for n in 0..8 {
            let before = aborted_requests(&larder);
            let mut client = larder.client().await;
            let request = if n % 2 == 0 { post("/h", 100, "half") } else { chunked.clone() };
            client.send(request).await;
            heads.wait_for(|heads| *heads == n + 1).await.unwrap();
            if n % 2 == 1 {
                client.send("no chunk\r\n").await;
                client.response("POST").await.expect("a response");
            }
            drop(client);
            larder.wait_until("the disconnect is noticed", |larder| aborted_requests(larder) > before).await;
        }
        assert_eq!(status_and_class(&larder, post("/w", 2, "hi")).await.0, 503);
        gate.open();
        larder.wait_until("all are counted", |larder| in_flight(larder) == 0).await;
        assert_eq!(api_status(&larder).ban_guard, Some((8, 8)));
    })
    .await;
}

#[tokio::test]
async fn an_incomplete_request_without_a_guard_ends_with_its_client() {
    bounded(async {
        let (addr, mut heads) = refusing_heads(&Gate::new()).await;
        let resolve = format!("resolve: {{ api.example.test: \"{addr}\" }}\n");
        let larder = Larder::bare(&format!("{resolve}{}", yaml("", &["retry: off"]))).await;
        let mut client = larder.client().await;
        client.send(post("/h", 100, "half")).await;
        heads.wait_for(|heads| *heads == 1).await.unwrap();
        drop(client);
        larder.wait_until("the disconnect is noticed", |larder| aborted_requests(larder) > 0.0).await;
        assert_eq!(in_flight(&larder), 0);
    })
    .await;
}

#[tokio::test]
async fn a_call_without_a_response_releases_its_permit_at_its_timeout() {
    bounded(async {
        let origin = Origin::always(MockResponse(vec![Step::UntilDisconnect])).await;
        let rate_limit = "rate_limit: { in_flight: 1, max_wait: 0s }, timeouts: { first_byte: 300ms }";
        let larder = Larder::start(&origin, &yaml(rate_limit, &["retry: off"])).await;
        disconnect_after_call(&larder, &origin, uncached_request(0)).await;
        origin.wait_for_disconnects(1).await;
        larder.wait_until("its permit is released", |larder| in_flight(larder) == 0).await;
        let failed =
            "larder_upstream_requests_total{code=\"first-byte-timeout\",route=\"none\",upstream=\"api\"}";
        larder.wait_for_metric(failed, 1.0).await;
    })
    .await;
}

/// RFC 9111 §4.4: a successful write invalidates, even if its client does not receive the response.
#[tokio::test]
async fn a_write_of_a_disconnected_client_invalidates_the_stored_response() {
    bounded(async {
        let gate = Gate::new();
        let release = gate.clone();
        let origin = Origin::start(move |seen| match seen.method.as_str() {
            "GET" => MockResponse::new(200, &[], "stored"),
            _ => MockResponse::new(204, &[], "").after(&release),
        })
        .await;
        let larder = Larder::start(&origin, &yaml(BOUND, &["retry: off"])).await;
        larder.get("/0").await;
        assert!(larder.get("/0").await.cache_status().contains("hit"));
        disconnect_after_call(&larder, &origin, uncached_request(0)).await;
        gate.open();
        larder.wait_until("it is answered", |larder| in_flight(larder) == 0).await;
        larder.wait_for_metric("larder_invalidations_total{source=\"unsafe-method\"}", 1.0).await;
        assert!(!larder.get("/0").await.cache_status().contains("hit"));
    })
    .await;
}

/// A limit that only the body of a response reports is applied too.
#[tokio::test]
async fn a_limit_in_an_unread_body_is_applied() {
    bounded(async {
        let gate = Gate::new();
        let release = gate.clone();
        let origin = Origin::start(move |_| {
            let fields = ["Content-Type: application/json"];
            MockResponse::new(200, &fields, "{\"code\":9}").after(&release)
        })
        .await;
        let quota = "{ json: { \"$.code\": [9] }, class: quota, hold: until-utc-midnight }";
        let rules = format!("errors: [{quota}], {BOUND}");
        let larder = Larder::start(&origin, &yaml(&rules, &["retry: off"])).await;
        disconnect_after_call(&larder, &origin, uncached_request(0)).await;
        gate.open();
        larder.wait_until("the body is read", |larder| !cooldowns(larder).is_empty()).await;
        let refused = (429, "quota_spent".to_owned());
        assert_eq!(status_and_class(&larder, post("/w", 2, "hi")).await, refused);
        assert_eq!(origin.calls(), 1);
    })
    .await;
}

/// After a short response another call reuses the connection.
#[tokio::test]
async fn the_connection_of_a_short_unread_response_is_reused() {
    bounded(async {
        let gate = Gate::new();
        let release = gate.clone();
        let origin = Origin::start(move |_| MockResponse::new(200, &[], "ok").after(&release)).await;
        let larder = Larder::start(&origin, &yaml(BOUND, &["retry: off"])).await;
        disconnect_after_call(&larder, &origin, uncached_request(0)).await;
        gate.open();
        larder.wait_until("it is answered", |larder| in_flight(larder) == 0).await;
        // Larder may read the last bytes a moment after the head.
        for _ in 0..50 {
            assert_eq!(status_and_class(&larder, uncached_request(0)).await.0, 200);
            if origin.requests().iter().skip(1).any(|seen| seen.connection == 0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("never on the first connection");
    })
    .await;
}

/// Some APIs bill their work and stop it when the connection closes, so larder must close it.
#[tokio::test]
async fn a_call_that_no_rule_counts_ends_with_its_client() {
    bounded(async {
        let origin = Origin::start(|_| MockResponse(vec![Step::UntilDisconnect])).await;
        let larder = Larder::start(&origin, &yaml("", &["retry: off"])).await;
        disconnect_after_call(&larder, &origin, uncached_request(0)).await;
        larder.wait_until("its permit is released", |larder| in_flight(larder) == 0).await;
        origin.wait_for_disconnects(1).await;
    })
    .await;
}
