//! Which parts of a URL are secret, and the URL without them.
//!
//! Owns: the one reading of a path, a query and a text that holds URLs, for keys, logs and listings
//! alike. Some secrets have no telltale: the operator names them (`secret_query`, `secret_path`).
//! Never touches: request fields (`key::credential`); the hash of a secret (`key`).

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

/// The text in place of a secret.
pub const HIDDEN: &str = "(secret)";

/// A JSON text in which nothing is secret.
const NOTHING: JsonSecrets = JsonSecrets::Values(Vec::new());

/// How deep a URL within a parameter of a URL is looked into.
const DEPTH: u8 = 2;

/// How often a value is decoded to look into it: every URL within a URL is encoded once more. What is encoded
/// more often counts as secret.
const DECODINGS: u8 = 3;

/// Bytes of the longest name of a secret parameter that is shown.
const LONGEST_NAME: usize = 64;

/// Takes secrets out of URLs. The default knows what is built in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Redactor {
    params: Vec<String>,
    paths: Vec<SecretPath>,
}

impl Redactor {
    /// The built-in rules, these names of query parameters (decoded, in whatever case) and these paths.
    pub fn new(params: &[String], paths: &[SecretPath]) -> Self {
        // Also those that are built in: only what is listed is compared in whatever case.
        let params = params.iter().map(|name| name.to_ascii_lowercase()).collect();
        Self { params, paths: paths.to_vec() }
    }

    /// Whether the value of a query parameter of this (decoded) name is secret.
    pub fn is_secret_name(&self, name: &str) -> bool {
        names::is_secret(name) || self.is_listed(name)
    }

    /// Whether a raw parameter (`a=b`, or several joined by `;`) holds a secret: by a name, or because
    /// a value looks like one.
    pub fn is_secret_param(&self, param: &str) -> bool {
        self.is_secret_within(param, DEPTH)
    }

    /// Whether a raw parameter is a user's own credential, the same in all of this user's calls: no
    /// code, signature or page token.
    pub fn is_credential_param(&self, param: &str) -> bool {
        query::names(param).any(|name| self.is_credential_name(&name))
    }

    /// The secret parts of a raw path, in its order, apart from each other. Allocates nothing where
    /// there are none.
    pub fn secrets_of_path(&self, path: &str) -> Vec<Range<usize>> {
        self.secrets_of_path_within(path, DEPTH)
    }

    fn secrets_of_path_within(&self, path: &str, depth: u8) -> Vec<Range<usize>> {
        let (by_shape, urls) = shapes::may_hold(path);
        let mut found = if by_shape { shapes::secrets_of_path(path) } else { Vec::new() };
        let by_shape = found.len();
        if urls {
            found.extend(self.urls_in_path(path, depth));
        }
        found.extend(self.paths.iter().flat_map(|pattern| pattern.captured(path)));
        if found.len() > by_shape {
            found = joined(found);
        }
        found
    }

    /// Segments with a user's password, and such as hold, encoded, a URL or parameters with a secret:
    /// `/proxy/https://u:p@a.test/`, `/proxy/https%3A%2F%2Fa.test%2F%3Ftoken%3Db`.
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
                    && (self.holds_json_secret(segment, depth)
                        || self.holds_url_secret(segment, depth))
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

    /// The path without its secrets.
    pub fn path<'p>(&self, path: &'p str) -> Cow<'p, str> {
        masked(path, &self.secrets_of_path(path))
    }

    /// A raw parameter as it may be shown: of a secret one the name at most, and of JSON what is not secret in
    /// it.
    pub fn param<'p>(&self, param: &'p str) -> Cow<'p, str> {
        self.param_within(param, DEPTH)
    }

    /// A text without the secrets of the URLs in it, and without values that a secret's name precedes
    /// (`token=…`).
    pub fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.text_within(text, DEPTH)
    }

    /// Whether there is anything in the text that [`Redactor::text`] hides, or all of it looks like a
    /// secret.
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
            return self.is_secret_name(name)
                || shapes::is_secret(name)
                || shapes::is_secret(value);
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

    /// A raw value that is JSON without what is secret in it; `None`: it is none, or secret as a whole.
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

    fn holds_json_secret(&self, value: &str, depth: u8) -> bool {
        json::text(value).is_some_and(|json| self.secrets_of_json(&json, depth) != NOTHING)
    }

    fn is_secret_value(&self, value: &str, depth: u8) -> bool {
        if let Some(json) = json::text(value) {
            return self.secrets_of_json(&json, depth) != NOTHING;
        }
        let in_graphql = || json::is_secret_graphql(value, |name| self.is_secret_name(name));
        if shapes::is_secret(value) || in_graphql() {
            return true;
        }
        depth.checked_sub(1).is_some_and(|depth| self.holds_url_secret(value, depth))
    }

    /// Whether a raw value is a URL, or the parameters of one, with a secret in it, as in
    /// `redirect_uri=https%3A%2F%2Fa%2Fb%3Ftoken%3Dc`: also where it is encoded more than once, or too often to
    /// be looked into.
    fn holds_url_secret(&self, value: &str, depth: u8) -> bool {
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
        // What lies deeper is not looked at, and not shown.
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

    /// Appends a word of a text, which may be a URL; says whether anything was hidden.
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

    /// Appends parameters with the signs before and between them; says whether one was hidden.
    fn push_params(&self, params: &str, out: &mut String, depth: u8) -> bool {
        let mut hidden = false;
        for piece in params.split_inclusive(['?', '#', '&']) {
            let param = piece.trim_end_matches(['?', '#', '&']);
            let sign = piece.strip_prefix(param).unwrap_or_default();
            // A word alone is no parameter: an entity tag is as long as a key.
            let shown = if param.contains('=') {
                self.param_within(param, depth)
            } else {
                Cow::Borrowed(param)
            };
            hidden |= matches!(shown, Cow::Owned(_));
            out.push_str(&shown);
            out.push_str(sign);
        }
        hidden
    }
}

/// Whether a value under this name is secret by what is built in.
pub fn is_secret_name(name: &str) -> bool {
    names::is_secret(name)
}

/// A text without what looks like a secret in the paths in it.
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

/// The start of a secret parameter that may be shown: its name and `=`, where that is all that stands before the
/// secret.
pub fn shown_start(param: &str) -> &str {
    let end = param.find('=').map_or(0, |at| at + 1);
    let (name, _) = param.split_at(end);
    // An encoded name may hold a value, an unusually long one too.
    let odd = param.contains(';') || name.contains('%') || name.len() > LONGEST_NAME;
    if odd || shapes::is_secret(name.trim_end_matches('=')) { "" } else { name }
}

/// A text without these parts of it.
fn masked<'t>(text: &'t str, secrets: &[Range<usize>]) -> Cow<'t, str> {
    if secrets.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for secret in secrets {
        out.push_str(text.get(at..secret.start).unwrap_or_default());
        out.push_str(HIDDEN);
        at = secret.end;
    }
    out.push_str(text.get(at..).unwrap_or_default());
    Cow::Owned(out)
}

/// The same parts sorted, those that overlap made one.
fn joined(mut parts: Vec<Range<usize>>) -> Vec<Range<usize>> {
    parts.sort_by_key(|part| part.start);
    let mut joined: Vec<Range<usize>> = Vec::with_capacity(parts.len());
    for part in parts {
        match joined.last_mut() {
            Some(last) if part.start < last.end => last.end = last.end.max(part.end),
            Some(_) | None => joined.push(part),
        }
    }
    joined
}

/// `scheme://authority` (or nothing), and what follows it.
fn split_origin(word: &str) -> (&str, &str) {
    let Some(scheme) = word.find("://") else { return ("", word) };
    let (_, rest) = word.split_at(scheme + 3);
    let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    word.split_at(scheme + 3 + authority)
}

/// Where the word ends that a text begins with. What stands in a parameter as JSON has quotes and commas.
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
