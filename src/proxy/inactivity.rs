//! Detects inactivity in a call, or a request body that arrives too slowly, and the peer that causes it.
//!
//! Owns: the timers. Never touches: the events themselves.
//!
//! A client that sends several bodies over one HTTP/2 connection may send them one after the other. Its rate
//! is therefore measured over all streams, and a body that waits for its turn does not count as inactive. The
//! same applies while the client cannot send more of another body because its origin does not read it
//! (`timeouts.first_byte` ends that).
//!
//! So a client can keep a hundred streams open (the maximum of a connection) with data on only one of them.
//! This occupies one of the connections of `limits.connections`, and no more memory than the client may use
//! for data sent ahead anyway. Each such call has a connection to its origin, which ends after the origin's
//! own timeout, and an admission slot for a quarter of a second (`Permit::step_aside`), so no other call
//! waits for it.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Sleep, sleep, sleep_until};

use crate::clock::Clock;
use crate::config::BodyLimits;
use crate::frontend::shared_connection::{SharedConnection, StalledUpload};
use crate::proxy::upload_rate::UploadRate;

/// The silent peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SilentPeer {
    /// The client: it does not send more of its request, or does not read its response.
    Client,
    /// The origin.
    Origin,
}

/// The wait for an origin after a soft timeout.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// `None`: unlimited.
    limit: Option<Duration>,
}

/// A timer that restarts at every event.
pub(super) struct InactivityTimer {
    /// Timeouts for the origin and the client; `None`: unlimited.
    origin: Option<Duration>,
    client: Option<Duration>,
    /// The timeout for the origin after the first one, if that one is soft.
    patience: Option<Patience>,
    peer: SilentPeer,
    timer: Pin<Box<Sleep>>,
    /// Minimum rate of the client while the call waits for it.
    rate: Option<UploadRate>,
    /// Set once the client was slower.
    too_slow: bool,
    /// The other requests on the client's connection, and the bytes of all that are already counted.
    shared: Option<SharedConnection>,
    counted: u64,
    /// Marks the upload as stalled by its origin.
    stalled_upload: Option<StalledUpload>,
}

impl InactivityTimer {
    /// A timer that starts now and waits for the origin.
    pub(super) fn new(origin: Option<Duration>, client: Option<Duration>) -> Self {
        let timer = Box::pin(sleep(origin.unwrap_or_default()));
        Self {
            origin,
            client,
            patience: None,
            peer: SilentPeer::Origin,
            timer,
            rate: None,
            too_slow: false,
            shared: None,
            counted: 0,
            stalled_upload: None,
        }
    }

    /// Makes the timeout for the origin a soft one: [`InactivityTimer::begin_patience`] replaces it by this one.
    pub(super) fn with_patience(self, limit: Option<Duration>) -> Self {
        Self { patience: Some(Patience { limit }), ..self }
    }

    /// After the soft timeout for the origin: starts the longer one. False: there is none.
    pub(super) fn begin_patience(&mut self) -> bool {
        let Some(Patience { limit }) = self.patience.take() else { return false };
        let soft = self.origin.unwrap_or_default();
        self.origin = limit.map(|limit| limit.saturating_sub(soft));
        self.restart();
        true
    }

    /// Sets the other requests on the client's connection.
    pub(super) fn with_shared_connection(self, shared: Option<&SharedConnection>) -> Self {
        let counted = shared.map_or(0, |shared| shared.received().bytes);
        let stalled_upload = shared.map(SharedConnection::stalled_upload);
        Self { shared: shared.cloned(), counted, stalled_upload, ..self }
    }

    /// Sets the limits for the body of the request.
    pub(super) fn with_body_limits(self, body: BodyLimits) -> Self {
        Self { client: Some(body.idle), rate: Some(UploadRate::new(body)), ..self }
    }

    /// Sets the peer that the call waits for. A change restarts the timer.
    pub(super) fn wait_for(&mut self, peer: SilentPeer) {
        if self.peer != peer {
            self.peer = peer;
            self.restart();
            if let Some(rate) = &mut self.rate {
                rate.set_waiting(peer == SilentPeer::Client);
            }
        }
    }

    /// Sets whether the upload is stalled because the origin does not read it.
    pub(super) fn set_stalled(&mut self, stalled: bool) {
        if let Some(upload) = &mut self.stalled_upload {
            upload.set_stalled(stalled);
        }
    }

    /// Records received bytes of the client's body.
    pub(super) fn on_bytes(&mut self, bytes: usize) {
        self.restart();
        self.count(bytes);
    }

    /// Counts `bytes`, or on a shared connection all bytes received since the last count.
    fn count(&mut self, bytes: usize) {
        let Some(rate) = &mut self.rate else { return };
        let mut bytes = bytes as u64;
        if let Some(shared) = &self.shared {
            let received = shared.received().bytes;
            bytes = received.saturating_sub(std::mem::replace(&mut self.counted, received));
            if shared.is_any_upload_stalled() {
                bytes = bytes.max(rate.min_bytes());
            }
        }
        self.too_slow |= rate.on_bytes(bytes);
    }

    /// Restarts the timer after an event.
    pub(super) fn restart(&mut self) {
        self.timer.set(sleep(self.limit().unwrap_or_default()));
    }

    /// Resolves once the peer was inactive or slow for too long. Cancel-safe.
    pub(super) async fn expired(&mut self) -> SilentPeer {
        while !self.too_slow {
            let (is_bounded, timer) = (self.limit().is_some(), self.timer.as_mut());
            let window = async {
                match &self.rate {
                    Some(rate) => rate.window_ends().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = timer, if is_bounded => {
                    if !self.was_active_elsewhere() {
                        return self.peer;
                    }
                }
                () = window => self.count(0),
            }
        }
        SilentPeer::Client
    }

    /// Whether the client was active on another stream, or could not send. The timer is extended then.
    fn was_active_elsewhere(&mut self) -> bool {
        let (SilentPeer::Client, Some(limit), Some(shared)) = (self.peer, self.client, &self.shared) else {
            return false;
        };
        let now = Clock::timer_now();
        let last = if shared.is_any_upload_stalled() { now } else { shared.received().last };
        let until = last + limit;
        self.timer.set(sleep_until(until));
        until > now
    }

    fn limit(&self) -> Option<Duration> {
        match self.peer {
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
    async fn each_peer_has_its_own_timeout_and_a_change_restarts_the_timer() {
        let second = Duration::from_secs(1);
        let mut timer = InactivityTimer::new(Some(3 * second), Some(10 * second));
        assert!(timeout(2 * second, timer.expired()).await.is_err());
        timer.wait_for(SilentPeer::Client);
        assert!(timeout(9 * second, timer.expired()).await.is_err());
        timer.restart();
        assert!(timeout(9 * second, timer.expired()).await.is_err());
        timer.wait_for(SilentPeer::Origin);
        assert!(timeout(2 * second, timer.expired()).await.is_err());
        assert_eq!(timeout(2 * second, timer.expired()).await, Ok(SilentPeer::Origin));
        let mut soft = InactivityTimer::new(Some(3 * second), None).with_patience(Some(10 * second));
        assert_eq!(timeout(4 * second, soft.expired()).await, Ok(SilentPeer::Origin));
        assert!(soft.begin_patience());
        assert!(timeout(6 * second, soft.expired()).await.is_err());
        assert_eq!(timeout(2 * second, soft.expired()).await, Ok(SilentPeer::Origin));
        assert!(!soft.begin_patience());
        let mut unlimited = InactivityTimer::new(None, None);
        assert!(timeout(1000 * second, unlimited.expired()).await.is_err());
    }
}
