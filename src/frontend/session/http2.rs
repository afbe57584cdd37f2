//! An exchange on an HTTP/2 stream (RFC 9113).
//!
//! Owns: flow control of both bodies, the end of the stream. Never touches: the connection, request
//! heads (`frontend::http2`).

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

/// How long, and how much, larder reads of the rest of a request body after it has written the response.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
const DRAIN_BYTES: usize = 1024 * 1024;

/// An exchange on HTTP/2.
pub struct Http2Session {
    incoming: RecvStream,
    has_read: bool,
    respond: SendResponse<UnsentBytes>,
    pub(super) shared: SharedConnection,
    share: StreamShare,
    /// Whether the response is the last of its connection.
    pub(super) is_last: bool,
    outgoing: Option<SendStream<UnsentBytes>>,
    pub(super) status: Option<StatusCode>,
    ended: bool,
    /// The data to be written.
    queue: Bytes,
    capacity: SendCapacity,
    pub(super) stall: Stall,
    /// The body bytes of the response that have been written.
    pub(super) sent: u64,
}

/// Whether there is capacity for more of the response. There is none while other responses fill the
/// connection's queue: data that is read for a client that reads nothing occupies memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SendCapacity {
    /// There was capacity at the last check.
    Known,
    /// The session waits for capacity.
    Awaited,
}

impl Http2Session {
    /// Creates the exchange on the stream with these two sides; `shared` is the state of its connection.
    pub fn new(
        incoming: RecvStream,
        respond: SendResponse<UnsentBytes>,
        shared: SharedConnection,
        in_flight: &Arc<InFlightBytes>,
    ) -> Self {
        let has_read = incoming.is_end_stream();
        let share = shared.share();
        Self {
            incoming,
            has_read,
            respond,
            stall: Stall::for_stream(in_flight, &shared),
            shared,
            share,
            is_last: false,
            outgoing: None,
            status: None,
            ended: false,
            queue: Bytes::new(),
            capacity: SendCapacity::Known,
            sent: 0,
        }
    }

    pub(super) async fn next_event(&mut self, reads: bool) -> Result<ClientEvent, ClientError> {
        poll_fn(|cx| self.poll_event(cx, reads)).await
    }

    fn poll_event(&mut self, cx: &mut Context<'_>, reads: bool) -> Poll<Result<ClientEvent, ClientError>> {
        if self.capacity == SendCapacity::Awaited
            && self.poll_queue(cx)?.is_ready()
            && self.poll_capacity(cx)?.is_ready()
        {
            self.capacity = SendCapacity::Known;
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

    pub(super) async fn until_gone(&mut self) -> ClientError {
        poll_fn(|cx| self.poll_gone(cx)).await;
        ClientError::Gone
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.outgoing {
            Some(_) if self.ended => Poll::Pending,
            Some(outgoing) => outgoing.poll_reset(cx).map(|_reason| ()),
            None => self.respond.poll_reset(cx).map(|_reason| ()),
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
        // RFC 9113 §8.2.2: connection-specific fields are not allowed in a stream.
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
            self.request_goaway();
        }
        let sent = self.respond.send_response(head, ends);
        self.outgoing = Some(sent.map_err(|_reset| ClientError::Gone)?);
        (self.status, self.ended) = (Some(status), ends);
        Ok(())
    }

    /// Requests GOAWAY before the end of the last response. If the request has not ended, its client
    /// continues to send, and the connection stays open.
    fn request_goaway(&self) {
        if self.is_last && self.has_read {
            self.shared.request_goaway();
        }
    }

    pub(super) fn require_http1(&mut self) {
        self.respond.send_reset(Reason::HTTP_1_1_REQUIRED);
        self.ended = true;
    }

    /// The capacity as last reported, so that a caller that sees none gets an event when there is some.
    pub(super) fn has_room(&self) -> bool {
        self.capacity == SendCapacity::Known
    }

    fn poll_capacity(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, ClientError>> {
        match self.share.poll_capacity(cx) {
            Poll::Ready(capacity) => Poll::Ready(Ok(capacity)),
            Poll::Pending => self.stall.poll(cx).map(|()| Err(ClientError::Stalled)),
        }
    }

    pub(super) fn queue(&mut self, piece: Bytes) {
        self.stall.set_piece(piece.len());
        (self.queue, self.capacity) = (piece, SendCapacity::Awaited);
    }

    pub(super) async fn drained(&mut self) -> Result<(), ClientError> {
        poll_fn(|cx| self.poll_queue(cx)).await
    }

    fn poll_queue(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        while !self.queue.is_empty() {
            // The connection's capacity comes first: `h2` reports the stream's capacity only once.
            let capacity = ready!(self.poll_capacity(cx))?;
            let Some(outgoing) = self.outgoing.as_mut().filter(|_| !self.ended) else {
                return Poll::Ready(Err(ClientError::Gone));
            };
            outgoing.reserve_capacity(self.queue.len().min(capacity));
            let granted = match outgoing.poll_capacity(cx) {
                Poll::Pending => return self.stall.poll(cx).map(|()| Err(ClientError::Stalled)),
                Poll::Ready(Some(Ok(granted))) => granted,
                Poll::Ready(None | Some(Err(_))) => return Poll::Ready(Err(ClientError::Gone)),
            };
            let part = self.queue.split_to(granted.min(self.queue.len()).min(capacity));
            self.sent += part.len() as u64;
            self.stall.record_read(part.len());
            let ahead = self.share.enqueue(part.len());
            outgoing.send_data(UnsentBytes::new(part, ahead), false).map_err(|_reset| ClientError::Gone)?;
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), ClientError> {
        if self.ended {
            return Ok(());
        }
        self.request_goaway();
        let outgoing = self.outgoing.as_mut().ok_or(ClientError::Gone)?;
        let sent = trailers.map(|trailers| outgoing.send_trailers(trailers));
        self.ended = true;
        match sent {
            Some(Ok(())) => Ok(()),
            // The response is complete even if its trailers cannot be sent.
            None | Some(Err(_)) => {
                outgoing.send_data(UnsentBytes::end(), true).map_err(|_reset| ClientError::Gone)
            }
        }
    }

    /// Reads on for a moment if the response ended before the request: when a stream closes while the
    /// client sends, some clients lose the response that they have.
    pub async fn finish(mut self) {
        if !self.ended {
            return;
        }
        let rest = async {
            let mut left = DRAIN_BYTES;
            while let Ok(ClientEvent::Body(Some(piece))) = self.next_event(true).await {
                left = left.saturating_sub(piece.len());
                if left == 0 {
                    // Nothing more is read, but the client gets a moment to read its response.
                    return std::future::pending().await;
                }
            }
        };
        let _read = timeout(DRAIN_TIMEOUT, rest).await;
    }
}

impl Drop for Http2Session {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // An aborted response must not look complete.
        match &mut self.outgoing {
            Some(outgoing) => outgoing.send_reset(Reason::INTERNAL_ERROR),
            None => self.respond.send_reset(Reason::INTERNAL_ERROR),
        }
    }
}
