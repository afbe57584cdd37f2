//! Takes secrets out of a text that is about to be logged, wherever it came from.
//!
//! Owns: what a secret looks like in a line: user information, queries, credentials (ADM-07). Other
//! secrets in URLs are told by `semantics::redaction`.
//! Never touches: which texts are logged. It is the second defence: larder's own events name no
//! secrets in the first place.

use std::borrow::Cow;

use crate::semantics::redaction::{self, Redactor};
use crate::telemetry::log::escape::start_of;

/// The start of the text without user information, queries, what follows a credential's name, and
/// secrets of URLs.
pub(super) fn redact(text: &str) -> Cow<'_, str> {
    let redactor = Redactor::default();
    match without_marked(text) {
        Cow::Borrowed(text) => redactor.text(text),
        Cow::Owned(text) => Cow::Owned(redactor.text(&text).into_owned()),
    }
}

/// The start of the text without what a sign or a name before it marks as secret.
fn without_marked(text: &str) -> Cow<'_, str> {
    let (text, beyond) = start_of(text, LONGEST);
    // Nearly every value is a short word: look before copying.
    let Some(suspect) = first_suspect(text) else { return Cow::Borrowed(text) };
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut next = Some(suspect);
    while let Some((at, suspect)) = next {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        rest = match suspect {
            SecretPattern::Query => after_query(from, &mut out),
            SecretPattern::Scheme => after_user_info(from, beyond.is_empty(), &mut out),
            SecretPattern::Credential(name) => after_credential(from, name, &mut out),
        };
        next = first_suspect(rest);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Whether a field of this name may only hold a secret.
pub(super) fn is_secret(name: &str) -> bool {
    let contained = |secret| find_ignoring_case(name, secret).is_some();
    SECRET_NAMES.into_iter().any(contained) || redaction::is_secret_name(name)
}

/// What may begin a secret.
#[derive(Debug, Clone, Copy)]
enum SecretPattern {
    /// `?`
    Query,
    /// `://`
    Scheme,
    /// One of [`CREDENTIALS`].
    Credential(&'static str),
}

fn first_suspect(text: &str) -> Option<(usize, SecretPattern)> {
    let query = text.find('?').map(|at| (at, SecretPattern::Query));
    let scheme = text.find(SCHEME).map(|at| (at, SecretPattern::Scheme));
    let credential = CREDENTIALS
        .into_iter()
        .filter_map(|name| {
            find_ignoring_case(text, name).map(|at| (at, SecretPattern::Credential(name)))
        })
        .min_by_key(|(at, _)| *at);
    [query, scheme, credential].into_iter().flatten().min_by_key(|(at, _)| *at)
}

/// `?a=b&c=d` becomes `?…`; a question mark that ends a word stays.
fn after_query<'a>(from: &'a str, out: &mut String) -> &'a str {
    let (mark, rest) = from.split_at(1);
    out.push_str(mark);
    let end = rest.find(ends_address).unwrap_or(rest.len());
    if end > 0 {
        out.push('…');
    }
    rest.split_at(end).1
}

/// `://user:secret@host` becomes `://…@host`. If the text goes on after what is seen of it, so may the
/// user information.
fn after_user_info<'a>(from: &'a str, whole: bool, out: &mut String) -> &'a str {
    let (scheme, rest) = from.split_at(SCHEME.len());
    out.push_str(scheme);
    let end = rest.find(|c| ends_address(c) || "/?#".contains(c)).unwrap_or(rest.len());
    let (authority, _) = rest.split_at(end);
    if end == rest.len() && !whole {
        out.push('…');
        return "";
    }
    let Some(at) = authority.rfind('@') else { return rest };
    out.push('…');
    rest.split_at(at).1
}

/// `Cookie: a=b` becomes `Cookie: …` up to the end: nobody knows where a credential ends. A name
/// that no value follows, as in the reason `set-cookie`, stays.
fn after_credential<'a>(from: &'a str, name: &str, out: &mut String) -> &'a str {
    let (name, rest) = from.split_at(name.len());
    out.push_str(name);
    let value = rest.trim_start_matches(['"', '\'', ' ', '\\']);
    if name.ends_with(' ') && !value.is_empty() {
        out.push('…');
        return "";
    }
    if value.starts_with([':', '=', ',']) {
        out.push_str(": …");
        return "";
    }
    rest
}

fn ends_address(c: char) -> bool {
    c.is_whitespace() || c.is_control() || "\"'<>)]}".contains(c)
}

fn find_ignoring_case(text: &str, name: &str) -> Option<usize> {
    let window = |bytes: &[u8]| bytes.eq_ignore_ascii_case(name.as_bytes());
    text.as_bytes().windows(name.len()).position(window)
}

/// Bytes that are looked at; a line shows fewer.
const LONGEST: usize = 4 * 1024;

const SCHEME: &str = "://";

/// Names of header fields, and of authentication schemes, that a secret follows. ASCII, so that a match
/// begins and ends at a character.
const CREDENTIALS: [&str; 7] =
    ["authorization", "cookie", "bearer ", "basic ", "api-key", "api_key", "x-auth-token"];

const SECRET_NAMES: [&str; 7] =
    ["authorization", "cookie", "token", "secret", "password", "api_key", "credential"];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn secrets_go_and_their_surroundings_stay() {
        let table = [
            ("/a?token=S3&api_key=S4", "/a?…"),
            ("GET http://u:S5@h.test/a?x=S3 done", "GET http://(secret)@h.test/a?… done"),
            ("http://h.test/a@b", "http://h.test/a@b"),
            ("Authorization: Bearer S1, and more S1", "Authorization: …"),
            ("{\"cookie\": \"S2\"}", "{\"cookie: …"),
            ("proxy-authorization=Basic S1", "proxy-authorization: …"),
            ("sent bearer S1", "sent bearer …"),
            ("set-cookie", "set-cookie"),
            ("really? yes", "really? yes"),
            ("uri-miss", "uri-miss"),
            ("to http://h.test/cb#access_token=S3", "to http://h.test/cb#access_token=(secret)"),
            ("with accessToken=S3 twice", "with accessToken=(secret) twice"),
            ("at /bot1:AAHdqTcvCH1vGW/getMe", "at /bot(secret)/getMe"),
            ("GET http://h.test/x/X7kQ2pVd9sLm3RtYw8ZcNa5u?a=b", "GET http://h.test/x/(secret)?…"),
            ("Sec-Token: X7kQ2pVd9sLm3RtYw8ZcNa5u", "Sec-Token: X7kQ2pVd9sLm3RtYw8ZcNa5u"),
        ];
        for (text, shown) in table {
            assert_eq!(redact(text), shown, "{text}");
        }
    }

    #[test]
    fn user_information_without_an_end_in_sight_is_not_shown() {
        let text = format!("http://S5{}@h", "x".repeat(LONGEST));
        assert_eq!(redact(&text), "http://…");
    }

    #[test]
    fn a_harmless_text_is_not_copied() {
        assert!(matches!(redact("larder; hit; ttl=30"), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn a_secret_never_survives_whatever_stands_around_it(
            before in "[ -~ü]{0,30}", after in "[ -~ü]{0,30}"
        ) {
            for carrier in ["/p?k=XSECRETX", "http://u:XSECRETX@h/", "Cookie: XSECRETX",
                            "authorization: Bearer XSECRETX"] {
                let text = format!("{before} {carrier} {after}");
                prop_assert!(!redact(&text).contains("XSECRETX"), "{}", redact(&text));
            }
        }
    }
}
