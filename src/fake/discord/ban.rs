//! The ban: an address that causes too many 401, 403 and 429 gets nothing but 403 for a while.
//!
//! Owns: the invalid requests of each address, and the end of its ban.
//! Never touches: the clock; which responses count as invalid.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use crate::fake::api::Call;
use crate::fake::rate::Rate;

/// The rule for bans: the number of invalid requests, and the duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ban {
    /// An address is banned if it causes more invalid requests than this in any such window.
    pub after: Rate,
    /// The duration of a ban.
    pub length: Duration,
}

impl Default for Ban {
    /// Discord documents 10,000 in 10 minutes. It does not document the duration: an hour.
    fn default() -> Self {
        let after = Rate { limit: 10_000, window: Duration::from_secs(600) };
        Self { after, length: Duration::from_secs(3_600) }
    }
}

/// The invalid requests and bans of all addresses.
#[derive(Debug, Clone)]
pub(super) struct BanTracker {
    rule: Option<Ban>,
    addresses: BTreeMap<IpAddr, Record>,
}

#[derive(Debug, Clone, Default)]
struct Record {
    // A sliding window, since the edge of a fixed window would allow twice as many.
    invalid: VecDeque<SystemTime>,
    until: Option<SystemTime>,
}

impl BanTracker {
    pub(super) fn new(rule: Option<Ban>) -> Self {
        Self { rule, addresses: BTreeMap::new() }
    }

    /// The remaining time of the caller's ban.
    pub(super) fn remaining_ban(&self, call: &Call<'_>) -> Option<Duration> {
        let until = self.addresses.get(&call.client)?.until?;
        until.duration_since(call.now).ok().filter(|remaining| !remaining.is_zero())
    }

    /// Records an invalid request; returns whether it causes a ban.
    pub(super) fn record_invalid(&mut self, call: &Call<'_>) -> bool {
        let Some(Ban { after, length }) = self.rule else { return false };
        let record = self.addresses.entry(call.client).or_default();
        record.invalid.push_back(call.now);
        let expired = |then: &SystemTime| call.now.duration_since(*then).is_ok_and(|age| age >= after.window);
        while record.invalid.front().is_some_and(expired) {
            record.invalid.pop_front();
        }
        let exceeds = u64::try_from(record.invalid.len()).unwrap_or(u64::MAX) > after.limit;
        if exceeds {
            record.invalid.clear();
            record.until = call.now.checked_add(length);
        }
        exceeds
    }
}
