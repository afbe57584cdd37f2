//! The user at the other end of a Unix socket.
//!
//! Owns: which users are trusted. Never touches: the permissions of the socket's file, which keep others out
//! already.

use rustix::process::geteuid;
use tokio::net::UnixStream;

/// Whether the process at the other end belongs to the caller's user or to root.
pub(super) fn is_trusted(stream: &UnixStream) -> bool {
    let users = [geteuid().as_raw(), ROOT];
    stream.peer_cred().is_ok_and(|peer| users.contains(&peer.uid()))
}

const ROOT: u32 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_of_the_same_user_is_trusted() {
        let (one, other) = UnixStream::pair().unwrap();
        assert!(is_trusted(&one) && is_trusted(&other));
    }
}
