//! Collapsed forwarding: one fill per key, however many ask (RFC 9111 §4, RFC 9211 §2.8).
//!
//! Owns: which fills run, who joins them, which keys do not collapse for now.
//! Never touches: what a fill does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use crate::engine::body::BodyReader;
use crate::engine::inflight::InFlightFetch;
use crate::key::CacheKey;
use crate::semantics::vary::VariantId;

/// How long a key that turned out uncacheable is not collapsed.
const REMEMBERED_FOR: Duration = Duration::from_secs(30);

/// How many such keys are remembered.
const REMEMBERED: usize = 65_536;

/// What one fill is for: a key, and a variant of it once its `Vary` is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct InFlightKey {
    pub(crate) key: CacheKey,
    pub(crate) variant: Option<VariantId>,
}

/// What joining came to.
pub(crate) enum JoinOutcome<T> {
    /// Nobody asks yet: start the fill for this flight.
    Lead(Arc<InFlightFetch>, BodyReader),
    /// Somebody asks already.
    Wait(Arc<InFlightFetch>, BodyReader),
    /// The answer was stored in the meantime.
    Answered(T),
    /// Too many wait already.
    Full,
}

/// The running fills.
#[derive(Default)]
pub(crate) struct InFlightFetches {
    running: Mutex<HashMap<InFlightKey, Arc<InFlightFetch>>>,
    apart: Mutex<HashMap<u128, SystemTime>>,
}

impl InFlightFetches {
    /// Joins the fill of `key`, or leads a new one. `recheck` looks into the store once more when
    /// there is no fill: one may have ended since the caller looked. `current` says whether a
    /// running fill was begun after the last invalidation.
    pub(crate) fn join<T>(
        &self,
        key: &InFlightKey,
        most: usize,
        current: impl Fn(&InFlightFetch) -> bool,
        recheck: impl FnOnce() -> Option<T>,
        begin: impl FnOnce() -> Arc<InFlightFetch>,
    ) -> JoinOutcome<T> {
        let mut running = self.running.lock();
        if let Some(flight) = running.get(key).filter(|flight| current(flight)) {
            if flight.body.readers() > most {
                return JoinOutcome::Full;
            }
            if let Some(reader) = flight.body.reader() {
                return JoinOutcome::Wait(Arc::clone(flight), reader);
            }
        }
        if let Some(answer) = recheck() {
            return JoinOutcome::Answered(answer);
        }
        let flight = begin();
        let reader = flight.body.first_reader();
        running.insert(key.clone(), Arc::clone(&flight));
        JoinOutcome::Lead(flight, reader)
    }

    /// How many read or wait, over all fills.
    pub(crate) fn readers(&self) -> usize {
        self.running.lock().values().map(|flight| flight.body.readers()).sum()
    }

    /// Newcomers no longer join this flight.
    pub(crate) fn remove(&self, key: &InFlightKey, flight: &Arc<InFlightFetch>) {
        let mut running = self.running.lock();
        if running.get(key).is_some_and(|found| Arc::ptr_eq(found, flight)) {
            running.remove(key);
        }
    }

    /// Remembers that requests for `key` do not collapse for a while.
    pub(crate) fn disable_collapsing(&self, key: &CacheKey, now: SystemTime) {
        let mut apart = self.apart.lock();
        if apart.len() >= REMEMBERED {
            apart.retain(|_, until| *until > now);
        }
        if apart.len() >= REMEMBERED {
            apart.clear();
        }
        let until = now.checked_add(REMEMBERED_FOR).unwrap_or(now);
        apart.insert(key.id(), until);
    }

    /// The key turned out cacheable again.
    pub(crate) fn enable_collapsing(&self, key: &CacheKey) {
        self.apart.lock().remove(&key.id());
    }

    /// Whether requests for `key` go their own ways.
    pub(crate) fn is_collapsing_disabled(&self, key: &CacheKey, now: SystemTime) -> bool {
        let mut apart = self.apart.lock();
        match apart.get(&key.id()) {
            None => false,
            // A clock set back must not prolong the verdict.
            Some(until)
                if *until > now && until.duration_since(now).is_ok_and(|d| d <= REMEMBERED_FOR) =>
            {
                true
            }
            Some(_) => {
                apart.remove(&key.id());
                false
            }
        }
    }
}
