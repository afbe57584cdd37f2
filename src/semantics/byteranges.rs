//! Several ranges of a body in one response: `multipart/byteranges` (RFC 9110 §14.6, §15.3.7.2).
//!
//! Owns: the headers between the parts. Never touches: the choice of ranges (`ranges`); the bytes of the
//! body, which it references without copying.

use bytes::Bytes;
use http::HeaderValue;

use crate::semantics::ranges::{ByteRange, content_range};

/// The body of a multipart 206, as a list of pieces, and its `Content-Type`. `parts` lie within `body`,
/// `media_type` is the type of the body, and `boundary` does not occur in it.
#[expect(clippy::missing_panics_doc, reason = "these literals and hex digits are a valid field value")]
pub fn assemble(
    body: &Bytes,
    parts: &[ByteRange],
    media_type: Option<&HeaderValue>,
    boundary: u128,
) -> (HeaderValue, Vec<Bytes>) {
    let boundary = format!("{boundary:032x}");
    let total = body.len() as u64;
    let mut pieces = Vec::with_capacity(parts.len() * 2 + 1);
    for part in parts {
        let mut head = Vec::with_capacity(160);
        // The line break belongs to the boundary. Before the first boundary it ends an empty preamble.
        head.extend_from_slice(b"\r\n--");
        head.extend_from_slice(boundary.as_bytes());
        if let Some(media_type) = media_type {
            head.extend_from_slice(b"\r\nContent-Type: ");
            head.extend_from_slice(media_type.as_bytes());
        }
        head.extend_from_slice(b"\r\nContent-Range: ");
        head.extend_from_slice(content_range(*part, total).as_bytes());
        head.extend_from_slice(b"\r\n\r\n");
        pieces.push(Bytes::from(head));
        pieces.push(slice(body, *part));
    }
    pieces.push(Bytes::from(format!("\r\n--{boundary}--\r\n")));
    let content_type = format!("multipart/byteranges; boundary={boundary}");
    (HeaderValue::try_from(content_type).expect("hex digits are a valid field value"), pieces)
}

/// The bytes of a part, without a copy. Returns fewer bytes if the body is shorter.
pub fn slice(body: &Bytes, part: ByteRange) -> Bytes {
    let index = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(body.len());
    let first = index(part.first);
    body.slice(first..index(part.last.saturating_add(1)).max(first))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderValue;
    use proptest::collection::vec;
    use proptest::prelude::{any, proptest};
    use proptest::sample::Index;

    use crate::semantics::byteranges::{assemble, slice};
    use crate::semantics::ranges::ByteRange;

    #[test]
    fn the_body_has_the_form_of_rfc_9110_section_15_3_7_2() {
        let body = Bytes::from_static(b"0123456789");
        let parts = [ByteRange { first: 5, last: 6 }, ByteRange { first: 0, last: 1 }];
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        let (content_type, pieces) = assemble(&body, &parts, Some(&plain), 10);
        let boundary = "0000000000000000000000000000000a";
        assert_eq!(content_type, format!("multipart/byteranges; boundary={boundary}"));
        let text = String::from_utf8(pieces.concat()).unwrap();
        let part = |range: &str, bytes: &str| {
            format!(
                "\r\n--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\n\
                 Content-Range: bytes {range}/10\r\n\r\n{bytes}"
            )
        };
        assert_eq!(text, part("5-6", "56") + &part("0-1", "01") + &format!("\r\n--{boundary}--\r\n"));
        let (_, untyped) = assemble(&body, &parts, None, 10);
        assert!(!String::from_utf8(untyped.concat()).unwrap().contains("Content-Type"));
    }

    #[test]
    fn the_parts_reference_the_body_without_copies() {
        let body = Bytes::from(vec![7; 1000]);
        let (_, pieces) = assemble(&body, &[ByteRange { first: 10, last: 19 }], None, 1);
        assert_eq!(pieces[1].as_ptr(), body[10..].as_ptr());
    }

    proptest! {
        #[test]
        fn the_parts_that_a_client_reads_equal_the_requested_slices(
            body in vec(any::<u8>(), 1..300),
            cuts in vec((any::<Index>(), any::<Index>()), 1..8),
            boundary in any::<u128>(),
        ) {
            let parts: Vec<ByteRange> = cuts
                .iter()
                .map(|(a, b)| (a.index(body.len()) as u64, b.index(body.len()) as u64))
                .map(|(a, b)| ByteRange { first: a.min(b), last: a.max(b) })
                .collect();
            let whole = Bytes::from(body.clone());
            let (content_type, pieces) = assemble(&whole, &parts, None, boundary);
            let boundary = content_type.to_str().unwrap().rsplit_once('=').unwrap().1.to_owned();
            let mut rest = pieces.concat();
            for part in &parts {
                let head = format!(
                    "\r\n--{boundary}\r\nContent-Range: bytes {}-{}/{}\r\n\r\n",
                    part.first, part.last, body.len()
                );
                assert!(rest.starts_with(head.as_bytes()));
                rest.drain(..head.len());
                let sent: Vec<u8> = rest.drain(..usize::try_from(part.length()).unwrap()).collect();
                let [first, last] = [part.first, part.last].map(|n| usize::try_from(n).unwrap());
                assert_eq!(sent, body[first..=last]);
            }
            assert_eq!(rest, format!("\r\n--{boundary}--\r\n").into_bytes());
        }

        #[test]
        fn a_slice_never_exceeds_its_body(body in vec(any::<u8>(), 0..50), a in any::<u64>(), n in any::<u64>()) {
            let part = ByteRange { first: a % 60, last: (a % 60).saturating_add(n) };
            let cut = slice(&Bytes::from(body.clone()), part);
            assert!(cut.len() as u64 <= part.length() && cut.len() <= body.len());
        }
    }
}
