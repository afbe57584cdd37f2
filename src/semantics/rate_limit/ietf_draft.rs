//! `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers), as structured fields.
//!
//! Owns: parsing of the current lists (`"default";r=50;t=30`) and of the dictionary of version 07
//! (`limit=100, remaining=50, reset=5`). Never touches: the choice among several limits.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, Item, List, ListEntry, Parameters, Parser, StringRef};

use crate::semantics::rate_limit::{MAX_LIMITS, MAX_TIME, RateLimitState, window};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// A member of `RateLimit-Policy`.
struct Policy {
    /// `None` in version 07, which has the number in place of the name.
    name: Option<String>,
    limit: Option<u64>,
    window: Option<Duration>,
    /// Whether the policy limits calls, and not another unit such as bytes (`qu`).
    of_calls: bool,
}

/// The limits in the fields, without those of policies that do not limit calls.
pub(super) fn read(headers: &HeaderMap) -> Vec<RateLimitState> {
    let policies = policies(headers);
    let mut limits: Vec<RateLimitState> = match items(headers, &RATE_LIMIT) {
        Some(items) => items.iter().filter_map(|item| limit(item, &policies)).collect(),
        None => dictionary(headers, &policies).into_iter().collect(),
    };
    limits.retain(|quota| *quota != RateLimitState::default());
    if limits.is_empty() {
        limits.extend(policies.iter().filter(|policy| policy.of_calls).filter_map(from_policy));
    }
    limits
}

/// The window of the policy that allows `limit` calls.
pub(super) fn window_of(headers: &HeaderMap, limit: u64) -> Option<Duration> {
    let policies = policies(headers);
    policies.iter().find(|policy| policy.limit == Some(limit))?.window
}

/// Parses `"default";r=50;t=30`. `None` if the limit is not for calls, or has no name.
fn limit(item: &Item, policies: &[Policy]) -> Option<RateLimitState> {
    let name = name(&item.bare_item)?;
    let policy = policies.iter().find(|policy| policy.name.as_deref() == Some(name));
    if policy.is_some_and(|policy| !policy.of_calls) {
        return None;
    }
    Some(RateLimitState {
        limit: policy.and_then(|policy| policy.limit),
        window: policy.and_then(|policy| policy.window),
        remaining: parameter(&item.params, "r"),
        resets_in: parameter(&item.params, "t").and_then(reset),
        ..RateLimitState::default()
    })
}

/// The state from a policy without a matching `RateLimit` member, so without remaining calls.
fn from_policy(policy: &Policy) -> Option<RateLimitState> {
    let (limit, window) = (policy.limit?, policy.window);
    Some(RateLimitState { limit: Some(limit), window, ..RateLimitState::default() })
}

fn dictionary(headers: &HeaderMap, policies: &[Policy]) -> Option<RateLimitState> {
    let members: Dictionary = Parser::new(&joined(headers, &RATE_LIMIT)).parse().ok()?;
    let number = |key: &str| match members.get(key)? {
        ListEntry::Item(item) => non_negative(&item.bare_item),
        ListEntry::InnerList(_) => None,
    };
    let limit = number("limit");
    let policy = policies.iter().find(|policy| limit.is_some() && policy.limit == limit);
    Some(RateLimitState {
        limit,
        window: policy.and_then(|policy| policy.window),
        remaining: number("remaining"),
        resets_in: number("reset").and_then(reset),
        ..RateLimitState::default()
    })
}

fn policies(headers: &HeaderMap) -> Vec<Policy> {
    let items = items(headers, &POLICY).unwrap_or_default();
    items.iter().map(policy).collect()
}

/// `"default";q=100;w=60`, or `100;w=60`.
fn policy(item: &Item) -> Policy {
    let unit = item.params.get("qu").and_then(name);
    Policy {
        name: name(&item.bare_item).map(str::to_owned),
        limit: parameter(&item.params, "q").or_else(|| non_negative(&item.bare_item)),
        window: parameter(&item.params, "w").map(Duration::from_secs).and_then(window),
        of_calls: unit.is_none_or(|unit| unit == "requests"),
    }
}

/// The members of a list. `None` if the field is not a list.
fn items(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<Item>> {
    let list: List = Parser::new(&joined(headers, name)).parse().ok()?;
    let only_items = list.into_iter().filter_map(|entry| match entry {
        ListEntry::Item(item) => Some(item),
        ListEntry::InnerList(_) => None,
    });
    Some(only_items.take(MAX_LIMITS).collect())
}

fn joined(headers: &HeaderMap, name: &HeaderName) -> Vec<u8> {
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(http::HeaderValue::as_bytes).collect();
    lines.join(&b", "[..])
}

fn name(item: &BareItem) -> Option<&str> {
    item.as_string().map(StringRef::as_str).or_else(|| Some(item.as_token()?.as_str()))
}

fn parameter(parameters: &Parameters, key: &str) -> Option<u64> {
    non_negative(parameters.get(key)?)
}

fn non_negative(item: &BareItem) -> Option<u64> {
    u64::try_from(i64::from(item.as_integer()?)).ok()
}

fn reset(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds)).filter(|time| *time <= MAX_TIME)
}
