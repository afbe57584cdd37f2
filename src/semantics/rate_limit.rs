//! What an origin says of its own limits: `RateLimit` and `RateLimit-Policy` (the IETF's draft), and
//! the `X-RateLimit-*` dialects of Discord, GitHub and many others.
//!
//! Owns: how these fields are read. Never touches: the clock (`now` is handed in), what is done about
//! the limits.

mod ietf_draft;
mod x_ratelimit;

use std::cmp::Reverse;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName};

use crate::semantics::rate_limit::x_ratelimit::{DRAFT_06, X_RATE_LIMIT, X_RATELIMIT};

/// What ends later than this, or lasts longer, is not believed: no month is as long.
const LONGEST: Duration = Duration::from_secs(32 * 86_400);

/// No answer has more limits that count.
const MOST: usize = 16;

/// A longer name of a bucket is none.
const LONGEST_NAME: usize = 128;

const BUCKET: HeaderName = HeaderName::from_static("x-ratelimit-bucket");
const RESOURCE: HeaderName = HeaderName::from_static("x-ratelimit-resource");
const SCOPE: HeaderName = HeaderName::from_static("x-ratelimit-scope");
const GLOBAL: HeaderName = HeaderName::from_static("x-ratelimit-global");

/// What is left of a limit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RateLimitState {
    /// How many calls a window has.
    pub limit: Option<u64>,
    /// How long a window is.
    pub window: Option<Duration>,
    /// How many calls are left in this one.
    pub remaining: Option<u64>,
    /// When this one ends, from now.
    pub resets_in: Option<Duration>,
    /// Which of several limits it is.
    pub bucket: Option<Bucket>,
    /// Whose limit it is.
    pub whose: LimitScope,
}

/// One of several limits of an origin.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Bucket {
    /// The origin's name for it.
    pub name: Box<str>,
    /// Whether there is one for each main resource (Discord's "major parameters"), under one name.
    pub per_resource: bool,
}

/// Whose limit was told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LimitScope {
    /// The caller's: of the one bucket, if one is named.
    #[default]
    Callers,
    /// The caller's, over everything it asks (Discord's `global`).
    Global,
    /// A resource's, used up by others (Discord's `shared`).
    Shared,
}

impl RateLimitState {
    /// Whether its calls are used up.
    pub fn is_spent(&self) -> bool {
        self.remaining == Some(0)
    }

    /// What is sorted by: the least is the limit that is hit first; of equal ones, that which lasts.
    fn left(&self) -> (bool, u64, Reverse<Option<Duration>>) {
        let left = self.remaining.or(self.limit).unwrap_or(u64::MAX);
        (self.remaining.is_none(), left, Reverse(self.resets_in))
    }
}

/// What the fields say of the limit that is hit first; `None`: nothing that can be read.
pub fn read(headers: &HeaderMap, now: SystemTime) -> Option<RateLimitState> {
    let (bucket, whose) = (bucket(headers), whose(headers));
    let numbers = [X_RATELIMIT, X_RATE_LIMIT]
        .iter()
        .flat_map(|fields| x_ratelimit::read(headers, fields, now))
        .map(|quota| RateLimitState { bucket: bucket.clone(), ..quota })
        .chain(x_ratelimit::read(headers, &DRAFT_06, now))
        .chain(ietf_draft::read(headers))
        .min_by_key(RateLimitState::left);
    let quota = numbers
        .unwrap_or_else(|| RateLimitState { bucket: bucket.clone(), ..RateLimitState::default() });
    let quota = RateLimitState { whose, ..quota };
    (quota != RateLimitState::default()).then_some(quota)
}

/// Discord's `Bucket` holds for each guild, channel and webhook on its own; GitHub's `Resource` (`core`,
/// `search`) for everything of that kind.
fn bucket(headers: &HeaderMap) -> Option<Bucket> {
    let named = |field: &HeaderName, per_resource| {
        let name = headers.get(field)?.to_str().ok()?.trim();
        let is_name = !name.is_empty() && name.len() <= LONGEST_NAME;
        is_name.then(|| Bucket { name: name.into(), per_resource })
    };
    named(&BUCKET, true).or_else(|| named(&RESOURCE, false))
}

fn whose(headers: &HeaderMap) -> LimitScope {
    let says = |field: &HeaderName, word: &str| {
        headers.get(field).is_some_and(|said| said.as_bytes().eq_ignore_ascii_case(word.as_bytes()))
    };
    if says(&GLOBAL, "true") || says(&SCOPE, "global") {
        LimitScope::Global
    } else if says(&SCOPE, "shared") {
        LimitScope::Shared
    } else {
        LimitScope::Callers
    }
}

/// A window's length, if it is one.
fn window(length: Duration) -> Option<Duration> {
    (!length.is_zero() && length <= LONGEST).then_some(length)
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
