//! Age and freshness lifetime of a response (RFC 9111 §4.2).
//!
//! Owns: the arithmetic of age and lifetime; every result lies between zero and [`MAX_DELTA`].
//! Never touches: the clock, a route's lifetimes.

use std::time::{Duration, SystemTime};

use http::StatusCode;

use crate::semantics::cache_control::{Directive, MAX_DELTA};
use crate::semantics::response_metadata::{CacheMetadata, Expires};
use crate::semantics::status;
use crate::semantics::storability::CacheKind;

/// RFC 9111 §4.2.2 suggests a tenth of the time since the last modification.
const HEURISTIC_DIVISOR: u32 = 10;
/// Tolerance for a clock that was set back by a small correction.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);
/// Upper bound of a heuristic lifetime.
const MAX_HEURISTIC: Duration = Duration::from_secs(86_400);

/// The age on arrival (RFC 9111 §4.2.3, `corrected_initial_age`).
pub fn initial_age(
    metadata: &CacheMetadata,
    request_time: SystemTime,
    response_time: SystemTime,
) -> Duration {
    let apparent_age = metadata.date.map_or(Duration::ZERO, |date| between(date, response_time));
    let response_delay = between(request_time, response_time);
    let corrected_age = metadata.age.unwrap_or_default().saturating_add(response_delay);
    apparent_age.max(corrected_age).min(MAX_DELTA)
}

/// The age now (RFC 9111 §4.2.3, `current_age`). A clock that was set back a little adds nothing to the age.
/// If the response was received more than a minute after `now`, its age is unknown and the result is
/// [`MAX_DELTA`]; otherwise the response would stay fresh until the clock reaches that time again.
///
/// ```
/// # use std::time::{Duration, SystemTime};
/// use larder::semantics::freshness::current_age;
///
/// let seconds = Duration::from_secs;
/// let (received, age_on_arrival) = (SystemTime::UNIX_EPOCH + seconds(1_000_000), seconds(5));
/// assert_eq!(current_age(age_on_arrival, received, received + seconds(30)), seconds(35));
/// // The clock was set back by a second.
/// assert_eq!(current_age(age_on_arrival, received, received - seconds(1)), seconds(5));
/// ```
pub fn current_age(initial_age: Duration, response_time: SystemTime, now: SystemTime) -> Duration {
    if between(now, response_time) > CLOCK_TOLERANCE {
        return MAX_DELTA;
    }
    initial_age.saturating_add(between(response_time, now)).min(MAX_DELTA)
}

/// The lifetime that the origin states (RFC 9111 §4.2.1).
pub fn explicit_lifetime(
    metadata: &CacheMetadata,
    kind: CacheKind,
    response_time: SystemTime,
) -> Option<Duration> {
    let shared_only = match kind {
        CacheKind::Shared => metadata.cache_control.s_maxage,
        CacheKind::Private => None,
    };
    let stated = shared_only.or(metadata.cache_control.max_age);
    stated.or_else(|| match metadata.expires? {
        // Both times come from the origin's clock, so its offset does not matter (§4.2.1).
        Expires::At(at) => Some(between(metadata.date.unwrap_or(response_time), at)),
        Expires::Past => Some(Duration::ZERO),
    })
}

/// The heuristic lifetime of a response without an explicit one (RFC 9111 §4.2.2). `None` if a heuristic is
/// not allowed or the response has no `Last-Modified`.
pub fn heuristic_lifetime(
    metadata: &CacheMetadata,
    status: StatusCode,
    response_time: SystemTime,
) -> Option<Duration> {
    let allowed = status::is_heuristically_cacheable(status)
        || metadata.cache_control.has(Directive::Public) && !status::is_never_stored(status);
    let changed = metadata.last_modified.as_ref().filter(|_| allowed)?.time;
    let unchanged_for = between(changed, metadata.date.unwrap_or(response_time));
    Some((unchanged_for / HEURISTIC_DIVISOR).min(MAX_HEURISTIC))
}

/// Whether the origin allows a stale response to be served at all (RFC 9111 §4.2.4).
pub fn may_be_served_stale(metadata: &CacheMetadata, kind: CacheKind) -> bool {
    let cache_control = &metadata.cache_control;
    let shared_only = match kind {
        // §5.2.2.10: s-maxage implies proxy-revalidate.
        CacheKind::Shared => {
            cache_control.has(Directive::ProxyRevalidate) || cache_control.s_maxage.is_some()
        }
        CacheKind::Private => false,
    };
    !shared_only && !cache_control.has(Directive::MustRevalidate) && !cache_control.has(Directive::NoCache)
}

/// The time from `start` to `end`, or zero if `end` is earlier.
fn between(start: SystemTime, end: SystemTime) -> Duration {
    end.duration_since(start).unwrap_or_default().min(MAX_DELTA)
}

#[cfg(test)]
mod tests;
