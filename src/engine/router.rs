//! Resolves a request once: its canonical target, route, policy, cache key and upstream.
//!
//! Owns: the order of these steps, and which requests the store never serves under any route.
//! Never touches: the store, the network.

use std::sync::Arc;

use http::{HeaderValue, Method};

use crate::decide::ForwardReason;
use crate::engine::mode::ModeSwitch;
use crate::key::KeyBuilder;
use crate::policy::{Mode, Policy, ScopeRule};
use crate::route::table::Table;
use crate::semantics::accept_encoding;
use crate::semantics::connection_auth;
use crate::semantics::request::{ProxyRequest, RequestFraming};
use crate::upstream::connect::pinned::ClientPins;
use crate::upstream::routed_request::RoutedRequest;
use crate::upstream::routing::UpstreamTable;

/// Placeholder for larder's own credential in a request until the request is sent.
pub const OWN_CREDENTIAL: HeaderValue = HeaderValue::from_static("larder");

/// The dependencies of a router.
pub struct Router {
    /// The routes, which determine the requests that are cached.
    pub routes: Table,
    /// The policy for requests that match no route.
    pub default_policy: Arc<Policy>,
    /// Maps hosts to upstreams.
    pub upstreams: Arc<UpstreamTable>,
    /// Builds cache keys.
    pub key_builder: Arc<KeyBuilder>,
    /// The mode switch: cache, bypass or offline.
    pub switch: Arc<ModeSwitch>,
}

impl Router {
    /// Routes `request`. Its target becomes the canonical one. If a route matches, the fields in which apps
    /// name their users for other routes are removed, larder's own credential replaces that of the client,
    /// and `Accept-Encoding` is reduced, so that clients share variants. A request for an origin of `pins`
    /// passes through: its client is authenticated on a connection of its own.
    pub fn route(&self, mut request: ProxyRequest, pins: Option<&ClientPins>) -> RoutedRequest {
        if let Some(canonical) = self.upstreams.canonical_target(&request.target) {
            request.target = canonical;
        }
        let Some(route) = self.routes.find(&request).cloned() else { return self.without_route(request) };
        for name in self.routes.scope_headers(&request.target) {
            if route.policy.scope != ScopeRule::Header(name.clone()) {
                request.headers.remove(name);
            }
        }
        if let Some(credential) = self.upstreams.credential(&request.target) {
            // All clients use this credential and share its responses; larder is its private cache.
            request.headers.insert(credential.header.clone(), OWN_CREDENTIAL);
        }
        let is_pinned = |pins: &ClientPins| pins.has(&self.upstreams.lookup(&request.target).origin());
        let is_pinned = pins.is_some_and(is_pinned);
        let not_cached = is_pinned.then_some(ForwardReason::Bypass).or_else(|| not_cached(&request));
        if not_cached.is_none() && self.switch.mode() != Mode::Bypass {
            accept_encoding::reduce(&mut request.headers);
        }
        let key = not_cached.map_or_else(|| Ok(self.key_builder.key(&request, &route.policy)), Err);
        RoutedRequest::new(request, Ok(route), key, &self.upstreams)
    }

    /// `request` as one that no route caches.
    pub fn without_route(&self, request: ProxyRequest) -> RoutedRequest {
        let route = Err((Arc::clone(&self.default_policy), self.routes.routes().len()));
        let is_method = not_cached(&request) == Some(ForwardReason::Method);
        let reason = if is_method { ForwardReason::Method } else { ForwardReason::Bypass };
        RoutedRequest::new(request, route, Err(reason), &self.upstreams)
    }

    /// The `GET` to which the response to the `POST` in `routed` may also apply (RFC 9110 §9.3.3), if a route
    /// caches it.
    pub fn route_get_of(&self, routed: &RoutedRequest) -> Option<RoutedRequest> {
        if routed.request.method != Method::POST {
            return None;
        }
        let (method, body) = (Method::GET, RequestFraming::None);
        let get = ProxyRequest { method, body, ..routed.request.clone() };
        let route = self.routes.find(&get).cloned()?;
        let key = Ok(self.key_builder.key(&get, &route.policy));
        Some(RoutedRequest::new(get, Ok(route), key, &self.upstreams))
    }
}

/// Why a request is never served from the store under any route; `None`: it may be.
fn not_cached(request: &ProxyRequest) -> Option<ForwardReason> {
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Some(ForwardReason::Method);
    }
    // The request overrides its method, or an origin may interpret its path differently from the matched
    // route.
    if request.is_overridden() || request.target.is_ambiguous() {
        return Some(ForwardReason::Bypass);
    }
    // The response belongs to an authenticated connection.
    if connection_auth::is_in_request(&request.headers) {
        return Some(ForwardReason::Bypass);
    }
    // A body may change the meaning of a GET (search APIs); an event stream never ends.
    (request.body != RequestFraming::None || request.expects_stream()).then_some(ForwardReason::Bypass)
}
