//! Which user of this host holds the other end of a connection. Linux tells.
//!
//! Owns: which of its two ways is asked, whether they can be believed here.
//! Never touches: who may connect (`access`).
//!
//! `sock_diag` looks one socket up and takes microseconds. Where there is none (sandboxes), the tables
//! in `/proc` say the same in milliseconds. Both speak of this network namespace alone, and both are
//! asked once a connection.

mod diag;
mod table;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

/// What the system says of one end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketEnd {
    /// A process of this user holds it.
    Of(u32),
    /// It is there, and no process holds it: it is not accepted yet, or closed already.
    Unheld,
    /// It is not on this host, or cannot be seen from here.
    Unseen,
}

impl SocketEnd {
    fn user(self) -> Option<u32> {
        match self {
            Self::Of(user) => Some(user),
            Self::Unheld | Self::Unseen => None,
        }
    }
}

/// The user who holds the end at `peer` of a connection whose end at `ours` is this process's. `None`:
/// that end is closed already, is not on this host, or cannot be seen from here.
pub async fn owner(ours: SocketAddr, peer: SocketAddr) -> Option<u32> {
    if let Ok(told) = diag::ask(ours, peer) {
        return told.user();
    }
    // A task that is never run tells nothing either.
    let asked = tokio::task::spawn_blocking(move || table::ask(ours, peer)).await;
    asked.ok().and_then(SocketEnd::user)
}

/// The end at `there` of a connection whose other end is at `here`, whichever of the two connected.
/// May take milliseconds where there is no `sock_diag`.
pub fn end(here: SocketAddr, there: SocketAddr) -> SocketEnd {
    diag::ask(here, there).unwrap_or_else(|_none| table::ask(here, there))
}

/// Whether the system tells owners at all. It is asked about a connection of this process's own, whose
/// user is `own`: there is no other way to know (other systems, no `/proc`, sandboxes).
pub fn can_tell(own: u32) -> bool {
    let asked = || -> io::Result<bool> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let ours = listener.local_addr()?;
        let other = TcpStream::connect(ours)?;
        let peer = other.local_addr()?;
        Ok(end(ours, peer) == SocketEnd::Of(own))
    };
    asked().unwrap_or(false) && !stands_for_many(own)
}

/// Whether other users may be shown by the number of this one: in a user namespace all that are not
/// mapped into it have one number together (`overflowuid`, mostly `nobody`'s).
pub fn stands_for_many(user: u32) -> bool {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let overflow = read("/proc/sys/kernel/overflowuid").trim().parse().unwrap_or(OVERFLOW);
    let map = read("/proc/self/uid_map");
    let maps_all = map.split_whitespace().eq(["0", "0", "4294967295"]);
    user == overflow && !maps_all
}

/// The kernel's own choice, which an administrator may change.
const OVERFLOW: u32 = 65534;

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn linux_tells_whose_a_connection_is_and_nothing_of_one_that_is_closed() {
        use std::os::unix::fs::MetadataExt;

        use socket2::{Domain, Socket, Type};

        let own = std::fs::metadata("/proc/self").unwrap().uid();
        assert!(can_tell(own));
        assert!(!can_tell(own + 1));
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let ours = listener.local_addr().unwrap();
            let client = TcpStream::connect(ours).unwrap();
            let peer = client.local_addr().unwrap();
            let accepted = listener.accept().unwrap();
            assert_eq!(owner(ours, peer).await, Some(own), "{address}");
            assert_eq!(table::ask(ours, peer), SocketEnd::Of(own), "{address}");
            assert_eq!(end(peer, ours), SocketEnd::Of(own), "{address}: the end that accepted");
            drop(client);
            assert_eq!(owner(ours, peer).await, None, "{address}");
            assert_ne!(table::ask(ours, peer), SocketEnd::Of(own), "{address}");
            drop(accepted);
        }
        // A socket for both families, such as Java's, that speaks IPv4.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let both = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        both.set_only_v6(false).unwrap();
        both.connect(&format!("[::ffff:127.0.0.1]:{port}").parse::<SocketAddr>().unwrap().into())
            .unwrap();
        let (accepted, peer) = listener.accept().unwrap();
        let ours = accepted.local_addr().unwrap();
        assert_eq!(owner(ours, peer).await, Some(own));
        assert_eq!(table::ask(ours, peer), SocketEnd::Of(own));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_end_that_is_not_accepted_yet_is_nobodys() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = listener.local_addr().unwrap();
        let client = TcpStream::connect(there).unwrap();
        let here = client.local_addr().unwrap();
        assert_eq!(diag::ask(here, there).unwrap_or(SocketEnd::Unheld), SocketEnd::Unheld);
        assert_eq!(table::ask(here, there), SocketEnd::Unheld);
        let _accepted = listener.accept().unwrap();
        assert!(matches!(end(here, there), SocketEnd::Of(_)));
    }
}
