//! A fake's listener and connections, with injected failures.
//!
//! Owns: refusing connections, closing them without a response and inside a body, at an exact byte.
//! Never touches: the content of responses.

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::fake::api::Api;
use crate::fake::shared::Shared;

/// The listener, which stops listening while connections are refused.
pub(super) struct FaultyListener<A> {
    state: ListenerState,
    addr: SocketAddr,
    shared: Arc<Shared<A>>,
}

/// The state of the port.
enum ListenerState {
    /// Connections are accepted.
    Open(TcpListener),
    /// The port stays bound, and connections to it are refused.
    Shut(TcpSocket),
    /// Neither: during a change, or if another process bound the port during one.
    Unbound,
}

impl<A: Api> FaultyListener<A> {
    pub(super) fn new(listener: TcpListener, addr: SocketAddr, shared: Arc<Shared<A>>) -> Self {
        Self { state: ListenerState::Open(listener), addr, shared }
    }

    fn set_refusing(&mut self, refuses: bool) -> io::Result<()> {
        let is_shut = matches!(self.state, ListenerState::Shut(_));
        let is_unbound = matches!(self.state, ListenerState::Unbound);
        if refuses == is_shut && !is_unbound {
            return Ok(());
        }
        // The port can be bound only once, so the old socket is closed first.
        let bound = match mem::replace(&mut self.state, ListenerState::Unbound) {
            ListenerState::Shut(socket) => socket,
            ListenerState::Open(listener) => {
                drop(listener);
                bound(self.addr)?
            }
            ListenerState::Unbound => bound(self.addr)?,
        };
        self.state =
            if refuses { ListenerState::Shut(bound) } else { ListenerState::Open(bound.listen(BACKLOG)?) };
        Ok(())
    }
}

/// A socket that keeps the port bound without listening on it.
fn bound(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

impl<A: Api> Listener for FaultyListener<A> {
    type Io = FaultyStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let mut script_changes = self.shared.script_changes();
            let refuses = self.shared.refuses();
            let state_set = self.set_refusing(refuses);
            let accepted = async {
                match (&self.state, state_set) {
                    (ListenerState::Open(listener), Ok(())) => listener.accept().await,
                    (ListenerState::Shut(_), Ok(())) => std::future::pending().await,
                    (_, Err(error)) => Err(error),
                    (ListenerState::Unbound, Ok(())) => Err(io::ErrorKind::AddrNotAvailable.into()),
                }
            };
            tokio::select! {
                _ = script_changes.changed() => {}
                () = self.shared.phase_changed() => {}
                accepted = accepted => match accepted {
                    Ok((stream, client)) => {
                        return (FaultyStream { stream, fault: ConnectionFault::default() }, client);
                    }
                    Err(_) => tokio::time::sleep(RETRY_DELAY).await,
                },
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }
}

/// The fault of a connection; the handler of a request holds a handle to it and sets it.
#[derive(Debug, Clone, Default)]
pub(super) struct ConnectionFault(Arc<Mutex<FaultPlan>>);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum FaultPlan {
    /// Everything is written.
    #[default]
    Intact,
    /// The next head and this many bytes of its body are written, then the connection fails.
    CutBody(usize),
    /// This many bytes are written, then the connection fails.
    Remaining(usize),
}

impl ConnectionFault {
    /// Closes the connection without writing another byte.
    pub(super) fn close(&self) {
        *self.0.lock() = FaultPlan::Remaining(0);
    }

    /// Closes the connection after this many bytes of the next response's body.
    pub(super) fn cut_after(&self, body: usize) {
        *self.0.lock() = FaultPlan::CutBody(body);
    }

    /// The number of `bytes` that may be written; `None`: the connection has failed.
    fn may_write(&self, bytes: &[u8]) -> Option<usize> {
        let mut plan = self.0.lock();
        if let FaultPlan::CutBody(body) = *plan
            && let Some(head) = bytes.windows(HEAD_END.len()).position(|window| window == HEAD_END)
        {
            *plan = FaultPlan::Remaining(head + HEAD_END.len() + body);
        }
        match *plan {
            FaultPlan::Intact | FaultPlan::CutBody(_) => Some(bytes.len()),
            FaultPlan::Remaining(0) => None,
            FaultPlan::Remaining(remaining) => Some(remaining.min(bytes.len())),
        }
    }

    fn wrote(&self, bytes: usize) {
        if let FaultPlan::Remaining(remaining) = &mut *self.0.lock() {
            *remaining = remaining.saturating_sub(bytes);
        }
    }
}

/// The client of a connection, and the fault of the connection.
#[derive(Debug, Clone)]
pub(super) struct FakeConnectInfo {
    pub(super) fault: ConnectionFault,
    pub(super) client: IpAddr,
}

impl<A: Api> Connected<IncomingStream<'_, FaultyListener<A>>> for FakeConnectInfo {
    fn connect_info(stream: IncomingStream<'_, FaultyListener<A>>) -> Self {
        Self { fault: stream.io().fault.clone(), client: stream.remote_addr().ip() }
    }
}

/// A stream that fails as its fault specifies.
pub(super) struct FaultyStream<S> {
    stream: S,
    fault: ConnectionFault,
}

impl<S: AsyncRead + Unpin> AsyncRead for FaultyStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FaultyStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Some(allowed) = self.fault.may_write(bytes) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        };
        let (permitted, _) = bytes.split_at(allowed);
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, permitted))?;
        self.fault.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The end of a head.
const HEAD_END: &[u8] = b"\r\n\r\n";
/// Maximum number of connections in the accept queue.
const BACKLOG: u32 = 1024;
/// Delay after a failed accept.
const RETRY_DELAY: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_writes_the_head_and_the_given_part_of_the_body() {
        let fault = ConnectionFault::default();
        let bytes = b"HTTP/1.1 200 OK\r\n\r\nbody";
        assert_eq!(fault.may_write(bytes), Some(23));
        fault.cut_after(2);
        assert_eq!(fault.may_write(bytes), Some(21));
        fault.wrote(20);
        assert_eq!(fault.may_write(b"dy"), Some(1));
        fault.wrote(1);
        assert_eq!(fault.may_write(b"y"), None);
    }

    #[test]
    fn a_closed_connection_writes_nothing() {
        let fault = ConnectionFault::default();
        fault.close();
        assert_eq!(fault.may_write(b"HTTP/1.1 200 OK\r\n\r\n"), None);
    }
}
