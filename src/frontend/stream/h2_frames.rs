//! The frames that a client sends, as far as to know whether it is in the middle of a head, and that it sends of
//! bodies.
//!
//! Owns: where frames begin and end (RFC 9113 §4.1, §6.1, §6.2, §6.10). Never touches: what is in them.

use tokio::sync::watch;

use crate::frontend::shared_connection::SharedConnection;

/// What a connection begins with (RFC 9113 §3.4).
const PREFACE: usize = 24;

const HEAD: usize = 9;
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;

/// Follows what is read from a client and tells when a head has begun and not ended, and how much of bodies
/// has come.
#[derive(Debug)]
pub(super) struct FrameTracker {
    /// Bytes to skip: of the preface, or of a frame's payload.
    skip: usize,
    head: [u8; HEAD],
    /// How much of `head` has come.
    come: usize,
    /// The payload that is being skipped is a head's.
    of_head: bool,
    /// It is a body's.
    of_body: bool,
    /// A head goes on behind the frame.
    goes_on: bool,
    inside: watch::Sender<bool>,
    siblings: SharedConnection,
}

impl FrameTracker {
    /// At the beginning of a connection of `siblings`, which learn of bodies; whether it is inside a head
    /// is told to the receiver.
    pub(super) fn new(siblings: SharedConnection) -> (Self, watch::Receiver<bool>) {
        let (inside, told) = watch::channel(false);
        let frames = Self {
            skip: PREFACE,
            head: [0; HEAD],
            come: 0,
            of_head: false,
            of_body: false,
            goes_on: false,
            inside,
            siblings,
        };
        (frames, told)
    }

    /// Whose they are.
    pub(super) fn siblings(&self) -> &SharedConnection {
        &self.siblings
    }

    /// These bytes came next.
    pub(super) fn read(&mut self, mut bytes: &[u8]) {
        let mut of_bodies = 0;
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            if self.of_body {
                of_bodies += skipped;
            }
            bytes = bytes.get(skipped..).unwrap_or_default();
            if self.skip == 0 && !bytes.is_empty() {
                bytes = self.read_head(bytes);
            }
        }
        if of_bodies > 0 {
            self.siblings.comes(of_bodies);
        }
        let inside = self.come > 0 || self.goes_on || (self.of_head && self.skip > 0);
        self.inside.send_if_modified(|told| std::mem::replace(told, inside) != inside);
    }

    fn read_head<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (taken, rest) = bytes.split_at((HEAD - self.come).min(bytes.len()));
        if let Some(room) = self.head.get_mut(self.come..self.come + taken.len()) {
            room.copy_from_slice(taken);
        }
        self.come += taken.len();
        if self.come == HEAD {
            let [a, b, c, kind, flags, ..] = self.head;
            self.come = 0;
            self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            self.of_body = kind == DATA;
            self.of_head = matches!(kind, HEADERS | CONTINUATION);
            if self.of_head {
                self.goes_on = flags & END_HEADERS == 0;
            }
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::in_flight_bytes::InFlightBytes;

    fn frames() -> (FrameTracker, watch::Receiver<bool>) {
        FrameTracker::new(SharedConnection::new(None, &InFlightBytes::new(1 << 20)))
    }

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let length = u32::try_from(length).expect("it is small").to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        frame.resize(HEAD + usize::try_from(u32::from_be_bytes(length)).expect("it is small"), 7);
        frame
    }

    /// Whether it is inside a head after each byte.
    fn told(bytes: &[u8]) -> Vec<bool> {
        let (mut frames, told) = frames();
        frames.read(&[0; PREFACE]);
        let after = |byte: &u8| {
            frames.read(&[*byte]);
            *told.borrow()
        };
        bytes.iter().map(after).collect()
    }

    #[test]
    fn a_head_lasts_from_its_first_byte_to_its_last() {
        let told = told(&frame(HEADERS, END_HEADERS, 20));
        assert_eq!(told.iter().position(|inside| !inside), Some(HEAD + 20 - 1));
    }

    #[test]
    fn a_head_that_goes_on_lasts_until_its_end_is_marked() {
        let parts = [frame(HEADERS, 0, 5), frame(CONTINUATION, 0, 0), frame(CONTINUATION, 4, 3)];
        let told = told(&parts.concat());
        assert_eq!(told.iter().position(|inside| !inside), Some(told.len() - 1));
    }

    #[test]
    fn a_body_that_comes_slowly_is_no_head() {
        let told = told(&frame(DATA, 0, 20));
        assert_eq!(told.iter().filter(|inside| **inside).count(), HEAD - 1);
        assert!(!told[HEAD], "inside the payload");
    }

    #[test]
    fn however_the_bytes_are_cut_the_end_is_the_same() {
        let bytes = [frame(DATA, 0, 30), frame(HEADERS, 0, 9), frame(CONTINUATION, 0, 2)].concat();
        for size in 1..bytes.len() {
            let (mut frames, told) = frames();
            let all = [vec![0; PREFACE], bytes.clone()].concat();
            for piece in all.chunks(size) {
                frames.read(piece);
            }
            assert!(*told.borrow(), "{size}");
            assert_eq!(frames.siblings.came().bytes, 30, "{size}");
            frames.read(&frame(CONTINUATION, END_HEADERS, 0));
            assert!(!*told.borrow(), "{size}");
        }
    }
}
