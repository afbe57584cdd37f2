//! The body of an answer that passes through, copied for the rules that read it.
//!
//! Owns: how much of a body is copied. Never touches: the body as its client gets it, which
//! is not held up.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::proxy::context::RequestContext;
use crate::upstream::body_inspection::{self, ContentCoding, InspectedBody};
use crate::upstream::in_flight_bytes::{BufferedPieces, InFlightBytes};

/// A body that is copied while it passes.
pub(super) struct BodyCapture {
    status: StatusCode,
    headers: HeaderMap,
    coding: ContentCoding,
    body: BufferedPieces,
}

impl BodyCapture {
    /// A copy of the body behind this head, if rules can read it.
    pub(super) fn of(
        status: StatusCode,
        headers: &HeaderMap,
        in_flight: &Arc<InFlightBytes>,
    ) -> Option<Self> {
        let coding = body_inspection::coding(headers)?;
        let body = BufferedPieces::to_read(in_flight);
        Some(Self { status, headers: headers.clone(), coding, body })
    }

    /// Adds a piece; false once it is too much, or all bodies that are held are: give this one up.
    fn push(&mut self, piece: &Bytes) -> bool {
        let fits = self.body.len() + piece.len() <= body_inspection::LARGEST;
        fits && self.body.push(piece.clone()).is_ok()
    }
}

impl RequestContext {
    /// A piece of the body has passed.
    pub(super) fn read(&mut self, piece: &Bytes) {
        let Some(copy) = &mut self.copy else { return };
        if !copy.push(piece) {
            self.copy = None;
            self.is_unread();
        }
    }

    /// All of the body has passed: now rules can read it. A large one is parsed off the threads that serve.
    pub(super) async fn read_all(&mut self) {
        let Some(copy) = self.copy.take() else { return };
        let reading = body_inspection::parse_apart(copy.coding, &copy.body).await;
        let Some(pass) = &mut self.pass else { return };
        match reading {
            InspectedBody::Says(json) if pass.read(copy.status, &copy.headers, &json) => {}
            // An error that only its body tells of is kept for nobody.
            InspectedBody::Says(_) => self.recording = None,
            InspectedBody::NoJson => pass.finish_without_body(),
            InspectedBody::Unread => self.is_unread(),
        }
    }

    /// Nor is what may be one.
    fn is_unread(&mut self) {
        let Some(pass) = &mut self.pass else { return };
        pass.finish_without_body();
        if pass.judges_bodies() {
            self.recording = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use super::*;

    /// On a runtime of one thread: what is parsed elsewhere has to be waited for.
    #[tokio::test]
    async fn a_large_body_is_parsed_off_the_threads_that_serve_and_a_small_one_on_the_spot() {
        let room = InFlightBytes::new(4 * body_inspection::LARGEST);
        for (length, elsewhere) in
            [(1000, false), (1 << 20, true), (body_inspection::LARGEST, true)]
        {
            let mut copy = BodyCapture::of(StatusCode::OK, &HeaderMap::new(), &room).unwrap();
            let text = format!("[{}1]", " ".repeat(length - 3));
            assert!(copy.push(&Bytes::from(text)));
            let mut ctx = RequestContext::new(0);
            ctx.copy = Some(copy);
            let mut reading = pin!(ctx.read_all());
            let waits = poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx).is_pending())).await;
            assert_eq!(waits, elsewhere, "{length} bytes");
            if waits {
                reading.await;
            }
            assert_eq!(room.used(), 0, "what was read is given back");
        }
    }

    #[test]
    fn one_copy_is_bounded_and_all_together_are_and_those_that_are_over_make_room() {
        let room = InFlightBytes::new(8 * body_inspection::LARGEST);
        let copy = || {
            BodyCapture::of(StatusCode::OK, &HeaderMap::new(), &room)
                .expect("what is not called anything is tried")
        };
        let half = Bytes::from(vec![b' '; body_inspection::LARGEST / 2]);
        let fill = |copy: &mut BodyCapture| (0..3).map(|_| copy.push(&half)).collect::<Vec<_>>();
        let (mut first, mut second, mut third) = (copy(), copy(), copy());
        assert_eq!(fill(&mut first), [true, true, false], "the largest");
        assert_eq!(fill(&mut second), [true, true, false]);
        assert_eq!(fill(&mut third), [true, false, false], "no room beside the others");
        drop((first, second));
        assert!(third.push(&half));
    }
}
