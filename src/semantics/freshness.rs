//! How old a response is and how long it stays fresh (RFC 9111 §4.2).
//!
//! Owns: the arithmetic of age and lifetime; every result lies between zero and [`MAX_DELTA`].
//! Never touches: the clock, what a route says about lifetimes.

use std::time::{Duration, SystemTime};

use http::StatusCode;

use crate::semantics::cache_control::{Directive, MAX_DELTA};
use crate::semantics::response_metadata::{CacheMetadata, Expires};
use crate::semantics::status;
use crate::semantics::storability::CacheKind;

/// RFC 9111 §4.2.2 suggests a tenth of the time since the last change.
const HEURISTIC_PART: u32 = 10;
/// More than a clock is set back by when it is only put right.
const SET_BACK: Duration = Duration::from_secs(60);
/// A guess is not trusted for longer than this.
const LONGEST_GUESS: Duration = Duration::from_secs(86_400);

/// The age on arrival (RFC 9111 §4.2.3, `corrected_initial_age`).
pub fn initial_age(
    said: &CacheMetadata,
    request_time: SystemTime,
    response_time: SystemTime,
) -> Duration {
    let apparent_age = said.date.map_or(Duration::ZERO, |date| between(date, response_time));
    let response_delay = between(request_time, response_time);
    let corrected_age = said.age.unwrap_or_default().saturating_add(response_delay);
    apparent_age.max(corrected_age).min(MAX_DELTA)
}

/// The age now (RFC 9111 §4.2.3, `current_age`). A clock that was set back a little adds nothing; what
/// was received more than a minute ahead of now has an age that nobody knows, and counts as
/// the oldest: otherwise it would stay fresh until the clock is there again.
pub fn current_age(initial_age: Duration, response_time: SystemTime, now: SystemTime) -> Duration {
    if between(now, response_time) > SET_BACK {
        return MAX_DELTA;
    }
    initial_age.saturating_add(between(response_time, now)).min(MAX_DELTA)
}

/// The lifetime that the origin states (RFC 9111 §4.2.1).
pub fn explicit_lifetime(
    said: &CacheMetadata,
    kind: CacheKind,
    response_time: SystemTime,
) -> Option<Duration> {
    let shared_only = match kind {
        CacheKind::Shared => said.cache_control.s_maxage,
        CacheKind::Private => None,
    };
    let stated = shared_only.or(said.cache_control.max_age);
    stated.or_else(|| match said.expires? {
        // The origin's own clock on both ends, wherever it stands (§4.2.1).
        Expires::At(at) => Some(between(said.date.unwrap_or(response_time), at)),
        Expires::Past => Some(Duration::ZERO),
    })
}

/// The lifetime to guess where the origin states none (RFC 9111 §4.2.2); `None` where no guess is
/// allowed or there is nothing to guess from.
pub fn heuristic_lifetime(
    said: &CacheMetadata,
    status: StatusCode,
    response_time: SystemTime,
) -> Option<Duration> {
    let allowed = status::is_heuristically_cacheable(status)
        || said.cache_control.has(Directive::Public) && !status::is_never_stored(status);
    let changed = said.last_modified.as_ref().filter(|_| allowed)?.time;
    let unchanged_for = between(changed, said.date.unwrap_or(response_time));
    Some((unchanged_for / HEURISTIC_PART).min(LONGEST_GUESS))
}

/// Whether the origin lets a stale answer be served at all (RFC 9111 §4.2.4).
pub fn may_be_served_stale(said: &CacheMetadata, kind: CacheKind) -> bool {
    let cache_control = &said.cache_control;
    let shared_only = match kind {
        // §5.2.2.10: s-maxage implies proxy-revalidate.
        CacheKind::Shared => {
            cache_control.has(Directive::ProxyRevalidate) || cache_control.s_maxage.is_some()
        }
        CacheKind::Private => false,
    };
    !shared_only
        && !cache_control.has(Directive::MustRevalidate)
        && !cache_control.has(Directive::NoCache)
}

/// From `start` to `end`, zero where `end` is the earlier one.
fn between(start: SystemTime, end: SystemTime) -> Duration {
    end.duration_since(start).unwrap_or_default().min(MAX_DELTA)
}

#[cfg(test)]
mod tests;
