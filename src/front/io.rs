//! A client's connection: plain bytes, writes gathered so that a small answer is one packet.
//!
//! Owns: the socket and its write buffer; that a cut answer ends in a reset, never in a clean close.
//! Never touches: what the bytes mean.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A head and a small body fit; larger bodies are written straight through.
const WRITE_BUFFER: usize = 4 * 1024;

/// A client that takes nothing for this long is let go.
pub const STALLED: Duration = Duration::from_secs(60);

/// How far an answer got.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// Bytes of its body.
    pub bytes: u64,
    /// Whether all of it is on its way.
    pub whole: bool,
}

/// A client's connection.
#[derive(Debug)]
pub struct ClientIo {
    stream: BufWriter<TcpStream>,
    peer: SocketAddr,
    /// While true, dropping the connection resets it.
    answering: AtomicBool,
}

impl ClientIo {
    /// Takes over an accepted connection.
    pub fn new(stream: TcpStream, peer: SocketAddr) -> Self {
        Self {
            stream: BufWriter::with_capacity(WRITE_BUFFER, stream),
            peer,
            answering: AtomicBool::new(false),
        }
    }

    /// The client's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The socket, for waiting and reading; nothing may be left in the write buffer.
    pub fn socket(&mut self) -> &mut TcpStream {
        self.stream.get_mut()
    }

    /// From here until [`ClientIo::answered`], a drop is a reset: a client without framing (HTTP/1.0)
    /// must not take a cut answer for a whole one.
    pub fn answering(&self) {
        self.answering.store(true, Ordering::Relaxed);
    }

    /// The answer is complete.
    pub fn answered(&self) {
        self.answering.store(false, Ordering::Relaxed);
    }

    /// Sends a whole answer past the write buffer, in one piece where the socket takes it. A client
    /// that takes nothing for [`STALLED`] is given up.
    pub async fn send(&mut self, head: &[u8], body: &[u8]) -> Sent {
        let socket = self.stream.get_ref();
        let (all, mut done) = (head.len() + body.len(), 0);
        while done < all {
            let parts = [
                IoSlice::new(head.get(done..).unwrap_or_default()),
                IoSlice::new(body.get(done.saturating_sub(head.len())..).unwrap_or_default()),
            ];
            match socket.try_write_vectored(&parts) {
                Ok(0) => break,
                Ok(written) => done += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !timeout(STALLED, socket.writable()).await.is_ok_and(|ready| ready.is_ok()) {
                        break;
                    }
                }
                Err(_gone) => break,
            }
        }
        Sent { bytes: done.saturating_sub(head.len()) as u64, whole: done == all }
    }

    fn reset_on_close(&self) {
        // Best effort: a socket that is gone already needs no reset.
        let linger = SockRef::from(self.stream.get_ref()).set_linger(Some(Duration::ZERO));
        if let Err(error) = linger {
            tracing::trace!(%error, "Could not prepare a reset");
        }
    }
}

impl Drop for ClientIo {
    fn drop(&mut self) {
        if !self.stream.buffer().is_empty() {
            // An answer that was broken off: the client gets what there is, best effort, and sees
            // by its framing that it is cut.
            let _sent = self.stream.get_ref().try_write(self.stream.buffer());
        }
        if *self.answering.get_mut() {
            self.reset_on_close();
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = &mut self.get_mut().stream;
        // Whoever waits for the client has nothing more to gather for now: what was written so far
        // goes out, or a slow body would sit in the buffer until it is full.
        if !stream.buffer().is_empty()
            && let Poll::Ready(Err(error)) = Pin::new(&mut *stream).poll_flush(cx)
        {
            return Poll::Ready(Err(error));
        }
        Pin::new(stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[async_trait]
impl Shutdown for ClientIo {
    async fn shutdown(&mut self) {
        // pingora closes a connection in order only after a complete answer; everything else drops it.
        self.answered();
        // A failed shutdown means that the client is gone already.
        let _gone = self.stream.shutdown().await;
    }
}

impl UniqueID for ClientIo {
    fn id(&self) -> UniqueIDType {
        use std::os::fd::AsRawFd;
        self.stream.get_ref().as_raw_fd()
    }
}

impl Ssl for ClientIo {}

impl Peek for ClientIo {}

impl GetTimingDigest for ClientIo {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for ClientIo {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for ClientIo {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}
