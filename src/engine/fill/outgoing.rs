//! The call that a fill makes: its context for admission control and its header fields.
//!
//! Owns: which conditions and fields of the client's request are sent, and what happens when the call is admitted or
//! slow. Never touches: the response.

use std::sync::Arc;

use http::header::ACCEPT_ENCODING;
use http::{HeaderMap, HeaderValue};

use crate::engine::fill::Fill;
use crate::policy::ScopeRule;
use crate::semantics::validation;
use crate::upstream::UpstreamRequest;
use crate::upstream::admission::call::Callback;

impl Fill {
    /// The call of this fill.
    pub(in crate::engine) fn upstream_request(&self) -> UpstreamRequest {
        let (fills, fetch) = (&self.fills, &self.fetch);
        let mut call = fills.call_context(&self.routed, Some(&self.key));
        call.has_stale = self.has_fallback;
        call.queued = Arc::clone(&fetch.is_queued);
        call.audience = fetch.body.audience();
        let (store, in_flight) = (Arc::clone(&fills.store), Arc::downgrade(fetch));
        let target = self.key.target_id();
        call.on_admitted = Callback::new(move || {
            if let Some(fetch) = in_flight.upgrade() {
                fetch.order().on_sent(store.watch(target).order);
            }
        });
        call.on_slow = self.on_slow();
        UpstreamRequest { context: call, headers: self.outgoing_headers(), interims: self.interims.clone() }
    }

    /// The reaction to a head that has not arrived by the soft deadline. Clients that come later do not wait for
    /// a call that may hang, unless its response replaces a stale one.
    fn on_slow(&self) -> Callback {
        let (fills, in_flight) = (Arc::clone(&self.fills), Arc::downgrade(&self.fetch));
        let place = self.in_flight_key.clone().filter(|_| self.trigger.is_none() && !self.has_fallback);
        Callback::new(move || {
            let Some(fetch) = in_flight.upgrade() else { return };
            if let Some(place) = &place {
                fills.in_flight_fetches.remove(place, &fetch);
            }
            fetch.report_slow();
        })
    }

    fn outgoing_headers(&self) -> HeaderMap {
        let mut headers = self.routed.request.headers.clone();
        if let ScopeRule::Header(name) = &self.routed.policy.scope {
            headers.remove(name);
        }
        if self.revalidate.is_some() || !self.sends_conditions {
            for name in &validation::CONDITIONALS {
                headers.remove(name);
            }
        }
        if let Some(stored) = &self.revalidate {
            headers.extend(validation::conditional_fields(&stored.metadata));
        }
        if !self.ranged {
            headers.remove(http::header::RANGE);
        }
        if !headers.contains_key(ACCEPT_ENCODING) {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        self.routed.upstream().add_intermediary(&self.fills.via, &mut headers);
        headers
    }
}
