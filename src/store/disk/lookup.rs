//! An entry as a look-up found it: what is known without reading its body.
//!
//! Owns: looking up. A key's variants first, then the entries that the request may select. Never
//! touches: whether an entry is still current or fresh.

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

/// An entry whose metadata was found whole and belongs to the key that was asked for.
#[derive(Debug, Clone)]
pub struct DiskEntry {
    pub(super) place: EntryId,
    pub(super) value: IVec,
    pub(super) head: EntryMeta,
}

impl DiskEntry {
    /// The mark it was stored with.
    pub fn mark(&self) -> Epoch {
        self.head.mark
    }

    /// Whether its body came with it: reading it waits for nothing.
    pub fn is_inline(&self) -> bool {
        self.head.body_in == BodyLocation::Entry
    }

    /// Bytes of its body.
    pub fn body_len(&self) -> u64 {
        self.head.body_len
    }

    /// When the head was received.
    pub fn response_time(&self) -> SystemTime {
        self.head.response_time
    }

    /// Which request fields chose it.
    pub fn vary(&self) -> &VaryFields {
        &self.head.vary
    }

    /// The variant of the request that fetched it.
    pub fn variant(&self) -> VariantId {
        self.head.variant
    }
}

/// A value that is not what was written: which, and its hash now.
pub(super) type CorruptEntry = (EntryId, u64);

/// What a damaged value is known by.
pub(super) fn value_hash(value: &[u8]) -> u64 {
    xxh3_64(value)
}

/// Looks up, and reports the damaged entries that it met.
pub(super) fn find(
    database: &Database,
    wanted: StoreQuery<'_>,
    so_far: u64,
) -> Result<(DiskLookup, Vec<CorruptEntry>), Fault> {
    let canonical = wanted.key.canonical();
    let nothing = Ok((DiskLookup::Nothing, Vec::new()));
    let Some(value) = database.get(&keys::variants(wanted.key.id()))? else { return nothing };
    let Some(variants) = Variants::decode(&value) else { return nothing };
    // Two keys may have one id.
    if variants.canonical() != canonical {
        return nothing;
    }
    let mut damaged = Vec::new();
    let mut newest: Option<DiskEntry> = None;
    let mut own = Vec::with_capacity(1);
    for fields in variants.lists() {
        let variant = (wanted.variant)(fields);
        own.push(variant);
        let place = keys::place(wanted.key, variant);
        let Some(value) = database.get(&keys::entry(&place))? else { continue };
        let Some(entry) = Entry::decode(&value) else {
            damaged.push((place, value_hash(&value)));
            continue;
        };
        let Entry { head, canonical: found, .. } = entry;
        let same = found == canonical && head.variant == variant && head.vary == *fields;
        // RFC 9111 §4: of several that match, the most recent.
        let newer = newest.as_ref().is_none_or(|n| is_newer(head.asked, n.head.asked, so_far));
        if same && newer {
            newest = Some(DiskEntry { place, value, head });
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
