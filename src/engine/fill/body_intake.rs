//! The body of a fill, on its way from the origin to its readers and into the store.
//!
//! Owns: that nothing but a whole body is stored, and is stored before any reader has all of it.
//! Never touches: heads, how it is stored.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use crate::engine::fill::Fill;
use crate::upstream::error::UpstreamError;
use crate::upstream::{BodyFraming, UpstreamResponse};

/// How far a body has come in.
#[derive(Default)]
struct BodyIntake {
    read: u64,
    /// The last piece of an announced length: readers get it once the body is stored.
    last: Bytes,
}

impl Fill {
    /// Reads the body to its end. A whole body that was kept is handed to `keep` before any reader
    /// can have all of it: who has read it to the end finds it in the store. What `keep` has stored is what
    /// readers go on in.
    pub(super) async fn take_in(
        &self,
        mut answer: UpstreamResponse,
        storing: bool,
        keep: impl FnOnce(Bytes) -> Option<Bytes>,
    ) -> Result<(), UpstreamError> {
        let mut intake = BodyIntake::default();
        self.flight.body.is_ahead(answer.body.ahead());
        let end = self.to_its_end(&mut answer, storing, &mut intake).await;
        self.engine.account.upstream_bytes(intake.read);
        end?;
        let (body, BodyIntake { read, last }) = (&self.flight.body, intake);
        match body.whole(&last).filter(|whole| storing && whole.len() as u64 == read) {
            Some(whole) => {
                if let Some(stored) = keep(whole) {
                    self.engine.store.told().await;
                    body.settle(stored);
                    return Ok(());
                }
            }
            None if storing => {
                self.engine.account.not_stored(self.route, body.why_not_kept().token());
            }
            None => {}
        }
        if !last.is_empty() {
            body.push(last).await;
        }
        Ok(())
    }

    async fn to_its_end(
        &self,
        answer: &mut UpstreamResponse,
        storing: bool,
        intake: &mut BodyIntake,
    ) -> Result<(), UpstreamError> {
        let spent = answer.response_time.duration_since(answer.request_time).unwrap_or_default();
        let deadline = sleep(answer.total.saturating_sub(spent).max(Duration::from_millis(1)));
        tokio::pin!(deadline);
        let body = &self.flight.body;
        loop {
            let piece = tokio::select! {
                piece = answer.body.next() => piece?,
                () = body.abandoned(storing) => {
                    // First nobody can join any more, then the last look.
                    self.leave();
                    if body.is_abandoned(storing) {
                        return Err(UpstreamError::Abandoned);
                    }
                    continue;
                }
                () = &mut deadline, if storing && body.is_kept() => {
                    // Too late to be kept; whoever reads it gets all of it (UPS-03).
                    self.leave();
                    body.stop_keeping();
                    continue;
                }
            };
            let Some(piece) = piece else { return is_whole(answer.framing, intake.read) };
            self.pass_on(piece, answer.framing, storing, intake).await?;
        }
    }

    async fn pass_on(
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
        let body = &self.flight.body;
        if storing && body.is_kept() && framing == BodyFraming::Length(intake.read) {
            intake.last = piece;
        } else {
            body.push(piece).await;
        }
        Ok(())
    }
}

/// An announced length that was not reached is a cut body, whatever the connection says.
fn is_whole(framing: BodyFraming, read: u64) -> Result<(), UpstreamError> {
    match framing {
        BodyFraming::Length(announced) if announced != read => Err(UpstreamError::Cut),
        BodyFraming::Length(_) | BodyFraming::Marked | BodyFraming::Close => Ok(()),
    }
}
