//! The body of a request that passes through, buffered as far as it may be sent again.
//!
//! Owns: the buffer for repeats. Never touches: the decision on a repeat.

use std::sync::Arc;

use bytes::Bytes;

use crate::frontend::session::{ClientError, ClientEvent, ClientSession};
use crate::upstream::connect::pool::CallChannel;
use crate::upstream::connect::session::RequestPart;
use crate::upstream::in_flight_bytes::{BytesPermit, COPY_THRESHOLD, InFlightBytes};

/// Maximum length of a body that is buffered for repeats.
const MAX_BUFFERED: usize = 64 * 1024;

/// Minimum memory that a piece is counted with.
const MIN_PIECE: usize = 128;

/// The body of a request in transfer.
#[derive(Debug)]
pub(super) struct RequestUpload {
    buffer: Vec<Bytes>,
    /// Memory of the buffer, counted in `limits.in_flight`.
    memory: BytesPermit,
    /// Bytes received from the client.
    received: usize,
    /// Memory that the received pieces are counted with.
    buffer_bytes: usize,
    /// Set once the body exceeds the buffer, so that it cannot be sent again.
    outgrown: bool,
    /// Set once the whole body has been read from the client.
    ended: bool,
    /// Number of buffered pieces that this call has got, and whether it has got the end.
    sent: usize,
    end_sent: bool,
}

impl RequestUpload {
    /// A body of which nothing has been received.
    pub(super) fn new(in_flight: &Arc<InFlightBytes>) -> Self {
        Self {
            buffer: Vec::new(),
            memory: BytesPermit::new(in_flight),
            received: 0,
            buffer_bytes: 0,
            outgrown: false,
            ended: false,
            sent: 0,
            end_sent: false,
        }
    }

    /// Prepares for a call, which sends the body from its start.
    pub(super) fn begin(&mut self) {
        (self.sent, self.end_sent) = (0, false);
    }

    /// Whether a new call can send the whole body.
    pub(super) fn is_repeatable(&self) -> bool {
        !self.outgrown
    }

    /// Number of bytes received from the client.
    pub(super) fn received_bytes(&self) -> usize {
        self.received
    }

    /// Whether the call has got the whole body, including its end.
    pub(super) fn is_sent(&self) -> bool {
        self.end_sent
    }

    /// Whether the whole body has been read from the client, so that the rest can be sent without it.
    pub(super) fn is_complete(&self) -> bool {
        self.ended
    }

    /// Whether more must be read from the client.
    pub(super) fn needs_more(&self) -> bool {
        !self.ended && self.sent == self.buffer.len()
    }

    /// Sends the buffered parts that `channel` accepts now.
    pub(super) fn send_available(&mut self, channel: &mut CallChannel) {
        while channel.can_send() {
            let Some(part) = self.next_part() else { return };
            channel.send(part);
        }
    }

    /// The next piece, or the end, that can be sent without reading from the client.
    fn next_part(&mut self) -> Option<RequestPart> {
        if let Some(piece) = self.buffer.get(self.sent) {
            self.sent += 1;
            return Some(RequestPart::Data(piece.clone()));
        }
        let sends_end = self.ended && !self.end_sent;
        self.end_sent |= sends_end;
        sends_end.then_some(RequestPart::End)
    }

    /// Waits for an event of the client: more of the body if `wanted`, capacity for the response, or the end
    /// of the connection. Received data is available from [`RequestUpload::next_part`], except a returned
    /// piece, which is not buffered. Cancel-safe.
    pub(super) async fn next_event(
        &mut self,
        client: &mut ClientSession,
        wanted: bool,
    ) -> Result<Option<Bytes>, ClientError> {
        Ok(match client.next_event(wanted).await? {
            ClientEvent::Room => None,
            ClientEvent::Body(None) => {
                self.ended = true;
                None
            }
            ClientEvent::Body(Some(piece)) => self.on_piece(piece, client.has_read_body()),
        })
    }

    fn on_piece(&mut self, piece: Bytes, last: bool) -> Option<Bytes> {
        self.ended = last;
        self.received += piece.len();
        let memory = piece.len().max(MIN_PIECE);
        self.buffer_bytes += memory;
        if self.buffer_bytes <= MAX_BUFFERED && !self.outgrown && self.memory.try_reserve(memory) {
            let is_small = piece.len() < COPY_THRESHOLD;
            self.buffer.push(if is_small { Bytes::copy_from_slice(&piece) } else { piece });
            return None;
        }
        self.outgrown = true;
        // The buffered pieces were sent before: more is read only after that.
        self.buffer.clear();
        self.memory.release_all();
        self.sent = 0;
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffered_pieces_keep_no_large_buffer_alive_and_are_limited() {
        let large = Bytes::from(vec![7; 64 * 1024]);
        let in_flight = InFlightBytes::new(2 * MAX_BUFFERED);
        let mut upload = RequestUpload::new(&in_flight);
        assert_eq!(upload.on_piece(large.slice(..10), false), None);
        assert!(large.is_unique());
        let mut pieces = 1;
        while upload.on_piece(Bytes::from_static(b"x"), false).is_none() {
            pieces += 1;
            // All pieces are sent before more is read.
            while upload.next_part().is_some() {}
        }
        assert!(!upload.is_repeatable());
        assert_eq!(pieces, MAX_BUFFERED / MIN_PIECE);
        assert_eq!(in_flight.used(), 0, "the memory of the dropped pieces is released");
        let mut upload = RequestUpload::new(&InFlightBytes::new(MIN_PIECE));
        assert!(upload.on_piece(Bytes::from_static(b"x"), false).is_some());
        assert!(!upload.is_repeatable(), "a repeat needs more memory than is available");
    }
}
