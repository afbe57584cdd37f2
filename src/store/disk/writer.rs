//! Everything that changes what is on disk, one thing after the other.
//!
//! Owns: the order of writes (body file, variants, death, entry: the entry makes it all count), and
//! that what is replaced or removed leaves nothing behind. Never touches: threads, timers; what
//! becomes of a fault.

use std::sync::Arc;

use sled::IVec;

use crate::semantics::vary::{VariantId, VaryFields};
use crate::store::disk::body_file::BodyFileName;
use crate::store::disk::codec::{BodyLocation, Entry, EntryMeta, EntryRef, body_hash};
use crate::store::disk::consistency::Check;
use crate::store::disk::database::{Database, Fault};
use crate::store::disk::encryption::FieldCipher;
use crate::store::disk::keys::{self, ExpiresAt};
use crate::store::disk::lookup::{CorruptEntry, value_hash};
use crate::store::disk::queue::PutCommand;
use crate::store::disk::usage::{DiskUsage, EntrySize};
use crate::store::disk::variants::Variants;
use crate::store::{EntryId, is_newer};
use crate::telemetry::{StoreOp, Telemetry};

/// The variants of a key as they are to be written.
pub(super) struct VariantUpdate {
    pub(super) variants: Variants,
    /// Those that were too many.
    pub(super) shed: Vec<VariantId>,
    /// Whether there is anything to write.
    pub(super) changed: bool,
}

/// The keeper of an open database.
pub(super) struct DiskWriter {
    pub(super) database: Arc<Database>,
    pub(super) sizes: Arc<DiskUsage>,
    pub(super) at_rest: Arc<FieldCipher>,
    pub(super) account: Arc<Telemetry>,
    /// `store.disk`.
    pub(super) bound: u64,
    /// Where the order of what is asked for had got to with the last put.
    pub(super) so_far: u64,
    /// The check that is under way.
    pub(super) check: Option<Check>,
}

/// How many entries are removed for a target before the next are looked for.
const PAGE: usize = 500;

impl DiskWriter {
    /// Removes what an answer replaces that cannot be written.
    pub(super) fn outdo(&self, put: &PutCommand) -> Result<(), Fault> {
        let place = put.place();
        let kept = self.database.get(&keys::entry(&place))?;
        let newer = |value: &IVec| {
            Entry::decode(value).is_some_and(|entry| put.is_older_than(entry.head.asked))
        };
        if kept.as_ref().is_some_and(newer) {
            return Ok(());
        }
        self.remove(&place)?;
        self.remove_older(&place, &put.stored.vary, |asked| !put.is_older_than(asked))
    }

    /// An answer at `place`, which varies by these fields, is gone: what varies by others may be selected in its
    /// place, and must not be older.
    fn remove_older(
        &self,
        place: &EntryId,
        by: &VaryFields,
        is_older: impl Fn(u64) -> bool,
    ) -> Result<(), Fault> {
        let Some(variants) = self.variants(place)? else { return Ok(()) };
        for variant in variants.by_others(by) {
            let other = EntryId { variant, ..*place };
            let value = self.database.get(&keys::entry(&other))?;
            let entry = value.as_ref().and_then(|value| Entry::decode(value));
            if entry.is_none_or(|entry| is_older(entry.head.asked)) {
                self.remove(&other)?;
            }
        }
        Ok(())
    }

    /// Writes an answer in place of the same variant unless that was asked for later.
    pub(super) fn put(&mut self, put: &PutCommand) -> Result<(), Fault> {
        self.so_far = put.so_far;
        let place = put.place();
        let kept = self.database.get(&keys::entry(&place))?;
        let kept = kept.as_ref().and_then(|value| Entry::decode(value));
        let kept = kept.filter(|entry| entry.canonical == put.key.canonical());
        let kept = kept.map(|entry| entry.head);
        if kept.as_ref().is_some_and(|kept| put.is_older_than(kept.asked)) {
            return Ok(());
        }
        let writing = EntryRef {
            canonical: put.key.canonical(),
            stored: &put.stored,
            mark: put.mark,
            until: put.until,
            body_hash: body_hash(&put.stored.body),
        };
        let variants = self.variants_with(put)?;
        let body_in = self.body_in(&writing, place, kept.as_ref());
        let (Some(value), Some(variants)) = (writing.encode(body_in, &self.at_rest), variants)
        else {
            // Too large to be kept; and what it replaces is not the newest any more.
            return self.outdo(put);
        };
        if let BodyLocation::File(number) = body_in
            && !self.write_body(BodyFileName { id: place.id, number }, &put.stored.body)
        {
            return self.outdo(put);
        }
        self.write_variants(&place, variants)?;
        let weight = weight(&value, body_in, put.stored.body.len());
        self.index_expiry(&place, put.until, weight)?;
        match self.database.insert(&keys::entry(&place), value)? {
            Some(before) => self.delete_leftovers(&place, &before, Some((put.until, body_in))),
            None => Ok(()),
        }
    }

    /// Removes a damaged entry, unless it was replaced meanwhile.
    pub(super) fn remove_damaged(&mut self, (place, hash): CorruptEntry) -> Result<(), Fault> {
        match self.database.get(&keys::entry(&place))? {
            Some(value) if value_hash(&value) == hash => {
                self.account.store_error(StoreOp::Read, &"an entry was damaged");
                self.remove(&place).map(drop)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Removes every entry of a target.
    pub(super) fn remove_target(&mut self, target: u128) -> Result<(), Fault> {
        let prefix = keys::of_target(target);
        loop {
            let page = self.database.scan(&prefix, None, PAGE)?;
            if page.is_empty() {
                return Ok(());
            }
            for (key, _) in page {
                match keys::parse_entry(&key) {
                    Some(place) => drop(self.remove(&place)?),
                    None => drop(self.database.remove(&key)?),
                }
            }
        }
    }

    /// Removes an entry and all that belongs to it, with what is older and may be selected in its place; says whether
    /// there was one.
    pub(super) fn remove(&self, place: &EntryId) -> Result<bool, Fault> {
        let Some(value) = self.database.remove(&keys::entry(place))? else { return Ok(false) };
        self.delete_leftovers(place, &value, None)?;
        if let Some(mut variants) = self.variants(place)?
            && variants.remove(place.variant)
        {
            self.write_variants(
                place,
                VariantUpdate { variants, shed: Vec::new(), changed: true },
            )?;
        }
        if let Some(Entry { head, .. }) = Entry::decode(&value) {
            let so_far = self.so_far;
            self.remove_older(place, &head.vary, |asked| is_newer(head.asked, asked, so_far))?;
        }
        Ok(true)
    }

    /// Notes when an entry dies.
    pub(super) fn index_expiry(
        &self,
        place: &EntryId,
        until: ExpiresAt,
        weight: EntrySize,
    ) -> Result<(), Fault> {
        let before = self.database.insert(&keys::death(until, place), weight.bytes())?;
        self.sizes.add(weight);
        if let Some(before) = before {
            self.sizes.remove(EntrySize::parse(&before));
        }
        Ok(())
    }

    /// Forgets when an entry dies.
    pub(super) fn unindex_expiry(&self, place: &EntryId, until: ExpiresAt) -> Result<(), Fault> {
        if let Some(weight) = self.database.remove(&keys::death(until, place))? {
            self.sizes.remove(EntrySize::parse(&weight));
        }
        Ok(())
    }

    /// The variants of an entry's key; `None` where there are none, or none that can be read.
    pub(super) fn variants(&self, place: &EntryId) -> Result<Option<Variants>, Fault> {
        let value = self.database.get(&keys::variants(place.id))?;
        Ok(value.and_then(|value| Variants::decode(&value)))
    }

    /// The variants of a key with this one as the newest; `None` where its key is too long.
    fn variants_with(&self, put: &PutCommand) -> Result<Option<VariantUpdate>, Fault> {
        let (place, canonical) = (put.place(), put.key.canonical());
        let known = self.variants(&place)?.filter(|known| known.canonical() == canonical);
        let mut variants = known.unwrap_or_else(|| Variants::none(place.target, canonical));
        let changed = variants.add(place.variant, &put.stored.vary);
        let shed = std::iter::from_fn(|| variants.shed()).collect();
        Ok(variants.encode().is_some().then_some(VariantUpdate { variants, shed, changed }))
    }

    /// Writes variants where they changed, and removes the entries of those that are too many.
    pub(super) fn write_variants(
        &self,
        place: &EntryId,
        listed: VariantUpdate,
    ) -> Result<(), Fault> {
        let VariantUpdate { variants, shed, changed } = listed;
        for variant in shed {
            self.remove(&EntryId { variant, ..*place })?;
        }
        let at = keys::variants(place.id);
        if changed {
            match variants.encode().filter(|_| !variants.is_empty()) {
                Some(value) => drop(self.database.insert(&at, value)?),
                None => drop(self.database.remove(&at)?),
            }
        }
        Ok(())
    }

    /// Where the body goes: into the entry, into the file it is in already, into a new file.
    fn body_in(
        &self,
        writing: &EntryRef<'_>,
        place: EntryId,
        kept: Option<&EntryMeta>,
    ) -> BodyLocation {
        if writing.is_inline() {
            return BodyLocation::Entry;
        }
        let length = writing.stored.body.len() as u64;
        // What a 304 freshened has the body that it had.
        if let Some(EntryMeta {
            body_in: body_in @ BodyLocation::File(number),
            body_len,
            body_hash,
            ..
        }) = kept
            && (*body_len, *body_hash) == (length, writing.body_hash)
            && self.database.bodies.has(BodyFileName { id: place.id, number: *number }, length)
        {
            return *body_in;
        }
        BodyLocation::File(BodyFileName::new(place.id).number)
    }

    /// Writes a body file that is not there yet; says whether it is there now.
    fn write_body(&mut self, name: BodyFileName, body: &[u8]) -> bool {
        if self.database.bodies.has(name, body.len() as u64) {
            return true;
        }
        if let Some(check) = &mut self.check {
            check.created(name);
        }
        let written = self.database.bodies.write(name, body);
        if let Err(error) = &written {
            self.account.store_error(StoreOp::Write, error);
        }
        written.is_ok()
    }

    /// Removes what an entry that is no longer there leaves behind: its death and its file, unless
    /// those are `now` another's.
    fn delete_leftovers(
        &self,
        place: &EntryId,
        value: &IVec,
        now: Option<(ExpiresAt, BodyLocation)>,
    ) -> Result<(), Fault> {
        // Of a damaged one the sweep and the check find what is left.
        let Some(Entry { head, .. }) = Entry::decode(value) else { return Ok(()) };
        let (until, body_in) = now.unzip();
        if until != Some(head.until) {
            self.unindex_expiry(place, head.until)?;
        }
        if let BodyLocation::File(number) = head.body_in
            && body_in != Some(head.body_in)
        {
            self.remove_body(BodyFileName { id: place.id, number });
        }
        Ok(())
    }

    pub(super) fn remove_body(&self, name: BodyFileName) {
        if let Err(error) = self.database.bodies.remove(name) {
            self.account.store_error(StoreOp::Remove, &error);
        }
    }
}

/// What an entry with this value weighs.
pub(super) fn weight(value: &[u8], body_in: BodyLocation, body: usize) -> EntrySize {
    let file = match body_in {
        BodyLocation::Entry => 0,
        BodyLocation::File(_) => body as u64,
    };
    EntrySize { file, value: u32::try_from(value.len()).unwrap_or(u32::MAX) }
}
