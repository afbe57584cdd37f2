//! The size of bodies that a store has evicted while clients still receive them.
//!
//! Owns: the count, exact from the drop of the last store guard to the drop of the last reader. Never
//! touches: the use of the count.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Smaller bodies are not tracked: their unsent bytes are in the socket of the client.
const SMALL: usize = 16 * 1024;

/// The bytes of all evicted bodies that still have readers.
pub type EvictedBodies = Arc<AtomicUsize>;

/// A body that its readers share, tracked up to the last of them.
#[derive(Debug)]
pub(super) struct Body {
    bytes: Bytes,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    guards: usize,
    /// The counter that includes it while no store holds it.
    counter: Option<EvictedBodies>,
}

/// The readers' view of the body.
struct Read(Arc<Body>);

/// A store's guard of a body: as long as it lives, the store holds the body.
#[derive(Debug)]
pub struct StoredBodyGuard(Arc<Body>, EvictedBodies);

impl AsRef<[u8]> for Read {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl Body {
    /// Tracks `bytes`: the returned bytes replace them.
    pub(super) fn track(bytes: Bytes) -> (Option<Arc<Self>>, Bytes) {
        if bytes.len() < SMALL {
            return (None, bytes);
        }
        let body = Arc::new(Self { bytes, state: Mutex::default() });
        (Some(Arc::clone(&body)), Bytes::from_owner(Read(body)))
    }

    /// A guard of a store; when the last one is dropped, the body counts in `evicted_bodies`.
    pub(super) fn guard(self: &Arc<Self>, evicted_bodies: &EvictedBodies) -> StoredBodyGuard {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.guards += 1;
        if let Some(counter) = state.counter.take() {
            counter.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        }
        drop(state);
        StoredBodyGuard(Arc::clone(self), Arc::clone(evicted_bodies))
    }
}

impl Drop for StoredBodyGuard {
    fn drop(&mut self) {
        let Self(body, counter) = self;
        let mut state = body.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.guards -= 1;
        if state.guards == 0 {
            counter.fetch_add(body.bytes.len(), Ordering::Relaxed);
            state.counter = Some(Arc::clone(counter));
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(counter) = state.counter.take() {
            counter.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracked() -> (Arc<Body>, Bytes) {
        let (body, bytes) = Body::track(Bytes::from(vec![7; SMALL]));
        (body.expect("it is not small"), bytes)
    }

    #[test]
    fn a_body_counts_from_the_drop_of_the_last_guard_to_the_last_reader() {
        let evicted_bodies = EvictedBodies::default();
        let count = || evicted_bodies.load(Ordering::Relaxed);
        let (body, bytes) = tracked();
        let (guard, other_guard) = (body.guard(&evicted_bodies), body.guard(&evicted_bodies));
        drop(body);
        let reader = bytes.slice(2..4);
        drop(bytes);
        drop(guard);
        assert_eq!((count(), &reader[..]), (0, &[7, 7][..]));
        drop(other_guard);
        assert_eq!(count(), SMALL, "a slice keeps the whole body");
        drop(reader);
        assert_eq!(count(), 0);
    }

    #[test]
    fn a_body_with_a_new_guard_or_without_readers_does_not_count() {
        let evicted_bodies = EvictedBodies::default();
        let count = || evicted_bodies.load(Ordering::Relaxed);
        let (body, bytes) = tracked();
        drop(body.guard(&evicted_bodies));
        assert_eq!(count(), SMALL);
        let again = body.guard(&evicted_bodies);
        assert_eq!(count(), 0);
        drop((body, bytes));
        drop(again);
        assert_eq!(count(), 0);
        assert!(Body::track(Bytes::from_static(b"small")).0.is_none());
    }
}
