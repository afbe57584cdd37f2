//! How much the disk tier holds, kept up to date with every death that is noted or removed.
//!
//! Owns: the reckoning of bytes against `store.disk`. Never touches: what to do about it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::StoreUsage;
use crate::store::disk::database::{Database, Fault};
use crate::store::disk::keys::{self, DEATHS};

/// What the file system gives a file at least.
const BLOCK: u64 = 4096;
/// The database takes three times what is in it when it was filled once, and up to nine times after
/// much replacing and evicting, measured; it gives nothing back.
const DATABASE_FACTOR: u64 = 8;
/// Of an entry, besides its value: its key, its death and its place among the variants.
const BESIDES: u64 = 3 * keys::ENTRY_LENGTH as u64 + 100;

/// How many deaths are read at once.
const PAGE: usize = 1000;

/// What one entry weighs; the value of a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct EntrySize {
    /// Bytes of the body file, zero without one.
    pub(super) file: u64,
    /// Bytes of the entry's value.
    pub(super) value: u32,
}

impl EntrySize {
    pub(super) fn bytes(self) -> Vec<u8> {
        [&self.file.to_le_bytes()[..], &self.value.to_le_bytes()].concat()
    }

    /// What a death that cannot be read weighs is not known: nothing.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let read = || {
            let (file, rest) = bytes.split_first_chunk()?;
            let value = u32::from_le_bytes(*rest.first_chunk()?);
            Some(Self { file: u64::from_le_bytes(*file), value })
        };
        read().unwrap_or_default()
    }

    /// Bytes that count against `store.disk`.
    pub(super) fn cost(self) -> u64 {
        let file = self.file.div_ceil(BLOCK).saturating_mul(BLOCK);
        file.saturating_add(DATABASE_FACTOR * (u64::from(self.value) + BESIDES))
    }
}

/// What is held now. Written by the store thread only.
#[derive(Debug, Default)]
pub(super) struct DiskUsage {
    entries: AtomicU64,
    bytes: AtomicU64,
    evictions: AtomicU64,
}

impl DiskUsage {
    pub(super) fn add(&self, weight: EntrySize) {
        self.entries.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(weight.cost(), Ordering::Relaxed);
    }

    pub(super) fn remove(&self, weight: EntrySize) {
        lower(&self.entries, 1);
        lower(&self.bytes, weight.cost());
    }

    pub(super) fn evicted(&self) {
        self.evictions.fetch_add(1, Ordering::Relaxed);
    }

    /// Reckons up what a database holds.
    pub(super) fn of(database: &Database) -> Result<Self, Fault> {
        let sizes = Self::default();
        let mut after = None;
        loop {
            let page = database.scan(&DEATHS, after.as_deref(), PAGE)?;
            for (_, weight) in &page {
                sizes.add(EntrySize::parse(weight));
            }
            let Some((last, _)) = page.into_iter().next_back() else { return Ok(sizes) };
            after = Some(last);
        }
    }

    /// From now on these are held; evictions go on being counted.
    pub(super) fn replace(&self, now: &Self) {
        let copy = |to: &AtomicU64, from: &AtomicU64| {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        };
        copy(&self.entries, &now.entries);
        copy(&self.bytes, &now.bytes);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn totals(&self) -> StoreUsage {
        StoreUsage {
            entries: self.entries.load(Ordering::Relaxed),
            bytes: self.bytes(),
            evictions: self.evictions.load(Ordering::Relaxed),
        }
    }
}

fn lower(count: &AtomicU64, by: u64) {
    count.store(count.load(Ordering::Relaxed).saturating_sub(by), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_count_in_whole_blocks_and_the_database_eight_fold() {
        let cost = |file, value| EntrySize { file, value }.cost();
        let none = cost(0, 0);
        assert_eq!(cost(1, 0) - none, 4096);
        assert_eq!(cost(4096, 0) - none, 4096);
        assert_eq!(cost(4097, 0) - none, 8192);
        assert_eq!(cost(0, 1000) - none, 8000);
        assert_eq!(cost(u64::MAX, 0), u64::MAX);
    }

    #[test]
    fn what_is_added_and_removed_again_leaves_nothing() {
        let sizes = DiskUsage::default();
        let weight = EntrySize { file: 5000, value: 300 };
        assert_eq!(EntrySize::parse(&weight.bytes()), weight);
        sizes.add(weight);
        assert_eq!((sizes.totals().entries, sizes.bytes()), (1, weight.cost()));
        sizes.remove(weight);
        sizes.remove(weight);
        assert_eq!(sizes.totals(), StoreUsage::default());
    }
}
