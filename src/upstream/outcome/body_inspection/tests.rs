//! Readable bodies, unreadable bodies, and bodies that would exhaust memory.

use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::collection::vec;
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
use proptest::sample::select;
use serde_json::{Value, json};

use crate::upstream::Body;
use crate::upstream::in_flight_bytes::{ALWAYS_INSPECTED, BufferedPieces, InFlightBytes};
use crate::upstream::outcome::body_inspection::{
    self, ContentCoding, INLINE_LIMIT, InspectedBody, MAX_BODY, MAX_VALUES, accept_encoding, coding, inflate,
};
use crate::upstream::outcome::error::UpstreamError;

/// A memory budget for everything.
fn room() -> Arc<InFlightBytes> {
    InFlightBytes::new(usize::MAX / 2)
}

fn parse(coding: ContentCoding, body: &[u8]) -> Option<Value> {
    let mut gathered = BufferedPieces::new(&room());
    gathered.push(Bytes::copy_from_slice(body)).expect("there is room");
    body_inspection::parse(coding, &gathered).json().cloned()
}

async fn read(headers: &HeaderMap, body: Box<dyn Body>) -> (Option<Value>, Box<dyn Body>) {
    let (inspected, body) = body_inspection::read(headers, body, &room()).await;
    (inspected.json().cloned(), body)
}

/// A body in these pieces, which must not be read again after its end.
struct Pieces {
    left: VecDeque<Bytes>,
    end: Option<Result<(), UpstreamError>>,
}

#[async_trait]
impl Body for Pieces {
    async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        match self.left.pop_front() {
            Some(piece) => Ok(Some(piece)),
            None => self.end.take().expect("it has not ended").map(|()| None),
        }
    }
}

fn pieces(pieces: &[&[u8]], end: Result<(), UpstreamError>) -> Box<dyn Body> {
    let left = pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect();
    Box::new(Pieces { left, end: Some(end) })
}

/// All bytes that a body yields, and its end.
async fn drained(mut body: Box<dyn Body>) -> (Vec<u8>, Result<(), UpstreamError>) {
    let mut all = Vec::new();
    loop {
        match body.next().await {
            Ok(Some(piece)) => all.extend_from_slice(&piece),
            Ok(None) => return (all, Ok(())),
            Err(failure) => return (all, Err(failure)),
        }
    }
}

fn head(fields: &[(HeaderName, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(name, HeaderValue::from_static(value));
    }
    headers
}

fn json_head() -> HeaderMap {
    head(&[(CONTENT_TYPE, "application/json")])
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

#[test]
fn a_body_is_read_if_its_type_is_json_or_absent_and_its_coding_known() {
    for (fields, expected) in [
        (&[][..], Some(ContentCoding::Identity)),
        (&[(CONTENT_TYPE, "application/json")], Some(ContentCoding::Identity)),
        (&[(CONTENT_TYPE, "Application/JSON ; charset=utf-8")], Some(ContentCoding::Identity)),
        (&[(CONTENT_TYPE, "application/problem+json")], Some(ContentCoding::Identity)),
        (&[(CONTENT_TYPE, "text/html")], None),
        (&[(CONTENT_TYPE, "text/event-stream")], None),
        (&[(CONTENT_TYPE, "application/x-ndjson")], None),
        (&[(CONTENT_TYPE, "application/json-seq")], None),
        (&[(CONTENT_TYPE, "")], None),
        (&[(CONTENT_ENCODING, "identity")], Some(ContentCoding::Identity)),
        (&[(CONTENT_ENCODING, "GZip")], Some(ContentCoding::Gzip)),
        (&[(CONTENT_ENCODING, "x-gzip")], Some(ContentCoding::Gzip)),
        (&[(CONTENT_ENCODING, "br")], None),
        (&[(CONTENT_ENCODING, "gzip, gzip")], None),
        (&[(CONTENT_ENCODING, "gzip"), (CONTENT_ENCODING, "br")], None),
        (&[(CONTENT_LENGTH, "8388608")], Some(ContentCoding::Identity)),
        (&[(CONTENT_LENGTH, "8388609")], None),
    ] {
        assert_eq!(coding(&head(fields)), expected, "{fields:?}");
    }
}

#[test]
fn the_upstream_gets_accept_encoding_gzip_or_identity() {
    for (lines, expected) in [
        (&["gzip, deflate, br, zstd"][..], "gzip"),
        (&["br", "x-gzip"], "gzip"),
        (&["*"], "gzip"),
        (&["br, gzip;q=0"], "identity"),
        (&["br, zstd"], "identity"),
        (&[], "identity"),
    ] {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(ACCEPT_ENCODING, HeaderValue::from_static(line));
        }
        accept_encoding(&mut headers);
        let sent: Vec<_> = headers.get_all(ACCEPT_ENCODING).iter().collect();
        assert_eq!(sent, [expected], "{lines:?}");
    }
}

#[test]
fn a_body_that_is_not_json_has_no_value() {
    for text in ["", " ", "{", "{}x", "<html>", "nul", "{'a':1}", "\u{feff}\u{feff}1"] {
        assert_eq!(parse(ContentCoding::Identity, text.as_bytes()), None, "{text}");
        assert_eq!(parse(ContentCoding::Gzip, &gzip(text.as_bytes())), None, "{text}");
        assert_eq!(parse(ContentCoding::Gzip, text.as_bytes()), None, "{text}");
    }
    let whole = gzip(b"[1]");
    assert_eq!(parse(ContentCoding::Gzip, &whole), Some(json!([1])));
    assert_eq!(parse(ContentCoding::Gzip, &whole[..whole.len() - 1]), None, "cut");
    assert_eq!(parse(ContentCoding::Gzip, &[&whole[..], b"more"].concat()), None, "more behind it");
    assert_eq!(parse(ContentCoding::Gzip, &[gzip(b"[1,"), gzip(b"2]")].concat()), Some(json!([1, 2])));
    assert_eq!(parse(ContentCoding::Identity, "\u{feff}[1]".as_bytes()), Some(json!([1])));
}

#[test]
fn nesting_that_would_exhaust_the_stack_is_not_read() {
    let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(parse(ContentCoding::Identity, nested(127).as_bytes()).is_some());
    assert_eq!(parse(ContentCoding::Identity, nested(128).as_bytes()), None);
    assert_eq!(parse(ContentCoding::Identity, "[".repeat(1_000_000).as_bytes()), None);
    assert_eq!(parse(ContentCoding::Identity, "{\"a\":".repeat(1_000_000).as_bytes()), None);
}

#[test]
fn cch_21_a_gzip_bomb_is_inflated_no_further_than_its_limits() {
    // Zeros inflate to a thousand times their length; 64 MiB stand for the 10 GB.
    let mebibyte = vec![b'0'; 1024 * 1024];
    let small = gzip(&mebibyte);
    let most = small.len() * 100;
    assert!(most < mebibyte.len(), "it is a bomb");
    let inflated = inflate(&small).expect("it is gzip");
    assert_eq!(inflated.len(), most + 1, "the ratio ends it");
    assert_eq!(parse(ContentCoding::Gzip, &small), None);

    let large = small.repeat(64);
    let inflated = inflate(&large).expect("it is gzip");
    assert_eq!(inflated.len(), (large.len() * 100).min(MAX_BODY) + 1);
    assert!(inflated.capacity() <= 2 * MAX_BODY + 64);
    assert_eq!(parse(ContentCoding::Gzip, &large), None);

    // An honest body of the same length is read.
    let honest: Value = (0..100_000_u64).map(|n| Value::from(n * 7919 % 100_003)).collect();
    let honest = honest.to_string();
    assert!(parse(ContentCoding::Gzip, &gzip(honest.as_bytes())).is_some());
}

#[test]
fn bodies_with_too_many_values_are_not_read() {
    let list = |count| format!("[{}0]", "0,".repeat(count));
    assert!(parse(ContentCoding::Identity, list(MAX_VALUES - 2).as_bytes()).is_some());
    assert_eq!(parse(ContentCoding::Identity, list(MAX_VALUES - 1).as_bytes()), None);
}

#[tokio::test]
async fn a_body_that_was_read_is_yielded_again() {
    let (json, body) = read(&json_head(), pieces(&[b"{\"a\"", b"", b": [1]", b"}"], Ok(()))).await;
    assert_eq!(json, Some(json!({ "a": [1] })));
    assert_eq!(drained(body).await, (b"{\"a\": [1]}".to_vec(), Ok(())));
    let (json, body) = read(&json_head(), pieces(&[], Ok(()))).await;
    assert_eq!(json, None);
    assert_eq!(drained(body).await, (Vec::new(), Ok(())));
}

#[tokio::test]
async fn a_large_body_is_read_too() {
    let text = json!({ "text": "x".repeat(MAX_BODY / 2) }).to_string();
    let (json, body) = read(&json_head(), pieces(&[text.as_bytes()], Ok(()))).await;
    assert!(json.is_some_and(|json| json.get("text").is_some()));
    assert!(drained(body).await.0 == text.as_bytes());
}

#[tokio::test]
async fn a_body_that_fails_has_no_value_and_fails_at_the_same_place() {
    let cut = Err(UpstreamError::Cut);
    let (json, mut body) = read(&json_head(), pieces(&[b"[1", b"]"], cut)).await;
    assert_eq!(json, None, "a cut body may be a part of another one");
    for piece in [&b"[1"[..], b"]"] {
        assert_eq!(body.next().await, Ok(Some(Bytes::from_static(piece))));
    }
    assert_eq!(body.next().await, Err(UpstreamError::Cut));
    assert_eq!(body.next().await, Err(UpstreamError::Cut));
}

#[tokio::test]
async fn a_body_beyond_the_memory_budget_streams_unread() {
    let text = json!({ "text": "x".repeat(200_000) }).to_string().into_bytes();
    let parts: Vec<&[u8]> = text.chunks(5000).collect();
    // A budget for a part of the body; for all of it, but not for its value; and for both.
    for (bytes, readable) in [(100_000, false), (600_000, false), (1_000_000, true)] {
        let budget = InFlightBytes::new(bytes);
        let (inspected, body) = body_inspection::read(&json_head(), pieces(&parts, Ok(())), &budget).await;
        assert_eq!(inspected.json().is_some(), readable, "{bytes}");
        assert!(readable || inspected == InspectedBody::Unread);
        assert!(budget.used() <= bytes);
        assert_eq!(drained(body).await, (text.clone(), Ok(())), "{bytes}");
        assert_eq!(budget.used(), 0);
    }
}

/// A client that has much buffered must not make errors of others pass as usable responses.
#[tokio::test]
async fn a_short_body_is_read_however_much_is_buffered() {
    let budget = InFlightBytes::new(1000);
    budget.reserve(1_000_000);
    for length in [10, ALWAYS_INSPECTED - 20] {
        let text = json!({ "text": "x".repeat(length) }).to_string();
        let body = pieces(&[text.as_bytes()], Ok(()));
        let (inspected, body) = body_inspection::read(&json_head(), body, &budget).await;
        assert!(inspected.json().is_some(), "{length}");
        assert_eq!(drained(body).await.0, text.as_bytes());
        assert_eq!(budget.used(), 1_000_000);
    }
}

/// Each object takes a tree node, however short its text is.
#[test]
fn objects_are_charged_for_more_than_their_length() {
    let of_lists = format!("[{}0]", "[0],".repeat(20_000));
    let of_objects = format!("[{}0]", "{\"\":0},".repeat(20_000));
    let room = |bytes| {
        let in_flight = InFlightBytes::new(bytes);
        move |text: &str| {
            let mut gathered = BufferedPieces::new(&in_flight);
            gathered.push(Bytes::copy_from_slice(text.as_bytes())).expect("there is room");
            body_inspection::parse(ContentCoding::Identity, &gathered).json().is_some()
        }
    };
    assert!(room(6_000_000)(&of_lists) && !room(6_000_000)(&of_objects));
    assert!(room(25_000_000)(&of_objects));
}

/// A large body is parsed on another thread, with the same result.
#[tokio::test]
async fn a_body_has_the_same_value_inline_and_off_thread() {
    let long = |length: usize| format!("[{}{{\"a\":1}}]", " ".repeat(length));
    for text in [
        long(10),
        long(INLINE_LIMIT),
        long(INLINE_LIMIT + 1),
        long(MAX_BODY - 9),
        long(MAX_BODY),
        format!("{}]", long(INLINE_LIMIT)),
    ] {
        for (coding, body) in [
            (ContentCoding::Identity, text.clone().into_bytes()),
            (ContentCoding::Gzip, gzip(text.as_bytes())),
        ] {
            let in_flight = room();
            let mut gathered = BufferedPieces::new(&in_flight);
            gathered.push(Bytes::from(body)).expect("there is room");
            let off_thread = body_inspection::parse_off_thread(coding, &gathered).await;
            assert_eq!(
                off_thread,
                body_inspection::parse(coding, &gathered),
                "{coding:?}, {} bytes",
                text.len()
            );
            drop(gathered);
            assert_eq!(in_flight.used(), 0, "nothing is buffered");
        }
    }
}

/// A body without an end that counts its reads.
struct Endless {
    piece: Bytes,
    reads: usize,
}

#[async_trait]
impl Body for Endless {
    async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        self.reads += 1;
        assert!(self.reads * self.piece.len() <= MAX_BODY + 2 * self.piece.len(), "read too far");
        Ok(Some(self.piece.clone()))
    }
}

#[tokio::test]
async fn a_body_beyond_the_limit_streams_on() {
    let endless = Endless { piece: Bytes::from(vec![b' '; 1024 * 1024]), reads: 0 };
    let (json, mut body) = read(&json_head(), Box::new(endless)).await;
    assert_eq!(json, None);
    let mut yielded = 0;
    while yielded <= MAX_BODY + 1024 * 1024 {
        let piece = body.next().await.expect("no failure").expect("no end");
        assert!(piece.iter().all(|&byte| byte == b' '));
        yielded += piece.len();
    }
}

#[tokio::test]
async fn a_body_that_cannot_begin_json_is_not_read_to_its_end() {
    for first in [&b"<"[..], b"data: {}", b"\x1f\x8b", b"\0"] {
        let body = Endless { piece: Bytes::copy_from_slice(first), reads: MAX_BODY / first.len() };
        let (json, _) = read(&HeaderMap::new(), Box::new(body)).await;
        assert_eq!(json, None, "{first:?}");
    }
}

proptest! {
    #[test]
    fn reading_a_body_does_not_change_it(
        parts in vec(vec(any::<u8>(), 0..20), 0..6),
        json in any::<bool>(),
        zipped in any::<bool>(),
        called in select(&["application/json", "text/html"][..]),
        coded in select(&["gzip", "identity", "br"][..]),
        fails in any::<bool>(),
    ) {
        let end = if fails { Err(UpstreamError::BodyTimeout) } else { Ok(()) };
        let value = Value::from(parts.concat());
        let plain = if json { value.to_string().into_bytes() } else { parts.concat() };
        let sent = if zipped { gzip(&plain) } else { plain };
        let headers = head(&[(CONTENT_TYPE, called), (CONTENT_ENCODING, coded)]);
        let parts: Vec<&[u8]> = sent.chunks(7).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let (inspected, yielded) = runtime.block_on(async {
            let (inspected, body) = read(&headers, pieces(&parts, end)).await;
            (inspected, drained(body).await)
        });
        prop_assert_eq!(yielded, (sent, end));
        let is_so = if zipped { "gzip" } else { "identity" };
        let readable = called != "text/html" && !fails && coded == is_so;
        if json {
            prop_assert_eq!(inspected, readable.then_some(value));
        } else {
            prop_assert!(inspected.is_none() || readable);
        }
    }
}
