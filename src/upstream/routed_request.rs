//! A request with everything that is resolved about it, once: its route, policy, cache key and upstream.
//!
//! Owns: the value that the fast path, the engine, the pass-through and each call share.
//! Never touches: how it is resolved (`engine::router`).

use std::sync::Arc;
use std::time::SystemTime;

use http::Method;

use crate::decide::{DecisionInput, ForwardReason};
use crate::key::CacheKey;
use crate::policy::Policy;
use crate::route::table::Route;
use crate::semantics::cache_control::RequestCacheControl;
use crate::semantics::request::ProxyRequest;
#[cfg(test)]
use crate::semantics::target::Target;
#[cfg(test)]
use crate::upstream::routing::UpstreamTable;
use crate::upstream::routing::UpstreamTarget;

/// A routed request. It no longer changes.
#[derive(Debug, Clone)]
pub struct RoutedRequest {
    /// The request, normalised for its route.
    pub request: ProxyRequest,
    /// Its own cache directives (RFC 9111 §5.2.1).
    pub directives: RequestCacheControl,
    /// The route that caches it, if one does.
    pub route: Option<Arc<Route>>,
    /// The index of the route for telemetry; one past the last for requests without a route.
    pub route_index: usize,
    /// The policy of the route, or the one for requests without a route.
    pub policy: Arc<Policy>,
    /// The cache key, or the reason why the store never serves the request.
    pub key: Result<CacheKey, ForwardReason>,
    /// The destination of its calls.
    pub upstream: UpstreamTarget,
}

impl RoutedRequest {
    /// The input for decisions about the stored responses under `key`, which may be the key of partial
    /// responses.
    pub fn decision_input(&self, key: &CacheKey, now: SystemTime) -> DecisionInput<'_> {
        DecisionInput {
            method: &self.request.method,
            directives: self.directives,
            policy: &self.policy,
            kind: key.scope().cache_kind(),
            now,
        }
    }

    /// A `GET` of `target` that no route caches, without an upstream.
    #[cfg(test)]
    pub fn get(target: Target) -> Self {
        let upstream = UpstreamTable::new(Vec::new()).lookup(&target);
        Self {
            request: ProxyRequest::get(target),
            directives: RequestCacheControl::default(),
            route: None,
            route_index: 0,
            policy: Arc::new(Policy::origin()),
            key: Err(ForwardReason::Bypass),
            upstream,
        }
    }

    /// The same request as a `GET`, whose responses are stored.
    #[must_use]
    pub fn as_get(self: &Arc<Self>) -> Arc<Self> {
        if self.request.method == Method::GET {
            return Arc::clone(self);
        }
        let request = ProxyRequest { method: Method::GET, ..self.request.clone() };
        Arc::new(Self { request, ..(**self).clone() })
    }
}
