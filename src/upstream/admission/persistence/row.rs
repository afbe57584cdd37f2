//! Limits as they are kept: bytes to bytes.
//!
//! Owns: their form, and how old a row is by a clock that may have been set. A later larder may add to a
//! value's end, never change what is before. Never touches: where rows are kept (`store::state`).
//!
//! A row has a date, and its content has ages as of that date. A clock that was set back makes a row
//! young: no limit lasts longer than its own length.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::policy::upstream::{OutcomeClass, Rate, RateLimitKind};
use crate::semantics::rate_limit::Bucket;
use crate::upstream::ban_guard;
use crate::upstream::cooldown::{self, CooldownScope};
use crate::upstream::rate_limiter;
use crate::upstream::rejection::RejectReason;

/// No hold lasts longer, whatever a row says: the longest that an origin's word is believed.
const LONGEST_HOLD: Duration = Duration::from_secs(32 * 86_400);

/// The upstream that a row belongs to, and the row's kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RowKey {
    /// Whether the name is that of a configured upstream; else it is a host and port.
    pub(super) configured: bool,
    pub(super) name: Arc<str>,
    pub(super) what: RowKind,
}

/// The kind of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RowKind {
    /// The window of a credential.
    Window(u128),
    /// The count of the ban guard.
    Guard,
    /// The firm holds.
    Holds,
}

/// Firm holds, and the calls that belong to a bucket which is held.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SavedCooldowns {
    pub(super) all: Vec<cooldown::SavedCooldown>,
    pub(super) shapes: Vec<(u64, Bucket)>,
}

impl RowKey {
    pub(super) fn encode(&self) -> Vec<u8> {
        let what = match self.what {
            RowKind::Window(_) => b'w',
            RowKind::Guard => b'g',
            RowKind::Holds => b'h',
        };
        let mut key = vec![what, u8::from(self.configured)];
        key.extend_from_slice(self.name.as_bytes());
        if let RowKind::Window(credential) = self.what {
            key.extend_from_slice(&credential.to_be_bytes());
        }
        key
    }

    pub(super) fn decode(key: &[u8]) -> Option<Self> {
        let ([what, configured], rest) = key.split_first_chunk()?;
        let (name, what) = match what {
            b'w' => {
                let (name, credential) = rest.split_last_chunk()?;
                (name, RowKind::Window(u128::from_be_bytes(*credential)))
            }
            b'g' => (rest, RowKind::Guard),
            b'h' => (rest, RowKind::Holds),
            _ => return None,
        };
        let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty())?;
        Some(Self { configured: *configured == 1, name: name.into(), what })
    }
}

/// A row's date and numbers, as they are written.
struct Writer(Vec<u8>);

impl Writer {
    fn at(now: SystemTime) -> Self {
        let mut writer = Self(Vec::new());
        writer.number(millis(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()));
        writer
    }

    fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    fn time(&mut self, time: Duration) {
        self.number(millis(time));
    }

    fn wide(&mut self, number: u128) {
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    fn count(&mut self, count: usize) {
        self.number(count as u64);
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }
}

/// The same as they are read.
struct Reader<'a> {
    rest: &'a [u8],
    /// How long ago the row was written.
    age: Duration,
}

impl<'a> Reader<'a> {
    /// A row that was written later than now is new: the clock was set back.
    fn at(row: &'a [u8], now: SystemTime) -> Option<Self> {
        let mut reader = Self { rest: row, age: Duration::ZERO };
        let written = SystemTime::UNIX_EPOCH.checked_add(reader.time()?)?;
        reader.age = now.duration_since(written).unwrap_or_default();
        Some(reader)
    }

    fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(u64::from_be_bytes(*number))
    }

    fn time(&mut self) -> Option<Duration> {
        self.number().map(Duration::from_millis)
    }

    fn wide(&mut self) -> Option<u128> {
        let (number, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(u128::from_be_bytes(*number))
    }

    /// How many follow, each of this many bytes at least: the number in a damaged row takes no memory.
    fn count(&mut self, each: usize) -> Option<usize> {
        let count = usize::try_from(self.number()?).ok()?;
        (count.checked_mul(each)? <= self.rest.len()).then_some(count)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.count(1)?;
        let (text, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        std::str::from_utf8(text).ok()
    }
}

/// Whole milliseconds, rounded down: a younger call counts for longer, which is the safe side.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn window(kept: &rate_limiter::Kept, now: SystemTime) -> Vec<u8> {
    let mut row = Writer::at(now);
    row.number(kept.rate.count.into());
    row.time(kept.rate.per);
    row.number(kept.ahead);
    row.count(kept.sent.len());
    for (age, calls) in &kept.sent {
        row.time(*age);
        row.number(*calls);
    }
    row.0
}

pub(super) fn read_window(row: &[u8], now: SystemTime) -> Option<rate_limiter::Kept> {
    let mut row = Reader::at(row, now)?;
    let count = u32::try_from(row.number()?).ok().filter(|count| *count > 0)?;
    let rate = Rate { count, per: row.time()? };
    let ahead = row.number()?;
    let sent = pairs(&mut row)?;
    Some(rate_limiter::Kept { rate, sent, ahead }.aged(row.age))
}

pub(super) fn guard(kept: &ban_guard::SavedBanGuard, now: SystemTime) -> Vec<u8> {
    let mut row = Writer::at(now);
    row.time(kept.for_long);
    row.count(kept.pieces.len());
    for (age, count) in &kept.pieces {
        row.time(*age);
        row.number(*count);
    }
    row.0
}

pub(super) fn read_guard(row: &[u8], now: SystemTime) -> Option<ban_guard::SavedBanGuard> {
    let mut row = Reader::at(row, now)?;
    let for_long = row.time()?;
    let mut pieces = pairs(&mut row)?;
    for (age, _) in &mut pieces {
        *age = age.saturating_add(row.age);
    }
    pieces.retain(|(age, _)| *age < for_long);
    Some(ban_guard::SavedBanGuard { for_long, pieces })
}

fn pairs(row: &mut Reader<'_>) -> Option<Vec<(Duration, u64)>> {
    let count = row.count(16)?;
    (0..count).map(|_| Some((row.time()?, row.number()?))).collect()
}

pub(super) fn holds(kept: &SavedCooldowns, now: SystemTime) -> Vec<u8> {
    let mut row = Writer::at(now);
    row.count(kept.all.len());
    for one in &kept.all {
        let (kind, id) = reach(one.reach);
        row.number(kind);
        row.wide(id);
        row.time(one.left);
        row.number(cause(one.cause));
        row.number(one.times.into());
    }
    row.count(kept.shapes.len());
    for (shape, bucket) in &kept.shapes {
        row.number(*shape);
        row.number(bucket.per_resource.into());
        row.text(&bucket.name);
    }
    row.0
}

/// Those that are not over. A hold of a kind or cause that this larder does not know is left out.
pub(super) fn read_holds(row: &[u8], now: SystemTime) -> Option<SavedCooldowns> {
    let mut row = Reader::at(row, now)?;
    let mut holds = SavedCooldowns::default();
    for _ in 0..row.count(48)? {
        let known = known_reach(row.number()?, row.wide()?);
        let left = row.time()?.min(LONGEST_HOLD).saturating_sub(row.age);
        let cause = known_cause(row.number()?);
        let times = u32::try_from(row.number()?).unwrap_or(u32::MAX);
        if let (Some(reach), Some(cause), false) = (known, cause, left.is_zero()) {
            holds.all.push(cooldown::SavedCooldown { reach, left, cause, times });
        }
    }
    for _ in 0..row.count(24)? {
        let (shape, per_resource) = (row.number()?, row.number()? == 1);
        holds.shapes.push((shape, Bucket { name: row.text()?.into(), per_resource }));
    }
    Some(holds)
}

fn reach(reach: CooldownScope) -> (u64, u128) {
    match reach {
        CooldownScope::Upstream => (0, 0),
        CooldownScope::Origin(id) => (1, id.into()),
        CooldownScope::Credential(id) => (2, id),
        CooldownScope::Bucket(id) => (3, id),
        CooldownScope::Key(id) => (4, id),
        CooldownScope::Family(id) => (5, id.into()),
        CooldownScope::Endpoint(id) => (6, id.into()),
    }
}

fn known_reach(kind: u64, id: u128) -> Option<CooldownScope> {
    Some(match kind {
        0 => CooldownScope::Upstream,
        1 => CooldownScope::Origin(u64::try_from(id).ok()?),
        2 => CooldownScope::Credential(id),
        3 => CooldownScope::Bucket(id),
        4 => CooldownScope::Key(id),
        5 => CooldownScope::Family(u64::try_from(id).ok()?),
        6 => CooldownScope::Endpoint(u64::try_from(id).ok()?),
        _ => return None,
    })
}

/// By their places, which never change.
const CAUSES: [RejectReason; 7] = [
    RejectReason::Failed(OutcomeClass::RateLimited(RateLimitKind::Minute)),
    RejectReason::Failed(OutcomeClass::RateLimited(RateLimitKind::Quota)),
    RejectReason::Failed(OutcomeClass::RateLimited(RateLimitKind::Shared)),
    RejectReason::Failed(OutcomeClass::Server),
    RejectReason::Failed(OutcomeClass::Network),
    RejectReason::Failed(OutcomeClass::Timeout),
    RejectReason::InvalidRequests,
];

fn cause(cause: RejectReason) -> u64 {
    CAUSES.iter().position(|known| *known == cause).map_or(u64::MAX, |place| place as u64)
}

fn known_cause(place: u64) -> Option<RejectReason> {
    CAUSES.get(usize::try_from(place).ok()?).copied()
}

#[cfg(test)]
mod tests;
