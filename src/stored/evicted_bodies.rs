//! The bodies that a store has let go of while clients still take them: how many bytes they have.
//!
//! Owns: the count, exact from the last hold of a store to the last reader. Never touches: what the count
//! is for.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Smaller bodies are not followed: what a client is sent of them waits in its socket.
const SMALL: usize = 16 * 1024;

/// The bytes of all bodies that are lent.
pub type EvictedBodies = Arc<AtomicUsize>;

/// A body that its readers share, followed to the last of them.
#[derive(Debug)]
pub(super) struct Body {
    bytes: Bytes,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    holds: usize,
    /// Where it counts while no store holds it.
    lent: Option<EvictedBodies>,
}

/// What readers have of it.
struct Read(Arc<Body>);

/// A store's hold on a body: as long as it lives, the body is the store's.
#[derive(Debug)]
pub struct StoredBodyGuard(Arc<Body>, EvictedBodies);

impl AsRef<[u8]> for Read {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl Body {
    /// Follows `bytes`: what is given back with it stands in their place.
    pub(super) fn follow(bytes: Bytes) -> (Option<Arc<Self>>, Bytes) {
        if bytes.len() < SMALL {
            return (None, bytes);
        }
        let body = Arc::new(Self { bytes, state: Mutex::default() });
        (Some(Arc::clone(&body)), Bytes::from_owner(Read(body)))
    }

    /// A store holds it from now on; later it counts in `lent`.
    pub(super) fn hold(self: &Arc<Self>, lent: &EvictedBodies) -> StoredBodyGuard {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.holds += 1;
        if let Some(lent) = state.lent.take() {
            lent.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        }
        drop(state);
        StoredBodyGuard(Arc::clone(self), Arc::clone(lent))
    }
}

impl Drop for StoredBodyGuard {
    fn drop(&mut self) {
        let Self(body, lent) = self;
        let mut state = body.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.holds -= 1;
        if state.holds == 0 {
            lent.fetch_add(body.bytes.len(), Ordering::Relaxed);
            state.lent = Some(Arc::clone(lent));
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(lent) = state.lent.take() {
            lent.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn followed() -> (Arc<Body>, Bytes) {
        let (body, bytes) = Body::follow(Bytes::from(vec![7; SMALL]));
        (body.expect("it is not small"), bytes)
    }

    #[test]
    fn a_body_is_lent_from_the_end_of_the_last_hold_to_that_of_the_last_reader() {
        let lent = EvictedBodies::default();
        let count = || lent.load(Ordering::Relaxed);
        let (body, bytes) = followed();
        let (hold, other) = (body.hold(&lent), body.hold(&lent));
        drop(body);
        let reader = bytes.slice(2..4);
        drop(bytes);
        drop(hold);
        assert_eq!((count(), &reader[..]), (0, &[7, 7][..]));
        drop(other);
        assert_eq!(count(), SMALL, "all of it is there for a part");
        drop(reader);
        assert_eq!(count(), 0);
    }

    #[test]
    fn what_is_held_again_is_not_lent_and_what_nobody_reads_is_gone() {
        let lent = EvictedBodies::default();
        let count = || lent.load(Ordering::Relaxed);
        let (body, bytes) = followed();
        drop(body.hold(&lent));
        assert_eq!(count(), SMALL);
        let again = body.hold(&lent);
        assert_eq!(count(), 0);
        drop((body, bytes));
        drop(again);
        assert_eq!(count(), 0);
        assert!(Body::follow(Bytes::from_static(b"small")).0.is_none());
    }
}
