//! The use of a private larder by commands: each holds a connection to it, and the larder ends with the last.
//!
//! Owns: the count of the commands, and the lines that a larder and `larder exec` exchange.
//! Never touches: how a larder is started, found and stopped.
//!
//! ```text
//! larder exec                        private larder
//!   {"verbose":false}          →
//!                              ←      {"granted":{"proxy":…}}
//!                              ←      {"line":"…"}, for each line of its log
//!   {}, or closes              →
//!                              ←      {"ended":{"metrics":…}}
//! ```

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::telemetry::Telemetry;

/// The first line of a command.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LeaseRequest {
    /// Whether it wants all lines of the log, not only warnings and errors.
    pub(super) verbose: bool,
}

/// A line of the larder.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Message {
    /// The command may use it.
    Granted(Granted),
    /// A line of its log.
    Line(String),
    /// The statistics, as the response to the last line of the command.
    Ended(Box<LeaseStats>),
}

/// The data that a command needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Granted {
    pub(super) proxy: SocketAddr,
    pub(super) password: Option<String>,
    pub(super) ca: String,
    /// Lines about its start for the user.
    pub(super) notes: Vec<String>,
    /// The file of its log, if it has one.
    pub(super) log: Option<String>,
}

/// The statistics of a command.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeaseStats {
    /// The metrics at its end and at its start.
    pub(super) metrics: String,
    pub(super) before: String,
    /// Tunnels and rejected certificates meanwhile.
    pub(super) tunnelled: Vec<(String, u64)>,
    pub(super) distrusted: Vec<(String, u64)>,
    /// Whether other commands used the larder meanwhile.
    pub(super) shared: bool,
}

/// The statistics at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    metrics: String,
    tunnelled: Vec<(String, u64)>,
    distrusted: Vec<(String, u64)>,
}

impl Snapshot {
    pub(super) fn of(telemetry: &Telemetry) -> Self {
        Self {
            metrics: telemetry.render(),
            tunnelled: telemetry.tunnelled_hosts(),
            distrusted: telemetry.distrusting_hosts(),
        }
    }

    /// The statistics since `before`.
    pub(super) fn since(self, before: Self, shared: bool) -> LeaseStats {
        LeaseStats {
            tunnelled: difference(self.tunnelled, &before.tunnelled),
            distrusted: difference(self.distrusted, &before.distrusted),
            metrics: self.metrics,
            before: before.metrics,
            shared,
        }
    }
}

fn difference(hosts: Vec<(String, u64)>, before: &[(String, u64)]) -> Vec<(String, u64)> {
    let earlier = |host: &str| before.iter().find(|(known, _)| known == host).map_or(0, |(_, count)| *count);
    let since = hosts.into_iter().map(|(host, count)| (count.saturating_sub(earlier(&host)), host));
    since.filter(|(count, _)| *count > 0).map(|(count, host)| (host, count)).collect()
}

/// The leases of a larder. Once the last one has ended, no further one is granted.
#[derive(Debug)]
pub(super) struct Leases {
    count: Mutex<LeaseCount>,
    over: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct LeaseCount {
    active: usize,
    granted: u64,
    over: bool,
}

impl Leases {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { count: Mutex::default(), over: watch::Sender::new(false) })
    }

    /// A lease for one command; `None`: the larder is about to end.
    pub(super) fn grant(self: &Arc<Self>) -> Option<Lease> {
        let mut count = self.count.lock();
        if count.over {
            return None;
        }
        let has_others = count.active > 0;
        count.active += 1;
        count.granted += 1;
        let number = count.granted;
        drop(count);
        Some(Lease { leases: Arc::clone(self), number, has_others })
    }

    /// Grants no further lease: a signal stops the larder.
    pub(super) fn end(&self) {
        self.count.lock().over = true;
        self.over.send_replace(true);
    }

    /// Grants no further lease if there has been none: the process that started the larder is gone.
    pub(super) fn end_if_unused(&self) {
        let is_unused = {
            let mut count = self.count.lock();
            count.over |= count.granted == 0;
            count.granted == 0
        };
        if is_unused {
            self.over.send_replace(true);
        }
    }

    /// Waits for the end of the last lease.
    pub(super) async fn over(&self) {
        let mut over = self.over.subscribe();
        // The sender belongs to this value, so it cannot be closed.
        let _over = over.wait_for(|over| *over).await;
    }
}

/// The right to use the larder until this value is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    leases: Arc<Leases>,
    number: u64,
    has_others: bool,
}

impl Lease {
    /// Whether other commands have used the larder during this lease.
    pub(super) fn is_shared(&self) -> bool {
        self.has_others || self.leases.count.lock().granted > self.number
    }

    /// Ends it. Returns whether it was the last one, with which the larder ends.
    pub(super) fn end(self) -> bool {
        let leases = Arc::clone(&self.leases);
        drop(self);
        leases.count.lock().over
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let is_last = {
            let mut count = self.leases.count.lock();
            count.active -= 1;
            count.over |= count.active == 0;
            count.active == 0
        };
        if is_last {
            self.leases.over.send_replace(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_larder_ends_with_its_last_lease_and_grants_no_other() {
        let leases = Leases::new();
        let one = leases.grant().unwrap();
        let two = leases.grant().unwrap();
        assert!(one.is_shared() && two.is_shared());
        leases.end_if_unused();
        assert!(!one.end(), "the other one still holds it");
        let three = leases.grant().unwrap();
        drop(two);
        assert!(!*leases.over.borrow());
        assert!(three.end());
        leases.over().await;
        assert!(leases.grant().is_none(), "it is about to stop");
    }

    #[tokio::test]
    async fn a_larder_without_a_lease_ends_too() {
        let leases = Leases::new();
        leases.end_if_unused();
        leases.over().await;
        assert!(leases.grant().is_none());
        let alone = Leases::new();
        assert!(!alone.grant().unwrap().is_shared());
    }

    #[test]
    fn the_hosts_of_a_lease_are_those_since_its_start() {
        let hosts = |hosts: &[(&str, u64)]| {
            hosts.iter().map(|(host, count)| ((*host).to_owned(), *count)).collect::<Vec<_>>()
        };
        let before = hosts(&[("a", 2), ("b", 1)]);
        assert_eq!(difference(hosts(&[("a", 3), ("b", 1), ("c", 1)]), &before), hosts(&[("a", 1), ("c", 1)]));
    }
}
