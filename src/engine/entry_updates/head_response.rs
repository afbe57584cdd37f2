//! Applies the response to a `HEAD` to the stored response to `GET` (RFC 9111 §4.3.5).
//!
//! Owns: freshening that response, or outdating it. Never touches: the stored responses to `HEAD`; the
//! comparison of both (`semantics::validation`).

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;

use crate::engine::entry_updates::EntryUpdates;
use crate::key::CacheKey;
use crate::policy::Mode;
use crate::policy::cacheability::ResponseToStore;
use crate::semantics::validation::{self, HeadComparison};
use crate::store::Lookup;
use crate::store::generations::{Epoch, PurgeKind, PurgeScope};
use crate::upstream::routed_request::RoutedRequest;

/// The 200 to a `HEAD`.
#[derive(Clone, Copy)]
pub(crate) struct HeadResponse<'a> {
    /// Its fields.
    pub(crate) headers: &'a HeaderMap,
    /// The number of its request in the request order.
    pub(crate) order: u64,
    /// The epoch in which its request began.
    pub(crate) epoch: Epoch,
    /// When the request was sent, and when the head arrived.
    pub(crate) times: (SystemTime, SystemTime),
}

impl EntryUpdates {
    /// Applies `response` to the response to `GET` stored under `key`: equal validators freshen it, different
    /// ones outdate it.
    pub(crate) async fn apply_head_response(
        &self,
        routed: &RoutedRequest,
        key: &CacheKey,
        response: HeadResponse<'_>,
    ) {
        let HeadResponse { headers, order, epoch, times } = response;
        if routed.directives.no_store || self.switch.mode() == Mode::Bypass {
            return;
        }
        let Lookup::Found(stored) = self.lookup.all_tiers(routed, key).await else { return };
        match validation::compare_head(headers, &stored.headers, &stored.metadata, stored.body.len()) {
            HeadComparison::Inconclusive => {}
            // The HEAD was requested before the stored response.
            _ if self.store.is_newer(stored.order, order) => {}
            // It is outdated already. Once more would also outdate what is stored of the HEAD itself.
            HeadComparison::Changed if stored.outdated.is_some_and(|outdated| outdated.superseded) => {}
            HeadComparison::Changed => {
                // RFC 9111 §4.3.5: the stored response is considered stale. It is not removed, because
                // some frameworks do not implement HEAD and reply to it with an empty response.
                let scope = PurgeScope::Target(key.target_id());
                self.purger.invalidate_scopes(&[scope], PurgeKind::Superseded, "head");
                self.store.sync_peer().await;
            }
            HeadComparison::Same => {
                let fresh = stored.freshened(headers, times.0, times.1).with_order(order);
                let (status, fields) = (fresh.status, fresh.all_headers());
                let (headers, metadata) = (&fields, &fresh.metadata);
                let response = ResponseToStore { status, headers, metadata };
                let cache = key.scope().cache_kind();
                if let Ok(kept) = routed.policy.storability(&routed.request, response, cache) {
                    let fresh = Arc::new(fresh.with_headers(&kept));
                    self.store_response(key, &routed.policy, fresh, epoch);
                }
            }
        }
    }
}
