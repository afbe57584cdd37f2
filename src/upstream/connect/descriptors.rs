//! Partition of the file descriptor limit among clients, calls and idle connections (OVL-05).
//!
//! Owns: the effective `limits.connections` under the limit of open files; the number of idle connections to
//! origins; which descriptors are reserved for clients.
//! Never touches: accepting (`frontend::listener`), dialling (`happy_eyeballs`).

use std::os::fd::RawFd;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Limits;
use crate::upstream::connect::pinned::MAX_PINNED;

/// Descriptors for larder itself: listeners, the store, the admin listener's connections.
const OWN_DESCRIPTORS: u64 = 32;

/// The remaining descriptors are divided into this many parts. Clients get [`CLIENT_PARTS`] of them for their
/// connections and as many for their calls: with fewer, an accepted client could get an error for lack of a
/// descriptor although it could have waited to be accepted. One part is for idle connections to origins, and
/// one stays in reserve for clients, because a client of HTTP/2 may have many calls at once.
const PARTS: u64 = 8;
const CLIENT_PARTS: u64 = 3;
const _: () = assert!(2 * CLIENT_PARTS + 2 == PARTS, "as many for their calls, and two more");

/// Lower bound of client connections, however few descriptors there are: with fewer larder is of no use.
const MIN_CLIENTS: usize = 8;

/// Upper bound of idle connections: more are of no use.
const MAX_IDLE: usize = 128;

/// Raises the soft limit of open files to the number that `clients` need, at most to the hard limit. The
/// usual soft limit of 1,024 exists for programs that use `select`.
pub fn raise_limit(clients: usize) {
    let limit = getrlimit(Resource::Nofile);
    let wanted = descriptors_needed(clients);
    let wanted = limit.maximum.map_or(wanted, |maximum| wanted.min(maximum));
    if limit.current.is_none_or(|now| now >= wanted) {
        return;
    }
    let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, wanted, "Could not raise the limit of open files");
    }
}

/// How many of `wanted` clients can be served at once. Further clients wait to be accepted.
pub fn max_clients(wanted: usize) -> usize {
    let Some(files) = descriptor_limit() else { return wanted };
    let clients = clients_within(files, wanted);
    // The default is above the usual limit of open files on purpose; only a number that the operator has
    // chosen is worth a line.
    if clients < wanted && wanted != Limits::default().connections {
        tracing::info!(
            files,
            clients,
            "Serving fewer clients at once than limits.connections: the limit of open files (ulimit -n, \
             systemd's LimitNOFILE) is too low"
        );
    }
    clients
}

/// How many idle connections to origins may be kept.
pub(in crate::upstream) fn max_idle_connections() -> usize {
    descriptor_limit().map_or(MAX_IDLE, idle_within)
}

/// Whether a call's descriptor is one that is reserved for clients. The kernel assigns the lowest free
/// descriptor, so a high number means that all below it are in use.
pub(in crate::upstream) fn is_reserved_for_clients(descriptor: RawFd) -> bool {
    let number = u64::try_from(descriptor).unwrap_or(0);
    descriptor_limit().is_some_and(|files| number >= files - part_size(files))
}

fn descriptor_limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

fn part_size(files: u64) -> u64 {
    files.saturating_sub(OWN_DESCRIPTORS) / PARTS
}

fn descriptors_needed(clients: usize) -> u64 {
    let parts = (clients as u64).div_ceil(CLIENT_PARTS);
    // Pinned idle connections come on top. If there are not enough descriptors for them, they are evicted.
    parts.saturating_mul(PARTS).saturating_add(OWN_DESCRIPTORS + MAX_PINNED as u64)
}

fn clients_within(files: u64, wanted: usize) -> usize {
    let clients = usize::try_from(CLIENT_PARTS * part_size(files)).unwrap_or(usize::MAX);
    wanted.min(clients.max(MIN_CLIENTS))
}

fn idle_within(files: u64) -> usize {
    usize::try_from(part_size(files)).unwrap_or(MAX_IDLE).clamp(1, MAX_IDLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_has_a_descriptor_for_its_connection_and_one_for_its_call() {
        let table = [(128, 36, 12), (1024, 372, 124), (27_040, 10_000, 128), (1 << 20, 10_000, 128)];
        for (files, clients, waiting) in table {
            assert_eq!((clients_within(files, 10_000), idle_within(files)), (clients, waiting), "{files}");
            assert!(OWN_DESCRIPTORS + 2 * clients as u64 + waiting as u64 + part_size(files) <= files);
        }
        assert_eq!(clients_within(1 << 20, 3), 3, "limits.connections is the maximum");
        assert_eq!((clients_within(16, 10_000), idle_within(16)), (MIN_CLIENTS, 1));
        assert_eq!(clients_within(16, 3), 3);
        assert_eq!(clients_within(descriptors_needed(10_000), 10_000), 10_000);
    }

    #[test]
    fn the_last_descriptors_are_for_clients() {
        let files = descriptor_limit().and_then(|files| RawFd::try_from(files).ok());
        // Without a limit no descriptor is reserved.
        if let Some(files) = files {
            assert!(is_reserved_for_clients(files - 1) && !is_reserved_for_clients(3));
        }
    }
}
