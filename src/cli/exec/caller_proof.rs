//! The proof that a client of a private larder belongs to the caller. Every user of this machine can connect
//! to its port, so either the connection belongs to the caller's user, or the client sends a password.
//!
//! Owns: the choice between the two, the same in both processes of a supervised larder. Never touches: the
//! look-up of the user (`frontend::socket_owner`), the password in clients' variables (`exec_env`).

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use rustix::process::{geteuid, getuid};

use crate::config::{Access, Users};
use crate::frontend::socket_owner;

/// How a client proves that it belongs to the caller.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum CallerProof {
    /// The system reports the user of its connection: the caller or root.
    User,
    /// It sends `USER:PASSWORD`: used if the system does not report the user.
    Password(String),
}

/// The user name for all passwords.
const USER_NAME: &str = "larder";

/// The file from which the second process of a supervised larder reads the password.
const PASSWORD_FILE: &str = "password";

impl CallerProof {
    /// The proof that works on this system.
    pub(super) fn detect() -> Self {
        if socket_owner::reports_owners(geteuid().as_raw()) {
            return Self::User;
        }
        tracing::debug!("The system does not report the user of a connection: a password is used instead");
        Self::Password(format!("{USER_NAME}:{:032x}", rand::random::<u128>()))
    }

    /// Writes it to a private directory, for [`CallerProof::read_from`].
    pub(super) fn write_to(&self, directory: &Path) -> io::Result<()> {
        let Self::Password(password) = self else { return Ok(()) };
        let mut file = OpenOptions::new();
        let mut file = file.write(true).create_new(true).mode(0o600).open(directory.join(PASSWORD_FILE))?;
        file.write_all(password.as_bytes())
    }

    /// The proof that was written there.
    pub(super) fn read_from(directory: &Path) -> io::Result<Self> {
        match fs::read_to_string(directory.join(PASSWORD_FILE)) {
            Ok(password) => Ok(Self::Password(password)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::User),
            Err(error) => Err(error),
        }
    }

    /// The access rules that require it.
    pub(super) fn access(&self) -> Access {
        match self {
            Self::User => {
                let users = [geteuid().as_raw(), getuid().as_raw(), ROOT];
                Access { local_users: Some(users.into()), ..Access::default() }
            }
            Self::Password(password) => {
                let (user, password) = password.split_once(':').unwrap_or((USER_NAME, password));
                let users = Arc::new([(user.to_owned(), password.to_owned())]);
                Access { users: Some(Users(users)), ..Access::default() }
            }
        }
    }

    /// The part before the `@` of the proxy's URL.
    pub(super) fn password(&self) -> Option<String> {
        match self {
            Self::User => None,
            Self::Password(password) => Some(password.clone()),
        }
    }
}

/// Root is accepted: it can read the caller's keys anyway, and processes that the command starts with `sudo`
/// belong to the command.
const ROOT: u32 = 0;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_password_is_equal_in_both_processes_and_private_to_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        assert!(CallerProof::read_from(directory.path()).unwrap() == CallerProof::User);
        CallerProof::User.write_to(directory.path()).unwrap();
        assert!(CallerProof::read_from(directory.path()).unwrap() == CallerProof::User);
        let proof = CallerProof::Password("larder:0123".to_owned());
        proof.write_to(directory.path()).unwrap();
        assert!(CallerProof::read_from(directory.path()).unwrap() == proof);
        let facts = fs::metadata(directory.path().join(PASSWORD_FILE)).unwrap();
        assert_eq!(facts.permissions().mode() & 0o777, 0o600);
        assert!(proof.write_to(directory.path()).is_err(), "an existing file belongs to another process");
    }

    #[test]
    fn every_proof_requires_a_user_or_a_password() {
        let user = CallerProof::User.access();
        assert!(user.users.is_none() && CallerProof::User.password().is_none());
        assert!(user.local_users.is_some_and(|users| users.contains(&geteuid().as_raw())));
        let proof = CallerProof::Password("larder:0123".to_owned());
        let password = proof.access();
        assert!(password.local_users.is_none());
        let users = password.users.unwrap();
        assert_eq!(*users.0, [("larder".to_owned(), "0123".to_owned())]);
        assert_eq!(proof.password().as_deref(), Some("larder:0123"));
    }
}
