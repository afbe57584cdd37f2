//! Lookup of an entry's metadata, without reading its body.
//!
//! Owns: the lookup: a key's variants first, then the entries that the request may select. Never touches:
//! whether an entry is still current or fresh.

use std::time::SystemTime;

use sled::IVec;
use xxhash_rust::xxh3::xxh3_64;

use crate::semantics::vary::{VariantId, VaryFields};
use crate::store::disk::DiskLookup;
use crate::store::disk::codec::{BodyLocation, Entry, EntryMeta};
use crate::store::disk::database::{Database, Fault};
use crate::store::disk::keys;
use crate::store::disk::variants::Variants;
use crate::store::generations::Epoch;
use crate::store::{EntryId, StoreQuery, is_newer};

/// An entry whose metadata was verified and belongs to the requested key.
#[derive(Debug, Clone)]
pub struct DiskEntry {
    pub(super) id: EntryId,
    pub(super) value: IVec,
    pub(super) meta: EntryMeta,
}

impl DiskEntry {
    /// The epoch it was stored with.
    pub fn epoch(&self) -> Epoch {
        self.meta.epoch
    }

    /// Whether its body is in the entry: then reading it needs no file.
    pub fn is_inline(&self) -> bool {
        self.meta.body_in == BodyLocation::Entry
    }

    /// Bytes of its body.
    pub fn body_len(&self) -> u64 {
        self.meta.body_len
    }

    /// When the head was received.
    pub fn response_time(&self) -> SystemTime {
        self.meta.response_time
    }

    /// The request fields that select it.
    pub fn vary(&self) -> &VaryFields {
        &self.meta.vary
    }

    /// The variant of the request that fetched it.
    pub fn variant(&self) -> VariantId {
        self.meta.variant
    }
}

/// A damaged value: its position, and its hash now.
pub(super) type CorruptEntry = (EntryId, u64);

/// Hash by which a damaged value is identified.
pub(super) fn value_hash(value: &[u8]) -> u64 {
    xxh3_64(value)
}

/// Looks up an entry, and returns the damaged entries that were found.
pub(super) fn find(
    database: &Database,
    query: StoreQuery<'_>,
    latest_order: u64,
) -> Result<(DiskLookup, Vec<CorruptEntry>), Fault> {
    let canonical = query.key.canonical();
    let nothing = Ok((DiskLookup::Nothing, Vec::new()));
    let Some(value) = database.get(&keys::variants(query.key.id()))? else { return nothing };
    let Some(variants) = Variants::decode(&value) else { return nothing };
    // Two keys may have the same id.
    if variants.canonical() != canonical {
        return nothing;
    }
    let mut damaged = Vec::new();
    let mut newest: Option<DiskEntry> = None;
    let mut own = Vec::with_capacity(1);
    for fields in variants.vary_lists() {
        let variant = (query.variant)(fields);
        own.push(variant);
        let entry_id = keys::entry_id(query.key, variant);
        let Some(value) = database.get(&keys::entry(&entry_id))? else { continue };
        let Some(entry) = Entry::decode(&value) else {
            damaged.push((entry_id, value_hash(&value)));
            continue;
        };
        let Entry { meta, canonical: found, .. } = entry;
        let same = found == canonical && meta.variant == variant && meta.vary == *fields;
        // RFC 9111 §4: of several that match, the most recent.
        let newer = newest.as_ref().is_none_or(|n| is_newer(meta.order, n.meta.order, latest_order));
        if same && newer {
            newest = Some(DiskEntry { id: entry_id, value, meta });
        }
    }
    let others = variants.ids().any(|id| !own.contains(&id));
    let found = match (newest, own.first()) {
        (Some(record), _) => DiskLookup::Found(record),
        (None, Some(own)) if others => DiskLookup::OtherVariants(*own),
        (None, _) => DiskLookup::Nothing,
    };
    Ok((found, damaged))
}
