//! Detection of secrets in URLs, and their redaction.
//!
//! Owns: the common parser for secrets in paths, queries and texts with URLs, which keys, logs and listings
//! use. Some secrets have no recognisable name or shape; the operator configures those (`secret_query`,
//! `secret_path`). Never touches: request fields (`key::credential`); the hash of a secret (`key`).

mod capture;
mod json;
mod names;
mod random;
mod shapes;

use std::borrow::Cow;
use std::ops::Range;

use crate::semantics::query;
use crate::semantics::redaction::json::JsonSecrets;

pub use crate::semantics::redaction::capture::{CaptureError, SecretPath};

/// The replacement text for a secret.
pub const HIDDEN: &str = "(secret)";

/// The result for a JSON text without secrets.
const NO_SECRETS: JsonSecrets = JsonSecrets::Values(Vec::new());

/// Maximum nesting depth at which URLs inside parameters of URLs are parsed.
const DEPTH: u8 = 2;

/// Maximum number of times that a value is decoded to inspect it, because every URL inside a URL is encoded
/// once more. A value with more levels of encoding counts as secret.
const DECODINGS: u8 = 3;

/// Maximum length in bytes of a secret parameter's name that is shown.
const MAX_SHOWN_NAME: usize = 64;

/// Removes secrets from URLs. The default has only the built-in rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Redactor {
    params: Vec<String>,
    paths: Vec<SecretPath>,
}

impl Redactor {
    /// The built-in rules, the names of query parameters (decoded, in any letter case) and the paths given
    /// here.
    pub fn new(params: &[String], paths: &[SecretPath]) -> Self {
        // The list keeps names that are also built in, because only listed names are compared in any letter
        // case.
        let params = params.iter().map(|name| name.to_ascii_lowercase()).collect();
        Self { params, paths: paths.to_vec() }
    }

    /// Whether the value of a query parameter with this (decoded) name is secret.
    pub fn is_secret_name(&self, name: &str) -> bool {
        names::is_secret(name) || self.is_listed(name)
    }

    /// Whether a raw parameter (`a=b`, or several joined by `;`) contains a secret, by its name or by the
    /// shape of its value.
    pub fn is_secret_param(&self, param: &str) -> bool {
        self.is_secret_within(param, DEPTH)
    }

    /// Whether a raw parameter is a user's credential, which is the same in all calls of this user. Codes,
    /// signatures and page tokens are not credentials.
    pub fn is_credential_param(&self, param: &str) -> bool {
        query::names(param).any(|name| self.is_credential_name(&name))
    }

    /// The secret parts of a raw path, in order and without overlaps. Allocates nothing if there are none.
    pub fn secrets_of_path(&self, path: &str) -> Vec<Range<usize>> {
        self.secrets_of_path_within(path, DEPTH)
    }

    fn secrets_of_path_within(&self, path: &str, depth: u8) -> Vec<Range<usize>> {
        let (by_shape, urls) = shapes::may_contain(path);
        let mut found = if by_shape { shapes::secrets_of_path(path) } else { Vec::new() };
        let by_shape = found.len();
        if urls {
            found.extend(self.urls_in_path(path, depth));
        }
        found.extend(self.paths.iter().flat_map(|pattern| pattern.captured(path)));
        if found.len() > by_shape {
            found = merged(found);
        }
        found
    }

    /// The secrets of segments with a user's password, and of segments with an encoded URL or encoded
    /// parameters that contain a secret: `/proxy/https://u:p@a.test/`,
    /// `/proxy/https%3A%2F%2Fa.test%2F%3Ftoken%3Db`.
    fn urls_in_path(&self, path: &str, depth: u8) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        let mut start = 0;
        for segment in path.split('/') {
            let end = start + segment.len();
            let user = segment.rfind('@').filter(|at| {
                segment.get(..*at).is_some_and(|user| user.trim_start_matches(':').contains(':'))
            });
            let within = |depth| {
                segment.contains('%')
                    && (self.has_json_secret(segment, depth) || self.has_url_secret(segment, depth))
            };
            if let Some(at) = user {
                found.push(start..start + at);
            } else if depth.checked_sub(1).is_some_and(within) {
                found.push(start..end);
            }
            start = end + 1;
        }
        found
    }

    /// Redacts a path.
    pub fn path<'p>(&self, path: &'p str) -> Cow<'p, str> {
        masked(path, &self.secrets_of_path(path))
    }

    /// Redacts a raw parameter. At most the name of a secret parameter is shown, and the parts of a JSON
    /// value that are not secret.
    pub fn param<'p>(&self, param: &'p str) -> Cow<'p, str> {
        self.param_within(param, DEPTH)
    }

    /// Redacts a text: the secrets of the URLs in it, and the values after the name of a secret (`token=…`).
    pub fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.text_within(text, DEPTH)
    }

    /// Whether [`Redactor::text`] would hide a part of the text, or the whole text looks like a secret.
    pub fn has_secret(&self, text: &str) -> bool {
        shapes::is_secret(text) || matches!(self.text(text), Cow::Owned(_))
    }

    fn is_credential_name(&self, name: &str) -> bool {
        names::is_credential(name) || self.is_listed(name)
    }

    fn is_listed(&self, name: &str) -> bool {
        self.params.iter().any(|listed| listed.eq_ignore_ascii_case(name))
    }

    fn is_secret_within(&self, param: &str, depth: u8) -> bool {
        if let Some((name, value)) = query::simple(param) {
            return self.is_secret_name(name) || shapes::is_secret(name) || shapes::is_secret(value);
        }
        self.is_secret_in_pieces(param, depth)
    }

    fn is_secret_in_pieces(&self, param: &str, depth: u8) -> bool {
        query::pieces(param).any(|(name, value)| {
            let by_name = self.is_secret_name(&name) || shapes::is_secret(&name);
            by_name || value.is_some_and(|value| self.is_secret_value(value, depth))
        })
    }

    fn param_within<'p>(&self, param: &'p str, depth: u8) -> Cow<'p, str> {
        if !self.is_secret_within(param, depth) {
            return Cow::Borrowed(param);
        }
        let start = shown_start(param);
        let value = param.strip_prefix(start).filter(|_| start.ends_with('='));
        let json = value.filter(|_| !self.is_secret_name(start.trim_end_matches('=')));
        let json = json.and_then(|value| self.json_without_secrets(value, depth));
        Cow::Owned(format!("{start}{}", json.as_deref().unwrap_or(HIDDEN)))
    }

    /// Redacts a raw JSON value. `None` if the value is not JSON, or is secret as a whole.
    fn json_without_secrets(&self, value: &str, depth: u8) -> Option<String> {
        let text = json::text(value)?;
        match self.secrets_of_json(&text, depth) {
            JsonSecrets::Values(secrets) => Some(json::masked(value, &text, &secrets)),
            JsonSecrets::Whole => None,
        }
    }

    fn secrets_of_json(&self, text: &str, depth: u8) -> JsonSecrets {
        let depth = depth.checked_sub(1);
        let is_value = |text: &str| {
            let within = |depth| self.is_secret_value(text, depth);
            shapes::is_secret(text) || depth.is_some_and(within)
        };
        json::secrets(text, |name| self.is_secret_name(name), is_value)
    }

    fn has_json_secret(&self, value: &str, depth: u8) -> bool {
        json::text(value).is_some_and(|json| self.secrets_of_json(&json, depth) != NO_SECRETS)
    }

    fn is_secret_value(&self, value: &str, depth: u8) -> bool {
        if let Some(json) = json::text(value) {
            return self.secrets_of_json(&json, depth) != NO_SECRETS;
        }
        let in_graphql = || json::is_secret_graphql(value, |name| self.is_secret_name(name));
        if shapes::is_secret(value) || in_graphql() {
            return true;
        }
        depth.checked_sub(1).is_some_and(|depth| self.has_url_secret(value, depth))
    }

    /// Whether a raw value is a URL with a secret, or the parameters of one, as in
    /// `redirect_uri=https%3A%2F%2Fa%2Fb%3Ftoken%3Dc`. The value may be encoded several times. It also counts
    /// as secret if it has too many levels of encoding to inspect.
    fn has_url_secret(&self, value: &str, depth: u8) -> bool {
        if !value.contains(['?', '#', '=', '@', '%']) && !value.contains("://") {
            return false;
        }
        let mut text = Cow::Borrowed(value);
        for _ in 0..DECODINGS {
            let decoded = query::decoded(&text);
            if matches!(self.text_within(&decoded, depth), Cow::Owned(_)) {
                return true;
            }
            if decoded == text || !decoded.contains('%') {
                return false;
            }
            text = Cow::Owned(decoded.into_owned());
        }
        // Deeper levels are not inspected and therefore not shown.
        query::decoded(&text) != text
    }

    fn text_within<'t>(&self, text: &'t str, depth: u8) -> Cow<'t, str> {
        if !text.contains(['/', '?', '=']) {
            return Cow::Borrowed(text);
        }
        let mut out = String::new();
        let mut hidden = false;
        let mut rest = text;
        while !rest.is_empty() {
            let start = rest.find(|c| !ends_word(c)).unwrap_or(rest.len());
            let (between, word) = rest.split_at(start);
            let (word, after) = word.split_at(word_end(word));
            out.push_str(between);
            hidden |= self.push_word(word, &mut out, depth);
            rest = after;
        }
        if hidden { Cow::Owned(out) } else { Cow::Borrowed(text) }
    }

    /// Appends a word of a text, which may be a URL. Returns whether it hid a part.
    fn push_word(&self, word: &str, out: &mut String, depth: u8) -> bool {
        let (authority, rest) = split_origin(word);
        let user = authority.rfind('@').filter(|_| authority.contains("://"));
        let shown = user.and_then(|at| authority.split_at_checked(at));
        let mut hidden = shown.is_some();
        match shown {
            Some((user, host)) => {
                let scheme = user.find("://").map_or(0, |at| at + 3);
                out.push_str(user.get(..scheme).unwrap_or_default());
                out.push_str(HIDDEN);
                out.push_str(host);
            }
            None => out.push_str(authority),
        }
        let end = rest.find(['?', '#']).unwrap_or(rest.len());
        let (path, params) = rest.split_at(end);
        if path.contains('/') {
            let path = masked(path, &self.secrets_of_path_within(path, depth));
            hidden |= matches!(path, Cow::Owned(_));
            out.push_str(&path);
        } else {
            hidden |= self.push_params(path, out, depth);
        }
        hidden | self.push_params(params, out, depth)
    }

    /// Appends parameters with their separators. Returns whether it hid one.
    fn push_params(&self, params: &str, out: &mut String, depth: u8) -> bool {
        let mut hidden = false;
        for piece in params.split_inclusive(['?', '#', '&']) {
            let param = piece.trim_end_matches(['?', '#', '&']);
            let separators = piece.strip_prefix(param).unwrap_or_default();
            // A word without `=` is not a parameter: an entity tag is as long as a key.
            let shown =
                if param.contains('=') { self.param_within(param, depth) } else { Cow::Borrowed(param) };
            hidden |= matches!(shown, Cow::Owned(_));
            out.push_str(&shown);
            out.push_str(separators);
        }
        hidden
    }
}

/// Whether the built-in rules treat a value with this name as secret.
pub fn is_secret_name(name: &str) -> bool {
    names::is_secret(name)
}

/// Redacts the parts of paths in a text that have the shape of a secret.
pub fn paths_in(text: &str) -> Cow<'_, str> {
    if !text.contains('/') {
        return Cow::Borrowed(text);
    }
    let (mut found, mut start) = (Vec::new(), 0);
    for word in text.split_inclusive(|c: char| ends_word(c) || c == '?' || c == '#') {
        let path = word.trim_end_matches(|c: char| ends_word(c) || c == '?' || c == '#');
        if let Some(first) = path.find('/') {
            let (_, path) = path.split_at(first);
            let secrets = shapes::secrets_of_path(path).into_iter();
            let offset = start + first;
            found.extend(secrets.map(|secret| offset + secret.start..offset + secret.end));
        }
        start += word.len();
    }
    masked(text, &found)
}

/// The start of a secret parameter that may be shown: its name and `=`, unless the name itself may contain a
/// secret.
pub fn shown_start(param: &str) -> &str {
    let end = param.find('=').map_or(0, |at| at + 1);
    let (name, _) = param.split_at(end);
    // An encoded or unusually long name may contain a value.
    let unsafe_to_show = param.contains(';') || name.contains('%') || name.len() > MAX_SHOWN_NAME;
    if unsafe_to_show || shapes::is_secret(name.trim_end_matches('=')) { "" } else { name }
}

/// Replaces the given parts of a text by [`HIDDEN`].
fn masked<'t>(text: &'t str, secrets: &[Range<usize>]) -> Cow<'t, str> {
    if secrets.is_empty() { Cow::Borrowed(text) } else { Cow::Owned(replaced(text, secrets, HIDDEN)) }
}

/// Replaces the given parts of a text.
fn replaced(text: &str, secrets: &[Range<usize>], replacement: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for secret in secrets {
        out.push_str(text.get(at..secret.start).unwrap_or_default());
        out.push_str(replacement);
        at = secret.end;
    }
    out.push_str(text.get(at..).unwrap_or_default());
    out
}

/// Sorts the parts and merges those that overlap.
fn merged(mut parts: Vec<Range<usize>>) -> Vec<Range<usize>> {
    parts.sort_by_key(|part| part.start);
    let mut merged: Vec<Range<usize>> = Vec::with_capacity(parts.len());
    for part in parts {
        match merged.last_mut() {
            Some(last) if part.start < last.end => last.end = last.end.max(part.end),
            Some(_) | None => merged.push(part),
        }
    }
    merged
}

/// Splits a word into `scheme://authority` (or nothing) and the rest.
fn split_origin(word: &str) -> (&str, &str) {
    let Some(scheme) = word.find("://") else { return ("", word) };
    let (_, rest) = word.split_at(scheme + 3);
    let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    word.split_at(scheme + 3 + authority)
}

/// The end of the word at the start of a text. The word may contain quotes and commas inside a JSON
/// parameter.
fn word_end(text: &str) -> usize {
    let end = text.find(ends_word).unwrap_or(text.len());
    let word = text.get(..end).unwrap_or_default();
    let json = word.trim_end_matches(['{', '[', '+']);
    let is_json = json.len() < word.len() && json.ends_with('=');
    let opens = || text.get(end..).is_some_and(|rest| rest.starts_with('('));
    let is_document = || word.rsplit('=').next().is_some_and(json::begins_as_document);
    if !word.contains('?') || !(is_json || (opens() && is_document())) {
        return end;
    }
    text.find(|c: char| c.is_whitespace() || c.is_control()).unwrap_or(text.len())
}

fn ends_word(c: char) -> bool {
    c.is_whitespace() || c.is_control() || "\"'<>(),;".contains(c)
}

#[cfg(test)]
mod tests;
