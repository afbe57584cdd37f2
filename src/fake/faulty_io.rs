//! A fake's connections, which can be made to break.
//!
//! Owns: refusing, closing without an answer and inside a body, exactly where it was asked for.
//! Never touches: what is answered.

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
use crate::fake::server::Shared;

/// The listener, which shuts when connections are refused.
pub(super) struct FaultyListener<A> {
    door: ListenerState,
    addr: SocketAddr,
    shared: Arc<Shared<A>>,
}

/// What is behind the port.
enum ListenerState {
    /// Connections are accepted.
    Open(TcpListener),
    /// The port is kept, and connections to it are refused.
    Shut(TcpSocket),
    /// Between the two, or somebody took the port in between.
    Gone,
}

impl<A: Api> FaultyListener<A> {
    pub(super) fn new(listener: TcpListener, addr: SocketAddr, shared: Arc<Shared<A>>) -> Self {
        Self { door: ListenerState::Open(listener), addr, shared }
    }

    fn turn(&mut self, refuses: bool) -> io::Result<()> {
        let is_shut = matches!(self.door, ListenerState::Shut(_));
        let is_gone = matches!(self.door, ListenerState::Gone);
        if refuses == is_shut && !is_gone {
            return Ok(());
        }
        // Nobody else can listen on the port: what is there goes first.
        let bound = match mem::replace(&mut self.door, ListenerState::Gone) {
            ListenerState::Shut(socket) => socket,
            ListenerState::Open(listener) => {
                drop(listener);
                bound(self.addr)?
            }
            ListenerState::Gone => bound(self.addr)?,
        };
        self.door = if refuses {
            ListenerState::Shut(bound)
        } else {
            ListenerState::Open(bound.listen(BACKLOG)?)
        };
        Ok(())
    }
}

/// A socket that keeps the port without listening on it.
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
            let mut scripts = self.shared.scripts();
            let refuses = self.shared.refuses();
            let turned = self.turn(refuses);
            let accepted = async {
                match (&self.door, turned) {
                    (ListenerState::Open(listener), Ok(())) => listener.accept().await,
                    (ListenerState::Shut(_), Ok(())) => std::future::pending().await,
                    (_, Err(error)) => Err(error),
                    (ListenerState::Gone, Ok(())) => Err(io::ErrorKind::AddrNotAvailable.into()),
                }
            };
            tokio::select! {
                _ = scripts.changed() => {}
                () = self.shared.turned() => {}
                accepted = accepted => match accepted {
                    Ok((stream, client)) => {
                        return (FaultyStream { stream, fate: ConnectionFault::default() }, client);
                    }
                    Err(_) => tokio::time::sleep(PAUSE).await,
                },
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }
}

/// What will become of a connection; the handler of a request holds one end of it.
#[derive(Debug, Clone, Default)]
pub(super) struct ConnectionFault(Arc<Mutex<FaultPlan>>);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum FaultPlan {
    /// All is written.
    #[default]
    Intact,
    /// The next head and this many bytes of its body are written, then it breaks.
    CutBody(usize),
    /// This many bytes are written, then it breaks.
    Left(usize),
}

impl ConnectionFault {
    /// Closes the connection without writing another byte.
    pub(super) fn close(&self) {
        *self.0.lock() = FaultPlan::Left(0);
    }

    /// Closes the connection after so many bytes of the next answer's body.
    pub(super) fn cut_after(&self, body: usize) {
        *self.0.lock() = FaultPlan::CutBody(body);
    }

    /// How many of `bytes` may be written; `None`: the connection is broken.
    fn may_write(&self, bytes: &[u8]) -> Option<usize> {
        let mut plan = self.0.lock();
        if let FaultPlan::CutBody(body) = *plan
            && let Some(head) = bytes.windows(END.len()).position(|window| window == END)
        {
            *plan = FaultPlan::Left(head + END.len() + body);
        }
        match *plan {
            FaultPlan::Intact | FaultPlan::CutBody(_) => Some(bytes.len()),
            FaultPlan::Left(0) => None,
            FaultPlan::Left(left) => Some(left.min(bytes.len())),
        }
    }

    fn wrote(&self, bytes: usize) {
        if let FaultPlan::Left(left) = &mut *self.0.lock() {
            *left = left.saturating_sub(bytes);
        }
    }
}

/// Who is at the other end of a connection, and what will become of it.
#[derive(Debug, Clone)]
pub(super) struct FakeConnectInfo {
    pub(super) fate: ConnectionFault,
    pub(super) client: IpAddr,
}

impl<A: Api> Connected<IncomingStream<'_, FaultyListener<A>>> for FakeConnectInfo {
    fn connect_info(stream: IncomingStream<'_, FaultyListener<A>>) -> Self {
        Self { fate: stream.io().fate.clone(), client: stream.remote_addr().ip() }
    }
}

/// A stream that breaks when its fate says so.
pub(super) struct FaultyStream<S> {
    stream: S,
    fate: ConnectionFault,
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
        let Some(room) = self.fate.may_write(bytes) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        };
        let (shown, _) = bytes.split_at(room);
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, shown))?;
        self.fate.wrote(written);
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
const END: &[u8] = b"\r\n\r\n";
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// Between two failing accepts.
const PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_leaves_the_head_and_the_named_part_of_the_body() {
        let fate = ConnectionFault::default();
        let bytes = b"HTTP/1.1 200 OK\r\n\r\nbody";
        assert_eq!(fate.may_write(bytes), Some(23));
        fate.cut_after(2);
        assert_eq!(fate.may_write(bytes), Some(21));
        fate.wrote(20);
        assert_eq!(fate.may_write(b"dy"), Some(1));
        fate.wrote(1);
        assert_eq!(fate.may_write(b"y"), None);
    }

    #[test]
    fn a_closed_connection_writes_nothing() {
        let fate = ConnectionFault::default();
        fate.close();
        assert_eq!(fate.may_write(b"HTTP/1.1 200 OK\r\n\r\n"), None);
    }
}
