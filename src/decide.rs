//! The decision: given what was asked and what is stored, what happens next.
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

/// What the store holds for a request.
#[derive(Debug, Clone, Copy)]
pub enum CacheLookup<'a> {
    /// Nothing under the key.
    Nothing,
    /// Only answers that other request fields chose.
    OtherVariants,
    /// Only a part of the answer, and not all that is asked for is in it.
    OtherPart,
    /// A part of the answer, and all that is asked for is in it ([`PartialResponse::holding`]).
    Part(&'a PartialResponse),
    /// This.
    Stored(&'a StoredResponse),
}

/// What happens next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Answer from the store.
    Serve {
        /// The remaining freshness in seconds; zero or negative when served stale.
        ttl: i64,
        /// Stale, but within stale-while-revalidate (or the client's max-stale): `Some` says why it
        /// may be served all the same.
        stale: Option<StaleReason>,
        /// Ask for a background fill.
        refresh: bool,
    },
    /// Ask the origin.
    Forward {
        /// Why the store could not answer; the token of `Cache-Status: fwd`.
        why: ForwardReason,
        /// Send the stored validators.
        validate: bool,
        /// Something is stored that may stand in for an error: ask `stand_in` when one happens.
        fallback: bool,
        /// Whether the answer may be stored (`false`: the request said `no-store`).
        store: bool,
    },
    /// Neither: the client forbade asking the origin (RFC 9111 §5.2.1.7): 504.
    Refuse,
}

/// Why a stale answer is served without asking first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StaleReason {
    /// RFC 5861 §3.
    WhileRevalidate,
    /// The request's own `max-stale` (RFC 9111 §5.2.1.2).
    MaxStale,
    /// Larder is offline: there is nothing better.
    Offline,
}

impl StaleReason {
    /// The one name for it in logs, metrics and answers.
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
    /// Caching is not attempted at all.
    Bypass,
    /// The method is not one that is cached.
    Method,
    /// Nothing is stored under the key.
    UriMiss,
    /// Only other variants are stored.
    VaryMiss,
    /// Only a part of what is asked for is stored.
    Partial,
    /// What is stored is stale.
    Stale,
    /// The request's own directives ask for it.
    Request,
}

impl ForwardReason {
    /// The one name for it in logs, metrics and answers.
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

/// Decides about a request whose route caches.
pub fn decide(
    asked: &ProxyRequest,
    policy: &Policy,
    kind: CacheKind,
    found: CacheLookup<'_>,
    now: SystemTime,
) -> Decision {
    decide_with(asked, &asked.cache_control(), policy, kind, found, now)
}

/// [`decide`] while larder is offline: as if the request also said `only-if-cached, max-stale`. What
/// the origin forbids to show stale is not shown, and what the client insists on is not to be had.
pub fn decide_offline(
    asked: &ProxyRequest,
    policy: &Policy,
    kind: CacheKind,
    found: CacheLookup<'_>,
    now: SystemTime,
) -> Decision {
    let mut wish = asked.cache_control();
    wish.only_if_cached = true;
    wish.max_stale = Some(Duration::MAX);
    match decide_with(asked, &wish, policy, kind, found, now) {
        Decision::Serve { ttl, stale: Some(_), refresh } => {
            Decision::Serve { ttl, stale: Some(StaleReason::Offline), refresh }
        }
        decision @ (Decision::Serve { .. } | Decision::Forward { .. } | Decision::Refuse) => {
            decision
        }
    }
}

fn decide_with(
    asked: &ProxyRequest,
    wish: &RequestCacheControl,
    policy: &Policy,
    kind: CacheKind,
    found: CacheLookup<'_>,
    now: SystemTime,
) -> Decision {
    // RFC 9111 §2, RFC 9110 §9.2.3: only GET is stored; it answers HEAD too.
    if asked.method != Method::GET && asked.method != Method::HEAD {
        return Decision::forward(ForwardReason::Method, None).unstored();
    }
    let decision = match found {
        // §5.2.1.5 no-store: this exchange neither reads nor writes the store.
        _ if wish.no_store => Decision::forward(ForwardReason::Request, None).unstored(),
        CacheLookup::Nothing => Decision::forward(ForwardReason::UriMiss, None),
        // §4.1: what other request fields chose does not match.
        CacheLookup::OtherVariants => Decision::forward(ForwardReason::VaryMiss, None),
        // RFC 9111 §3.3: a part answers for no more than it holds.
        CacheLookup::OtherPart => Decision::forward(ForwardReason::Partial, None),
        CacheLookup::Part(part) => {
            while_fresh(reuse(wish, &EvaluatedEntry::new(policy, kind, part.head(), now)))
        }
        CacheLookup::Stored(stored) => {
            reuse(wish, &EvaluatedEntry::new(policy, kind, stored.into(), now))
        }
    };
    // §5.2.1.7 only-if-cached: the origin is not asked, neither now nor in the background.
    match decision {
        Decision::Forward { .. } if wish.only_if_cached => Decision::Refuse,
        Decision::Serve { ttl, stale, .. } if wish.only_if_cached => {
            Decision::Serve { ttl, stale, refresh: false }
        }
        Decision::Serve { .. } | Decision::Forward { .. } | Decision::Refuse => decision,
    }
}

/// A part is served while it is fresh, and then asked for anew: it is neither validated nor stands in
/// for an error.
fn while_fresh(decision: Decision) -> Decision {
    match decision {
        Decision::Serve { stale: Some(_), .. } => Decision::forward(ForwardReason::Stale, None),
        Decision::Forward { why, .. } => Decision::forward(why, None),
        Decision::Serve { stale: None, .. } | Decision::Refuse => decision,
    }
}

/// RFC 9111 §4: whether a stored answer may be used without asking the origin.
fn reuse(wish: &RequestCacheControl, seen: &EvaluatedEntry<'_>) -> Decision {
    let Freshness { swr, stale_allowed, revalidate_always, .. } = seen.freshness;
    let ttl = seen.standing.ttl();
    // §5.2.1.4 the client's no-cache (or max-age=0); §5.2.2.4 the origin's no-cache.
    if wish.insists() || revalidate_always {
        let why = if wish.insists() { ForwardReason::Request } else { ForwardReason::Stale };
        return Decision::forward(why, Some(seen));
    }
    // §5.2.1.1 max-age: the client wants nothing older.
    let young_enough = wish.max_age.is_none_or(|most| seen.age <= most);
    match seen.standing {
        // §4.2 fresh, and §5.2.1.3 min-fresh: for as long as the client needs it.
        FreshnessState::Fresh(left) if young_enough && wish.min_fresh.is_none_or(|n| left >= n) => {
            Decision::Serve { ttl, stale: None, refresh: false }
        }
        FreshnessState::Fresh(_) => Decision::forward(ForwardReason::Request, Some(seen)),
        // §4.2.4: the origin forbids it; the client's own limits do.
        FreshnessState::Stale(_) if !stale_allowed || !young_enough || wish.min_fresh.is_some() => {
            Decision::forward(ForwardReason::Stale, Some(seen))
        }
        // RFC 5861 §3: answer now, ask behind the client's back.
        FreshnessState::Stale(by) if by < swr && !seen.superseded => {
            Decision::Serve { ttl, stale: Some(StaleReason::WhileRevalidate), refresh: true }
        }
        // §5.2.1.2 max-stale: the client does not mind.
        FreshnessState::Stale(by)
            if !seen.superseded && wish.max_stale.is_some_and(|most| by <= most) =>
        {
            Decision::Serve { ttl, stale: Some(StaleReason::MaxStale), refresh: false }
        }
        FreshnessState::Stale(_) => Decision::forward(ForwardReason::Stale, Some(seen)),
    }
}

/// Whether the stored answer may stand in for `failure` (RFC 9111 §4.2.4, RFC 5861 §4): its
/// remaining freshness, zero or negative when stale. Above zero it is fresh and was only asked
/// about because the client insisted.
pub fn stale_if_error(
    asked: &ProxyRequest,
    policy: &Policy,
    kind: CacheKind,
    stored: &StoredResponse,
    failure: ErrorClass,
    now: SystemTime,
) -> Option<i64> {
    let hidden = policy.stale_if_error.covers(failure);
    let seen = EvaluatedEntry::new(policy, kind, stored.into(), now);
    // §5.2.1.5: a request that said no-store is not answered from the store, come what may.
    (hidden && seen.may_stand_in() && !asked.cache_control().no_store).then(|| seen.standing.ttl())
}

/// The remaining freshness of a stored answer under the current policy, in seconds.
pub fn ttl(policy: &Policy, kind: CacheKind, stored: &StoredResponse, now: SystemTime) -> i64 {
    EvaluatedEntry::new(policy, kind, FreshnessInput::of_either(stored), now).standing.ttl()
}

/// From when a stored answer is of no more use under the current policy; `None`: never. A bound for
/// sweeping, no verdict: every read computes its own.
pub fn useful_until(
    policy: &Policy,
    kind: CacheKind,
    stored: &StoredResponse,
) -> Option<SystemTime> {
    let received = stored.response_time;
    let head = FreshnessInput::of_either(stored);
    let freshness = policy.freshness(head.said, head.status, kind, received);
    let Lifetime::For(lifetime) = freshness.lifetime else { return None };
    // RFC 9111 §4.3: a validator saves the body of an answer that is stale for long.
    let window = freshness.swr.max(freshness.sie);
    let window = if stored.said.has_validator() { window.max(REVALIDATABLE) } else { window };
    received.checked_add(lifetime)?.checked_add(window)
}

/// How long a stale answer with a validator is kept for the 304 it may bring.
const REVALIDATABLE: Duration = Duration::from_secs(24 * 60 * 60);

/// A stored answer as seen now, through the current policy.
struct EvaluatedEntry<'a> {
    said: &'a CacheMetadata,
    status: StatusCode,
    policy: &'a Policy,
    freshness: Freshness,
    standing: FreshnessState,
    /// There is something newer.
    superseded: bool,
    age: Duration,
}

impl<'a> EvaluatedEntry<'a> {
    fn new(policy: &'a Policy, kind: CacheKind, head: FreshnessInput<'a>, now: SystemTime) -> Self {
        let FreshnessInput { said, status, response_time, initial_age, outdated } = head;
        let freshness = policy.freshness(said, status, kind, response_time);
        let standing = freshness.standing(initial_age, response_time, now);
        // A soft purge ends the lifetime there and then; the stale windows run from it.
        let standing = match (standing, outdated) {
            (standing, Some(ForcedStale { at, .. })) => {
                let since = now.duration_since(at).unwrap_or_default();
                let before = match standing {
                    FreshnessState::Fresh(_) => Duration::ZERO,
                    FreshnessState::Stale(by) => by,
                };
                FreshnessState::Stale(since.max(before))
            }
            (standing, None) => standing,
        };
        let age = freshness::current_age(initial_age, response_time, now);
        let superseded = outdated.is_some_and(|outdated| outdated.superseded);
        Self { said, status, policy, freshness, standing, superseded, age }
    }

    /// Whether it may be shown in place of an error, if one happened now. An error that is stored
    /// stands in for nothing.
    fn may_stand_in(&self) -> bool {
        let in_time = match self.standing {
            FreshnessState::Fresh(_) => true,
            FreshnessState::Stale(by) => self.freshness.stale_allowed && by < self.freshness.sie,
        };
        in_time
            && !self.freshness.revalidate_always
            && !self.policy.stale_if_error.covers_status(self.status)
    }
}

impl Decision {
    fn forward(why: ForwardReason, seen: Option<&EvaluatedEntry<'_>>) -> Self {
        Self::Forward {
            why,
            // §4.3.1: a 304 costs less than an answer, at many origins nothing.
            validate: seen.is_some_and(|seen| seen.said.has_validator()),
            fallback: seen.is_some_and(EvaluatedEntry::may_stand_in),
            store: true,
        }
    }

    fn unstored(self) -> Self {
        match self {
            Self::Forward { why, validate, fallback, .. } => {
                Self::Forward { why, validate, fallback, store: false }
            }
            Self::Serve { .. } | Self::Refuse => self,
        }
    }
}

#[cfg(test)]
mod tests;
