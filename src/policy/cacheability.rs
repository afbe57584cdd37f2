//! What a policy makes of an answer: how long it may be reused, and whether it is kept at all.
//!
//! Owns: the five forms of `ttl` against the origin's word (RFC 9111 §3, §4.2, RFC 5861, RFC 9213).
//! Never touches: the request's own directives, which `decide` weighs; the clock.

mod ttl_jitter;

use std::time::{Duration, SystemTime};

use http::{HeaderMap, Method, StatusCode};

use crate::policy::{Policy, SetCookiePolicy, Ttl};
use crate::semantics::cache_control::{Directive, MAX_DELTA};
use crate::semantics::connection_auth;
use crate::semantics::freshness;
use crate::semantics::request::ProxyRequest;
use crate::semantics::response_metadata::CacheMetadata;
use crate::semantics::status;
use crate::semantics::storability::{self, CacheKind, NotStoredReason};
use crate::semantics::vary::Vary;

/// How long a stale answer may stand in for an error where the operator's `ttl` rules and nothing
/// else is said.
const DEFAULT_STALE_IF_ERROR: Duration = Duration::from_secs(24 * 60 * 60);

/// What policy and origin together say about reusing an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// How long it is fresh.
    pub lifetime: Lifetime,
    /// The stale-while-revalidate window.
    pub swr: Duration,
    /// The stale-if-error window.
    pub sie: Duration,
    /// Whether it may be served stale at all (RFC 9111 §4.2.4).
    pub stale_allowed: bool,
    /// Whether the origin must be asked before every use (RFC 9111 §5.2.2.4).
    pub revalidate_always: bool,
    /// From when the lifetime counts.
    pub since: LifetimeStart,
}

/// How long an answer is fresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// This long.
    For(Duration),
    /// As long as it is stored.
    Forever,
}

/// From when a lifetime counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifetimeStart {
    /// From when the origin made the answer: its age on arrival counts (RFC 9111 §4.2).
    Made,
    /// From when larder received it: the operator's word is not shortened by what the origin or a
    /// cache before it says of ages.
    Received,
}

/// Where an answer stands at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreshnessState {
    /// Fresh for this much longer; never zero.
    Fresh(Duration),
    /// Stale since this long.
    Stale(Duration),
}

impl FreshnessState {
    /// The remaining freshness in seconds (RFC 9211 §2.5): above zero exactly while fresh.
    pub fn ttl(self) -> i64 {
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        match self {
            Self::Fresh(left) if left.subsec_nanos() > 0 => seconds(left).saturating_add(1),
            Self::Fresh(left) => seconds(left),
            Self::Stale(by) => -seconds(by),
        }
    }
}

impl Freshness {
    /// What may not be reused.
    const UNUSABLE: Self = Self {
        lifetime: Lifetime::For(Duration::ZERO),
        swr: Duration::ZERO,
        sie: Duration::ZERO,
        stale_allowed: false,
        revalidate_always: true,
        since: LifetimeStart::Made,
    };

    /// Where an answer stands that arrived at `response_time` with this age.
    pub fn standing(
        &self,
        initial_age: Duration,
        response_time: SystemTime,
        now: SystemTime,
    ) -> FreshnessState {
        let Lifetime::For(lifetime) = self.lifetime else {
            return FreshnessState::Fresh(MAX_DELTA);
        };
        let from = match self.since {
            LifetimeStart::Made => initial_age,
            LifetimeStart::Received => Duration::ZERO,
        };
        let age = freshness::current_age(from, response_time, now);
        // RFC 9111 §4.2: fresh means lifetime > age.
        match lifetime.checked_sub(age) {
            Some(left) if left > Duration::ZERO => FreshnessState::Fresh(left),
            Some(_) | None => FreshnessState::Stale(age.saturating_sub(lifetime)),
        }
    }
}

impl Policy {
    /// How long an answer that says `said` may be reused. Asked anew at every read, so that a
    /// changed policy counts for what was stored before it.
    pub fn freshness(
        &self,
        said: &CacheMetadata,
        status: StatusCode,
        kind: CacheKind,
        response_time: SystemTime,
    ) -> Freshness {
        let said = self.effective_metadata(said);
        let Some(lifetime) = self.lifetime(said, status, kind, response_time) else {
            return Freshness::UNUSABLE;
        };
        let lifetime = ttl_jitter::shortened(lifetime, self.ttl_jitter, response_time);
        let (own_swr, own_sie) = (self.stale_while_revalidate, self.stale_if_error.window);
        if self.ttl.overrides_origin() {
            return Freshness {
                lifetime,
                swr: own_swr.unwrap_or_default(),
                sie: own_sie.unwrap_or(DEFAULT_STALE_IF_ERROR),
                stale_allowed: true,
                revalidate_always: false,
                since: LifetimeStart::Received,
            };
        }
        if storability::forbidden(said, kind).is_some() {
            return Freshness::UNUSABLE;
        }
        let cache_control = &said.cache_control;
        Freshness {
            lifetime,
            swr: own_swr.or(cache_control.stale_while_revalidate).unwrap_or_default(),
            sie: own_sie.or(cache_control.stale_if_error).unwrap_or_default(),
            stale_allowed: freshness::may_be_served_stale(said, kind),
            revalidate_always: cache_control.has(Directive::NoCache),
            since: LifetimeStart::Made,
        }
    }

    /// The origin's word as this policy listens to it: where it counts, a targeted field's in place
    /// of `Cache-Control` (RFC 9213 §2.2). Asked at every read, like all that follows from it.
    pub fn effective_metadata<'s>(&self, said: &'s CacheMetadata) -> &'s CacheMetadata {
        if self.ttl.overrides_origin() {
            said
        } else {
            said.select_targeted(&self.targeted_cache_control)
        }
    }

    /// Whether the answer to `asked` is kept: `Ok` with the fields to keep.
    pub fn storability(
        &self,
        asked: &ProxyRequest,
        status: StatusCode,
        headers: &HeaderMap,
        said: &CacheMetadata,
        kind: CacheKind,
    ) -> Result<HeaderMap, NotStoredReason> {
        if asked.method != Method::GET {
            return Err(NotStoredReason::Method);
        }
        if asked.cache_control().no_store {
            return Err(NotStoredReason::RequestNoStore);
        }
        if status::is_never_stored(status) {
            return Err(NotStoredReason::Status);
        }
        if storability::is_event_stream(headers) {
            return Err(NotStoredReason::EventStream);
        }
        if Vary::of(headers) == Vary::Any {
            return Err(NotStoredReason::VaryAny);
        }
        if connection_auth::is_asked_for(headers) {
            return Err(NotStoredReason::SignIn);
        }
        if said.has_set_cookie && self.set_cookie == SetCookiePolicy::Refuse {
            return Err(NotStoredReason::SetCookie);
        }
        let heard = self.effective_metadata(said);
        self.origin_allows(asked, heard, kind)?;
        self.can_be_reused(status, heard, kind)?;
        // Fields that either word names stay out: the policy may listen to the other one tomorrow.
        let mut kept = storability::kept_fields(headers, said, kind);
        storability::leave_named_out(&mut kept, heard, kind);
        match self.set_cookie {
            SetCookiePolicy::Refuse | SetCookiePolicy::Strip => {
                storability::strip_cookies(&mut kept)
            }
            SetCookiePolicy::Keep => {}
        }
        Ok(kept)
    }

    /// Whether an answer that was stored under an earlier policy may still be used or confirmed under
    /// this one, by what its request carried and what it holds. The rest [`Policy::freshness`] tells.
    pub fn is_still_reusable(
        &self,
        said: &CacheMetadata,
        authorized: bool,
        kind: CacheKind,
    ) -> bool {
        let cookies = said.has_set_cookie && self.set_cookie != SetCookiePolicy::Keep;
        let another = authorized && storability::needs_leave(self.effective_metadata(said), kind);
        !cookies && (self.ttl.overrides_origin() || !another)
    }

    /// RFC 9111 §3: the origin's prohibitions, unless the operator's word sets them aside.
    fn origin_allows(
        &self,
        asked: &ProxyRequest,
        said: &CacheMetadata,
        kind: CacheKind,
    ) -> Result<(), NotStoredReason> {
        if self.ttl.overrides_origin() {
            return Ok(());
        }
        if let Some(why) = storability::forbidden(said, kind) {
            return Err(why);
        }
        if storability::authorization_forbids(&asked.headers, said, kind) {
            return Err(NotStoredReason::Authorization);
        }
        Ok(())
    }

    /// Nothing is kept that nothing could ever reuse.
    fn can_be_reused(
        &self,
        status: StatusCode,
        said: &CacheMetadata,
        kind: CacheKind,
    ) -> Result<(), NotStoredReason> {
        // Without a Date the exact lifetime is not known yet; that there is one is enough here.
        let made = said.date.unwrap_or(SystemTime::UNIX_EPOCH);
        if self.lifetime(said, status, kind, made).is_none() {
            let unnamed = self.ttl.overrides_origin() || status::is_momentary(status);
            return Err(if unnamed {
                NotStoredReason::Status
            } else {
                NotStoredReason::NoFreshness
            });
        }
        let reuse = self.freshness(said, status, kind, made);
        let is_fresh = reuse.lifetime != Lifetime::For(Duration::ZERO);
        let has_window = reuse.stale_allowed && reuse.swr.max(reuse.sie) > Duration::ZERO;
        if said.has_validator() || !reuse.revalidate_always && (is_fresh || has_window) {
            Ok(())
        } else {
            Err(NotStoredReason::NoFreshness)
        }
    }

    /// The lifetime of an answer with this status; `None` where this policy does not keep it.
    fn lifetime(
        &self,
        said: &CacheMetadata,
        status: StatusCode,
        kind: CacheKind,
        response_time: SystemTime,
    ) -> Option<Lifetime> {
        if status::is_never_stored(status) {
            return None;
        }
        let named = self.ttl_by_status.iter().find(|(pattern, _)| pattern.matches(status));
        if let Some((_, lifetime)) = named {
            return Some(Lifetime::For(*lifetime));
        }
        let covered = status::is_covered_by_ttl(status);
        let explicit = freshness::explicit_lifetime(said, kind, response_time);
        let guessed = || heuristic_lifetime(said, status, response_time);
        let lifetime = match self.ttl {
            Ttl::Forever => return covered.then_some(Lifetime::Forever),
            Ttl::Override(lifetime) => covered.then_some(lifetime),
            Ttl::Origin => explicit.or_else(guessed),
            Ttl::Fallback(_) | Ttl::Clamp { .. } if status::is_momentary(status) => None,
            Ttl::Fallback(lifetime) => {
                explicit.or_else(|| if covered { Some(lifetime) } else { guessed() })
            }
            Ttl::Clamp { min, max } if covered || explicit.is_some() => {
                explicit.or_else(guessed).map(|lifetime| lifetime.clamp(min, max.max(min)))
            }
            // The floor is for what the origin would have kept, not for its errors.
            Ttl::Clamp { max, .. } => guessed().map(|lifetime| lifetime.min(max)),
        };
        lifetime.map(Lifetime::For)
    }
}

/// RFC 9111 §3, §4.2.2: without a stated lifetime some codes may be kept, for a guessed time or to
/// be validated at every use.
fn heuristic_lifetime(
    said: &CacheMetadata,
    status: StatusCode,
    response_time: SystemTime,
) -> Option<Duration> {
    let public = said.cache_control.has(Directive::Public);
    // RFC 9110 §15.6.2: what an origin cannot do it will not learn in a moment; of other failures of
    // its own it must say that they may be kept.
    let lasts = status == StatusCode::NOT_IMPLEMENTED || (status.is_server_error() && public);
    if status::is_momentary(status) && !lasts {
        return None;
    }
    let may_be_kept = status::is_heuristically_cacheable(status) || public;
    freshness::heuristic_lifetime(said, status, response_time)
        .or(may_be_kept.then_some(Duration::ZERO))
}

#[cfg(test)]
mod tests;
