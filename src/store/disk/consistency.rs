//! The check of what lies on disk, at the start and once a day: a crash may leave an entry without
//! its death, a death or a variant without its entry, a body file that no entry names.
//!
//! Owns: finding and mending these, slice by slice. Never touches: what is as it should be.

use std::collections::HashSet;

use sled::IVec;

use crate::semantics::vary::VariantId;
use crate::store::EntryId;
use crate::store::disk::body_file::{BodyFileName, SHARDS};
use crate::store::disk::codec::{BodyLocation, Entry};
use crate::store::disk::database::{Fault, Pair};
use crate::store::disk::keys::{self, DEATHS, ENTRIES, VARIANTS};
use crate::store::disk::sweep::SLICE;
use crate::store::disk::variants::Variants;
use crate::store::disk::writer::{DiskWriter, VariantUpdate, weight};
use crate::telemetry::StoreOp;

/// A check that is under way.
#[derive(Default)]
pub(super) struct Check {
    stage: Stage,
    after: Option<IVec>,
    /// The body files that entries name.
    named: HashSet<u64>,
}

#[derive(Default, Clone, Copy)]
enum Stage {
    #[default]
    Entries,
    Deaths,
    Variants,
    /// The files of this shard are next.
    Files(u16),
}

impl Check {
    /// A body file that was written while the check is under way.
    pub(super) fn created(&mut self, name: BodyFileName) {
        self.named.insert(name.number);
    }

    /// The next slice; says whether more is to be done.
    fn step(&mut self, keeper: &DiskWriter) -> Result<bool, Fault> {
        let (prefix, next) = match self.stage {
            Stage::Entries => (ENTRIES, Stage::Deaths),
            Stage::Deaths => (DEATHS, Stage::Variants),
            Stage::Variants => (VARIANTS, Stage::Files(0)),
            Stage::Files(shard) => {
                self.files(keeper, shard);
                self.stage = Stage::Files(shard + 1);
                return Ok(shard + 1 < SHARDS);
            }
        };
        let page = keeper.database.scan(&prefix, self.after.as_deref(), SLICE)?;
        self.after = page.last().map(|(key, _)| key.clone());
        if page.is_empty() {
            self.stage = next;
        }
        for pair in page {
            match self.stage {
                Stage::Entries => self.entry(keeper, &pair)?,
                Stage::Deaths => death(keeper, &pair)?,
                Stage::Variants | Stage::Files(_) => variants(keeper, &pair)?,
            }
        }
        Ok(true)
    }

    fn entry(&mut self, keeper: &DiskWriter, (key, value): &Pair) -> Result<(), Fault> {
        let Some(place) = keys::parse_entry(key) else {
            return keeper.database.remove(key).map(drop);
        };
        let Some(entry) = Entry::decode(value).filter(|entry| entry.head.variant == place.variant)
        else {
            keeper.account.store_error(StoreOp::Read, &"an entry was damaged");
            return keeper.remove(&place).map(drop);
        };
        if let BodyLocation::File(number) = entry.head.body_in {
            self.named.insert(number);
        }
        if keeper.database.get(&keys::death(entry.head.until, &place))?.is_none() {
            let body = usize::try_from(entry.head.body_len).unwrap_or(usize::MAX);
            keeper.index_expiry(
                &place,
                entry.head.until,
                weight(value, entry.head.body_in, body),
            )?;
        }
        let known = keeper.variants(&place)?;
        let mut variants = known.unwrap_or_else(|| Variants::none(place.target, entry.canonical));
        if variants.ids().all(|id| id != place.variant) && variants.canonical() == entry.canonical {
            variants.add(place.variant, &entry.head.vary);
            let shed = std::iter::from_fn(|| variants.shed()).collect();
            keeper.write_variants(&place, VariantUpdate { variants, shed, changed: true })?;
        }
        Ok(())
    }

    fn files(&self, keeper: &DiskWriter, shard: u16) {
        let files = keeper.database.bodies.list(shard).unwrap_or_else(|error| {
            keeper.account.store_error(StoreOp::Read, &error);
            Vec::new()
        });
        for orphan in files.into_iter().filter(|name| !self.named.contains(&name.number)) {
            keeper.remove_body(orphan);
        }
    }
}

impl DiskWriter {
    /// A slice of the check that is under way, if one is.
    pub(super) fn check_on(&mut self) -> Result<(), Fault> {
        let Some(mut check) = self.check.take() else { return Ok(()) };
        if check.step(self)? {
            self.check = Some(check);
        }
        Ok(())
    }
}

/// A death without its entry.
fn death(keeper: &DiskWriter, (key, _): &Pair) -> Result<(), Fault> {
    let Some((until, place)) = keys::parse_death(key) else {
        return keeper.database.remove(key).map(drop);
    };
    let value = keeper.database.get(&keys::entry(&place))?;
    let entry = value.as_ref().and_then(|value| Entry::decode(value));
    match entry {
        Some(entry) if entry.head.until == until => Ok(()),
        Some(_) | None => keeper.unindex_expiry(&place, until),
    }
}

/// Variants without their entries.
fn variants(keeper: &DiskWriter, (key, value): &Pair) -> Result<(), Fault> {
    let id = key.strip_prefix(&VARIANTS).and_then(|id| id.first_chunk());
    let known = id.map(|id| u128::from_be_bytes(*id)).zip(Variants::decode(value));
    let Some((id, known)) = known else { return keeper.database.remove(key).map(drop) };
    let target = known.target();
    let mut left = known.clone();
    for variant in known.ids() {
        let place = EntryId { target, id, variant };
        if keeper.database.get(&keys::entry(&place))?.is_none() {
            left.remove(variant);
        }
    }
    if left == known {
        return Ok(());
    }
    let place = EntryId { target, id, variant: VariantId::SOLE };
    keeper.write_variants(&place, VariantUpdate { variants: left, shed: Vec::new(), changed: true })
}
