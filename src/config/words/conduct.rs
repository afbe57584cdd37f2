//! How calls are made, in words: repeated, held.
//!
//! Owns: the lines about retries and holds. Never touches: what is stored (`words`).

use std::time::Duration;

use http::Method;

use crate::config::duration::show;
use crate::config::number::show_share;
use crate::config::words::{error, list};
use crate::policy::{HoldRule, Retry};

/// When a call is made once more.
pub(crate) fn retry(retry: &Retry) -> String {
    if retry.retries == 0 || retry.on.is_empty() || retry.methods.is_empty() {
        return "never".to_owned();
    }
    let times = match retry.retries {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        times => format!("{times} times"),
    };
    let on = retry.on.iter().map(|on| error(*on)).collect::<Vec<_>>().join(", ");
    let word = if retry.honour_retry_after { "as Retry-After says, else " } else { "" };
    let (waits, budget) = (waits(retry), show(retry.budget));
    format!("{}: {times} after {on}; waits {word}{waits}, {budget} in all", list(&retry.methods))
}

/// The same, of a call with this method.
pub(crate) fn retry_of(rule: &Retry, method: &Method) -> String {
    if rule.retries > 0 && !rule.repeats(method) {
        return format!("never for {method}");
    }
    retry(rule)
}

/// `1s, 2s, 4s ±20%`.
fn waits(retry: &Retry) -> String {
    let backoff = retry.backoff;
    let longer = |wait: &Duration| {
        let next = wait.as_secs_f64() * backoff.factor;
        Some(Duration::try_from_secs_f64(next).map_or(backoff.max, |next| next.min(backoff.max)))
    };
    let whole = |wait: Duration| {
        show(Duration::from_millis(wait.as_millis().try_into().unwrap_or(u64::MAX)))
    };
    let all = std::iter::successors(Some(backoff.initial.min(backoff.max)), longer);
    let mut all: Vec<_> =
        all.take(usize::try_from(retry.retries).unwrap_or(0)).map(whole).collect();
    if all.len() > 4 {
        all.splice(3..all.len() - 1, ["…".to_owned()]);
    }
    let share = if backoff.jitter > 0.0 {
        format!(" ±{}", show_share(backoff.jitter))
    } else {
        String::new()
    };
    format!("{}{share}", all.join(", "))
}

/// How long an origin that failed is left alone.
pub(crate) fn hold(rule: HoldRule) -> String {
    let max = show(rule.max_hold);
    if rule.hold_down.is_zero() {
        return format!("as Retry-After says, up to {max}");
    }
    let down = show(rule.hold_down);
    format!(
        "as Retry-After says, up to {max}; after other failures {down}, where a stale answer is there"
    )
}
