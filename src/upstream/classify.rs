//! What an answer means: from its status, its fields, its JSON body, and the upstream's rules.
//!
//! Owns: the one mapping of answers and failures to verdicts. Never touches: the clock (`now` is handed
//! in), how a body is read (`json`), what is done about a verdict (`gate`).

use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use serde_json::Value;

use crate::policy::upstream::{
    CooldownUntil, ErrorRule, OutcomeClass, RateLimitKind, ResponseRules,
};
use crate::semantics::rate_limit::{self, LimitScope, RateLimitState};
use crate::semantics::retry_after;
use crate::semantics::utc_calendar;
use crate::upstream::error::UpstreamError;
use crate::upstream::outcome::{CallOutcome, RetryAfter};

/// A limit that ends later than this is no limit per minute.
const SOON: Duration = Duration::from_secs(3600);

/// By so much `Retry-After`, in whole seconds, may be longer than the reset that it repeats.
const ROUNDING: Duration = Duration::from_secs(1);

/// What an answer comes to. The operator's rules say it first, then the head. `json: None`: there is no
/// body that could be read, and the rules about bodies say nothing.
pub fn answer(
    status: StatusCode,
    headers: &HeaderMap,
    json: Option<&Value>,
    rules: &ResponseRules,
    now: SystemTime,
) -> CallOutcome {
    let quota = rate_limit::read(headers, now);
    let told = told(retry_after::of(headers, now), quota.as_ref());
    let rule = rules.errors.iter().find(|rule| means(rule, status, json));
    let class = match rule {
        Some(rule) => rule.class,
        None if is_failure_in_disguise(status, json, rules) => OutcomeClass::Server,
        None => by_head(status, headers, quota.as_ref(), told),
    };
    let spelled = rule.and_then(|rule| rule.hold).map(|hold| RetryAfter {
        time: time(hold, now),
        quota: class == OutcomeClass::RateLimited(RateLimitKind::Quota),
    });
    let wait = spelled.or_else(|| told.filter(|told| heeds(class, *told)).map(|told| told.wait));
    CallOutcome { class, wait, quota }
}

/// What it comes to that there is none. `None`: the origin had no part in it.
pub fn failure(failure: UpstreamError) -> Option<CallOutcome> {
    let class = match failure {
        UpstreamError::Denied(_)
        | UpstreamError::Held(_)
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
        | UpstreamError::Protocol => OutcomeClass::Network,
    };
    Some(CallOutcome::of(class))
}

/// When the origin says to come back.
#[derive(Clone, Copy)]
struct RetryHint {
    wait: RetryAfter,
    /// In so many words, and not only as the reset of its quota.
    by_retry_after: bool,
}

/// `Retry-After` goes before the quota's reset. Where a spent quota lasts as long, it is the quota's
/// word all the same, and so not too absurd to be heeded.
fn told(retry_after: Option<Duration>, quota: Option<&RateLimitState>) -> Option<RetryHint> {
    let resets_in = quota.filter(|quota| quota.remaining.is_none_or(|left| left == 0));
    let resets_in = resets_in.and_then(|quota| quota.resets_in);
    let is_spent = quota.is_some_and(RateLimitState::is_spent);
    let Some(time) = retry_after else {
        let wait = RetryAfter { time: resets_in?, quota: is_spent };
        return Some(RetryHint { wait, by_retry_after: false });
    };
    let lasts = resets_in.is_some_and(|resets_in| resets_in + ROUNDING >= time);
    Some(RetryHint { wait: RetryAfter { time, quota: is_spent && lasts }, by_retry_after: true })
}

/// `Retry-After` also stands in redirects and beside refusals that no waiting cures; a reset says
/// only when calls are counted anew.
fn heeds(class: OutcomeClass, told: RetryHint) -> bool {
    match class {
        OutcomeClass::RateLimited(_) => true,
        OutcomeClass::Server => told.by_retry_after,
        OutcomeClass::Ok | OutcomeClass::Auth | OutcomeClass::Network | OutcomeClass::Timeout => {
            false
        }
    }
}

/// Whether all holds that the rule names. A rule that names nothing means nothing.
fn means(rule: &ErrorRule, status: StatusCode, json: Option<&Value>) -> bool {
    let names_something = !(rule.status.is_empty() && rule.json.is_empty());
    let by_status =
        rule.status.is_empty() || rule.status.iter().any(|pattern| pattern.matches(status));
    let by_body = rule.json.iter().all(|rule| json.is_some_and(|body| rule.matches(body)));
    names_something && by_status && by_body
}

/// A 2xx whose body has no sign of success.
fn is_failure_in_disguise(status: StatusCode, json: Option<&Value>, rules: &ResponseRules) -> bool {
    let has_none = |body| !rules.success.iter().any(|rule| rule.matches(body));
    status.is_success() && !rules.success.is_empty() && json.is_some_and(has_none)
}

fn by_head(
    status: StatusCode,
    headers: &HeaderMap,
    quota: Option<&RateLimitState>,
    told: Option<RetryHint>,
) -> OutcomeClass {
    match status {
        StatusCode::TOO_MANY_REQUESTS => OutcomeClass::RateLimited(limit(quota, told)),
        // GitHub: of the primary limit nothing is left; of the secondary one only the wait is told.
        StatusCode::FORBIDDEN
            if quota.is_some_and(RateLimitState::is_spent) || headers.contains_key(RETRY_AFTER) =>
        {
            OutcomeClass::RateLimited(limit(quota, told))
        }
        StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::PROXY_AUTHENTICATION_REQUIRED => OutcomeClass::Auth,
        // The origin waited in vain for larder: it failed, though not by its own account.
        StatusCode::REQUEST_TIMEOUT => OutcomeClass::Server,
        status if status.is_server_error() => OutcomeClass::Server,
        _ => OutcomeClass::Ok,
    }
}

fn limit(quota: Option<&RateLimitState>, told: Option<RetryHint>) -> RateLimitKind {
    if quota.is_some_and(|quota| quota.whose == LimitScope::Shared) {
        RateLimitKind::Shared
    } else if told.is_some_and(|told| told.wait.time > SOON) {
        RateLimitKind::Quota
    } else {
        RateLimitKind::Minute
    }
}

fn time(hold: CooldownUntil, now: SystemTime) -> Duration {
    match hold {
        CooldownUntil::For(time) => time,
        CooldownUntil::UntilMidnight => utc_calendar::until_midnight(now),
        CooldownUntil::UntilNextMonth => utc_calendar::until_next_month(now),
    }
}

#[cfg(test)]
mod tests;
