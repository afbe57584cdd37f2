//! The calls that are under way whose answers may be stored, over all engines that share it: a reload begins none of
//! them anew.
//!
//! Owns: which of them are overtaken by the answer to a later question. Never touches: who joins which
//! (`collapse`), what is kept.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::key::CacheKey;
use crate::semantics::vary::VariantId;

/// How many variants that a call is overtaken by are told apart.
const OVERTAKERS: usize = 8;

/// The place of a call in the order of all that was asked for, and who has overtaken it.
#[derive(Debug, Default)]
pub(crate) struct RequestOrder {
    asked: AtomicU64,
    /// What those who asked later have been answered already, and when they asked: variants; `None`: whatever one
    /// asks for.
    overtaken: Mutex<Vec<(Option<VariantId>, u64)>>,
}

impl RequestOrder {
    pub(crate) fn new(asked: u64) -> Self {
        Self { asked: asked.into(), overtaken: Mutex::default() }
    }

    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Acquire)
    }

    /// The call goes out now, for the first time or again: who overtook it before asked before.
    pub(crate) fn goes_out(&self, asked: u64) {
        let mut overtaken = self.overtaken.lock();
        self.asked.store(asked, Ordering::Release);
        overtaken.retain(|(_, by)| *by > asked);
    }

    /// Somebody who asked at `asked` has been answered with this variant: if that is later, who wants the variant
    /// does not join this call any more, and if it is what comes nothing of it is kept.
    fn overtake(&self, by: Option<VariantId>, asked: u64) {
        let mut overtaken = self.overtaken.lock();
        if self.asked() >= asked {
            return;
        }
        if let Some((_, known)) = overtaken.iter_mut().find(|(known, _)| *known == by) {
            *known = asked.max(*known);
        } else if overtaken.len() < OVERTAKERS {
            overtaken.push((by, asked));
        } else {
            let latest = overtaken.iter().map(|(_, by)| *by).fold(asked, u64::max);
            *overtaken = vec![(None, latest)];
        }
    }

    /// Whether that is so for this variant; `None`: it is not known which it will be.
    pub(crate) fn is_overtaken(&self, own: Option<VariantId>) -> bool {
        let overtaken = self.overtaken.lock();
        overtaken.iter().any(|(by, _)| by.is_none() || own.is_none() || *by == own)
    }
}

/// All calls, those that nobody can join too, by what they are for.
#[derive(Debug, Default)]
pub struct PendingCalls(Mutex<HashMap<u128, Vec<PendingCall>>>);

/// A call, and the variant that it is for, as far as that is known.
#[derive(Debug)]
struct PendingCall {
    order: Arc<RequestOrder>,
    variant: Option<VariantId>,
}

/// A call that is under way for as long as this lives.
#[derive(Debug)]
pub(crate) struct PendingCallGuard {
    of: Arc<PendingCalls>,
    id: u128,
    order: Arc<RequestOrder>,
}

impl PendingCalls {
    /// A call for `key` begins.
    pub(crate) fn begun(
        self: &Arc<Self>,
        key: &CacheKey,
        variant: Option<VariantId>,
        order: Arc<RequestOrder>,
    ) -> PendingCallGuard {
        let one = PendingCall { order: Arc::clone(&order), variant };
        self.0.lock().entry(key.id()).or_default().push(one);
        PendingCallGuard { of: Arc::clone(self), id: key.id(), order }
    }

    /// Who asked for `key` as `asked` in the order of all is being answered: what was asked for earlier is
    /// older news now. `variant`: what the answer is for; `None`: for every request.
    pub(crate) fn answered(&self, key: &CacheKey, variant: Option<VariantId>, asked: u64) {
        let all = self.0.lock();
        let others = all.get(&key.id()).into_iter().flatten().filter(|other| {
            let is_another = other.variant.zip(variant).is_some_and(|(one, two)| one != two);
            !is_another
        });
        others.for_each(|other| other.order.overtake(variant, asked));
    }
}

impl PendingCallGuard {
    pub(crate) fn order(&self) -> &RequestOrder {
        &self.order
    }
}

impl Drop for PendingCallGuard {
    fn drop(&mut self) {
        let mut all = self.of.0.lock();
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
    fn a_call_that_goes_out_again_is_overtaken_by_nobody_who_asked_before() {
        let order = RequestOrder::new(1);
        order.overtake(Some(VariantId(7)), 2);
        assert!(order.is_overtaken(Some(VariantId(7))) && order.is_overtaken(None));
        assert!(!order.is_overtaken(Some(VariantId(8))));
        order.goes_out(3);
        assert!(!order.is_overtaken(None));
        order.overtake(None, 2);
        assert!(!order.is_overtaken(None));
        for variant in 0..100 {
            order.overtake(Some(VariantId(variant)), 4);
            assert!(order.overtaken.lock().len() <= OVERTAKERS);
        }
        assert!(order.is_overtaken(Some(VariantId(1000))));
    }
}
