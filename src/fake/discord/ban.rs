//! The ban: whoever collects too many 401, 403 and 429 is answered nothing else for a while.
//!
//! Owns: the invalid requests of each address, and until when it is banned.
//! Never touches: the clock; which answers count.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use crate::fake::api::Call;
use crate::fake::rate::Rate;

/// When an address is banned, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ban {
    /// More invalid requests than this, in any such time, are too many.
    pub after: Rate,
    /// How long it lasts.
    pub length: Duration,
}

impl Default for Ban {
    /// As Discord says: 10,000 in 10 minutes. How long it lasts Discord does not say: an hour.
    fn default() -> Self {
        let after = Rate { limit: 10_000, window: Duration::from_secs(600) };
        Self { after, length: Duration::from_secs(3_600) }
    }
}

/// Watches every address.
#[derive(Debug, Clone)]
pub(super) struct BanTracker {
    rule: Option<Ban>,
    addresses: BTreeMap<IpAddr, Record>,
}

#[derive(Debug, Clone, Default)]
struct Record {
    // Sliding, so that no window's edge lets twice as many through.
    invalid: VecDeque<SystemTime>,
    until: Option<SystemTime>,
}

impl BanTracker {
    pub(super) fn new(rule: Option<Ban>) -> Self {
        Self { rule, addresses: BTreeMap::new() }
    }

    /// How long the caller is still banned.
    pub(super) fn banned(&self, call: &Call<'_>) -> Option<Duration> {
        let until = self.addresses.get(&call.client)?.until?;
        until.duration_since(call.now).ok().filter(|left| !left.is_zero())
    }

    /// Takes down an invalid request; whether it was the one too many.
    pub(super) fn invalid(&mut self, call: &Call<'_>) -> bool {
        let Some(Ban { after, length }) = self.rule else { return false };
        let record = self.addresses.entry(call.client).or_default();
        record.invalid.push_back(call.now);
        let over =
            |then: &SystemTime| call.now.duration_since(*then).is_ok_and(|age| age >= after.window);
        while record.invalid.front().is_some_and(over) {
            record.invalid.pop_front();
        }
        let many = u64::try_from(record.invalid.len()).unwrap_or(u64::MAX) > after.limit;
        if many {
            record.invalid.clear();
            record.until = call.now.checked_add(length);
        }
        many
    }
}
