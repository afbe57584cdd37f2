//! The user whose larder it is: a port of this host belongs to the first process that takes it, and
//! another user's could take it while larder does not run.
//!
//! Owns: which users are trusted with a token and with traffic, and that a connection is one of theirs.
//! Never touches: how the system tells users (`front::owner`), what is sent.
//!
//! Where the system does not tell (other systems, a user namespace that hides the other users, an
//! address of another host) every listener is believed.

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

/// The users whose larder is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Trusted(Vec<u32>);

/// A listener of another user's. The answer to a question that was never sent.
#[derive(Debug)]
pub(in crate::cli) struct Stranger {
    address: SocketAddr,
    user: u32,
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the listener at {} belongs to the user {}, who is neither you nor root, nor the owner of \
             larder's configuration or store, so nothing was sent to it (if larder runs as that user, \
             name its configuration with --config and let the user own that file or `store.path`)",
            self.address, self.user
        )
    }
}

impl std::error::Error for Stranger {}

impl Trusted {
    /// The caller and root; whom the configuration at `file` belongs to, and whom the operator has
    /// given the directory `store` that it names.
    pub(in crate::cli) fn of(file: Option<&Path>, store: Option<&Path>) -> Self {
        let mut users = vec![geteuid().as_raw(), getuid().as_raw(), ROOT];
        users.extend(file.and_then(|file| fs::metadata(file).ok()).map(|facts| facts.uid()));
        users.extend(store.and_then(|store| given(store, &users)));
        Self(users)
    }

    /// Fails with a [`Stranger`] where the other end of the connection is another user's, and with
    /// `TimedOut` where no process accepts it. Waits until one does: before that the end has no user.
    pub(in crate::cli) fn check(&self, stream: &TcpStream) -> io::Result<()> {
        let (here, there) = (stream.local_addr()?, stream.peer_addr()?);
        if !there.ip().is_loopback() && here.ip() != there.ip() {
            return Ok(());
        }
        for look in 0..LOOKS {
            match socket_owner::end(here, there) {
                SocketEnd::Of(user)
                    if self.0.contains(&user) || socket_owner::stands_for_many(user) =>
                {
                    return Ok(());
                }
                // A system that does not know the caller's own end knows no other one either.
                SocketEnd::Of(_)
                    if socket_owner::end(there, here) != SocketEnd::Of(geteuid().as_raw()) =>
                {
                    return Ok(());
                }
                SocketEnd::Of(user) => {
                    return Err(io::Error::other(Stranger { address: there, user }));
                }
                SocketEnd::Unseen => return Ok(()),
                SocketEnd::Unheld => sleep(Duration::from_millis(1 << look.min(6))),
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// The same for a listener that nothing is said to.
    pub(in crate::cli) fn check_listener(&self, address: SocketAddr) -> io::Result<()> {
        self.check(&TcpStream::connect_timeout(&address, CONNECT)?)
    }
}

/// The stranger of an error, if it is one.
pub(in crate::cli) fn stranger(error: &io::Error) -> Option<&Stranger> {
    error.get_ref()?.downcast_ref()
}

/// The owner of a directory, if no other user can have put it there: all above it belong to trusted
/// users or to the owner, and only their owners write to them.
fn given(store: &Path, trusted: &[u32]) -> Option<u32> {
    let store = fs::canonicalize(store).ok()?;
    let user = fs::metadata(&store).ok()?.uid();
    let is_safe = |facts: Metadata| {
        (facts.uid() == user || trusted.contains(&facts.uid())) && facts.mode() & OTHERS_WRITE == 0
    };
    let mut above = store.ancestors().skip(1);
    above.all(|directory| fs::metadata(directory).is_ok_and(is_safe)).then_some(user)
}

const ROOT: u32 = 0;

/// `g+w`, `o+w`
const OTHERS_WRITE: u32 = 0o022;

/// 1, 2, 4 … 64 ms: three seconds in all.
const LOOKS: u32 = 52;

/// As for what is said.
pub(super) const CONNECT: Duration = Duration::from_secs(3);

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
    fn a_listener_of_a_user_who_is_not_trusted_is_a_stranger() {
        let (listener, address) = listener();
        let client = TcpStream::connect(address).unwrap();
        let _accepted = listener.accept().unwrap();
        Trusted::of(None, None).check(&client).unwrap();
        let error = Trusted(vec![4_000_000]).check(&client).unwrap_err();
        let said = stranger(&error).unwrap().to_string();
        let own = geteuid().as_raw();
        for word in [&address.to_string(), &format!("user {own},"), "--config", "store.path"] {
            assert!(said.contains(word), "{said}");
        }
        assert!(stranger(&io::ErrorKind::TimedOut.into()).is_none());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_connection_that_no_process_accepts_is_waited_for_and_given_up() {
        let (listener, address) = listener();
        let error = Trusted::of(None, None).check_listener(address).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let accepting = std::thread::spawn(move || {
            // The one that was given up, then the one that is waited for.
            [listener.accept().unwrap(), listener.accept().unwrap()]
        });
        Trusted::of(None, None).check_listener(address).unwrap();
        let _held = accepting.join().unwrap();
    }

    #[test]
    fn the_owners_of_the_configuration_and_of_a_store_below_safe_directories_are_trusted() {
        use std::os::unix::fs::PermissionsExt;

        let home = tempfile::tempdir().unwrap();
        let store = home.path().join("a/store");
        fs::create_dir_all(&store).unwrap();
        let own = geteuid().as_raw();
        let Trusted(users) = Trusted::of(Some(home.path()), None);
        assert_eq!(users.last(), Some(&own));
        let systems = Path::new("/usr/bin");
        assert_eq!(given(systems, &[]), fs::metadata(systems).ok().map(|facts| facts.uid()));
        // Below a directory in which everybody may make one, such as /tmp.
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(given(&store, &[ROOT, own]), None);
        assert_eq!(given(&home.path().join("none"), &[ROOT]), None);
    }
}
