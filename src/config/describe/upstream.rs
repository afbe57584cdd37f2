//! A human-readable description of how calls are made: retries, cooldowns, and the policy of an upstream.
//!
//! Owns: the lines about retries and cooldowns, and those about an upstream.
//! Never touches: the lines about storing (`describe`).

use std::time::Duration;

use http::Method;
use serde_json::{Map, Value};

use crate::config::Upstream;
use crate::config::describe::{error, list, status};
use crate::config::duration::show;
use crate::config::number::show_share;
use crate::config::parent_proxy::UpstreamProxy;
use crate::config::rate;
use crate::policy::timeouts::{Deadline, TimeoutOverrides};
use crate::policy::upstream::{
    BanGuardRule, CircuitBreaker, CooldownUntil, Cost, CostBudget, CreditSource, Dialect, ErrorRule,
    JsonRule, OverBudgetAction, RateLimit,
};
use crate::policy::{CooldownPolicy, RetryPolicy};

/// The lines as one JSON object. Several lines with the same label are joined to one text.
pub(crate) fn to_json_object(lines: &[(&'static str, String)]) -> Map<String, Value> {
    let mut object = Map::new();
    for (label, text) in lines {
        let previous = object.get(*label).and_then(Value::as_str);
        let text = previous.map_or_else(|| text.clone(), |previous| format!("{previous}; {text}"));
        object.insert((*label).to_owned(), text.into());
    }
    object
}

/// The policy of an upstream, line by line; keys that its section does not set have no line. Each rule of
/// `errors` has its own line.
pub(crate) fn upstream_policy(upstream: &Upstream) -> Vec<(&'static str, String)> {
    let policy = &upstream.policy;
    let mut lines = Vec::new();
    match &upstream.proxy {
        Some(UpstreamProxy::Off) => lines.push(("proxy", "none".to_owned())),
        Some(UpstreamProxy::Through(proxy)) => lines.push(("proxy", proxy.to_string())),
        None => {}
    }
    if let Some(credential) = &upstream.credential {
        lines.push(("credential", format!("{}, sent by larder instead of its clients", credential.header)));
    }
    if !upstream.tls.extra_roots.is_empty() {
        let files: Vec<_> = upstream.tls.extra_roots.iter().map(|file| file.display().to_string()).collect();
        lines.push(("extra_roots", format!("{}, besides those of this system", files.join(", "))));
    }
    if !upstream.via {
        lines.push(("via", "not sent; CDN-Loop reveals loops instead".to_owned()));
    }
    if !policy.rules.success.is_empty() {
        lines.push(("success", conditions(&policy.rules.success, " or ")));
    }
    lines.extend(policy.rules.errors.iter().map(|one| ("errors", rule(one))));
    lines.extend(policy.rules.dialect.as_ref().map(|one| ("dialect", dialect(one))));
    if policy.rate_limit != RateLimit::default() {
        lines.push(("rate_limit", rate_limit(policy.rate_limit)));
    }
    lines.extend(policy.ban_guard.as_ref().map(|rule| ("guard", guard(rule))));
    lines.extend(policy.breaker.map(|rule| ("breaker", breaker(rule))));
    if let Some(rule) = &policy.cost {
        lines.push(("cost", cost(rule)));
        lines.extend(rule.budget.map(|rule| ("budget", budget(rule))));
    }
    lines
}

/// The timeouts that a route sets; `None`: none.
pub(super) fn timeouts(timeouts: &TimeoutOverrides) -> Option<String> {
    let TimeoutOverrides { connect, first_byte, between_bytes, total } = timeouts;
    let deadlines = [("first_byte", first_byte), ("between_bytes", between_bytes), ("total", total)];
    let deadlines =
        deadlines.iter().filter_map(|(name, value)| Some(format!("{name} {}", deadline((**value)?))));
    let all: Vec<_> =
        connect.iter().map(|time| format!("connect {}", show(*time))).chain(deadlines).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

/// A deadline: `30s`, `30s (soft)` or `off`.
pub(crate) fn deadline(deadline: Deadline) -> String {
    match deadline {
        Deadline::Soft(time) => format!("{} (soft)", show(time)),
        Deadline::Hard(time) => show(time),
        Deadline::Off => "off".to_owned(),
    }
}

/// `$.status.error_code is 0 or "0"`.
fn conditions(rules: &[JsonRule], between: &str) -> String {
    let one = |rule: &JsonRule| {
        let values = rule.values.iter().map(ToString::to_string).collect::<Vec<_>>();
        format!("{} is {}", rule.path, values.join(" or "))
    };
    rules.iter().map(one).collect::<Vec<_>>().join(between)
}

fn rule(rule: &ErrorRule) -> String {
    let statuses = rule.status.iter().map(|matched| status(*matched)).collect::<Vec<_>>().join(", ");
    let contains = rule.contains.iter().map(|rule| {
        let parts = rule.parts.iter().map(|part| format!("{part:?}")).collect::<Vec<_>>();
        format!("{} contains {}", rule.path, parts.join(" or "))
    });
    let headers = rule.headers.iter().map(|rule| format!("{} is {}", rule.name, rule.values.join(" or ")));
    let json = Some(conditions(&rule.json, " and "));
    let all = [statuses].into_iter().chain(json).chain(contains).chain(headers);
    let when = all.filter(|one| !one.is_empty()).collect::<Vec<_>>().join(" and ");
    let cooldown = rule.cooldown.as_ref().map(|cooldown| match cooldown {
        CooldownUntil::For(time) => format!(", cooldown {}", show(*time)),
        CooldownUntil::UntilMidnight => ", cooldown until the day ends (UTC)".to_owned(),
        CooldownUntil::UntilMidnightIn(zone) => format!(", cooldown until the day ends ({zone})"),
        CooldownUntil::UntilNextMonth => ", cooldown until the month ends (UTC)".to_owned(),
        CooldownUntil::UntilReleased => ", cooldown until `larder upstreams release`".to_owned(),
    });
    format!("{when}: {}{}", rule.class.token(), cooldown.unwrap_or_default())
}

/// `openai: limits requests, tokens; 3 rules for errors`.
fn dialect(dialect: &Dialect) -> String {
    let limits = dialect.table.limits.iter().map(|limit| &*limit.name).collect::<Vec<_>>();
    let limits = if limits.is_empty() { "as most APIs".to_owned() } else { limits.join(", ") };
    format!("{}: limits {limits}; {} rules for errors", dialect.name, dialect.errors.len())
}

/// The rate limit.
fn rate_limit(rate_limit: RateLimit) -> String {
    let speed = match (rate_limit.limit, rate_limit.learn) {
        (None, false) => "unlimited".to_owned(),
        (None, true) => "as its responses specify".to_owned(),
        (Some(limit), false) => format!("up to {}", rate::show(limit)),
        (Some(limit), true) => format!("up to {}, and as its responses specify", rate::show(limit)),
    };
    let wait = if rate_limit.max_wait.is_zero() {
        "no call waits".to_owned()
    } else {
        format!("each waits up to {}", show(rate_limit.max_wait))
    };
    format!("{speed}; {wait}; {} in flight", rate_limit.in_flight)
}

fn guard(rule: &BanGuardRule) -> String {
    let statuses = rule.statuses.iter().map(|matched| status(*matched)).collect::<Vec<_>>();
    let (limit, share) = (rate::show(rule.limit), show_share(rule.trip_at));
    format!("no more calls at {share} of {limit} responses {}", statuses.join(", "))
}

fn breaker(rule: CircuitBreaker) -> String {
    let (within, open) = (show(rule.within), show(rule.open_for));
    format!("open for {open} after {} failures within {within}", rule.failures)
}

fn cost(rule: &Cost) -> String {
    let credits = match &rule.credits {
        CreditSource::PerCall(number) => format!("{number} for each call"),
        CreditSource::Header(name) => format!("in {name}"),
        CreditSource::Body(path) => format!("at {path}"),
    };
    // Without a price, costs are counted in credits.
    let unpriced = rule.currency == "credits";
    let price =
        if unpriced { String::new() } else { format!(", {} {} each", rule.per_credit, rule.currency) };
    let not_modified = if rule.not_modified { "a 304 too" } else { "a 304 is free" };
    format!("credits {credits}{price}; {not_modified}")
}

fn budget(rule: CostBudget) -> String {
    let then = match rule.at_limit {
        OverBudgetAction::StaleOnly => "then only stored responses",
        OverBudgetAction::Refuse => "then calls are refused",
        OverBudgetAction::Warn => "then a warning",
    };
    let (credits, period, share) = (rule.credits, rule.period.token(), show_share(rule.warn_at));
    format!("{credits} credits a {period} (UTC), a warning from {share} on, {then}")
}

/// When a call is retried.
pub(crate) fn retry(retry: &RetryPolicy) -> String {
    if retry.retries == 0 || retry.on.is_empty() || retry.methods.is_empty() {
        return "never".to_owned();
    }
    let times = match retry.retries {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        times => format!("{times} times"),
    };
    let on = retry.on.iter().map(|on| error(*on)).collect::<Vec<_>>().join(", ");
    let retry_after = if retry.honour_retry_after { "as Retry-After specifies, else " } else { "" };
    let (waits, budget) = (waits(retry), show(retry.budget));
    format!("{}: {times} after {on}; waits {retry_after}{waits}, {budget} in all", list(&retry.methods))
}

/// The same for a call with this method.
pub(crate) fn retry_for_method(rule: &RetryPolicy, method: &Method) -> String {
    if rule.retries > 0 && !rule.is_retryable(method) {
        return format!("never for {method}");
    }
    retry(rule)
}

/// `1s, 2s, 4s ±20%`.
fn waits(retry: &RetryPolicy) -> String {
    let backoff = retry.backoff;
    let longer = |wait: &Duration| {
        let next = wait.as_secs_f64() * backoff.factor;
        Some(Duration::try_from_secs_f64(next).map_or(backoff.max, |next| next.min(backoff.max)))
    };
    let whole = |wait: Duration| show(Duration::from_millis(wait.as_millis().try_into().unwrap_or(u64::MAX)));
    let all = std::iter::successors(Some(backoff.initial.min(backoff.max)), longer);
    let mut all: Vec<_> = all.take(usize::try_from(retry.retries).unwrap_or(0)).map(whole).collect();
    if all.len() > 4 {
        all.splice(3..all.len() - 1, ["…".to_owned()]);
    }
    let share =
        if backoff.jitter > 0.0 { format!(" ±{}", show_share(backoff.jitter)) } else { String::new() };
    format!("{}{share}", all.join(", "))
}

/// The cooldown of a failed origin.
pub(crate) fn cooldown(rule: CooldownPolicy) -> String {
    let max = show(rule.max_cooldown);
    if rule.cooldown.is_zero() {
        return format!("as Retry-After specifies, up to {max}");
    }
    let down = show(rule.cooldown);
    format!(
        "as Retry-After specifies, up to {max}; after other failures {down}, if a stale response is stored"
    )
}
