//! Writing an engine's reply to a client.
//!
//! Owns: framing towards the client; that a body which is not whole never ends cleanly; noticing
//! that a client is gone. Never touches: what the reply says.

use bytes::Bytes;
use http::header::{TRANSFER_ENCODING, VIA};
use http::{HeaderValue, Version};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use crate::account::problem::{PROXY_STATUS, received_error};
use crate::engine::body::Reader;
use crate::engine::reply::{Reply, ReplyBody};
use crate::upstream::failure::Failure;
use crate::upstream::interim::Interim;

/// Writes `reply` to the end. `Err` means that the client must not take what it got for whole: the
/// session is then dropped, not finished (pingora would write the last chunk).
pub(super) async fn reply(session: &mut Session, reply: Reply, via: &HeaderValue) -> Result<()> {
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = reply.status;
    parts.headers = reply.headers;
    parts.headers.append(VIA, via.clone());
    // An origin's own error that has just been received, not one of larder's or from the store.
    let received = reply.why.is_some() && reply.error.is_none();
    if let Some(received) = received.then(|| received_error(reply.status)).flatten() {
        parts.headers.append(PROXY_STATUS, received);
    }
    let unframed = matches!(&reply.body, ReplyBody::Growing { take: None, .. })
        && !parts.headers.contains_key(http::header::CONTENT_LENGTH);
    if unframed && session.req_header().version == Version::HTTP_11 {
        parts.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let head = Box::new(ResponseHeader::from(parts));
    let empty = matches!(reply.body, ReplyBody::Empty);
    session.as_downstream_mut().write_response_header(head).await?;
    match reply.body {
        ReplyBody::Empty => {}
        ReplyBody::Whole(body) => {
            session.as_downstream_mut().write_response_body(body, true).await?;
        }
        ReplyBody::Pieces(pieces) => {
            let last = pieces.len().saturating_sub(1);
            for (at, piece) in pieces.into_iter().enumerate() {
                session.as_downstream_mut().write_response_body(piece, at == last).await?;
            }
        }
        ReplyBody::Growing { reader, skip, take } => {
            growing(session, reader, skip, take).await?;
        }
    }
    if empty {
        session.as_downstream_mut().write_response_body(Bytes::new(), true).await?;
    }
    Ok(())
}

/// Writes an interim answer; HTTP/1.0 knows none (RFC 9110 §15.2).
pub(super) async fn interim(session: &mut Session, interim: Interim) -> Result<()> {
    if session.req_header().version != Version::HTTP_11 {
        return Ok(());
    }
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = interim.status;
    parts.headers = interim.headers;
    let head = Box::new(ResponseHeader::from(parts));
    session.as_downstream_mut().write_response_header(head).await
}

async fn growing(
    session: &mut Session,
    mut reader: Reader,
    mut skip: u64,
    take: Option<u64>,
) -> Result<()> {
    let mut left = take.unwrap_or(u64::MAX);
    while left > 0 {
        let next = tokio::select! {
            biased;
            next = reader.next() => next,
            gone = client_gone(session) => return Err(gone),
        };
        let Some(piece) = next.map_err(cut)? else { break };
        let piece = within(&piece, &mut skip, &mut left);
        if !piece.is_empty() {
            session.as_downstream_mut().write_response_body(piece, false).await?;
        }
    }
    if take.is_some() && left > 0 {
        return Err(cut(Failure::Cut));
    }
    session.as_downstream_mut().write_response_body(Bytes::new(), true).await
}

/// The part of `piece` between `skip` and `skip + left` of the whole body.
fn within(piece: &Bytes, skip: &mut u64, left: &mut u64) -> Bytes {
    let length = piece.len() as u64;
    let from = (*skip).min(length);
    *skip -= from;
    let to = from.saturating_add(*left).min(length);
    *left -= to - from;
    // Both are at most the piece's length, a usize.
    let index = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(piece.len());
    piece.slice(index(from)..index(to))
}

#[expect(clippy::unnecessary_box_returns, reason = "pingora's own error type is boxed")]
fn cut(failure: Failure) -> Box<Error> {
    Error::explain(ErrorType::Custom(failure.token()), "the body is not whole")
}

/// Resolves when the client has closed its side. A half-close counts as gone: proxies' clients that
/// want their answer keep both sides open.
pub(super) async fn client_gone(session: &mut Session) -> Box<Error> {
    match session.as_downstream_mut().read_body_or_idle(true).await {
        Err(error) if *error.etype() == ErrorType::ConnectError => {
            // Bytes of a next request: not pipelined here, so this connection ends after the answer.
            session.set_keepalive(None);
            std::future::pending().await
        }
        Err(error) => error.into_down(),
        Ok(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_over_pieces_takes_exactly_its_bytes() {
        let body: Vec<u8> = (0..100).collect();
        for (first, last) in [(0, 0), (0, 99), (3, 7), (9, 10), (10, 20), (99, 99), (33, 66)] {
            let (mut skip, mut left) = (first as u64, (last - first + 1) as u64);
            let mut out = Vec::new();
            for piece in body.chunks(10) {
                out.extend_from_slice(&within(
                    &Bytes::copy_from_slice(piece),
                    &mut skip,
                    &mut left,
                ));
            }
            assert_eq!(out, body[first..=last], "{first}-{last}");
        }
    }
}
