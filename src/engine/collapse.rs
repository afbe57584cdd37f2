//! Request collapsing: one fill per key, however many clients request it (RFC 9111 §4, RFC 9211 §2.8).
//!
//! Owns: the running fills, joining them, the keys for which collapsing is off.
//! Never touches: the work of a fill.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use crate::engine::body::BodyReader;
use crate::engine::inflight::InFlightFetch;
use crate::key::CacheKey;
use crate::semantics::vary::VariantId;

/// How long collapsing stays off for a key whose response was not cacheable.
const DISABLED_FOR: Duration = Duration::from_secs(30);

/// Maximum number of such keys remembered.
const MAX_DISABLED: usize = 65_536;

/// The identity of a fill: a key, and its variant once `Vary` is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct InFlightKey {
    pub(crate) key: CacheKey,
    pub(crate) variant: Option<VariantId>,
}

/// The result of joining a fill.
pub(crate) enum JoinOutcome<T> {
    /// No fill was running: start one for this fetch.
    Lead(Arc<InFlightFetch>, BodyReader),
    /// A fill is running: wait for it.
    Wait(Arc<InFlightFetch>, BodyReader),
    /// The response was stored in the meantime.
    Stored(T),
    /// Too many clients wait already.
    Full,
}

/// The steps of joining a fill. They run under the lock of all fills: none of them may start anything.
pub(crate) struct JoinSteps<'a, T> {
    /// Maximum number of clients that wait for one fill.
    pub(crate) max_waiters: usize,
    /// Whether a running fill began after the last invalidation.
    pub(crate) is_current: &'a dyn Fn(&InFlightFetch) -> bool,
    /// Looks into the store once more if no fill is running, because one may have ended since the lookup.
    pub(crate) recheck: &'a dyn Fn() -> Option<T>,
    /// Creates the fetch of a new fill.
    pub(crate) begin: &'a dyn Fn() -> Arc<InFlightFetch>,
}

/// The running fills.
#[derive(Default)]
pub(crate) struct InFlightFetches {
    running: Mutex<HashMap<InFlightKey, Arc<InFlightFetch>>>,
    uncollapsed: Mutex<HashMap<u128, SystemTime>>,
}

impl InFlightFetches {
    /// Joins the fill of `key`, or leads a new one.
    pub(crate) fn join<T>(&self, key: &InFlightKey, steps: &JoinSteps<'_, T>) -> JoinOutcome<T> {
        let JoinSteps { max_waiters, is_current, recheck, begin } = *steps;
        let mut running = self.running.lock();
        if let Some(fetch) = running.get(key).filter(|fetch| is_current(fetch)) {
            if fetch.body.readers() > max_waiters {
                return JoinOutcome::Full;
            }
            if let Some(reader) = fetch.body.reader() {
                return JoinOutcome::Wait(Arc::clone(fetch), reader);
            }
        }
        if let Some(response) = recheck() {
            return JoinOutcome::Stored(response);
        }
        let fetch = begin();
        let reader = fetch.body.first_reader();
        running.insert(key.clone(), Arc::clone(&fetch));
        JoinOutcome::Lead(fetch, reader)
    }

    /// Number of clients that read or wait, over all fills.
    pub(crate) fn readers(&self) -> usize {
        self.running.lock().values().map(|fetch| fetch.body.readers()).sum()
    }

    /// Removes the fetch, so that new clients no longer join it.
    pub(crate) fn remove(&self, key: &InFlightKey, fetch: &Arc<InFlightFetch>) {
        let mut running = self.running.lock();
        if running.get(key).is_some_and(|found| Arc::ptr_eq(found, fetch)) {
            running.remove(key);
        }
    }

    /// Turns collapsing off for `key` for [`DISABLED_FOR`].
    pub(crate) fn disable_collapsing(&self, key: &CacheKey, now: SystemTime) {
        let mut uncollapsed = self.uncollapsed.lock();
        if uncollapsed.len() >= MAX_DISABLED {
            uncollapsed.retain(|_, until| *until > now);
        }
        if uncollapsed.len() >= MAX_DISABLED {
            uncollapsed.clear();
        }
        let until = now.checked_add(DISABLED_FOR).unwrap_or(now);
        uncollapsed.insert(key.id(), until);
    }

    /// Turns collapsing on again: the key's response was cacheable.
    pub(crate) fn enable_collapsing(&self, key: &CacheKey) {
        self.uncollapsed.lock().remove(&key.id());
    }

    /// Whether collapsing is off for `key`.
    pub(crate) fn is_collapsing_disabled(&self, key: &CacheKey, now: SystemTime) -> bool {
        let mut uncollapsed = self.uncollapsed.lock();
        match uncollapsed.get(&key.id()) {
            None => false,
            // A clock that is set back must not prolong the entry.
            Some(until) if *until > now && until.duration_since(now).is_ok_and(|d| d <= DISABLED_FOR) => true,
            Some(_) => {
                uncollapsed.remove(&key.id());
                false
            }
        }
    }
}
