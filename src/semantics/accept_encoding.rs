//! `Accept-Encoding` reduced to the codings that larder distinguishes (RFC 9110 §12.5.3).
//!
//! Owns: one normal form of the accepted codings, so that differently written lists do not create separate
//! variants. Never touches: bodies, which pass through as received.

use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, HeaderValue};

use crate::semantics::field_list;

const BR: u8 = 1;
const GZIP: u8 = 2;
const ZSTD: u8 = 4;

/// The normal form of each subset; the index is the sum of the bits above.
const SPELLINGS: [&str; 8] =
    ["identity", "br", "gzip", "br, gzip", "zstd", "br, zstd", "gzip, zstd", "br, gzip, zstd"];

/// Replaces `Accept-Encoding` by the subset of br, gzip and zstd that it accepts, in normal form. The value
/// is `identity` if the field accepts none of them or is absent, because an absent field would let the origin
/// choose any coding. Preferences among the three are dropped, because the client accepts each of them.
pub fn reduce(headers: &mut HeaderMap) {
    let spelling = SPELLINGS[usize::from(accepted(headers))];
    if headers.get(ACCEPT_ENCODING).is_none_or(|value| value != spelling)
        || headers.get_all(ACCEPT_ENCODING).iter().nth(1).is_some()
    {
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(spelling));
    }
}

fn accepted(headers: &HeaderMap) -> u8 {
    let (mut listed, mut accepted, mut any) = (0, 0, false);
    for member in field_list::members(headers.get_all(ACCEPT_ENCODING)) {
        let (coding, accepts) = parse_member(member);
        let is = |known: &str| coding.eq_ignore_ascii_case(known.as_bytes());
        let bit = if is("gzip") || is("x-gzip") {
            GZIP
        } else if is("br") {
            BR
        } else if is("zstd") {
            ZSTD
        } else {
            any |= accepts && is("*");
            continue;
        };
        listed |= bit;
        if accepts {
            accepted |= bit;
        }
    }
    // `*` matches every coding that is not listed (§12.5.3).
    if any { accepted | (BR | GZIP | ZSTD) & !listed } else { accepted }
}

/// The coding, and whether its weight is above zero. An invalid weight counts as zero.
fn parse_member(member: &[u8]) -> (&[u8], bool) {
    let mut parts = member.split(|&b| b == b';').map(<[u8]>::trim_ascii);
    let coding = parts.next().unwrap_or_default();
    let accepts = parts.all(|parameter| match parameter {
        [b'q' | b'Q', b'=', weight @ ..] => is_above_zero(weight),
        _ => true,
    });
    (coding, accepts)
}

fn is_above_zero(weight: &[u8]) -> bool {
    weight.iter().all(|b| b.is_ascii_digit() || *b == b'.')
        && str::from_utf8(weight).is_ok_and(|w| w.parse::<f32>().is_ok_and(|w| w > 0.0))
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};
    use proptest::collection::vec;
    use proptest::prelude::{any, proptest};

    use crate::semantics::accept_encoding::{SPELLINGS, reduce};

    fn reduced(lines: &[&'static str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(ACCEPT_ENCODING, HeaderValue::from_static(line));
        }
        reduce(&mut headers);
        assert_eq!(headers.len(), 1);
        headers[ACCEPT_ENCODING].to_str().unwrap().to_owned()
    }

    #[test]
    fn equivalent_lists_get_the_same_normal_form() {
        for (lines, expected) in [
            (vec!["gzip, deflate, br, zstd"], "br, gzip, zstd"),
            (vec!["zstd;q=1.0, BR;q=0.9", "GZip ; q=0.1"], "br, gzip, zstd"),
            (vec!["*"], "br, gzip, zstd"),
            (vec!["gzip;q=0, *;q=0.5"], "br, zstd"),
            (vec!["*;q=0, br"], "br"),
            (vec!["gzip"], "gzip"),
            (vec!["x-gzip"], "gzip"),
            (vec!["gzip, gzip;q=0"], "gzip"),
            (vec!["deflate"], "identity"),
            (vec!["identity"], "identity"),
            (vec!["gzip;q=0"], "identity"),
            (vec!["gzip;q=0.000"], "identity"),
            (vec!["gzip;q=abc"], "identity"),
            (vec!["gzip;q="], "identity"),
            (vec![""], "identity"),
            (vec![], "identity"),
            (vec!["gzipped, brotli"], "identity"),
        ] {
            assert_eq!(reduced(&lines), expected, "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn reducing_twice_gives_the_same_result_as_reducing_once(
            lines in vec(vec(any::<u8>(), 0..30), 0..3),
            names in vec("(br|gzip|zstd|\\*|deflate)(;q=[01.]{0,4})?", 0..5),
        ) {
            let mut headers = HeaderMap::new();
            for line in lines.into_iter().chain([names.join(",").into_bytes()]) {
                if let Ok(value) = HeaderValue::from_bytes(&line) {
                    headers.append(ACCEPT_ENCODING, value);
                }
            }
            reduce(&mut headers);
            let once = headers.clone();
            reduce(&mut headers);
            assert_eq!(once, headers);
            assert!(SPELLINGS.contains(&headers[ACCEPT_ENCODING].to_str().unwrap()));
        }
    }
}
