//! Response heads as tables of exact bytes.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use proptest::prelude::{any, proptest};

use super::{find_head_end, framing, is_misframed, parse_response_head, persists, request_head};
use crate::semantics::field_case::FieldCase;
use crate::semantics::request::{ListenerKind, RequestFraming};
use crate::upstream::BodyFraming;
use crate::upstream::connect::session::{OutgoingRequest, SessionError};

fn read(text: &str) -> Result<super::UpstreamHead, SessionError> {
    parse_response_head(&Bytes::copy_from_slice(text.as_bytes()))
}

/// The framing of the body of a 200 response with these lines to a GET.
fn framed(version: &str, lines: &str) -> Result<BodyFraming, SessionError> {
    framing(&read(&format!("HTTP/{version} 200 OK\r\n{lines}\r\n"))?, &Method::GET)
}

#[test]
fn a_response_with_ambiguous_framing_is_an_error() {
    let rejected = Err(SessionError::Protocol);
    for (version, lines, expected) in [
        ("1.1", "", Ok(BodyFraming::Close)),
        ("1.0", "", Ok(BodyFraming::Close)),
        ("1.1", "Content-Length: 5\r\n", Ok(BodyFraming::Length(5))),
        ("1.0", "Content-Length: 5\r\n", Ok(BodyFraming::Length(5))),
        ("1.1", "Content-Length: 5\r\nContent-Length: 5\r\n", Ok(BodyFraming::Length(5))),
        ("1.1", "Content-Length: 5, 5\r\n", Ok(BodyFraming::Length(5))),
        ("1.1", "Content-Length: 5, 6\r\n", rejected),
        ("1.1", "Content-Length: 5\r\nContent-Length: 6\r\n", rejected),
        ("1.1", "Content-Length: +5\r\n", rejected),
        ("1.1", "Content-Length: -5\r\n", rejected),
        ("1.1", "Content-Length:\r\n", rejected),
        ("1.1", "Content-Length: 5,\r\n", rejected),
        ("1.1", "Content-Length: 99999999999999999999\r\n", rejected),
        ("1.1", "Transfer-Encoding: chunked\r\n", Ok(BodyFraming::Delimited)),
        ("1.1", "Transfer-Encoding: CHUNKED\r\n", Ok(BodyFraming::Delimited)),
        ("1.0", "Transfer-Encoding: chunked\r\n", rejected),
        ("1.1", "Transfer-Encoding: gzip\r\n", rejected),
        ("1.1", "Transfer-Encoding: gzip, chunked\r\n", rejected),
        ("1.1", "Transfer-Encoding: xchunked\r\n", rejected),
        ("1.1", "Transfer-Encoding:\r\n", rejected),
        ("1.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", rejected),
        ("1.1", "Content-Length : 3\r\nTRANSFER-encoding: chunked\r\n", rejected),
        ("1.1", "Transfer-Encoding: chunked\r\nX: Content-Length: 3\r\n", Ok(BodyFraming::Delimited)),
    ] {
        assert_eq!(framed(version, lines), expected, "{version} {lines:?}");
    }
}

#[test]
fn responses_to_head_and_204_and_304_have_no_body() {
    for (method, status) in [("HEAD", 200), ("GET", 204), ("GET", 304)] {
        let text = format!("HTTP/1.1 {status} x\r\nContent-Length: 5\r\n\r\n");
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        assert_eq!(framing(&read(&text).unwrap(), &method), Ok(BodyFraming::Length(0)), "{status}");
    }
}

#[test]
fn an_invalid_head_is_an_error() {
    for text in [
        "HTTP/1.1 2OO OK\r\n\r\n",
        "HTTP/9.9 200 OK\r\n\r\n",
        "HTTP/1.1 99 OK\r\n\r\n",
        "HTTP/1.1 600 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
    ] {
        assert_eq!(read(text).map(|head| head.status), Err(SessionError::Protocol), "{text:?}");
    }
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: 1\r\n".repeat(257));
    assert!(read(&many).is_err());
    let large = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(300 * 1024));
    assert!(read(&large).is_err());
    assert_eq!(find_head_end(&vec![b'a'; 300 * 1024], &mut 0), Err(SessionError::Protocol));
}

#[test]
fn persistence_depends_on_the_version_and_connection_options() {
    for (version, field, persistent) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: x, Close\r\n", false),
        ("1.1", "Connection: x-own\r\n", true),
        ("1.0", "", false),
        ("1.0", "Connection: keep-alive\r\n", true),
        ("1.0", "Connection: x-own\r\n", false),
    ] {
        let head = read(&format!("HTTP/{version} 200 OK\r\n{field}\r\n")).unwrap();
        assert_eq!(persists(&head), persistent, "{version} {field:?}");
    }
}

#[test]
fn a_declared_body_where_none_is_allowed_is_misframed() {
    for (status, field, misframed) in [
        (204, "Content-Length: 5", true),
        (204, "Content-Length: 0", false),
        (204, "Transfer-Encoding: chunked", true),
        (304, "Content-Length: 5", false),
        (304, "Transfer-Encoding: chunked", true),
        (200, "Transfer-Encoding: chunked", false),
    ] {
        let head = read(&format!("HTTP/1.1 {status} X\r\n{field}\r\n\r\n")).unwrap();
        assert_eq!(is_misframed(&head), misframed, "{status} {field}");
    }
}

#[test]
fn the_end_of_a_head_is_found_at_every_split() {
    let head = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nrest";
    for cut in 0..head.len() {
        let mut scanned = 0;
        let first = find_head_end(&head[..cut], &mut scanned).unwrap();
        assert_eq!(first, (cut >= 25).then_some(25), "{cut}");
        let then = first.or_else(|| find_head_end(head, &mut scanned).unwrap());
        assert_eq!(then, Some(25), "{cut}");
    }
}

fn outgoing(body: RequestFraming, upgrade: bool) -> String {
    let mut headers = HeaderMap::new();
    headers.insert("x-key", HeaderValue::from_static("1"));
    let written = request_head(&OutgoingRequest {
        method: Method::POST,
        scheme: "http",
        authority: "api.example:81".to_owned(),
        path: "/a?b".to_owned(),
        listener: ListenerKind::Loopback,
        headers,
        spelling: FieldCase::from_head(Bytes::from_static(b"POST / HTTP/1.1\r\nX-KEY: 0\r\n\r\n")),
        body,
        upgrade: upgrade.then(|| HeaderValue::from_static("websocket")),
        trailers: true,
    });
    String::from_utf8(written.to_vec()).unwrap()
}

#[test]
fn a_request_head_contains_host_and_framing() {
    let head = "POST /a?b HTTP/1.1\r\nHost: api.example:81\r\nX-KEY: 1\r\n";
    for (body, upgrade, fields) in [
        (RequestFraming::None, false, "Content-Length: 0\r\n"),
        (RequestFraming::Length(5), false, "Content-Length: 5\r\n"),
        (RequestFraming::Chunked, false, "Transfer-Encoding: chunked\r\n"),
        (
            RequestFraming::Length(5),
            true,
            "Content-Length: 5\r\nConnection: Upgrade\r\nupgrade: websocket\r\n",
        ),
    ] {
        assert_eq!(outgoing(body, upgrade), format!("{head}{fields}\r\n"));
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in any::<Vec<u8>>()) {
        let _either = find_head_end(&bytes, &mut 0).is_ok();
        let _either = parse_response_head(&Bytes::from(bytes)).is_ok();
    }
}
