//! Sends and receives lines and sockets over a Unix socket.
//!
//! Owns: their limits, and close-on-exec for received sockets. Never touches: the content of the lines.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Maximum number of sockets; no configuration has more listeners.
pub(super) const MAX_SOCKETS: usize = 64;

/// Maximum length of a line.
const MAX_LINE: usize = 8 * 1024;

#[cfg(not(target_vendor = "apple"))]
const RECEIVE: RecvFlags = RecvFlags::DONTWAIT.union(RecvFlags::CMSG_CLOEXEC);
#[cfg(target_vendor = "apple")]
const RECEIVE: RecvFlags = RecvFlags::DONTWAIT;

/// Writes one line, with these sockets if there are any.
pub(super) async fn write_line(stream: &UnixStream, line: &str, sockets: &[TcpListener]) -> io::Result<()> {
    let text = format!("{line}\n");
    let mut left = text.as_bytes();
    let mut sockets = sockets;
    while !left.is_empty() {
        let sent = stream.async_io(Interest::WRITABLE, || send(stream, left, sockets)).await?;
        left = left.get(sent..).unwrap_or_default();
        // The sockets are sent with the first byte.
        sockets = &[];
    }
    Ok(())
}

fn send(stream: &UnixStream, bytes: &[u8], sockets: &[TcpListener]) -> io::Result<usize> {
    let borrowed: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many listeners"));
    }
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::DONTWAIT)?)
}

/// Reads one line, with the sockets sent along. `None`: the peer has closed the connection.
pub(super) async fn read_line(
    stream: &UnixStream,
    within: Duration,
) -> io::Result<Option<(String, Vec<OwnedFd>)>> {
    let mut line = Vec::new();
    let mut sockets = Vec::new();
    let reading = async {
        loop {
            let receiving = || receive(stream, &mut line, &mut sockets);
            if stream.async_io(Interest::READABLE, receiving).await? == 0 {
                return Ok(false);
            }
            if line.last() == Some(&b'\n') {
                return Ok(true);
            }
            if line.len() > MAX_LINE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the line is too long"));
            }
        }
    };
    let whole = timeout(within, reading).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let text = String::from_utf8_lossy(&line).trim_end().to_owned();
    Ok(whole.then_some((text, sockets)))
}

fn receive(stream: &UnixStream, line: &mut Vec<u8>, sockets: &mut Vec<OwnedFd>) -> io::Result<usize> {
    // One byte at a time: bytes after the line belong to the next reader.
    let mut bytes = [0; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(stream, &mut into, &mut control, RECEIVE)?.bytes;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            for socket in rights {
                #[cfg(target_vendor = "apple")]
                rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
                sockets.push(socket);
            }
        }
    }
    line.extend_from_slice(bytes.get(..received).unwrap_or_default());
    Ok(received)
}
