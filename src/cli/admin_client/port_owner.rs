//! The check of the user that owns a listener. The first process that binds a port of this host gets it,
//! so a process of another user could bind it while larder does not run.
//!
//! Owns: which users are trusted with a token and with traffic, and the check of a connection.
//! Never touches: the look-up of the user (`frontend::socket_owner`), the data that is sent.
//!
//! If the system does not report the user (other systems, a user namespace that hides other users, an
//! address of another host), every listener is trusted.

use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{geteuid, getuid};

use crate::frontend::socket_owner::{self, SocketEnd};

/// The users whose listeners are trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct TrustedUsers(Vec<u32>);

/// The error for a listener of an untrusted user. No data was sent to it.
#[derive(Debug)]
pub(in crate::cli) struct UntrustedListener {
    address: SocketAddr,
    user: u32,
}

impl fmt::Display for UntrustedListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the listener at {} belongs to user {}, which is not the caller, root, or the owner of \
             larder's configuration or store, so no request was sent to it (if larder runs as that \
             user, specify its configuration with --config and make the user the owner of that file \
             or of `store.path`)",
            self.address, self.user
        )
    }
}

impl std::error::Error for UntrustedListener {}

impl TrustedUsers {
    /// Trusts the caller, root, the owner of the configuration at `file`, and the owner of the directory
    /// `store` of that configuration, if only trusted users can have created it.
    pub(in crate::cli) fn new(file: Option<&Path>, store: Option<&Path>) -> Self {
        let mut users = vec![geteuid().as_raw(), getuid().as_raw(), ROOT];
        users.extend(file.and_then(|file| fs::metadata(file).ok()).map(|facts| facts.uid()));
        users.extend(store.and_then(|store| store_owner(store, &users)));
        Self(users)
    }

    /// Fails with an [`UntrustedListener`] if the peer of the connection belongs to another user, and with
    /// `TimedOut` if no process accepts the connection. Waits until one does: before that, the peer's
    /// socket has no owner.
    pub(in crate::cli) fn check(&self, stream: &TcpStream) -> io::Result<()> {
        let (here, there) = (stream.local_addr()?, stream.peer_addr()?);
        if !there.ip().is_loopback() && here.ip() != there.ip() {
            return Ok(());
        }
        for attempt in 0..MAX_CHECKS {
            match socket_owner::end(here, there) {
                SocketEnd::OwnedBy(user) if self.0.contains(&user) || socket_owner::is_overflow_id(user) => {
                    return Ok(());
                }
                // A system that does not report the owner of the caller's own socket reports no owner
                // reliably.
                SocketEnd::OwnedBy(_)
                    if socket_owner::end(there, here) != SocketEnd::OwnedBy(geteuid().as_raw()) =>
                {
                    return Ok(());
                }
                SocketEnd::OwnedBy(user) => {
                    return Err(io::Error::other(UntrustedListener { address: there, user }));
                }
                SocketEnd::NotFound => return Ok(()),
                SocketEnd::Unowned => sleep(Duration::from_millis(1 << attempt.min(6))),
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// The same for a listener that receives no data on this connection.
    pub(in crate::cli) fn check_listener(&self, address: SocketAddr) -> io::Result<()> {
        self.check(&TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?)
    }
}

/// The [`UntrustedListener`] inside an I/O error, if it is one.
pub(in crate::cli) fn untrusted_listener(error: &io::Error) -> Option<&UntrustedListener> {
    error.get_ref()?.downcast_ref()
}

/// The owner of a directory, if no other user can have created it: all its parent directories belong to
/// trusted users or to the owner, and only their owners can write to them.
fn store_owner(store: &Path, trusted: &[u32]) -> Option<u32> {
    let store = fs::canonicalize(store).ok()?;
    let user = fs::metadata(&store).ok()?.uid();
    let is_safe = |facts: Metadata| {
        (facts.uid() == user || trusted.contains(&facts.uid())) && facts.mode() & OTHERS_WRITE == 0
    };
    let mut above = store.ancestors().skip(1);
    above.all(|directory| fs::metadata(directory).is_ok_and(is_safe)).then_some(user)
}

const ROOT: u32 = 0;

/// The permission bits `g+w` and `o+w`.
const OTHERS_WRITE: u32 = 0o022;

/// The number of checks. The waits between them are 1, 2, 4 … 64 ms: three seconds in all.
const MAX_CHECKS: u32 = 52;

/// The longest time to connect, for requests and for checks.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_listener_of_an_untrusted_user_is_rejected() {
        let (listener, address) = listener();
        let client = TcpStream::connect(address).unwrap();
        let _accepted = listener.accept().unwrap();
        TrustedUsers::new(None, None).check(&client).unwrap();
        let error = TrustedUsers(vec![4_000_000]).check(&client).unwrap_err();
        let message = untrusted_listener(&error).unwrap().to_string();
        let own = geteuid().as_raw();
        for part in [&address.to_string(), &format!("user {own},"), "--config", "store.path"] {
            assert!(message.contains(part), "{message}");
        }
        assert!(untrusted_listener(&io::ErrorKind::TimedOut.into()).is_none());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_check_waits_for_the_accept_of_its_connection_and_times_out() {
        let (listener, address) = listener();
        let error = TrustedUsers::new(None, None).check_listener(address).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let accepting = std::thread::spawn(move || {
            // The connection of the failed check, then that of the second check.
            [listener.accept().unwrap(), listener.accept().unwrap()]
        });
        TrustedUsers::new(None, None).check_listener(address).unwrap();
        let _accepted = accepting.join().unwrap();
    }

    #[test]
    fn the_owners_of_the_configuration_and_of_a_safe_store_are_trusted() {
        use std::os::unix::fs::PermissionsExt;

        let home = tempfile::tempdir().unwrap();
        let store = home.path().join("a/store");
        fs::create_dir_all(&store).unwrap();
        let own = geteuid().as_raw();
        let TrustedUsers(users) = TrustedUsers::new(Some(home.path()), None);
        assert_eq!(users.last(), Some(&own));
        let system_directory = Path::new("/usr/bin");
        assert_eq!(
            store_owner(system_directory, &[]),
            fs::metadata(system_directory).ok().map(|facts| facts.uid())
        );
        // Below a directory in which every user can create directories, such as /tmp.
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(store_owner(&store, &[ROOT, own]), None);
        assert_eq!(store_owner(&home.path().join("none"), &[ROOT]), None);
    }
}
