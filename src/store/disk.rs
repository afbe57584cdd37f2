//! Placeholder until the disk tier arrives: it keeps nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::account::Account;
use crate::clock::Clock;
use crate::key::CacheKey;
use crate::semantics::vary::VariantId;
use crate::store::generations::Mark;
use crate::store::{Condition, Listed, Place, Totals, Wanted};
use crate::stored::Stored;

/// What a disk tier is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory.
    pub dir: PathBuf,
    /// Its bound in bytes.
    pub bytes: u64,
    /// How often it is swept.
    pub sweep_every: Duration,
}

/// What was found.
#[derive(Debug)]
pub enum Find {
    /// This.
    Found(Record),
    /// Others.
    OtherVariants(VariantId),
    /// Nothing.
    Nothing,
}

/// An entry without its body.
#[derive(Debug)]
pub struct Record {
    mark: Mark,
}

impl Record {
    /// When it was asked for.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Whether its body is here.
    pub fn is_inline(&self) -> bool {
        true
    }
}

/// An entry in a listing.
#[derive(Debug)]
pub struct Paged {
    /// It.
    pub listed: Listed,
    /// When it was asked for.
    pub mark: Mark,
}

/// Keeps nothing.
#[derive(Debug)]
pub struct Disk;

#[expect(clippy::unused_self, clippy::unused_async, reason = "a placeholder")]
impl Disk {
    /// Starts it.
    pub fn start(_settings: Settings, _clock: Clock, _account: Arc<Account>) -> Arc<Self> {
        Arc::new(Self)
    }
    /// How it is.
    pub fn condition(&self) -> Condition {
        Condition::Good
    }
    /// Finds.
    pub fn find(&self, _wanted: Wanted<'_>) -> Find {
        Find::Nothing
    }
    /// Reads.
    pub fn read(&self, _record: &Record) -> Option<Arc<Stored>> {
        None
    }
    /// Keeps.
    pub fn put(&self, _k: &CacheKey, _s: &Arc<Stored>, _m: Mark, _until: Option<SystemTime>) {}
    /// Deletes.
    pub fn reclaim(&self, _target: u128) {}
    /// Deletes all.
    pub fn clear(&self) {}
    /// Lists.
    pub fn page(&self, _a: Option<Place>, _limit: usize, _target: Option<u128>) -> Vec<Paged> {
        Vec::new()
    }
    /// Counts.
    pub fn totals(&self) -> Totals {
        Totals::default()
    }
    /// Closes.
    pub async fn close(&self) {}
}
