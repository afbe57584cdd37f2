//! A connection that is closed if the client takes too long.
//!
//! Owns: the deadlines of an admin connection. A request must begin soon after the connection, and must
//! be complete soon after its first byte, even if its bytes arrive slowly (slowloris). The client must
//! then read the response and begin the next request in time. A connection whose slot was taken away
//! ends at once. Never touches: the meaning of the bytes.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::admin::connection_slots::{ConnectionSlot, Phase};

/// A stream with a deadline that restarts at each change of direction, not at each byte.
pub(super) struct DeadlineStream<S> {
    stream: S,
    direction: Direction,
    deadline: Pin<Box<Sleep>>,
    pub(super) slot: ConnectionSlot,
}

/// The side that is sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// Nothing has been received yet.
    Connected,
    /// A request is being received.
    Receiving,
    /// A response is being sent, or the next request is awaited.
    Sending,
}

impl<S> DeadlineStream<S> {
    pub(super) fn new(stream: S, slot: ConnectionSlot) -> Self {
        let deadline = Box::pin(tokio::time::sleep(Direction::Connected.timeout()));
        Self { stream, direction: Direction::Connected, deadline, slot }
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.slot.is_evicted(context) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match self.deadline.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }

    fn set_direction(&mut self, direction: Direction, phase: Phase) {
        if self.direction != direction {
            self.direction = direction;
            // A new timer instead of `reset`, which needs the current time.
            self.deadline.set(tokio::time::sleep(direction.timeout()));
        }
        self.slot.set_phase(phase);
    }
}

impl Direction {
    fn timeout(self) -> Duration {
        match self {
            // Clients send their request at once.
            Self::Connected => Duration::from_secs(5),
            Self::Receiving => Duration::from_secs(10),
            Self::Sending => Duration::from_secs(75),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for DeadlineStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(context, buffer) {
            read?;
            if buffer.filled().len() > before {
                self.set_direction(Direction::Receiving, Phase::Receiving);
            }
            // Checked here too, as a stream that always has a byte ready is never pending.
            return Poll::Ready(self.check(context));
        }
        self.check(context)?;
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for DeadlineStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.set_direction(Direction::Sending, Phase::Sending);
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        if self.direction == Direction::Sending {
            self.slot.set_phase(Phase::Idle);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::admin::connection_slots::{ClientKind, ConnectionSlots};

    fn pair() -> (DeadlineStream<DuplexStream>, DuplexStream) {
        let (ours, theirs) = duplex(64);
        let slot = Arc::new(ConnectionSlots::default()).try_acquire(ClientKind::Local).unwrap();
        (DeadlineStream::new(ours, slot), theirs)
    }

    /// Reads until the connection ends; returns the number of bytes and the error.
    async fn read_all(mut server: DeadlineStream<DuplexStream>) -> (usize, Option<io::ErrorKind>) {
        let mut buffer = [0; 8];
        let mut total = 0;
        loop {
            match server.read(&mut buffer).await {
                Ok(0) => return (total, None),
                Ok(read) => total += read,
                Err(error) => return (total, Some(error.kind())),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_arrives_too_slowly_ends_the_connection() {
        let (server, mut client) = pair();
        let reader = tokio::spawn(read_all(server));
        while client.write_all(b"G").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let (read, error) = reader.await.unwrap();
        assert_eq!(error, Some(io::ErrorKind::TimedOut));
        assert!((9..=12).contains(&read), "{read} bytes in ten seconds, one a second");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_times_out() {
        let (server, _client) = pair();
        let result = tokio::time::timeout(Duration::from_secs(6), read_all(server)).await;
        assert_eq!(result, Ok((0, Some(io::ErrorKind::TimedOut))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_the_client_does_not_read_times_out() {
        let (mut server, _client) = pair();
        let error = server.write_all(&[0; 1024]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_scrape_a_minute_keeps_its_connection() {
        let (mut server, mut client) = pair();
        for _ in 0..5 {
            client.write_all(b"GET").await.unwrap();
            server.read_exact(&mut [0; 3]).await.unwrap();
            server.write_all(b"200").await.unwrap();
            client.read_exact(&mut [0; 3]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    }
}
