//! Bodies that are held in memory on their way: how many bytes they may have together
//! (`limits.in_flight`).
//!
//! Owns: the count, over fills, recordings and what rules read; that whoever holds bytes gives them back.
//! Never touches: what the bodies are held for, or what becomes of one for which there is no room.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};

/// Smaller pieces are copied where they are held: each holds the whole buffer that it was read into, which
/// may have held much else.
pub const SMALL: usize = 4 * 1024;

/// What a piece costs beside its bytes.
pub const EACH: usize = 64;

/// The bytes of all bodies that are held.
#[derive(Debug)]
pub struct InFlight {
    used: AtomicUsize,
    cap: usize,
}

impl InFlight {
    /// Room for `cap` bytes.
    pub fn new(cap: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), cap })
    }

    /// Whether there is room for no more bodies that are kept whole.
    pub fn is_spent(&self) -> bool {
        self.used() >= self.most()
    }

    /// The bytes of bodies that are kept whole, until they are stored, read or let go. A quarter is left to
    /// bodies that flow: those are counted whether or not there is room.
    fn most(&self) -> usize {
        self.cap - self.cap / 4
    }

    /// The bytes that are held.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Counts bytes whether or not there is room.
    pub fn take(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes if there is room for them.
    fn take_within(&self, bytes: usize) -> bool {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let within = used <= self.most();
        if !within {
            self.give_back(bytes);
        }
        within
    }

    /// They are held no longer.
    pub fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Bytes that are held; given back when this is dropped.
#[derive(Debug)]
pub struct Share {
    of: Arc<InFlight>,
    bytes: usize,
}

impl Share {
    /// None yet.
    pub fn new(of: &Arc<InFlight>) -> Self {
        Self { of: Arc::clone(of), bytes: 0 }
    }

    /// More; false, and as many as before, where there is no room.
    pub fn add(&mut self, bytes: usize) -> bool {
        let within = self.of.take_within(bytes);
        self.bytes += if within { bytes } else { 0 };
        within
    }

    fn give_back(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.of.give_back(bytes);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.give_back(self.bytes);
    }
}

/// Pieces of one body, held.
#[derive(Debug)]
pub struct Gathered {
    pieces: VecDeque<Bytes>,
    length: usize,
    share: Share,
}

impl Gathered {
    /// None yet.
    pub fn new(of: &Arc<InFlight>) -> Self {
        Self { pieces: VecDeque::new(), length: 0, share: Share::new(of) }
    }

    /// Adds a piece; gives it back where there is no room.
    pub fn push(&mut self, piece: Bytes) -> Result<(), Bytes> {
        if piece.is_empty() {
            return Ok(());
        }
        if !self.share.add(piece.len() + EACH) {
            return Err(piece);
        }
        let small = piece.len() < SMALL;
        self.length += piece.len();
        self.pieces.push_back(if small { Bytes::copy_from_slice(&piece) } else { piece });
        Ok(())
    }

    /// Takes the first piece out.
    pub fn pop(&mut self) -> Option<Bytes> {
        let piece = self.pieces.pop_front()?;
        self.length -= piece.len();
        self.share.give_back(piece.len() + EACH);
        Some(piece)
    }

    /// The bytes of all pieces.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The first byte.
    pub fn first(&self) -> Option<u8> {
        self.pieces.iter().find_map(|piece| piece.first().copied())
    }

    /// All of it in one piece, which the pieces do not share.
    pub fn joined(&self) -> Bytes {
        let mut joined = BytesMut::with_capacity(self.length);
        self.pieces.iter().for_each(|piece| joined.extend_from_slice(piece));
        joined.freeze()
    }

    /// The same, if there is room for it beside the pieces, and for `more` bytes: with what holds that room.
    pub fn joined_within(&self, more: usize) -> Option<(Bytes, Share)> {
        let mut share = Share::new(&self.share.of);
        share.add(self.length.saturating_add(more)).then(|| (self.joined(), share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_counted_and_given_back() {
        let room = InFlight::new((10_000 + 2 * EACH) * 4 / 3 + 1);
        let mut held = Gathered::new(&room);
        assert!(held.push(Bytes::from(vec![1; 6000])).is_ok());
        let mut other = Gathered::new(&room);
        let refused = other.push(Bytes::from(vec![2; 6000]));
        assert_eq!(refused.map_err(|piece| piece.len()), Err(6000));
        assert!(other.push(Bytes::from(vec![2; 4000])).is_ok());
        assert!(room.used() <= room.most() && !other.share.add(2));
        assert!(held.joined_within(0).is_none(), "no room for a copy");
        drop(other);
        assert_eq!(room.used(), 6000 + EACH);
        assert_eq!((held.len(), held.first(), held.joined().len()), (6000, Some(1), 6000));
        assert_eq!(held.pop().map(|piece| piece.len()), Some(6000));
        assert_eq!((room.used(), held.is_empty(), held.pop()), (0, true, None));
    }

    /// A chunk of one byte may come in a buffer that four kilobytes of extensions filled.
    #[test]
    fn a_small_piece_that_is_held_holds_no_large_buffer() {
        let buffer = Bytes::from(vec![7; 64 * 1024]);
        let mut held = Gathered::new(&InFlight::new(1000));
        assert!(held.push(buffer.slice(..10)).is_ok());
        assert!(buffer.is_unique());
    }
}
