//! Finds the user of this host that owns the other end of a connection (Linux only).
//!
//! Owns: the choice between the two lookup methods, and whether their results are reliable here. Never
//! touches: the access rules (`access`).
//!
//! `sock_diag` looks up one socket and takes microseconds. Where it is unavailable (sandboxes), the
//! tables in `/proc` contain the same data and take milliseconds. Both cover only this network
//! namespace, and each is queried once per connection.

mod diag;
mod table;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

/// The state of one end of a connection, as the system reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketEnd {
    /// A process of this user owns it.
    OwnedBy(u32),
    /// It exists, but no process owns it: it is not accepted yet, or already closed.
    Unowned,
    /// It is not on this host, or not visible from here.
    NotFound,
}

impl SocketEnd {
    fn user(self) -> Option<u32> {
        match self {
            Self::OwnedBy(user) => Some(user),
            Self::Unowned | Self::NotFound => None,
        }
    }
}

/// The user that owns the end at `peer` of a connection whose end at `ours` belongs to this process.
/// `None`: that end is already closed, is not on this host, or is not visible from here.
pub async fn owner(ours: SocketAddr, peer: SocketAddr) -> Option<u32> {
    if let Ok(found) = diag::lookup(ours, peer) {
        return found.user();
    }
    // A task that never runs yields no owner either.
    let found = tokio::task::spawn_blocking(move || table::lookup(ours, peer)).await;
    found.ok().and_then(SocketEnd::user)
}

/// Looks up the end at `there` of a connection whose other end is at `here`, whichever of the two
/// connected. May take milliseconds without `sock_diag`.
pub fn end(here: SocketAddr, there: SocketAddr) -> SocketEnd {
    diag::lookup(here, there).unwrap_or_else(|_none| table::lookup(here, there))
}

/// Whether the system reports socket owners at all. The check looks up a connection of this process,
/// whose user is `own`: there is no other way to find out (other systems, no `/proc`, sandboxes).
pub fn reports_owners(own: u32) -> bool {
    let probe = || -> io::Result<bool> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let ours = listener.local_addr()?;
        let other = TcpStream::connect(ours)?;
        let peer = other.local_addr()?;
        Ok(end(ours, peer) == SocketEnd::OwnedBy(own))
    };
    probe().unwrap_or(false) && !is_overflow_id(own)
}

/// Whether the id of this user may also represent other users: in a user namespace all users that are
/// not mapped into it share one id (`overflowuid`, usually 65534).
pub fn is_overflow_id(user: u32) -> bool {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let overflow = read("/proc/sys/kernel/overflowuid").trim().parse().unwrap_or(OVERFLOW);
    let map = read("/proc/self/uid_map");
    let maps_all = map.split_whitespace().eq(["0", "0", "4294967295"]);
    user == overflow && !maps_all
}

/// The kernel's default, which an administrator can change.
const OVERFLOW: u32 = 65534;

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn linux_reports_the_owner_of_open_connections_only() {
        use std::os::unix::fs::MetadataExt;

        use socket2::{Domain, Socket, Type};

        let own = std::fs::metadata("/proc/self").unwrap().uid();
        assert!(reports_owners(own));
        assert!(!reports_owners(own + 1));
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let ours = listener.local_addr().unwrap();
            let client = TcpStream::connect(ours).unwrap();
            let peer = client.local_addr().unwrap();
            let accepted = listener.accept().unwrap();
            assert_eq!(owner(ours, peer).await, Some(own), "{address}");
            assert_eq!(table::lookup(ours, peer), SocketEnd::OwnedBy(own), "{address}");
            assert_eq!(end(peer, ours), SocketEnd::OwnedBy(own), "{address}: the end that accepted");
            drop(client);
            assert_eq!(owner(ours, peer).await, None, "{address}");
            assert_ne!(table::lookup(ours, peer), SocketEnd::OwnedBy(own), "{address}");
            drop(accepted);
        }
        // A dual-stack socket, such as Java's, that uses IPv4.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let both = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        both.set_only_v6(false).unwrap();
        both.connect(&format!("[::ffff:127.0.0.1]:{port}").parse::<SocketAddr>().unwrap().into()).unwrap();
        let (accepted, peer) = listener.accept().unwrap();
        let ours = accepted.local_addr().unwrap();
        assert_eq!(owner(ours, peer).await, Some(own));
        assert_eq!(table::lookup(ours, peer), SocketEnd::OwnedBy(own));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_end_that_is_not_accepted_yet_has_no_owner() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = listener.local_addr().unwrap();
        let client = TcpStream::connect(there).unwrap();
        let here = client.local_addr().unwrap();
        assert_eq!(diag::lookup(here, there).unwrap_or(SocketEnd::Unowned), SocketEnd::Unowned);
        assert_eq!(table::lookup(here, there), SocketEnd::Unowned);
        let _accepted = listener.accept().unwrap();
        assert!(matches!(end(here, there), SocketEnd::OwnedBy(_)));
    }
}
