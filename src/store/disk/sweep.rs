//! Removal of expired entries, and eviction of entries that exceed the bound.
//!
//! Owns: the order, nearest expiry first. Never touches: when the sweep runs; whether a response is fresh.

use std::time::SystemTime;

use crate::store::EntryId;
use crate::store::disk::codec::Entry;
use crate::store::disk::database::Fault;
use crate::store::disk::keys::{self, EXPIRIES, ExpiresAt};
use crate::store::disk::usage::DiskUsage;
use crate::store::disk::writer::DiskWriter;

/// Number of entries swept before other work gets its turn.
pub(super) const SLICE: usize = 500;
/// Number of entries evicted before the next scan.
const STEP: usize = 64;
/// Eviction frees this much more than needed, so that not every put evicts; it bounds the work done at once.
const MARGIN: u64 = 4 << 20;

impl DiskWriter {
    /// Removes entries that expired before `now`, at most [`SLICE`] of them; returns whether more are due.
    pub(super) fn sweep(&mut self, now: SystemTime) -> Result<bool, Fault> {
        let mut due = 0;
        for (record, _) in self.database.scan(&EXPIRIES, None, SLICE)? {
            match keys::parse_expiry(&record) {
                Some((until, _)) if !until.is_past(now) => break,
                Some((until, id)) => drop(self.remove_expired(&id, until)?),
                None => drop(self.database.remove(&record)?),
            }
            due += 1;
        }
        Ok(due == SLICE)
    }

    /// Evicts until the usage fits the bound.
    pub(super) fn make_room(&mut self) -> Result<(), Fault> {
        if self.usage.bytes() <= self.bound {
            return Ok(());
        }
        self.evict_down_to(self.bound - MARGIN.min(self.bound / 64))
    }

    /// Evicts until the usage is at most `bytes`.
    pub(super) fn evict_down_to(&mut self, bytes: u64) -> Result<(), Fault> {
        while self.usage.bytes() > bytes {
            let front = self.database.scan(&EXPIRIES, None, STEP)?;
            if front.is_empty() {
                // No entry is left.
                self.usage.replace(&DiskUsage::default());
            }
            for (record, _) in front {
                match keys::parse_expiry(&record) {
                    Some((until, id)) if self.remove_expired(&id, until)? => self.usage.evicted(),
                    Some(_) => {}
                    None => drop(self.database.remove(&record)?),
                }
                if self.usage.bytes() <= bytes {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Removes the entry of an expiry record, or only the record where the entry is gone or has another one;
    /// returns whether there was an entry.
    fn remove_expired(&self, id: &EntryId, until: ExpiresAt) -> Result<bool, Fault> {
        let value = self.database.get(&keys::entry(id))?;
        let is_current = value.is_some_and(|value| {
            // The expiry of a damaged entry is unknown: it is removed too.
            Entry::decode(&value).is_none_or(|entry| entry.meta.until == until)
        });
        let removed = is_current && self.remove(id)?;
        self.unindex_expiry(id, until)?;
        Ok(removed)
    }
}
