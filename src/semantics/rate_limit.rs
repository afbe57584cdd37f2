//! Rate limits that an origin announces: `RateLimit` and `RateLimit-Policy` (IETF draft), and the
//! `X-RateLimit-*` fields of Discord, GitHub and many others. The names of further APIs are a table each
//! ([`dialect::LimitTable`]).
//!
//! Owns: parsing of these fields. Never touches: the clock (`now` is a parameter), enforcement of the limits.

pub mod dialect;
mod ietf_draft;
pub mod unit;
mod x_ratelimit;

use std::cmp::Reverse;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName};

use crate::semantics::rate_limit::x_ratelimit::{DRAFT_06, X_RATE_LIMIT, X_RATELIMIT};

/// Maximum window length and time to reset; larger values are ignored. It is longer than any month.
const MAX_TIME: Duration = Duration::from_secs(32 * 86_400);

/// Maximum number of limits that are read from one response.
const MAX_LIMITS: usize = 16;

/// Maximum bytes of a bucket name; longer names are ignored.
const MAX_NAME: usize = 128;

const BUCKET: HeaderName = HeaderName::from_static("x-ratelimit-bucket");
const RESOURCE: HeaderName = HeaderName::from_static("x-ratelimit-resource");
const SCOPE: HeaderName = HeaderName::from_static("x-ratelimit-scope");
const GLOBAL: HeaderName = HeaderName::from_static("x-ratelimit-global");

/// The state of a rate limit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RateLimitState {
    /// Its name, if the origin has several limits at once. Empty: that of the generic fields.
    pub name: Box<str>,
    /// The number of calls that a window allows.
    pub limit: Option<u64>,
    /// The length of a window.
    pub window: Option<Duration>,
    /// The number of calls left in the current window.
    pub remaining: Option<u64>,
    /// Time from now until the current window ends.
    pub resets_in: Option<Duration>,
    /// The bucket, if the origin has several limits.
    pub bucket: Option<Bucket>,
    /// The unit that the limit counts.
    pub unit: LimitUnit,
    /// The scope of the limit.
    pub scope: LimitScope,
}

/// The unit that a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LimitUnit {
    /// Calls: each uses up one.
    #[default]
    Calls,
    /// Tokens, points, credits: how much a call uses up is known from its response.
    Other,
}

/// One of several limits of an origin.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Bucket {
    /// The origin's name for the bucket.
    pub name: Box<str>,
    /// Whether each main resource (Discord's "major parameters") has a bucket of its own under this name.
    pub per_resource: bool,
}

/// The scope that a limit applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LimitScope {
    /// The caller's limit, for its bucket if the response names one.
    #[default]
    Caller,
    /// The caller's limit over all its requests (Discord's `global`).
    Global,
    /// A resource's limit, which other callers also use up (Discord's `shared`).
    Shared,
    /// The caller's limit for one endpoint.
    Endpoint,
}

impl RateLimitState {
    /// Whether no calls are left.
    pub fn is_exhausted(&self) -> bool {
        self.remaining == Some(0)
    }

    /// Sort key: the smallest is the limit that is reached first. Among equal limits it is the one that
    /// resets last.
    fn urgency(&self) -> (bool, bool, u64, Reverse<Option<Duration>>) {
        let left = self.remaining.or(self.limit).unwrap_or(u64::MAX);
        let is_other = self.unit == LimitUnit::Other && !self.is_exhausted();
        (is_other, self.remaining.is_none(), left, Reverse(self.resets_in))
    }

    /// The one of these that is reached first; of several that are exhausted, the one that lasts longest.
    pub fn most_urgent(limits: &[Self]) -> Option<&Self> {
        limits.iter().min_by_key(|limit| limit.urgency())
    }
}

/// Reads the limit that will be reached first. `None` if there is no readable field.
///
/// ```
/// # use std::time::{Duration, SystemTime};
/// # use http::{HeaderMap, HeaderName, HeaderValue};
/// use larder::semantics::rate_limit::read;
///
/// let headers = [("ratelimit-policy", "\"minute\";q=100;w=60"), ("ratelimit", "\"minute\";r=3;t=20")];
/// let headers = HeaderMap::from_iter(headers.map(|(name, value)| {
///     (HeaderName::from_static(name), HeaderValue::from_static(value))
/// }));
/// let state = read(&headers, SystemTime::UNIX_EPOCH).unwrap();
/// assert_eq!((state.limit, state.remaining), (Some(100), Some(3)));
/// assert_eq!(state.resets_in, Some(Duration::from_secs(20)));
/// ```
pub fn read(headers: &HeaderMap, now: SystemTime) -> Option<RateLimitState> {
    let (bucket, limit_scope) = (bucket(headers), limit_scope(headers));
    let numbers = [X_RATELIMIT, X_RATE_LIMIT]
        .iter()
        .flat_map(|fields| x_ratelimit::read(headers, fields, now))
        .map(|quota| RateLimitState { bucket: bucket.clone(), ..quota })
        .chain(x_ratelimit::read(headers, &DRAFT_06, now))
        .chain(ietf_draft::read(headers))
        .min_by_key(RateLimitState::urgency);
    let quota =
        numbers.unwrap_or_else(|| RateLimitState { bucket: bucket.clone(), ..RateLimitState::default() });
    let quota = RateLimitState { scope: limit_scope, ..quota };
    (quota != RateLimitState::default()).then_some(quota)
}

/// Discord's `Bucket` applies to each guild, channel and webhook separately, GitHub's `Resource` (`core`,
/// `search`) to all requests of that kind.
fn bucket(headers: &HeaderMap) -> Option<Bucket> {
    let from_field = |field: &HeaderName, per_resource| {
        let name = headers.get(field)?.to_str().ok()?.trim();
        let is_name = !name.is_empty() && name.len() <= MAX_NAME;
        is_name.then(|| Bucket { name: name.into(), per_resource })
    };
    from_field(&BUCKET, true).or_else(|| from_field(&RESOURCE, false))
}

fn limit_scope(headers: &HeaderMap) -> LimitScope {
    let has_value = |field: &HeaderName, expected: &str| {
        headers.get(field).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(expected.as_bytes()))
    };
    if has_value(&GLOBAL, "true") || has_value(&SCOPE, "global") {
        LimitScope::Global
    } else if has_value(&SCOPE, "shared") {
        LimitScope::Shared
    } else {
        LimitScope::Caller
    }
}

/// The length of a window, if it is valid.
fn window(length: Duration) -> Option<Duration> {
    (!length.is_zero() && length <= MAX_TIME).then_some(length)
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
