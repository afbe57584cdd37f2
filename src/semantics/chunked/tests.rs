//! Table tests and property tests of the chunked coding.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use proptest::prelude::{any, proptest};

use super::{ChunkEvent, Decoder, MalformedChunk, State, Strictness};

/// Decodes the whole body and its trailers. The trailers are `None` if the body has not ended.
fn decode(
    strictness: Strictness,
    input: &[u8],
    step: usize,
) -> Result<(Vec<u8>, Option<HeaderMap>), MalformedChunk> {
    let mut decoder = Decoder::new(strictness);
    let (mut body, mut buffer) = (Vec::new(), BytesMut::new());
    for part in input.chunks(step.max(1)) {
        buffer.extend_from_slice(part);
        while let Some(piece) = decoder.decode(&mut buffer)? {
            match piece {
                ChunkEvent::Data(data) => body.extend_from_slice(&data),
                ChunkEvent::End(trailers) => return Ok((body, Some(trailers))),
            }
        }
    }
    Ok((body, None))
}

fn is_accepted(strictness: Strictness, input: &str) -> bool {
    let whole = decode(strictness, input.as_bytes(), usize::MAX);
    assert_eq!(whole, decode(strictness, input.as_bytes(), 1), "{input:?} in single bytes");
    whole.is_ok_and(|(_, trailers)| trailers.is_some())
}

#[test]
fn ambiguous_encodings_are_rejected_more_strictly_in_requests() {
    for (input, request, response) in [
        ("5\r\nhello\r\n0\r\n\r\n", true, true),
        ("05\r\nhello\r\n00\r\n\r\n", true, true),
        ("a\r\n0123456789\r\n0\r\n\r\n", true, true),
        ("5;a=b\r\nhello\r\n0;a\r\n\r\n", true, true),
        ("5 ; a = \"b;\\\"c\"\r\nhello\r\n0\r\n\r\n", true, true),
        // Blanks after a size: ambiguous in a request, but some servers send them.
        ("5 \r\nhello\r\n0\r\n\r\n", false, true),
        ("5;\r\nhello\r\n0\r\n\r\n", false, true),
        ("5;a=\"x\r\nhello\r\n0\r\n\r\n", false, true),
        ("\r\nhello\r\n0\r\n\r\n", false, false),
        ("5\r\nhello\r\n\r\n\r\n", false, false),
        ("5\r\nhello\r\n;a=b\r\n\r\n", false, false),
        ("5\r\nhello\r\n\n\n", false, false),
        ("5\nhello\r\n0\r\n\r\n", false, false),
        ("5\r\nhello\n0\r\n\r\n", false, false),
        ("2;\nxx\r\nhello\r\n0\r\n\r\n", false, false),
        ("5;a=\u{b}\r\nhello\r\n0\r\n\r\n", false, false),
        ("5;a\rb\r\nhello\r\n0\r\n\r\n", false, false),
        ("5 5\r\nhello\r\n0\r\n\r\n", false, false),
        ("0x5\r\nhello\r\n0\r\n\r\n", false, false),
        ("-5\r\nhello\r\n0\r\n\r\n", false, false),
        ("+5\r\nhello\r\n0\r\n\r\n", false, false),
        (" 5\r\nhello\r\n0\r\n\r\n", false, false),
        ("5\r\nhelloXX0\r\n\r\n", false, false),
        ("FFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n", false, false),
        ("0\r\nX-A: 1\r\n\r\n", true, true),
        ("0\r\nno field\r\n\r\n", false, false),
        ("0\r\n: no name\r\n\r\n", false, false),
        ("0\r\nX-A : 1\r\n\r\n", false, false),
        ("0\r\nX-A: 1\nX-B: 2\r\n\r\n", false, false),
    ] {
        assert_eq!(is_accepted(Strictness::Request, input), request, "request {input:?}");
        assert_eq!(is_accepted(Strictness::Response, input), response, "response {input:?}");
    }
}

#[test]
fn a_body_without_its_last_chunk_has_not_ended() {
    for input in ["", "5", "5\r\n", "5\r\nhel", "5\r\nhello\r\n", "5\r\nhello\r\n0\r\n", "0\r\nA: 1\r\n"] {
        let read = decode(Strictness::Response, input.as_bytes(), 1).unwrap();
        assert_eq!(read.1, None, "{input:?}");
    }
}

#[test]
fn trailers_are_read_and_bounded() {
    let input = "5\r\nhello\r\n0\r\nX-Sum: 1\r\nx-sum:2 \r\n\r\nnext";
    let (body, trailers) = decode(Strictness::Response, input.as_bytes(), 3).unwrap();
    assert_eq!(body, b"hello");
    let sums: Vec<_> = trailers.as_ref().unwrap().get_all("x-sum").iter().collect();
    assert_eq!(sums, ["1", "2"]);
    let many = format!("0\r\n{}\r\n", "X: 1\r\n".repeat(101));
    assert!(!is_accepted(Strictness::Response, &many));
    let long = format!("0\r\nX: {}\r\n\r\n", "a".repeat(17_000));
    assert!(!is_accepted(Strictness::Response, &long));
}

#[test]
fn a_line_without_an_end_is_rejected_at_the_length_limit() {
    let mut decoder = Decoder::new(Strictness::Response);
    let mut buffer = BytesMut::from(format!("5;{}", "a".repeat(5000)).as_bytes());
    assert_eq!(decoder.decode(&mut buffer), Err(MalformedChunk));
}

#[test]
fn nothing_is_consumed_after_the_end() {
    let mut decoder = Decoder::new(Strictness::Request);
    let mut buffer = BytesMut::from(&b"0\r\n\r\nGET / HTTP/1.1\r\n"[..]);
    assert_eq!(decoder.decode(&mut buffer), Ok(Some(ChunkEvent::End(HeaderMap::new()))));
    assert_eq!(decoder.decode(&mut buffer), Ok(None));
    assert_eq!(buffer, Bytes::from_static(b"GET / HTTP/1.1\r\n"));
    assert!(decoder.state == State::Ended);
}

proptest! {
    #[test]
    fn an_encoded_body_is_decoded_in_pieces_of_any_size(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..200), 0..10),
        step in 1_usize..50,
    ) {
        let mut input = Vec::new();
        for chunk in &chunks {
            input.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            input.extend_from_slice(chunk);
            input.extend_from_slice(b"\r\n");
        }
        input.extend_from_slice(b"0\r\n\r\n");
        for strictness in [Strictness::Request, Strictness::Response] {
            let (body, end) = decode(strictness, &input, step).unwrap();
            assert_eq!(body, chunks.concat());
            assert!(end.is_some());
        }
    }

    #[test]
    fn no_input_panics(input in any::<Vec<u8>>(), step in 1_usize..20) {
        let _result = decode(Strictness::Response, &input, step).is_ok();
        let _result = decode(Strictness::Request, &input, step).is_ok();
    }
}
