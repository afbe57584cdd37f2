//! The response on an HTTP/1 connection.
//!
//! Owns: its framing, and the data that waits to be written. Never touches: the request.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, StatusCode, Version};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::frontend::session::http1::{Http1Session, ResponseFraming};
use crate::frontend::session::{BodyLength, ClientError};
use crate::frontend::stream::with_stall_timeout;
use crate::semantics::field_case::FieldCase;

impl Http1Session {
    pub(in crate::frontend::session) async fn write_interim(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Result<(), ClientError> {
        // HTTP/1.0 has no interim responses, and none may follow the final response.
        if self.version != Version::HTTP_11 || self.status.is_some() {
            return Ok(());
        }
        let mut head = start_line(status);
        FieldCase::default().write(headers, &mut head);
        head.put_slice(b"\r\n");
        self.queue.push_back(head.freeze());
        self.drained().await?;
        self.flush().await
    }

    pub(in crate::frontend::session) async fn write_head(
        &mut self,
        status: StatusCode,
        mut headers: HeaderMap,
        length: BodyLength,
        spelling: &FieldCase,
    ) -> Result<(), ClientError> {
        self.status = Some(status);
        headers.remove(TRANSFER_ENCODING);
        // RFC 9110 §8.6: these responses never have a length.
        if status == StatusCode::NO_CONTENT || status.is_informational() {
            headers.remove(CONTENT_LENGTH);
        }
        let switches = status == StatusCode::SWITCHING_PROTOCOLS;
        self.outgoing = match length {
            BodyLength::None => ResponseFraming::Length(0),
            BodyLength::Known(length) => {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
                ResponseFraming::Length(length)
            }
            BodyLength::Unknown => self.unknown_length(&mut headers),
        };
        if !switches {
            self.persists &= self.has_read_body();
            let option = if self.persists { "keep-alive" } else { "close" };
            headers.insert(CONNECTION, HeaderValue::from_static(option));
        }
        let mut head = start_line(status);
        spelling.write(&headers, &mut head);
        head.put_slice(b"\r\n");
        self.queue.push_back(head.freeze());
        self.drained().await
    }

    /// A body of unknown length: chunked, or ended by the close of the connection on HTTP/1.0.
    fn unknown_length(&mut self, headers: &mut HeaderMap) -> ResponseFraming {
        headers.remove(CONTENT_LENGTH);
        if self.version == Version::HTTP_11 {
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            return ResponseFraming::Chunked;
        }
        self.persists = false;
        // If the connection breaks, the body must not look complete.
        self.io.arm_reset();
        ResponseFraming::Close
    }

    pub(in crate::frontend::session) fn has_room(&self) -> bool {
        self.queue.is_empty()
    }

    pub(in crate::frontend::session) fn queue(&mut self, piece: Bytes) -> Result<(), ClientError> {
        if piece.is_empty() {
            return Ok(());
        }
        self.sent += piece.len() as u64;
        self.stall.set_piece(piece.len());
        match &mut self.outgoing {
            ResponseFraming::Chunked => {
                self.queue.push_back(Bytes::from(format!("{:x}\r\n", piece.len())));
                self.queue.push_back(piece);
                self.queue.push_back(Bytes::from_static(b"\r\n"));
            }
            ResponseFraming::Close => self.queue.push_back(piece),
            ResponseFraming::Length(left) => {
                // More bytes than announced would be parsed as the next response.
                *left = left.checked_sub(piece.len() as u64).ok_or(ClientError::Gone)?;
                self.queue.push_back(piece);
            }
            ResponseFraming::Unwritten | ResponseFraming::Ended => return Err(ClientError::Gone),
        }
        Ok(())
    }

    pub(in crate::frontend::session) async fn drained(&mut self) -> Result<(), ClientError> {
        poll_fn(|cx| self.poll_queue(cx)).await
    }

    pub(super) fn poll_queue(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        while let Some(front) = self.queue.front_mut() {
            match Pin::new(&mut self.io).poll_write(cx, front) {
                Poll::Pending => return self.stall.poll(cx).map(|()| Err(ClientError::Stalled)),
                Poll::Ready(Ok(written @ 1..)) => {
                    front.advance(written);
                    self.stall.record_read(written);
                }
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(ClientError::Gone)),
            }
            if front.is_empty() {
                self.queue.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }

    pub(in crate::frontend::session) async fn end(&mut self) -> Result<(), ClientError> {
        match self.outgoing {
            ResponseFraming::Chunked => self.queue.push_back(Bytes::from_static(b"0\r\n\r\n")),
            ResponseFraming::Close | ResponseFraming::Length(0) => {}
            ResponseFraming::Length(_) | ResponseFraming::Unwritten | ResponseFraming::Ended => {
                return Err(ClientError::Gone);
            }
        }
        self.drained().await?;
        self.outgoing = ResponseFraming::Ended;
        self.flush().await?;
        self.io.disarm_reset();
        Ok(())
    }

    pub(in crate::frontend::session) async fn flush(&mut self) -> Result<(), ClientError> {
        let in_flight = Arc::clone(self.io.in_flight());
        with_stall_timeout(&in_flight, self.io.flush()).await.map_err(|_broken| ClientError::Gone)
    }
}

fn start_line(status: StatusCode) -> BytesMut {
    let mut head = BytesMut::with_capacity(512);
    head.put_slice(b"HTTP/1.1 ");
    head.put_slice(status.as_str().as_bytes());
    head.put_u8(b' ');
    head.put_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    head.put_slice(b"\r\n");
    head
}
