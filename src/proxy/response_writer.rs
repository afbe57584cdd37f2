//! Writes a response of the engine to a client.
//!
//! Owns: that an incomplete body never ends like a complete one; noticing that a client is gone.
//! Never touches: the content of the response, framing (`frontend::session`).

use bytes::Bytes;

use crate::engine::body::BodyReader;
use crate::engine::response::{ClientResponse, ResponseBody};
use crate::frontend::session::{BodyLength, ClientSession};
use crate::proxy::context::ExchangeFailure;
use crate::proxy::exchange::Exchange;
use crate::proxy::{ExchangeEnd, own_response};
use crate::semantics::field_case::FieldCase;
use crate::telemetry::ResultKind;
use crate::telemetry::problem::{PROXY_STATUS, received_error};
use crate::upstream::outcome::error::UpstreamError;

impl Exchange {
    /// Writes a response of the engine.
    pub(super) async fn reply(&mut self, reply: ClientResponse) -> Result<ExchangeEnd, ExchangeFailure> {
        let mut reply = own_response::replace_origin_407(self.request(), reply);
        let ctx = &mut self.ctx;
        ctx.result = reply.result;
        ctx.response_forward_reason = reply.forward_reason;
        ctx.error = reply.error;
        ctx.is_own_error = reply.result == ResultKind::Error;
        self.client.skip_body();
        if self.needs_http1(reply.status, &reply.headers) {
            return Ok(ExchangeEnd::Completed);
        }
        self.finish_head(&mut reply.headers);
        let is_miss = reply.result == ResultKind::Miss;
        let filled_bytes = is_miss.then_some(&mut self.ctx.filled_bytes);
        write_response(&mut self.client, reply, filled_bytes).await?;
        Ok(ExchangeEnd::Completed)
    }
}

/// Writes the whole `reply`. `Err`: the client must not regard the response as complete. `received_bytes`
/// counts the bytes that arrive from the origin meanwhile.
async fn write_response(
    client: &mut ClientSession,
    mut reply: ClientResponse,
    received_bytes: Option<&mut u64>,
) -> Result<(), ExchangeFailure> {
    // The error was just received from the origin; it is not from larder or the store.
    let received = reply.forward_reason.is_some() && reply.error.is_none();
    if let Some(received) = received.then(|| received_error(reply.status)).flatten() {
        reply.headers.append(PROXY_STATUS, received);
    }
    let length = length(&reply.body);
    client.write_head(reply.status, reply.headers, length, &FieldCase::default()).await?;
    match reply.body {
        ResponseBody::Empty => {}
        ResponseBody::Whole(body) => client.write_body(body).await?,
        ResponseBody::Pieces(pieces) => {
            for piece in pieces {
                client.write_body(piece).await?;
            }
        }
        ResponseBody::Growing { reader, skip, take } => {
            write_growing(client, reader, (skip, take), received_bytes).await?;
        }
    }
    Ok(client.end(None).await?)
}

fn length(body: &ResponseBody) -> BodyLength {
    match body {
        ResponseBody::Empty => BodyLength::None,
        ResponseBody::Whole(body) => BodyLength::Known(body.len() as u64),
        ResponseBody::Pieces(pieces) => {
            BodyLength::Known(pieces.iter().map(|piece| piece.len() as u64).sum())
        }
        ResponseBody::Growing { take: Some(take), .. } => BodyLength::Known(*take),
        ResponseBody::Growing { take: None, .. } => BodyLength::Unknown,
    }
}

async fn write_growing(
    client: &mut ClientSession,
    mut reader: BodyReader,
    (mut skip, take): (u64, Option<u64>),
    mut received_bytes: Option<&mut u64>,
) -> Result<(), ExchangeFailure> {
    let mut left = take.unwrap_or(u64::MAX);
    while left > 0 {
        let next = tokio::select! {
            biased;
            next = reader.next() => next,
            gone = client.until_gone() => return Err(gone.into()),
        };
        let Some(piece) = next.map_err(ExchangeFailure::Response)? else { break };
        if let Some(received) = &mut received_bytes {
            **received += piece.len() as u64;
        }
        let piece = slice_range(&piece, &mut skip, &mut left);
        client.write_body(piece).await?;
    }
    if take.is_some() && left > 0 { Err(ExchangeFailure::Response(UpstreamError::Cut)) } else { Ok(()) }
}

/// The part of `piece` between `skip` and `skip + left` of the whole body.
fn slice_range(piece: &Bytes, skip: &mut u64, left: &mut u64) -> Bytes {
    let length = piece.len() as u64;
    let from = (*skip).min(length);
    *skip -= from;
    let to = from.saturating_add(*left).min(length);
    *left -= to - from;
    // Both are at most the piece's length, a usize.
    let index = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(piece.len());
    piece.slice(index(from)..index(to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_over_several_pieces_has_exactly_its_bytes() {
        let body: Vec<u8> = (0..100).collect();
        for (first, last) in [(0, 0), (0, 99), (3, 7), (9, 10), (10, 20), (99, 99), (33, 66)] {
            let (mut skip, mut left) = (first as u64, (last - first + 1) as u64);
            let mut out = Vec::new();
            for piece in body.chunks(10) {
                out.extend_from_slice(&slice_range(&Bytes::copy_from_slice(piece), &mut skip, &mut left));
            }
            assert_eq!(out, body[first..=last], "{first}-{last}");
        }
    }
}
