//! Usage of the disk tier, updated with every expiry record that is added or removed.
//!
//! Owns: counting bytes against `store.disk`. Never touches: eviction.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::StoreUsage;
use crate::store::disk::database::{Database, Fault};
use crate::store::disk::keys::{self, EXPIRIES};

/// The smallest allocation of the file system for a file.
const BLOCK: u64 = 4096;
/// The database takes three times its content after the first fill, and up to nine times after many
/// replacements and evictions (measured); it never shrinks.
const DATABASE_FACTOR: u64 = 8;
/// Bytes of an entry besides its value: its key, its expiry record and its place among the variants.
const OVERHEAD: u64 = 3 * keys::ENTRY_LENGTH as u64 + 100;

/// Number of expiry records read at once.
const PAGE: usize = 1000;

/// Size of one entry; the value of an expiry record.
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

    /// An unreadable expiry record counts as size zero.
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
        file.saturating_add(DATABASE_FACTOR * (u64::from(self.value) + OVERHEAD))
    }
}

/// Current usage. Written by the store thread only.
#[derive(Debug, Default)]
pub(super) struct DiskUsage {
    entries: AtomicU64,
    bytes: AtomicU64,
    evictions: AtomicU64,
}

impl DiskUsage {
    pub(super) fn add(&self, size: EntrySize) {
        self.entries.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(size.cost(), Ordering::Relaxed);
    }

    pub(super) fn remove(&self, size: EntrySize) {
        decrease(&self.entries, 1);
        decrease(&self.bytes, size.cost());
    }

    pub(super) fn evicted(&self) {
        self.evictions.fetch_add(1, Ordering::Relaxed);
    }

    /// Computes the usage of a database.
    pub(super) fn from_database(database: &Database) -> Result<Self, Fault> {
        let usage = Self::default();
        let mut after = None;
        loop {
            let page = database.scan(&EXPIRIES, after.as_deref(), PAGE)?;
            for (_, size) in &page {
                usage.add(EntrySize::parse(size));
            }
            let Some((last, _)) = page.into_iter().next_back() else { return Ok(usage) };
            after = Some(last);
        }
    }

    /// Replaces entries and bytes; evictions continue to be counted.
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

fn decrease(count: &AtomicU64, by: u64) {
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
    fn adding_and_removing_an_entry_leaves_nothing() {
        let usage = DiskUsage::default();
        let size = EntrySize { file: 5000, value: 300 };
        assert_eq!(EntrySize::parse(&size.bytes()), size);
        usage.add(size);
        assert_eq!((usage.totals().entries, usage.bytes()), (1, size.cost()));
        usage.remove(size);
        usage.remove(size);
        assert_eq!(usage.totals(), StoreUsage::default());
    }
}
