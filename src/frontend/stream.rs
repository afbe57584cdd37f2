//! A client connection: plaintext or TLS, with buffered writes, so that a small response is one packet.
//!
//! Owns: the socket and its write buffer; a truncated response ends in a reset, never in a clean close.
//! Never touches: the meaning of the bytes.

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
use crate::upstream::connect::happy_eyeballs::enable_keep_alive;
use crate::upstream::connect::pinned::ClientPins;
use crate::upstream::in_flight_bytes::{InFlightBytes, STALLED_CLIENT_BYTES, StalledClient};

/// A head and a small body fit; larger bodies bypass the buffer.
const WRITE_BUFFER: usize = 4 * 1024;

/// A client that reads nothing for this long is disconnected.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the orderly close of a connection may take.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The result of writing a response.
#[derive(Debug, Clone, Copy)]
pub struct WriteResult {
    /// The number of body bytes that were written.
    pub bytes: u64,
    /// Whether the whole response was sent.
    pub whole: bool,
}

/// A client connection.
#[derive(Debug)]
pub struct ClientStream {
    stream: BufWriter<Transport>,
    peer: SocketAddr,
    /// While true, dropping the connection resets it.
    resets_on_drop: AtomicBool,
    /// Tracks the received frames, on HTTP/2.
    frames: Option<Box<FrameTracker>>,
    /// Whether the client offered HTTP/1 in the TLS handshake, whatever was negotiated.
    offers_http1: bool,
    /// Whether written data is not flushed yet: it may be in the buffer here, or in TLS below it.
    unflushed: bool,
    /// The origin connections on which this client has authenticated. Most clients have none.
    pins: Option<ClientPins>,
    /// Counts the bytes that all bodies in transit hold.
    in_flight: Arc<InFlightBytes>,
}

impl ClientStream {
    /// Takes over an accepted connection.
    pub fn new(stream: TcpStream, peer: SocketAddr, in_flight: Arc<InFlightBytes>) -> Self {
        Self {
            stream: BufWriter::with_capacity(WRITE_BUFFER, Transport::Plain(stream)),
            peer,
            resets_on_drop: AtomicBool::new(false),
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

    /// Counts the bytes that all bodies in transit hold.
    pub(super) fn in_flight(&self) -> &Arc<InFlightBytes> {
        &self.in_flight
    }

    /// The local address of the connection; `None`: the connection is gone.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.stream.get_ref().socket()?.local_addr().ok()
    }

    /// The transport without the write buffer, which must be empty, for forwarding bytes.
    pub fn transport(&mut self) -> &mut Transport {
        self.stream.get_mut()
    }

    /// Enables keep-alive probes: from now on both sides may be silent for long, and a client that
    /// vanished must be detected.
    pub fn keep_alive(&self) {
        if let Some(socket) = self.stream.get_ref().socket() {
            enable_keep_alive(socket);
        }
    }

    /// Waits for the next bytes and reads them into a buffer with this capacity; `None` if the client
    /// has closed.
    pub async fn first_bytes(&mut self, room: usize) -> Option<BytesMut> {
        self.stream.get_mut().first_bytes(room).await
    }

    /// The same connection inside TLS, once the handshake that `hello` began has completed. If the
    /// client rejects the handshake, the error contains its alert.
    pub async fn into_tls(mut self, hello: Accepted, config: Arc<ServerConfig>) -> io::Result<Self> {
        self.offers_http1 = offers_http1(&hello);
        self.stream.get_mut().start_tls(hello, config).await?;
        Ok(self)
    }

    /// Whether the client is on this host, by any of its addresses.
    pub(super) fn is_local(&self) -> bool {
        let peer = self.peer.ip().to_canonical();
        peer.is_loopback() || self.local().is_some_and(|ours| ours.ip().to_canonical() == peer)
    }

    /// The origin connections on which this client has authenticated, if any.
    pub(super) fn pins(&self) -> Option<&ClientPins> {
        self.pins.as_ref()
    }

    /// Like [`ClientStream::pins`], but creates an empty set if there is none.
    pub(super) fn ensure_pins(&mut self) -> &ClientPins {
        self.pins.get_or_insert_default()
    }

    /// Whether the client has closed, as far as this is visible without reading.
    pub(super) fn has_closed(&self) -> bool {
        let Some(socket) = self.stream.get_ref().socket() else { return true };
        let ready = std::pin::pin!(socket.ready(Interest::READABLE));
        match ready.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(ready)) => ready.is_read_closed(),
            Poll::Ready(Err(_gone)) => true,
            Poll::Pending => false,
        }
    }

    /// Closes an idle connection. Inside TLS it sends `close_notify`: without that, an attacker could
    /// have cut the connection.
    pub async fn close(mut self) {
        if self.stream.get_ref().is_secure() {
            // The result does not matter: the client may be gone.
            let _closed = timeout(CLOSE_TIMEOUT, self.stream.shutdown()).await;
        }
    }

    /// Whether the handshake negotiated HTTP/2.
    pub fn negotiated_h2(&self) -> bool {
        self.stream.get_ref().alpn() == Some(b"h2")
    }

    /// Whether the client also supports HTTP/1 inside TLS.
    pub fn offered_http1(&self) -> bool {
        self.offers_http1
    }

    /// Tracks HTTP/2 frames from now on. The receiver reports whether a head has begun and not ended;
    /// `shared` counts the received body bytes.
    pub fn watch_frames(&mut self, shared: SharedConnection) -> watch::Receiver<bool> {
        let (frames, inside) = FrameTracker::new(shared);
        self.frames = Some(Box::new(frames));
        inside
    }

    /// From now until [`ClientStream::disarm_reset`], dropping the connection resets it: a client
    /// without framing (HTTP/1.0) must not take a truncated response for a complete one.
    pub fn arm_reset(&self) {
        self.resets_on_drop.store(true, Ordering::Relaxed);
    }

    /// Ends the effect of [`ClientStream::arm_reset`], because the response is complete.
    pub fn disarm_reset(&self) {
        self.resets_on_drop.store(false, Ordering::Relaxed);
    }

    /// Sends a whole response without the write buffer, in one piece if the socket accepts it. Sending
    /// stops if the client reads nothing for [`STALL_TIMEOUT`], or too little while memory is short.
    pub async fn send(&mut self, head: &[u8], body: &[u8]) -> WriteResult {
        let transport = self.stream.get_mut();
        let (all, mut done) = (head.len() + body.len(), 0);
        // Most clients accept the whole response at once.
        let mut stall = None;
        while done < all {
            let parts = [
                IoSlice::new(head.get(done..).unwrap_or_default()),
                IoSlice::new(body.get(done.saturating_sub(head.len())..).unwrap_or_default()),
            ];
            let written = poll_fn(|cx| match Pin::new(&mut *transport).poll_write_vectored(cx, &parts) {
                Poll::Ready(written) => Poll::Ready(written.unwrap_or(0)),
                Poll::Pending => {
                    let stall = stall.get_or_insert_with(|| {
                        let mut stall = Stall::new(&self.in_flight);
                        stall.set_piece(body.len());
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
                stall.record_read(written);
            }
        }
        let whole = done == all && with_stall_timeout(&self.in_flight, transport.flush()).await.is_ok();
        WriteResult { bytes: done.saturating_sub(head.len()) as u64, whole }
    }

    /// Reports the result of a write to the HTTP/2 streams.
    fn report_write<T>(&self, written: &Poll<io::Result<T>>, bytes: impl Fn(&T) -> usize) {
        let Some(frames) = &self.frames else { return };
        frames.shared().set_write_blocked(written.is_pending());
        if let Poll::Ready(Ok(taken)) = written {
            frames.shared().record_written(bytes(taken));
        }
    }

    fn reset_on_close(&self) {
        // Best effort: a socket that is gone needs no reset.
        let Some(socket) = self.stream.get_ref().socket() else { return };
        if let Err(error) = SockRef::from(socket).set_linger(Some(Duration::ZERO)) {
            tracing::trace!(%error, "Could not prepare a reset");
        }
    }
}

/// Whether a client with this `ClientHello` supports HTTP/1.
pub(super) fn offers_http1(hello: &Accepted) -> bool {
    hello.client_hello().alpn().is_none_or(|mut offered| offered.any(|name| name == b"http/1.1"))
}

/// Waits for a client for at most [`STALL_TIMEOUT`]. Most clients accept the data at once: no timer is
/// created for them.
pub(super) async fn with_stall_timeout<T>(
    in_flight: &InFlightBytes,
    taken: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let mut taken = std::pin::pin!(taken);
    if let Poll::Ready(taken) = poll_once(&mut taken).await {
        return taken;
    }
    let late = || Err(io::ErrorKind::TimedOut.into());
    let client = StalledClient { counted: STALLED_CLIENT_BYTES, body_bytes: 0 };
    in_flight.with_stall_timeout(client, None, STALL_TIMEOUT, taken).await.unwrap_or_else(late)
}

/// The result of `work`; `None`: it did not complete within this time. Work that completes at once
/// needs no timer.
pub(super) async fn within<T>(time: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    match poll_once(&mut work).await {
        Poll::Ready(done) => Some(done),
        Poll::Pending => timeout(time, work).await.ok(),
    }
}

async fn poll_once<T>(work: &mut Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        if !self.stream.buffer().is_empty() {
            // The response was aborted: the client gets the buffered part, best effort, and detects by
            // the framing that the response is truncated.
            let mut now = Context::from_waker(Waker::noop());
            let _sent = Pin::new(&mut self.stream).poll_flush(&mut now);
        }
        if *self.resets_on_drop.get_mut() {
            self.reset_on_close();
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // A caller that reads has nothing more to write for now. Data that was written so far is
        // flushed; otherwise a slow body would stay in the buffer until it is full.
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
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.unflushed = true;
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.report_write(&written, |taken| *taken);
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.frames.as_ref().is_some_and(|frames| frames.shared().are_writes_held()) {
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.unflushed &= flushed.is_pending();
        this.report_write(&flushed, |()| 0);
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
        this.report_write(&written, |taken| *taken);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests;
