//! A configured limit: a sliding window with a maximum number of calls.
//!
//! Owns: when the next call may go out, and whether a call must be on disk first. Pure: time is an argument.
//! Never touches: the disk (`persistence`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::policy::upstream::Rate;

/// Windows of at least this length are stored across restarts.
const MIN_STORED_LENGTH: Duration = Duration::from_secs(60);

/// A long window groups its calls into at most about this many pieces, and one in this many of its calls may
/// go out between two writes.
const PIECES: u32 = 64;

/// At most so many calls in any time of a given length, counted when they go out.
#[derive(Debug)]
pub(in crate::upstream) struct SlidingWindow {
    rate: Rate,
    sent: VecDeque<CallBurst>,
    /// The calls of all pieces.
    calls: u64,
    /// The number of the last call, counted from the creation of the window.
    number: u64,
    /// The calls covered by the row that is being written, and by the row on disk.
    pending_row: Option<ReservedCalls>,
    stored_row: Option<ReservedCalls>,
}

/// Calls that went out shortly after each other. They count until the last of them expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CallBurst {
    first: Instant,
    last: Instant,
    calls: u64,
}

/// The calls that a row counts before they go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ReservedCalls {
    /// Up to this call number …
    number: u64,
    /// … and before this time.
    until: Instant,
}

/// Whether a call requires a write of the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream) enum Write {
    /// No write.
    No,
    /// The row on disk already counts the call; another write is due soon.
    Soon,
    /// The row that counts the call must be on disk before the call goes out.
    First,
}

/// A stored window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::upstream) struct SavedWindow {
    /// The rate under which the calls went out.
    pub(in crate::upstream) rate: Rate,
    /// The age and number of the calls that went out.
    pub(in crate::upstream) sent: Vec<(Duration, u64)>,
    /// Calls that may go out from now on without another write.
    pub(in crate::upstream) ahead: u64,
}

impl SlidingWindow {
    /// A window without calls.
    pub(in crate::upstream) fn new(rate: Rate) -> Self {
        let sent = VecDeque::new();
        Self { rate, sent, calls: 0, number: 0, pending_row: None, stored_row: None }
    }

    /// The rate of the window.
    pub(in crate::upstream) fn rate(&self) -> Rate {
        self.rate
    }

    /// How long until a call may go out. Zero: now.
    pub(in crate::upstream) fn wait(&mut self, now: Instant) -> Duration {
        self.expire(now);
        let Some(excess) = self.calls.checked_sub(u64::from(self.rate.count)) else {
            return Duration::ZERO;
        };
        let mut expired = 0;
        let enough = self.sent.iter().find(|piece| {
            expired += piece.calls;
            expired > excess
        });
        let last = enough.map_or(now, |piece| piece.last);
        self.rate.per.saturating_sub(now.saturating_duration_since(last))
    }

    /// Records that a call goes out.
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

    /// Whether the window was full at the last check.
    pub(in crate::upstream) fn is_full(&self) -> bool {
        self.calls >= u64::from(self.rate.count)
    }

    /// How many calls may go out now.
    pub(in crate::upstream) fn left(&mut self, now: Instant) -> usize {
        self.expire(now);
        let left = u64::from(self.rate.count).saturating_sub(self.calls);
        usize::try_from(left).unwrap_or(usize::MAX)
    }

    /// Sets another rate after a reload or a restart. The calls that went out count under it too.
    pub(in crate::upstream) fn set_rate(&mut self, rate: Rate) {
        if self.rate != rate {
            self.rate = rate;
            // The rows contain the old rate.
            (self.pending_row, self.stored_row) = (None, None);
        }
    }

    /// Whether the window is stored across restarts.
    pub(in crate::upstream) fn is_long(&self) -> bool {
        self.rate.per >= MIN_STORED_LENGTH
    }

    /// Whether all calls have expired.
    pub(in crate::upstream) fn is_over(&self, now: Instant) -> bool {
        let last = self.sent.back().map(|piece| piece.last);
        last.is_none_or(|last| now.saturating_duration_since(last) >= self.rate.per)
    }

    /// The window to store. `None`: all calls have expired. `last`: no row follows, so no calls are counted
    /// ahead.
    pub(in crate::upstream) fn take_unsaved(&mut self, last: bool, now: Instant) -> Option<SavedWindow> {
        self.expire(now);
        if self.sent.is_empty() || !self.is_long() {
            return None;
        }
        // Nothing is counted ahead before the first call either, so that repeated restarts use nothing up.
        let ahead = if last || self.number == 0 { 0 } else { self.ahead() };
        self.pending_row = now
            .checked_add(self.piece())
            .filter(|_| ahead > 0)
            .map(|until| ReservedCalls { number: self.number + ahead, until });
        let age = |piece: &CallBurst| (now.saturating_duration_since(piece.last), piece.calls);
        Some(SavedWindow { rate: self.rate, sent: self.sent.iter().map(age).collect(), ahead })
    }

    /// The row of [`SlidingWindow::take_unsaved`] is on disk.
    pub(in crate::upstream) fn mark_flushed(&mut self) {
        self.stored_row = self.pending_row.take().or(self.stored_row);
    }

    /// Adds the calls of an earlier process.
    pub(in crate::upstream) fn restore(&mut self, saved: &SavedWindow, now: Instant) {
        for (age, calls) in saved.sent.iter().copied().filter(|(age, _)| *age < self.rate.per) {
            let at = now.checked_sub(age).unwrap_or(now);
            self.sent.push_back(CallBurst { first: at, last: at, calls });
            self.calls = self.calls.saturating_add(calls);
        }
        self.sent.make_contiguous().sort_by_key(|piece| piece.last);
    }

    fn expire(&mut self, now: Instant) {
        let per = self.rate.per;
        while let Some(first) = self.sent.front()
            && now.saturating_duration_since(first.last) >= per
        {
            self.calls = self.calls.saturating_sub(first.calls);
            self.sent.pop_front();
        }
    }

    /// The length of a piece. Zero if each call can be remembered, or is remembered only briefly.
    fn piece(&self) -> Duration {
        if self.has_pieces() { piece(self.rate) } else { Duration::ZERO }
    }

    /// How many calls a row counts ahead, so that not every call waits for the disk.
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
        match self.stored_row {
            Some(ReservedCalls { number, until }) if self.number <= number && now < until => {
                let half = self.number + self.ahead() / 2 > number;
                if half { Write::Soon } else { Write::No }
            }
            Some(_) | None => Write::First,
        }
    }
}

impl SavedWindow {
    /// The stored window after this time, and after a crash. It is unknown which of the calls counted ahead
    /// went out, so all of them count, at the latest time at which they can have gone out.
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
