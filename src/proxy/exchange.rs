//! One exchange: a routed request, its client and its state.
//!
//! Owns: larder's part of every response head. Never touches: the steps of an exchange (`serve`, `relay`).

use std::sync::Arc;

use http::HeaderMap;
use http::header::VIA;

use crate::frontend::session::ClientSession;
use crate::proxy::context::RequestContext;
use crate::proxy::{ProxyHandler, cors, mount_headers};
use crate::semantics::connection_auth::{self, PROXY_SUPPORT, SUPPORTED};
use crate::semantics::date;
use crate::semantics::mount_location;
use crate::semantics::request::ProxyRequest;
use crate::upstream::routed_request::RoutedRequest;

/// An exchange. If it is dropped, the state ends first: an unknown outcome takes effect before the client sees
/// the end of its connection.
pub(super) struct Exchange {
    pub(super) ctx: RequestContext,
    pub(super) client: ClientSession,
    pub(super) routed: Arc<RoutedRequest>,
    pub(super) handler: Arc<ProxyHandler>,
}

impl Exchange {
    /// An exchange that begins now.
    pub(super) fn new(handler: &Arc<ProxyHandler>, routed: RoutedRequest, client: ClientSession) -> Self {
        let ctx = RequestContext::new(handler.clock.instant());
        Self { handler: Arc::clone(handler), routed: Arc::new(routed), client, ctx }
    }

    /// The request.
    pub(super) fn request(&self) -> &ProxyRequest {
        &self.routed.request
    }

    /// Adds larder's part to the head of every response: `Via`, a missing `Date` (RFC 9110 §6.6.1), and
    /// `Connection: close` once larder is closing.
    pub(super) fn finish_head(&mut self, headers: &mut HeaderMap) {
        headers.append(VIA, self.handler.via.clone());
        if matches!(self.client, ClientSession::Http1(_)) && connection_auth::is_in_response(headers) {
            // The client may sign in through larder.
            headers.insert(PROXY_SUPPORT, SUPPORTED);
        }
        mount_headers::confine(self.request().in_browser, headers);
        if let Some(mount) = &self.request().mount {
            mount_location::rewrite(mount, &self.request().target, headers);
        }
        cors::add_response_fields(self.request(), headers);
        date::add_if_missing(headers, self.handler.clock.now());
        self.ctx.cache_status = headers.get_all("cache-status").iter().next_back().cloned();
        if self.handler.drain.borrow().is_closing() {
            self.client.close_after();
        }
    }
}
