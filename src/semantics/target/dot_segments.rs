//! Detection of dot segments in all spellings that some server accepts (RFC 3986 §5.2.4, §6.2.2.3), and of
//! slashes in spellings that have no legitimate use.
//!
//! Owns: distinguishing them from data: a plain `%2f` inside a segment (GitLab's ids, npm's scopes) is data,
//! and so is UTF-8. Never touches: the handling of such a path.

use crate::semantics::byte_search::has_byte;

/// Whether some server may resolve the path to a different one.
pub(super) fn is_ambiguous(path: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii() && byte != b'%';
    // Without a plain or encoded dot there is no dot segment.
    if !has_byte(path, |byte| byte == b'.' || !is_plain(byte)) {
        return false;
    }
    if !has_byte(path, |byte| !is_plain(byte)) {
        return has_dots(path.as_bytes());
    }
    let mut path = path.as_bytes().to_vec();
    // Each server decodes once, and some forward the path to another server.
    for _ in 0..DECODINGS {
        if has_dots(&path) {
            return true;
        }
        let Some(decoded) = decoded(&path).and_then(decode_leniently) else { return true };
        if decoded == path {
            return false;
        }
        path = decoded;
    }
    // A path that is still encoded after that is a deliberate disguise.
    true
}

/// Maximum number of times that a path is decoded.
const DECODINGS: usize = 5;

fn has_dots(path: &[u8]) -> bool {
    path.split(|byte| is_slash(*byte)).any(|segment| {
        let bare = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        // Some servers end a name at a NUL, or ignore blanks.
        let end = bare.iter().position(|byte| *byte == 0).unwrap_or(bare.len());
        let bare = bare.get(..end).unwrap_or_default().trim_ascii();
        matches!(bare, b"." | b"..")
    })
}

fn is_slash(byte: u8) -> bool {
    matches!(byte, b'/' | b'\\')
}

/// Decodes all octets of the path once: `%2e`, and `%u002e`, a form that some scripts use. `None` if a slash
/// is encoded in the latter form.
fn decoded(path: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, behind @ ..] = rest {
        if let [b'%', b'u' | b'U', a, b, c, d, left @ ..] = rest
            && let Some(octet) = hex(*a, *b).zip(hex(*c, *d)).and_then(octet_of_character)
        {
            if is_slash(octet) {
                return None;
            }
            out.push(octet);
            rest = left;
        } else if let [b'%', high, low, left @ ..] = rest
            && let Some(octet) = hex(*high, *low)
        {
            out.push(octet);
            rest = left;
        } else {
            out.push(*first);
            rest = behind;
        }
    }
    Some(out)
}

/// Maps a character to an octet: a character below U+0100 to its octet, and a character that servers convert
/// to a dot or slash, because of its width or as the nearest character of their character set, to that dot or
/// slash.
fn octet_of_character((high, low): (u8, u8)) -> Option<u8> {
    match (high, low) {
        (0x00, octet) => Some(octet),
        // Full-width forms.
        (0xff, 0x01..=0x5e) => Some(low + 0x20),
        (0x20, 0x24 | 0x25) | (0xfe, 0x52) => Some(b'.'),
        (0x20, 0x44) | (0x22, 0x15) => Some(b'/'),
        (0x22, 0x16) | (0xfe, 0x68) => Some(b'\\'),
        _ => None,
    }
}

/// Decodes the bytes like a lenient decoder, which accepts overlong UTF-8 and converts characters of other
/// widths. `None` if a slash is encoded in an overlong form, which has no legitimate use.
fn decode_leniently(bytes: Vec<u8>) -> Option<Vec<u8>> {
    if bytes.is_ascii() {
        return Some(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = &bytes[..];
    while let [first, behind @ ..] = rest {
        if let Some((octet, length)) = overlong(rest) {
            if is_slash(octet) {
                return None;
            }
            out.push(octet);
            rest = rest.get(length..).unwrap_or_default();
        } else if let Some((octet, length)) = lookalike(rest) {
            out.push(octet);
            rest = rest.get(length..).unwrap_or_default();
        } else {
            out.push(*first);
            rest = behind;
        }
    }
    Some(out)
}

/// The ASCII character in an overlong form of two to four bytes at the beginning, and the number of its
/// bytes.
fn overlong(bytes: &[u8]) -> Option<(u8, usize)> {
    let character = |before: &u8, last: &u8| (before & 1) << 6 | (last & 0x3f);
    match bytes {
        [before @ (0xc0 | 0xc1), last @ 0x80..=0xbf, ..] => Some((character(before, last), 2)),
        [0xe0, before @ (0x80 | 0x81), last @ 0x80..=0xbf, ..] => Some((character(before, last), 3)),
        [0xf0, 0x80, before @ (0x80 | 0x81), last @ 0x80..=0xbf, ..] => Some((character(before, last), 4)),
        _ => None,
    }
}

/// The dot or slash that some decoders read at the beginning of the bytes, and the number of its bytes.
fn lookalike(bytes: &[u8]) -> Option<(u8, usize)> {
    match bytes {
        // Some decoders do not check the leading bits of the second byte.
        [0xc0, second @ (b'.' | b'/'), ..] => Some((*second, 2)),
        [0xc1, 0x1c | b'\\', ..] => Some((b'\\', 2)),
        [0xef, 0xbc, 0x8e, ..] | [0xef, 0xb9, 0x92, ..] | [0xe2, 0x80, 0xa4 | 0xa5, ..] => Some((b'.', 3)),
        [0xef, 0xbc, 0x8f, ..] => Some((b'/', 3)),
        [0xef, 0xbc, 0xbc, ..] | [0xef, 0xb9, 0xa8, ..] => Some((b'\\', 3)),
        _ => None,
    }
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::is_ambiguous;

    #[test]
    fn dot_segments_are_found_in_every_spelling_and_data_is_not() {
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
            assert!(is_ambiguous(path), "{path}");
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
            assert!(!is_ambiguous(path), "{path}");
        }
    }

    #[test]
    fn disguised_dots_and_slashes_are_found_and_text_is_not() {
        for path in [
            "/public/%c0%ae/private",
            "/public/..%c1%9cprivate",
            "/public/x%c0%afprivate",
            "/public/%e0%80%ae%e0%80%ae/private",
            "/public/..%e0%80%afprivate",
            "/public/x%e0%81%9cprivate",
            "/public/%f0%80%80%ae./private",
            "/public/%c0%2e%c0%2e/private",
            "/public/..%c1%5cprivate",
            "/public/%25c0%25ae%25c0%25ae/private",
            "/public/%c0%a5%32%65%c0%a52e/private",
            "/public/..%c0%bbx/private",
            "/public/%uff0e%uff0e/private",
            "/public/%uFF0E./private",
            "/public/..%uff0fprivate",
            "/public/..%u2215private",
            "/public/x%u002fprivate",
            "/public/%u2025/private",
            "/public/..%u005cprivate",
            "/public/%ef%bc%8e%ef%bc%8e/private",
            "/public/．．/private",
            "/public/..%ef%bc%8fprivate",
            "/public/‥/private",
        ] {
            assert!(is_ambiguous(path), "{path}");
        }
        for path in [
            "/public/%c3%a9t%c3%a9",
            "/public/été.html",
            "/public/voil%e0/x",
            "/public/%c0%20propos",
            "/public/%c0%b4%c0%ee",
            "/public/%e0%b8%81",
            "/public/%f0%9f%98%80.png",
            "/public/%u4e2d%u6587",
            "/public/file%u002etxt",
            "/public/Fate%ef%bc%8fstay",
            "/public/Fate／stay．x",
            "/public/%u00e9t%u00e9",
            "/public/%u",
            "/public/%u00",
            "/public/%e0",
            "/public/%c0",
        ] {
            assert!(!is_ambiguous(path), "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_panics(path in any::<String>()) {
            let _either = is_ambiguous(&path);
        }
    }
}
