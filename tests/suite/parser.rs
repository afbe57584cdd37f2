//! Malformed input: larder refuses ambiguous requests and does not pass on ambiguous responses. A
//! request that is hidden in such input never reaches an origin.

use std::collections::HashSet;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::client::{Client, End, Response};
use crate::larder_under_test::{API, Larder};
use crate::origin::{Gate, MockResponse, Origin, Step};

/// A request that must never be parsed as one: every malformed input hides it.
const EVIL: &str = "GET http://api.example.test/EVIL HTTP/1.1\r\nHost: api.example.test\r\n\r\n";

/// Long enough for a slow machine, short enough to detect a hang.
const SOON: Duration = Duration::from_secs(10);

/// The policies of the pass-through and of a cached route: larder must handle faults of origins in both.
const POLICIES: [&[&str]; 2] = [&[], &["ttl: 1h"]];

async fn with_each_policy(origin: &Origin) -> Vec<Larder> {
    let mut larders = Vec::new();
    for policy in POLICIES {
        larders.push(if policy.is_empty() {
            Larder::start(origin, "").await
        } else {
            Larder::with_policy(origin, policy).await
        });
    }
    larders
}

async fn echo() -> Origin {
    Origin::start(|seen| MockResponse::new(200, &[], format!("{} {}", seen.target, seen.body.len()))).await
}

fn post(fields: &str) -> String {
    format!("POST {API}/x HTTP/1.1\r\nHost: api.example.test\r\n{fields}\r\n\r\n")
}

fn denied(larder: &Larder, class: &str) -> f64 {
    larder.metric(&format!("larder_denied_total{{reason=\"{class}\"}}"))
}

/// Sends `input` on a new connection and asserts that larder refuses it with its own error, counts
/// it and closes the connection.
async fn assert_refused(larder: &Larder, input: &[u8], status: u16, class: &str) {
    let shown = input.escape_ascii().to_string();
    let before = denied(larder, class);
    let mut client = larder.client().await;
    client.send(input).await;
    let answer = timeout(SOON, client.response("POST")).await.expect("a response in time");
    assert!(answer.is_some(), "closed without a response: {shown}");
    let answer = answer.expect("there is one");
    assert_problem(&answer, status, class, &shown);
    assert_eq!(answer.field("connection"), Some("close"), "{shown}");
    assert!(timeout(SOON, client.is_closed()).await.expect("a close in time"), "{shown}");
    assert!(denied(larder, class) > before, "counted: {shown}");
}

fn assert_problem(answer: &Response, status: u16, class: &str, shown: &str) {
    let text = answer.text();
    assert_eq!(answer.status, status, "{shown}: {text}");
    let body: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(body["larder_error"]["class"], class, "{shown}");
    let proxy_status = answer.field("proxy-status").unwrap_or_default();
    assert!(proxy_status.starts_with("larder; error="), "{shown}: {proxy_status}");
    assert!(!text.contains("EVIL"), "no input is echoed: {text}");
}

/// Asserts that the origin has received none of the earlier input, and that larder still works.
async fn assert_only_a_good_request_arrives(larder: &Larder, origin: &Origin) {
    let before = origin.calls();
    assert_eq!(larder.get("/good").await.status, 200);
    let seen = origin.requests();
    assert_eq!(seen.len(), before + 1);
    assert_eq!(seen.last().map(|seen| seen.target.as_str()), Some("/good"));
    assert!(seen.iter().all(|seen| !seen.target.contains("EVIL")), "{seen:?}");
}

async fn assert_all_refused(cases: &[(Vec<u8>, u16, &str)]) {
    let origin = echo().await;
    let larder = Larder::start(&origin, "").await;
    for (input, status, class) in cases {
        assert_refused(&larder, input, *status, class).await;
    }
    assert_eq!(origin.calls(), 0, "{:?}", origin.requests());
    assert_only_a_good_request_arrives(&larder, &origin).await;
}

#[tokio::test]
async fn par_02_content_length_together_with_transfer_encoding_is_refused() {
    let both = [
        "Content-Length: 6\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 6",
        "Content-Length: 6\r\nContent-Length: 6",
        "Content-Length: 6\r\nContent-Length: 7",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ];
    let cases: Vec<_> = both
        .iter()
        .map(|fields| (format!("{}0\r\n\r\n{EVIL}", post(fields)).into(), 400, "ambiguous_framing"))
        .collect();
    assert_all_refused(&cases).await;
}

#[tokio::test]
async fn par_04_a_content_length_that_is_not_digits_is_refused() {
    let lengths =
        ["+5", "-1", "0x5", "5 5", "5_0", "", "18446744073709551621", "5;", "٥", "5, 5", "5,5", "5."];
    let cases: Vec<_> = lengths
        .iter()
        .map(|length| {
            let input = format!("{}hello{EVIL}", post(&format!("Content-Length: {length}")));
            (input.into(), 400, "ambiguous_framing")
        })
        .collect();
    assert_all_refused(&cases).await;
}

#[tokio::test]
async fn par_05_a_transfer_encoding_that_is_not_chunked_is_refused() {
    let cases: Vec<_> = [
        ("Transfer-Encoding: xchunked", 501, "transfer_coding"),
        ("Transfer-Encoding: gzip", 501, "transfer_coding"),
        ("Transfer-Encoding: chunked, identity", 400, "ambiguous_framing"),
        ("Transfer-Encoding: chunked, chunked", 400, "ambiguous_framing"),
        ("Transfer-Encoding: gzip, chunked", 400, "ambiguous_framing"),
        ("Transfer-Encoding:", 400, "ambiguous_framing"),
        ("Transfer-Encoding: \"chunked\"", 400, "ambiguous_framing"),
        ("Transfer-Encoding: \x0bchunked", 400, "malformed_head"),
        ("Transfer-Encoding: chunked\0", 400, "malformed_head"),
        ("Transfer-Encoding : chunked", 400, "malformed_head"),
        (" Transfer-Encoding: chunked", 400, "malformed_head"),
        ("Transfer-Encoding\r\n : chunked", 400, "malformed_head"),
    ]
    .into_iter()
    .map(|(field, status, class)| (format!("{}0\r\n\r\n{EVIL}", post(field)).into(), status, class))
    .collect();
    assert_all_refused(&cases).await;
}

#[tokio::test]
async fn par_05_the_legal_spellings_of_chunked_frame_the_body() {
    let origin = echo().await;
    let larder = Larder::start(&origin, "").await;
    for field in ["tRANSFER-eNCODING: ChUnKeD", "Transfer-Encoding:chunked", "Transfer-Encoding: chunked \t"]
    {
        let mut client = larder.client().await;
        client.send(format!("{}5\r\nhello\r\n0\r\n\r\n", post(field))).await;
        assert_eq!(client.response("POST").await.unwrap().text(), "/x 5", "{field}");
    }
    assert!(
        origin.requests().iter().all(|seen| seen.body == b"hello" && seen.field("content-length").is_none())
    );
}

#[tokio::test]
async fn par_05_transfer_encoding_with_an_underscore_frames_no_body() {
    let origin = echo().await;
    let larder = Larder::start(&origin, "").await;
    let body = format!("0\r\n\r\n{EVIL}");
    let fields = format!("Transfer_Encoding: chunked\r\nContent-Length: {}", body.len());
    let mut client = larder.client().await;
    client.send(post(&fields) + &body).await;
    assert_eq!(client.response("POST").await.unwrap().text(), format!("/x {}", body.len()));
    assert_eq!(origin.requests()[0].body, body.as_bytes());
    assert_only_a_good_request_arrives(&larder, &origin).await;
}

#[tokio::test]
async fn par_06_an_http_1_0_body_needs_a_content_length() {
    let head = |fields: &str| format!("POST {API}/x HTTP/1.0\r\nHost: api.example.test\r\n{fields}\r\n");
    let mut cases = vec![
        ((head("Transfer-Encoding: chunked\r\n") + "0\r\n\r\n" + EVIL).into(), 400, "ambiguous_framing"),
        ((head("") + EVIL).into(), 400, "ambiguous_framing"),
    ];
    for method in ["PUT", "PATCH"] {
        let input = head("").replacen("POST", method, 1) + EVIL;
        cases.push((input.into(), 400, "ambiguous_framing"));
    }
    assert_all_refused(&cases).await;
}

/// A method that needs no body has none: the bytes that follow are another request, which larder
/// does not read before it has responded to the first.
#[tokio::test]
async fn par_06_bytes_after_a_request_without_a_body_are_not_its_body() {
    let origin = echo().await;
    let larder = Larder::start(&origin, "").await;
    let mut client = larder.client().await;
    let first = format!("DELETE {API}/x HTTP/1.0\r\nHost: api.example.test\r\n\r\n");
    client.send(first + EVIL).await;
    assert_eq!(client.response("DELETE").await.unwrap().text(), "/x 0");
    assert!(timeout(SOON, client.is_closed()).await.unwrap());
    assert_only_a_good_request_arrives(&larder, &origin).await;
}

#[tokio::test]
async fn par_07_folded_lines_are_refused() {
    let head = |fields: &str| format!("GET {API}/x HTTP/1.1\r\n{fields}\r\n\r\n{EVIL}").into();
    let cases: Vec<(Vec<u8>, u16, &str)> = vec![
        (head("Host: api.example.test\r\nX-A: 1\r\n X-B: 2"), 400, "malformed_head"),
        (head("Host: api.example.test\r\nX-A: 1\r\n\tX-B: 2"), 400, "malformed_head"),
        (head("Host: api.example.test\r\nX-A:\r\n X-B: 2"), 400, "malformed_head"),
        (head(" X-B: 2\r\nHost: api.example.test"), 400, "malformed_head"),
        (head("\tX-B: 2\r\nHost: api.example.test"), 400, "malformed_head"),
        (head(" \r\nHost: api.example.test"), 400, "malformed_head"),
    ];
    assert_all_refused(&cases).await;
}

#[tokio::test]
async fn par_08_bare_line_feeds_and_carriage_returns_are_refused() {
    let cases: Vec<(Vec<u8>, u16, &str)> = [
        format!("GET {API}/x HTTP/1.1\nHost: api.example.test\n\n{EVIL}"),
        format!("GET {API}/x HTTP/1.1\r\nHost: api.example.test\nX-A: 1\r\n\r\n{EVIL}"),
        format!("GET {API}/x HTTP/1.1\r\nHost: api.example.test\r\nX-A: 1\n\n{EVIL}"),
        format!("GET {API}/x HTTP/1.1\r\nHost: api.example.test\r\n\n{EVIL}"),
        format!("GET {API}/x HTTP/1.1\r\nHost: api.example.test\r\nX-A: 1\rX-B: 2\r\n\r\n{EVIL}"),
        format!("GET {API}/x HTTP/1.1\r\nHost: api.example.test\r\nX-A: 1\r\r\n\r\n{EVIL}"),
        format!("GET {API}/x HTTP/1.1\r\nHost: api.example.test\r\r\n\r\n{EVIL}"),
        format!("GET {API}/x\rX-B: HTTP/1.1\r\nHost: api.example.test\r\n\r\n{EVIL}"),
        format!("GET {API}/x HTTP/1.1\r\nHost: api.example.test\r\nX-A: 1\0\r\n\r\n{EVIL}"),
    ]
    .into_iter()
    .map(|input| (input.into(), 400, "malformed_head"))
    .collect();
    assert_all_refused(&cases).await;
}

#[tokio::test]
async fn par_08_an_encoded_line_end_in_the_target_stays_encoded() {
    let origin = echo().await;
    for larder in with_each_policy(&origin).await {
        let before = origin.calls();
        let answer = larder.get("/a%0d%0aX-B:%202?q=%0D%0A").await;
        assert_eq!(answer.status, 200);
        let seen = &origin.requests()[before];
        assert_eq!(seen.target, "/a%0d%0aX-B:%202?q=%0D%0A");
        assert_eq!(seen.field("x-b"), None);
    }
}

/// Sends a chunked upload with `body` after its head and returns the response, if there is one.
async fn upload(larder: &Larder, body: &str) -> Option<Response> {
    let mut client = larder.client().await;
    client.send(post("Transfer-Encoding: chunked") + body).await;
    // If a wrong size makes larder wait for more bytes, it reads the end of the stream.
    client.stream.shutdown().await.expect("larder still reads");
    let answer = timeout(SOON, client.response("POST")).await.expect("no hang");
    assert!(timeout(SOON, client.is_closed()).await.expect("no hang"), "{body:?}");
    answer
}

#[tokio::test]
async fn par_10_a_malformed_chunk_ends_the_upload_and_hides_no_request() {
    let origin = echo().await;
    let larder = Larder::start(&origin, "").await;
    for body in [
        "5;a=\"x\r\n0\r\n\r\nGET http://api.example.test/EVIL HTTP/1.1\r\nHost: h\r\n\r\n",
        "5;\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\nGET http://api.example.test/EVIL HTTP/1.1\r\nHost: h\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        ";a=b\r\nhello\r\n0\r\n\r\n",
        "5_0\r\nhello\r\n0\r\n\r\n",
    ] {
        if let Some(answer) = upload(&larder, body).await {
            assert_problem(&answer, 400, "malformed_body", body);
        }
        assert_eq!(origin.calls(), 0, "{body:?}: {:?}", origin.requests());
    }
    assert_only_a_good_request_arrives(&larder, &origin).await;
    let newest = origin.connections() - 1;
    let used = origin.requests().last().map(|seen| seen.connection);
    assert_eq!(used, Some(newest), "no connection with half an upload is reused");
}

#[tokio::test]
async fn par_10_a_chunk_extension_is_dropped() {
    let origin = echo().await;
    let larder = Larder::start(&origin, "").await;
    for extension in [";a=b", ";a", ";a=\"b;c\"", " ;a=b"] {
        let mut client = larder.client().await;
        let body = format!("5{extension}\r\nhello\r\n0{extension}\r\n\r\n");
        client.send(post("Transfer-Encoding: chunked") + &body).await;
        // The origin reads sizes without extensions only.
        assert_eq!(client.response("POST").await.unwrap().text(), "/x 5", "{extension}");
    }
    assert!(origin.requests().iter().all(|seen| seen.body == b"hello"));
}

#[tokio::test]
async fn par_11_trailers_of_a_request_never_become_header_fields() {
    let origin = echo().await;
    let larder = Larder::start(&origin, "").await;
    let many = "X-T: 1\r\n".repeat(10_000);
    for trailers in [
        "Content-Length: 9\r\nHost: evil\r\nAuthorization: x\r\n",
        "this is no field\r\n",
        ": no name\r\n",
        "X-A: 1\nX-B: 2\r\n",
        many.as_str(),
    ] {
        let before = origin.calls();
        let mut client = larder.client().await;
        let head = post("Transfer-Encoding: chunked");
        let input = format!("{head}5\r\nhello\r\n0\r\n{trailers}\r\n");
        // Larder may close the connection while the many trailers are still being written.
        let sent = client.stream.write_all(input.as_bytes());
        let _closed_early = timeout(SOON, sent).await.expect("no hang");
        let answer = timeout(SOON, client.response("POST")).await.expect("no hang");
        match answer.map(|answer| answer.status) {
            Some(200) => assert_eq!(origin.calls(), before + 1),
            Some(400) | None => assert_eq!(origin.calls(), before),
            Some(other) => panic!("{other}"),
        }
        for seen in &origin.requests()[before..] {
            assert_eq!(seen.field("host"), Some("api.example.test"));
            assert_eq!((seen.field("authorization"), seen.field("content-length")), (None, None));
            assert_eq!(seen.body, b"hello");
        }
    }
    assert_only_a_good_request_arrives(&larder, &origin).await;
}

#[tokio::test]
async fn par_11_trailers_of_a_response_never_become_header_fields() {
    for trailers in ["Set-Cookie: sid=1\r\nContent-Length: 9\r\nX-T: 1\r\n", "this is no field\r\n"] {
        let answer =
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n{trailers}\r\n");
        let origin = Origin::always(MockResponse::raw(answer)).await;
        for larder in with_each_policy(&origin).await {
            for _ in 0..2 {
                let got = timeout(SOON, larder.get("/x")).await.expect("no hang");
                if got.status == 200 && got.end == End::Complete {
                    assert_eq!(got.text(), "hello");
                }
                for name in ["set-cookie", "x-t", "trailer"] {
                    assert_eq!(got.field(name), None);
                }
            }
        }
    }
}

/// Search APIs read the body of a GET: larder passes it to the origin and never parses it as a request.
#[tokio::test]
async fn par_14_the_body_of_a_get_reaches_the_origin_and_is_never_a_request() {
    let origin = echo().await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
    assert_eq!(larder.get("/x").await.text(), "/x 0");
    assert!(larder.get("/x").await.cache_status().contains("hit"));
    let get = |fields: &str| format!("GET {API}/x HTTP/1.1\r\nHost: api.example.test\r\n{fields}\r\n\r\n");
    let with_length = (get(&format!("Content-Length: {}", EVIL.len())), EVIL.to_owned());
    let in_chunks = format!("{:x}\r\n{EVIL}\r\n0\r\n\r\n", EVIL.len());
    let chunked = (get("Transfer-Encoding: chunked"), in_chunks);
    for (head, body) in [with_length, chunked] {
        for late in [false, true] {
            let before = origin.calls();
            let mut client = larder.client().await;
            if late {
                client.send(&head).await;
                // Another client's request is served between the head and its body.
                assert!(larder.get("/x").await.cache_status().contains("hit"));
                client.send(&body).await;
            } else {
                client.send(format!("{head}{body}")).await;
            }
            let answer = timeout(SOON, client.response("GET")).await.expect("no hang").unwrap();
            assert_eq!(answer.text(), format!("/x {}", EVIL.len()), "the body was seen");
            assert!(answer.cache_status().contains("fwd=bypass"), "{}", answer.cache_status());
            let seen = origin.requests();
            assert_eq!(seen.len(), before + 1);
            assert_eq!(seen[before].body, EVIL.as_bytes());
            // The connection still is in sync.
            assert!(client.get(&format!("{API}/x"), &[]).await.cache_status().contains("hit"));
        }
    }
    assert!(origin.requests().iter().all(|seen| seen.target == "/x"));
}

#[tokio::test]
async fn par_15_connection_may_not_name_framing_host_or_credential_fields() {
    let body = "hello";
    let cases: Vec<(Vec<u8>, u16, &str)> = [
        "close, Content-Length",
        "Host, Authorization, Transfer-Encoding",
        "host",
        "close,AUTHORIZATION",
        "expect",
        "close,,\tContent-Length ,x",
    ]
    .into_iter()
    .map(|named| {
        let fields = format!("Connection: {named}\r\nAuthorization: x\r\nContent-Length: 5");
        ((post(&fields) + body + EVIL).into(), 400, "protected_field")
    })
    .collect();
    assert_all_refused(&cases).await;
}

/// Larder must refuse first, with its own error, all that pingora refuses.
#[tokio::test]
async fn par_15_any_other_connection_option_is_dropped_or_refused_by_larder() {
    let origin = echo().await;
    let many = (0..40).map(|n| format!("x-{n}")).collect::<Vec<_>>().join(", ");
    for larder in with_each_policy(&origin).await {
        for named in
            ["x-forwarded-for", "cookie", "x-a", &many, "close, x-a", "Cache-Control", ",,,", "\"x-a\""]
        {
            let mut client = larder.client().await;
            let connection = format!("Connection: {named}");
            client
                .send_request("GET", &format!("{API}/{}", named.len()), &[&connection, "X-A: 1", "Cookie: c"])
                .await;
            let answer = timeout(SOON, client.response("GET")).await.expect("no hang").unwrap();
            if answer.status != 200 {
                let text = answer.text();
                assert!(text.contains("larder_error"), "{named}: {} {text}", answer.status);
            }
        }
    }
    for seen in origin.requests() {
        assert_eq!(seen.field("connection").filter(|c| !c.eq_ignore_ascii_case("keep-alive")), None);
    }
}

#[tokio::test]
async fn par_17_a_response_that_is_not_http_becomes_a_502_and_is_not_stored() {
    let interim =
        "HTTP/1.1 100 Continue\r\n\r\n".repeat(500) + "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    let answers = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
        "HTTP/1.1 2OO OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 99 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/9.9 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nno colon here\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello",
        "hello, this is a mail server\r\n\r\n",
        interim.as_str(),
    ];
    for raw in answers {
        let origin = Origin::always(MockResponse::raw(raw).then([Step::Close])).await;
        for larder in with_each_policy(&origin).await {
            let before = origin.calls();
            for attempt in 1..=2 {
                let answer = timeout(SOON, larder.get("/x")).await.expect("no hang");
                assert_problem(&answer, 502, "protocol", raw);
                assert_eq!(
                    answer.field("proxy-status"),
                    Some("larder; error=http_protocol_error; details=\"protocol\"")
                );
                assert_eq!(origin.calls(), before + attempt, "nothing was stored: {raw:?}");
            }
        }
    }
}

/// RFC 9110 §15.2.2. After the switch larder does not know the protocol on that connection.
#[tokio::test]
async fn par_17_an_unrequested_101_is_not_retried_and_ends_its_connection() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let poison = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 6\r\n\r\npoison";
    let origin = Origin::start(move |seen| match &*seen.target {
        "/x" => MockResponse::raw(format!("{switch}{poison}")),
        _ => MockResponse::new(200, &[], "good"),
    })
    .await;
    let retry = ["ttl: 1h", "retry: { retries: 3, backoff: { initial: 1ms } }"];
    for policy in [&retry[..], &[]] {
        let larder = match policy {
            [] => Larder::start(&origin, "").await,
            policy => Larder::with_policy(&origin, policy).await,
        };
        for method in ["GET", "HEAD", "GET"] {
            let calls = origin.calls();
            let mut client = larder.client().await;
            client.send_request(method, &format!("{API}/x"), &[]).await;
            let answer = timeout(SOON, client.response(method)).await.expect("no hang").unwrap();
            assert_eq!(answer.status, 502, "{method}");
            assert_eq!(origin.calls(), calls + 1, "{method}: once");
            assert_eq!(larder.get(&format!("/good?{calls}")).await.text(), "good");
        }
    }
    let mut ended = HashSet::new();
    for seen in origin.requests() {
        assert!(!ended.contains(&seen.connection), "{} after a switch", seen.target);
        ended.extend((seen.target == "/x").then_some(seen.connection));
    }
    assert_eq!(ended.len(), 6);
}

/// RFC 9112 §6.3: `Transfer-Encoding` overrides `Content-Length`, which is removed. Larder refuses
/// the response if it would store it.
#[tokio::test]
async fn par_17_both_framings_in_a_response_desynchronise_no_client() {
    let raw =
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let origin = Origin::always(MockResponse::raw(raw)).await;
    for larder in with_each_policy(&origin).await {
        let before = origin.calls();
        for attempt in 1..=2 {
            let answer = larder.get("/x").await;
            assert!(answer.status == 502 || answer.text() == "hello", "{answer:?}");
            assert_eq!(origin.calls(), before + attempt, "not stored");
            if answer.status == 200 {
                assert_eq!(answer.field("content-length"), None);
            }
        }
    }
}

#[tokio::test]
async fn par_18_bytes_after_a_response_are_never_the_next_response() {
    let poisoned =
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON";
    for late in [false, true] {
        let origin = Origin::start(|_| MockResponse::new(200, &[], "good")).await;
        for larder in with_each_policy(&origin).await {
            let gate = Gate::new();
            let origin_gate = gate.clone();
            origin.set_script(move |seen| match seen.target.as_str() {
                "/first" if late => {
                    let (now, then) = poisoned.as_bytes().split_at(poisoned.find("helloHTTP").unwrap() + 5);
                    MockResponse::raw(now).then([Step::Wait(origin_gate.clone()), Step::Write(then.to_vec())])
                }
                "/first" => MockResponse::raw(poisoned),
                _ => MockResponse::new(200, &[], "good"),
            });
            let mut client = larder.client().await;
            assert_eq!(client.get(&format!("{API}/first"), &[]).await.text(), "hello");
            let connections = origin.connections();
            gate.open();
            for path in ["/a", "/b", "/c"] {
                let answer = client.get(&format!("{API}{path}"), &[]).await;
                assert!(!answer.text().contains("POISON"), "{path}");
                assert_eq!((answer.status, answer.text().as_str()), (200, "good"), "{path}");
            }
            if !late {
                assert!(origin.connections() > connections, "a fresh connection");
            }
        }
    }
}

/// Reads up to the end of a head.
async fn head_of(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut bytes).await.expect("larder writes"), 0, "a head");
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn par_18_after_an_early_response_the_origin_connection_is_not_reused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let resolve = format!("resolve: {{ api.example.test: \"{}\" }}\n", listener.local_addr().unwrap());
    let larder = Larder::bare(&resolve).await;
    let mut client = larder.client().await;
    client.send(post("Content-Length: 1000000") + "only the beginning").await;
    let (mut first, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    head_of(&mut first).await;
    first.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig").await.unwrap();
    let answer = timeout(SOON, client.response("POST")).await.unwrap().unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (413, "big"));
    let next = tokio::spawn({
        let addr = larder.addr();
        async move { Client::connect(addr).await.get(&format!("{API}/next"), &[]).await }
    });
    let (mut second, _) = timeout(SOON, listener.accept()).await.expect("a fresh connection").unwrap();
    assert!(head_of(&mut second).await.starts_with("GET /next "));
    second.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood").await.unwrap();
    assert_eq!(next.await.unwrap().text(), "good");
}

#[tokio::test]
async fn par_19_a_malformed_request_line_is_refused() {
    let rest = format!("\r\nHost: api.example.test\r\n\r\n{EVIL}");
    let cases: Vec<(Vec<u8>, u16, &str)> = [
        ("GET /\r\n\r\n".to_owned(), 400, "malformed_head"),
        (format!("GET {API}/x\r\n\r\n"), 400, "malformed_head"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 505, "http_version"),
        (format!("GET {API}/x HTTP/2.0{rest}"), 505, "http_version"),
        (format!("GET {API}/x HTTP/0.9{rest}"), 505, "http_version"),
        (format!("GET  {API}/x HTTP/1.1{rest}"), 400, "malformed_head"),
        (format!("GET {API}/x  HTTP/1.1{rest}"), 400, "malformed_head"),
        (format!(" GET {API}/x HTTP/1.1{rest}"), 400, "malformed_head"),
        (format!("GET\t{API}/x\tHTTP/1.1{rest}"), 400, "malformed_head"),
        (format!("GET {API}/x HTTP/1.10{rest}"), 400, "malformed_head"),
        (format!("GET {API}/x http/1.1{rest}"), 400, "malformed_head"),
        (format!("GET {API}/x HTTP/1.1 {rest}"), 400, "malformed_head"),
        (format!("G\x01T {API}/x HTTP/1.1{rest}"), 400, "malformed_head"),
        (format!("GET {API}/x HTTP/1.1\r\nX-A: 1\r\n\r\n"), 400, "malformed_host"),
        (format!("GET {API}/x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"), 400, "malformed_host"),
        (format!("{}{EVIL}", "\r\n".repeat(1000)), 400, "malformed_head"),
        (format!("\r\n\r\n{EVIL}"), 400, "malformed_head"),
        (format!("\n{EVIL}"), 400, "malformed_head"),
        (format!("\r\n\n{EVIL}"), 400, "malformed_head"),
        (format!("GET /x HTTP/1.1{rest}"), 400, "not_a_proxy_request"),
        (format!("OPTIONS * HTTP/1.1{rest}"), 400, "not_a_proxy_request"),
        (format!("GET ftp://api.example.test/x HTTP/1.1{rest}"), 400, "malformed_target"),
        (format!("GET http:///x HTTP/1.1{rest}"), 400, "malformed_target"),
        (format!("GET http://u@p@api.example.test/x HTTP/1.1{rest}"), 400, "malformed_target"),
        (format!("GET http://api.example.test:99999/x HTTP/1.1{rest}"), 400, "malformed_target"),
        (format!("GET http://api.example.test\\@evil/x HTTP/1.1{rest}"), 400, "malformed_target"),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\n\r\n\r\n".to_owned(), 400, "tls_to_http_port"),
    ]
    .into_iter()
    .map(|(input, status, class)| (input.into(), status, class))
    .collect();
    assert_all_refused(&cases).await;
}

#[tokio::test]
async fn par_19_an_empty_line_before_a_request_is_accepted_however_it_is_split() {
    let origin = echo().await;
    let larder = Larder::start(&origin, "").await;
    let request = format!("\r\nGET {API}/good HTTP/1.1\r\nHost: api.example.test\r\n\r\n");
    for cut in [0, 1, 2, 3, 5] {
        let mut client = larder.client().await;
        for _ in 0..2 {
            let (first, rest) = request.split_at(cut);
            client.send(first).await;
            tokio::task::yield_now().await;
            client.send(rest).await;
            let answer = timeout(SOON, client.response("GET")).await.expect("no hang").unwrap();
            assert_eq!(answer.text(), "/good 0", "cut at {cut}");
        }
    }
}

/// An odd target reaches the origin byte for byte, except for characters that a URL cannot contain:
/// those are encoded.
#[tokio::test]
async fn odd_targets_reach_the_origin_unchanged() {
    let origin = echo().await;
    for larder in with_each_policy(&origin).await {
        for path in [
            "/a\"b",
            "/a?q=\"x\"",
            "/a|b",
            "/a[b]",
            "/a\\b",
            "/a^b",
            "/a`b",
            "/{a}",
            "/<a>",
            "/%zz",
            "/%",
            "/a%00b",
            "/ü",
            "/a?q=ü",
            "//a",
            "/a/../b",
            "/a/./b",
            "/a;b",
            "/a,b",
            "/a?",
            "/a??b",
            "/a'b",
            "/:80",
            "/http://x/",
            "?x=1",
            "/a@b",
            "/~a",
            "/\u{feff}",
        ] {
            let before = origin.calls();
            let mut client = larder.client().await;
            let head = format!("GET {API}{path} HTTP/1.1\r\nHost: api.example.test\r\n\r\n");
            client.send(head).await;
            let answer = timeout(SOON, client.response("GET")).await.expect("no hang").unwrap();
            assert_eq!(answer.status, 200, "{path:?} {}", answer.text());
            let expected = match path {
                "?x=1" => "/?x=1",
                path => path,
            };
            assert_eq!(origin.requests()[before].target, expected);
        }
    }
}
