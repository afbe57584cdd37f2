//! Different spellings of one path: those that are equivalent by RFC 3986 §6.2.2, and those that some origins
//! treat as equal.
//!
//! Owns: the normal form of equivalent spellings; the form for HTTP/2 of targets that it does not allow. Never
//! touches: dot segments (`dot_segments`); what an origin gets over HTTP/1, which is the target as received.

use std::borrow::Cow;

use crate::semantics::byte_search::{has_byte, has_pair};

/// Decodes unreserved characters and writes hexadecimal digits in capitals (RFC 3986 §6.2.2.1, §6.2.2.2):
/// `%7e` becomes `~`, `%2f` becomes `%2F`.
pub fn normalize(text: &str) -> Cow<'_, str> {
    if !has_byte(text, |byte| byte == b'%') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('%') {
        out.push_str(before);
        let Some((octet, after)) = octet(behind) else {
            out.push('%');
            rest = behind;
            continue;
        };
        if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
            out.push(char::from(octet));
        } else {
            let digits = behind.get(..2).unwrap_or_default();
            out.push('%');
            out.push_str(&digits.to_ascii_uppercase());
        }
        rest = after;
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Path and query in the form for HTTP/2: characters that no URL may contain, and that HTTP/2 does not allow,
/// are percent-encoded (RFC 3986 §2.1). In a path these are `<`, `>` and `` ` ``, in a query `<`, `>` and `"`;
/// some clients send them unencoded over HTTP/1 (`curl -g`). All other characters stay unchanged.
pub fn encode_invalid(path_and_query: &str) -> Cow<'_, str> {
    if !has_byte(path_and_query, |byte| matches!(byte, b'<' | b'>' | b'`' | b'"')) {
        return Cow::Borrowed(path_and_query);
    }
    let mut out = String::with_capacity(path_and_query.len() + 8);
    let mut in_query = false;
    for character in path_and_query.chars() {
        in_query |= character == '?';
        match character {
            '<' => out.push_str("%3C"),
            '>' => out.push_str("%3E"),
            '`' if !in_query => out.push_str("%60"),
            '"' if in_query => out.push_str("%22"),
            _ => out.push(character),
        }
    }
    Cow::Owned(out)
}

/// The path as a lenient origin may interpret it: decoded, with repeated slashes merged and without the text
/// after each `;`. `None` if it is unchanged. An encoded slash stays, because it is data inside a segment
/// (GitLab's ids).
pub fn lenient_form(path: &str) -> Option<String> {
    let has_special = has_byte(path, |byte| matches!(byte, b'%' | b';'));
    if !has_special && !has_pair(path, (b'/', b'/')) {
        return None;
    }
    let mut decoded = path.to_owned();
    // Each server decodes once, and some forward the path to another server.
    for _ in 0..2 {
        decoded = decoded_once(&decoded);
    }
    let segments = decoded.split('/').filter(|segment| !segment.is_empty());
    let bare = segments.map(|segment| segment.split_once(';').map_or(segment, |(bare, _)| bare));
    let mut read = String::with_capacity(path.len());
    for segment in bare {
        read.push('/');
        read.push_str(segment);
    }
    if decoded.ends_with('/') {
        read.push('/');
    }
    (read != path).then_some(read)
}

fn decoded_once(path: &str) -> String {
    let kept = |octet: u8| matches!(octet, b'/' | b'\\') || !octet.is_ascii();
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, behind)) = rest.split_once('%') {
        out.push_str(before);
        if let Some((octet, after)) = octet(behind).filter(|(octet, _)| !kept(*octet)) {
            out.push(char::from(octet));
            rest = after;
        } else {
            out.push('%');
            rest = behind;
        }
    }
    out.push_str(rest);
    out
}

/// The octet of the two hexadecimal digits at the beginning, and the rest of the text.
fn octet(text: &str) -> Option<(u8, &str)> {
    let (digits, after) = text.split_at_checked(2)?;
    let plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    plain.then(|| u8::from_str_radix(digits, 16).ok()).flatten().map(|octet| (octet, after))
}

#[cfg(test)]
mod tests {
    use http::Uri;
    use proptest::prelude::proptest;

    use super::{encode_invalid, lenient_form, normalize};

    #[test]
    fn only_characters_invalid_in_urls_are_encoded() {
        for (typed, sent) in [
            ("/a<b>`c?d", "/a%3Cb%3E%60c?d"),
            ("/\"{|}\\^", "/\"{|}\\^"),
            ("/?\"<x>\"?`{|}\\^", "/?%22%3Cx%3E%22?`{|}\\^"),
            ("/%3C%22", "/%3C%22"),
            ("/ü?ü", "/ü?ü"),
        ] {
            assert_eq!(encode_invalid(typed), sent, "{typed}");
        }
    }

    proptest! {
        #[test]
        fn any_text_without_control_characters_becomes_a_valid_uri(text in "/[!-~ü]{0,40}") {
            let sent = encode_invalid(&text);
            assert!(Uri::try_from(&*sent).is_ok(), "{text} {sent}");
            assert_eq!(encode_invalid(&sent), sent, "once is enough");
        }
    }

    #[test]
    fn equivalent_spellings_have_one_form_and_others_stay_distinct() {
        for (text, form) in [
            ("/~bob", "/~bob"),
            ("/%7Ebob", "/~bob"),
            ("/%7ebob", "/~bob"),
            ("/a%2db%5f%41%30", "/a-b_A0"),
            ("/a%2fb", "/a%2Fb"),
            ("/%40me", "/%40me"),
            ("/%zz%4", "/%zz%4"),
            ("/%25%37%65", "/%257e"),
            ("/%c3%a9", "/%C3%A9"),
        ] {
            assert_eq!(normalize(text), form, "{text}");
            assert_eq!(normalize(form), form, "once is enough");
        }
    }

    #[test]
    fn a_path_is_interpreted_as_lenient_origins_do() {
        for (path, read) in [
            ("/users/@me", None),
            ("/users/%40me", Some("/users/@me")),
            ("/users/%2540me", Some("/users/@me")),
            ("//users///@me", Some("/users/@me")),
            ("/users;v=1/@me;x", Some("/users/@me")),
            ("/users%3Bx/@me", Some("/users/@me")),
            ("/projects/a%2Fb/c", None),
            ("/a//", Some("/a/")),
            ("/%c3%a9", None),
        ] {
            assert_eq!(lenient_form(path).as_deref(), read, "{path}");
        }
    }
}
