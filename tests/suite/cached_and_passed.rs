//! Calls of a cached route (fills) and calls that are passed through are treated alike (docs/decisions/0027,
//! "The table").

use std::time::Duration;

use crate::client::{End, Response};
use crate::concurrent::bounded;
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{MockResponse, Origin, Step};

const SECOND: Duration = Duration::from_secs(1);

/// One cached route for `/kept/**` with these policy lines; other paths are passed through.
fn yaml(head: &str, policy: &[&str]) -> String {
    let lines = [&["ttl: 30m"], policy].concat();
    format!("{head}{}", route(&lines).replace("/**", "/kept/**"))
}

const BOTH: [&str; 2] = ["/kept/x", "/passed"];

fn compared_parts(answer: &Response) -> (u16, String, bool, Vec<String>) {
    let own_fields = ["cache-status", "via", "date", "connection", "proxy-status", "age"];
    let mut fields: Vec<String> = answer
        .fields
        .iter()
        .filter(|(name, _)| !own_fields.contains(&name.to_ascii_lowercase().as_str()))
        .map(|(name, value)| format!("{}: {value}", name.to_ascii_lowercase()))
        .collect();
    fields.sort();
    (answer.status, answer.text(), answer.end == End::Complete, fields)
}

/// RFC 9110 §7.6.1, RFC 9112 §5 and §6.3.
#[tokio::test]
async fn malformed_responses_are_forwarded_or_refused_alike() {
    bounded(async {
        let large = format!("X-Large: {}\r\nContent-Length: 5\r\n\r\nhello", "a".repeat(900_000));
        let fitting = format!("X-Large: {}\r\nContent-Length: 5\r\n\r\nhello", "a".repeat(200_000));
        let many = format!("{}Content-Length: 5\r\n\r\nhello", "X-A: 1\r\n".repeat(300));
        for (rest, status) in [
            ("Connection: X-Own, Set-Cookie\r\nX-Own: 1\r\nSet-Cookie: a=b\r\nContent-Length: 5\r\n\r\nhello", 200),
            ("Connection: Content-Type, ETag\r\nContent-Type: a/b\r\nETag: \"1\"\r\nContent-Length: 5\r\n\r\nhello", 200),
            ("Keep-Alive: 5\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello", 200),
            ("Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 200),
            (&fitting, 200),
            (&large, 502),
            (&many, 502),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 502),
            ("Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 502),
            ("Content-Length: +5\r\n\r\nhello", 502),
            ("Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 502),
            ("X-A: 1\r\n folded\r\nContent-Length: 5\r\n\r\nhello", 502),
            ("X-A: a\0b\r\nContent-Length: 5\r\n\r\nhello", 502),
        ] {
            let bytes = format!("HTTP/1.1 200 OK\r\n{rest}");
            let origin = Origin::always(MockResponse::raw(bytes).then([Step::Close])).await;
            let larder = Larder::start(&origin, &yaml("", &["set_cookie: keep"])).await;
            let (kept, passed) = (larder.get(BOTH[0]).await, larder.get(BOTH[1]).await);
            let head = rest.get(..60.min(rest.len())).unwrap();
            assert_eq!(compared_parts(&kept), compared_parts(&passed), "{head}");
            assert_eq!(kept.status, status, "{head}");
            assert_eq!(kept.field("x-own"), None, "{head}");
        }
    })
    .await;
}

#[tokio::test]
async fn interim_responses_are_limited_and_forwarded_alike() {
    bounded(async {
        for (hints, status) in [(1, 200), (16, 200), (17, 502)] {
            let hint = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: X-Own\r\nX-Own: 1\r\n\r\n";
            let bytes = hint.repeat(hints) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            let origin = Origin::always(MockResponse::raw(bytes).then([Step::Close])).await;
            let larder = Larder::start(&origin, &yaml("", &[])).await;
            for path in BOTH {
                let mut client = larder.client().await;
                client.send_request("GET", &format!("{API}{path}"), &[]).await;
                let mut seen = 0;
                let last = loop {
                    let one = client.next_response("GET").await.unwrap();
                    if one.status != 103 {
                        break one;
                    }
                    assert_eq!((one.field("link"), one.field("x-own")), (Some("</a>"), None));
                    seen += 1;
                };
                assert_eq!((last.status, seen), (status, hints.min(16)), "{hints} {path}");
            }
        }
    })
    .await;
}

/// On both paths `first_byte` limits the wait for the head and `between_bytes` the waits after it.
#[tokio::test]
async fn the_deadline_of_the_head_is_first_byte_only() {
    bounded(async {
        let pause = |pause, then: &str| vec![Step::Pause(pause), Step::Write(then.as_bytes().to_vec())];
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        let late = MockResponse(pause(Duration::from_millis(1500), &format!("{whole}hello")));
        let paused = MockResponse::raw(format!("{whole}he")).then(pause(Duration::from_millis(1500), "llo"));
        let upstreams = "upstreams: { api: { hosts: [api.example.test], timeouts: { first_byte: 500ms, between_bytes: 30s } } }\n";
        for (answer, status) in [(late, 504), (paused, 200)] {
            let origin = Origin::always(answer).await;
            let larder = Larder::start(&origin, &yaml(upstreams, &[])).await;
            for path in BOTH {
                let answer = larder.get(path).await;
                assert_eq!((answer.status, answer.end), (status, End::Complete), "{path}");
            }
            let mut client = larder.client().await;
            client.send_request("POST", &format!("{API}/kept/x"), &["Content-Length: 4"]).await;
            client.send("body").await;
            assert_eq!(client.response("POST").await.unwrap().status, status, "POST");
        }
    })
    .await;
}

/// RFC 9110 §9.3.2: HEAD is GET without the body.
#[tokio::test]
async fn head_falls_back_to_a_stale_response_as_get_does() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(200, &["ETag: \"1\""], "v1")).await;
        let defaults = "defaults: { retry: off, stale_if_error: { for: 24h, cooldown: 0s } }\n";
        let larder = Larder::start(&origin, &yaml(defaults, &[])).await;
        larder.get(BOTH[0]).await;
        larder.clock.advance(1801 * SECOND);
        for failure in [MockResponse::new(503, &[], "no"), MockResponse::closed()] {
            origin.set_script(move |_| failure.clone());
            let get = larder.get(BOTH[0]).await;
            let mut client = larder.client().await;
            client.send_request("HEAD", &format!("{API}{}", BOTH[0]), &[]).await;
            let head = client.response("HEAD").await.unwrap();
            assert_eq!((get.status, head.status), (200, 200), "{head:?}");
            assert_eq!(head.cache_status(), get.cache_status());
            assert_eq!(head.field("etag"), Some("\"1\""));
            assert_eq!(head.field("content-length"), Some("2"));
        }
        origin.set_script(|_| MockResponse::new(404, &[], "gone"));
        let mut client = larder.client().await;
        client.send_request("HEAD", &format!("{API}{}", BOTH[0]), &[]).await;
        assert_eq!(client.response("HEAD").await.unwrap().status, 404, "a 404 is no failure of the origin");
    })
    .await;
}

/// A GET without retries waits during a firm cooldown for `max_wait`, as a POST does.
#[tokio::test]
async fn every_method_waits_for_the_end_of_a_short_cooldown() {
    bounded(async {
        for method in ["GET", "POST"] {
            let origin = Origin::start(|seen| {
                let limited = seen.target == "/kept/limited";
                if limited { MockResponse::new(429, &["Retry-After: 1"], "") } else { MockResponse::new(200, &[], "ok") }
            })
            .await;
            let upstreams = "upstreams: { api: { hosts: [api.example.test], rate_limit: { max_wait: 2s } } }\n\
                             defaults: { retry: off, stale_if_error: { cooldown: 0s } }\n";
            let larder = Larder::start(&origin, &yaml(upstreams, &[])).await;
            assert_eq!(larder.get("/kept/limited").await.status, 429);
            let mut client = larder.client().await;
            client.send_request(method, &format!("{API}/kept/other"), &["Content-Length: 0"]).await;
            larder.wait_until("it waits", |larder| larder.clock.sleepers() > 0).await;
            assert_eq!(origin.calls(), 1, "{method}");
            larder.clock.advance(SECOND);
            assert_eq!(client.response(method).await.unwrap().text(), "ok", "{method}");
        }
    })
    .await;
}

/// RFC 9110 §6.6.1: larder adds a `Date` only if the origin sent none.
#[tokio::test]
async fn the_date_of_a_response_is_the_date_of_the_origin_on_every_path() {
    bounded(async {
        let date = "Date: Mon, 01 Jan 2024 00:00:00 GMT";
        let origin = Origin::start(move |seen| {
            if seen.field("if-none-match").is_some() {
                return MockResponse::new(304, &["Date: Tue, 02 Jan 2024 00:00:00 GMT", "ETag: \"1\""], "");
            }
            MockResponse::new(200, &[date, "ETag: \"1\""], "x")
        })
        .await;
        let larder = Larder::start(&origin, &yaml("", &[])).await;
        let dates = |answer: Response| answer.all("date").join("|");
        let first = "Mon, 01 Jan 2024 00:00:00 GMT";
        for path in ["/passed", "/kept/x", "/kept/x"] {
            assert_eq!(dates(larder.get(path).await), first, "{path}");
        }
        assert_eq!(dates(larder.get_with("/kept/x", &["Range: bytes=0-0"]).await), first);
        assert_eq!(dates(larder.get_with("/kept/x", &["If-None-Match: \"1\""]).await), first);
        larder.clock.advance(1801 * SECOND);
        let second = "Tue, 02 Jan 2024 00:00:00 GMT";
        for _ in 0..2 {
            assert_eq!(dates(larder.get("/kept/x").await), second);
        }
        origin.set_script(|_| MockResponse::new(200, &[], "x"));
        let now = httpdate::fmt_http_date(larder.clock.now());
        for path in ["/passed", "/kept/undated"] {
            assert_eq!(dates(larder.get(path).await), now, "{path}");
        }
        larder.clock.advance(10 * SECOND);
        let hit = larder.get("/kept/undated").await;
        assert_eq!((hit.field("age"), hit.field("date")), (Some("10"), Some(now.as_str())));
    })
    .await;
}

/// IANA's method registry: a safe method does not invalidate stored responses.
#[tokio::test]
async fn registered_safe_methods_keep_stored_responses_unknown_ones_do_not() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(200, &[], "x")).await;
        let larder = Larder::start(&origin, &yaml("", &[])).await;
        for (method, safe) in [
            ("OPTIONS", true),
            ("TRACE", true),
            ("PROPFIND", true),
            ("REPORT", true),
            ("SEARCH", true),
            ("PROPPATCH", false),
            ("UNHEARD-OF", false),
            ("PUT", false),
        ] {
            let path = format!("/kept/{method}");
            larder.get(&path).await;
            let mut client = larder.client().await;
            client.send_request(method, &format!("{API}{path}"), &[]).await;
            assert_eq!(client.response(method).await.unwrap().status, 200, "{method}");
            let hit = larder.get(&path).await.cache_status().starts_with("larder; hit");
            assert_eq!(hit, safe, "{method}");
        }
    })
    .await;
}
