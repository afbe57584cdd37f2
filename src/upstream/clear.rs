//! Which heads of an origin are clear: what two readers could read in two ways is no answer.
//!
//! Owns: what is refused beyond what pingora's own reading refuses (RFC 9112 §5.2, §6.1).
//! Never touches: what a clear head means.

use http::Version;
use http::header::TRANSFER_ENCODING;
use pingora_http::ResponseHeader;

/// Whether the body's framing and every field's end are beyond doubt.
pub fn is_clear(head: &ResponseHeader) -> bool {
    is_framed(head) && !head.headers.values().any(|value| has_line_end(value.as_bytes()))
}

/// Whether the raw head of an answer names a length beside a transfer coding, which reading it has
/// resolved already (RFC 9112 §6.3).
pub fn is_framed_twice(raw: &[u8]) -> bool {
    let names = |wanted: &[u8]| {
        raw.split(|byte| *byte == b'\n').skip(1).any(|line| {
            let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
            name.trim_ascii().eq_ignore_ascii_case(wanted)
        })
    };
    names(b"transfer-encoding") && names(b"content-length")
}

/// Larder announces no coding (`TE`), so chunked alone may come, and to HTTP/1.1 alone.
fn is_framed(head: &ResponseHeader) -> bool {
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => {
            head.version == Version::HTTP_11
                && coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked")
        }
        (Some(_), Some(_)) => false,
    }
}

/// A folded value passed on as it came would be two lines to whoever does not fold.
fn has_line_end(value: &[u8]) -> bool {
    value.iter().any(|byte| matches!(byte, b'\r' | b'\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(version: Version, codings: &[&'static str]) -> ResponseHeader {
        let mut head = ResponseHeader::build(200, None).unwrap();
        head.set_version(version);
        for coding in codings {
            head.append_header(TRANSFER_ENCODING, *coding).unwrap();
        }
        head
    }

    #[test]
    fn chunked_alone_is_a_clear_transfer_coding() {
        for (version, codings, clear) in [
            (Version::HTTP_11, &[][..], true),
            (Version::HTTP_10, &[], true),
            (Version::HTTP_2, &[], true),
            (Version::HTTP_11, &["chunked"], true),
            (Version::HTTP_11, &["CHUNKED"], true),
            (Version::HTTP_10, &["chunked"], false),
            (Version::HTTP_11, &["gzip"], false),
            (Version::HTTP_11, &["gzip, chunked"], false),
            (Version::HTTP_11, &["xchunked"], false),
            (Version::HTTP_11, &[""], false),
            (Version::HTTP_11, &["chunked", "chunked"], false),
        ] {
            assert_eq!(is_clear(&head(version, codings)), clear, "{version:?} {codings:?}");
        }
    }

    #[test]
    fn a_length_beside_a_transfer_coding_is_seen_in_the_raw_head() {
        let both = "HTTP/1.1 200 OK\r\nContent-Length : 3\r\nTRANSFER-encoding: chunked\r\n\r\n";
        assert!(is_framed_twice(both.as_bytes()));
        for one in [
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: Content-Length: 3\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
        ] {
            assert!(!is_framed_twice(one.as_bytes()), "{one}");
        }
    }
}
