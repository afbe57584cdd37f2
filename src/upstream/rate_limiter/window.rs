//! A configured limit: so many calls in any stretch of a length.
//!
//! Owns: when the next call may go out, and whether a call must be on disk before it does. Pure: the time
//! is an argument. Never touches: the disk (`gate::durable`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::policy::upstream::Rate;

/// Windows of this length and more outlive the process.
const LONG: Duration = Duration::from_secs(60);

/// A long window remembers its calls in so many pieces at most, and so large a share of it may go out
/// between one write and the next.
const PIECES: u32 = 64;

/// So many calls in any stretch of a length, counted at the instants at which they go out.
#[derive(Debug)]
pub(in crate::upstream) struct SlidingWindow {
    rate: Rate,
    sent: VecDeque<CallBurst>,
    /// The calls of all pieces.
    calls: u64,
    /// How many went out since the window was made: the number of the last one.
    number: u64,
    /// The calls covered by the row that is being written, and by the one on disk.
    written: Option<ReservedCalls>,
    covered: Option<ReservedCalls>,
}

/// Calls that went out one soon after the other; they count until the last of them is old enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CallBurst {
    first: Instant,
    last: Instant,
    calls: u64,
}

/// Which calls a row counts as gone out, before they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ReservedCalls {
    /// Up to this number …
    number: u64,
    /// … and before this time.
    until: Instant,
}

/// Whether a row has to be written because a call goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream) enum Write {
    /// No.
    No,
    /// The row on disk counts the call already; another is due before long.
    Soon,
    /// The call goes out after the row that counts it has reached the disk.
    First,
}

/// A window as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::upstream) struct Kept {
    /// The rate that the calls went out under.
    pub(in crate::upstream) rate: Rate,
    /// How long ago calls went out, and how many.
    pub(in crate::upstream) sent: Vec<(Duration, u64)>,
    /// Calls that may go out from now on without another row.
    pub(in crate::upstream) ahead: u64,
}

impl SlidingWindow {
    /// A window in which nothing went out yet.
    pub(in crate::upstream) fn new(rate: Rate) -> Self {
        let sent = VecDeque::new();
        Self { rate, sent, calls: 0, number: 0, written: None, covered: None }
    }

    /// The rate it keeps to.
    pub(in crate::upstream) fn rate(&self) -> Rate {
        self.rate
    }

    /// How long until a call may go out; zero: now.
    pub(in crate::upstream) fn wait(&mut self, now: Instant) -> Duration {
        self.forget(now);
        let Some(over) = self.calls.checked_sub(u64::from(self.rate.count)) else {
            return Duration::ZERO;
        };
        let mut forgotten = 0;
        let enough = self.sent.iter().find(|piece| {
            forgotten += piece.calls;
            forgotten > over
        });
        let last = enough.map_or(now, |piece| piece.last);
        self.rate.per.saturating_sub(now.saturating_duration_since(last))
    }

    /// A call goes out.
    pub(in crate::upstream) fn send(&mut self, now: Instant) -> Write {
        self.calls += 1;
        self.number += 1;
        let piece = self.piece();
        match self.sent.back_mut() {
            Some(one) if now.saturating_duration_since(one.first) < piece => {
                (one.last, one.calls) = (now, one.calls + 1);
            }
            Some(_) | None => self.sent.push_back(CallBurst { first: now, last: now, calls: 1 }),
        }
        self.write(now)
    }

    /// When the last call went out.
    pub(in crate::upstream) fn last(&self) -> Option<Instant> {
        self.sent.back().map(|piece| piece.last)
    }

    /// Whether as many count as may, as far as was looked.
    pub(in crate::upstream) fn is_full(&self) -> bool {
        self.calls >= u64::from(self.rate.count)
    }

    /// How many may go out now.
    pub(in crate::upstream) fn left(&mut self, now: Instant) -> usize {
        self.forget(now);
        let left = u64::from(self.rate.count).saturating_sub(self.calls);
        usize::try_from(left).unwrap_or(usize::MAX)
    }

    /// Another rate, from a reload or a restart: the calls that went out count under it too.
    pub(in crate::upstream) fn keep_to(&mut self, rate: Rate) {
        if self.rate != rate {
            self.rate = rate;
            // Under the old rate, as the rows say.
            (self.written, self.covered) = (None, None);
        }
    }

    /// Whether it is to outlive the process.
    pub(in crate::upstream) fn is_long(&self) -> bool {
        self.rate.per >= LONG
    }

    /// Whether no call counts any more.
    pub(in crate::upstream) fn is_over(&self, now: Instant) -> bool {
        let last = self.sent.back().map(|piece| piece.last);
        last.is_none_or(|last| now.saturating_duration_since(last) >= self.rate.per)
    }

    /// The window as it is kept; `None`: no call counts any more. `last`: no row follows, so that no call
    /// is counted ahead.
    pub(in crate::upstream) fn kept(&mut self, last: bool, now: Instant) -> Option<Kept> {
        self.forget(now);
        if self.sent.is_empty() || !self.is_long() {
            return None;
        }
        // Nor is anything counted ahead before the first call: a larder that starts again and again
        // uses nothing up.
        let ahead = if last || self.number == 0 { 0 } else { self.ahead() };
        self.written = now
            .checked_add(self.piece())
            .filter(|_| ahead > 0)
            .map(|until| ReservedCalls { number: self.number + ahead, until });
        let age = |piece: &CallBurst| (now.saturating_duration_since(piece.last), piece.calls);
        Some(Kept { rate: self.rate, sent: self.sent.iter().map(age).collect(), ahead })
    }

    /// The row of [`SlidingWindow::kept`] is on disk.
    pub(in crate::upstream) fn flushed(&mut self) {
        self.covered = self.written.take().or(self.covered);
    }

    /// Adds the calls that an earlier larder has let out.
    pub(in crate::upstream) fn adopt(&mut self, kept: &Kept, now: Instant) {
        for (age, calls) in kept.sent.iter().copied().filter(|(age, _)| *age < self.rate.per) {
            let at = now.checked_sub(age).unwrap_or(now);
            self.sent.push_back(CallBurst { first: at, last: at, calls });
            self.calls = self.calls.saturating_add(calls);
        }
        self.sent.make_contiguous().sort_by_key(|piece| piece.last);
    }

    fn forget(&mut self, now: Instant) {
        let per = self.rate.per;
        while let Some(first) = self.sent.front()
            && now.saturating_duration_since(first.last) >= per
        {
            self.calls = self.calls.saturating_sub(first.calls);
            self.sent.pop_front();
        }
    }

    /// How long a piece lasts: no time where each call can be remembered, or need not be for long.
    fn piece(&self) -> Duration {
        if self.has_pieces() { piece(self.rate) } else { Duration::ZERO }
    }

    /// How many calls a row counts ahead, so that not each of them waits for the disk.
    fn ahead(&self) -> u64 {
        u64::from(if self.has_pieces() { self.rate.count / PIECES } else { 0 })
    }

    fn has_pieces(&self) -> bool {
        self.is_long() && self.rate.count > PIECES
    }

    fn write(&self, now: Instant) -> Write {
        if !self.is_long() {
            return Write::No;
        }
        match self.covered {
            Some(ReservedCalls { number, until }) if self.number <= number && now < until => {
                let half = self.number + self.ahead() / 2 > number;
                if half { Write::Soon } else { Write::No }
            }
            Some(_) | None => Write::First,
        }
    }
}

impl Kept {
    /// The same after so much time, and after a crash: which of the calls that were counted ahead went
    /// out is not known, so all of them did, as late as they may have.
    pub(in crate::upstream) fn aged(mut self, by: Duration) -> Self {
        for (age, _) in &mut self.sent {
            *age = age.saturating_add(by);
        }
        if self.ahead > 0 {
            self.sent.push((by.saturating_sub(piece(self.rate)), std::mem::take(&mut self.ahead)));
        }
        self
    }
}

fn piece(rate: Rate) -> Duration {
    rate.per / PIECES
}
