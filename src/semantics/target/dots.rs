//! Dot segments in all the spellings that some server reads as one (RFC 3986 §5.2.4, §6.2.2.3).
//!
//! Owns: telling them from data: `%2f` alone inside a segment (GitLab's ids, npm's scopes) is data.
//! Never touches: what becomes of such a path.

/// Whether some server may read the path as another than it seems.
pub(super) fn leads_elsewhere(path: &str) -> bool {
    // Without a dot, plain or encoded, there is none.
    if !path.contains('.') && !path.contains('%') {
        return false;
    }
    let mut path = path.as_bytes().to_vec();
    // Each server decodes once, and some pass it on to another.
    for _ in 0..DECODINGS {
        if has_dots(&path) {
            return true;
        }
        let decoded = decoded(&path);
        if decoded == path {
            return false;
        }
        path = decoded;
    }
    // What is still encoded then is meant to deceive.
    true
}

/// How often a path is decoded.
const DECODINGS: usize = 5;

fn has_dots(path: &[u8]) -> bool {
    path.split(|byte| matches!(byte, b'/' | b'\\')).any(|segment| {
        let bare = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        // Some servers end a name at a NUL, or leave blanks out.
        let end = bare.iter().position(|byte| *byte == 0).unwrap_or(bare.len());
        let bare = bare.get(..end).unwrap_or_default().trim_ascii();
        matches!(bare, b"." | b"..")
    })
}

/// The path with all its octets decoded once: `%2e`, `%u002e`, and the overlong UTF-8 of a dot or a slash.
fn decoded(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, behind @ ..] = rest {
        // `%u002e` is how some scripts write it.
        let digits = match (first, behind) {
            (b'%', [b'u' | b'U', b'0', b'0', digits @ ..] | digits) => digits,
            _ => &[],
        };
        let octet = match digits {
            [high, low, ..] => hex(*high, *low),
            [] | [_] => None,
        };
        out.push(octet.unwrap_or(*first));
        rest = if octet.is_some() { digits.get(2..).unwrap_or_default() } else { behind };
    }
    overlong(out)
}

/// `C0 AE` is a dot and `C0 AF` a slash to a lax reader.
fn overlong(bytes: Vec<u8>) -> Vec<u8> {
    if !bytes.contains(&0xc0) {
        return bytes;
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = &bytes[..];
    while let [first, behind @ ..] = rest {
        rest = behind;
        match (first, behind) {
            (0xc0, [second @ 0x80..=0xbf, left @ ..]) => {
                out.push(second & 0x3f);
                rest = left;
            }
            _ => out.push(*first),
        }
    }
    out
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::leads_elsewhere;

    #[test]
    fn dot_segments_are_seen_in_every_spelling_and_data_is_not_taken_for_them() {
        for path in [
            "/public/../private",
            "/public/./x",
            "/public/..",
            "/.",
            "/public/%2e%2e/private",
            "/public/.%2E/private",
            "/public/..;/private",
            "/public/..;a=b/private",
            "/public/%2e%2e%3b/private",
            "/public/..%2fprivate",
            "/public/..%5cprivate",
            "/public/..\\private",
            "/public/x%2f..%2f../private",
            "/public/x%2f..",
            "/public/%2e/../../private",
            "/public/%252e%252e/private",
            "/public/..%252fprivate",
            "/public/%25%32%65%25%32%65/private",
            "/public/%%32%65%%32%65/private",
            "/public/..%%32%66private",
            "/public/%25252e%25252e/private",
            "/public/..%00/private",
            "/public/..%09/private",
            "/public/..%20/private",
            "/public/%u002e%u002e/private",
            "/public/%c0%ae%c0%ae/private",
            "/public/..%c0%afprivate",
            "/public/%25252525252525252e./private",
        ] {
            assert!(leads_elsewhere(path), "{path}");
        }
        for path in [
            "/",
            "/public/group%2fproject",
            "/public/v1..v2",
            "/public/..hidden/x",
            "/public/x../y",
            "/public/...",
            "/public/@scope%2Fname",
            "/public/a.b",
            "/public/100%",
            "/public/100%25%20off",
            "/public/%E2%82%AC",
            "/public/%zz",
            "/public/a;b",
        ] {
            assert!(!leads_elsewhere(path), "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_panics(path in any::<String>()) {
            let _either = leads_elsewhere(&path);
        }
    }
}
