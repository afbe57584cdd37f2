//! A client's connection: bytes in the clear or inside TLS, writes gathered so that a small answer is
//! one packet.
//!
//! Owns: the socket and its write buffer; that a cut answer ends in a reset, never in a clean close.
//! Never touches: what the bytes mean.

mod h2_frames;
pub(in crate::frontend) mod stall;
mod transport;

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use rustls::ServerConfig;
use rustls::server::Accepted;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::frontend::shared_connection::SharedConnection;
use crate::frontend::stream::h2_frames::FrameTracker;
use crate::frontend::stream::stall::Stall;
pub use crate::frontend::stream::transport::Transport;
use crate::upstream::in_flight_bytes::InFlightBytes;
use crate::upstream::keep_alive;
use crate::upstream::pinned_connections::ClientPins;

/// A head and a small body fit; larger bodies are written straight through.
const WRITE_BUFFER: usize = 4 * 1024;

/// A client that takes nothing for this long is let go.
pub const STALLED: Duration = Duration::from_secs(60);

/// How long the end of a connection may take to be said.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);

/// How far an answer got.
#[derive(Debug, Clone, Copy)]
pub struct WriteResult {
    /// Bytes of its body.
    pub bytes: u64,
    /// Whether all of it is on its way.
    pub whole: bool,
}

/// A client's connection.
#[derive(Debug)]
pub struct ClientStream {
    stream: BufWriter<Transport>,
    peer: SocketAddr,
    /// While true, dropping the connection resets it.
    answering: AtomicBool,
    /// Follows what is read, where that is HTTP/2.
    frames: Option<Box<FrameTracker>>,
    /// The client has offered HTTP/1 inside TLS, whatever was agreed on.
    offers_http1: bool,
    /// Something was written and not flushed: it may be in the buffer here, or in TLS below it.
    unflushed: bool,
    /// The connections to origins on which this client has signed in. Most have none.
    pins: Option<ClientPins>,
    /// What all bodies on their way hold.
    in_flight: Arc<InFlightBytes>,
}

impl ClientStream {
    /// Takes over an accepted connection.
    pub fn new(stream: TcpStream, peer: SocketAddr, in_flight: Arc<InFlightBytes>) -> Self {
        Self {
            stream: BufWriter::with_capacity(WRITE_BUFFER, Transport::Plain(stream)),
            peer,
            answering: AtomicBool::new(false),
            frames: None,
            offers_http1: false,
            unflushed: false,
            pins: None,
            in_flight,
        }
    }

    /// The client's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// What all bodies on their way hold.
    pub(super) fn in_flight(&self) -> &Arc<InFlightBytes> {
        &self.in_flight
    }

    /// Larder's own address, as the client reached it; `None`: the connection is gone.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.stream.get_ref().socket()?.local_addr().ok()
    }

    /// The bytes on their own, for passing them on; nothing may be left in the write buffer.
    pub fn transport(&mut self) -> &mut Transport {
        self.stream.get_mut()
    }

    /// From here on both sides may be silent for long: a client that has gone without a word must be
    /// found out.
    pub fn keep_alive(&self) {
        if let Some(socket) = self.stream.get_ref().socket() {
            keep_alive::probe(socket);
        }
    }

    /// Waits for the first bytes of what comes next, into a buffer with this much room; `None` when
    /// the client has closed.
    pub async fn first_bytes(&mut self, room: usize) -> Option<BytesMut> {
        self.stream.get_mut().first_bytes(room).await
    }

    /// The same connection inside TLS, once the handshake that `hello` began is done. A client that
    /// does not like what it sees says so in the error.
    pub async fn secured(mut self, hello: Accepted, config: Arc<ServerConfig>) -> io::Result<Self> {
        self.offers_http1 = offers_http1(&hello);
        self.stream.get_mut().secure(hello, config).await?;
        Ok(self)
    }

    /// Whether the client is on this host, by whichever of its addresses.
    pub(super) fn is_local(&self) -> bool {
        let peer = self.peer.ip().to_canonical();
        peer.is_loopback() || self.local().is_some_and(|ours| ours.ip().to_canonical() == peer)
    }

    /// The connections to origins on which this client has signed in, if it ever has.
    pub(super) fn pins(&self) -> Option<&ClientPins> {
        self.pins.as_ref()
    }

    /// A place for them.
    pub(super) fn pins_to_be(&mut self) -> &ClientPins {
        self.pins.get_or_insert_default()
    }

    /// Whether the client has closed, as far as that shows without reading on.
    pub(super) fn has_closed(&self) -> bool {
        let Some(socket) = self.stream.get_ref().socket() else { return true };
        let ready = std::pin::pin!(socket.ready(Interest::READABLE));
        match ready.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(ready)) => ready.is_read_closed(),
            Poll::Ready(Err(_gone)) => true,
            Poll::Pending => false,
        }
    }

    /// Ends a connection on which nothing is open. Inside TLS the end is said: what is just cut off
    /// there could have been cut by anybody.
    pub async fn close(mut self) {
        if self.stream.get_ref().is_secure() {
            // A client that is gone has not waited for it.
            let _said = timeout(FAREWELL, self.stream.shutdown()).await;
        }
    }

    /// Whether HTTP/2 was agreed on in the handshake.
    pub fn speaks_h2(&self) -> bool {
        self.stream.get_ref().alpn() == Some(b"h2")
    }

    /// Whether the client speaks HTTP/1 inside TLS, too.
    pub fn speaks_http1_too(&self) -> bool {
        self.offers_http1
    }

    /// Follows the frames of HTTP/2 from here on: whether the client is in the middle of a head. `siblings`
    /// learn what comes of bodies.
    pub fn watch_frames(&mut self, siblings: SharedConnection) -> watch::Receiver<bool> {
        let (frames, inside) = FrameTracker::new(siblings);
        self.frames = Some(Box::new(frames));
        inside
    }

    /// From here until [`ClientStream::answered`], a drop is a reset: a client without framing (HTTP/1.0)
    /// must not take a cut answer for a whole one.
    pub fn answering(&self) {
        self.answering.store(true, Ordering::Relaxed);
    }

    /// The answer is complete.
    pub fn answered(&self) {
        self.answering.store(false, Ordering::Relaxed);
    }

    /// Sends a whole answer past the write buffer, in one piece where the socket takes it. A client
    /// that takes nothing for [`STALLED`], or little where memory is short, is given up.
    pub async fn send(&mut self, head: &[u8], body: &[u8]) -> WriteResult {
        let transport = self.stream.get_mut();
        let (all, mut done) = (head.len() + body.len(), 0);
        // Most take all of it at once.
        let mut stall = None;
        while done < all {
            let parts = [
                IoSlice::new(head.get(done..).unwrap_or_default()),
                IoSlice::new(body.get(done.saturating_sub(head.len())..).unwrap_or_default()),
            ];
            let written =
                poll_fn(|cx| match Pin::new(&mut *transport).poll_write_vectored(cx, &parts) {
                    Poll::Ready(written) => Poll::Ready(written.unwrap_or(0)),
                    Poll::Pending => {
                        let stall = stall.get_or_insert_with(|| {
                            let mut stall = Stall::new(&self.in_flight);
                            stall.holds(body.len());
                            stall
                        });
                        stall.poll(cx).map(|()| 0)
                    }
                });
            let written = written.await;
            if written == 0 {
                break;
            }
            done += written;
            if let Some(stall) = &mut stall {
                stall.moved(written);
            }
        }
        let whole = done == all && patiently(&self.in_flight, transport.flush()).await.is_ok();
        WriteResult { bytes: done.saturating_sub(head.len()) as u64, whole }
    }

    /// Tells the streams of HTTP/2 what has come of writing.
    fn wrote<T>(&self, written: &Poll<io::Result<T>>, bytes: impl Fn(&T) -> usize) {
        let Some(frames) = &self.frames else { return };
        frames.siblings().clogs(written.is_pending());
        if let Poll::Ready(Ok(taken)) = written {
            frames.siblings().wrote(bytes(taken));
        }
    }

    fn reset_on_close(&self) {
        // Best effort: a socket that is gone already needs no reset.
        let Some(socket) = self.stream.get_ref().socket() else { return };
        if let Err(error) = SockRef::from(socket).set_linger(Some(Duration::ZERO)) {
            tracing::trace!(%error, "Could not prepare a reset");
        }
    }
}

/// Whether a client that says `hello` can be answered in HTTP/1.
pub(super) fn offers_http1(hello: &Accepted) -> bool {
    hello.client_hello().alpn().is_none_or(|mut offered| offered.any(|name| name == b"http/1.1"))
}

/// Waits for a client for [`STALLED`] at most. Most take what they are given at once: for those no
/// timer is made.
pub(super) async fn patiently<T>(
    in_flight: &InFlightBytes,
    taken: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let mut taken = std::pin::pin!(taken);
    if let Poll::Ready(taken) = at_once(&mut taken).await {
        return taken;
    }
    let late = || Err(io::ErrorKind::TimedOut.into());
    in_flight.patiently(STALLED, taken).await.unwrap_or_else(late)
}

/// What `work` comes to; `None`: not within this time. What is done at once needs no timer.
pub(super) async fn within<T>(time: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    match at_once(&mut work).await {
        Poll::Ready(done) => Some(done),
        Poll::Pending => timeout(time, work).await.ok(),
    }
}

async fn at_once<T>(work: &mut Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        if !self.stream.buffer().is_empty() {
            // An answer that was broken off: the client gets what there is, best effort, and sees
            // by its framing that it is cut.
            let mut now = Context::from_waker(Waker::noop());
            let _sent = Pin::new(&mut self.stream).poll_flush(&mut now);
        }
        if *self.answering.get_mut() {
            self.reset_on_close();
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Whoever waits for the client has nothing more to gather for now: what was written so far
        // goes out, or a slow body would sit in the buffer until it is full.
        if this.unflushed
            && let Poll::Ready(Err(error)) = Pin::new(&mut *this).poll_flush(cx)
        {
            return Poll::Ready(Err(error));
        }
        let Self { stream, frames, .. } = this;
        let before = buf.filled().len();
        let read = Pin::new(stream).poll_read(cx, buf);
        if let Some(frames) = frames {
            frames.read(buf.filled().get(before..).unwrap_or_default());
        }
        read
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.unflushed = true;
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.wrote(&written, |taken| *taken);
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.frames.as_ref().is_some_and(|frames| frames.siblings().is_kept_back()) {
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.unflushed &= flushed.is_pending();
        this.wrote(&flushed, |()| 0);
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.unflushed = true;
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.wrote(&written, |taken| *taken);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests;
