//! HTTP/1 framing between clients, larder and origins: ambiguous messages are refused in both
//! directions, and every body ends as its head specifies.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::End;
use crate::concurrent::bounded;
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{MockResponse, Origin, Step};

const SOON: Duration = Duration::from_secs(10);

/// One route below `/kept`; all other requests pass through.
async fn larder_before(origin: &Origin) -> Larder {
    Larder::start(origin, &route(&["ttl: 30m"]).replace("/**", "/kept/**")).await
}

/// Sends bytes and returns all that larder sends until it closes or is silent for 300 ms.
async fn raw_response(larder: &Larder, bytes: &str) -> String {
    let mut stream = TcpStream::connect(larder.addr()).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    // Nothing follows a complete response, so that silence marks its end.
    while let Ok(Ok(1..)) = timeout(Duration::from_millis(300), stream.read_buf(&mut all)).await {}
    String::from_utf8_lossy(&all).into_owned()
}

/// RFC 9112 §7.1: only a chunk of size zero is the last chunk.
#[tokio::test]
async fn a_chunked_response_without_its_last_chunk_is_cut_and_never_stored() {
    bounded(async {
        for line in [
            "\r\n",
            "\n",
            ";\r\n",
            ";a=b\r\n",
            " \r\n",
            "x\r\n",
            "0x0\r\n",
            "-0\r\n",
            "0\n",
            "2;\nxx\r\n",
            "5;a=\u{1}\r\nhello\r\n",
            "0\r\nno field\r\n",
        ] {
            let bytes =
                format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n{line}\r\n");
            for together in [true, false] {
                let (head, tail) = bytes.split_at(if together { bytes.len() } else { 50 });
                let steps = [head, tail].map(|part| Step::Write(part.as_bytes().to_vec()));
                let origin = Origin::always(MockResponse(steps.into()).then([Step::Close])).await;
                let larder = larder_before(&origin).await;
                for path in ["/kept/x", "/passed"] {
                    for call in 1..3 {
                        let answer = larder.get(path).await;
                        let whole = answer.status == 200 && answer.end == End::Complete;
                        assert!(!whole, "{line:?} {path} {call}: {answer:?}");
                        assert!(!answer.cache_status().contains("hit"), "{line:?} {path} {call}");
                    }
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn blanks_after_a_chunk_size_are_accepted_and_extensions_are_dropped() {
    bounded(async {
        for size in ["5 ", "5\t", "5;a=b", "5 ; a=\"b\"", "5;", "00005"] {
            let bytes = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{size}\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n");
            let origin = Origin::always(MockResponse::raw(bytes)).await;
            let larder = larder_before(&origin).await;
            for path in ["/kept/x", "/kept/x", "/passed"] {
                let answer = larder.get(path).await;
                assert_eq!((answer.text().as_str(), answer.end), ("hello", End::Complete), "{size}");
                assert_eq!(answer.field("x-sum"), None, "a trailer is not a header field");
            }
            assert_eq!(origin.calls(), 2, "{size}");
        }
    })
    .await;
}

/// RFC 9112 §6.1: HTTP/1.0 has no chunked coding.
#[tokio::test]
async fn an_http_1_0_client_gets_the_body_without_chunks_in_every_case() {
    bounded(async {
        let origin = Origin::always(MockResponse::chunked(200, &[], &[b"{\"a\":", b"1}"])).await;
        let larder = larder_before(&origin).await;
        for path in ["/kept/x", "/kept/x", "/passed"] {
            for keep in ["", "Connection: keep-alive\r\n"] {
                let request = format!("GET {API}{path} HTTP/1.0\r\n{keep}\r\n");
                let answer = raw_response(&larder, &request).await;
                let (head, body) = answer.split_once("\r\n\r\n").unwrap();
                assert_eq!(body, "{\"a\":1}", "{path} {keep}");
                assert!(!head.to_lowercase().contains("transfer-encoding"), "{head}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_cut_response_to_an_http_1_0_client_ends_in_a_reset() {
    bounded(async {
        let cut = MockResponse::chunked_open(200, &[], &[b"half"]).then([Step::Close]);
        let origin = Origin::always(cut).await;
        let larder = larder_before(&origin).await;
        for path in ["/kept/x", "/passed"] {
            let mut stream = TcpStream::connect(larder.addr()).await.unwrap();
            stream.write_all(format!("GET {API}{path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
            let mut all = Vec::new();
            let ended = timeout(SOON, stream.read_to_end(&mut all)).await.unwrap();
            assert!(ended.is_err(), "{path}: {}", String::from_utf8_lossy(&all));
        }
    })
    .await;
}

#[tokio::test]
async fn pipelined_requests_are_dropped_and_the_first_response_has_close() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(200, &[], "x")).await;
        let larder = larder_before(&origin).await;
        larder.get("/kept/x").await;
        for path in ["/kept/x", "/kept/y", "/passed"] {
            let one = format!("GET {API}{path} HTTP/1.1\r\nHost: h\r\n\r\n");
            let answer = raw_response(&larder, &format!("{one}{one}{one}")).await;
            assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "{path}: {answer}");
            assert!(answer.to_lowercase().contains("\r\nconnection: close\r\n"), "{path}: {answer}");
        }
    })
    .await;
}

/// A response without `Connection: close` is being written: a request that arrives meanwhile is served.
#[tokio::test]
async fn a_request_that_arrives_during_a_response_is_served_after_it() {
    bounded(async {
        let gate = crate::origin::Gate::new();
        let half = MockResponse::raw("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha");
        let slow = half.then([Step::Wait(gate.clone()), Step::Write(b"lf".to_vec())]);
        let origin = Origin::always(slow).await;
        let larder = larder_before(&origin).await;
        for path in ["/kept/x", "/passed"] {
            let mut client = larder.client().await;
            client.send_request("GET", &format!("{API}{path}"), &[]).await;
            let mut begun = [0; 300];
            let read = client.stream.peek(&mut begun).await.unwrap();
            assert!(read > 0);
            client.send_request("GET", &format!("{API}{path}"), &[]).await;
            gate.open();
            assert_eq!(client.response("GET").await.unwrap().text(), "half", "{path}");
            assert_eq!(client.response("GET").await.unwrap().text(), "half", "{path}");
        }
    })
    .await;
}

/// RFC 9112 §3.2: this applies to a target in absolute form, too.
#[tokio::test]
async fn a_malformed_host_field_is_refused() {
    let origin = Origin::always(MockResponse::new(200, &[], "x")).await;
    let larder = larder_before(&origin).await;
    for host in ["a b", "a,b", "http://h", "h/x", "h:x", "h:99999", "[::1", "\u{e9}"] {
        let answer = raw_response(&larder, &format!("GET {API}/x HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{host}: {answer}");
        assert!(answer.contains("\"malformed_host\""), "{host}: {answer}");
    }
    // Some clients copy the user of a URL into the field.
    for host in ["", "user@h", "h", "h:80", "[::1]:80", "other.example"] {
        let answer = raw_response(&larder, &format!("GET {API}/x HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
    }
    assert_eq!(origin.calls(), 6);
}

/// RFC 9112 §3.2.4.
#[tokio::test]
async fn the_asterisk_form_is_for_options_only_and_reaches_the_origin() {
    bounded(async {
        let origin = Origin::start(|seen| MockResponse::new(200, &[], &seen.target)).await;
        let larder = larder_before(&origin).await;
        let host = API.trim_start_matches("http://");
        for (line, target) in [
            (format!("OPTIONS {API} HTTP/1.1"), "*"),
            (format!("OPTIONS {API}/ HTTP/1.1"), "/"),
            (format!("OPTIONS {API}?a HTTP/1.1"), "/?a"),
            (format!("GET {API} HTTP/1.1"), "/"),
        ] {
            let answer = raw_response(&larder, &format!("{line}\r\nHost: {host}\r\n\r\n")).await;
            assert!(answer.ends_with(&format!("\r\n\r\n{target}")), "{line}: {answer}");
        }
        for (method, right) in [("OPTIONS", true), ("GET", false), ("POST", false)] {
            let tunnel = format!("CONNECT {host}:80 HTTP/1.1\r\nHost: {host}:80\r\n\r\n");
            let mut stream = TcpStream::connect(larder.addr()).await.unwrap();
            stream.write_all(tunnel.as_bytes()).await.unwrap();
            let mut all = Vec::new();
            while !all.ends_with(b"\r\n\r\n") {
                assert!(stream.read_buf(&mut all).await.unwrap() > 0);
            }
            all.clear();
            let inside = format!("{method} * HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(inside.as_bytes()).await.unwrap();
            assert!(timeout(SOON, stream.read_buf(&mut all)).await.unwrap().unwrap() > 0);
            let answer = String::from_utf8_lossy(&all);
            let status = if right { "HTTP/1.1 200 " } else { "HTTP/1.1 400 " };
            assert!(answer.starts_with(status), "{method}: {answer}");
        }
    })
    .await;
}

/// RFC 9110 §8.6, RFC 9112 §6.1.
#[tokio::test]
async fn a_204_has_no_content_length_and_no_transfer_encoding() {
    bounded(async {
        for field in ["Content-Length: 5", "Content-Length: 0", "Transfer-Encoding: chunked"] {
            let bytes = format!("HTTP/1.1 204 No Content\r\n{field}\r\nX-A: 1\r\n\r\n");
            let origin = Origin::always(MockResponse::raw(bytes)).await;
            let larder = larder_before(&origin).await;
            for path in ["/kept/x", "/kept/x", "/passed"] {
                let mut client = larder.client().await;
                let answer = client.get(&format!("{API}{path}"), &[]).await;
                assert_eq!((answer.status, answer.field("x-a")), (204, Some("1")), "{field}");
                assert_eq!(answer.field("content-length"), None, "{field} {path}");
                assert_eq!(answer.field("transfer-encoding"), None, "{field} {path}");
            }
        }
    })
    .await;
}
