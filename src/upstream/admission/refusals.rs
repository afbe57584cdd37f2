//! The last refusals of an API: what it said to a client while it limited or failed its calls. Until larder calls
//! again, the same client gets the same response, which its SDK understands.
//!
//! Owns: which refusal a call gets, their bounds. Never touches: how a refusal is received (`refusal_capture`),
//! the response to a client (`engine`).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::policy::upstream::OutcomeClass;
use crate::semantics::vary::{VariantId, VaryFields};
use crate::upstream::admission::cooldown::CooldownScope;
use crate::upstream::admission::rejection::RejectReason;

/// The largest body of a refusal.
pub(in crate::upstream) const MAX_BODY: usize = 16 << 10;

/// The bytes of all refusals of an upstream. Beyond it, the oldest are forgotten.
const MAX_BYTES: usize = 1 << 20;

/// The bytes that a refusal counts besides its body.
const OVERHEAD: usize = 1 << 10;

/// A response by which the API refused a call.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Its status.
    pub status: StatusCode,
    /// Its end-to-end fields, without cookies.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// The request fields that it depends on, and the variant that the refused request selected.
    pub vary: VaryFields,
    /// See `vary`.
    pub variant: VariantId,
    /// When it was received.
    pub received: Instant,
    /// Whether it was a rate limit; otherwise the API failed.
    pub is_limit: bool,
}

/// For whom a refusal is: the calls that it is about, and the client that got it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct RefusalKey {
    /// A key, a bucket or a credential.
    pub(super) scope: CooldownScope,
    /// The hash of everything by which the client identified itself.
    pub(super) client: u128,
}

/// The last refusals of an upstream.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    all: HashMap<RefusalKey, Arc<Refusal>>,
    /// The keys in the order of their refusals; a key is repeated if it was refused again.
    order: VecDeque<(RefusalKey, Arc<Refusal>)>,
    bytes: usize,
}

impl Refusals {
    /// Remembers a refusal for these calls.
    pub(super) fn insert(&mut self, keys: &[RefusalKey], refusal: &Arc<Refusal>) {
        for key in keys {
            self.all.insert(*key, Arc::clone(refusal));
            self.order.push_back((*key, Arc::clone(refusal)));
            self.bytes += cost(refusal);
        }
        while self.bytes > MAX_BYTES {
            let Some((key, oldest)) = self.order.pop_front() else { break };
            self.bytes -= cost(&oldest);
            if self.all.get(&key).is_some_and(|current| Arc::ptr_eq(current, &oldest)) {
                self.all.remove(&key);
            }
        }
    }

    /// The latest refusal among these keys that explains why a call is not made.
    pub(super) fn find(&self, keys: &[RefusalKey], reason: RejectReason) -> Option<Arc<Refusal>> {
        let is_limit = explained_by_limit(reason)?;
        let found = keys.iter().filter_map(|key| self.all.get(key));
        found.filter(|refusal| refusal.is_limit == is_limit).max_by_key(|refusal| refusal.received).cloned()
    }
}

/// Whether a rate limit of the API, or else its failure, is why a call is not made. `None`: neither is.
fn explained_by_limit(reason: RejectReason) -> Option<bool> {
    match reason {
        RejectReason::Failed(OutcomeClass::RateLimited(_))
        | RejectReason::RateLimit
        | RejectReason::BanGuard => Some(true),
        RejectReason::Failed(_) | RejectReason::Breaker => Some(false),
        RejectReason::Budget { .. } | RejectReason::InFlight => None,
    }
}

fn cost(refusal: &Refusal) -> usize {
    let fields = refusal.headers.iter().map(|(name, value)| name.as_str().len() + value.len());
    refusal.body.len() + fields.sum::<usize>() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;
    use crate::policy::upstream::RateLimitKind;

    const LIMITED: RejectReason = RejectReason::Failed(OutcomeClass::RateLimited(RateLimitKind::Minute));
    const DOWN: RejectReason = RejectReason::Failed(OutcomeClass::Server);

    fn key(scope: u128, client: u128) -> RefusalKey {
        RefusalKey { scope: CooldownScope::Key(scope), client }
    }

    fn refusal(is_limit: bool, seconds: u64, body: usize) -> Arc<Refusal> {
        Arc::new(Refusal {
            status: StatusCode::TOO_MANY_REQUESTS,
            headers: HeaderMap::new(),
            body: Bytes::from(vec![b'x'; body]),
            vary: VaryFields::default(),
            variant: VariantId::SOLE,
            received: Clock::system().instant() + Duration::from_secs(seconds),
            is_limit,
        })
    }

    #[test]
    fn only_the_refused_client_finds_the_refusal_and_the_latest_counts() {
        let mut refusals = Refusals::default();
        refusals.insert(&[key(1, 7), key(2, 7)], &refusal(true, 0, 1));
        refusals.insert(&[key(2, 7)], &refusal(true, 1, 2));
        refusals.insert(&[key(1, 7)], &refusal(false, 2, 3));
        let found = |keys: &[RefusalKey], reason| refusals.find(keys, reason).map(|found| found.body.len());
        assert_eq!(found(&[key(2, 7)], LIMITED), Some(2));
        assert_eq!(found(&[key(1, 7)], DOWN), Some(3));
        assert_eq!(found(&[key(1, 7)], RejectReason::InFlight), None);
        assert_eq!(found(&[key(1, 8), key(1, 0)], LIMITED), None, "another client");
    }

    #[test]
    fn the_oldest_refusals_make_room() {
        let mut refusals = Refusals::default();
        for number in 0..1000 {
            refusals.insert(&[key(number, 7)], &refusal(true, 0, MAX_BODY));
            assert!(refusals.find(&[key(number, 7)], LIMITED).is_some());
        }
        assert!(refusals.bytes <= MAX_BYTES);
        assert!(refusals.all.len() <= MAX_BYTES / MAX_BODY);
        assert!(refusals.find(&[key(0, 7)], LIMITED).is_none());
    }
}
