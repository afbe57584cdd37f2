//! Tests of request heads: tables of exact bytes, and properties over arbitrary bytes.

use bytes::{Bytes, BytesMut};
use http::Version;
use proptest::prelude::*;

use crate::frontend::head::{HeadScanner, HeadTarget, RequestHead, read};
use crate::semantics::field_case::FieldCase;
use crate::semantics::request::RequestFraming;
use crate::semantics::target::Target;

/// Enough fields for every case here.
const MAX_FIELDS: usize = 128;

fn parse(text: &str) -> Result<RequestHead, &'static str> {
    read(&Bytes::copy_from_slice(text.as_bytes()), MAX_FIELDS).map_err(|problem| problem.class)
}

fn get(fields: &str) -> String {
    format!("GET http://api.example/x HTTP/1.1\r\nHost: api.example\r\n{fields}\r\n")
}

fn post(version: &str, fields: &str) -> String {
    format!("POST http://api.example/x HTTP/{version}\r\nHost: api.example\r\n{fields}\r\n")
}

/// The head that larder forwards for a head that it accepts.
fn forwarded(text: &str) -> String {
    let raw = Bytes::copy_from_slice(text.as_bytes());
    let head = read(&raw, MAX_FIELDS).unwrap();
    let HeadTarget::Absolute(target) = &head.target else { panic!("a tunnel") };
    String::from_utf8(serialized(&head, target, &raw).to_vec()).unwrap()
}

/// An HTTP/1 head with its field names spelled as received.
fn serialized(head: &RequestHead, target: &Target, raw: &Bytes) -> BytesMut {
    let version = if head.version == Version::HTTP_11 { "1.1" } else { "1.0" };
    let (path, authority) = (target.path_and_query(), target.authority());
    let line = format!("{} {path} HTTP/{version}\r\nHost: {authority}\r\n", head.method);
    let mut out = BytesMut::from(line.as_bytes());
    FieldCase::from_head(raw.clone()).write(&head.fields, &mut out);
    out.extend_from_slice(b"\r\n");
    out
}

#[test]
fn the_end_of_a_head_is_found_for_every_split() {
    let head = b"GET / HTTP/1.1\r\nHost: h\r\n\r\nrest";
    for cut in 0..head.len() {
        let mut scanner = HeadScanner::default();
        let first = scanner.end(&head[..cut]).unwrap();
        assert_eq!(first, (cut >= 27).then_some(27), "{cut}");
        assert_eq!(scanner.end(head).unwrap().or(first), Some(27), "{cut}");
    }
}

#[test]
fn a_bare_line_feed_is_rejected_for_every_split() {
    for head in [&b"GET / HTTP/1.1\nHost: h\n\n"[..], b"\n", b"GET / HTTP/1.1\r\nA: b\n\r\n"] {
        for cut in 0..=head.len() {
            let mut scanner = HeadScanner::default();
            let refused = scanner.end(&head[..cut]).is_err() || scanner.end(head).is_err();
            assert!(refused, "{:?} at {cut}", head.escape_ascii().to_string());
        }
    }
}

#[test]
fn framing_is_one_length_or_chunked_or_nothing() {
    for (version, fields, expected) in [
        ("1.1", "", Ok(RequestFraming::None)),
        ("1.1", "Content-Length: 0\r\n", Ok(RequestFraming::None)),
        ("1.1", "Content-Length: 5\r\n", Ok(RequestFraming::Length(5))),
        ("1.1", "Content-Length: 005\r\n", Ok(RequestFraming::Length(5))),
        ("1.0", "Content-Length: 5\r\n", Ok(RequestFraming::Length(5))),
        ("1.1", "Content-Length: 18446744073709551615\r\n", Ok(RequestFraming::Length(u64::MAX))),
        ("1.1", "Content-Length: 18446744073709551616\r\n", Err("ambiguous_framing")),
        ("1.1", "Content-Length: 5\r\nContent-Length: 5\r\n", Err("ambiguous_framing")),
        ("1.1", "Content-Length: 5, 5\r\n", Err("ambiguous_framing")),
        ("1.1", "Content-Length:\r\n", Err("ambiguous_framing")),
        ("1.1", "Content-Length: -0\r\n", Err("ambiguous_framing")),
        ("1.1", "transfer-ENCODING: ChUnKeD\r\n", Ok(RequestFraming::Chunked)),
        ("1.0", "Transfer-Encoding: chunked\r\n", Err("ambiguous_framing")),
        ("1.1", "Transfer-Encoding: gzip\r\n", Err("transfer_coding")),
        ("1.1", "Transfer-Encoding:\r\n", Err("ambiguous_framing")),
        ("1.1", "Transfer-Encoding: gzip, chunked\r\n", Err("ambiguous_framing")),
        ("1.1", "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", Err("ambiguous_framing")),
        ("1.1", "Transfer_Encoding: chunked\r\nContent-Length: 5\r\n", Ok(RequestFraming::Length(5))),
        ("1.0", "", Err("ambiguous_framing")),
    ] {
        let framing = parse(&post(version, fields)).map(|head| head.framing);
        assert_eq!(framing, expected, "{version} {fields:?}");
    }
}

#[test]
fn every_field_line_is_one_field() {
    for fields in [
        "X-A : 1\r\n",
        " X-A: 1\r\n",
        "X-A: 1\r\n X-B: 2\r\n",
        "X-A\r\n",
        ": 1\r\n",
        "X-A: a\rb\r\n",
        "X-A: a\0b\r\n",
        "X(A): 1\r\n",
        "X-\u{e9}: 1\r\n",
        "X-A: 1\x7f\r\n",
    ] {
        assert_eq!(parse(&get(fields)).unwrap_err(), "malformed_head", "{fields:?}");
    }
    let odd = parse(&get("X-A:\r\nX-B:\t1 \t\r\nX-C: \u{e9}\r\nX-A: 2\r\n")).unwrap();
    let values: Vec<_> = odd.fields.values().map(http::HeaderValue::as_bytes).collect();
    assert_eq!(values, [&b""[..], b"2", b"1", "\u{e9}".as_bytes()]);
}

#[test]
fn host_occurs_once_and_the_target_overrides_it() {
    let two = get("Host: api.example\r\n");
    assert_eq!(parse(&two).unwrap_err(), "malformed_host");
    let none = "GET http://api.example/x HTTP/1.1\r\nA: b\r\n\r\n";
    assert_eq!(parse(none).unwrap_err(), "malformed_host");
    assert_eq!(
        forwarded("GET http://API.example:80?q HTTP/1.0\r\nA: b\r\nhOsT: evil\r\nHost-X: c\r\n\r\n"),
        "GET /?q HTTP/1.0\r\nHost: api.example\r\nA: b\r\nHost-X: c\r\n\r\n"
    );
    assert_eq!(
        forwarded("GET http://[::1]:8080/ HTTP/1.0\r\n\r\n"),
        "GET / HTTP/1.0\r\nHost: [::1]:8080\r\n\r\n"
    );
}

#[test]
fn only_valid_target_forms_are_accepted() {
    for (line, expected) in [
        // The tunnel or mount determines the origin.
        ("GET /x", Ok(())),
        ("GET /?\"", Ok(())),
        ("GET /<`>", Ok(())),
        ("GET /a b", Err("malformed_target")),
        ("GET /a  b", Err("malformed_head")),
        ("OPTIONS *", Ok(())),
        ("GET x", Err("malformed_target")),
        ("GET ftp://h/", Err("malformed_target")),
        ("GET http://", Err("malformed_target")),
        ("GET http://u@h/", Ok(())),
        ("GET http://u@v@h/", Err("malformed_target")),
        ("GET ws://h/", Ok(())),
        ("GET http://h:0/", Err("malformed_target")),
        ("GET http://h/?\"", Ok(())),
        ("GET http://h/a b c", Err("malformed_target")),
        ("GET http://h/?%22", Ok(())),
        ("GET HTTPS://h", Ok(())),
        ("CONNECT h:443", Ok(())),
        ("CONNECT h", Err("malformed_target")),
        ("CONNECT http://h:443/", Err("malformed_target")),
        ("CONNECT h:0", Err("malformed_target")),
        ("CONNECT h:65536", Err("malformed_target")),
        ("CONNECT u@h:1", Err("malformed_target")),
    ] {
        let got = parse(&format!("{line} HTTP/1.1\r\nHost: h\r\n\r\n")).map(|_| ());
        assert_eq!(got, expected, "{line}");
    }
}

#[test]
fn the_user_in_a_target_yields_to_the_clients_own_authorization() {
    let head = "GET http://ann:s3cret@api.example/x HTTP/1.1\r\nHost: api.example\r\n";
    assert_eq!(
        forwarded(&format!("{head}\r\n")),
        "GET /x HTTP/1.1\r\nHost: api.example\r\nauthorization: Basic YW5uOnMzY3JldA==\r\n\r\n"
    );
    let copied = "GET http://a@api.example/x HTTP/1.1\r\nHost: a@api.example\r\n\r\n";
    assert_eq!(
        forwarded(copied),
        "GET /x HTTP/1.1\r\nHost: api.example\r\nauthorization: Basic YTo=\r\n\r\n"
    );
    for host in ["a@b@api.example", "a@", "a/b@api.example"] {
        let head = format!("GET http://a@api.example/x HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let empty = host == "a@";
        assert_eq!(parse(&head).is_ok(), empty, "{host}");
    }
    assert_eq!(parse("GET /x HTTP/1.1\r\nHost: a@api.example\r\n\r\n").unwrap_err(), "malformed_host");
    assert_eq!(
        forwarded(&format!("{head}AUTHORIZATION: Bearer x\r\n\r\n")),
        "GET /x HTTP/1.1\r\nHost: api.example\r\nAUTHORIZATION: Bearer x\r\n\r\n"
    );
}

#[test]
fn unsupported_versions_and_garbage_get_different_errors() {
    for (version, expected) in [
        ("HTTP/2.0", "http_version"),
        ("HTTP/1.2", "http_version"),
        ("HTTP/0.9", "http_version"),
        ("http/1.1", "malformed_head"),
        ("HTTP/1.10", "malformed_head"),
        ("HTTP/x.y", "malformed_head"),
        (" HTTP/1.1", "malformed_head"),
        ("", "malformed_head"),
    ] {
        let head = format!("GET http://h/ {version}\r\nHost: h\r\n\r\n");
        assert_eq!(parse(&head).unwrap_err(), expected, "{version:?}");
    }
}

#[test]
fn fields_are_counted() {
    let many = |count: usize| get(&"A: b\r\n".repeat(count - 1));
    for count in [63, 64, 65, MAX_FIELDS] {
        assert!(parse(&many(count)).is_ok(), "{count}");
    }
    for count in [MAX_FIELDS + 1, 1000] {
        assert_eq!(parse(&many(count)).unwrap_err(), "too_many_fields", "{count}");
    }
}

/// Parses again the head that larder forwards, with its target made absolute.
fn reparse(head: &RequestHead, raw: &Bytes) -> RequestHead {
    let HeadTarget::Absolute(target) = &head.target else { panic!("a tunnel") };
    let text = serialized(head, target, raw);
    let line = text.iter().position(|byte| *byte == b'\n').unwrap();
    let version = if head.version == Version::HTTP_11 { "1.1" } else { "1.0" };
    let first = format!("{} {target} HTTP/{version}\r\n", head.method);
    let bytes = Bytes::from([first.as_bytes(), &text[line + 1..]].concat());
    // The forwarded head contains the target's authority once.
    let host = format!("Host: {}\r\n", target.authority());
    assert!(bytes[first.len()..].starts_with(host.as_bytes()));
    read(&bytes, MAX_FIELDS + 1).expect("a forwarded head is valid")
}

/// Fragments of heads, valid and invalid ones.
fn heads() -> impl Strategy<Value = Vec<u8>> {
    let line = prop::sample::select(vec![
        "GET http://h/ HTTP/1.1",
        "POST http://H:80/a?b HTTP/1.0",
        "GET http://[::1]:8080?q HTTP/1.1",
        "CONNECT h:443 HTTP/1.1",
        "GET /x HTTP/1.1",
        "GET  http://h/ HTTP/1.1",
        "\r\nGET http://h/ HTTP/1.1",
        "X http://h/%0d%0a HTTP/1.1",
    ]);
    let field = prop::sample::select(vec![
        "Host: h",
        "host:evil",
        "HOST : h",
        "A: b",
        "A:",
        "a:\tb ",
        " folded",
        "Content-Length: 5",
        "Content-Length: +5",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: x",
        "Connection: close, a",
        "Connection: host",
        "Hos",
        "Host-A: c",
        "Via: 1.1 x",
        "Expect: 100-continue",
        "X: \u{e9}",
        "hOSt:",
    ]);
    let end = prop::sample::select(vec!["\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", "\r\n\r\n", ""]);
    let fields = prop::collection::vec((field, end), 0..6);
    let noise = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (line, fields, noise, prop::bool::weighted(0.5)).prop_map(|(line, fields, noise, noisy)| {
        let mut text = format!("{line}\r\n").into_bytes();
        for (field, end) in fields {
            text.extend_from_slice(field.as_bytes());
            text.extend_from_slice(end.as_bytes());
        }
        text.extend_from_slice(b"\r\n");
        for (index, byte) in noise.into_iter().filter(|_| noisy) {
            let index = index.index(text.len());
            text[index] = byte;
        }
        text
    })
}

/// Parses like a connection: finds the end, then parses the bytes before it.
fn parse_head(bytes: &[u8]) -> Option<(RequestHead, Bytes)> {
    let end = HeadScanner::default().end(bytes).ok()??;
    let raw = Bytes::copy_from_slice(&bytes[..end]);
    let head = read(&raw, MAX_FIELDS).ok()?;
    Some((head, raw))
}

fn assert_roundtrip(bytes: &[u8]) {
    let Some((head, raw)) = parse_head(bytes) else { return };
    let HeadTarget::Absolute(target) = &head.target else { return };
    let again = reparse(&head, &raw);
    let HeadTarget::Absolute(same) = &again.target else { panic!("a tunnel") };
    assert_eq!(same, target);
    assert_eq!(
        (&again.method, again.version, &again.fields, again.framing, &again.upgrade),
        (&head.method, head.version, &head.fields, head.framing, &head.upgrade),
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_do_not_panic_and_accepted_heads_are_forwarded_unchanged(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        // Passed to `read` directly, whether or not they have an end.
        let _either = read(&Bytes::copy_from_slice(&bytes), MAX_FIELDS).is_ok();
        assert_roundtrip(&bytes);
    }

    #[test]
    fn accepted_near_heads_are_forwarded_unchanged(bytes in heads()) {
        assert_roundtrip(&bytes);
    }

    /// The end is found at the same place however the bytes are split, or they are rejected.
    #[test]
    fn the_end_does_not_depend_on_how_bytes_are_split(bytes in heads(), cut in any::<prop::sample::Index>()) {
        let cut = cut.index(bytes.len());
        let mut scanner = HeadScanner::default();
        let in_two = scanner.end(&bytes[..cut]).and_then(|first| match first {
            Some(end) => Ok(Some(end)),
            None => scanner.end(&bytes),
        });
        let at_once = HeadScanner::default().end(&bytes);
        // A later bare line feed may not have arrived yet when the end was found.
        if at_once.is_ok() {
            assert_eq!(in_two.map_err(|_| ()), at_once.map_err(|_| ()));
        }
    }
}

#[test]
fn the_generator_creates_heads_that_are_accepted() {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let accepted =
        (0..500).filter(|_| parse_head(&heads().new_tree(&mut runner).unwrap().current()).is_some()).count();
    assert!(accepted > 10, "{accepted} of 500");
}
