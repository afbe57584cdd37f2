//! The classification of responses by status, header fields, JSON body and the upstream's rules.
//!
//! Owns: the mapping of responses and failures to outcomes. Never touches: the clock (`now` is an argument),
//! reading bodies (`body_inspection`), the effects of an outcome (`admission`).

use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use serde_json::Value;

use crate::policy::upstream::{
    CooldownUntil, Dialect, ErrorRule, OutcomeClass, RateLimitKind, ResponseRules, UNTIL_RELEASED,
};
use crate::semantics::rate_limit::{self, LimitScope, RateLimitState};
use crate::semantics::retry_after;
use crate::semantics::utc_calendar;
use crate::upstream::outcome::error::UpstreamError;
use crate::upstream::outcome::{CallOutcome, RetryAfter};

/// A limit that ends later than this is a quota, not a limit per minute.
const MAX_MINUTE_LIMIT: Duration = Duration::from_secs(3600);

/// `Retry-After` is in whole seconds and may exceed the quota reset that it repeats by this much.
const ROUNDING: Duration = Duration::from_secs(1);

/// The outcome of a response: by the operator's rules first, then by its head. `json: None`: the body could
/// not be read, and rules about bodies do not match.
pub fn response(
    status: StatusCode,
    headers: &HeaderMap,
    json: Option<&Value>,
    rules: &ResponseRules,
    now: SystemTime,
) -> CallOutcome {
    let dialect = rules.dialect.as_deref();
    let limits = stated_limits(headers, json, dialect, now);
    let mut quota = RateLimitState::most_urgent(&limits).cloned();
    let table_wait = dialect.and_then(|dialect| dialect.table.wait(headers, json, now));
    let hint = retry_hint(retry_after::from_headers(headers, now).max(table_wait), quota.as_ref());
    let matched = |rule: &&ErrorRule| rule.matches(status, headers, json);
    let own_rule = rules.errors.iter().find(matched);
    let of_dialect = dialect.filter(|_| !is_confirmed_success(status, json, rules));
    let rule = own_rule.or_else(|| of_dialect.and_then(|dialect| dialect.errors.iter().find(matched)));
    let class = match rule {
        Some(rule) => rule.class,
        None if is_disguised_failure(status, json, rules) => OutcomeClass::Server,
        None => class_from_head(status, headers, quota.as_ref(), hint),
    };
    if let Some(scope) = rule.and_then(|rule| rule.scope) {
        quota.get_or_insert_default().scope = scope;
    }
    let stated = hint.filter(|hint| honours_hint(class, *hint)).map(|hint| hint.wait);
    let by_rule = rule.and_then(|rule| rule.cooldown.as_ref()).map(|until| RetryAfter {
        time: cooldown_time(until, now),
        is_quota_end: class == OutcomeClass::RateLimited(RateLimitKind::Quota),
    });
    // The operator's rule takes precedence over the response; that of a dialect only makes it longer.
    let wait = by_rule
        .filter(|by_rule| own_rule.is_some() || stated.is_none_or(|stated| stated.time <= by_rule.time));
    let is_final = retry_after::is_vetoed(headers);
    CallOutcome { class, retry_after: wait.or(stated), quota, limits, is_final }
}

/// The limits that a response states: those of the dialect, then the generic one that is reached first.
fn stated_limits(
    headers: &HeaderMap,
    json: Option<&Value>,
    dialect: Option<&Dialect>,
    now: SystemTime,
) -> Vec<RateLimitState> {
    let mut limits = dialect.map(|dialect| dialect.table.limits(headers, json, now)).unwrap_or_default();
    if dialect.is_none_or(|dialect| dialect.table.generic) {
        limits.extend(rate_limit::read(headers, now));
    }
    limits
}

/// The outcome of a call without a response. `None`: the origin did not cause the failure.
pub fn failure(failure: UpstreamError) -> Option<CallOutcome> {
    let class = match failure {
        UpstreamError::Denied(_)
        | UpstreamError::Rejected(_)
        | UpstreamError::Abandoned
        | UpstreamError::Exhausted
        | UpstreamError::Internal => return None,
        UpstreamError::ConnectTimeout
        | UpstreamError::FirstByteTimeout
        | UpstreamError::BodyTimeout
        | UpstreamError::TotalTimeout => OutcomeClass::Timeout,
        UpstreamError::Dns
        | UpstreamError::Refused
        | UpstreamError::Tls(_)
        | UpstreamError::Closed
        | UpstreamError::NotProcessed
        | UpstreamError::Cut
        | UpstreamError::Switched
        | UpstreamError::Parent(_)
        | UpstreamError::Protocol => OutcomeClass::Network,
    };
    Some(CallOutcome::from_class(class))
}

/// The time after which the origin allows the next call.
#[derive(Clone, Copy)]
struct RetryHint {
    wait: RetryAfter,
    /// Whether it comes from `Retry-After`, not from the reset of the quota.
    by_retry_after: bool,
}

/// `Retry-After` takes precedence over the quota reset. If a spent quota lasts as long, the time counts as
/// the end of the quota, and is not limited by `max_cooldown`.
fn retry_hint(retry_after: Option<Duration>, quota: Option<&RateLimitState>) -> Option<RetryHint> {
    let resets_in = quota.filter(|quota| quota.remaining.is_none_or(|left| left == 0));
    let resets_in = resets_in.and_then(|quota| quota.resets_in);
    let is_spent = quota.is_some_and(RateLimitState::is_exhausted);
    let Some(time) = retry_after else {
        let wait = RetryAfter { time: resets_in?, is_quota_end: is_spent };
        return Some(RetryHint { wait, by_retry_after: false });
    };
    let quota_lasts = resets_in.is_some_and(|resets_in| resets_in + ROUNDING >= time);
    Some(RetryHint { wait: RetryAfter { time, is_quota_end: is_spent && quota_lasts }, by_retry_after: true })
}

/// `Retry-After` also occurs in redirects and in rejections that waiting does not change. A quota reset only
/// states when the count starts again.
fn honours_hint(class: OutcomeClass, hint: RetryHint) -> bool {
    match class {
        OutcomeClass::RateLimited(_) => true,
        OutcomeClass::Server => hint.by_retry_after,
        OutcomeClass::Ok | OutcomeClass::Auth | OutcomeClass::Network | OutcomeClass::Timeout => false,
    }
}

/// A 2xx whose body matches a rule of the operator for success.
fn is_confirmed_success(status: StatusCode, json: Option<&Value>, rules: &ResponseRules) -> bool {
    let is_success = |body| rules.success.iter().any(|rule| rule.matches(body));
    status.is_success() && json.is_some_and(is_success)
}

/// A 2xx whose body does not match the rules for success.
fn is_disguised_failure(status: StatusCode, json: Option<&Value>, rules: &ResponseRules) -> bool {
    let has_no_match = |body| !rules.success.iter().any(|rule| rule.matches(body));
    status.is_success() && !rules.success.is_empty() && json.is_some_and(has_no_match)
}

fn class_from_head(
    status: StatusCode,
    headers: &HeaderMap,
    quota: Option<&RateLimitState>,
    hint: Option<RetryHint>,
) -> OutcomeClass {
    match status {
        StatusCode::TOO_MANY_REQUESTS => OutcomeClass::RateLimited(rate_limit_kind(quota, hint)),
        // GitHub: the primary limit has nothing remaining; the secondary one sends only `Retry-After`.
        StatusCode::FORBIDDEN
            if quota.is_some_and(RateLimitState::is_exhausted) || headers.contains_key(RETRY_AFTER) =>
        {
            OutcomeClass::RateLimited(rate_limit_kind(quota, hint))
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            OutcomeClass::Auth
        }
        // The origin timed out waiting for the request. This counts as its failure, although a 4xx blames the
        // client.
        StatusCode::REQUEST_TIMEOUT => OutcomeClass::Server,
        status if status.is_server_error() => OutcomeClass::Server,
        _ => OutcomeClass::Ok,
    }
}

fn rate_limit_kind(quota: Option<&RateLimitState>, hint: Option<RetryHint>) -> RateLimitKind {
    if quota.is_some_and(|quota| quota.scope == LimitScope::Shared) {
        RateLimitKind::Shared
    } else if hint.is_some_and(|hint| hint.wait.time > MAX_MINUTE_LIMIT) {
        RateLimitKind::Quota
    } else {
        RateLimitKind::Minute
    }
}

fn cooldown_time(until: &CooldownUntil, now: SystemTime) -> Duration {
    match until {
        CooldownUntil::For(time) => *time,
        CooldownUntil::UntilMidnight => utc_calendar::until_midnight(now),
        CooldownUntil::UntilMidnightIn(zone) => zone.until_midnight(now),
        CooldownUntil::UntilNextMonth => utc_calendar::until_next_month(now),
        CooldownUntil::UntilReleased => UNTIL_RELEASED,
    }
}

#[cfg(test)]
mod dialect_tests;
#[cfg(test)]
mod tests;
