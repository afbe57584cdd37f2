//! The buffered pieces of one body.
//!
//! Owns: their order, and that their bytes are counted while they are buffered. Never touches: the purpose of
//! the body.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::upstream::in_flight_bytes::{
    ALWAYS_INSPECTED, BytesPermit, COPY_THRESHOLD, InFlightBytes, PIECE_OVERHEAD,
};

/// Buffered pieces of one body; their bytes are counted.
#[derive(Debug)]
pub struct BufferedPieces {
    pieces: VecDeque<Bytes>,
    length: usize,
    permit: BytesPermit,
    limit: usize,
    /// Bytes that are buffered without checking the limit.
    unchecked: usize,
}

impl BufferedPieces {
    /// No pieces yet.
    pub fn new(in_flight: &Arc<InFlightBytes>) -> Self {
        Self::with_limit(in_flight, in_flight.whole_body_limit(), 0)
    }

    /// No pieces yet of a body that is inspected once it is complete. The limit is lower, but a body of up to
    /// [`ALWAYS_INSPECTED`] bytes always fits.
    pub fn for_inspection(in_flight: &Arc<InFlightBytes>) -> Self {
        Self::with_limit(in_flight, in_flight.inspection_limit(), ALWAYS_INSPECTED)
    }

    fn with_limit(in_flight: &Arc<InFlightBytes>, limit: usize, unchecked: usize) -> Self {
        Self { pieces: VecDeque::new(), length: 0, permit: BytesPermit::new(in_flight), limit, unchecked }
    }

    /// Adds a piece; returns it as the error if the limit is reached.
    pub fn push(&mut self, piece: Bytes) -> Result<(), Bytes> {
        if piece.is_empty() {
            return Ok(());
        }
        if self.length + piece.len() <= self.unchecked {
            self.permit.reserve(piece.len() + PIECE_OVERHEAD);
        } else if !self.permit.try_reserve_within(piece.len() + PIECE_OVERHEAD, self.limit) {
            return Err(piece);
        }
        let small = piece.len() < COPY_THRESHOLD;
        self.length += piece.len();
        self.pieces.push_back(if small { Bytes::copy_from_slice(&piece) } else { piece });
        Ok(())
    }

    /// Removes the first piece.
    pub fn pop(&mut self) -> Option<Bytes> {
        let piece = self.pieces.pop_front()?;
        self.length -= piece.len();
        self.permit.release(piece.len() + PIECE_OVERHEAD);
        Some(piece)
    }

    /// Total length of all pieces.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The first byte.
    pub fn first(&self) -> Option<u8> {
        self.pieces.iter().find_map(|piece| piece.first().copied())
    }

    /// A copy of the body in one piece.
    pub fn joined(&self) -> Bytes {
        let mut joined = BytesMut::with_capacity(self.length);
        self.pieces.iter().for_each(|piece| joined.extend_from_slice(piece));
        joined.freeze()
    }

    /// The same with a permit for the copy and `more` bytes; `None`: that would exceed the limit. A short
    /// body always fits.
    pub fn try_joined(&self, more: usize) -> Option<(Bytes, BytesPermit)> {
        let mut permit = BytesPermit::new(&self.permit.in_flight);
        if self.length + more <= self.unchecked {
            permit.reserve(self.length + more);
            return Some((self.joined(), permit));
        }
        permit.try_reserve(self.length.saturating_add(more)).then(|| (self.joined(), permit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffered_pieces_are_counted_and_released() {
        let in_flight = InFlightBytes::new((10_000 + 2 * PIECE_OVERHEAD) * 4 / 3 + 1);
        let mut pieces = BufferedPieces::new(&in_flight);
        assert!(pieces.push(Bytes::from(vec![1; 6000])).is_ok());
        let mut other = BufferedPieces::new(&in_flight);
        let refused = other.push(Bytes::from(vec![2; 6000]));
        assert_eq!(refused.map_err(|piece| piece.len()), Err(6000));
        assert!(other.push(Bytes::from(vec![2; 4000])).is_ok());
        assert!(in_flight.used() <= in_flight.whole_body_limit() && !other.permit.try_reserve(2));
        assert!(pieces.try_joined(0).is_none(), "a copy exceeds the limit");
        drop(other);
        assert_eq!(in_flight.used(), 6000 + PIECE_OVERHEAD);
        assert_eq!((pieces.len(), pieces.first(), pieces.joined().len()), (6000, Some(1), 6000));
        assert_eq!(pieces.pop().map(|piece| piece.len()), Some(6000));
        assert_eq!((in_flight.used(), pieces.is_empty(), pieces.pop()), (0, true, None));
    }

    /// A chunk of one byte may arrive in a buffer with four kilobytes of chunk extensions.
    #[test]
    fn a_small_buffered_piece_keeps_no_large_buffer_alive() {
        let buffer = Bytes::from(vec![7; 64 * 1024]);
        let mut pieces = BufferedPieces::new(&InFlightBytes::new(1000));
        assert!(pieces.push(buffer.slice(..10)).is_ok());
        assert!(buffer.is_unique());
    }
}
