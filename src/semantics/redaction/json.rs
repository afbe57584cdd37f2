//! JSON in a query parameter: `variables={"token":"…"}`, as GraphQL sends it with GET.
//!
//! Owns: finding the secret parts of such a text. Never touches: the rules for names and values (the caller
//! passes them).
//!
//! It builds no tree: the text is validated once, with bounded depth, and scanned once.

use std::borrow::Cow;
use std::ops::Range;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::IgnoredAny;

use crate::semantics::query;
use crate::semantics::redaction::{HIDDEN, replaced, shapes};

/// The secrets in a JSON text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum JsonSecrets {
    /// The values at these ranges, in order. Empty if there are no secrets.
    Values(Vec<Range<usize>>),
    /// The whole text.
    Whole,
}

/// Decodes a raw value to JSON, as many times as it is encoded. `None` if the text, after white space (RFC
/// 8259 §2) or a byte order mark, neither begins like an object or an array nor is a JSON string.
pub(super) fn text(value: &str) -> Option<Cow<'_, str>> {
    let may_be_json = value.starts_with(['{', '[', '"', '%', '+', BOM]);
    if !may_be_json && !value.starts_with(char::is_whitespace) {
        return None;
    }
    let mut text = query::decoded(value);
    for _ in 0..DECODINGS {
        let start = text.trim_start_matches(|c: char| c.is_whitespace() || c == BOM);
        if start.starts_with(['{', '[']) || is_string(start) {
            let skipped = text.len() - start.len();
            return Some(if skipped > 0 { Cow::Owned(start.to_owned()) } else { text });
        }
        if !start.starts_with('%') {
            return None;
        }
        text = Cow::Owned(query::decoded(start).into_owned());
    }
    None
}

fn is_string(text: &str) -> bool {
    text.starts_with('"') && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

const BOM: char = '\u{FEFF}';

/// Maximum number of further decodings of an encoded text.
const DECODINGS: u8 = 3;

/// Whether a raw value begins like a GraphQL document.
pub(super) fn begins_as_document(value: &str) -> bool {
    value.starts_with(['{', '%']) || GRAPHQL.into_iter().any(|word| value.starts_with(word))
}

/// Whether a GraphQL document has an argument with a secret's name and a literal value instead of a variable.
pub(super) fn is_secret_graphql(value: &str, is_name: impl Fn(&str) -> bool) -> bool {
    let begins_with = |word: &str| value.get(..word.len()).is_some_and(|start| start == word);
    if value.starts_with(|c: char| c.is_ascii_alphanumeric()) && !GRAPHQL.into_iter().any(begins_with) {
        return false;
    }
    let text = query::decoded(value);
    let text = text.trim_start();
    let is_name_char = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let Some(rest) = GRAPHQL.into_iter().find_map(|word| text.strip_prefix(word)) else {
        return false;
    };
    if rest.starts_with(is_name_char) || !rest.contains('{') {
        return false;
    }
    let mut colons = text.match_indices(':');
    colons.any(|(at, _)| {
        let (before, after) = text.split_at(at);
        let before = before.trim_end();
        let start = before.trim_end_matches(is_name_char);
        let name = before.strip_prefix(start).unwrap_or_default();
        let is_variable = start.ends_with('$') || after.trim_start_matches([':', ' ']).starts_with('$');
        !is_variable && is_name(name)
    })
}

/// Keywords at the start of a document. A document that begins with a brace is treated like JSON.
const GRAPHQL: [&str; 4] = ["query", "mutation", "subscription", "fragment"];

/// Finds the secrets: member values by their names, and strings by their own text. A text that is not valid
/// JSON is secret as a whole if one of its words is a secret's name or looks like a secret.
pub(super) fn secrets(
    text: &str,
    is_name: impl Fn(&str) -> bool,
    is_value: impl Fn(&str) -> bool,
) -> JsonSecrets {
    // serde's own limit on nesting (128) keeps the stack small.
    if serde_json::from_str::<IgnoredAny>(text).is_err() {
        let is_name_char = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let found = text.split(|c| !is_name_char(c)).any(|word| is_name(word) || is_value(word));
        return if found { JsonSecrets::Whole } else { JsonSecrets::Values(Vec::new()) };
    }
    let mut walk = JsonWalk { text, at: 0, within: Vec::new(), name_is_next: false };
    let mut found = Vec::new();
    // `{"name": "token", "value": "…"}`
    let (mut value_is_name, has_values) = (false, text.contains("\"val"));
    while let Some(string) = walk.string() {
        let string_value = walk.unescaped(&string);
        if !walk.name_is_next {
            if has_values && value_is_name && is_name(&string_value) {
                return JsonSecrets::Whole;
            }
            value_is_name = false;
            found.extend(is_value(&string_value).then_some(string));
            continue;
        }
        if shapes::is_secret(&string_value) {
            return JsonSecrets::Whole;
        }
        walk.name_is_next = false;
        value_is_name = matches!(string_value.as_str(), "name" | "key" | "field" | "header" | "parameter");
        if is_name(&string_value) && !(value_is_name && has_values) {
            found.push(walk.value());
        }
    }
    JsonSecrets::Values(found)
}

/// The raw value with the given parts of its decoded `text` hidden, encoded if `value` was encoded.
pub(super) fn masked(value: &str, text: &str, secrets: &[Range<usize>]) -> String {
    let out = replaced(text, secrets, &format!("\"{HIDDEN}\""));
    if value == text { out } else { utf8_percent_encode(&out, ENCODED).to_string() }
}

/// The characters to encode in an encoded value.
const ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'(').remove(b')');

/// A scanner over a valid JSON text.
struct JsonWalk<'t> {
    text: &'t str,
    at: usize,
    /// For each enclosing object or array, whether it is an object.
    within: Vec<bool>,
    /// Whether the next string is the name of a member.
    name_is_next: bool,
}

impl JsonWalk<'_> {
    /// The next string, including its quotes.
    fn string(&mut self) -> Option<Range<usize>> {
        while let Some(byte) = self.text.as_bytes().get(self.at) {
            match byte {
                b'"' => {
                    let start = self.at;
                    self.at = string_end(self.text.as_bytes(), start);
                    return Some(start..self.at);
                }
                b'{' | b'[' => {
                    self.within.push(*byte == b'{');
                    self.name_is_next = *byte == b'{';
                }
                b'}' | b']' => drop(self.within.pop()),
                b',' => self.name_is_next = self.within.last() == Some(&true),
                _ => {}
            }
            self.at += 1;
        }
        None
    }

    /// The value after the name that ends at this position.
    fn value(&mut self) -> Range<usize> {
        let bytes = self.text.as_bytes();
        let plain = |at: &usize| bytes.get(*at).is_some_and(|b| *b == b':' || b.is_ascii_whitespace());
        while plain(&self.at) {
            self.at += 1;
        }
        let (start, mut depth) = (self.at, 0_usize);
        while let Some(byte) = bytes.get(self.at) {
            match byte {
                b'"' => {
                    self.at = string_end(bytes, self.at);
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' if depth > 0 => depth -= 1,
                b',' | b'}' | b']' if depth == 0 => break,
                _ => {}
            }
            self.at += 1;
        }
        start..self.at
    }

    fn unescaped(&self, string: &Range<usize>) -> String {
        let quoted = self.text.get(string.clone()).unwrap_or_default();
        serde_json::from_str(quoted).unwrap_or_default()
    }
}

/// The index after the closing quote of the string that begins at `start`.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{JsonSecrets, secrets};

    fn found(text: &str) -> Option<Vec<&str>> {
        match secrets(text, |name| name == "token", |value| value == "S3CRET") {
            JsonSecrets::Values(places) => Some(places.into_iter().filter_map(|at| text.get(at)).collect()),
            JsonSecrets::Whole => None,
        }
    }

    #[test]
    fn values_are_found_by_their_names_and_by_their_own_text() {
        for (text, secret) in [
            (r#"{"token": "a", "b": "c"}"#, &[r#""a""#][..]),
            (r#"{"a": {"token": [1, {"b": "]"}], "c": 2}}"#, &[r#"[1, {"b": "]"}]"#]),
            (r#"[{"token":1},{"token":null},"token"]"#, &["1", "null"]),
            (r#"{"tok\u0065n":"a\"}","x":"S3CRET"}"#, &[r#""a\"}""#, r#""S3CRET""#]),
            (r#"{"token":{}}"#, &["{}"]),
            (r#"{"a":"token","b":["S3CRE\u0054"]}"#, &[r#""S3CRE\u0054""#]),
            (r#"{"a":1}"#, &[]),
            ("[", &[]),
        ] {
            assert_eq!(found(text).as_deref(), Some(secret), "{text}");
        }
        for text in [r#"{"token": "a""#, "[token", "{a: S3CRET}", r#"{"Q9x7kQ2pVd9sLm3RtYw8ZcNa5uF":1}"#] {
            assert_eq!(found(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_scanned_without_a_panic(text in "[\\[\\]{}:,\"\\\\a-c1 ä]{0,40}") {
            drop(found(&text));
            drop(found(&format!("{{\"token\":{text}}}")));
        }
    }
}
