//! The transport of a connection: plain TCP, or TLS over TCP.
//!
//! Owns: the switch from one to the other. Never touches: certificates; the decision to switch
//! (`interception`).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use rustls::ServerConfig;
use rustls::server::Accepted;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::{StartHandshake, TlsStream};

/// Plain TCP, or TLS over TCP.
#[derive(Debug)]
pub enum Transport {
    /// Plaintext.
    Plain(TcpStream),
    /// TLS that larder terminates.
    Tls(Box<TlsStream<TcpStream>>),
    /// A handshake took the socket and failed.
    Gone,
}

impl Transport {
    /// The underlying socket; `None` when it is gone.
    pub(super) fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(tcp) => Some(tcp),
            Self::Tls(tls) => Some(tls.get_ref().0),
            Self::Gone => None,
        }
    }

    /// Whether the transport is TLS.
    pub(super) fn is_secure(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// The protocol that the handshake negotiated (ALPN).
    pub(super) fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Tls(tls) => tls.get_ref().1.alpn_protocol(),
            Self::Plain(_) | Self::Gone => None,
        }
    }

    /// Continues the handshake that the client began with `hello`.
    pub(super) async fn start_tls(&mut self, hello: Accepted, config: Arc<ServerConfig>) -> io::Result<()> {
        let Self::Plain(tcp) = std::mem::replace(self, Self::Gone) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let tls = StartHandshake::from_parts(hello, tcp).into_stream(config).await?;
        *self = Self::Tls(Box::new(tls));
        Ok(())
    }

    /// Waits for bytes without allocating a buffer, then reads them into one with this capacity.
    /// `None`: the connection has ended.
    pub(super) async fn first_bytes(&mut self, capacity: usize) -> Option<BytesMut> {
        match self {
            Self::Plain(tcp) => loop {
                tcp.readable().await.ok()?;
                let mut bytes = BytesMut::with_capacity(capacity);
                // A socket may be reported as readable in error: only a read shows that a head has begun.
                match tcp.try_read_buf(&mut bytes) {
                    Ok(0) => return None,
                    Ok(_) => return Some(bytes),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_gone) => return None,
                }
            },
            Self::Tls(tls) => {
                let received = tls.fill_buf().await.ok().filter(|received| !received.is_empty())?;
                let mut bytes = BytesMut::with_capacity(capacity.max(received.len()));
                bytes.extend_from_slice(received);
                let taken = received.len();
                tls.consume(taken);
                Some(bytes)
            }
            Self::Gone => None,
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
            Self::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
            Self::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }
}
