//! Limits on what a client can use of larder: bytes, fields, time and memory.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::{interval, timeout};

use crate::client::{Client, Response};
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{MockResponse, Origin, Step};
use crate::resident_memory::resident;

const SOON: Duration = Duration::from_secs(10);
const MIB: usize = 1 << 20;

fn denied(larder: &Larder, class: &str) -> f64 {
    larder.metric(&format!("larder_denied_total{{reason=\"{class}\"}}"))
}

#[expect(clippy::print_stderr, reason = "a measured figure belongs in the output of the test")]
fn report(label: &str, bytes: usize) {
    eprintln!("{label}: {} KiB", bytes / 1024);
}

/// Sends as much of `input` as larder reads and returns the refusal.
async fn refusal(larder: &Larder, input: &[u8]) -> Response {
    let mut client = larder.client().await;
    // Larder closes before it has read all of it.
    let _rest_unread = timeout(SOON, client.stream.write_all(input)).await.expect("no hang");
    let answer = timeout(SOON, client.response("GET")).await.expect("in time").expect("a response");
    assert!(timeout(SOON, client.is_closed()).await.expect("in time"));
    answer
}

async fn assert_refused(larder: &Larder, input: &[u8], status: u16, class: &str) {
    let before = denied(larder, class);
    let answer = refusal(larder, input).await;
    assert_eq!(answer.status, status, "{}", answer.text());
    assert!(answer.text().contains(&format!("\"{class}\"")), "{}", answer.text());
    assert!(answer.field("proxy-status").is_some_and(|status| status.starts_with("larder; ")));
    assert_eq!(answer.field("connection"), Some("close"));
    assert!(denied(larder, class) > before);
}

fn head_with(fields: &str) -> String {
    format!("GET {API}/x HTTP/1.1\r\nHost: api.example.test\r\n{fields}\r\n")
}

#[tokio::test]
async fn par_12_a_head_over_the_limits_is_refused() {
    let origin = Origin::always(MockResponse::new(200, &[], "ok")).await;
    for yaml in [String::new(), route(&["ttl: 1h"])] {
        let larder = Larder::start(&origin, &yaml).await;
        let one = head_with(&format!("X-A: {}\r\n", "a".repeat(64 << 10)));
        assert_refused(&larder, one.as_bytes(), 431, "head_too_large").await;
        let many = head_with(&"A: b\r\n".repeat(1000));
        assert_refused(&larder, many.as_bytes(), 431, "too_many_fields").await;
        let long = format!("GET {API}/{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(70_000));
        assert_refused(&larder, long.as_bytes(), 414, "target_too_long").await;
        let endless = format!("GET {API}/x HTTP/1.1\r\n{}", "X-A: 1\r\n".repeat(256 << 10));
        assert_refused(&larder, endless.as_bytes(), 431, "head_too_large").await;
        assert_refused(&larder, &vec![b'a'; 2 * MIB], 414, "target_too_long").await;
        assert_eq!(origin.calls(), 0);
    }
}

#[tokio::test]
async fn par_12_a_head_exactly_at_the_configured_limits_passes() {
    let origin = Origin::always(MockResponse::new(200, &[], "ok")).await;
    let small = Larder::start(&origin, "limits: { head: 1KiB, headers: 10 }\n").await;
    let default = Larder::start(&origin, "").await;
    for (larder, bytes, fields) in [(&small, 1024, 10), (&default, 64 << 10, 128)] {
        let room = bytes - head_with("X-A: \r\n").len();
        for (over, status) in [(0, 200), (1, 431)] {
            let head = head_with(&format!("X-A: {}\r\n", "a".repeat(room + over)));
            assert_eq!(head.len(), bytes + over);
            let mut client = larder.client().await;
            client.send(head).await;
            let answer = timeout(SOON, client.response("GET")).await.unwrap().unwrap();
            assert_eq!(answer.status, status, "{bytes} {over}");
            // `Host` counts as one field.
            client = larder.client().await;
            client.send(head_with(&"A: b\r\n".repeat(fields - 1 + over))).await;
            let answer = timeout(SOON, client.response("GET")).await.unwrap().unwrap();
            assert_eq!(answer.status, status, "{fields} {over}");
        }
    }
}

/// A hundred heads without an end: each is refused at the limit, and none stays in memory.
#[tokio::test]
async fn par_12_heads_without_an_end_take_no_memory() {
    let larder = Larder::bare("").await;
    let endless = format!("GET {API}/x HTTP/1.1\r\n{}", "X-A: 1\r\n".repeat(256 << 10));
    refusal(&larder, endless.as_bytes()).await;
    let before = resident();
    let input: &'static [u8] = endless.into_bytes().leak();
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut client = larder.client().await;
        clients.push(tokio::spawn(async move {
            let _rest_unread = client.stream.write_all(input).await;
            let answer = client.response("GET").await.expect("a response");
            (answer.status, client)
        }));
    }
    let mut open = Vec::new();
    for client in clients {
        let (status, client) = timeout(SOON, client).await.expect("in time").unwrap();
        assert_eq!(status, 431);
        open.push(client);
    }
    let grown = resident().saturating_sub(before);
    report("100 endless heads", grown);
    assert!(grown < 8 * MIB, "{grown}");
}

/// The most memory that clients can use without a refusal: incomplete heads that are almost as long
/// as the limit.
#[tokio::test]
async fn par_12_incomplete_heads_take_little_more_than_their_bytes() {
    let larder = Larder::bare("").await;
    let almost = head_with(&format!("X-A: {}", "a".repeat(60 << 10)));
    let before = resident();
    let mut open = Vec::new();
    for _ in 0..100 {
        let mut client = larder.client().await;
        client.send(&almost).await;
        open.push(client);
    }
    let mut grown = 0;
    let mut tick = interval(Duration::from_millis(20));
    for _ in 0..15 {
        tick.tick().await;
        grown = grown.max(resident().saturating_sub(before));
    }
    for client in &mut open {
        client.send("\nX").await;
        let answer = timeout(SOON, client.response("GET")).await.unwrap().unwrap();
        assert_eq!(answer.status, 400);
    }
    report("100 heads of 60 KiB", grown);
    assert!(grown < 24 * MIB, "{grown}");
}

/// Sends a byte every 20 ms of real time, because the deadline applies to the socket.
async fn drip(client: &mut Client, bytes: &[u8]) {
    let mut tick = interval(Duration::from_millis(20));
    for byte in bytes {
        tick.tick().await;
        if client.stream.write_all(&[*byte]).await.is_err() {
            return;
        }
    }
}

/// Single bytes do not extend the deadline: it applies to the whole head.
#[tokio::test]
async fn a_slow_head_is_refused_at_its_deadline_on_new_and_kept_connections() {
    let origin = Origin::always(MockResponse::new(200, &[], "ok")).await;
    let larder = Larder::start(&origin, "limits: { head_timeout: 300ms }\n").await;
    for kept in [false, true] {
        let mut client = larder.client().await;
        if kept {
            assert_eq!(client.get(&format!("{API}/x"), &[]).await.status, 200);
        }
        let before = denied(&larder, "head_timeout");
        // At this rate the head would take four seconds.
        let slow = head_with(&format!("X-A: {}\r\n", "a".repeat(110)));
        timeout(SOON, drip(&mut client, &slow.as_bytes()[..180])).await.expect("no hang");
        let answer = timeout(SOON, client.response("GET")).await.expect("in time");
        // A client that keeps sending may lose the response to a reset, but always sees the close.
        if let Some(answer) = answer {
            assert_eq!(answer.status, 408, "kept: {kept}");
            assert!(answer.text().contains("\"head_timeout\""), "{}", answer.text());
            assert_eq!(answer.field("connection"), Some("close"));
        }
        assert!(timeout(SOON, client.is_closed()).await.expect("closed in time"));
        assert!(denied(&larder, "head_timeout") > before);
    }
    assert_eq!(origin.calls(), 1);
}

/// A client that stops in the middle of its head receives the whole response.
#[tokio::test]
async fn a_head_that_stops_gets_a_408() {
    let larder = Larder::bare("limits: { head_timeout: 200ms }\n").await;
    for part in ["G", "GET /", "GET http://h/ HTTP/1.1\r\nHost: h\r\n", "\r"] {
        let mut client = larder.client().await;
        client.send(part).await;
        let answer = timeout(SOON, client.response("GET")).await.expect("in time").expect("a response");
        assert_eq!(answer.status, 408, "{part:?}");
        assert!(timeout(SOON, client.is_closed()).await.expect("closed in time"));
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_a_response() {
    let origin = Origin::always(MockResponse::new(200, &[], "ok")).await;
    let larder = Larder::start(&origin, "limits: { idle: 200ms }\n").await;
    let mut fresh = larder.client().await;
    let mut kept = larder.client().await;
    assert_eq!(kept.get(&format!("{API}/x"), &[]).await.status, 200);
    for client in [&mut fresh, &mut kept] {
        assert!(timeout(SOON, client.is_closed()).await.expect("closed in time"));
    }
    assert!(denied(&larder, "head_timeout") < 0.1, "no client was refused");
}

/// Waits until backpressure stops the origin; returns the number of its writes.
async fn until_backpressure(origin: &Origin) -> usize {
    let (mut last, mut calm) = (0, 0);
    let mut tick = interval(Duration::from_millis(50));
    let stopped = async {
        while calm < 6 {
            tick.tick().await;
            let now = origin.repeated();
            calm = if now == last { calm + 1 } else { 0 };
            last = now;
        }
    };
    timeout(Duration::from_secs(25), stopped).await.expect("the origin stops if no client reads");
    last
}

const LARGE: usize = 50 * MIB;
static PIECE: [u8; 64 << 10] = [b'x'; 64 << 10];
const READERS: usize = 200;

fn large() -> MockResponse {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
    MockResponse::raw(head).then([Step::Repeat(&PIECE, LARGE / PIECE.len())])
}

/// A chunked body: its length is unknown.
fn endless() -> MockResponse {
    static CHUNK: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| crate::origin::chunk(&PIECE));
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    MockResponse::raw(head)
        .then([Step::Repeat(&CHUNK, LARGE / PIECE.len()), Step::Write(b"0\r\n\r\n".to_vec())])
}

async fn assert_memory_stays_below(yaml: &str, answer: MockResponse, same: bool, most: usize) {
    let origin = Origin::always(answer).await;
    let larder = Larder::start(&origin, yaml).await;
    let before = resident();
    let mut clients = Vec::new();
    for n in 0..READERS {
        let mut client = larder.client().await;
        let path = if same { 0 } else { n };
        client.send_request("GET", &format!("{API}/large/{path}"), &[]).await;
        clients.push(client);
    }
    timeout(SOON, origin.wait_for_calls(if same { 1 } else { READERS })).await.expect("all calls arrive");
    let written = until_backpressure(&origin).await;
    let grown = resident().saturating_sub(before);
    report("200 clients that do not read, larder and origin together", grown);
    assert!(grown < most, "{grown}");
    assert!(written < READERS * LARGE / 2, "backpressure stopped the origin: {written}");
    // Clients that read are still served quickly.
    let mut reader = larder.client().await;
    reader.send_request("GET", &format!("{API}/large/reader"), &[]).await;
    let answer =
        timeout(Duration::from_secs(25), reader.response("GET")).await.expect("in time").expect("one");
    assert_eq!((answer.status, answer.body.len()), (200, LARGE));
    drop(clients);
}

#[tokio::test]
async fn ovl_03_unread_responses_take_little_memory_when_passed_through() {
    // pingora's pipe buffers up to ten pieces of 64 KiB each: 4 queued, 4 being written, one at
    // each end. The limit is for these buffers, not for the 50 MB.
    assert_memory_stays_below("", large(), false, 180 * MIB).await;
}

#[tokio::test]
async fn ovl_03_unread_responses_take_little_memory_on_a_cached_route() {
    let yaml = route(&["ttl: 1h"]);
    assert_memory_stays_below(&yaml, large(), false, 100 * MIB).await;
}

#[tokio::test]
async fn ovl_03_one_unread_response_for_all_clients_takes_little_memory() {
    let yaml = route(&["ttl: 1h"]);
    assert_memory_stays_below(&yaml, large(), true, 100 * MIB).await;
}

/// A body of unknown length is buffered until it is too large; `in_flight` limits the sum of all bodies.
#[tokio::test]
async fn ovl_03_unread_bodies_of_unknown_length_take_little_memory() {
    let yaml = format!("limits: {{ in_flight: 32MiB }}\n{}", route(&["ttl: 1h"]));
    assert_memory_stays_below(&yaml, endless(), false, 130 * MIB).await;
}

/// The number of connections, at most `wanted`, for whose two ends the process has descriptors.
fn as_many_as_fit(wanted: usize) -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("Linux");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("it is there");
    let soft = line.split_whitespace().nth(3).and_then(|n| n.parse::<usize>().ok());
    soft.map_or(wanted, |soft| wanted.min(soft.saturating_sub(200) / 2))
}

#[tokio::test]
async fn ovl_04_an_idle_connection_takes_little_memory() {
    let origin = Origin::always(MockResponse::new(200, &[], "ok")).await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
    assert_eq!(larder.get("/x").await.status, 200);
    let count = as_many_as_fit(2000);
    let before = resident();
    let mut idle = Vec::with_capacity(count);
    for _ in 0..count {
        let mut client = larder.client().await;
        let answer = client.get(&format!("{API}/x"), &[]).await;
        assert!(answer.cache_status().contains("hit"));
        idle.push(client);
    }
    let each = resident().saturating_sub(before) / count;
    report("an idle connection, both its ends", each);
    assert!(each < 20 << 10, "{each} bytes each");
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn ovl_04_many_idle_connections_are_all_closed_at_the_idle_timeout() {
    let origin = Origin::always(MockResponse::new(200, &[], "ok")).await;
    let yaml = format!("limits: {{ idle: 1s }}\n{}", route(&["ttl: 1h"]));
    let larder = Larder::start(&origin, &yaml).await;
    let mut idle = Vec::new();
    for _ in 0..as_many_as_fit(300) {
        let mut client = larder.client().await;
        assert_eq!(client.get(&format!("{API}/x"), &[]).await.status, 200);
        idle.push(client);
    }
    for client in &mut idle {
        assert!(timeout(SOON, client.is_closed()).await.expect("closed in time"));
    }
}
