//! The consistency check of the disk, at the start and once a day. A crash may leave an entry without its
//! expiry record, an expiry record or a variant without its entry, or a body file that no entry names.
//!
//! Owns: finding and repairing these, slice by slice. Never touches: consistent data.

use crate::semantics::vary::VariantId;
use crate::store::EntryId;
use crate::store::disk::body_file::SHARDS;
use crate::store::disk::check_state::{Check, Stage};
use crate::store::disk::codec::{BodyLocation, Entry};
use crate::store::disk::database::{Fault, Pair};
use crate::store::disk::keys::{self, ENTRIES, EXPIRIES, VARIANTS};
use crate::store::disk::sweep::SLICE;
use crate::store::disk::variants::Variants;
use crate::store::disk::writer::{DiskWriter, VariantUpdate, weight};
use crate::telemetry::StoreOp;

impl Check {
    /// Runs the next slice; returns whether more is to be done.
    fn step(&mut self, writer: &DiskWriter) -> Result<bool, Fault> {
        let (prefix, next) = match self.stage {
            Stage::Entries => (ENTRIES, Stage::Expiries),
            Stage::Expiries => (EXPIRIES, Stage::Variants),
            Stage::Variants => (VARIANTS, Stage::Files(0)),
            Stage::Files(shard) => {
                self.files(writer, shard);
                self.stage = Stage::Files(shard + 1);
                return Ok(shard + 1 < SHARDS);
            }
        };
        let page = writer.database.scan(&prefix, self.after.as_deref(), SLICE)?;
        self.after = page.last().map(|(key, _)| key.clone());
        if page.is_empty() {
            self.stage = next;
        }
        for pair in page {
            match self.stage {
                Stage::Entries => self.entry(writer, &pair)?,
                Stage::Expiries => expiry(writer, &pair)?,
                Stage::Variants | Stage::Files(_) => variants(writer, &pair)?,
            }
        }
        Ok(true)
    }

    fn entry(&mut self, writer: &DiskWriter, (key, value): &Pair) -> Result<(), Fault> {
        let Some(entry_id) = keys::parse_entry(key) else {
            return writer.database.remove(key).map(drop);
        };
        let Some(entry) = Entry::decode(value).filter(|entry| entry.meta.variant == entry_id.variant) else {
            writer.telemetry.store_error(StoreOp::Read, &"an entry was damaged");
            return writer.remove(&entry_id).map(drop);
        };
        if let BodyLocation::File(number) = entry.meta.body_in {
            self.named.insert(number);
        }
        if writer.database.get(&keys::expiry(entry.meta.until, &entry_id))?.is_none() {
            let body = usize::try_from(entry.meta.body_len).unwrap_or(usize::MAX);
            writer.index_expiry(&entry_id, entry.meta.until, weight(value, entry.meta.body_in, body))?;
        }
        let known = writer.variants(&entry_id)?;
        let mut variants = known.unwrap_or_else(|| Variants::empty(entry_id.target, entry.canonical));
        if variants.ids().all(|id| id != entry_id.variant) && variants.canonical() == entry.canonical {
            variants.add(entry_id.variant, &entry.meta.vary);
            let evicted = std::iter::from_fn(|| variants.evict_oldest()).collect();
            writer.write_variants(&entry_id, VariantUpdate { variants, evicted, changed: true })?;
        }
        Ok(())
    }

    fn files(&self, writer: &DiskWriter, shard: u16) {
        let files = writer.database.bodies.list(shard).unwrap_or_else(|error| {
            writer.telemetry.store_error(StoreOp::Read, &error);
            Vec::new()
        });
        for orphan in files.into_iter().filter(|name| !self.named.contains(&name.number)) {
            writer.remove_body(orphan);
        }
    }
}

impl DiskWriter {
    /// Runs a slice of the check in progress, if there is one.
    pub(super) fn check_step(&mut self) -> Result<(), Fault> {
        let Some(mut check) = self.check.take() else { return Ok(()) };
        if check.step(self)? {
            self.check = Some(check);
        }
        Ok(())
    }
}

/// Removes an expiry record without its entry.
fn expiry(writer: &DiskWriter, (key, _): &Pair) -> Result<(), Fault> {
    let Some((until, entry_id)) = keys::parse_expiry(key) else {
        return writer.database.remove(key).map(drop);
    };
    let value = writer.database.get(&keys::entry(&entry_id))?;
    let entry = value.as_ref().and_then(|value| Entry::decode(value));
    match entry {
        Some(entry) if entry.meta.until == until => Ok(()),
        Some(_) | None => writer.unindex_expiry(&entry_id, until),
    }
}

/// Removes variants without their entries.
fn variants(writer: &DiskWriter, (key, value): &Pair) -> Result<(), Fault> {
    let id = key.strip_prefix(&VARIANTS).and_then(|id| id.first_chunk());
    let known = id.map(|id| u128::from_be_bytes(*id)).zip(Variants::decode(value));
    let Some((id, known)) = known else { return writer.database.remove(key).map(drop) };
    let target = known.target();
    let mut left = known.clone();
    for variant in known.ids() {
        let entry_id = EntryId { target, id, variant };
        if writer.database.get(&keys::entry(&entry_id))?.is_none() {
            left.remove(variant);
        }
    }
    if left == known {
        return Ok(());
    }
    let entry_id = EntryId { target, id, variant: VariantId::SOLE };
    writer.write_variants(&entry_id, VariantUpdate { variants: left, evicted: Vec::new(), changed: true })
}
