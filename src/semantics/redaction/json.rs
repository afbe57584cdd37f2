//! JSON in a query parameter: `variables={"token":"…"}`, as GraphQL sends it with GET.
//!
//! Owns: which parts of such a text are secret. Never touches: which names and values are (handed in).
//!
//! Nothing is built of the text: it is checked once, bounded in depth, and walked once.

use std::borrow::Cow;
use std::ops::Range;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::IgnoredAny;

use crate::semantics::query;
use crate::semantics::redaction::{HIDDEN, shapes};

/// What is secret in a JSON text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum JsonSecrets {
    /// The values at these places, in their order; none where nothing is.
    Values(Vec<Range<usize>>),
    /// All of it.
    Whole,
}

/// A raw value as JSON, decoded as often as it is encoded; `None`: it does not begin as an object or a list
/// does behind white space (RFC 8259 §2) or a byte order mark, and is no string of JSON.
pub(super) fn text(value: &str) -> Option<Cow<'_, str>> {
    let begins = value.starts_with(['{', '[', '"', '%', '+', BOM]);
    if !begins && !value.starts_with(char::is_whitespace) {
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

/// How often an encoded text is decoded further.
const DECODINGS: u8 = 3;

/// Whether a raw value begins as a GraphQL document does.
pub(super) fn begins_as_document(value: &str) -> bool {
    value.starts_with(['{', '%']) || GRAPHQL.into_iter().any(|word| value.starts_with(word))
}

/// Whether a GraphQL document has an argument with such a name and a value of its own, no variable.
pub(super) fn is_secret_graphql(value: &str, is_name: impl Fn(&str) -> bool) -> bool {
    let begins = |word: &str| value.get(..word.len()).is_some_and(|start| start == word);
    if value.starts_with(|c: char| c.is_ascii_alphanumeric()) && !GRAPHQL.into_iter().any(begins) {
        return false;
    }
    let text = query::decoded(value);
    let text = text.trim_start();
    let of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let Some(rest) = GRAPHQL.into_iter().find_map(|word| text.strip_prefix(word)) else {
        return false;
    };
    if rest.starts_with(of_name) || !rest.contains('{') {
        return false;
    }
    let mut places = text.match_indices(':');
    places.any(|(at, _)| {
        let (before, after) = text.split_at(at);
        let before = before.trim_end();
        let start = before.trim_end_matches(of_name);
        let name = before.strip_prefix(start).unwrap_or_default();
        let is_variable =
            start.ends_with('$') || after.trim_start_matches([':', ' ']).starts_with('$');
        !is_variable && is_name(name)
    })
}

/// What documents begin with; those that begin with a brace are read as JSON is.
const GRAPHQL: [&str; 4] = ["query", "mutation", "subscription", "fragment"];

/// What is secret: the values of members by their names, and strings by themselves. A text that is no JSON
/// after all is secret as a whole where one of its words is such a name.
pub(super) fn secrets(
    text: &str,
    is_name: impl Fn(&str) -> bool,
    is_value: impl Fn(&str) -> bool,
) -> JsonSecrets {
    // serde's own bound on nesting (128) keeps the stack small.
    if serde_json::from_str::<IgnoredAny>(text).is_err() {
        let of_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let found = text.split(|c| !of_name(c)).any(|word| is_name(word) || is_value(word));
        return if found { JsonSecrets::Whole } else { JsonSecrets::Values(Vec::new()) };
    }
    let mut walk = JsonWalk { text, at: 0, within: Vec::new(), name_is_next: false };
    let mut found = Vec::new();
    // `{"name": "token", "value": "…"}`
    let (mut names_one, has_values) = (false, text.contains("\"val"));
    while let Some(string) = walk.string() {
        let said = walk.unescaped(&string);
        if !walk.name_is_next {
            if has_values && names_one && is_name(&said) {
                return JsonSecrets::Whole;
            }
            names_one = false;
            found.extend(is_value(&said).then_some(string));
            continue;
        }
        if shapes::is_secret(&said) {
            return JsonSecrets::Whole;
        }
        walk.name_is_next = false;
        names_one = matches!(said.as_str(), "name" | "key" | "field" | "header" | "parameter");
        if is_name(&said) && !(names_one && has_values) {
            found.push(walk.value());
        }
    }
    JsonSecrets::Values(found)
}

/// The raw value with these parts of its decoded `text` hidden, encoded as it was.
pub(super) fn masked(value: &str, text: &str, secrets: &[Range<usize>]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for secret in secrets {
        out.push_str(text.get(at..secret.start).unwrap_or_default());
        out.push('"');
        out.push_str(HIDDEN);
        out.push('"');
        at = secret.end;
    }
    out.push_str(text.get(at..).unwrap_or_default());
    if value == text { out } else { utf8_percent_encode(&out, ENCODED).to_string() }
}

/// What stands plain in an encoded value.
const ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'(').remove(b')');

/// A walk over a text that is JSON.
struct JsonWalk<'t> {
    text: &'t str,
    at: usize,
    /// For each object or list around this place, whether it is an object.
    within: Vec<bool>,
    /// Whether the next string is the name of a member.
    name_is_next: bool,
}

impl JsonWalk<'_> {
    /// The next string, quotes included.
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

    /// The value behind the name that ends here.
    fn value(&mut self) -> Range<usize> {
        let bytes = self.text.as_bytes();
        let plain =
            |at: &usize| bytes.get(*at).is_some_and(|b| *b == b':' || b.is_ascii_whitespace());
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

/// Behind the quote that ends the string beginning at `start`.
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
            JsonSecrets::Values(places) => {
                Some(places.into_iter().filter_map(|at| text.get(at)).collect())
            }
            JsonSecrets::Whole => None,
        }
    }

    #[test]
    fn values_are_found_by_their_names_and_by_themselves() {
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
        for text in
            [r#"{"token": "a""#, "[token", "{a: S3CRET}", r#"{"Q9x7kQ2pVd9sLm3RtYw8ZcNa5uF":1}"#]
        {
            assert_eq!(found(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_walked_without_a_panic(text in "[\\[\\]{}:,\"\\\\a-c1 ä]{0,40}") {
            drop(found(&text));
            drop(found(&format!("{{\"token\":{text}}}")));
        }
    }
}
