//! How long nothing may happen in a call, and whose fault it is when nothing does.
//!
//! Owns: the one timer of that. Never touches: what happens.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Sleep, sleep};

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
}

impl Silence {
    /// A silence of the origin's that begins now.
    pub(super) fn new(origin: Option<Duration>, client: Option<Duration>) -> Self {
        let timer = Box::pin(sleep(origin.unwrap_or_default()));
        Self { origin, client, of: Of::Origin, timer }
    }

    /// From here on it is this one's; another's begins anew.
    pub(super) fn is_of(&mut self, of: Of) {
        if self.of != of {
            self.of = of;
            self.broken();
        }
    }

    /// Something has happened.
    pub(super) fn broken(&mut self) {
        self.timer.set(sleep(self.allowed().unwrap_or_default()));
    }

    /// Resolves when it has lasted too long. May be dropped while it waits.
    pub(super) async fn lasted(&mut self) -> Of {
        if self.allowed().is_none() {
            std::future::pending::<()>().await;
        }
        self.timer.as_mut().await;
        self.of
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
