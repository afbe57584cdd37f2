//! One exchange on a stream of HTTP/2 (RFC 9113).
//!
//! Owns: flow control of both bodies, the end of the stream. Never touches: the connection, request
//! heads (`multiplex`).

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tokio::time::timeout;

use crate::frontend::session::unsent_bytes::UnsentBytes;
use crate::frontend::session::{BodyLength, ClientError, ClientEvent};
use crate::frontend::shared_connection::{SharedConnection, StreamShare};
use crate::frontend::stream::stall::Stall;
use crate::upstream::in_flight_bytes::InFlightBytes;

/// How long what is left of a request's body is read once its answer is written, and how much.
const DRAIN: Duration = Duration::from_secs(1);
const DRAIN_BYTES: usize = 1024 * 1024;

/// One exchange.
pub struct Http2Session {
    incoming: RecvStream,
    has_read: bool,
    respond: SendResponse<UnsentBytes>,
    siblings: SharedConnection,
    share: StreamShare,
    /// The answer is the last one of its connection.
    is_last: bool,
    outgoing: Option<SendStream<UnsentBytes>>,
    status: Option<StatusCode>,
    ended: bool,
    /// What is to be written.
    queue: Bytes,
    room: SendCapacity,
    stall: Stall,
    sent: u64,
}

/// Whether there is room for more of the answer. There is none while the connection has enough of others: what
/// is read for a client that takes nothing is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SendCapacity {
    /// There was, when it was last told.
    Known,
    /// It is to be told.
    Awaited,
}

impl Http2Session {
    /// The exchange on the stream that these are the two sides of, one of `siblings`.
    pub fn new(
        incoming: RecvStream,
        respond: SendResponse<UnsentBytes>,
        siblings: SharedConnection,
        in_flight: &Arc<InFlightBytes>,
    ) -> Self {
        let has_read = incoming.is_end_stream();
        let share = siblings.share();
        Self {
            incoming,
            has_read,
            respond,
            stall: Stall::among(in_flight, &siblings),
            siblings,
            share,
            is_last: false,
            outgoing: None,
            status: None,
            ended: false,
            queue: Bytes::new(),
            room: SendCapacity::Known,
            sent: 0,
        }
    }

    pub(super) async fn news(&mut self, reads: bool) -> Result<ClientEvent, ClientError> {
        poll_fn(|cx| self.poll_news(cx, reads)).await
    }

    fn poll_news(
        &mut self,
        cx: &mut Context<'_>,
        reads: bool,
    ) -> Poll<Result<ClientEvent, ClientError>> {
        if self.room == SendCapacity::Awaited
            && self.poll_queue(cx)?.is_ready()
            && self.poll_room(cx)?.is_ready()
        {
            self.room = SendCapacity::Known;
            return Poll::Ready(Ok(ClientEvent::Room));
        }
        if !reads {
            return self.poll_gone(cx).map(|()| Err(ClientError::Gone));
        }
        if self.has_read {
            return Poll::Ready(Ok(ClientEvent::Body(None)));
        }
        let piece = ready!(self.incoming.poll_data(cx)).transpose().map_err(|error| {
            let malformed = error.reason() == Some(Reason::PROTOCOL_ERROR);
            if malformed { ClientError::Malformed } else { ClientError::Gone }
        })?;
        self.has_read = piece.is_none() || self.incoming.is_end_stream();
        if let Some(piece) = &piece {
            let freed = self.incoming.flow_control().release_capacity(piece.len());
            freed.map_err(|_closed| ClientError::Gone)?;
        }
        Poll::Ready(Ok(ClientEvent::Body(piece)))
    }

    pub(super) fn has_read_body(&self) -> bool {
        self.has_read
    }

    pub(super) async fn gone(&mut self) -> ClientError {
        poll_fn(|cx| self.poll_gone(cx)).await;
        ClientError::Gone
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.outgoing {
            Some(_) if self.ended => Poll::Pending,
            Some(outgoing) => outgoing.poll_reset(cx).map(|_why| ()),
            None => self.respond.poll_reset(cx).map(|_why| ()),
        }
    }

    pub(super) fn write_interim(
        &mut self,
        status: StatusCode,
        headers: HeaderMap,
    ) -> Result<(), ClientError> {
        if self.status.is_some() {
            return Ok(());
        }
        let mut interim = Response::new(());
        *interim.status_mut() = status;
        *interim.headers_mut() = headers;
        self.respond.send_informational(interim).map_err(|_reset| ClientError::Gone)
    }

    pub(super) fn write_head(
        &mut self,
        status: StatusCode,
        mut headers: HeaderMap,
        length: BodyLength,
    ) -> Result<(), ClientError> {
        // RFC 9113 §8.2.2: a connection's own fields have no place in a stream.
        for name in [
            CONNECTION,
            TRANSFER_ENCODING,
            UPGRADE,
            HeaderName::from_static("keep-alive"),
            HeaderName::from_static("proxy-connection"),
        ] {
            headers.remove(name);
        }
        if status == StatusCode::NO_CONTENT {
            headers.remove(CONTENT_LENGTH);
        }
        match length {
            BodyLength::Known(length) => {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            BodyLength::Unknown => {
                headers.remove(CONTENT_LENGTH);
            }
            BodyLength::None => {}
        }
        let mut head = Response::new(());
        *head.status_mut() = status;
        *head.headers_mut() = headers;
        let ends = matches!(length, BodyLength::None | BodyLength::Known(0));
        if ends {
            self.leave();
        }
        let sent = self.respond.send_response(head, ends);
        self.outgoing = Some(sent.map_err(|_reset| ClientError::Gone)?);
        (self.status, self.ended) = (Some(status), ends);
        Ok(())
    }

    pub(super) fn siblings(&self) -> &SharedConnection {
        &self.siblings
    }

    pub(super) fn leave_after(&mut self) {
        self.is_last = true;
    }

    /// The answer ends next. Where the request has not, its client sends on, and stays.
    fn leave(&self) {
        if self.is_last && self.has_read {
            self.siblings.leave();
        }
    }

    pub(super) fn require_http1(&mut self) {
        self.respond.send_reset(Reason::HTTP_1_1_REQUIRED);
        self.ended = true;
    }

    /// As was told last, so that whoever hears that there is none hears of it when there is.
    pub(super) fn has_room(&self) -> bool {
        self.room == SendCapacity::Known
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, ClientError>> {
        match self.share.poll_room(cx) {
            Poll::Ready(room) => Poll::Ready(Ok(room)),
            Poll::Pending => self.stall.poll(cx).map(|()| Err(ClientError::Stalled)),
        }
    }

    pub(super) fn queue(&mut self, piece: Bytes) {
        self.stall.holds(piece.len());
        (self.queue, self.room) = (piece, SendCapacity::Awaited);
    }

    pub(super) async fn drained(&mut self) -> Result<(), ClientError> {
        poll_fn(|cx| self.poll_queue(cx)).await
    }

    fn poll_queue(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        while !self.queue.is_empty() {
            // Room first: `h2` tells of capacity once.
            let room = ready!(self.poll_room(cx))?;
            let Some(outgoing) = self.outgoing.as_mut().filter(|_| !self.ended) else {
                return Poll::Ready(Err(ClientError::Gone));
            };
            outgoing.reserve_capacity(self.queue.len().min(room));
            let granted = match outgoing.poll_capacity(cx) {
                Poll::Pending => return self.stall.poll(cx).map(|()| Err(ClientError::Stalled)),
                Poll::Ready(Some(Ok(granted))) => granted,
                Poll::Ready(None | Some(Err(_))) => return Poll::Ready(Err(ClientError::Gone)),
            };
            let part = self.queue.split_to(granted.min(self.queue.len()).min(room));
            self.sent += part.len() as u64;
            self.stall.moved(part.len());
            let ahead = self.share.give(part.len());
            outgoing
                .send_data(UnsentBytes::new(part, ahead), false)
                .map_err(|_reset| ClientError::Gone)?;
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), ClientError> {
        if self.ended {
            return Ok(());
        }
        self.leave();
        let outgoing = self.outgoing.as_mut().ok_or(ClientError::Gone)?;
        let trailed = trailers.map(|trailers| outgoing.send_trailers(trailers));
        self.ended = true;
        match trailed {
            Some(Ok(())) => Ok(()),
            // The answer is whole all the same where its trailers cannot be sent.
            None | Some(Err(_)) => {
                outgoing.send_data(UnsentBytes::end(), true).map_err(|_reset| ClientError::Gone)
            }
        }
    }

    /// Reads on for a moment where the answer came before the request's end: a stream that is closed
    /// under its client's hands costs some clients the answer that they have.
    pub async fn finish(mut self) {
        if !self.ended {
            return;
        }
        let rest = async {
            let mut left = DRAIN_BYTES;
            while let Ok(ClientEvent::Body(Some(piece))) = self.news(true).await {
                left = left.saturating_sub(piece.len());
                if left == 0 {
                    // It gets no more room, and still a moment to read its answer.
                    return std::future::pending().await;
                }
            }
        };
        let _read = timeout(DRAIN, rest).await;
    }

    pub(super) fn status(&self) -> Option<StatusCode> {
        self.status
    }

    pub(super) fn is_ahead(&mut self, bytes: usize) {
        self.stall.is_ahead(bytes);
    }

    pub(super) fn body_bytes(&self) -> u64 {
        self.sent
    }
}

impl Drop for Http2Session {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // An answer that was broken off must not look like one that has ended.
        match &mut self.outgoing {
            Some(outgoing) => outgoing.send_reset(Reason::INTERNAL_ERROR),
            None => self.respond.send_reset(Reason::INTERNAL_ERROR),
        }
    }
}
