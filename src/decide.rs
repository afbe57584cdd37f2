//! The cache decision: serve a stored response, forward the request, or refuse it.
//!
//! Owns: the order in which the rules apply. Never touches: the store, the network, the clock.

use std::time::{Duration, SystemTime};

use http::{Method, StatusCode};

pub use crate::policy::error_match::ErrorClass;
use crate::policy::{Freshness, FreshnessState, Lifetime, Policy};

use crate::semantics::cache_control::RequestCacheControl;
use crate::semantics::freshness;
use crate::semantics::request::ProxyRequest;
use crate::semantics::response_metadata::CacheMetadata;
use crate::semantics::storability::CacheKind;
use crate::stored::partial::PartialResponse;
use crate::stored::{ForcedStale, FreshnessInput, StoredResponse};

/// The result of a store lookup for a request.
#[derive(Debug, Clone, Copy)]
pub enum CacheLookup<'a> {
    /// Nothing is stored under the key.
    Nothing,
    /// Only variants for other request fields (`Vary`).
    OtherVariants,
    /// Only a partial response that does not contain the whole requested range.
    OtherPartial,
    /// A partial response that contains the requested range ([`PartialResponse::available_range`]).
    Partial(&'a PartialResponse),
    /// A complete response.
    Stored(&'a StoredResponse),
}

/// How a request is handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Respond from the store.
    Serve {
        /// The remaining freshness in seconds; zero or negative when served stale.
        ttl: i64,
        /// `Some` for a stale response: the reason why it may be served.
        stale: Option<StaleReason>,
        /// Start a background fill.
        refresh: bool,
    },
    /// Forward the request to the origin.
    Forward {
        /// Why the request is forwarded; the token of `Cache-Status: fwd`.
        reason: ForwardReason,
        /// Send the stored validators.
        validate: bool,
        /// A stored response may be served if the origin fails: call [`stale_if_error`] on an error.
        fallback: bool,
        /// Whether the response may be stored (`false`: the request has `no-store`).
        store: bool,
    },
    /// Respond 504: the client forbids forwarding (`only-if-cached`, RFC 9111 §5.2.1.7).
    Refuse,
}

/// Why a stale response is served without revalidation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StaleReason {
    /// RFC 5861 §3.
    WhileRevalidate,
    /// The request's own `max-stale` (RFC 9111 §5.2.1.2).
    MaxStale,
    /// Larder is offline.
    Offline,
}

impl StaleReason {
    /// The token for logs, metrics and responses.
    pub fn token(self) -> &'static str {
        match self {
            Self::WhileRevalidate => "stale-while-revalidate",
            Self::MaxStale => "max-stale",
            Self::Offline => "offline",
        }
    }
}

/// Why a request is forwarded (RFC 9211 §2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ForwardReason {
    /// Caching is bypassed.
    Bypass,
    /// Responses to this method are not cached.
    Method,
    /// Nothing is stored under the key.
    UriMiss,
    /// Only other variants are stored.
    VaryMiss,
    /// Only a part of the requested range is stored.
    Partial,
    /// The stored response is stale.
    Stale,
    /// A directive of the request requires it.
    Request,
}

impl ForwardReason {
    /// The token for logs, metrics and responses.
    pub fn token(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Partial => "partial",
            Self::Stale => "stale",
            Self::Request => "request",
        }
    }
}

/// The facts on which all decisions about a request depend.
#[derive(Debug, Clone, Copy)]
pub struct DecisionInput<'a> {
    /// The method of the request.
    pub method: &'a Method,
    /// The cache directives of the request (RFC 9111 §5.2.1).
    pub directives: RequestCacheControl,
    /// The policy of its route.
    pub policy: &'a Policy,
    /// The kind of cache that larder is for the request.
    pub kind: CacheKind,
    /// The time of the decision.
    pub now: SystemTime,
}

impl<'a> DecisionInput<'a> {
    /// The input for `request`.
    pub fn new(request: &'a ProxyRequest, policy: &'a Policy, kind: CacheKind, now: SystemTime) -> Self {
        let (method, directives) = (&request.method, policy.request_directives(request));
        Self { method, directives, policy, kind, now }
    }

    fn evaluate(&self, head: FreshnessInput<'a>) -> EvaluatedEntry<'a> {
        EvaluatedEntry::new(self.policy, self.kind, head, self.now)
    }
}

/// [`decide`] in offline mode: as if the request also had `only-if-cached, max-stale`. Responses that the
/// origin forbids to serve stale are not served, and a request that requires the origin is refused.
pub fn decide_offline(input: &DecisionInput<'_>, lookup: CacheLookup<'_>) -> Decision {
    let mut offline = *input;
    offline.directives.only_if_cached = true;
    offline.directives.max_stale = Some(Duration::MAX);
    match decide(&offline, lookup) {
        Decision::Serve { ttl, stale: Some(_), refresh } => {
            Decision::Serve { ttl, stale: Some(StaleReason::Offline), refresh }
        }
        decision @ (Decision::Serve { .. } | Decision::Forward { .. } | Decision::Refuse) => decision,
    }
}

/// Decides on a request that a caching route matches.
pub fn decide(input: &DecisionInput<'_>, lookup: CacheLookup<'_>) -> Decision {
    let DecisionInput { method, directives, .. } = *input;
    // RFC 9111 §2, RFC 9110 §9.2.3: only GET responses are stored; they also serve HEAD.
    if method != Method::GET && method != Method::HEAD {
        return Decision::forward(ForwardReason::Method, None).without_storing();
    }
    let decision = match lookup {
        // §5.2.1.5 no-store: the request neither reads nor writes the store.
        _ if directives.no_store => Decision::forward(ForwardReason::Request, None).without_storing(),
        CacheLookup::Nothing => Decision::forward(ForwardReason::UriMiss, None),
        // §4.1: variants for other request fields do not match.
        CacheLookup::OtherVariants => Decision::forward(ForwardReason::VaryMiss, None),
        // RFC 9111 §3.3: a partial response serves only the range that it contains.
        CacheLookup::OtherPartial => Decision::forward(ForwardReason::Partial, None),
        CacheLookup::Partial(part) => {
            only_if_fresh(reuse(&directives, &input.evaluate(part.freshness_input())))
        }
        CacheLookup::Stored(stored) => reuse(&directives, &input.evaluate(stored.into())),
    };
    // §5.2.1.7 only-if-cached: no call to the origin, neither now nor in the background.
    match decision {
        Decision::Forward { .. } if directives.only_if_cached => Decision::Refuse,
        Decision::Serve { ttl, stale, .. } if directives.only_if_cached => {
            Decision::Serve { ttl, stale, refresh: false }
        }
        Decision::Serve { .. } | Decision::Forward { .. } | Decision::Refuse => decision,
    }
}

/// A partial response is served only while it is fresh: it is neither revalidated nor served on errors.
fn only_if_fresh(decision: Decision) -> Decision {
    match decision {
        Decision::Serve { stale: Some(_), .. } => Decision::forward(ForwardReason::Stale, None),
        Decision::Forward { reason, .. } => Decision::forward(reason, None),
        Decision::Serve { stale: None, .. } | Decision::Refuse => decision,
    }
}

/// RFC 9111 §4: whether a stored response may be used without a call to the origin.
fn reuse(directives: &RequestCacheControl, entry: &EvaluatedEntry<'_>) -> Decision {
    let Freshness { swr, stale_allowed, revalidate_always, .. } = entry.freshness;
    let ttl = entry.state.ttl();
    // §5.2.1.4 the client's no-cache (or max-age=0); §5.2.2.4 the origin's no-cache.
    if directives.demands_revalidation() || revalidate_always {
        let reason =
            if directives.demands_revalidation() { ForwardReason::Request } else { ForwardReason::Stale };
        return Decision::forward(reason, Some(entry));
    }
    // §5.2.1.1 max-age: the client accepts no older response.
    let young_enough = directives.max_age.is_none_or(|most| entry.age <= most);
    match entry.state {
        // §4.2 fresh, and §5.2.1.3 min-fresh: it stays fresh for as long as the client requires.
        FreshnessState::Fresh(left) if young_enough && directives.min_fresh.is_none_or(|n| left >= n) => {
            Decision::Serve { ttl, stale: None, refresh: false }
        }
        FreshnessState::Fresh(_) => Decision::forward(ForwardReason::Request, Some(entry)),
        // §4.2.4: the origin or the client forbids stale responses.
        FreshnessState::Stale(_) if !stale_allowed || !young_enough || directives.min_fresh.is_some() => {
            Decision::forward(ForwardReason::Stale, Some(entry))
        }
        // RFC 5861 §3: respond now, revalidate in the background.
        FreshnessState::Stale(by) if by < swr && !entry.superseded => {
            Decision::Serve { ttl, stale: Some(StaleReason::WhileRevalidate), refresh: true }
        }
        // §5.2.1.2 max-stale: the client accepts it.
        FreshnessState::Stale(by)
            if !entry.superseded && directives.max_stale.is_some_and(|most| by <= most) =>
        {
            Decision::Serve { ttl, stale: Some(StaleReason::MaxStale), refresh: false }
        }
        FreshnessState::Stale(_) => Decision::forward(ForwardReason::Stale, Some(entry)),
    }
}

/// The remaining freshness of the stored response if it may be served because of `failure` (RFC 9111 §4.2.4,
/// RFC 5861 §4). Zero or negative if it is stale. Above zero it is fresh, and the request was forwarded only
/// because the client required it.
pub fn stale_if_error(
    input: &DecisionInput<'_>,
    stored: &StoredResponse,
    failure: ErrorClass,
) -> Option<i64> {
    let covered = input.policy.stale_if_error.covers(failure);
    let entry = input.evaluate(stored.into());
    // §5.2.1.5: a request with no-store is never served from the store.
    (covered && entry.usable_on_error() && !input.directives.no_store).then(|| entry.state.ttl())
}

/// The remaining freshness of a stored response under the current policy, in seconds.
pub fn ttl(policy: &Policy, kind: CacheKind, stored: &StoredResponse, now: SystemTime) -> i64 {
    EvaluatedEntry::new(policy, kind, FreshnessInput::from_complete_or_partial(stored), now).state.ttl()
}

/// The time after which a stored response is useless under the current policy; `None`: never. Only a bound
/// for sweeping: every read evaluates freshness itself.
pub fn useful_until(policy: &Policy, kind: CacheKind, stored: &StoredResponse) -> Option<SystemTime> {
    let received = stored.response_time;
    let head = FreshnessInput::from_complete_or_partial(stored);
    let freshness = policy.freshness(head.metadata, head.status, kind, received);
    let Lifetime::For(lifetime) = freshness.lifetime else { return None };
    // RFC 9111 §4.3: with a validator, even a response that is stale for long saves a transfer of the body.
    let window = freshness.swr.max(freshness.sie);
    let window = if stored.metadata.has_validator() { window.max(REVALIDATABLE) } else { window };
    received.checked_add(lifetime)?.checked_add(window)
}

/// How long a stale response with a validator is kept for revalidation.
const REVALIDATABLE: Duration = Duration::from_secs(24 * 60 * 60);

/// A stored response evaluated at a point in time under the current policy.
struct EvaluatedEntry<'a> {
    metadata: &'a CacheMetadata,
    status: StatusCode,
    policy: &'a Policy,
    freshness: Freshness,
    state: FreshnessState,
    /// A newer response is known.
    superseded: bool,
    age: Duration,
}

impl<'a> EvaluatedEntry<'a> {
    fn new(policy: &'a Policy, kind: CacheKind, head: FreshnessInput<'a>, now: SystemTime) -> Self {
        let FreshnessInput { metadata, status, response_time, initial_age, outdated: forced_stale } = head;
        let freshness = policy.freshness(metadata, status, kind, response_time);
        let state = freshness.state(initial_age, response_time, now);
        // A soft purge ends the freshness lifetime; the stale windows begin at the purge.
        let state = match (state, forced_stale) {
            (state, Some(ForcedStale { at, .. })) => {
                let since = now.duration_since(at).unwrap_or_default();
                let stale_for = match state {
                    FreshnessState::Fresh(_) => Duration::ZERO,
                    FreshnessState::Stale(by) => by,
                };
                FreshnessState::Stale(since.max(stale_for))
            }
            (state, None) => state,
        };
        let age = freshness::current_age(initial_age, response_time, now);
        let superseded = forced_stale.is_some_and(|forced_stale| forced_stale.superseded);
        Self { metadata, status, policy, freshness, state, superseded, age }
    }

    /// Whether it may be served if an error occurred now. A stored error response never is.
    fn usable_on_error(&self) -> bool {
        let within_window = match self.state {
            FreshnessState::Fresh(_) => true,
            FreshnessState::Stale(by) => self.freshness.stale_allowed && by < self.freshness.sie,
        };
        within_window
            && !self.freshness.revalidate_always
            && !self.policy.stale_if_error.covers_status(self.status)
    }
}

impl Decision {
    fn forward(reason: ForwardReason, entry: Option<&EvaluatedEntry<'_>>) -> Self {
        Self::Forward {
            reason,
            // §4.3.1: a 304 costs less than a full response, at many origins nothing.
            validate: entry.is_some_and(|entry| entry.metadata.has_validator()),
            fallback: entry.is_some_and(EvaluatedEntry::usable_on_error),
            store: true,
        }
    }

    fn without_storing(self) -> Self {
        match self {
            Self::Forward { reason, validate, fallback, .. } => {
                Self::Forward { reason, validate, fallback, store: false }
            }
            Self::Serve { .. } | Self::Refuse => self,
        }
    }
}

#[cfg(test)]
mod tests;
