//! How long nothing may happen in a call, or too little of a request's body come, and whose fault it is.
//!
//! Owns: the timers of that. Never touches: what happens.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::config::BodyLimits;
use crate::proxy::drip::Drip;

/// Who is silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// The client: more of its request is awaited, or it does not take its answer.
    Client,
    /// The origin.
    Origin,
}

/// A silence, which ends when anything happens.
pub(super) struct Silence {
    /// How long an origin may be silent, and a client; `None`: for ever.
    origin: Option<Duration>,
    client: Option<Duration>,
    of: Of,
    timer: Pin<Box<Sleep>>,
    /// What a client may not fall short of while it is waited for.
    drip: Option<Drip>,
    /// It has.
    too_slow: bool,
}

impl Silence {
    /// A silence of the origin's that begins now.
    pub(super) fn new(origin: Option<Duration>, client: Option<Duration>) -> Self {
        let timer = Box::pin(sleep(origin.unwrap_or_default()));
        Self { origin, client, of: Of::Origin, timer, drip: None, too_slow: false }
    }

    /// The same, while a client's body is awaited that may come no slower than this.
    pub(super) fn with(self, body: BodyLimits) -> Self {
        Self { client: Some(body.idle), drip: Some(Drip::new(body)), ..self }
    }

    /// From here on it is this one's; another's begins anew.
    pub(super) fn is_of(&mut self, of: Of) {
        if self.of != of {
            self.of = of;
            self.broken();
            if let Some(drip) = &mut self.drip {
                drip.waits(of == Of::Client);
            }
        }
    }

    /// So much of the client's body has come.
    pub(super) fn came(&mut self, bytes: usize) {
        self.broken();
        self.too_slow |= self.drip.as_mut().is_some_and(|drip| drip.came(bytes));
    }

    /// Something has happened.
    pub(super) fn broken(&mut self) {
        self.timer.set(sleep(self.allowed().unwrap_or_default()));
    }

    /// Resolves when it has lasted too long. May be dropped while it waits.
    pub(super) async fn lasted(&mut self) -> Of {
        while !self.too_slow {
            let (is_bounded, timer) = (self.allowed().is_some(), self.timer.as_mut());
            let window = async {
                match &self.drip {
                    Some(drip) => drip.window_ends().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = timer, if is_bounded => return self.of,
                () = window => {}
            }
            self.too_slow = self.drip.as_mut().is_some_and(Drip::is_too_slow);
        }
        Of::Client
    }

    fn allowed(&self) -> Option<Duration> {
        match self.of {
            Of::Client => self.client,
            Of::Origin => self.origin,
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
        let mut silence = Silence::new(Some(3 * second), Some(10 * second));
        assert!(timeout(2 * second, silence.lasted()).await.is_err());
        silence.is_of(Of::Client);
        assert!(timeout(9 * second, silence.lasted()).await.is_err());
        silence.broken();
        assert!(timeout(9 * second, silence.lasted()).await.is_err());
        silence.is_of(Of::Origin);
        assert!(timeout(2 * second, silence.lasted()).await.is_err());
        assert_eq!(timeout(2 * second, silence.lasted()).await, Ok(Of::Origin));
        let mut for_ever = Silence::new(None, None);
        assert!(timeout(1000 * second, for_ever.lasted()).await.is_err());
    }
}
