//! The memory tier: stored responses in a byte-bounded cache that scans do not flush.
//!
//! Owns: all variants of a URL side by side, at most [`VARIANTS`] of them, and eviction. Never touches: disk,
//! freshness.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};

use crate::key::CacheKey;
use crate::semantics::vary::{VariantId, VaryFields};
use crate::store::generations::{Epoch, Generations, Validity};
use crate::store::presence::{PresenceGuard, PresenceKind};
use crate::store::{EntryId, EntryInfo, Lookup, StoreQuery, StoreUsage, is_newer};
use crate::stored::StoredResponse;
use crate::stored::evicted_bodies::{EvictedBodies, StoredBodyGuard};

/// Maximum number of variants of one key; the least recently stored one is evicted.
pub const VARIANTS: usize = 64;

/// Cost of an entry besides its key, fields and body: slot, allocations, reference counts, and the count of
/// its target.
const OVERHEAD: u64 = 320;

/// Number of bodies of the largest size that must fit one shard: the cache refuses a heavier one.
const LARGEST_PER_SHARD: u64 = 4;

/// The memory tier.
pub struct Memory {
    slots: Cache<SlotKey, Slot, EntryWeighter, DefaultHashBuilder, EvictionCounter>,
    generations: Arc<Generations>,
    evicted: Arc<AtomicU64>,
    evicted_bodies: EvictedBodies,
    /// Serialises changes to a key's list of variants.
    writing: Mutex<()>,
    /// Whether a partial response was ever stored.
    has_parts: AtomicBool,
    /// Number of puts.
    puts: AtomicU64,
    /// Number of lookups.
    #[cfg(test)]
    lookups: AtomicU64,
}

/// A key's root (`variant: None`) or one of its variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct SlotKey {
    id: u128,
    variant: Option<VariantId>,
}

#[derive(Clone)]
enum Slot {
    /// In the root of a key whose only response does not vary, or under a variant.
    Entry(Arc<Entry>),
    /// In the root of a key whose responses vary: their `Vary` lists, in order of storing.
    Variants(Arc<Variants>),
}

struct Entry {
    key: CacheKey,
    epoch: Epoch,
    stored: Arc<StoredResponse>,
    _presence: PresenceGuard,
    _guard: Option<StoredBodyGuard>,
}

#[derive(Clone)]
struct Variants {
    key: CacheKey,
    /// Distinct `Vary` lists, the newest last. Usually one.
    lists: Vec<VaryFields>,
    /// At most [`VARIANTS`], the newest last.
    ids: Vec<VariantId>,
}

#[derive(Debug, Clone)]
struct EntryWeighter;

impl Weighter<SlotKey, Slot> for EntryWeighter {
    fn weight(&self, _key: &SlotKey, slot: &Slot) -> u64 {
        match slot {
            Slot::Entry(entry) => OVERHEAD + (entry.key.weight() + entry.stored.weight()) as u64,
            Slot::Variants(variants) => {
                let lists: usize = variants.lists.iter().map(VaryFields::weight).sum();
                let ids = size_of::<VariantId>() * variants.ids.len();
                OVERHEAD + (variants.key.weight() + lists + ids) as u64
            }
        }
    }
}

#[derive(Debug, Clone)]
struct EvictionCounter(Arc<AtomicU64>);

impl Lifecycle<SlotKey, Slot> for EvictionCounter {
    type RequestState = ();

    fn on_evict(&self, _state: &mut Self::RequestState, _key: SlotKey, slot: Slot) {
        if matches!(slot, Slot::Entry(_)) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Memory {
    /// A tier of `bytes`, which stores bodies of up to `max_object` bytes.
    #[expect(clippy::missing_panics_doc, reason = "a capacity and a weight are always given")]
    pub fn new(bytes: usize, max_object: usize, generations: Arc<Generations>) -> Self {
        let bytes = bytes as u64;
        let largest = (max_object as u64).max(64 * 1024);
        let shards = (bytes / (LARGEST_PER_SHARD * largest)).clamp(1, 64);
        let shards = usize::try_from(shards).unwrap_or(1);
        // Rounded down to a power of two: the cache would round up and shrink the shards.
        let shards = 1 << shards.ilog2();
        let evicted = Arc::new(AtomicU64::new(0));
        let options = OptionsBuilder::new()
            .estimated_items_capacity(usize::try_from(bytes / 2048).unwrap_or(1).max(1024))
            .weight_capacity(bytes)
            .shards(shards)
            .build()
            .expect("capacity and weight are set");
        let slots = Cache::with_options(
            options,
            EntryWeighter,
            DefaultHashBuilder::default(),
            EvictionCounter(Arc::clone(&evicted)),
        );
        Self {
            slots,
            generations,
            evicted,
            evicted_bodies: EvictedBodies::default(),
            writing: Mutex::new(()),
            has_parts: AtomicBool::new(false),
            puts: AtomicU64::new(0),
            #[cfg(test)]
            lookups: AtomicU64::new(0),
        }
    }

    /// Bytes of evicted bodies that clients still receive.
    pub fn evicted_bodies(&self) -> EvictedBodies {
        Arc::clone(&self.evicted_bodies)
    }

    fn if_usable(&self, slot: Option<Slot>, key: &CacheKey) -> Option<Arc<StoredResponse>> {
        let Some(Slot::Entry(entry)) = slot else { return None };
        if entry.key != *key {
            return None;
        }
        self.if_valid(&entry)
    }

    fn if_valid(&self, entry: &Entry) -> Option<Arc<StoredResponse>> {
        match self.generations.validity(entry.key.target_id(), entry.epoch) {
            Validity::Current => Some(Arc::clone(&entry.stored)),
            Validity::Outdated(at) => Some(Arc::new(entry.stored.outdated(at))),
            Validity::Gone => None,
        }
    }

    /// Whether the same variant is stored in `slot` and was requested later: of two parallel fetches the one
    /// that ended last need not be the one that was requested last.
    fn has_newer(&self, slot: &SlotKey, entry: &Entry) -> bool {
        let stored = self.if_usable(self.slots.peek(slot), &entry.key);
        stored.is_some_and(|stored| {
            let newer = is_newer(stored.order, entry.stored.order, self.generations.latest_order());
            stored.variant == entry.stored.variant && newer
        })
    }

    fn find_variant(&self, variants: &Variants, query: StoreQuery<'_>) -> Option<Arc<StoredResponse>> {
        let id = query.key.id();
        let mut newest: Option<Arc<StoredResponse>> = None;
        for fields in variants.lists.iter().rev() {
            let variant = (query.variant)(fields);
            let slot = self.slots.get(&SlotKey { id, variant: Some(variant) });
            if slot.is_none() && variants.ids.contains(&variant) {
                // The variant was evicted. It may have been the newest.
                return None;
            }
            let Some(found) = self.if_usable(slot, query.key) else { continue };
            // RFC 9111 §4: of several that match, the most recent.
            let latest_order = self.generations.latest_order();
            let newer = newest.as_ref().is_none_or(|n| !is_newer(n.order, found.order, latest_order));
            if found.vary == *fields && newer {
                newest = Some(found);
            }
        }
        newest
    }

    fn put_variant(&self, key: &CacheKey, entry: Arc<Entry>) {
        let id = key.id();
        let root = SlotKey { id, variant: None };
        let mut variants = match self.slots.peek(&root) {
            Some(Slot::Variants(variants)) if variants.key == *key => (*variants).clone(),
            Some(Slot::Entry(_) | Slot::Variants(_)) | None => {
                Variants { key: key.clone(), lists: Vec::new(), ids: Vec::new() }
            }
        };
        let (vary, variant) = (&entry.stored.vary, entry.stored.variant);
        variants.lists.retain(|list| list != vary);
        variants.lists.push(vary.clone());
        variants.ids.retain(|known| *known != variant);
        variants.ids.push(variant);
        while variants.ids.len() > VARIANTS {
            let oldest = variants.ids.remove(0);
            self.slots.remove(&SlotKey { id, variant: Some(oldest) });
        }
        if variants.lists.len() > VARIANTS {
            variants.lists.remove(0);
        }
        self.slots.insert(SlotKey { id, variant: Some(variant) }, Slot::Entry(entry));
        self.slots.insert(root, Slot::Variants(Arc::new(variants)));
    }
}

impl Memory {
    /// The response that the request selects. Never [`Lookup::CheckDisk`].
    pub fn get(&self, query: StoreQuery<'_>) -> Lookup {
        #[cfg(test)]
        self.lookups.fetch_add(1, Ordering::Relaxed);
        let root = self.slots.get(&SlotKey { id: query.key.id(), variant: None });
        match root {
            Some(Slot::Variants(variants)) if variants.key == *query.key => {
                self.find_variant(&variants, query).map_or_else(
                    || {
                        variants
                            .lists
                            .last()
                            .map_or(Lookup::Nothing, |fields| Lookup::OtherVariants((query.variant)(fields)))
                    },
                    Lookup::Found,
                )
            }
            Some(Slot::Variants(_)) | None => Lookup::Nothing,
            entry @ Some(Slot::Entry(_)) => {
                self.if_usable(entry, query.key).map_or(Lookup::Nothing, Lookup::Found)
            }
        }
    }

    /// Stores a response unless it is unusable already or a later one is stored. Returns whether this is now
    /// the newest response.
    pub fn put(&self, key: &CacheKey, stored: Arc<StoredResponse>, epoch: Epoch) -> bool {
        if self.generations.validity(key.target_id(), epoch) == Validity::Gone {
            return false;
        }
        if !stored.is_whole() {
            tracing::error!(
                status = stored.status.as_u16(),
                "A response with an incomplete body is not stored"
            );
            return false;
        }
        if stored.is_part() {
            // Relaxed: a lookup that misses the part meanwhile began before it was stored.
            self.has_parts.store(true, Ordering::Relaxed);
        }
        let varies = !stored.vary.names().is_empty();
        let presence = self.generations.present.register(key.target_id(), PresenceKind::InMemory);
        let guard = stored.guard_body(&self.evicted_bodies);
        let entry = Entry { key: key.clone(), epoch, stored, _presence: presence, _guard: guard };
        let entry = Arc::new(entry);
        let _writing = self.writing.lock();
        let root = SlotKey { id: key.id(), variant: None };
        let had_variants = matches!(self.slots.peek(&root), Some(Slot::Variants(_)));
        let own = SlotKey { variant: Some(entry.stored.variant), ..root };
        if [root, own].iter().any(|slot| self.has_newer(slot, &entry)) {
            return false;
        }
        if varies || had_variants {
            self.put_variant(key, entry);
        } else {
            self.slots.insert(root, Slot::Entry(entry));
        }
        // Counted last: after the same count, a lookup would find nothing new.
        self.puts.fetch_add(1, Ordering::Release);
        true
    }

    /// Number of responses stored so far.
    pub fn puts(&self) -> u64 {
        self.puts.load(Ordering::Acquire)
    }

    /// Whether a partial response may be stored.
    pub fn has_parts(&self) -> bool {
        self.has_parts.load(Ordering::Relaxed)
    }

    /// The entry at a position: its key, and the epoch it was stored with.
    pub fn entry_at(&self, entry_id: EntryId) -> Option<(CacheKey, Arc<StoredResponse>, Epoch)> {
        let slot = |variant| self.slots.peek(&SlotKey { id: entry_id.id, variant });
        let found = [slot(Some(entry_id.variant)), slot(None)].into_iter().flatten();
        found.into_iter().find_map(|slot| match slot {
            Slot::Entry(entry) if entry.stored.variant == entry_id.variant => {
                Some((entry.key.clone(), Arc::clone(&entry.stored), entry.epoch))
            }
            Slot::Entry(_) | Slot::Variants(_) => None,
        })
    }

    /// Number of lookups so far.
    #[cfg(test)]
    pub fn lookups(&self) -> u64 {
        self.lookups.load(Ordering::Relaxed)
    }

    /// Evicts everything.
    #[cfg(test)]
    pub fn clear(&self) {
        self.slots.clear();
    }

    /// Removes invalidated entries.
    pub fn remove_invalidated(&self) {
        let is_gone = |slot: &Slot| match slot {
            Slot::Entry(entry) => self.if_valid(entry).is_none(),
            Slot::Variants(_) => false,
        };
        let gone: Vec<_> = self.slots.iter().filter(|(_, slot)| is_gone(slot)).map(|(key, _)| key).collect();
        for key in gone {
            self.slots.remove_if(&key, is_gone);
        }
    }

    /// All usable responses, of one target or of all, in no order.
    pub fn list(&self, target: Option<u128>) -> Vec<EntryInfo> {
        let of_target = |entry: &Entry| target.is_none_or(|target| target == entry.key.target_id());
        let listed = |entry: &Entry| {
            let stored = self.if_valid(entry)?;
            let (target, id) = (entry.key.target_id(), entry.key.id());
            Some(EntryInfo {
                id: EntryId { target, id, variant: stored.variant },
                canonical: entry.key.canonical().into(),
                body: stored.body.len() as u64,
                stored,
                in_memory: true,
                on_disk: false,
            })
        };
        let entries = self.slots.iter().filter_map(|(_, slot)| match slot {
            Slot::Entry(entry) => Some(entry),
            Slot::Variants(_) => None,
        });
        entries.filter(|entry| of_target(entry)).filter_map(|entry| listed(&entry)).collect()
    }

    /// Current usage.
    pub fn totals(&self) -> StoreUsage {
        StoreUsage {
            entries: self.slots.len() as u64,
            bytes: self.slots.weight(),
            evictions: self.evicted.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests;
