//! What goes by itself: what is of no use any more, and what there is no room for.
//!
//! Owns: the order, nearest death first. Never touches: when it is time; whether an answer is fresh.

use std::time::SystemTime;

use crate::store::EntryId;
use crate::store::disk::codec::Entry;
use crate::store::disk::database::Fault;
use crate::store::disk::keys::{self, DEATHS, ExpiresAt};
use crate::store::disk::usage::DiskUsage;
use crate::store::disk::writer::DiskWriter;

/// How many are swept before something else gets its turn.
pub(super) const SLICE: usize = 500;
/// How many are evicted before looking again.
const STEP: usize = 64;
/// Eviction makes so much room besides that not every put evicts, but no more than is done at once.
const MARGIN: u64 = 4 << 20;

impl DiskWriter {
    /// Removes what died before `now`, at most [`SLICE`] of it; says whether more is due.
    pub(super) fn sweep(&mut self, now: SystemTime) -> Result<bool, Fault> {
        let mut due = 0;
        for (death, _) in self.database.scan(&DEATHS, None, SLICE)? {
            match keys::parse_death(&death) {
                Some((until, _)) if !until.is_past(now) => break,
                Some((until, place)) => drop(self.let_die(&place, until)?),
                None => drop(self.database.remove(&death)?),
            }
            due += 1;
        }
        Ok(due == SLICE)
    }

    /// Evicts until what is held fits the bound.
    pub(super) fn make_room(&mut self) -> Result<(), Fault> {
        if self.sizes.bytes() <= self.bound {
            return Ok(());
        }
        self.evict_down_to(self.bound - MARGIN.min(self.bound / 64))
    }

    /// Evicts until no more than `bytes` are held.
    pub(super) fn evict_down_to(&mut self, bytes: u64) -> Result<(), Fault> {
        while self.sizes.bytes() > bytes {
            let front = self.database.scan(&DEATHS, None, STEP)?;
            if front.is_empty() {
                // Nothing is left that could be held.
                self.sizes.replace(&DiskUsage::default());
            }
            for (death, _) in front {
                match keys::parse_death(&death) {
                    Some((until, place)) if self.let_die(&place, until)? => self.sizes.evicted(),
                    Some(_) => {}
                    None => drop(self.database.remove(&death)?),
                }
                if self.sizes.bytes() <= bytes {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Removes the entry of a death, or only the death where the entry is gone or has another one;
    /// says whether there was an entry.
    fn let_die(&self, place: &EntryId, until: ExpiresAt) -> Result<bool, Fault> {
        let value = self.database.get(&keys::entry(place))?;
        let its_own = value.is_some_and(|value| {
            // Of a damaged one nobody knows: it goes too.
            Entry::decode(&value).is_none_or(|entry| entry.head.until == until)
        });
        let removed = its_own && self.remove(place)?;
        self.unindex_expiry(place, until)?;
        Ok(removed)
    }
}
