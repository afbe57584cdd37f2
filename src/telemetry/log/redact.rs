//! Removes secrets from a text before it is logged, whatever its source.
//!
//! Owns: the patterns of secrets in a line: user information, queries, credentials (ADM-07).
//! `semantics::redaction` detects other secrets in URLs. Never touches: the choice of the texts that are
//! logged. This is the second line of defence: larder's own events do not contain secrets.

use std::borrow::Cow;

use crate::semantics::redaction::{self, Redactor};
use crate::telemetry::log::escape::split_at_limit;

/// The start of the text without user information, queries, values after the name of a credential, and
/// secrets in URLs.
pub(super) fn redact(text: &str) -> Cow<'_, str> {
    let redactor = Redactor::default();
    match without_marked_secrets(text) {
        Cow::Borrowed(text) => redactor.text(text),
        Cow::Owned(text) => Cow::Owned(redactor.text(&text).into_owned()),
    }
}

/// The start of the text without the secrets that a preceding delimiter or name marks.
fn without_marked_secrets(text: &str) -> Cow<'_, str> {
    let (text, beyond) = split_at_limit(text, MAX_SEARCHED_BYTES);
    // Most values contain no secret, so the text is searched before it is copied.
    let Some(pattern) = first_pattern(text) else { return Cow::Borrowed(text) };
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut next = Some(pattern);
    while let Some((at, pattern)) = next {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        rest = match pattern {
            SecretPattern::Query => after_query(from, &mut out),
            SecretPattern::Scheme => after_user_info(from, beyond.is_empty(), &mut out),
            SecretPattern::Credential(name) => after_credential(from, name, &mut out),
        };
        next = first_pattern(rest);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Whether a field with this name contains a secret.
pub(super) fn is_secret(name: &str) -> bool {
    let contained = |secret| find_ignoring_case(name, secret).is_some();
    SECRET_NAMES.into_iter().any(contained) || redaction::is_secret_name(name)
}

/// A pattern that a secret may follow.
#[derive(Debug, Clone, Copy)]
enum SecretPattern {
    /// `?`
    Query,
    /// `://`
    Scheme,
    /// One of [`CREDENTIALS`].
    Credential(&'static str),
}

fn first_pattern(text: &str) -> Option<(usize, SecretPattern)> {
    let query = text.find('?').map(|at| (at, SecretPattern::Query));
    let scheme = text.find(SCHEME).map(|at| (at, SecretPattern::Scheme));
    let credential = CREDENTIALS
        .into_iter()
        .filter_map(|name| find_ignoring_case(text, name).map(|at| (at, SecretPattern::Credential(name))))
        .min_by_key(|(at, _)| *at);
    [query, scheme, credential].into_iter().flatten().min_by_key(|(at, _)| *at)
}

/// Replaces `?a=b&c=d` by `?…`. A question mark at the end of a word stays.
fn after_query<'a>(from: &'a str, out: &mut String) -> &'a str {
    let (mark, rest) = from.split_at(1);
    out.push_str(mark);
    let end = rest.find(ends_address).unwrap_or(rest.len());
    if end > 0 {
        out.push('…');
    }
    rest.split_at(end).1
}

/// Replaces `://user:secret@host` by `://…@host`. If the text continues beyond the searched part, the user
/// information may continue too, so the rest is removed.
fn after_user_info<'a>(from: &'a str, is_complete: bool, out: &mut String) -> &'a str {
    let (scheme, rest) = from.split_at(SCHEME.len());
    out.push_str(scheme);
    let end = rest.find(|c| ends_address(c) || "/?#".contains(c)).unwrap_or(rest.len());
    let (authority, _) = rest.split_at(end);
    if end == rest.len() && !is_complete {
        out.push('…');
        return "";
    }
    let Some(at) = authority.rfind('@') else { return rest };
    out.push('…');
    rest.split_at(at).1
}

/// Replaces `Cookie: a=b` by `Cookie: …` up to the end of the text, because the end of a credential is
/// unknown. A name without a value, as in the reason `set-cookie`, stays.
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

/// Maximum number of searched bytes; a log line contains fewer.
const MAX_SEARCHED_BYTES: usize = 4 * 1024;

const SCHEME: &str = "://";

/// Names of header fields and authentication schemes that a secret follows. They are ASCII, so that a match
/// starts and ends at a character boundary.
const CREDENTIALS: [&str; 7] =
    ["authorization", "cookie", "bearer ", "basic ", "api-key", "api_key", "x-auth-token"];

const SECRET_NAMES: [&str; 7] =
    ["authorization", "cookie", "token", "secret", "password", "api_key", "credential"];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn secrets_are_removed_and_the_surrounding_text_stays() {
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
    fn user_information_beyond_the_searched_part_is_removed() {
        let text = format!("http://S5{}@h", "x".repeat(MAX_SEARCHED_BYTES));
        assert_eq!(redact(&text), "http://…");
    }

    #[test]
    fn a_harmless_text_is_not_copied() {
        assert!(matches!(redact("larder; hit; ttl=30"), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn a_secret_is_removed_from_any_surrounding_text(
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
