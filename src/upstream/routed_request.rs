//! A request with everything that is resolved about it, once: its route, policy, cache key and upstream.
//!
//! Owns: the value that the fast path, the engine, the pass-through and each call share.
//! Never touches: how it is resolved (`engine::router`).

use std::sync::{Arc, OnceLock};
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
use crate::upstream::routing::{UpstreamTable, UpstreamTarget};

/// A routed request. It no longer changes.
#[derive(Debug, Clone)]
pub struct RoutedRequest {
    /// The request, normalised for its route.
    pub request: ProxyRequest,
    /// Those of its own cache directives that have an effect on its route (RFC 9111 §5.2.1).
    pub directives: RequestCacheControl,
    /// The route that caches it, if one does.
    pub route: Option<Arc<Route>>,
    /// The index of the route for telemetry; one past the last for requests without a route.
    pub route_index: usize,
    /// The policy of the route, or the one for requests without a route.
    pub policy: Arc<Policy>,
    /// The cache key, or the reason why the store never serves the request.
    pub key: Result<CacheKey, ForwardReason>,
    upstreams: Arc<UpstreamTable>,
    upstream: OnceLock<UpstreamTarget>,
}

impl RoutedRequest {
    /// `request`, which `route` caches (`Err`: none does, and this is the policy and the index for telemetry),
    /// with its cache key, or the reason why the store never serves it.
    pub fn new(
        request: ProxyRequest,
        route: Result<Arc<Route>, (Arc<Policy>, usize)>,
        key: Result<CacheKey, ForwardReason>,
        upstreams: &Arc<UpstreamTable>,
    ) -> Self {
        let (route, policy, route_index) = match route {
            Ok(route) => {
                let (policy, index) = (Arc::clone(&route.policy), route.index);
                (Some(route), policy, index)
            }
            Err((policy, index)) => (None, policy, index),
        };
        Self {
            directives: policy.request_directives(&request),
            request,
            route,
            route_index,
            policy,
            key,
            upstreams: Arc::clone(upstreams),
            upstream: OnceLock::new(),
        }
    }

    /// The destination of its calls. A hit needs none, so the first call looks it up.
    pub fn upstream(&self) -> &UpstreamTarget {
        self.upstream
            .get_or_init(|| self.upstreams.lookup(&self.request.target).with_timeouts(&self.policy.timeouts))
    }

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
        let route = Err((Arc::new(Policy::origin()), 0));
        let (key, upstreams) = (Err(ForwardReason::Bypass), Arc::new(UpstreamTable::new(Vec::new())));
        Self::new(ProxyRequest::get(target), route, key, &upstreams)
    }

    /// The same request for calls to another upstream.
    #[cfg(test)]
    #[must_use]
    pub fn at(&self, upstream: &UpstreamTarget) -> Self {
        Self { upstream: OnceLock::from(upstream.clone()), ..self.clone() }
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
