//! Open files: how many this process may have, and how many clients they are enough for (OVL-05).
//!
//! Owns: what `limits.connections` comes to under the limit of open files.
//! Never touches: accepting (`front::listen`).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::upstream::pinned::MOST_IN_ALL;

/// What larder holds open for itself: listeners, the store, the admin listener's connections.
const OWN: u64 = 32;

/// One for a client's connection, one for the call to an origin that it may need. With fewer a client
/// that was let in could get an error for want of a descriptor, when it could have waited its turn.
const EACH: u64 = 2;

/// Connections to origins on which clients have signed in may wait beside those. Where the system does
/// not let larder have so many more, they make room.
const WAITING: u64 = MOST_IN_ALL as u64;

/// With fewer places larder would not be of use, however few descriptors there are.
const FEWEST: usize = 8;

/// Asks the system for as many as this many clients need, as far as it lets this process have them:
/// the usual limit of 1,024 is there for programs that cannot count further.
pub fn raise(clients: usize) {
    let limit = getrlimit(Resource::Nofile);
    let wanted = (clients as u64).saturating_mul(EACH).saturating_add(OWN + WAITING);
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
pub(super) fn clients(wanted: usize) -> usize {
    let Some(files) = getrlimit(Resource::Nofile).current else { return wanted };
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

fn enough_for(files: u64, wanted: usize) -> usize {
    let clients = usize::try_from(files.saturating_sub(OWN) / EACH).unwrap_or(usize::MAX);
    wanted.min(clients.max(FEWEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_has_a_descriptor_for_its_connection_and_one_for_its_call() {
        let table = [(128, 48), (1024, 496), (20_032, 10_000), (1 << 20, 10_000)];
        for (files, clients) in table {
            assert_eq!(enough_for(files, 10_000), clients, "{files}");
            assert!(OWN + EACH * clients as u64 <= files);
        }
        assert_eq!(enough_for(1 << 20, 3), 3, "limits.connections is the most");
        assert_eq!(enough_for(16, 10_000), FEWEST);
        assert_eq!(enough_for(16, 3), 3);
    }
}
