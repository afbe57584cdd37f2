//! Starts fills: for a client that leads one, for one client alone, or in the background.
//!
//! Owns: the facts that a fill takes from its request. Never touches: how a fill fetches (`fill`).

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use crate::decide::StaleReason;
use crate::engine::body::BodyReader;
use crate::engine::collapse::{InFlightKey, JoinOutcome};
use crate::engine::fill::Fill;
use crate::engine::fills::Fills;
use crate::engine::inflight::InFlightFetch;
use crate::engine::miss::Miss;
use crate::key::CacheKey;
use crate::stored::StoredResponse;
use crate::upstream::routed_request::RoutedRequest;

/// Starts a fill that `miss` leads and that other requests may join.
pub(super) fn lead(fills: &Arc<Fills>, miss: &Miss<'_>, fetch: &Arc<InFlightFetch>) {
    let in_flight_key = Some(miss.in_flight_key());
    Fill { in_flight_key, sends_conditions: false, ..fill(fills, miss, fetch) }.spawn();
}

/// Starts a fill that no other request joins. It holds `permit` until its head has arrived.
pub(super) fn lead_separately(
    fills: &Arc<Fills>,
    miss: &Miss<'_>,
    permit: Option<OwnedSemaphorePermit>,
) -> (Arc<InFlightFetch>, BodyReader) {
    let fetch = fills.new_fetch(miss.key, None);
    let reader = fetch.body.first_reader();
    Fill { permit, ..fill(fills, miss, &fetch) }.spawn();
    (fetch, reader)
}

fn fill(fills: &Arc<Fills>, miss: &Miss<'_>, fetch: &Arc<InFlightFetch>) -> Fill {
    Fill {
        fills: Arc::clone(fills),
        fetch: Arc::clone(fetch),
        in_flight_key: None,
        routed: Arc::clone(miss.routed),
        key: miss.key.clone(),
        revalidate: miss.stored.clone().filter(|_| miss.validate),
        ranged: miss.ranged,
        sends_conditions: !fills.omits_conditions(miss),
        permit: None,
        interims: Some(Arc::clone(miss.interims)),
        has_fallback: miss.fallback,
        trigger: None,
    }
}

/// Starts a background fill for a stored response that was served stale (RFC 5861 §3): one at a time, and
/// none while there is no capacity to store its response.
pub(super) fn refresh(
    fills: &Arc<Fills>,
    routed: &Arc<RoutedRequest>,
    key: &CacheKey,
    stored: Arc<StoredResponse>,
) {
    if fills.in_flight.is_full() || fills.check_admission(routed, key).is_some() {
        return;
    }
    let in_flight_key = InFlightKey { key: key.clone(), variant: Some(stored.variant) };
    if let JoinOutcome::Lead(fetch, reader) = fills.join_refresh(&in_flight_key) {
        drop(reader);
        let fill = Fill {
            fills: Arc::clone(fills),
            fetch,
            in_flight_key: Some(in_flight_key),
            // A HEAD may trigger it, but most stored responses belong to GET.
            routed: if key.is_for_head() { Arc::clone(routed) } else { routed.as_get() },
            key: key.clone(),
            revalidate: Some(stored).filter(|stored| stored.metadata.has_validator()),
            ranged: false,
            sends_conditions: false,
            permit: None,
            interims: None,
            has_fallback: true,
            trigger: Some(StaleReason::WhileRevalidate),
        };
        fill.spawn();
    }
}
