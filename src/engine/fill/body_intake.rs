//! Reads the body of a fill from the origin and passes it to the readers and the store.
//!
//! Owns: storing only a whole body, and storing it before any reader has all of it. Never touches:
//! heads, how a body is stored.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use crate::clock::Clock;
use crate::engine::fill::Fill;
use crate::semantics::event_stream;
use crate::upstream::outcome::error::UpstreamError;
use crate::upstream::{BodyFraming, UpstreamResponse};

/// Progress of a body that is being read.
#[derive(Default)]
struct BodyIntake {
    read: u64,
    /// The last piece of a body of announced length: readers get it once the body is stored.
    last: Bytes,
}

impl Fill {
    /// Reads the body to its end. A whole body that was kept is passed to `store` before any reader can
    /// have all of it, so that a client that has read the whole body finds it in the store. Readers then
    /// continue in the bytes that `store` returns.
    pub(super) async fn read_body(
        &self,
        mut response: UpstreamResponse,
        storing: bool,
        store: impl FnOnce(Bytes) -> Option<Bytes>,
    ) -> Result<(), UpstreamError> {
        let mut intake = BodyIntake::default();
        self.fetch.body.set_read_ahead(response.body.receive_window());
        let end = self.read_to_end(&mut response, storing, &mut intake).await;
        self.fills.telemetry.upstream_bytes(intake.read);
        end?;
        let (body, BodyIntake { read, last }) = (&self.fetch.body, intake);
        match body.whole(&last).filter(|whole| storing && whole.len() as u64 == read) {
            Some(whole) => {
                if let Some(stored) = store(whole) {
                    self.fills.store.sync_peer().await;
                    body.replace_with_stored(stored);
                    return Ok(());
                }
            }
            None if storing => {
                self.fills.telemetry.not_stored(self.routed.route_index, body.not_kept_reason().token());
            }
            None => {}
        }
        if !last.is_empty() {
            body.push(last).await;
        }
        Ok(())
    }

    async fn read_to_end(
        &self,
        response: &mut UpstreamResponse,
        storing: bool,
        intake: &mut BodyIntake,
    ) -> Result<(), UpstreamError> {
        let spent = response.response_time.duration_since(response.request_time).unwrap_or_default();
        let deadline = sleep(response.storing_limit.saturating_sub(spent).max(Duration::from_millis(1)));
        tokio::pin!(deadline);
        let (body, audience) = (&self.fetch.body, self.fetch.body.audience());
        let may_be_silent = event_stream::is_response(&response.headers);
        let soft = self.routed.upstream().timeouts.between_bytes.soft().filter(|_| !may_be_silent);
        let silence = sleep(soft.unwrap_or_default());
        tokio::pin!(silence);
        let (mut last_piece, mut is_silent) = (Clock::timer_now(), false);
        loop {
            let piece = tokio::select! {
                piece = response.body.next() => piece?,
                () = &mut silence, if soft.is_some() && !is_silent => {
                    // One timer for each period of silence, not one for each piece.
                    let due = last_piece + soft.unwrap_or_default();
                    is_silent = due <= Clock::timer_now();
                    if is_silent {
                        // Clients that come later do not wait for a body that may hang.
                        self.remove_in_flight();
                        let call = self.fills.call_context(&self.routed, Some(&self.key));
                        self.fills.origin.on_failed_body(&call, UpstreamError::BodyTimeout);
                    } else {
                        silence.as_mut().reset(due);
                    }
                    continue;
                }
                () = audience.until_absent(), if is_silent => return Err(UpstreamError::BodyTimeout),
                () = body.abandoned(storing) => {
                    // First remove the fetch, so that no request can join it; then check once more.
                    self.remove_in_flight();
                    if body.is_abandoned(storing) {
                        return Err(UpstreamError::Abandoned);
                    }
                    continue;
                }
                () = &mut deadline, if storing && body.is_kept() => {
                    // Too late to store the body, but readers still get all of it (UPS-03).
                    self.remove_in_flight();
                    body.stop_keeping();
                    continue;
                }
            };
            let Some(piece) = piece else { return check_length(response.framing, intake.read) };
            last_piece = Clock::timer_now();
            if std::mem::take(&mut is_silent) {
                silence.as_mut().reset(last_piece + soft.unwrap_or_default());
            }
            self.forward_piece(piece, response.framing, storing, intake).await?;
        }
    }

    async fn forward_piece(
        &self,
        piece: Bytes,
        framing: BodyFraming,
        storing: bool,
        intake: &mut BodyIntake,
    ) -> Result<(), UpstreamError> {
        if piece.is_empty() {
            return Ok(());
        }
        intake.read += piece.len() as u64;
        if matches!(framing, BodyFraming::Length(announced) if intake.read > announced) {
            return Err(UpstreamError::Cut);
        }
        let body = &self.fetch.body;
        if storing && body.is_kept() && framing == BodyFraming::Length(intake.read) {
            intake.last = piece;
        } else {
            body.push(piece).await;
        }
        Ok(())
    }
}

/// A body shorter than its announced length is truncated, however the connection ended.
fn check_length(framing: BodyFraming, read: u64) -> Result<(), UpstreamError> {
    match framing {
        BodyFraming::Length(announced) if announced != read => Err(UpstreamError::Cut),
        BodyFraming::Length(_) | BodyFraming::Delimited | BodyFraming::Close => Ok(()),
    }
}
