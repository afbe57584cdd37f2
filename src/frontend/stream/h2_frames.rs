//! Tracks the frames that a client sends: whether a head has begun and not ended, and how many body
//! bytes arrive.
//!
//! Owns: the boundaries of frames (RFC 9113 §4.1, §6.1, §6.2, §6.10). Never touches: the content of frames.

use tokio::sync::watch;

use crate::frontend::shared_connection::SharedConnection;

/// The length of the connection preface (RFC 9113 §3.4).
const PREFACE: usize = 24;

const FRAME_HEADER: usize = 9;
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;

/// Tracks received frames. It reports whether a head has begun and not ended, and how many body bytes
/// have arrived.
#[derive(Debug)]
pub(super) struct FrameTracker {
    /// Bytes to skip: of the preface, or of a frame's payload.
    skip: usize,
    head: [u8; FRAME_HEADER],
    /// The number of bytes of `head` that have arrived.
    arrived: usize,
    /// Whether the skipped payload belongs to a head.
    of_head: bool,
    /// Whether the skipped payload belongs to a body.
    of_body: bool,
    /// Whether the head continues after this frame.
    continues: bool,
    in_head: watch::Sender<bool>,
    shared: SharedConnection,
}

impl FrameTracker {
    /// Creates the tracker of a new connection. `shared` counts its body bytes; the receiver reports
    /// whether a head has begun and not ended.
    pub(super) fn new(shared: SharedConnection) -> (Self, watch::Receiver<bool>) {
        let (in_head, receiver) = watch::channel(false);
        let frames = Self {
            skip: PREFACE,
            head: [0; FRAME_HEADER],
            arrived: 0,
            of_head: false,
            of_body: false,
            continues: false,
            in_head,
            shared,
        };
        (frames, receiver)
    }

    /// The shared state of the connection.
    pub(super) fn shared(&self) -> &SharedConnection {
        &self.shared
    }

    /// Processes the bytes that arrived next.
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
                bytes = self.read_header(bytes);
            }
        }
        if of_bodies > 0 {
            self.shared.record_received(of_bodies);
        }
        let in_head = self.arrived > 0 || self.continues || (self.of_head && self.skip > 0);
        self.in_head.send_if_modified(|current| std::mem::replace(current, in_head) != in_head);
    }

    fn read_header<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (taken, rest) = bytes.split_at((FRAME_HEADER - self.arrived).min(bytes.len()));
        if let Some(room) = self.head.get_mut(self.arrived..self.arrived + taken.len()) {
            room.copy_from_slice(taken);
        }
        self.arrived += taken.len();
        if self.arrived == FRAME_HEADER {
            let [a, b, c, kind, flags, ..] = self.head;
            self.arrived = 0;
            self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            self.of_body = kind == DATA;
            self.of_head = matches!(kind, HEADERS | CONTINUATION);
            if self.of_head {
                self.continues = flags & END_HEADERS == 0;
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
        frame.resize(FRAME_HEADER + usize::try_from(u32::from_be_bytes(length)).expect("it is small"), 7);
        frame
    }

    /// Whether a head has begun and not ended, after each byte.
    fn in_head_after(bytes: &[u8]) -> Vec<bool> {
        let (mut frames, receiver) = frames();
        frames.read(&[0; PREFACE]);
        let after = |byte: &u8| {
            frames.read(&[*byte]);
            *receiver.borrow()
        };
        bytes.iter().map(after).collect()
    }

    #[test]
    fn a_head_lasts_from_its_first_byte_to_its_last() {
        let states = in_head_after(&frame(HEADERS, END_HEADERS, 20));
        assert_eq!(states.iter().position(|in_head| !in_head), Some(FRAME_HEADER + 20 - 1));
    }

    #[test]
    fn a_continued_head_lasts_until_end_headers() {
        let parts = [frame(HEADERS, 0, 5), frame(CONTINUATION, 0, 0), frame(CONTINUATION, 4, 3)];
        let states = in_head_after(&parts.concat());
        assert_eq!(states.iter().position(|in_head| !in_head), Some(states.len() - 1));
    }

    #[test]
    fn a_slow_body_is_not_a_head() {
        let states = in_head_after(&frame(DATA, 0, 20));
        assert_eq!(states.iter().filter(|in_head| **in_head).count(), FRAME_HEADER - 1);
        assert!(!states[FRAME_HEADER], "in the payload");
    }

    #[test]
    fn the_result_does_not_depend_on_how_bytes_are_split() {
        let bytes = [frame(DATA, 0, 30), frame(HEADERS, 0, 9), frame(CONTINUATION, 0, 2)].concat();
        for size in 1..bytes.len() {
            let (mut frames, receiver) = frames();
            let all = [vec![0; PREFACE], bytes.clone()].concat();
            for piece in all.chunks(size) {
                frames.read(piece);
            }
            assert!(*receiver.borrow(), "{size}");
            assert_eq!(frames.shared.received().bytes, 30, "{size}");
            frames.read(&frame(CONTINUATION, END_HEADERS, 0));
            assert!(!*receiver.borrow(), "{size}");
        }
    }
}
