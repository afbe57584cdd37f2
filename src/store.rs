//! Where stored responses are kept. A fault here costs a hit, never an answer.
//!
//! Owns: the trait [`Store`] and its tiers. Never touches: whether an answer is fresh or may be
//! stored; requests.

pub mod disk;
pub mod generations;
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

/// What is looked for: a key, and the variant that the request selects among those stored under it.
#[derive(Clone, Copy)]
pub struct StoreQuery<'a> {
    /// The primary key.
    pub key: &'a CacheKey,
    /// The variant this request would select if `Vary` named these fields.
    pub variant: &'a (dyn Fn(&VaryFields) -> VariantId + Sync),
}

/// What a look-up found.
#[derive(Debug, Clone)]
pub enum Lookup {
    /// The variant that the request selects.
    Found(Arc<StoredResponse>),
    /// Other variants only; the request's own would be this one.
    OtherVariants(VariantId),
    /// Nothing under this key.
    Nothing,
    /// Nothing in memory; a deeper tier may have it: ask [`Store::load`].
    Deeper,
}

/// How the deeper tiers of a store are, for `/readyz`. Whatever it is, answers are given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// What is stored outlives the process, or was never meant to.
    Good,
    /// Only memory works, for this reason.
    MemoryOnly(String),
}

/// What a store holds, for the gauges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreUsage {
    /// Stored responses.
    pub entries: u64,
    /// Bytes they weigh, keys and fields included.
    pub bytes: u64,
    /// Evicted for room since the start.
    pub evictions: u64,
}

/// Where an answer is in the order of a store: all answers of a target are neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId {
    /// [`CacheKey::target_id`].
    pub target: u128,
    /// [`CacheKey::id`].
    pub id: u128,
    /// The variant.
    pub variant: VariantId,
}

/// As the cursor of a listing: 96 hexadecimal digits.
impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}{:032x}{:032x}", self.target, self.id, self.variant.0)
    }
}

impl EntryId {
    /// Reads what `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        let part = |at: usize| u128::from_str_radix(text.get(at..at + 32)?, 16).ok();
        let plain = text.len() == 96 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let (target, id, variant) = (part(0)?, part(32)?, part(64)?);
        plain.then_some(Self { target, id, variant: VariantId(variant) })
    }
}

/// A stored answer in a listing.
#[derive(Debug, Clone)]
pub struct EntryInfo {
    /// Where it is.
    pub place: EntryId,
    /// The canonical form of its key ([`CacheKey::canonical`]).
    pub canonical: Arc<[u8]>,
    /// The answer; its body is empty where it is on disk only.
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
    /// Looks into memory. Never blocks.
    fn get(&self, wanted: StoreQuery<'_>) -> Lookup;

    /// Looks into the deeper tiers after [`Lookup::Deeper`]; never answers `Deeper` itself.
    async fn load(&self, wanted: StoreQuery<'_>) -> Lookup;

    /// To be taken before an answer of `target` is asked for, and held until that is kept: what is
    /// invalidated later will not be brought back by [`Store::put`] with its mark.
    fn watch(&self, target: u128) -> InvalidationWatch;

    /// Whether `one` was asked for later than `other`, as [`InvalidationWatch::asked`] says when.
    fn is_newer(&self, one: u64, other: u64) -> bool;

    /// Whether nothing of this target was invalidated since `mark`, not even softly.
    fn is_current(&self, target: u128, mark: Epoch) -> bool;

    /// Keeps a complete response, replacing the same variant unless that was asked for later. Queued where
    /// it may block; dropped silently where there is no room. `mark`: taken before the response was
    /// asked for. `until`: when it is of no more use to anybody; `None`: never. Whether it is now the one
    /// to keep.
    fn put(
        &self,
        key: &CacheKey,
        stored: Arc<StoredResponse>,
        mark: Epoch,
        until: Option<SystemTime>,
    ) -> bool;

    /// Waits a little for a larder beside this one, if there is one, to know what was put or made unusable so far.
    async fn told(&self) {}

    /// Makes what is stored unusable or outdated, at once. [`Store::settle`] tells when it lasts. False: there
    /// is nothing of it.
    fn invalidate(&self, reach: PurgeScope, kind: PurgeKind) -> bool;

    /// Whether something of this target may be kept.
    fn may_keep(&self, target: u128) -> bool;

    /// Waits until everything that was invalidated so far outlives the process; `Err` says why it
    /// would not.
    async fn flush(&self) -> Result<(), String>;

    /// At most `limit` usable answers behind `after`, in the order of [`EntryId`], of one target or
    /// of all.
    async fn list(
        &self,
        after: Option<EntryId>,
        limit: usize,
        target: Option<u128>,
    ) -> Vec<EntryInfo>;

    /// How the deeper tiers are.
    fn condition(&self) -> Health;

    /// Lets go of the deeper tiers: what is queued for them is written, then they are closed and
    /// free for another process. Memory goes on alone.
    async fn release(&self);
}

/// The place of what was asked for as `asked`: of two the higher one is the newer. `so_far`: where the order of
/// all larders has got to by now; what is from beyond was kept before the clock went back and larder began anew.
fn place_in_order(asked: u64, so_far: u64) -> (bool, u64) {
    (asked <= so_far, asked)
}

/// Whether `one` was asked for later than `other`.
fn is_newer(one: u64, other: u64, so_far: u64) -> bool {
    place_in_order(one, so_far) > place_in_order(other, so_far)
}

#[cfg(test)]
mod tests {
    use super::is_newer;

    #[test]
    fn what_was_kept_before_the_clock_went_back_is_older_than_what_comes_after_it() {
        let so_far = 100;
        for (one, other, newer) in [
            (2, 1, true),
            (1, 2, false),
            (1, 1, false),
            (101, 100, false),
            (100, 101, true),
            (102, 101, true),
            (101, 102, false),
        ] {
            assert_eq!(is_newer(one, other, so_far), newer, "{one} and {other}");
        }
    }
}
