//! A connection that is closed when the other side takes too long.
//!
//! Owns: the deadlines of an admin connection: a request begins soon after the connection, and is here
//! soon after its first byte, however slowly the bytes drip (slowloris); an answer is taken, or the next
//! request begins, soon after. A connection whose place has become another's is over at once.
//! Never touches: what the bytes mean.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::admin::connection_slots::{ConnectionSlot, Phase, SlotIndex};

/// A stream under a deadline that is set anew by each change of direction, not by each byte.
pub(super) struct DeadlineStream<S> {
    stream: S,
    turn: Direction,
    deadline: Pin<Box<Sleep>>,
    place: ConnectionSlot,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// Nothing has come yet.
    Silent,
    /// A request is being received.
    Theirs,
    /// An answer is being sent, or nothing has begun since.
    Ours,
}

impl<S> DeadlineStream<S> {
    pub(super) fn new(stream: S, place: ConnectionSlot) -> Self {
        let deadline = Box::pin(tokio::time::sleep(Direction::Silent.patience()));
        Self { stream, turn: Direction::Silent, deadline, place }
    }

    /// Its place, for who handles its requests.
    pub(super) fn seat(&self) -> SlotIndex {
        self.place.seat()
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.place.is_lost(context) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match self.deadline.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }

    fn turn_to(&mut self, turn: Direction, phase: Phase) {
        if self.turn != turn {
            self.turn = turn;
            // A fresh timer rather than a reset one: `reset` would have to ask for the time.
            self.deadline.set(tokio::time::sleep(turn.patience()));
        }
        self.place.turn_to(phase);
    }
}

impl Direction {
    fn patience(self) -> Duration {
        match self {
            // A client says at once what it came for.
            Self::Silent => Duration::from_secs(5),
            Self::Theirs => Duration::from_secs(10),
            Self::Ours => Duration::from_secs(75),
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
                self.turn_to(Direction::Theirs, Phase::Receiving);
            }
            // Checked here too: a byte that is always ready would never be pending.
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
        self.turn_to(Direction::Ours, Phase::Sending);
        self.check(context)?;
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        if self.turn == Direction::Ours {
            self.place.turn_to(Phase::Idle);
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
        let place = Arc::new(ConnectionSlots::default()).take(ClientKind::Local).unwrap();
        (DeadlineStream::new(ours, place), theirs)
    }

    /// Reads until the other side is given up, and says why and after how many bytes.
    async fn read_all(mut patient: DeadlineStream<DuplexStream>) -> (usize, Option<io::ErrorKind>) {
        let mut buffer = [0; 8];
        let mut total = 0;
        loop {
            match patient.read(&mut buffer).await {
                Ok(0) => return (total, None),
                Ok(read) => total += read,
                Err(error) => return (total, Some(error.kind())),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_drips_is_given_up_however_many_bytes_come() {
        let (patient, mut client) = pair();
        let reader = tokio::spawn(read_all(patient));
        while client.write_all(b"G").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let (read, error) = reader.await.unwrap();
        assert_eq!(error, Some(io::ErrorKind::TimedOut));
        assert!((9..=12).contains(&read), "{read} bytes in ten seconds, one a second");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_nothing_begins_is_given_up() {
        let (patient, _client) = pair();
        let given_up = tokio::time::timeout(Duration::from_secs(6), read_all(patient)).await;
        assert_eq!(given_up, Ok((0, Some(io::ErrorKind::TimedOut))));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_takes_is_given_up() {
        let (mut patient, _client) = pair();
        let error = patient.write_all(&[0; 1024]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_scrape_a_minute_keeps_its_connection() {
        let (mut patient, mut client) = pair();
        for _ in 0..5 {
            client.write_all(b"GET").await.unwrap();
            patient.read_exact(&mut [0; 3]).await.unwrap();
            patient.write_all(b"200").await.unwrap();
            client.read_exact(&mut [0; 3]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    }
}
