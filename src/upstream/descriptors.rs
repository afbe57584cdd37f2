//! Open files: how many this process may have, and how they are shared out (OVL-05).
//!
//! Owns: what `limits.connections` comes to under the limit of open files; how many connections to origins
//! may wait for their next call; which descriptors calls leave to clients.
//! Never touches: accepting (`front::listen`), dialling (`dial`).

use std::os::fd::RawFd;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::upstream::pinned_connections::MOST_IN_ALL;

/// What larder holds open for itself: listeners, the store, the admin listener's connections.
const OWN: u64 = 32;

/// The others are shared out in so many parts. Clients have some for their connections, and as many for the
/// calls that they may need: with fewer a client that was let in could get an error for want of a
/// descriptor, when it could have waited its turn. One part is for connections to origins that wait for
/// their next call, and one stays free for clients, for those of HTTP/2 may have many calls at once.
const PARTS: u64 = 8;
const FOR_CLIENTS: u64 = 3;
const _: () = assert!(2 * FOR_CLIENTS + 2 == PARTS, "as many for their calls, and two more");

/// With fewer places larder would not be of use, however few descriptors there are.
const FEWEST: usize = 8;

/// More connections that wait are of no use.
const WAITING: usize = 128;

/// Asks the system for as many as this many clients need, as far as it lets this process have them:
/// the usual limit of 1,024 is there for programs that cannot count further.
pub fn raise(clients: usize) {
    let limit = getrlimit(Resource::Nofile);
    let wanted = needed_for(clients);
    let wanted = limit.maximum.map_or(wanted, |most| wanted.min(most));
    if limit.current.is_none_or(|now| now >= wanted) {
        return;
    }
    let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, wanted, "The limit of open files stays as it is");
    }
}

/// How many of these clients can be served at once. The others wait to be accepted.
pub fn clients(wanted: usize) -> usize {
    let Some(files) = files() else { return wanted };
    let clients = enough_for(files, wanted);
    if clients < wanted {
        tracing::info!(
            files,
            clients,
            "Fewer clients at once than limits.connections says: the limit of open files (ulimit -n, \
             systemd's LimitNOFILE) is not enough for more"
        );
    }
    clients
}

/// How many connections to origins may wait for their next call.
pub(super) fn waiting() -> usize {
    files().map_or(WAITING, waiting_of)
}

/// Whether a call would take a descriptor that is for clients. The system gives out the lowest that is free:
/// with a high one all below it are in use.
pub(super) fn is_for_clients(descriptor: RawFd) -> bool {
    let given = u64::try_from(descriptor).unwrap_or(0);
    files().is_some_and(|files| given >= files - part(files))
}

fn files() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

fn part(files: u64) -> u64 {
    files.saturating_sub(OWN) / PARTS
}

fn needed_for(clients: usize) -> u64 {
    let parts = (clients as u64).div_ceil(FOR_CLIENTS);
    // Connections on which users have signed in wait beside them. Where there are not so many more, they
    // make room.
    parts.saturating_mul(PARTS).saturating_add(OWN + MOST_IN_ALL as u64)
}

fn enough_for(files: u64, wanted: usize) -> usize {
    let clients = usize::try_from(FOR_CLIENTS * part(files)).unwrap_or(usize::MAX);
    wanted.min(clients.max(FEWEST))
}

fn waiting_of(files: u64) -> usize {
    usize::try_from(part(files)).unwrap_or(WAITING).clamp(1, WAITING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_has_a_descriptor_for_its_connection_and_one_for_its_call() {
        let table =
            [(128, 36, 12), (1024, 372, 124), (27_040, 10_000, 128), (1 << 20, 10_000, 128)];
        for (files, clients, waiting) in table {
            assert_eq!(
                (enough_for(files, 10_000), waiting_of(files)),
                (clients, waiting),
                "{files}"
            );
            assert!(OWN + 2 * clients as u64 + waiting as u64 + part(files) <= files);
        }
        assert_eq!(enough_for(1 << 20, 3), 3, "limits.connections is the most");
        assert_eq!((enough_for(16, 10_000), waiting_of(16)), (FEWEST, 1));
        assert_eq!(enough_for(16, 3), 3);
        assert_eq!(enough_for(needed_for(10_000), 10_000), 10_000);
    }

    #[test]
    fn the_last_descriptors_are_for_clients() {
        let files = files().and_then(|files| RawFd::try_from(files).ok());
        // Without a limit none is kept.
        if let Some(files) = files {
            assert!(is_for_clients(files - 1) && !is_for_clients(3));
        }
    }
}
