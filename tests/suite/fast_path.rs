//! The fast path: it writes a fresh hit without a session, and a session serves every other
//! request. Both send the same response, byte for byte.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::larder_under_test::{API, Larder};
use crate::origin::{MockResponse, Origin};

/// A connection option without a meaning: the fast path leaves such a request to a session, which
/// keeps the connection open.
const FORCES_SESSION: &str = "Connection: x-nothing";

/// Counts the responses of the fast path.
const FAST_HITS: &str = "larder_fast_hits_total";

const TYPE: &str = "Content-Type: application/json";

/// The responses of the origin, each with a name.
fn answers() -> Vec<(&'static str, MockResponse)> {
    let large = "0123456789abcdef".repeat(20_000);
    vec![
        ("plain", MockResponse::new(200, &[TYPE], "{\"a\":1}")),
        ("empty", MockResponse::new(200, &[TYPE], "")),
        ("large", MockResponse::new(200, &["ETag: \"v1\"", TYPE], large)),
        ("dated", MockResponse::new(200, &["Date: Mon, 01 Jan 2024 00:00:00 GMT", "X-After: 1"], "d")),
        ("aged", MockResponse::new(200, &["Age: 40", "Expires: 0", "Server: s"], "a")),
        (
            "through-others",
            MockResponse::new(
                200,
                &["Via: 1.1 one", "X-Between: 1", "Via: 1.0 two", "Cache-Status: Edge; fwd=miss"],
                "v",
            ),
        ),
        ("twice", MockResponse::new(200, &["X-A: 1", "Link: <a>", "X-A: 2", "link: <b>", "x-a: "], "t")),
        ("cookies", MockResponse::new(200, &["Set-Cookie: a=b", "Set-Cookie: c=d"], "c")),
        ("limits", MockResponse::new(200, &["X-RateLimit-Remaining: 3", "Retry-After: 9"], "l")),
        ("hops", MockResponse::new(200, &["Connection: x-hop", "X-Hop: 1", "Keep-Alive: 5"], "h")),
        ("other-status", MockResponse::new(203, &[TYPE, "Accept-Ranges: bytes"], "o")),
        ("missing", MockResponse::new(404, &[TYPE, "Content-Language: en"], "{}")),
        ("moved", MockResponse::new(301, &["Location: http://api.example.test/x"], "m")),
        ("no-content", MockResponse::new(204, &["X-A: 1"], "")),
        ("obscure", MockResponse::new(200, &["X-Byte: caf\u{e9}", "X-Empty:", "ETag: W/\"w\""], "b")),
        ("vary", MockResponse::new(200, &["Vary: Accept-Encoding, X-V", "Content-Encoding: gzip"], "z")),
    ]
}

/// Fields of the requests.
const REQUEST_FIELDS: [&[&str]; 9] = [
    &[],
    &["Accept-Encoding: gzip, br;q=0.5", "User-Agent: x"],
    &["X-V: 1"],
    &["Range: bytes=1-3"],
    &["If-None-Match: \"v1\", \"w\""],
    &["Cache-Control: max-age=100"],
    &["Cache-Control: only-if-cached"],
    &["Accept: */*", "Proxy-Connection: keep-alive"],
    &["TE: trailers", "Max-Forwards: 3"],
];

struct RawConnection {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl RawConnection {
    async fn open(larder: &Larder) -> Self {
        Self { stream: TcpStream::connect(larder.addr()).await.unwrap(), bytes: Vec::new() }
    }

    /// Sends a request and returns the head and the body of the response unchanged.
    async fn exchange(&mut self, method: &str, path: &str, fields: &[&str]) -> (String, Vec<u8>) {
        let line = format!("{method} {API}{path} HTTP/1.1");
        let lines = [&[line.as_str(), "Host: h"], fields, &["", ""]].concat();
        let request = lines.join("\r\n");
        self.stream.write_all(request.as_bytes()).await.unwrap();
        let end = loop {
            if let Some(end) = self.bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            self.more().await;
        };
        let head: String = self.bytes.drain(..end).map(char::from).collect();
        let bodiless =
            method == "HEAD" || ["204", "304"].iter().any(|s| head.starts_with(&format!("HTTP/1.1 {s}")));
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: "))
            .map_or(0, |length| length.parse().unwrap());
        let length = if bodiless { 0 } else { length };
        while self.bytes.len() < length {
            self.more().await;
        }
        let body = self.bytes.drain(..length).collect();
        (head, body)
    }

    async fn more(&mut self) {
        let read = timeout(Duration::from_secs(10), self.stream.read_buf(&mut self.bytes)).await;
        assert_ne!(read.expect("in time").expect("no reset"), 0, "{:?}", self.bytes);
    }
}

async fn larder_with_answers() -> (Larder, Origin) {
    let origin = Origin::start(|seen| {
        let name = seen.target.trim_start_matches('/');
        let answers = answers();
        let answer = answers.into_iter().find(|(known, _)| *known == name);
        answer.map_or_else(|| MockResponse::new(500, &[], "unknown"), |(_, answer)| answer)
    })
    .await;
    let policy = ["ttl: 1h", "ttl_by_status: { 404: 1h, 301: 1h }", "set_cookie: keep"];
    (Larder::with_policy(&origin, &policy).await, origin)
}

#[tokio::test]
async fn every_hit_has_the_same_bytes_on_the_fast_path_and_in_a_session() {
    let (larder, _origin) = larder_with_answers().await;
    let (mut fast, mut session) = (RawConnection::open(&larder).await, RawConnection::open(&larder).await);
    let mut compared = 0;
    for (name, _) in answers() {
        let path = format!("/{name}");
        for method in ["GET", "HEAD"] {
            for fields in REQUEST_FIELDS {
                // The first request of its kind fills the store.
                if method == "GET" {
                    larder.get_with(&path, &without_conditions(fields)).await;
                }
                larder.clock.advance(Duration::from_millis(700));
                let one = fast.exchange(method, &path, fields).await;
                let before = larder.metric(FAST_HITS);
                let other = session.exchange(method, &path, &[fields, &[FORCES_SESSION]].concat()).await;
                assert_eq!(one.0, other.0, "{method} {path} {fields:?}");
                assert!(one.1 == other.1, "{method} {path} {fields:?}: another body");
                assert!(one.0.contains("\r\ncache-status: "), "{}", one.0);
                let dates = one.0.matches("\r\nDate: ").count();
                assert_eq!(dates, 1, "{}", one.0);
                assert!((larder.metric(FAST_HITS) - before).abs() < 0.5, "{method} {path} {fields:?}");
                compared += 1;
            }
        }
    }
    // If the fast path served no request, the comparison would prove nothing.
    let fast_hits = larder.metric(FAST_HITS);
    assert!(fast_hits > f64::from(compared / 4), "{fast_hits} of {compared} on the fast path");
}

fn without_conditions<'a>(fields: &[&'a str]) -> Vec<&'a str> {
    let changes = |field: &&&str| ["Range", "If-", "Cache-"].iter().any(|p| field.starts_with(p));
    fields.iter().filter(|field| !changes(field)).copied().collect()
}

#[tokio::test]
async fn the_fast_path_and_sessions_count_hits_in_the_same_metrics() {
    let (larder, _origin) = larder_with_answers().await;
    larder.get("/plain").await;
    let (mut fast, mut session) = (RawConnection::open(&larder).await, RawConnection::open(&larder).await);
    let hits = "larder_requests_total{result=\"hit\",route=\"api\"}";
    let bytes = "larder_client_bytes_total";
    larder.wait_for_metric(bytes, 7.0).await;
    for n in 1..=3_u8 {
        fast.exchange("GET", "/plain", &[]).await;
        larder.wait_for_metric(FAST_HITS, f64::from(n)).await;
        larder.wait_for_metric(hits, f64::from(2 * n - 1)).await;
        session.exchange("GET", "/plain", &[FORCES_SESSION]).await;
        larder.wait_for_metric(hits, f64::from(2 * n)).await;
        larder.wait_for_metric(bytes, 7.0 + f64::from(14 * n)).await;
    }
    assert!(
        (larder.metric("larder_request_duration_seconds_count{result=\"hit\",route=\"api\"}") - 6.0).abs()
            < 0.5
    );
}

/// The fast path serves only plain, fresh hits; a session handles every other request.
#[tokio::test]
async fn the_fast_path_leaves_all_but_plain_fresh_hits_to_sessions() {
    let (larder, origin) = larder_with_answers().await;
    larder.get("/plain").await;
    let mut connection = RawConnection::open(&larder).await;
    for (method, fields) in [
        ("GET", &["Cache-Control: no-cache"][..]),
        ("GET", &["Cache-Control: no-store"]),
        ("GET", &["Pragma: no-cache"]),
        ("GET", &["Cache-Control: min-fresh=4000"]),
        ("GET", &["Range: bytes=0-1"]),
        ("GET", &["If-Modified-Since: Mon, 01 Jan 2024 00:00:00 GMT"]),
        ("HEAD", &[]),
    ] {
        connection.exchange(method, "/plain", fields).await;
        assert!(larder.metric(FAST_HITS) < 0.5, "{method} {fields:?}");
    }
    let calls = origin.calls();
    larder.clock.advance(Duration::from_secs(3700));
    let (head, _) = connection.exchange("GET", "/plain", &[]).await;
    assert!(larder.metric(FAST_HITS) < 0.5 && head.contains("fwd=stale"), "{head}");
    assert_eq!(origin.calls(), calls + 1);
    let (head, _) = connection.exchange("GET", "/plain", &[]).await;
    assert!(head.contains("hit; ttl=3600"), "{head}");
    larder.wait_for_metric(FAST_HITS, 1.0).await;
}
