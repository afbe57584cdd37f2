//! Limits that are told in a field for each number: `RateLimitKind`, `Remaining`, `Reset`, under three names.
//!
//! Owns: these numbers, and what a `Reset` counts from. Never touches: which limit counts.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName};

use crate::semantics::rate_limit::{LONGEST, MOST, RateLimitState, ietf_draft, window};
use crate::semantics::{date, field_list, retry_after};

/// The names of one family.
pub(super) struct Fields {
    limit: HeaderName,
    remaining: HeaderName,
    reset: HeaderName,
    /// Seconds from now, whatever the size: it needs no clock that agrees with the origin's.
    reset_after: Option<HeaderName>,
}

/// Discord, GitHub, and most others.
pub(super) const X_RATELIMIT: Fields = Fields {
    limit: HeaderName::from_static("x-ratelimit-limit"),
    remaining: HeaderName::from_static("x-ratelimit-remaining"),
    reset: HeaderName::from_static("x-ratelimit-reset"),
    reset_after: Some(HeaderName::from_static("x-ratelimit-reset-after")),
};

/// Twitter's spelling.
pub(super) const X_RATE_LIMIT: Fields = Fields {
    limit: HeaderName::from_static("x-rate-limit-limit"),
    remaining: HeaderName::from_static("x-rate-limit-remaining"),
    reset: HeaderName::from_static("x-rate-limit-reset"),
    reset_after: None,
};

/// The draft up to its version 06, and those who stayed there.
pub(super) const DRAFT_06: Fields = Fields {
    limit: HeaderName::from_static("ratelimit-limit"),
    remaining: HeaderName::from_static("ratelimit-remaining"),
    reset: HeaderName::from_static("ratelimit-reset"),
    reset_after: None,
};

/// The limits that the fields tell of: several where they list several numbers.
pub(super) fn read(headers: &HeaderMap, fields: &Fields, now: SystemTime) -> Vec<RateLimitState> {
    let limits = values(headers, &fields.limit);
    let remaining = values(headers, &fields.remaining);
    let after = fields.reset_after.as_ref().map(|name| values(headers, name)).unwrap_or_default();
    let resets = values(headers, &fields.reset);
    let one = |at: usize| {
        let limit = limits.get(at).and_then(|value| number(value));
        let told_after = only_or(&after, at).and_then(seconds_from_now);
        let told = || resets_in(headers, fields, only_or(&resets, at)?, now);
        RateLimitState {
            limit,
            window: limit.and_then(|limit| window_of(headers, &limits, at, limit)),
            remaining: remaining.get(at).and_then(|value| number(value)),
            resets_in: told_after.or_else(told),
            ..RateLimitState::default()
        }
    };
    let told = (0..remaining.len().clamp(1, MOST)).map(one);
    told.filter(|quota| *quota != RateLimitState::default()).collect()
}

fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a [u8]> {
    field_list::members(headers.get_all(name)).take(MOST).collect()
}

/// The value of that number; one that stands alone is that of all.
fn only_or<'a>(values: &[&'a [u8]], at: usize) -> Option<&'a [u8]> {
    match values {
        [only] => Some(only),
        values => values.get(at).copied(),
    }
}

/// `100`, `100.0`, `100;w=60`. Below zero, or anything else, is said by those who mean "no limit".
fn number(value: &[u8]) -> Option<u64> {
    let value = value.split(|&byte| byte == b';').next()?.trim_ascii();
    let number = retry_after::seconds(value)?;
    (!value.starts_with(b"-")).then_some(number.as_secs())
}

/// `100;w=60`, beside the limit or wherever else its number is listed; else a policy of that many.
fn window_of(headers: &HeaderMap, limits: &[&[u8]], at: usize, limit: u64) -> Option<Duration> {
    let own = limits.get(at).and_then(|value| parameter(value));
    let same = || limits.iter().filter(|value| number(value) == Some(limit));
    let listed = || same().find_map(|value| parameter(value));
    own.or_else(listed).or_else(|| ietf_draft::window_of(headers, limit))
}

fn parameter(value: &[u8]) -> Option<Duration> {
    let mut parameters = value.split(|&byte| byte == b';').skip(1).map(<[u8]>::trim_ascii);
    let length = |parameter: &[u8]| {
        let length = parameter.strip_prefix(b"w=").or(parameter.strip_prefix(b"window="))?;
        window(retry_after::seconds(length)?)
    };
    parameters.find_map(length)
}

fn seconds_from_now(value: &[u8]) -> Option<Duration> {
    retry_after::seconds(value).filter(|told| *told <= LONGEST)
}

/// Seconds from now, or since 1970, or milliseconds since then; or a date. What is none of these
/// within [`LONGEST`] is not believed.
fn resets_in(
    headers: &HeaderMap,
    fields: &Fields,
    value: &[u8],
    now: SystemTime,
) -> Option<Duration> {
    let Some(told) = retry_after::seconds(value) else {
        // A date has a comma, which lists may not have.
        return until(date::parse(headers.get(&fields.reset)?.as_bytes(), now)?, now);
    };
    if told <= LONGEST {
        return Some(told);
    }
    let since_1970 = |since| until(SystemTime::UNIX_EPOCH.checked_add(since)?, now);
    since_1970(told).or_else(|| since_1970(told / 1000))
}

/// A time that is just over is now; one that is far, ahead or behind, was meant otherwise.
fn until(time: SystemTime, now: SystemTime) -> Option<Duration> {
    let ahead = match time.duration_since(now) {
        Ok(ahead) => ahead,
        Err(behind) if behind.duration() <= LONGEST => Duration::ZERO,
        Err(_) => return None,
    };
    (ahead <= LONGEST).then_some(ahead)
}
