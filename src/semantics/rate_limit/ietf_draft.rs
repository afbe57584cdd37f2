//! `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers), as structured fields.
//!
//! Owns: the lists of today (`"default";r=50;t=30`), the dictionary of version 07 (`limit=100,
//! remaining=50, reset=5`). Never touches: which limit counts.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, Item, List, ListEntry, Parameters, Parser, StringRef};

use crate::semantics::rate_limit::{LONGEST, MOST, RateLimitState, window};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// One of `RateLimit-Policy`.
struct Policy {
    /// `None`: version 07, where the number stands in the name's place.
    name: Option<String>,
    limit: Option<u64>,
    window: Option<Duration>,
    /// Whether it limits calls, and not bytes or the like (`qu`).
    of_calls: bool,
}

/// The limits that the fields tell of. A policy that limits something else than calls is left out.
pub(super) fn read(headers: &HeaderMap) -> Vec<RateLimitState> {
    let policies = policies(headers);
    let mut told: Vec<RateLimitState> = match items(headers, &RATE_LIMIT) {
        Some(items) => items.iter().filter_map(|item| limit(item, &policies)).collect(),
        None => dictionary(headers, &policies).into_iter().collect(),
    };
    told.retain(|quota| *quota != RateLimitState::default());
    if told.is_empty() {
        told.extend(policies.iter().filter(|policy| policy.of_calls).filter_map(alone));
    }
    told
}

/// The window of a policy that allows so many calls.
pub(super) fn window_of(headers: &HeaderMap, limit: u64) -> Option<Duration> {
    let policies = policies(headers);
    policies.iter().find(|policy| policy.limit == Some(limit))?.window
}

/// `"default";r=50;t=30`; `None`: not of calls, or no name.
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

/// A policy of which nobody says how much is left.
fn alone(policy: &Policy) -> Option<RateLimitState> {
    let (limit, window) = (policy.limit?, policy.window);
    Some(RateLimitState { limit: Some(limit), window, ..RateLimitState::default() })
}

fn dictionary(headers: &HeaderMap, policies: &[Policy]) -> Option<RateLimitState> {
    let members: Dictionary = Parser::new(&joined(headers, &RATE_LIMIT)).parse().ok()?;
    let number = |key: &str| match members.get(key)? {
        ListEntry::Item(item) => natural(&item.bare_item),
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
        limit: parameter(&item.params, "q").or_else(|| natural(&item.bare_item)),
        window: parameter(&item.params, "w").map(Duration::from_secs).and_then(window),
        of_calls: unit.is_none_or(|unit| unit == "requests"),
    }
}

/// The members of a list; `None`: it is none.
fn items(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<Item>> {
    let list: List = Parser::new(&joined(headers, name)).parse().ok()?;
    let only_items = list.into_iter().filter_map(|entry| match entry {
        ListEntry::Item(item) => Some(item),
        ListEntry::InnerList(_) => None,
    });
    Some(only_items.take(MOST).collect())
}

fn joined(headers: &HeaderMap, name: &HeaderName) -> Vec<u8> {
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(http::HeaderValue::as_bytes).collect();
    lines.join(&b", "[..])
}

fn name(item: &BareItem) -> Option<&str> {
    item.as_string().map(StringRef::as_str).or_else(|| Some(item.as_token()?.as_str()))
}

fn parameter(parameters: &Parameters, key: &str) -> Option<u64> {
    natural(parameters.get(key)?)
}

fn natural(item: &BareItem) -> Option<u64> {
    u64::try_from(i64::from(item.as_integer()?)).ok()
}

fn reset(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds)).filter(|told| *told <= LONGEST)
}
