//! Freshness and storability of a response under a policy.
//!
//! Owns: the five forms of `ttl` combined with the origin's fields (RFC 9111 §3, §4.2, RFC 5861, RFC 9213).
//! Never touches: the directives of the request, which `decide` evaluates; the clock.

mod ttl_jitter;

use std::time::{Duration, SystemTime};

use http::{HeaderMap, Method, StatusCode};

use crate::policy::{Policy, SetCookiePolicy, Ttl};
use crate::semantics::cache_control::{Directive, MAX_DELTA};
use crate::semantics::connection_auth;
use crate::semantics::event_stream;
use crate::semantics::freshness;
use crate::semantics::request::ProxyRequest;
use crate::semantics::response_metadata::CacheMetadata;
use crate::semantics::status;
use crate::semantics::storability::{self, CacheKind, NotStoredReason};
use crate::semantics::vary::Vary;

/// The default stale-if-error window if `ttl` overrides the origin.
const DEFAULT_STALE_IF_ERROR: Duration = Duration::from_secs(24 * 60 * 60);

/// The rules for reuse of a response that result from policy and origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// The freshness lifetime.
    pub lifetime: Lifetime,
    /// The stale-while-revalidate window.
    pub swr: Duration,
    /// The stale-if-error window.
    pub sie: Duration,
    /// Whether it may be served stale at all (RFC 9111 §4.2.4).
    pub stale_allowed: bool,
    /// Whether every use requires revalidation (RFC 9111 §5.2.2.4).
    pub revalidate_always: bool,
    /// The start of the lifetime.
    pub since: LifetimeStart,
}

/// A freshness lifetime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// A duration.
    For(Duration),
    /// As long as it is stored.
    Forever,
}

/// The start of a lifetime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifetimeStart {
    /// The time at which the origin generated the response: its age on arrival counts (RFC 9111 §4.2).
    Made,
    /// The time at which larder received the response: an age from the origin or an upstream cache does not
    /// shorten a `ttl` that overrides the origin.
    Received,
}

/// The state of a response at a point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreshnessState {
    /// Fresh for this remaining time; never zero.
    Fresh(Duration),
    /// Stale for this time.
    Stale(Duration),
}

impl FreshnessState {
    /// The remaining freshness in seconds (RFC 9211 §2.5): above zero if and only if fresh.
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
    /// A response that must not be reused.
    const UNUSABLE: Self = Self {
        lifetime: Lifetime::For(Duration::ZERO),
        swr: Duration::ZERO,
        sie: Duration::ZERO,
        stale_allowed: false,
        revalidate_always: true,
        since: LifetimeStart::Made,
    };

    /// The state at `now` of a response that arrived at `response_time` with the age `initial_age`.
    pub fn state(&self, initial_age: Duration, response_time: SystemTime, now: SystemTime) -> FreshnessState {
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

/// The head of a response that may be stored.
#[derive(Debug, Clone, Copy)]
pub struct ResponseToStore<'a> {
    /// Its status; a part of a representation counts as the whole.
    pub status: StatusCode,
    /// Its end-to-end fields.
    pub headers: &'a HeaderMap,
    /// The cache metadata of both.
    pub metadata: &'a CacheMetadata,
}

impl Policy {
    /// The freshness of a response with this metadata. Computed at every read, so that a changed policy
    /// applies to responses stored before the change.
    pub fn freshness(
        &self,
        metadata: &CacheMetadata,
        status: StatusCode,
        kind: CacheKind,
        response_time: SystemTime,
    ) -> Freshness {
        let metadata = self.effective_metadata(metadata);
        let Some(lifetime) = self.lifetime(metadata, status, kind, response_time) else {
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
        if storability::origin_prohibition(metadata, kind).is_some() {
            return Freshness::UNUSABLE;
        }
        let cache_control = &metadata.cache_control;
        Freshness {
            lifetime,
            swr: own_swr.or(cache_control.stale_while_revalidate).unwrap_or_default(),
            sie: own_sie.or(cache_control.stale_if_error).unwrap_or_default(),
            stale_allowed: freshness::may_be_served_stale(metadata, kind),
            revalidate_always: cache_control.has(Directive::NoCache),
            since: LifetimeStart::Made,
        }
    }

    /// The metadata that this policy uses: that of a targeted field instead of `Cache-Control` (RFC 9213
    /// §2.2), unless `ttl` overrides the origin. Selected at every read, like all values derived from it.
    pub fn effective_metadata<'s>(&self, metadata: &'s CacheMetadata) -> &'s CacheMetadata {
        if self.ttl.overrides_origin() {
            metadata
        } else {
            metadata.select_targeted(&self.targeted_cache_control)
        }
    }

    /// Whether the response to `request` is stored: `Ok` with the fields to store.
    pub fn storability(
        &self,
        request: &ProxyRequest,
        response: ResponseToStore<'_>,
        kind: CacheKind,
    ) -> Result<HeaderMap, NotStoredReason> {
        let ResponseToStore { status, headers, metadata } = response;
        if request.method != Method::GET && request.method != Method::HEAD {
            return Err(NotStoredReason::Method);
        }
        if self.request_directives(request).no_store {
            return Err(NotStoredReason::RequestNoStore);
        }
        if status::is_never_stored(status) {
            return Err(NotStoredReason::Status);
        }
        if event_stream::is_response(headers) {
            return Err(NotStoredReason::EventStream);
        }
        if Vary::from_response(headers) == Vary::Any {
            return Err(NotStoredReason::VaryAny);
        }
        if connection_auth::is_in_response(headers) {
            return Err(NotStoredReason::SignIn);
        }
        if metadata.has_set_cookie && self.set_cookie == SetCookiePolicy::Refuse {
            return Err(NotStoredReason::SetCookie);
        }
        let effective = self.effective_metadata(metadata);
        self.origin_allows(request, effective, kind)?;
        self.can_be_reused(status, effective, kind)?;
        // Fields that either `Cache-Control` or the targeted field names are left out: a later policy may use
        // the other one.
        let mut kept = storability::storable_fields(headers, metadata, kind);
        storability::remove_named_fields(&mut kept, effective, kind);
        match self.set_cookie {
            SetCookiePolicy::Refuse | SetCookiePolicy::Strip => {
                storability::strip_cookies(&mut kept);
            }
            SetCookiePolicy::Keep => {}
        }
        Ok(kept)
    }

    /// Whether a response stored under an earlier policy may still be used or revalidated under this one,
    /// considering the authorization of its request and its cookies. [`Policy::freshness`] covers the rest.
    pub fn is_still_reusable(&self, metadata: &CacheMetadata, authorized: bool, kind: CacheKind) -> bool {
        let cookies = metadata.has_set_cookie && self.set_cookie != SetCookiePolicy::Keep;
        let needs_permission =
            authorized && storability::lacks_permission(self.effective_metadata(metadata), kind);
        !cookies && (self.ttl.overrides_origin() || !needs_permission)
    }

    /// RFC 9111 §3: the origin's prohibitions, unless `ttl` overrides them.
    fn origin_allows(
        &self,
        request: &ProxyRequest,
        metadata: &CacheMetadata,
        kind: CacheKind,
    ) -> Result<(), NotStoredReason> {
        if self.ttl.overrides_origin() {
            return Ok(());
        }
        if let Some(reason) = storability::origin_prohibition(metadata, kind) {
            return Err(reason);
        }
        if storability::authorization_forbids(&request.headers, metadata, kind) {
            return Err(NotStoredReason::Authorization);
        }
        Ok(())
    }

    /// Refuses to store a response that could never be reused.
    fn can_be_reused(
        &self,
        status: StatusCode,
        metadata: &CacheMetadata,
        kind: CacheKind,
    ) -> Result<(), NotStoredReason> {
        // Without a Date the exact lifetime is not known yet; here it only matters whether there is one.
        let generated_at = metadata.date.unwrap_or(SystemTime::UNIX_EPOCH);
        if self.lifetime(metadata, status, kind, generated_at).is_none() {
            let not_covered = self.ttl.overrides_origin() || status::is_transient(status);
            return Err(if not_covered { NotStoredReason::Status } else { NotStoredReason::NoFreshness });
        }
        let reuse = self.freshness(metadata, status, kind, generated_at);
        let is_fresh = reuse.lifetime != Lifetime::For(Duration::ZERO);
        let has_window = reuse.stale_allowed && reuse.swr.max(reuse.sie) > Duration::ZERO;
        if metadata.has_validator() || !reuse.revalidate_always && (is_fresh || has_window) {
            Ok(())
        } else {
            Err(NotStoredReason::NoFreshness)
        }
    }

    /// The lifetime of a response with this status; `None` if this policy does not store it.
    fn lifetime(
        &self,
        metadata: &CacheMetadata,
        status: StatusCode,
        kind: CacheKind,
        response_time: SystemTime,
    ) -> Option<Lifetime> {
        if status::is_never_stored(status) {
            return None;
        }
        let by_status = self.ttl_by_status.iter().find(|(pattern, _)| pattern.matches(status));
        if let Some((_, lifetime)) = by_status {
            return Some(Lifetime::For(*lifetime));
        }
        let covered = status::is_covered_by_ttl(status);
        let explicit = freshness::explicit_lifetime(metadata, kind, response_time);
        let heuristic = || heuristic_lifetime(metadata, status, response_time);
        let lifetime = match self.ttl {
            Ttl::Forever => return covered.then_some(Lifetime::Forever),
            Ttl::Override(lifetime) => covered.then_some(lifetime),
            Ttl::Origin => explicit.or_else(heuristic),
            Ttl::Fallback(_) | Ttl::Clamp { .. } if status::is_transient(status) => None,
            Ttl::Fallback(lifetime) => {
                explicit.or_else(|| if covered { Some(lifetime) } else { heuristic() })
            }
            Ttl::Clamp { min, max } if covered || explicit.is_some() => {
                explicit.or_else(heuristic).map(|lifetime| lifetime.clamp(min, max.max(min)))
            }
            // The minimum applies to responses that are cacheable by the origin's fields, not to errors.
            Ttl::Clamp { max, .. } => heuristic().map(|lifetime| lifetime.min(max)),
        };
        lifetime.map(Lifetime::For)
    }
}

/// RFC 9111 §3, §4.2.2: without an explicit lifetime some statuses may be stored, with a heuristic lifetime
/// or for revalidation at every use.
fn heuristic_lifetime(
    metadata: &CacheMetadata,
    status: StatusCode,
    response_time: SystemTime,
) -> Option<Duration> {
    let public = metadata.cache_control.has(Directive::Public);
    // RFC 9110 §15.6.2: a 501 is not temporary. Other server errors are stored only with `public`.
    let lasts = status == StatusCode::NOT_IMPLEMENTED || (status.is_server_error() && public);
    if status::is_transient(status) && !lasts {
        return None;
    }
    let may_be_kept = status::is_heuristically_cacheable(status) || public;
    freshness::heuristic_lifetime(metadata, status, response_time).or(may_be_kept.then_some(Duration::ZERO))
}

#[cfg(test)]
mod tests;
