//! The variants that are stored under one key, and the fields by which they vary.
//!
//! Owns: their order (the least recently stored first) and their number. Never touches: the variants
//! themselves.

use crate::semantics::vary::{VariantId, VaryFields};
use crate::store::disk::codec::{LARGEST, put_vary, take_vary};
use crate::store::disk::envelope::{EntryDecoder, EntryEncoder};
use crate::store::memory::VARIANTS;

/// The version of the layout: `target | canonical key | count | (variant | Vary names)*`.
const VERSION: u8 = 1;

/// The variants of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Variants {
    target: u128,
    canonical: Vec<u8>,
    /// The newest last.
    known: Vec<(VariantId, VaryFields)>,
}

impl Variants {
    /// The empty list of a key under which nothing is stored yet.
    pub(super) fn empty(target: u128, canonical: &[u8]) -> Self {
        Self { target, canonical: canonical.to_owned(), known: Vec::new() }
    }

    /// The target of the key.
    pub(super) fn target(&self) -> u128 {
        self.target
    }

    /// The key that they belong to.
    pub(super) fn canonical(&self) -> &[u8] {
        &self.canonical
    }

    /// All of them.
    pub(super) fn ids(&self) -> impl Iterator<Item = VariantId> {
        self.known.iter().map(|(id, _)| *id)
    }

    /// Variants that vary by other fields than these.
    pub(super) fn with_other_vary(&self, by: &VaryFields) -> Vec<VariantId> {
        self.known.iter().filter(|(_, vary)| vary != by).map(|(id, _)| *id).collect()
    }

    /// The `Vary` lists: each once, that of the newest variant first.
    pub(super) fn vary_lists(&self) -> Vec<&VaryFields> {
        let mut lists: Vec<&VaryFields> = Vec::with_capacity(1);
        for (_, vary) in self.known.iter().rev() {
            if !lists.contains(&vary) {
                lists.push(vary);
            }
        }
        lists
    }

    /// Records a variant as the newest; returns whether that changes anything.
    pub(super) fn add(&mut self, id: VariantId, vary: &VaryFields) -> bool {
        if self.known.last().is_some_and(|(newest, by)| *newest == id && by == vary) {
            return false;
        }
        self.remove(id);
        self.known.push((id, vary.clone()));
        true
    }

    /// Removes a variant; returns whether that changes anything.
    pub(super) fn remove(&mut self, id: VariantId) -> bool {
        let before = self.known.len();
        self.known.retain(|(known, _)| *known != id);
        self.known.len() < before
    }

    /// Removes and returns the least recently stored variant if there are too many.
    pub(super) fn evict_oldest(&mut self) -> Option<VariantId> {
        let too_long = || self.known.len() > 1 && self.encode().is_none();
        let too_many = self.known.len() > VARIANTS || too_long();
        too_many.then(|| self.known.remove(0).0)
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The encoded value; `None` where it is too large.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let mut encoder = EntryEncoder::with_capacity(32 + self.canonical.len() + 32 * self.known.len());
        encoder.put(&self.target.to_le_bytes());
        encoder.put_long(&self.canonical)?;
        encoder.put(&u16::try_from(self.known.len()).ok()?.to_le_bytes());
        for (id, vary) in &self.known {
            encoder.put(&id.0.to_le_bytes());
            put_vary(&mut encoder, vary)?;
        }
        let value = encoder.sealed(VERSION);
        (value.len() <= LARGEST).then_some(value)
    }

    /// Decodes a value; `None` where it is damaged, or of another version.
    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let mut decoder = EntryDecoder::unsealed(value, VERSION)?;
        let target = decoder.u128()?;
        let canonical = decoder.long()?.to_owned();
        let count = decoder.u16()?;
        let mut known = Vec::with_capacity(count.into());
        for _ in 0..count {
            known.push((VariantId(decoder.u128()?), take_vary(&mut decoder)?));
        }
        decoder.rest().is_empty().then_some(Self { target, canonical, known })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    fn by(names: &[&'static str]) -> VaryFields {
        VaryFields::new(names.iter().map(|name| HeaderName::from_static(name)).collect())
    }

    #[test]
    fn the_least_recently_stored_variant_is_evicted() {
        let mut variants = Variants::empty(7, b"key");
        let mut evicted = Vec::new();
        for n in 0..VARIANTS as u128 {
            assert!(variants.add(VariantId(n), &by(&["x-v"])));
            evicted.extend(variants.evict_oldest());
        }
        assert!(variants.add(VariantId(0), &by(&["x-v"])), "it is the newest again");
        assert!(!variants.add(VariantId(0), &by(&["x-v"])), "it was the newest already");
        assert_eq!(evicted, []);
        variants.add(VariantId(1000), &by(&["x-v"]));
        assert_eq!(variants.evict_oldest(), Some(VariantId(1)));
        assert_eq!(variants.evict_oldest(), None);
    }

    #[test]
    fn each_vary_list_comes_once_and_that_of_the_newest_first() {
        let mut variants = Variants::empty(7, b"key");
        variants.add(VariantId(1), &by(&["accept"]));
        variants.add(VariantId(2), &by(&["accept", "x-v"]));
        variants.add(VariantId(3), &by(&["accept"]));
        assert_eq!(variants.vary_lists(), [&by(&["accept"]), &by(&["accept", "x-v"])]);
        variants.remove(VariantId(3));
        variants.remove(VariantId(1));
        assert_eq!(variants.vary_lists(), [&by(&["accept", "x-v"])]);
        assert!(!variants.remove(VariantId(1)));
    }

    #[test]
    fn the_value_stays_small_however_long_the_lists_are() {
        let mut variants = Variants::empty(7, &[7; 4_000]);
        let long =
            VaryFields::new((0..40).map(|n| HeaderName::try_from(format!("x-{n:060}")).unwrap()).collect());
        for n in 0..10 {
            variants.add(VariantId(n), &long);
            while variants.evict_oldest().is_some() {}
            assert!(variants.encode().is_some_and(|value| value.len() <= LARGEST));
        }
        assert_eq!(variants.ids().last(), Some(VariantId(9)));
    }

    proptest! {
        #[test]
        fn every_damage_is_refused(flip in any::<proptest::sample::Index>(), cut in any::<proptest::sample::Index>()) {
            let mut variants = Variants::empty(7, b"key");
            variants.add(VariantId(1), &by(&["accept"]));
            variants.add(VariantId(2), &by(&[]));
            let value = variants.encode().unwrap();
            prop_assert_eq!(Variants::decode(&value), Some(variants));
            let mut flipped = value.clone();
            let bit = flip.index(value.len() * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Variants::decode(&flipped), None);
            prop_assert_eq!(Variants::decode(&value[..cut.index(value.len())]), None);
        }
    }
}
