//! `Cache-Control` of responses and of requests (RFC 9111 §5.2, RFC 5861), and `Pragma` (§5.4).
//!
//! Owns: parsing of each directive; if two values conflict, the stricter one applies (§4.2.1).
//! Never touches: the consequences of a directive (`freshness`, `storability`, `decide`).

use std::time::Duration;

use http::HeaderMap;
use http::header::{CACHE_CONTROL, HeaderName, PRAGMA};

use crate::semantics::field_list;

/// The longest duration that larder calculates with; greater values are clamped to it (RFC 9111 §1.2.2).
pub const MAX_DELTA: Duration = Duration::from_secs(2_147_483_647);

/// The directives without an argument that affect larder's decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directive {
    /// §5.2.2.5
    NoStore,
    /// §5.2.2.4, without a list of fields.
    NoCache,
    /// §5.2.2.7, without a list of fields.
    Private,
    /// §5.2.2.9
    Public,
    /// §5.2.2.2
    MustRevalidate,
    /// §5.2.2.8
    ProxyRevalidate,
    /// §5.2.2.3
    MustUnderstand,
}

/// A response's `Cache-Control`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CacheControl {
    directives: u8,
    /// §5.2.2.1
    pub max_age: Option<Duration>,
    /// §5.2.2.10
    pub s_maxage: Option<Duration>,
    /// RFC 5861 §3
    pub stale_while_revalidate: Option<Duration>,
    /// RFC 5861 §4
    pub stale_if_error: Option<Duration>,
    /// The fields of `private="..."`.
    pub private_fields: Vec<HeaderName>,
    /// The fields of `no-cache="..."`.
    pub no_cache_fields: Vec<HeaderName>,
}

impl CacheControl {
    /// Parses `Cache-Control` of a response.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use http::{HeaderMap, HeaderValue, header::CACHE_CONTROL};
    /// use larder::semantics::cache_control::{CacheControl, Directive};
    ///
    /// let mut headers = HeaderMap::new();
    /// headers.append(CACHE_CONTROL, HeaderValue::from_static("max-age=600, no-cache=\"Set-Cookie\""));
    /// headers.append(CACHE_CONTROL, HeaderValue::from_static("Private, max-age=60"));
    /// let control = CacheControl::from_response(&headers);
    /// assert_eq!(control.max_age, Some(Duration::from_secs(60)), "the stricter value applies");
    /// assert!(control.has(Directive::Private) && !control.has(Directive::NoCache));
    /// assert_eq!(control.no_cache_fields, ["set-cookie"]);
    /// ```
    pub fn from_response(headers: &HeaderMap) -> Self {
        let mut control = Self::default();
        for member in field_list::members(headers.get_all(CACHE_CONTROL)) {
            let (name, argument) = split(member);
            control.add(name, argument);
        }
        control
    }

    /// Approximate heap memory in bytes, without the struct itself.
    pub fn weight(&self) -> usize {
        // A vector grows by doubling, and the `http` crate allocates names that are not among its constants.
        const NAME: usize = 2 * size_of::<HeaderName>() + 64;
        let fields = self.private_fields.iter().chain(&self.no_cache_fields);
        fields.map(|name| NAME + name.as_str().len()).sum()
    }

    /// Whether the directive is present.
    pub fn has(&self, directive: Directive) -> bool {
        self.directives & bit(directive) != 0
    }

    /// Adds a directive. `argument` is the text after its `=`.
    pub(super) fn add(&mut self, name: &[u8], argument: Argument<'_>) {
        // No map by name: a few comparisons are faster and need no lower-case copy.
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("max-age") {
            stricter(&mut self.max_age, argument);
        } else if is("s-maxage") {
            stricter(&mut self.s_maxage, argument);
        } else if is("no-store") {
            self.set(Directive::NoStore);
        } else if is("no-cache") {
            match argument.fields() {
                Some(fields) => self.no_cache_fields.extend(fields),
                None => self.set(Directive::NoCache),
            }
        } else if is("private") {
            match argument.fields() {
                Some(fields) => self.private_fields.extend(fields),
                None => self.set(Directive::Private),
            }
        } else if is("public") {
            self.set(Directive::Public);
        } else if is("must-revalidate") {
            self.set(Directive::MustRevalidate);
        } else if is("proxy-revalidate") {
            self.set(Directive::ProxyRevalidate);
        } else if is("must-understand") {
            self.set(Directive::MustUnderstand);
        } else if is("stale-while-revalidate") {
            stricter(&mut self.stale_while_revalidate, argument);
        } else if is("stale-if-error") {
            stricter(&mut self.stale_if_error, argument);
        }
    }

    fn set(&mut self, directive: Directive) {
        self.directives |= bit(directive);
    }
}

/// A request's `Cache-Control`; without one, its `Pragma: no-cache` (§5.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestCacheControl {
    /// §5.2.1.4
    pub no_cache: bool,
    /// §5.2.1.5
    pub no_store: bool,
    /// §5.2.1.7
    pub only_if_cached: bool,
    /// §5.2.1.1
    pub max_age: Option<Duration>,
    /// §5.2.1.3
    pub min_fresh: Option<Duration>,
    /// §5.2.1.2; without an argument [`MAX_DELTA`].
    pub max_stale: Option<Duration>,
}

impl RequestCacheControl {
    /// Whether the request demands revalidation: `no-cache`, or `max-age=0`, which clients use with the same
    /// meaning (RFC 9111 §5.2.1.1 would still allow a response of age zero).
    pub fn demands_revalidation(&self) -> bool {
        self.no_cache || self.max_age == Some(Duration::ZERO)
    }

    /// The directives that keep a stored response from being used, as text.
    pub fn restrictions(&self) -> Vec<String> {
        let age = self.max_age.map(|age| format!("max-age={}", age.as_secs()));
        let fresh = self.min_fresh.map(|fresh| format!("min-fresh={}", fresh.as_secs()));
        let flags = [(self.no_store, "no-store"), (self.no_cache, "no-cache")];
        let flags = flags.iter().filter(|(is_set, _)| *is_set).map(|(_, name)| (*name).to_owned());
        flags.chain(age).chain(fresh).collect()
    }

    /// Parses `Cache-Control` or `Pragma` of a request.
    pub fn from_request(headers: &HeaderMap) -> Self {
        let mut control = Self::default();
        if !headers.contains_key(CACHE_CONTROL) {
            control.no_cache = headers.contains_key(PRAGMA)
                && field_list::members(headers.get_all(PRAGMA))
                    .any(|member| member.eq_ignore_ascii_case(b"no-cache"));
            return control;
        }
        for member in field_list::members(headers.get_all(CACHE_CONTROL)) {
            control.add(member);
        }
        control
    }

    fn add(&mut self, member: &[u8]) {
        let (name, argument) = split(member);
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("no-cache") {
            self.no_cache = true;
        } else if is("no-store") {
            self.no_store = true;
        } else if is("only-if-cached") {
            self.only_if_cached = true;
        } else if is("max-age") {
            stricter(&mut self.max_age, argument);
        } else if is("min-fresh") {
            // Here the greater value is the stricter one. An invalid value counts as the maximum.
            let seconds = argument.seconds().unwrap_or(MAX_DELTA);
            self.min_fresh = self.min_fresh.max(Some(seconds));
        } else if is("max-stale") && argument == Argument::None {
            self.max_stale = Some(self.max_stale.unwrap_or(MAX_DELTA));
        } else if is("max-stale") {
            // An invalid value permits no staleness.
            stricter(&mut self.max_stale, argument);
        }
    }
}

/// A non-negative integer of seconds (RFC 9111 §1.2.2), clamped to [`MAX_DELTA`].
pub fn delta_seconds(digits: &[u8]) -> Option<Duration> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = digits
        .iter()
        .fold(0_u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
    Some(Duration::from_secs(seconds).min(MAX_DELTA))
}

/// The argument of a directive, after its `=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Argument<'a> {
    /// No argument.
    None,
    /// The argument without its quotes.
    Text(&'a [u8]),
    /// Text that is not a valid argument.
    Malformed,
}

impl Argument<'_> {
    fn seconds(self) -> Option<Duration> {
        match self {
            Self::Text(text) => delta_seconds(text),
            Self::None | Self::Malformed => None,
        }
    }

    /// The fields that `private` or `no-cache` is limited to. `None` if the directive applies to the whole
    /// response, or if the body would be unreadable without these fields.
    fn fields(self) -> Option<Vec<HeaderName>> {
        let Self::Text(text) = self else { return None };
        let names: Result<Vec<_>, _> = field_list::split(text).map(HeaderName::from_bytes).collect();
        let names = names.ok()?;
        let describes_body =
            |name: &HeaderName| name.as_str().starts_with("content-") || name == http::header::VARY;
        if names.iter().any(describes_body) { None } else { Some(names) }
    }
}

/// Name and argument. Spaces around `=` are not allowed, so such an argument is malformed. The quoted-string
/// form of an argument equals its token form (§5.2).
fn split(member: &[u8]) -> (&[u8], Argument<'_>) {
    let Some(at) = member.iter().position(|&b| b == b'=') else { return (member, Argument::None) };
    let (name, argument) = (&member[..at], &member[at + 1..]);
    let spaced = name.ends_with(b" ") || name.ends_with(b"\t");
    let argument = match argument {
        _ if spaced => Argument::Malformed,
        [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => Argument::Text(inner),
        [b'"' | b' ' | b'\t', ..] => Argument::Malformed,
        token => Argument::Text(token),
    };
    (name.trim_ascii_end(), argument)
}

/// §4.2.1: the most restrictive of several values applies. A value that is not a number of seconds counts as
/// zero.
fn stricter(known: &mut Option<Duration>, argument: Argument<'_>) {
    let seconds = argument.seconds().unwrap_or(Duration::ZERO);
    *known = Some(known.map_or(seconds, |known| known.min(seconds)));
}

fn bit(directive: Directive) -> u8 {
    1 << directive as u8
}

#[cfg(test)]
mod tests;
