//! The proof that a client of a private larder is its caller's. Every user of this machine reaches its port,
//! so the connection must be the caller's, or else the client must know a password.
//!
//! Owns: which of the two, and that both processes of a guarded larder agree. Never touches: how the user
//! is found (`front::owner`), how clients are told the password (`launch`).

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use rustix::process::{geteuid, getuid};

use crate::config::{Access, Users};
use crate::frontend::socket_owner;

/// How a client shows that it is the caller's.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum CallerProof {
    /// Its connection is the caller's, or root's: the system tells.
    User,
    /// It knows the user and the password, `USER:PASSWORD`: where the system does not tell.
    Password(String),
}

/// The user of all passwords.
const NAME: &str = "larder";

/// Where the second process of a guarded larder finds the password.
const FILE: &str = "password";

impl CallerProof {
    /// The one that works here.
    pub(super) fn find() -> Self {
        if socket_owner::can_tell(geteuid().as_raw()) {
            return Self::User;
        }
        tracing::debug!("The system does not tell whose a connection is: a password stands in");
        Self::Password(format!("{NAME}:{:032x}", rand::random::<u128>()))
    }

    /// Leaves it in a private directory, for [`CallerProof::left_in`].
    pub(super) fn leave_in(&self, directory: &Path) -> io::Result<()> {
        let Self::Password(password) = self else { return Ok(()) };
        let mut file = OpenOptions::new();
        let mut file = file.write(true).create_new(true).mode(0o600).open(directory.join(FILE))?;
        file.write_all(password.as_bytes())
    }

    /// The one that was left there.
    pub(super) fn left_in(directory: &Path) -> io::Result<Self> {
        match fs::read_to_string(directory.join(FILE)) {
            Ok(password) => Ok(Self::Password(password)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::User),
            Err(error) => Err(error),
        }
    }

    /// The rules that ask for it.
    pub(super) fn access(&self) -> Access {
        match self {
            Self::User => {
                let users = [geteuid().as_raw(), getuid().as_raw(), ROOT];
                Access { local_users: Some(users.into()), ..Access::default() }
            }
            Self::Password(password) => {
                let (user, password) = password.split_once(':').unwrap_or((NAME, password));
                let users = Arc::new([(user.to_owned(), password.to_owned())]);
                Access { users: Some(Users(users)), ..Access::default() }
            }
        }
    }

    /// The part before the `@` of the proxy's URL.
    pub(super) fn password(&self) -> Option<&str> {
        match self {
            Self::User => None,
            Self::Password(password) => Some(password),
        }
    }
}

/// Root may read the caller's keys anyhow, and what the command starts with `sudo` is the command's.
const ROOT: u32 = 0;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_password_is_the_same_in_both_processes_and_its_files_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        assert!(CallerProof::left_in(directory.path()).unwrap() == CallerProof::User);
        CallerProof::User.leave_in(directory.path()).unwrap();
        assert!(CallerProof::left_in(directory.path()).unwrap() == CallerProof::User);
        let proof = CallerProof::Password("larder:0123".to_owned());
        proof.leave_in(directory.path()).unwrap();
        assert!(CallerProof::left_in(directory.path()).unwrap() == proof);
        let facts = fs::metadata(directory.path().join(FILE)).unwrap();
        assert_eq!(facts.permissions().mode() & 0o777, 0o600);
        assert!(proof.leave_in(directory.path()).is_err(), "one that is there is somebody else's");
    }

    #[test]
    fn every_proof_asks_for_something() {
        let user = CallerProof::User.access();
        assert!(user.users.is_none() && CallerProof::User.password().is_none());
        assert!(user.local_users.is_some_and(|users| users.contains(&geteuid().as_raw())));
        let proof = CallerProof::Password("larder:0123".to_owned());
        let password = proof.access();
        assert!(password.local_users.is_none());
        let users = password.users.unwrap();
        assert_eq!(*users.0, [("larder".to_owned(), "0123".to_owned())]);
        assert_eq!(proof.password(), Some("larder:0123"));
    }
}
