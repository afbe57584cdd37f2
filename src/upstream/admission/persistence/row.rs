//! The encoding of stored limits.
//!
//! Owns: the encoding, and the age of a row when the clock may have been set. A later version may append to a
//! value, but never change its existing part. Never touches: where rows are stored (`store::state_db`).
//!
//! A row has a date, and its content has ages relative to that date. If the clock was set back, the row
//! counts as new: no limit lasts longer than its own length.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::policy::upstream::{OutcomeClass, Rate, RateLimitKind, UNTIL_RELEASED};
use crate::semantics::rate_limit::Bucket;
use crate::upstream::admission::ban_guard;
use crate::upstream::admission::cooldown::{self, CooldownScope};
use crate::upstream::admission::rate_limiter;
use crate::upstream::admission::rejection::RejectReason;

/// The maximum length of a restored cooldown: the longest `Retry-After` that is accepted.
const MAX_COOLDOWN_TIME: Duration = Duration::from_secs(32 * 86_400);

/// The upstream that a row belongs to, and the kind of the row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::upstream::admission) struct RowKey {
    /// Whether the name is that of a configured upstream. Otherwise it is a host and port.
    pub(super) configured: bool,
    pub(super) name: Arc<str>,
    pub(super) kind: RowKind,
}

/// The kind of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::upstream::admission) enum RowKind {
    /// The window of a credential.
    Window(u128),
    /// The count of the ban guard.
    BanGuard,
    /// The firm cooldowns.
    Cooldowns,
}

/// Firm cooldowns, and the shapes of the calls that belong to their buckets.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SavedCooldowns {
    pub(super) all: Vec<cooldown::SavedCooldown>,
    pub(super) shapes: Vec<(u64, Bucket)>,
}

impl RowKey {
    pub(super) fn encode(&self) -> Vec<u8> {
        let kind = match self.kind {
            RowKind::Window(_) => b'w',
            RowKind::BanGuard => b'g',
            RowKind::Cooldowns => b'h',
        };
        let mut key = vec![kind, u8::from(self.configured)];
        key.extend_from_slice(self.name.as_bytes());
        if let RowKind::Window(credential) = self.kind {
            key.extend_from_slice(&credential.to_be_bytes());
        }
        key
    }

    pub(super) fn decode(key: &[u8]) -> Option<Self> {
        let ([kind, configured], rest) = key.split_first_chunk()?;
        let (name, kind) = match kind {
            b'w' => {
                let (name, credential) = rest.split_last_chunk()?;
                (name, RowKind::Window(u128::from_be_bytes(*credential)))
            }
            b'g' => (rest, RowKind::BanGuard),
            b'h' => (rest, RowKind::Cooldowns),
            _ => return None,
        };
        let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty())?;
        Some(Self { configured: *configured == 1, name: name.into(), kind })
    }
}

/// Encodes the date and the numbers of a row.
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

/// Decodes the date and the numbers of a row.
struct Reader<'a> {
    rest: &'a [u8],
    /// The age of the row.
    age: Duration,
}

impl<'a> Reader<'a> {
    /// A row with a later date than now counts as new: the clock was set back.
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

    /// The number of items that follow, each of at least `each` bytes. A damaged row cannot allocate much
    /// memory.
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

pub(super) fn encode_window(saved: &rate_limiter::SavedWindow, now: SystemTime) -> Vec<u8> {
    let mut row = Writer::at(now);
    row.number(saved.rate.count.into());
    row.time(saved.rate.per);
    row.number(saved.ahead);
    row.count(saved.sent.len());
    for (age, calls) in &saved.sent {
        row.time(*age);
        row.number(*calls);
    }
    row.0
}

pub(super) fn decode_window(row: &[u8], now: SystemTime) -> Option<rate_limiter::SavedWindow> {
    let mut row = Reader::at(row, now)?;
    let count = u32::try_from(row.number()?).ok().filter(|count| *count > 0)?;
    let rate = Rate { count, per: row.time()? };
    let ahead = row.number()?;
    let sent = pairs(&mut row)?;
    Some(rate_limiter::SavedWindow { rate, sent, ahead }.aged(row.age))
}

pub(super) fn encode_ban_guard(saved: &ban_guard::SavedBanGuard, now: SystemTime) -> Vec<u8> {
    let mut row = Writer::at(now);
    row.time(saved.retention);
    row.count(saved.pieces.len());
    for (age, count) in &saved.pieces {
        row.time(*age);
        row.number(*count);
    }
    row.0
}

pub(super) fn decode_ban_guard(row: &[u8], now: SystemTime) -> Option<ban_guard::SavedBanGuard> {
    let mut row = Reader::at(row, now)?;
    let for_long = row.time()?;
    let mut pieces = pairs(&mut row)?;
    for (age, _) in &mut pieces {
        *age = age.saturating_add(row.age);
    }
    pieces.retain(|(age, _)| *age < for_long);
    Some(ban_guard::SavedBanGuard { retention: for_long, pieces })
}

fn pairs(row: &mut Reader<'_>) -> Option<Vec<(Duration, u64)>> {
    let count = row.count(16)?;
    (0..count).map(|_| Some((row.time()?, row.number()?))).collect()
}

pub(super) fn encode_cooldowns(saved: &SavedCooldowns, now: SystemTime) -> Vec<u8> {
    let mut row = Writer::at(now);
    row.count(saved.all.len());
    for one in &saved.all {
        let (kind, id) = encode_scope(one.scope);
        row.number(kind);
        row.wide(id);
        row.time(one.left);
        row.number(encode_reason(one.reason));
        row.number(one.times.into());
    }
    row.count(saved.shapes.len());
    for (shape, bucket) in &saved.shapes {
        row.number(*shape);
        row.number(bucket.per_resource.into());
        row.text(&bucket.name);
    }
    row.0
}

/// The cooldowns that are not over. Those with an unknown scope or reason are left out.
pub(super) fn decode_cooldowns(row: &[u8], now: SystemTime) -> Option<SavedCooldowns> {
    let mut row = Reader::at(row, now)?;
    let mut cooldowns = SavedCooldowns::default();
    for _ in 0..row.count(48)? {
        let scope = decode_scope(row.number()?, row.wide()?);
        let left = match row.time()? {
            UNTIL_RELEASED => UNTIL_RELEASED,
            left => left.min(MAX_COOLDOWN_TIME).saturating_sub(row.age),
        };
        let reason = decode_reason(row.number()?);
        let times = u32::try_from(row.number()?).unwrap_or(u32::MAX);
        if let (Some(scope), Some(reason), false) = (scope, reason, left.is_zero()) {
            cooldowns.all.push(cooldown::SavedCooldown { scope, left, reason, times });
        }
    }
    for _ in 0..row.count(24)? {
        let (shape, per_resource) = (row.number()?, row.number()? == 1);
        cooldowns.shapes.push((shape, Bucket { name: row.text()?.into(), per_resource }));
    }
    Some(cooldowns)
}

fn encode_scope(scope: CooldownScope) -> (u64, u128) {
    match scope {
        CooldownScope::Upstream => (0, 0),
        CooldownScope::Origin(id) => (1, id.into()),
        CooldownScope::Credential(id) => (2, id),
        CooldownScope::Bucket(id) => (3, id),
        CooldownScope::Key(id) => (4, id),
        CooldownScope::Family(id) => (5, id.into()),
        CooldownScope::Endpoint(id) => (6, id.into()),
    }
}

fn decode_scope(kind: u64, id: u128) -> Option<CooldownScope> {
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

/// The stored number of a reason is its index, which never changes.
const REASONS: [RejectReason; 7] = [
    RejectReason::Failed(OutcomeClass::RateLimited(RateLimitKind::Minute)),
    RejectReason::Failed(OutcomeClass::RateLimited(RateLimitKind::Quota)),
    RejectReason::Failed(OutcomeClass::RateLimited(RateLimitKind::Shared)),
    RejectReason::Failed(OutcomeClass::Server),
    RejectReason::Failed(OutcomeClass::Network),
    RejectReason::Failed(OutcomeClass::Timeout),
    RejectReason::BanGuard,
];

fn encode_reason(reason: RejectReason) -> u64 {
    REASONS.iter().position(|known| *known == reason).map_or(u64::MAX, |place| place as u64)
}

fn decode_reason(place: u64) -> Option<RejectReason> {
    REASONS.get(usize::try_from(place).ok()?).copied()
}

#[cfg(test)]
mod tests;
