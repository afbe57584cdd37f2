//! The store of responses. A fault here costs a hit, never a response.
//!
//! Owns: the trait [`Store`] and its tiers. Never touches: whether a response is fresh or may be stored;
//! requests.

pub mod disk;
pub mod generations;
pub mod invalidation_feed;
pub mod lock;
pub mod memory;
pub mod presence;
pub mod private_file;
pub mod state_db;
pub mod tiered;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;

use crate::key::CacheKey;
use crate::semantics::vary::{VariantId, VaryFields};
use crate::store::generations::{Epoch, InvalidationWatch, PurgeKind, PurgeScope};
use crate::stored::StoredResponse;

/// A lookup: a key, and the variant that the request selects among those stored under it.
#[derive(Clone, Copy)]
pub struct StoreQuery<'a> {
    /// The primary key.
    pub key: &'a CacheKey,
    /// Computes the variant that the request selects if `Vary` names these fields.
    pub variant: &'a (dyn Fn(&VaryFields) -> VariantId + Sync),
}

/// The result of a lookup.
#[derive(Debug, Clone)]
pub enum Lookup {
    /// The variant that the request selects.
    Found(Arc<StoredResponse>),
    /// Only other variants are stored; the request's own would be this one.
    OtherVariants(VariantId),
    /// Nothing is stored under this key.
    Nothing,
    /// The disk may have the entry, which is not in memory: call [`Store::load`]. Memory has other variants if
    /// it names the request's own.
    CheckDisk(Option<VariantId>),
}

/// State of the disk tier, for `/readyz`. Responses are served in every state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Stored responses outlive the process, or are not meant to.
    Good,
    /// Only memory works, for this reason.
    MemoryOnly(String),
}

/// Usage of a tier, for the gauges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreUsage {
    /// Stored responses.
    pub entries: u64,
    /// Bytes they weigh, keys and fields included.
    pub bytes: u64,
    /// Entries evicted for room since the start.
    pub evictions: u64,
}

/// Position of an entry in the order of a store: all entries of a target are neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId {
    /// [`CacheKey::target_id`].
    pub target: u128,
    /// [`CacheKey::id`].
    pub id: u128,
    /// The variant.
    pub variant: VariantId,
}

/// The cursor of a listing: 96 hexadecimal digits.
impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}{:032x}{:032x}", self.target, self.id, self.variant.0)
    }
}

impl EntryId {
    /// Parses the output of `Display`.
    pub fn parse(text: &str) -> Option<Self> {
        let part = |at: usize| u128::from_str_radix(text.get(at..at + 32)?, 16).ok();
        let plain = text.len() == 96 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let (target, id, variant) = (part(0)?, part(32)?, part(64)?);
        plain.then_some(Self { target, id, variant: VariantId(variant) })
    }
}

/// A stored response in a listing.
#[derive(Debug, Clone)]
pub struct EntryInfo {
    /// Its position.
    pub id: EntryId,
    /// The canonical form of its key ([`CacheKey::canonical`]).
    pub canonical: Arc<[u8]>,
    /// The response; its body is empty where the entry is on disk only.
    pub stored: Arc<StoredResponse>,
    /// Bytes of its body.
    pub body: u64,
    /// Whether it is in memory.
    pub in_memory: bool,
    /// Whether it is on disk.
    pub on_disk: bool,
}

/// A store of one or more tiers.
#[async_trait]
pub trait Store: Send + Sync {
    /// Looks up memory only. Never blocks.
    fn get(&self, query: StoreQuery<'_>) -> Lookup;

    /// Looks up the disk after [`Lookup::CheckDisk`], with its value; never returns `CheckDisk` itself.
    async fn load(&self, query: StoreQuery<'_>, in_memory: Option<VariantId>) -> Lookup;

    /// Number of responses that memory has stored so far. Between equal numbers, memory has nothing new.
    fn puts(&self) -> u64;

    /// Whether memory may have partial responses. Never blocks.
    fn has_parts_in_memory(&self) -> bool;

    /// Must be taken before a response of `target` is requested, and kept until that is stored:
    /// [`Store::put`] with its epoch does not bring back a response that was invalidated in between.
    fn watch(&self, target: u128) -> InvalidationWatch;

    /// Whether `one` was requested later than `other`; both are [`InvalidationWatch::order`].
    fn is_newer(&self, one: u64, other: u64) -> bool;

    /// Whether no response of this target was invalidated since `epoch`, not even softly.
    fn is_current(&self, target: u128, epoch: Epoch) -> bool;

    /// Stores a complete response. It replaces the same variant unless that was requested later. Writes that
    /// may block are queued; the response is dropped silently where there is no room. `epoch`: taken before
    /// the request was sent. `until`: when the entry is of no more use; `None`: never. Returns whether this
    /// is now the newest response.
    fn put(
        &self,
        key: &CacheKey,
        stored: Arc<StoredResponse>,
        epoch: Epoch,
        until: Option<SystemTime>,
    ) -> bool;

    /// Waits a short time until a larder beside this one, if there is one, has received all puts and
    /// invalidations so far.
    async fn sync_peer(&self);

    /// Makes stored entries unusable or stale, at once. [`Store::flush`] waits until that is on disk. Returns
    /// false if nothing of the scope is stored.
    fn invalidate(&self, scope: PurgeScope, kind: PurgeKind) -> bool;

    /// Whether an entry of this target may be stored.
    fn may_contain(&self, target: u128) -> bool;

    /// Waits until every invalidation so far is on disk and outlives the process; `Err` gives the reason why
    /// it does not.
    async fn flush(&self) -> Result<(), String>;

    /// At most `limit` usable entries after `after`, in the order of [`EntryId`], of one target or of all.
    async fn list(&self, after: Option<EntryId>, limit: usize, target: Option<u128>) -> Vec<EntryInfo>;

    /// State of the disk tier.
    fn health(&self) -> Health;

    /// Releases the disk: queued writes are finished, then the files are closed and free for another process.
    /// Memory keeps working.
    async fn release(&self);
}

/// Sort key of `order`: of two requests the higher one is the newer. `latest_order` is the newest order
/// number that any larder has given out. A higher number was stored before the clock went back and larder
/// restarted; it counts as older.
fn order_key(order: u64, latest_order: u64) -> (bool, u64) {
    (order <= latest_order, order)
}

/// Whether `one` was requested later than `other`.
fn is_newer(one: u64, other: u64, latest_order: u64) -> bool {
    order_key(one, latest_order) > order_key(other, latest_order)
}

#[cfg(test)]
mod tests {
    use super::is_newer;

    #[test]
    fn entries_from_before_a_clock_step_back_are_older_than_later_ones() {
        let latest_order = 100;
        for (one, other, newer) in [
            (2, 1, true),
            (1, 2, false),
            (1, 1, false),
            (101, 100, false),
            (100, 101, true),
            (102, 101, true),
            (101, 102, false),
        ] {
            assert_eq!(is_newer(one, other, latest_order), newer, "{one} and {other}");
        }
    }
}
