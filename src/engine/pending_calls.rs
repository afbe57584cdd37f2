//! The calls in flight whose responses may be stored, shared by all engines: a reload does not restart them.
//!
//! Owns: which calls are overtaken by the response to a later request. Never touches: joining
//! (`collapse`), storing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::key::CacheKey;
use crate::semantics::vary::VariantId;

/// Maximum number of overtaking variants recorded separately for one call.
const MAX_OVERTAKERS: usize = 8;

/// The position of a call in the order of all requests, and the later requests that have overtaken it.
#[derive(Debug, Default)]
pub(crate) struct RequestOrder {
    number: AtomicU64,
    /// The variants for which a later request already has a response, with the number of that request;
    /// `None`: all variants.
    overtaken: Mutex<Vec<(Option<VariantId>, u64)>>,
}

impl RequestOrder {
    pub(crate) fn new(number: u64) -> Self {
        Self { number: number.into(), overtaken: Mutex::default() }
    }

    pub(crate) fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// The call is sent, for the first time or again. Earlier overtakers no longer count.
    pub(crate) fn on_sent(&self, number: u64) {
        let mut overtaken = self.overtaken.lock();
        self.number.store(number, Ordering::Release);
        overtaken.retain(|(_, order)| *order > number);
    }

    /// The request with number `order` has a response of this variant. If that request is later than this
    /// call, requests for the variant no longer join this call, and a response of the variant is not stored.
    fn overtake(&self, by: Option<VariantId>, order: u64) {
        let mut overtaken = self.overtaken.lock();
        if self.number() >= order {
            return;
        }
        if let Some((_, latest)) = overtaken.iter_mut().find(|(variant, _)| *variant == by) {
            *latest = order.max(*latest);
        } else if overtaken.len() < MAX_OVERTAKERS {
            overtaken.push((by, order));
        } else {
            let latest = overtaken.iter().map(|(_, order)| *order).fold(order, u64::max);
            *overtaken = vec![(None, latest)];
        }
    }

    /// Whether the call is overtaken for this variant; `None`: the variant is not known yet.
    pub(crate) fn is_overtaken(&self, own: Option<VariantId>) -> bool {
        let overtaken = self.overtaken.lock();
        overtaken.iter().any(|(by, _)| by.is_none() || own.is_none() || *by == own)
    }
}

/// All calls in flight by key id, including those that no request can join.
#[derive(Debug, Default)]
pub struct PendingCalls(Mutex<HashMap<u128, Vec<PendingCall>>>);

/// A call, and its variant if it is known.
#[derive(Debug)]
struct PendingCall {
    order: Arc<RequestOrder>,
    variant: Option<VariantId>,
}

/// Keeps a call registered as in flight until it is dropped.
#[derive(Debug)]
pub(crate) struct PendingCallGuard {
    calls: Arc<PendingCalls>,
    id: u128,
    order: Arc<RequestOrder>,
}

impl PendingCalls {
    /// Registers a call for `key`.
    pub(crate) fn begin(
        self: &Arc<Self>,
        key: &CacheKey,
        variant: Option<VariantId>,
        order: Arc<RequestOrder>,
    ) -> PendingCallGuard {
        let call = PendingCall { order: Arc::clone(&order), variant };
        self.0.lock().entry(key.id()).or_default().push(call);
        PendingCallGuard { calls: Arc::clone(self), id: key.id(), order }
    }

    /// The request with number `order` for `key` has a response, so earlier requests are overtaken.
    /// `variant`: the variant of the response; `None`: all variants.
    pub(crate) fn overtake_older(&self, key: &CacheKey, variant: Option<VariantId>, order: u64) {
        let all = self.0.lock();
        let others = all.get(&key.id()).into_iter().flatten().filter(|other| {
            let is_another = other.variant.zip(variant).is_some_and(|(one, two)| one != two);
            !is_another
        });
        others.for_each(|other| other.order.overtake(variant, order));
    }
}

impl PendingCallGuard {
    pub(crate) fn order(&self) -> &RequestOrder {
        &self.order
    }
}

impl Drop for PendingCallGuard {
    fn drop(&mut self) {
        let mut all = self.calls.0.lock();
        let Some(others) = all.get_mut(&self.id) else { return };
        others.retain(|other| !Arc::ptr_eq(&other.order, &self.order));
        if others.is_empty() {
            all.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_is_sent_again_is_not_overtaken_by_earlier_requests() {
        let order = RequestOrder::new(1);
        order.overtake(Some(VariantId(7)), 2);
        assert!(order.is_overtaken(Some(VariantId(7))) && order.is_overtaken(None));
        assert!(!order.is_overtaken(Some(VariantId(8))));
        order.on_sent(3);
        assert!(!order.is_overtaken(None));
        order.overtake(None, 2);
        assert!(!order.is_overtaken(None));
        for variant in 0..100 {
            order.overtake(Some(VariantId(variant)), 4);
            assert!(order.overtaken.lock().len() <= MAX_OVERTAKERS);
        }
        assert!(order.is_overtaken(Some(VariantId(1000))));
    }
}
