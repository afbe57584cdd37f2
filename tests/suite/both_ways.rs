//! A fresh hit is written at the door, everything else by a session: the same answer either way,
//! byte for byte.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::larder_under_test::{API, Larder};
use crate::origin::{Answer, Origin};

/// Nobody's word for the connection: the door leaves such a request to a session, which goes on with
/// the connection all the same.
const BY_SESSION: &str = "Connection: x-nothing";

/// Counts what was answered at the door.
const BY_DOOR: &str = "larder_fast_hits_total";

const TYPE: &str = "Content-Type: application/json";

/// What origins say: a name, a status, fields, a body.
fn answers() -> Vec<(&'static str, Answer)> {
    let large = "0123456789abcdef".repeat(20_000);
    vec![
        ("plain", Answer::new(200, &[TYPE], "{\"a\":1}")),
        ("empty", Answer::new(200, &[TYPE], "")),
        ("large", Answer::new(200, &["ETag: \"v1\"", TYPE], large)),
        ("dated", Answer::new(200, &["Date: Mon, 01 Jan 2024 00:00:00 GMT", "X-After: 1"], "d")),
        ("aged", Answer::new(200, &["Age: 40", "Expires: 0", "Server: s"], "a")),
        (
            "through-others",
            Answer::new(
                200,
                &["Via: 1.1 one", "X-Between: 1", "Via: 1.0 two", "Cache-Status: Edge; fwd=miss"],
                "v",
            ),
        ),
        ("twice", Answer::new(200, &["X-A: 1", "Link: <a>", "X-A: 2", "link: <b>", "x-a: "], "t")),
        ("cookies", Answer::new(200, &["Set-Cookie: a=b", "Set-Cookie: c=d"], "c")),
        ("limits", Answer::new(200, &["X-RateLimit-Remaining: 3", "Retry-After: 9"], "l")),
        ("hops", Answer::new(200, &["Connection: x-hop", "X-Hop: 1", "Keep-Alive: 5"], "h")),
        ("other-status", Answer::new(203, &[TYPE, "Accept-Ranges: bytes"], "o")),
        ("missing", Answer::new(404, &[TYPE, "Content-Language: en"], "{}")),
        ("moved", Answer::new(301, &["Location: http://api.example.test/x"], "m")),
        ("no-content", Answer::new(204, &["X-A: 1"], "")),
        ("obscure", Answer::new(200, &["X-Byte: caf\u{e9}", "X-Empty:", "ETag: W/\"w\""], "b")),
        ("vary", Answer::new(200, &["Vary: Accept-Encoding, X-V", "Content-Encoding: gzip"], "z")),
    ]
}

/// What clients ask, besides the path.
const ASKED: [&[&str]; 9] = [
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

struct Way {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Way {
    async fn open(larder: &Larder) -> Self {
        Self { stream: TcpStream::connect(larder.addr()).await.unwrap(), bytes: Vec::new() }
    }

    /// The answer as it came: its head, its body.
    async fn ask(&mut self, method: &str, path: &str, fields: &[&str]) -> (String, Vec<u8>) {
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
        let bodiless = method == "HEAD"
            || ["204", "304"].iter().any(|s| head.starts_with(&format!("HTTP/1.1 {s}")));
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
        answer.map_or_else(|| Answer::new(500, &[], "unknown"), |(_, answer)| answer)
    })
    .await;
    let policy = ["ttl: 1h", "ttl_by_status: { 404: 1h, 301: 1h }", "set_cookie: keep"];
    (Larder::with_policy(&origin, &policy).await, origin)
}

#[tokio::test]
async fn every_hit_is_the_same_by_the_door_and_by_a_session() {
    let (larder, _origin) = larder_with_answers().await;
    let (mut door, mut session) = (Way::open(&larder).await, Way::open(&larder).await);
    let mut compared = 0;
    for (name, _) in answers() {
        let path = format!("/{name}");
        for method in ["GET", "HEAD"] {
            for asked in ASKED {
                // The first of its kind fills the store.
                if method == "GET" {
                    larder.get_with(&path, &without_conditions(asked)).await;
                }
                larder.clock.advance(Duration::from_millis(700));
                let one = door.ask(method, &path, asked).await;
                let before = larder.metric(BY_DOOR);
                let other = session.ask(method, &path, &[asked, &[BY_SESSION]].concat()).await;
                assert_eq!(one.0, other.0, "{method} {path} {asked:?}");
                assert!(one.1 == other.1, "{method} {path} {asked:?}: another body");
                assert!(one.0.contains("\r\ncache-status: "), "{}", one.0);
                let dates = one.0.matches("\r\nDate: ").count();
                assert_eq!(dates, 1, "{}", one.0);
                assert!((larder.metric(BY_DOOR) - before).abs() < 0.5, "{method} {path} {asked:?}");
                compared += 1;
            }
        }
    }
    // Were the door to leave everything to sessions, nothing would have been compared.
    let by_door = larder.metric(BY_DOOR);
    assert!(by_door > f64::from(compared / 4), "{by_door} of {compared} at the door");
}

fn without_conditions<'a>(asked: &[&'a str]) -> Vec<&'a str> {
    let changes = |field: &&&str| ["Range", "If-", "Cache-"].iter().any(|p| field.starts_with(p));
    asked.iter().filter(|field| !changes(field)).copied().collect()
}

#[tokio::test]
async fn both_ways_are_counted_alike() {
    let (larder, _origin) = larder_with_answers().await;
    larder.get("/plain").await;
    let (mut door, mut session) = (Way::open(&larder).await, Way::open(&larder).await);
    let hits = "larder_requests_total{result=\"hit\",route=\"api\"}";
    let bytes = "larder_client_bytes_total";
    larder.counts(bytes, 7.0).await;
    for n in 1..=3_u8 {
        door.ask("GET", "/plain", &[]).await;
        larder.counts(BY_DOOR, f64::from(n)).await;
        larder.counts(hits, f64::from(2 * n - 1)).await;
        session.ask("GET", "/plain", &[BY_SESSION]).await;
        larder.counts(hits, f64::from(2 * n)).await;
        larder.counts(bytes, 7.0 + f64::from(14 * n)).await;
    }
    assert!(
        (larder.metric("larder_request_duration_seconds_count{result=\"hit\",route=\"api\"}")
            - 6.0)
            .abs()
            < 0.5
    );
}

/// Whatever is not a plain, fresh hit is not the door's: the session knows what to do.
#[tokio::test]
async fn the_door_leaves_what_is_not_plain_to_sessions() {
    let (larder, origin) = larder_with_answers().await;
    larder.get("/plain").await;
    let mut way = Way::open(&larder).await;
    for (method, asked) in [
        ("GET", &["Cache-Control: no-cache"][..]),
        ("GET", &["Cache-Control: no-store"]),
        ("GET", &["Pragma: no-cache"]),
        ("GET", &["Cache-Control: min-fresh=4000"]),
        ("GET", &["Range: bytes=0-1"]),
        ("GET", &["If-Modified-Since: Mon, 01 Jan 2024 00:00:00 GMT"]),
        ("HEAD", &[]),
    ] {
        way.ask(method, "/plain", asked).await;
        assert!(larder.metric(BY_DOOR) < 0.5, "{method} {asked:?}");
    }
    let calls = origin.calls();
    larder.clock.advance(Duration::from_secs(3700));
    let (head, _) = way.ask("GET", "/plain", &[]).await;
    assert!(larder.metric(BY_DOOR) < 0.5 && head.contains("fwd=stale"), "{head}");
    assert_eq!(origin.calls(), calls + 1);
    let (head, _) = way.ask("GET", "/plain", &[]).await;
    assert!(head.contains("hit; ttl=3600"), "{head}");
    larder.counts(BY_DOOR, 1.0).await;
}
