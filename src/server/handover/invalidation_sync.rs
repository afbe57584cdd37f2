//! Synchronises invalidations between two larder processes while both serve: a write that still passes
//! through the old one, a purge that the new one acknowledges.
//!
//! Owns: the lines that the two processes exchange. Never touches: which responses are invalidated, and
//! why; how long a purge waits for the peer (`store::invalidation_feed`).

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use crate::store::generations::{PurgeKind, PurgeScope};
use crate::store::invalidation_feed::{Invalidation, Subscription};
use crate::store::tiered::TieredStore;

/// The connection to the peer. The store reports its invalidations here until this is dropped.
pub(in crate::server) struct InvalidationSync {
    store: Arc<TieredStore>,
    subscription: Subscription,
}

impl InvalidationSync {
    /// Starts queueing invalidations for the peer.
    pub(in crate::server) fn start(store: &Arc<TieredStore>) -> Self {
        let subscription = store.invalidation_feed().subscribe();
        Self { store: Arc::clone(store), subscription }
    }

    /// Sends and receives over `stream` until the peer has exited.
    pub(in crate::server) async fn run(mut self, stream: UnixStream) {
        let (reader, writer) = stream.into_split();
        let (received, confirmations) = mpsc::unbounded_channel();
        // Both directions run concurrently, because both peers may be busy sending.
        let exchanged = tokio::select! {
            result = receive(&self.store, reader, received) => result,
            result = send(&mut self.subscription, confirmations, writer) => result,
        };
        if let Err(error) = exchanged {
            tracing::debug!(%error, "Connection to the other larder closed");
        }
    }
}

/// Applies the peer's invalidations and records its confirmations.
async fn receive(
    store: &TieredStore,
    reader: OwnedReadHalf,
    received: mpsc::UnboundedSender<u64>,
) -> io::Result<()> {
    let mut lines = BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await? {
        if let Some(Invalidation { number, scope, kind }) = parse(&line) {
            store.invalidate_unreported(scope, kind);
            // The receiver ends together with this task.
            let _ended = received.send(number);
        } else if let Some(Ok(number)) = line.strip_prefix("done ").map(str::parse::<u64>) {
            store.invalidation_feed().confirm(number);
        }
    }
    Ok(())
}

/// Sends local invalidations and confirms those of the peer.
async fn send(
    subscription: &mut Subscription,
    mut confirmations: mpsc::UnboundedReceiver<u64>,
    mut writer: OwnedWriteHalf,
) -> io::Result<()> {
    loop {
        let line = tokio::select! {
            Some(invalidation) = subscription.recv() => line(invalidation),
            Some(number) = confirmations.recv() => format!("done {number}\n"),
            else => return Ok(()),
        };
        writer.write_all(line.as_bytes()).await?;
    }
}

fn line(Invalidation { number, scope, kind }: Invalidation) -> String {
    let kind = match kind {
        PurgeKind::Hard => "hard",
        PurgeKind::Soft => "soft",
        PurgeKind::Superseded => "superseded",
    };
    match scope {
        PurgeScope::All => format!("invalidate {number} all {kind}\n"),
        PurgeScope::Target(target) => format!("invalidate {number} {target:032x} {kind}\n"),
    }
}

fn parse(line: &str) -> Option<Invalidation> {
    let mut words = line.strip_prefix("invalidate ")?.split(' ');
    let number = words.next()?.parse().ok()?;
    let scope = match words.next()? {
        "all" => PurgeScope::All,
        target => PurgeScope::Target(u128::from_str_radix(target, 16).ok()?),
    };
    let kind = match words.next()? {
        "hard" => PurgeKind::Hard,
        "soft" => PurgeKind::Soft,
        "superseded" => PurgeKind::Superseded,
        _ => return None,
    };
    Some(Invalidation { number, scope, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalidation_line_parses_back_to_the_same_invalidation() {
        for scope in
            [PurgeScope::All, PurgeScope::Target(0), PurgeScope::Target(u128::MAX), PurgeScope::Target(77)]
        {
            for kind in [PurgeKind::Hard, PurgeKind::Soft, PurgeKind::Superseded] {
                let line = line(Invalidation { number: 9, scope, kind });
                let parsed = parse(line.trim_end()).expect("the line is valid");
                assert_eq!(parsed, Invalidation { number: 9, scope, kind }, "{line}");
            }
        }
        for other in ["", "done 5", "invalidate", "invalidate x all hard", "invalidate 1 all warm"] {
            assert!(parse(other).is_none(), "{other}");
        }
    }
}
