//! Limits with one field for each number: `Limit`, `Remaining` and `Reset`, in three families of names.
//!
//! Owns: parsing of these numbers, including the reference time of a `Reset`. Never touches: the choice among
//! several limits.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName};

use crate::semantics::rate_limit::{MAX_LIMITS, MAX_TIME, RateLimitState, ietf_draft, window};
use crate::semantics::{date, field_list, retry_after};

/// The field names of one family.
pub(super) struct Fields {
    limit: HeaderName,
    remaining: HeaderName,
    reset: HeaderName,
    /// Always seconds from now, so it does not depend on the origin's clock.
    reset_after: Option<HeaderName>,
}

/// Discord, GitHub, and most others.
pub(super) const X_RATELIMIT: Fields = Fields {
    limit: HeaderName::from_static("x-ratelimit-limit"),
    remaining: HeaderName::from_static("x-ratelimit-remaining"),
    reset: HeaderName::from_static("x-ratelimit-reset"),
    reset_after: Some(HeaderName::from_static("x-ratelimit-reset-after")),
};

/// Twitter's names.
pub(super) const X_RATE_LIMIT: Fields = Fields {
    limit: HeaderName::from_static("x-rate-limit-limit"),
    remaining: HeaderName::from_static("x-rate-limit-remaining"),
    reset: HeaderName::from_static("x-rate-limit-reset"),
    reset_after: None,
};

/// The draft up to version 06, which some origins still use.
pub(super) const DRAFT_06: Fields = Fields {
    limit: HeaderName::from_static("ratelimit-limit"),
    remaining: HeaderName::from_static("ratelimit-remaining"),
    reset: HeaderName::from_static("ratelimit-reset"),
    reset_after: None,
};

/// The limits in the fields. There are several if the fields list several numbers.
pub(super) fn read(headers: &HeaderMap, fields: &Fields, now: SystemTime) -> Vec<RateLimitState> {
    let limits = values(headers, &fields.limit);
    let remaining = values(headers, &fields.remaining);
    let after = fields.reset_after.as_ref().map(|name| values(headers, name)).unwrap_or_default();
    let resets = values(headers, &fields.reset);
    let one = |at: usize| {
        let limit = limits.get(at).and_then(|value| number(value));
        let after_now = only_or(&after, at).and_then(seconds_from_now);
        let at_reset = || resets_in(headers, fields, only_or(&resets, at)?, now);
        RateLimitState {
            limit,
            window: limit.and_then(|limit| window_of(headers, &limits, at, limit)),
            remaining: remaining.get(at).and_then(|value| number(value)),
            resets_in: after_now.or_else(at_reset),
            ..RateLimitState::default()
        }
    };
    let quotas = (0..remaining.len().clamp(1, MAX_LIMITS)).map(one);
    quotas.filter(|quota| *quota != RateLimitState::default()).collect()
}

fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a [u8]> {
    field_list::members(headers.get_all(name)).take(MAX_LIMITS).collect()
}

/// The value at an index. A single value applies to all indexes.
fn only_or<'a>(values: &[&'a [u8]], at: usize) -> Option<&'a [u8]> {
    match values {
        [only] => Some(only),
        values => values.get(at).copied(),
    }
}

/// Parses `100`, `100.0` or `100;w=60`. Origins use negative numbers and other texts for "no limit".
fn number(value: &[u8]) -> Option<u64> {
    let value = value.split(|&byte| byte == b';').next()?.trim_ascii();
    let number = retry_after::seconds(value)?;
    (!value.starts_with(b"-")).then_some(number.as_secs())
}

/// The window of a limit: a parameter as in `100;w=60`, on this member or on another one with the same
/// number; otherwise that of a policy with this number.
fn window_of(headers: &HeaderMap, limits: &[&[u8]], at: usize, limit: u64) -> Option<Duration> {
    let own_window = limits.get(at).and_then(|value| parameter(value));
    let equal = || limits.iter().filter(|value| number(value) == Some(limit));
    let listed_window = || equal().find_map(|value| parameter(value));
    own_window.or_else(listed_window).or_else(|| ietf_draft::window_of(headers, limit))
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
    retry_after::seconds(value).filter(|time| *time <= MAX_TIME)
}

/// The time until a reset, which may be given in seconds from now, in seconds or milliseconds since 1970, or
/// as a date. The first interpretation within [`MAX_TIME`] applies; otherwise the value is ignored.
fn resets_in(headers: &HeaderMap, fields: &Fields, value: &[u8], now: SystemTime) -> Option<Duration> {
    // A date contains a comma, so the list members cannot be used for it.
    plausible_time(value, headers.get(&fields.reset)?.as_bytes(), now)
}

/// The same for a value that is `number`, or the whole field `date`.
pub(super) fn plausible_time(number: &[u8], date: &[u8], now: SystemTime) -> Option<Duration> {
    let Some(number) = retry_after::seconds(number) else {
        return until(date::parse(date, now)?, now);
    };
    if number <= MAX_TIME {
        return Some(number);
    }
    let since_1970 = |since| until(SystemTime::UNIX_EPOCH.checked_add(since)?, now);
    since_1970(number).or_else(|| since_1970(number / 1000))
}

/// The time from now until `time`, zero if it passed recently. A time far in the past or future is not valid.
pub(super) fn until(time: SystemTime, now: SystemTime) -> Option<Duration> {
    let ahead = match time.duration_since(now) {
        Ok(ahead) => ahead,
        Err(behind) if behind.duration() <= MAX_TIME => Duration::ZERO,
        Err(_) => return None,
    };
    (ahead <= MAX_TIME).then_some(ahead)
}
