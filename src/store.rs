//! Where stored responses are kept. A fault here costs a hit, never an answer.
//!
//! Owns: the trait [`Store`] and its tiers. Never touches: whether an answer is fresh or may be
//! stored; requests.

pub mod generations;
pub mod memory;

use std::sync::Arc;

use async_trait::async_trait;

use crate::key::CacheKey;
use crate::semantics::vary::{VariantId, VaryFields};
use crate::store::generations::Mark;
use crate::stored::Stored;

/// What is looked for: a key, and the variant that the request selects among those stored under it.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// The primary key.
    pub key: &'a CacheKey,
    /// The variant this request would select if `Vary` named these fields.
    pub variant: &'a (dyn Fn(&VaryFields) -> VariantId + Sync),
}

/// What a look-up found.
#[derive(Debug, Clone)]
pub enum Lookup {
    /// The variant that the request selects.
    Found(Arc<Stored>),
    /// Other variants only; the request's own would be this one.
    OtherVariants(VariantId),
    /// Nothing under this key.
    Nothing,
    /// Nothing in memory; a deeper tier may have it: ask [`Store::load`].
    Deeper,
}

/// How the deeper tiers of a store are, for `/readyz`. Whatever it is, answers are given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// What is stored outlives the process, or was never meant to.
    Good,
    /// Only memory works, for this reason.
    MemoryOnly(String),
}

/// What a store holds, for the gauges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Stored responses.
    pub entries: u64,
    /// Bytes they weigh, keys and fields included.
    pub bytes: u64,
    /// Evicted for room since the start.
    pub evictions: u64,
}

/// A store of one or more tiers.
#[async_trait]
pub trait Store: Send + Sync {
    /// Looks into memory. Never blocks.
    fn get(&self, wanted: Wanted<'_>) -> Lookup;

    /// Looks into the deeper tiers after [`Lookup::Deeper`]; never answers `Deeper` itself.
    async fn load(&self, wanted: Wanted<'_>) -> Lookup;

    /// A mark to take before an answer is asked for: what is invalidated later than the mark will
    /// not be brought back by [`Store::put`].
    fn mark(&self) -> Mark;

    /// Whether nothing of this target was invalidated since `mark`.
    fn is_current(&self, key: &CacheKey, mark: Mark) -> bool;

    /// Keeps a complete response, replacing the same variant unless that arrived later. Queued where it may block; dropped
    /// silently where there is no room. `mark`: taken before the response was asked for.
    fn put(&self, key: &CacheKey, stored: Arc<Stored>, mark: Mark);

    /// Makes everything stored for a target unusable, all scopes and variants
    /// ([`CacheKey::target_id`]).
    fn invalidate(&self, target: u128);

    /// What is held now.
    fn totals(&self) -> Totals;

    /// How the deeper tiers are.
    fn condition(&self) -> Condition;

    /// Lets go of the deeper tiers: what is queued for them is written, then they are closed and
    /// free for another process. Memory goes on alone.
    async fn release(&self);
}
