//! Every change of the disk, one after the other.
//!
//! Owns: the order of writes (body file, variants, expiry record, entry: the entry makes the others valid),
//! and the complete removal of replaced and removed entries. Never touches: threads, timers; the handling of
//! a fault.

use std::sync::Arc;

use sled::IVec;

use crate::semantics::vary::{VariantId, VaryFields};
use crate::store::disk::body_file::BodyFileName;
use crate::store::disk::check_state::Check;
use crate::store::disk::codec::{BodyLocation, Entry, EntryMeta, EntryRef, body_hash};
use crate::store::disk::database::{Database, Fault};
use crate::store::disk::encryption::FieldCipher;
use crate::store::disk::keys::{self, ExpiresAt};
use crate::store::disk::lookup::{CorruptEntry, value_hash};
use crate::store::disk::queue::PutCommand;
use crate::store::disk::usage::{DiskUsage, EntrySize};
use crate::store::disk::variants::Variants;
use crate::store::{EntryId, is_newer};
use crate::telemetry::{StoreOp, Telemetry};

/// An update of a key's variants.
pub(super) struct VariantUpdate {
    pub(super) variants: Variants,
    /// Variants that exceeded the limit.
    pub(super) evicted: Vec<VariantId>,
    /// Whether there is anything to write.
    pub(super) changed: bool,
}

/// Writes to an open database.
pub(super) struct DiskWriter {
    pub(super) database: Arc<Database>,
    pub(super) usage: Arc<DiskUsage>,
    pub(super) cipher: Arc<FieldCipher>,
    pub(super) telemetry: Arc<Telemetry>,
    /// `store.disk`.
    pub(super) bound: u64,
    /// The newest order number given out at the last put.
    pub(super) latest_order: u64,
    /// The check in progress.
    pub(super) check: Option<Check>,
}

/// Number of entries of a target that are removed before the next scan.
const PAGE: usize = 500;

impl DiskWriter {
    /// Removes the entries that a response replaces which cannot be written.
    pub(super) fn remove_replaced(&self, put: &PutCommand) -> Result<(), Fault> {
        let entry_id = put.entry_id();
        let existing = self.database.get(&keys::entry(&entry_id))?;
        let newer =
            |value: &IVec| Entry::decode(value).is_some_and(|entry| put.is_older_than(entry.meta.order));
        if existing.as_ref().is_some_and(newer) {
            return Ok(());
        }
        self.remove(&entry_id)?;
        self.remove_older(&entry_id, &put.stored.vary, |order| !put.is_older_than(order))
    }

    /// Removes older variants after the response at `entry_id` was removed, which varies by these fields: a
    /// request may now select a variant by other fields, and that must not be older.
    fn remove_older(
        &self,
        entry_id: &EntryId,
        by: &VaryFields,
        is_older: impl Fn(u64) -> bool,
    ) -> Result<(), Fault> {
        let Some(variants) = self.variants(entry_id)? else { return Ok(()) };
        for variant in variants.with_other_vary(by) {
            let other = EntryId { variant, ..*entry_id };
            let value = self.database.get(&keys::entry(&other))?;
            let entry = value.as_ref().and_then(|value| Entry::decode(value));
            if entry.is_none_or(|entry| is_older(entry.meta.order)) {
                self.remove(&other)?;
            }
        }
        Ok(())
    }

    /// Writes a response. It replaces the same variant unless that was requested later.
    pub(super) fn put(&mut self, put: &PutCommand) -> Result<(), Fault> {
        self.latest_order = put.latest_order;
        let entry_id = put.entry_id();
        let existing = self.database.get(&keys::entry(&entry_id))?;
        let existing = existing.as_ref().and_then(|value| Entry::decode(value));
        let existing = existing.filter(|entry| entry.canonical == put.key.canonical());
        let existing = existing.map(|entry| entry.meta);
        if existing.as_ref().is_some_and(|existing| put.is_older_than(existing.order)) {
            return Ok(());
        }
        let until = ExpiresAt::from_time(put.until);
        let new_entry = EntryRef {
            canonical: put.key.canonical(),
            stored: &put.stored,
            epoch: put.epoch,
            until,
            body_hash: body_hash(&put.stored.body),
        };
        let variants = self.variants_with(put)?;
        let body_in = self.body_in(&new_entry, entry_id, existing.as_ref());
        let (Some(value), Some(variants)) = (new_entry.encode(body_in, &self.cipher), variants) else {
            // Too large to be stored; the entry that it replaces is no longer the newest.
            return self.remove_replaced(put);
        };
        if let BodyLocation::File(number) = body_in
            && !self.write_body(BodyFileName { id: entry_id.id, number }, &put.stored.body)
        {
            return self.remove_replaced(put);
        }
        self.write_variants(&entry_id, variants)?;
        let size = weight(&value, body_in, put.stored.body.len());
        self.index_expiry(&entry_id, until, size)?;
        match self.database.insert(&keys::entry(&entry_id), value)? {
            Some(before) => self.delete_leftovers(&entry_id, &before, Some((until, body_in))),
            None => Ok(()),
        }
    }

    /// Removes a damaged entry, unless it was replaced meanwhile.
    pub(super) fn remove_damaged(&mut self, (entry_id, hash): CorruptEntry) -> Result<(), Fault> {
        match self.database.get(&keys::entry(&entry_id))? {
            Some(value) if value_hash(&value) == hash => {
                self.telemetry.store_error(StoreOp::Read, &"an entry was damaged");
                self.remove(&entry_id).map(drop)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Removes every entry of a target.
    pub(super) fn remove_target(&mut self, target: u128) -> Result<(), Fault> {
        let prefix = keys::target_prefix(target);
        loop {
            let page = self.database.scan(&prefix, None, PAGE)?;
            if page.is_empty() {
                return Ok(());
            }
            for (key, _) in page {
                match keys::parse_entry(&key) {
                    Some(entry_id) => drop(self.remove(&entry_id)?),
                    None => drop(self.database.remove(&key)?),
                }
            }
        }
    }

    /// Removes an entry and its records, with older variants that may be selected in its place; returns
    /// whether there was one.
    pub(super) fn remove(&self, entry_id: &EntryId) -> Result<bool, Fault> {
        let Some(value) = self.database.remove(&keys::entry(entry_id))? else { return Ok(false) };
        self.delete_leftovers(entry_id, &value, None)?;
        if let Some(mut variants) = self.variants(entry_id)?
            && variants.remove(entry_id.variant)
        {
            self.write_variants(entry_id, VariantUpdate { variants, evicted: Vec::new(), changed: true })?;
        }
        if let Some(Entry { meta, .. }) = Entry::decode(&value) {
            let latest_order = self.latest_order;
            self.remove_older(entry_id, &meta.vary, |order| is_newer(meta.order, order, latest_order))?;
        }
        Ok(true)
    }

    /// Adds the expiry record of an entry.
    pub(super) fn index_expiry(
        &self,
        entry_id: &EntryId,
        until: ExpiresAt,
        size: EntrySize,
    ) -> Result<(), Fault> {
        let before = self.database.insert(&keys::expiry(until, entry_id), size.bytes())?;
        self.usage.add(size);
        if let Some(before) = before {
            self.usage.remove(EntrySize::parse(&before));
        }
        Ok(())
    }

    /// Removes the expiry record of an entry.
    pub(super) fn unindex_expiry(&self, entry_id: &EntryId, until: ExpiresAt) -> Result<(), Fault> {
        if let Some(size) = self.database.remove(&keys::expiry(until, entry_id))? {
            self.usage.remove(EntrySize::parse(&size));
        }
        Ok(())
    }

    /// The variants of an entry's key; `None` where there are none, or they are damaged.
    pub(super) fn variants(&self, entry_id: &EntryId) -> Result<Option<Variants>, Fault> {
        let value = self.database.get(&keys::variants(entry_id.id))?;
        Ok(value.and_then(|value| Variants::decode(&value)))
    }

    /// The variants of a key with this one as the newest; `None` where its key is too long.
    fn variants_with(&self, put: &PutCommand) -> Result<Option<VariantUpdate>, Fault> {
        let (entry_id, canonical) = (put.entry_id(), put.key.canonical());
        let known = self.variants(&entry_id)?.filter(|known| known.canonical() == canonical);
        let mut variants = known.unwrap_or_else(|| Variants::empty(entry_id.target, canonical));
        let changed = variants.add(entry_id.variant, &put.stored.vary);
        let evicted = std::iter::from_fn(|| variants.evict_oldest()).collect();
        Ok(variants.encode().is_some().then_some(VariantUpdate { variants, evicted, changed }))
    }

    /// Writes variants where they changed, and removes the entries of evicted variants.
    pub(super) fn write_variants(&self, entry_id: &EntryId, update: VariantUpdate) -> Result<(), Fault> {
        let VariantUpdate { variants, evicted, changed } = update;
        for variant in evicted {
            self.remove(&EntryId { variant, ..*entry_id })?;
        }
        let key = keys::variants(entry_id.id);
        if changed {
            match variants.encode().filter(|_| !variants.is_empty()) {
                Some(value) => drop(self.database.insert(&key, value)?),
                None => drop(self.database.remove(&key)?),
            }
        }
        Ok(())
    }

    /// Location of the body: the entry, the file that it is already in, or a new file.
    fn body_in(
        &self,
        new_entry: &EntryRef<'_>,
        entry_id: EntryId,
        existing: Option<&EntryMeta>,
    ) -> BodyLocation {
        if new_entry.is_inline() {
            return BodyLocation::Entry;
        }
        let length = new_entry.stored.body.len() as u64;
        // A response freshened by a 304 has the same body as before.
        if let Some(EntryMeta { body_in: body_in @ BodyLocation::File(number), body_len, body_hash, .. }) =
            existing
            && (*body_len, *body_hash) == (length, new_entry.body_hash)
            && self.database.bodies.has(BodyFileName { id: entry_id.id, number: *number }, length)
        {
            return *body_in;
        }
        BodyLocation::File(BodyFileName::new(entry_id.id).number)
    }

    /// Writes a body file unless it exists; returns whether it exists now.
    fn write_body(&mut self, name: BodyFileName, body: &[u8]) -> bool {
        if self.database.bodies.has(name, body.len() as u64) {
            return true;
        }
        if let Some(check) = &mut self.check {
            check.created(name);
        }
        let written = self.database.bodies.write(name, body);
        if let Err(error) = &written {
            self.telemetry.store_error(StoreOp::Write, error);
        }
        written.is_ok()
    }

    /// Removes the expiry record and the body file of an entry that is gone, unless `now` they belong to its
    /// successor.
    fn delete_leftovers(
        &self,
        entry_id: &EntryId,
        value: &IVec,
        now: Option<(ExpiresAt, BodyLocation)>,
    ) -> Result<(), Fault> {
        // The sweep and the check find the records of a damaged entry.
        let Some(Entry { meta, .. }) = Entry::decode(value) else { return Ok(()) };
        let (until, body_in) = now.unzip();
        if until != Some(meta.until) {
            self.unindex_expiry(entry_id, meta.until)?;
        }
        if let BodyLocation::File(number) = meta.body_in
            && body_in != Some(meta.body_in)
        {
            self.remove_body(BodyFileName { id: entry_id.id, number });
        }
        Ok(())
    }

    pub(super) fn remove_body(&self, name: BodyFileName) {
        if let Err(error) = self.database.bodies.remove(name) {
            self.telemetry.store_error(StoreOp::Remove, &error);
        }
    }
}

/// The size of an entry with this value.
pub(super) fn weight(value: &[u8], body_in: BodyLocation, body: usize) -> EntrySize {
    let file = match body_in {
        BodyLocation::Entry => 0,
        BodyLocation::File(_) => body as u64,
    };
    EntrySize { file, value: u32::try_from(value.len()).unwrap_or(u32::MAX) }
}
