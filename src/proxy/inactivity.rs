//! How long nothing may happen in a call, or too little of a request's body come, and whose fault it is.
//!
//! Owns: the timers of that. Never touches: what happens.
//!
//! A client that sends several bodies over one connection of HTTP/2 may send them in turn: it is measured by
//! what comes on all streams, and a body that waits for its turn is no silence. Nor is it one while the client
//! can send no more of another body, whose origin takes no more (`timeouts.first_byte` ends that).
//!
//! So a client may hold a hundred streams, as many as a connection has, at the price of one that flows. That
//! costs its own connection, of which `limits.connections` has so many, and no more memory than what it may have
//! sent ahead anyhow. Each such call has a connection to its origin, whose own patience ends it, and a place at
//! the gate for a quarter of a second (`Permit::step_aside`): others wait for none of them.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Sleep, sleep, sleep_until};

use crate::clock;
use crate::config::BodyLimits;
use crate::frontend::shared_connection::{SharedConnection, StalledUpload};
use crate::proxy::upload_rate::UploadRate;

/// Who is silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SilentPeer {
    /// The client: more of its request is awaited, or it does not take its answer.
    Client,
    /// The origin.
    Origin,
}

/// A silence, which ends when anything happens.
pub(super) struct InactivityTimer {
    /// How long an origin may be silent, and a client; `None`: for ever.
    origin: Option<Duration>,
    client: Option<Duration>,
    of: SilentPeer,
    timer: Pin<Box<Sleep>>,
    /// What a client may not fall short of while it is waited for.
    drip: Option<UploadRate>,
    /// It has.
    too_slow: bool,
    /// The other bodies on the client's connection, and how many bytes of all were counted.
    siblings: Option<SharedConnection>,
    counted: u64,
    /// Whether this one is held up by its origin.
    holding: Option<StalledUpload>,
}

impl InactivityTimer {
    /// A silence of the origin's that begins now.
    pub(super) fn new(origin: Option<Duration>, client: Option<Duration>) -> Self {
        let timer = Box::pin(sleep(origin.unwrap_or_default()));
        Self {
            origin,
            client,
            of: SilentPeer::Origin,
            timer,
            drip: None,
            too_slow: false,
            siblings: None,
            counted: 0,
            holding: None,
        }
    }

    /// The same on a connection that may be shared with these.
    pub(super) fn among(self, siblings: Option<&SharedConnection>) -> Self {
        let counted = siblings.map_or(0, |siblings| siblings.came().bytes);
        let holding = siblings.map(SharedConnection::holding);
        Self { siblings: siblings.cloned(), counted, holding, ..self }
    }

    /// The same, while a client's body is awaited that may come no slower than this.
    pub(super) fn with(self, body: BodyLimits) -> Self {
        Self { client: Some(body.idle), drip: Some(UploadRate::new(body)), ..self }
    }

    /// From here on it is this one's; another's begins anew.
    pub(super) fn is_of(&mut self, of: SilentPeer) {
        if self.of != of {
            self.of = of;
            self.broken();
            if let Some(drip) = &mut self.drip {
                drip.waits(of == SilentPeer::Client);
            }
        }
    }

    /// Whether the client could send more than is read, for the origin takes no more.
    pub(super) fn is_held(&mut self, held: bool) {
        if let Some(holding) = &mut self.holding {
            holding.is(held);
        }
    }

    /// So much of the client's body has come.
    pub(super) fn came(&mut self, bytes: usize) {
        self.broken();
        self.count(bytes);
    }

    /// So many bytes more, or what has come on the whole connection since the last time.
    fn count(&mut self, bytes: usize) {
        let Some(drip) = &mut self.drip else { return };
        let mut bytes = bytes as u64;
        if let Some(siblings) = &self.siblings {
            let came = siblings.came().bytes;
            bytes = came.saturating_sub(std::mem::replace(&mut self.counted, came));
            if siblings.is_any_held() {
                bytes = bytes.max(drip.least());
            }
        }
        self.too_slow |= drip.came(bytes);
    }

    /// Something has happened.
    pub(super) fn broken(&mut self) {
        self.timer.set(sleep(self.allowed().unwrap_or_default()));
    }

    /// Resolves when it has lasted too long. May be dropped while it waits.
    pub(super) async fn lasted(&mut self) -> SilentPeer {
        while !self.too_slow {
            let (is_bounded, timer) = (self.allowed().is_some(), self.timer.as_mut());
            let window = async {
                match &self.drip {
                    Some(drip) => drip.window_ends().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = timer, if is_bounded => {
                    if !self.is_broken_elsewhere() {
                        return self.of;
                    }
                }
                () = window => self.count(0),
            }
        }
        SilentPeer::Client
    }

    /// Whether the client was not silent on another stream, or could not be otherwise; the timer goes on.
    fn is_broken_elsewhere(&mut self) -> bool {
        let (SilentPeer::Client, Some(allowed), Some(siblings)) =
            (self.of, self.client, &self.siblings)
        else {
            return false;
        };
        let now = clock::of_timers();
        let last = if siblings.is_any_held() { now } else { siblings.came().last };
        let until = last + allowed;
        self.timer.set(sleep_until(until));
        until > now
    }

    fn allowed(&self) -> Option<Duration> {
        match self.of {
            SilentPeer::Client => self.client,
            SilentPeer::Origin => self.origin,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    #[tokio::test(start_paused = true)]
    async fn each_side_has_its_own_patience_and_begins_anew_when_the_other_was_silent() {
        let second = Duration::from_secs(1);
        let mut silence = InactivityTimer::new(Some(3 * second), Some(10 * second));
        assert!(timeout(2 * second, silence.lasted()).await.is_err());
        silence.is_of(SilentPeer::Client);
        assert!(timeout(9 * second, silence.lasted()).await.is_err());
        silence.broken();
        assert!(timeout(9 * second, silence.lasted()).await.is_err());
        silence.is_of(SilentPeer::Origin);
        assert!(timeout(2 * second, silence.lasted()).await.is_err());
        assert_eq!(timeout(2 * second, silence.lasted()).await, Ok(SilentPeer::Origin));
        let mut for_ever = InactivityTimer::new(None, None);
        assert!(timeout(1000 * second, for_ever.lasted()).await.is_err());
    }
}
