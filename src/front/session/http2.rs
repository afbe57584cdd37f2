//! One exchange on a stream of HTTP/2 (RFC 9113).
//!
//! Owns: flow control of both bodies, the end of the stream. Never touches: the connection, request
//! heads (`multiplex`).

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tokio::time::timeout;

use crate::front::io::STALLED;
use crate::front::session::{ClientError, Length};

/// One exchange.
pub struct Http2 {
    incoming: RecvStream,
    has_read: bool,
    respond: SendResponse<Bytes>,
    outgoing: Option<SendStream<Bytes>>,
    status: Option<StatusCode>,
    ended: bool,
    sent: u64,
}

impl Http2 {
    /// The exchange on the stream that these are the two sides of.
    pub fn new(incoming: RecvStream, respond: SendResponse<Bytes>) -> Self {
        let has_read = incoming.is_end_stream();
        Self { incoming, has_read, respond, outgoing: None, status: None, ended: false, sent: 0 }
    }

    pub(super) async fn read_body(&mut self) -> Result<Option<Bytes>, ClientError> {
        if self.has_read {
            return Ok(None);
        }
        match timeout(STALLED, self.incoming.data()).await {
            Err(_elapsed) => Err(ClientError::Stalled),
            Ok(None) => {
                self.has_read = true;
                Ok(None)
            }
            Ok(Some(Err(error))) if error.reason() == Some(Reason::PROTOCOL_ERROR) => {
                Err(ClientError::Malformed)
            }
            Ok(Some(Err(_reset))) => Err(ClientError::Gone),
            Ok(Some(Ok(piece))) => {
                let freed = self.incoming.flow_control().release_capacity(piece.len());
                freed.map_err(|_closed| ClientError::Gone)?;
                self.has_read = self.incoming.is_end_stream();
                Ok(Some(piece))
            }
        }
    }

    pub(super) fn has_read_body(&self) -> bool {
        self.has_read
    }

    pub(super) async fn gone(&mut self) -> ClientError {
        poll_fn(|cx| match &mut self.outgoing {
            Some(_) if self.ended => Poll::Pending,
            Some(outgoing) => outgoing.poll_reset(cx).map(|_why| ()),
            None => self.respond.poll_reset(cx).map(|_why| ()),
        })
        .await;
        ClientError::Gone
    }

    pub(super) fn write_interim(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Result<(), ClientError> {
        if self.status.is_some() {
            return Ok(());
        }
        let mut interim = Response::new(());
        *interim.status_mut() = status;
        *interim.headers_mut() = headers.clone();
        self.respond.send_informational(interim).map_err(|_reset| ClientError::Gone)
    }

    pub(super) fn write_head(
        &mut self,
        status: StatusCode,
        mut headers: HeaderMap,
        length: Length,
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
            Length::Known(length) => {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            Length::Unknown => {
                headers.remove(CONTENT_LENGTH);
            }
            Length::None => {}
        }
        let mut head = Response::new(());
        *head.status_mut() = status;
        *head.headers_mut() = headers;
        let ends = matches!(length, Length::None | Length::Known(0));
        let sent = self.respond.send_response(head, ends);
        self.outgoing = Some(sent.map_err(|_reset| ClientError::Gone)?);
        (self.status, self.ended) = (Some(status), ends);
        Ok(())
    }

    pub(super) async fn write_body(&mut self, mut piece: Bytes) -> Result<(), ClientError> {
        let outgoing = self.outgoing.as_mut().filter(|_| !self.ended).ok_or(ClientError::Gone)?;
        while !piece.is_empty() {
            outgoing.reserve_capacity(piece.len());
            let granted = poll_fn(|cx| outgoing.poll_capacity(cx));
            let granted = match timeout(STALLED, granted).await {
                Err(_elapsed) => return Err(ClientError::Stalled),
                Ok(Some(Ok(granted))) => granted,
                Ok(None | Some(Err(_))) => return Err(ClientError::Gone),
            };
            let part = piece.split_to(granted.min(piece.len()));
            self.sent += part.len() as u64;
            outgoing.send_data(part, false).map_err(|_reset| ClientError::Gone)?;
        }
        Ok(())
    }

    pub(super) fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), ClientError> {
        if self.ended {
            return Ok(());
        }
        let outgoing = self.outgoing.as_mut().ok_or(ClientError::Gone)?;
        let ended = match trailers {
            Some(trailers) => outgoing.send_trailers(trailers),
            None => outgoing.send_data(Bytes::new(), true),
        };
        self.ended = true;
        ended.map_err(|_reset| ClientError::Gone)
    }

    pub(super) fn status(&self) -> Option<StatusCode> {
        self.status
    }

    pub(super) fn body_bytes(&self) -> u64 {
        self.sent
    }
}

impl Drop for Http2 {
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
