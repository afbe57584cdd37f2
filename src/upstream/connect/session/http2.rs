//! One call on an HTTP/2 stream (RFC 9113), and its connection.
//!
//! Owns: flow control of both bodies, the meaning of a reset or GOAWAY for a call.
//! Never touches: establishing the connection, which calls share it (`shared_http2`).

use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::header::{EXPECT, TE};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version};

use crate::semantics::field_case::FieldCase;
use crate::semantics::request::RequestFraming;
use crate::semantics::target::path_equivalence;
use crate::upstream::BodyFraming;
use crate::upstream::connect::session::{
    InterimCounter, OutgoingRequest, RequestPart, SessionError, SessionEvent, UpstreamHead, has_no_body,
    is_within_bounds, length, merge_content_length,
};
use crate::upstream::connect::tls_error::TlsError;

/// A connection that is shared by calls.
pub struct Connection {
    send: SendRequest<Bytes>,
    /// Calls in progress.
    pub(in crate::upstream) calls: AtomicUsize,
    /// No further call may begin: the connection has ended, or the origin has sent GOAWAY.
    pub(in crate::upstream) closing: AtomicBool,
    /// The origin has responded on it. Until then it is limited to one call.
    pub(in crate::upstream) confirmed: AtomicBool,
    /// The origin requires HTTP/1.1 for some requests.
    http1_required: AtomicBool,
}

impl Connection {
    pub(in crate::upstream) fn new(send: SendRequest<Bytes>) -> Self {
        let (closing, proven, http1_required) = Default::default();
        Self { send, calls: AtomicUsize::new(0), closing, confirmed: proven, http1_required }
    }

    /// Whether one more call may begin without queueing behind others.
    pub(in crate::upstream) fn has_capacity(&self, limit: usize) -> bool {
        let proven = self.confirmed.load(Ordering::Relaxed);
        let limit = if proven { limit.min(self.send.current_max_send_streams()) } else { 1 };
        self.calls.load(Ordering::Relaxed) < limit
    }

    fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }
}

/// A call's slot on its connection; it is released on drop.
struct ConnectionSlot(Arc<Connection>);

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One call.
pub struct Http2Call {
    method: Method,
    upload: Option<SendStream<Bytes>>,
    pending: Bytes,
    /// The request body ends after `pending`.
    ends: bool,
    response: ResponseFuture,
    incoming: ResponseStreamState,
    interims: InterimCounter,
    /// Declared last: the stream is dropped before its slot is released.
    slot: ConnectionSlot,
}

enum ResponseStreamState {
    Head,
    Body { stream: RecvStream, left: Option<u64> },
    Ended,
}

impl Http2Call {
    /// Begins a call. The caller must have counted it in [`Connection::calls`].
    pub(in crate::upstream) async fn new(
        connection: Arc<Connection>,
        request: &OutgoingRequest,
    ) -> Result<Self, SessionError> {
        let slot = ConnectionSlot(connection);
        let ends = request.body == RequestFraming::None;
        let send = slot.0.send.clone();
        let request_sent = async {
            let mut send = send.ready().await?;
            send.send_request(message(request), ends)
        };
        let (response, upload) = request_sent.await.map_err(|error: h2::Error| {
            slot.0.close();
            error
                .get_io()
                .and_then(TlsError::from_io_error)
                .map_or(SessionError::NotProcessed, SessionError::Tls)
        })?;
        Ok(Self {
            slot,
            method: request.method.clone(),
            upload: (!ends).then_some(upload),
            pending: Bytes::new(),
            ends,
            response,
            incoming: ResponseStreamState::Head,
            interims: InterimCounter::default(),
        })
    }

    pub(super) fn stop_reuse(&self) {
        self.slot.0.close();
    }

    pub(super) fn requires_http1(&self) -> bool {
        self.slot.0.http1_required.load(Ordering::Relaxed)
    }

    pub(super) fn can_send(&self) -> bool {
        self.upload.is_some() && self.pending.is_empty() && !self.ends
    }

    pub(super) fn send(&mut self, part: RequestPart) {
        match part {
            RequestPart::Data(data) => self.pending = data,
            RequestPart::End => self.ends = true,
        }
    }

    pub(super) async fn next(&mut self, read_response: bool) -> Result<SessionEvent, SessionError> {
        poll_fn(|cx| self.poll_next(cx, read_response)).await
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        read_response: bool,
    ) -> Poll<Result<SessionEvent, SessionError>> {
        let had_room = self.can_send();
        if self.poll_upload(cx).is_err() {
            // The origin's reason arrives as its response.
            (self.upload, self.pending) = (None, Bytes::new());
        }
        if !had_room && self.can_send() {
            return Poll::Ready(Ok(SessionEvent::SendReady));
        }
        if !read_response {
            return Poll::Pending;
        }
        match &mut self.incoming {
            ResponseStreamState::Head => self.poll_head(cx),
            ResponseStreamState::Body { .. } => self.poll_body(cx),
            ResponseStreamState::Ended => Poll::Ready(Ok(SessionEvent::End(None))),
        }
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), h2::Error> {
        let Some(upload) = &mut self.upload else { return Ok(()) };
        while !self.pending.is_empty() {
            upload.reserve_capacity(self.pending.len());
            match upload.poll_capacity(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(None) => return Err(Reason::CANCEL.into()),
                Poll::Ready(Some(granted)) => {
                    let part = self.pending.split_to(granted?.min(self.pending.len()));
                    upload.send_data(part, false)?;
                }
            }
        }
        if self.ends
            && let Some(mut upload) = self.upload.take()
        {
            upload.send_data(Bytes::new(), true)?;
        }
        Ok(())
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<SessionEvent, SessionError>> {
        if let Poll::Ready(Some(Ok(interim))) = self.response.poll_informational(cx) {
            let (parts, ()) = interim.into_parts();
            self.interims.add()?;
            // RFC 9113 §8.6: HTTP/2 has no protocol switch.
            if parts.status == StatusCode::SWITCHING_PROTOCOLS {
                return Poll::Ready(Err(SessionError::Switched));
            }
            let framing = BodyFraming::Length(0);
            let head = head(parts.status, parts.headers, framing, false);
            return Poll::Ready(Ok(SessionEvent::Head(Box::new(head))));
        }
        let response = match ready!(Pin::new(&mut self.response).poll(cx)) {
            Ok(response) => response,
            Err(error) => return Poll::Ready(Err(self.error_before_head(&error))),
        };
        self.slot.0.confirmed.store(true, Ordering::Relaxed);
        let (mut parts, stream) = response.into_parts();
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return Poll::Ready(Err(SessionError::Switched));
        }
        if !is_within_bounds(&parts.headers) {
            return Poll::Ready(Err(SessionError::Protocol));
        }
        let left = length(&parts.headers)?;
        merge_content_length(&mut parts.headers, left);
        let bodiless = has_no_body(&self.method, parts.status);
        let ended = stream.is_end_stream();
        let framing = match left {
            _ if bodiless || ended => BodyFraming::Length(0),
            Some(length) => BodyFraming::Length(length),
            None => BodyFraming::Delimited,
        };
        if ended && !bodiless && left.is_some_and(|left| left > 0) {
            return Poll::Ready(Err(SessionError::Protocol));
        }
        self.incoming = ResponseStreamState::Body { stream, left: left.filter(|_| !bodiless) };
        let head = head(parts.status, parts.headers, framing, ended);
        Poll::Ready(Ok(SessionEvent::Head(Box::new(head))))
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<SessionEvent, SessionError>> {
        let ResponseStreamState::Body { stream, left } = &mut self.incoming else {
            return Poll::Ready(Err(SessionError::Cut));
        };
        loop {
            match ready!(stream.poll_data(cx)) {
                Some(Ok(piece)) if piece.is_empty() => {}
                Some(Ok(piece)) => {
                    // Fails only if the stream has ended, which needs no more window.
                    let _freed = stream.flow_control().release_capacity(piece.len());
                    if let Some(left) = left {
                        let rest = left.checked_sub(piece.len() as u64);
                        *left = rest.ok_or(SessionError::Cut)?;
                    }
                    return Poll::Ready(Ok(SessionEvent::Data(piece)));
                }
                // A complete response may be followed by a reset with NO_ERROR, which means "send no more"
                // (§8.1).
                Some(Err(error)) if is_no_error(&error) && *left == Some(0) => break,
                Some(Err(_reset)) => return Poll::Ready(Err(SessionError::Cut)),
                None if left.is_some_and(|left| left > 0) => {
                    return Poll::Ready(Err(SessionError::Cut));
                }
                None => {
                    let trailers = match ready!(stream.poll_trailers(cx)) {
                        Ok(trailers) => trailers,
                        Err(error) if is_no_error(&error) => None,
                        Err(_reset) => return Poll::Ready(Err(SessionError::Cut)),
                    };
                    self.incoming = ResponseStreamState::Ended;
                    return Poll::Ready(Ok(SessionEvent::End(trailers)));
                }
            }
        }
        self.incoming = ResponseStreamState::Ended;
        Poll::Ready(Ok(SessionEvent::End(None)))
    }

    /// Converts an error that occurred before the response head (RFC 9113 §6.8, §8.7).
    fn error_before_head(&self, error: &h2::Error) -> SessionError {
        if error.is_go_away() || error.is_io() {
            self.slot.0.close();
        }
        let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
        if error.is_remote() && (refused || error.is_go_away()) {
            // The retry uses a new connection, which is the safest choice whatever the reason.
            self.slot.0.close();
            return SessionError::NotProcessed;
        }
        if error.is_remote() && error.reason() == Some(Reason::HTTP_1_1_REQUIRED) {
            self.slot.0.http1_required.store(true, Ordering::Relaxed);
            return SessionError::NotProcessed;
        }
        if let Some(tls_error) = error.get_io().and_then(TlsError::from_io_error) {
            return SessionError::Tls(tls_error);
        }
        if error.is_io() && self.interims.is_empty() {
            return SessionError::Closed;
        }
        // A reset of this stream only: the origin is alive and has received the request.
        if error.is_io() || (error.is_remote() && error.is_reset()) {
            return SessionError::Cut;
        }
        SessionError::Protocol
    }
}

fn is_no_error(error: &h2::Error) -> bool {
    error.is_remote() && error.reason() == Some(Reason::NO_ERROR)
}

fn head(status: StatusCode, headers: HeaderMap, framing: BodyFraming, ended: bool) -> UpstreamHead {
    let (version, spelling) = (Version::HTTP_2, FieldCase::default());
    UpstreamHead { status, version, headers, spelling, framing, ended }
}

/// The request in HTTP/2 form: `:authority` instead of `Host`, no connection-specific fields (RFC 9113
/// §8.2.2, §8.3.1).
fn message(request: &OutgoingRequest) -> Request<()> {
    let mut message = Request::new(());
    let uri = Uri::builder()
        .scheme(request.scheme)
        .authority(request.authority.as_str())
        .path_and_query(&*path_equivalence::encode_invalid(&request.path))
        .build();
    *message.method_mut() = request.method.clone();
    *message.version_mut() = Version::HTTP_2;
    // The frontend has rejected invalid targets.
    *message.uri_mut() = uri.unwrap_or_default();
    let mut headers = request.headers.clone();
    // Larder sends 100 to its client itself, because the origin's 100 may never arrive.
    headers.remove(EXPECT);
    if let RequestFraming::Length(length) = request.body {
        headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    if request.trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    *message.headers_mut() = headers;
    message
}
