//! A copy of a response body that passes through, for the rules that inspect it.
//!
//! Owns: the amount of a body that is copied. Never touches: the body that the client gets, which is
//! not delayed.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::upstream::in_flight_bytes::{BufferedPieces, InFlightBytes};
use crate::upstream::outcome::body_inspection::{self, ContentCoding, InspectedBody};

/// A body that is copied while it passes through.
pub(super) struct BodyCapture {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    coding: ContentCoding,
    body: BufferedPieces,
}

impl BodyCapture {
    /// A capture of the body that follows this head, if rules can inspect it.
    pub(super) fn for_response(
        status: StatusCode,
        headers: &HeaderMap,
        in_flight: &Arc<InFlightBytes>,
    ) -> Option<Self> {
        let coding = body_inspection::coding(headers)?;
        let body = BufferedPieces::for_inspection(in_flight);
        Some(Self { status, headers: headers.clone(), coding, body })
    }

    /// The complete body, parsed. A large body is parsed outside the worker threads.
    pub(super) async fn parse(&self) -> InspectedBody {
        body_inspection::parse_off_thread(self.coding, &self.body).await
    }

    /// Adds a piece. False once this body, or the total of all buffered bodies, is too large: the capture
    /// must then be dropped.
    pub(super) fn push(&mut self, piece: &Bytes) -> bool {
        let fits = self.body.len() + piece.len() <= body_inspection::MAX_BODY;
        fits && self.body.push(piece.clone()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use crate::clock::Clock;
    use crate::proxy::context::RequestContext;

    use super::*;

    /// The runtime has one thread, so parsing on another thread makes the future pending.
    #[tokio::test]
    async fn a_large_body_is_parsed_on_another_thread_and_a_small_one_is_not() {
        let in_flight = InFlightBytes::new(4 * body_inspection::MAX_BODY);
        for (length, other_thread) in [(1000, false), (1 << 20, true), (body_inspection::MAX_BODY, true)] {
            let mut capture =
                BodyCapture::for_response(StatusCode::OK, &HeaderMap::new(), &in_flight).unwrap();
            let text = format!("[{}1]", " ".repeat(length - 3));
            assert!(capture.push(&Bytes::from(text)));
            let mut ctx = RequestContext::new(Clock::system().instant());
            ctx.body_capture = Some(capture);
            let mut reading = pin!(ctx.inspect_body());
            let is_pending = poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx).is_pending())).await;
            assert_eq!(is_pending, other_thread, "{length} bytes");
            if is_pending {
                reading.await;
            }
            assert_eq!(in_flight.used(), 0, "the memory is released");
        }
    }

    #[test]
    fn each_capture_and_their_total_are_limited_and_a_drop_frees_memory() {
        let in_flight = InFlightBytes::new(8 * body_inspection::MAX_BODY);
        let capture = || {
            BodyCapture::for_response(StatusCode::OK, &HeaderMap::new(), &in_flight)
                .expect("a body without a content type is inspected")
        };
        let half = Bytes::from(vec![b' '; body_inspection::MAX_BODY / 2]);
        let fill = |capture: &mut BodyCapture| (0..3).map(|_| capture.push(&half)).collect::<Vec<_>>();
        let (mut first, mut second, mut third) = (capture(), capture(), capture());
        assert_eq!(fill(&mut first), [true, true, false], "the limit of one capture");
        assert_eq!(fill(&mut second), [true, true, false]);
        assert_eq!(fill(&mut third), [true, false, false], "the limit of all captures");
        drop((first, second));
        assert!(third.push(&half));
    }
}
