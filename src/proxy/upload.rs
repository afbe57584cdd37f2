//! The body of a request that passes through, and what of it can be sent once more.
//!
//! Owns: the bytes that are kept for a repeat. Never touches: when a call is repeated.

use std::sync::Arc;

use bytes::Bytes;

use crate::frontend::session::{ClientError, ClientEvent, ClientSession};
use crate::upstream::in_flight_bytes::{BytesPermit, InFlightBytes, SMALL};
use crate::upstream::session::RequestPart;

/// The longest body that is kept.
const KEPT: usize = 64 * 1024;

/// What a piece costs at least.
const EACH: usize = 128;

/// A body on its way.
#[derive(Debug)]
pub(super) struct RequestUpload {
    kept: Vec<Bytes>,
    /// What that takes of `limits.in_flight`.
    share: BytesPermit,
    /// What has come, and what of it is kept with what that costs.
    came: usize,
    bytes: usize,
    /// More has passed than is kept: it cannot be sent once more.
    outgrown: bool,
    /// All of it has been read from the client.
    ended: bool,
    /// How many of the kept pieces this call has had, and whether it was told of the end.
    sent: usize,
    told: bool,
}

impl RequestUpload {
    /// A body of which nothing has come yet.
    pub(super) fn new(in_flight: &Arc<InFlightBytes>) -> Self {
        Self {
            kept: Vec::new(),
            share: BytesPermit::new(in_flight),
            came: 0,
            bytes: 0,
            outgrown: false,
            ended: false,
            sent: 0,
            told: false,
        }
    }

    /// A call begins.
    pub(super) fn begin(&mut self) {
        (self.sent, self.told) = (0, false);
    }

    /// Whether a call that begins now can be sent all of it.
    pub(super) fn is_whole(&self) -> bool {
        !self.outgrown
    }

    /// The bytes that have come from the client.
    pub(super) fn came_so_far(&self) -> usize {
        self.came
    }

    /// Whether all of it was handed to the call, its end too.
    pub(super) fn is_sent(&self) -> bool {
        self.told
    }

    /// Whether all of it has been read from the client: what is not sent yet can be without it.
    pub(super) fn is_all_here(&self) -> bool {
        self.ended
    }

    /// Whether the client is to be asked for more.
    pub(super) fn needs_more(&self) -> bool {
        !self.ended && self.sent == self.kept.len()
    }

    /// What can be sent without asking the client: a piece, or the end.
    pub(super) fn at_hand(&mut self) -> Option<RequestPart> {
        if let Some(piece) = self.kept.get(self.sent) {
            self.sent += 1;
            return Some(RequestPart::Data(piece.clone()));
        }
        let tells = self.ended && !self.told;
        self.told |= tells;
        tells.then_some(RequestPart::End)
    }

    /// Waits for the client: for more of the body if that is `wanted`, for room for the answer, for its
    /// end. [`RequestUpload::at_hand`] has what came, unless it is `Some` here: then it is not kept. May be
    /// dropped while it waits.
    pub(super) async fn news(
        &mut self,
        client: &mut ClientSession,
        wanted: bool,
    ) -> Result<Option<Bytes>, ClientError> {
        Ok(match client.news(wanted).await? {
            ClientEvent::Room => None,
            ClientEvent::Body(None) => {
                self.ended = true;
                None
            }
            ClientEvent::Body(Some(piece)) => self.comes(piece, client.has_read_body()),
        })
    }

    fn comes(&mut self, piece: Bytes, last: bool) -> Option<Bytes> {
        self.ended = last;
        self.came += piece.len();
        let takes = piece.len().max(EACH);
        self.bytes += takes;
        if self.bytes <= KEPT && !self.outgrown && self.share.add(takes) {
            let small = piece.len() < SMALL;
            self.kept.push(if small { Bytes::copy_from_slice(&piece) } else { piece });
            return None;
        }
        self.outgrown = true;
        // What was kept has been sent: nobody reads on before.
        self.kept.clear();
        self.share.give_all_back();
        self.sent = 0;
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_for_a_repeat_holds_no_large_buffers_and_ends_with_its_bound() {
        let buffer = Bytes::from(vec![7; 64 * 1024]);
        let room = InFlightBytes::new(2 * KEPT);
        let mut upload = RequestUpload::new(&room);
        assert_eq!(upload.comes(buffer.slice(..10), false), None);
        assert!(buffer.is_unique());
        let mut pieces = 1;
        while upload.comes(Bytes::from_static(b"x"), false).is_none() {
            pieces += 1;
            // It has been sent before more is asked for.
            while upload.at_hand().is_some() {}
        }
        assert!(!upload.is_whole());
        assert_eq!(pieces, KEPT / EACH);
        assert_eq!(room.used(), 0, "what is no longer kept is given back");
        let mut upload = RequestUpload::new(&InFlightBytes::new(EACH));
        assert!(upload.comes(Bytes::from_static(b"x"), false).is_some());
        assert!(!upload.is_whole(), "there is no room for a repeat");
    }
}
