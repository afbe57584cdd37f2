//! The keys of the disk tier's database.
//!
//! Owns: their layout. `E | target | id | variant` holds an entry, `V | id` the variants of a key, `X | until
//! | E-key` the expiry record of an entry: the first X expires next. Never touches: values.

use std::time::{Duration, SystemTime};

use crate::key::CacheKey;
use crate::semantics::vary::VariantId;
use crate::store::EntryId;

/// The first byte of all entries.
pub(super) const ENTRIES: [u8; 1] = *b"E";
/// The first byte of all lists of variants.
pub(super) const VARIANTS: [u8; 1] = *b"V";
/// The first byte of all expiry records.
pub(super) const EXPIRIES: [u8; 1] = *b"X";

/// Position of the entry with this key and variant.
pub(super) fn entry_id(key: &CacheKey, variant: VariantId) -> EntryId {
    EntryId { target: key.target_id(), id: key.id(), variant }
}

/// The length of [`entry`].
pub(super) const ENTRY_LENGTH: usize = 1 + 3 * 16;

/// The key of an entry. Keys sort like entry ids.
pub(super) fn entry(id: &EntryId) -> Vec<u8> {
    let parts = [id.target, id.id, id.variant.0].map(u128::to_be_bytes);
    [&ENTRIES[..], parts.as_flattened()].concat()
}

/// The position that the key of an entry contains.
pub(super) fn parse_entry(bytes: &[u8]) -> Option<EntryId> {
    let parts = bytes.strip_prefix(&ENTRIES)?;
    let (parts, []) = parts.as_chunks::<16>() else { return None };
    let [target, id, variant] = parts else { return None };
    let [target, id, variant] = [target, id, variant].map(|part| u128::from_be_bytes(*part));
    Some(EntryId { target, id, variant: VariantId(variant) })
}

/// The common prefix of the keys of all entries of a target.
pub(super) fn target_prefix(target: u128) -> Vec<u8> {
    [&ENTRIES[..], &target.to_be_bytes()].concat()
}

/// The key of the variants that are stored under the key `id`.
pub(super) fn variants(id: u128) -> Vec<u8> {
    [&VARIANTS[..], &id.to_be_bytes()].concat()
}

/// The key of an entry's expiry record.
pub(super) fn expiry(until: ExpiresAt, id: &EntryId) -> Vec<u8> {
    [&EXPIRIES[..], &until.0.to_be_bytes(), &entry(id)].concat()
}

/// The time and the position that the key of an expiry record contains.
pub(super) fn parse_expiry(bytes: &[u8]) -> Option<(ExpiresAt, EntryId)> {
    let (until, id) = bytes.strip_prefix(&EXPIRIES)?.split_first_chunk()?;
    Some((ExpiresAt(u64::from_be_bytes(*until)), parse_entry(id)?))
}

/// The time from which an entry is of no more use: milliseconds since 1970, so that keys sort by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ExpiresAt(pub(super) u64);

impl ExpiresAt {
    pub(super) const FOREVER: Self = Self(u64::MAX);

    /// `None` means forever. A time that is out of range becomes the nearest that fits, never forever.
    pub(super) fn from_time(time: Option<SystemTime>) -> Self {
        let Some(time) = time else { return Self::FOREVER };
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX).min(u64::MAX - 1))
    }

    pub(super) fn is_past(self, now: SystemTime) -> bool {
        self < Self::from_time(Some(now))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    proptest! {
        #[test]
        fn a_key_decodes_to_what_it_was_encoded_from(
            target in any::<u128>(), id in any::<u128>(), variant in any::<u128>(),
            until in any::<u64>(),
        ) {
            let entry_id = EntryId { target, id, variant: VariantId(variant) };
            prop_assert_eq!(parse_entry(&entry(&entry_id)), Some(entry_id));
            prop_assert_eq!(entry(&entry_id).len(), ENTRY_LENGTH);
            let expiry = expiry(ExpiresAt(until), &entry_id);
            prop_assert_eq!(parse_expiry(&expiry), Some((ExpiresAt(until), entry_id)));
            prop_assert_eq!(parse_entry(&expiry), None);
            prop_assert_eq!(parse_expiry(&expiry[1..]), None);
            prop_assert_eq!(parse_entry(&entry(&entry_id)[..ENTRY_LENGTH - 1]), None);
        }

        #[test]
        fn expiries_sort_by_time(one in any::<u64>(), other in any::<u64>(), id in any::<u128>()) {
            let entry_id = EntryId { target: id, id, variant: VariantId(id) };
            let order = expiry(ExpiresAt(one), &entry_id).cmp(&expiry(ExpiresAt(other), &entry_id));
            prop_assert_eq!(order, one.cmp(&other));
        }
    }

    #[test]
    fn forever_is_never_past_and_no_time_is_forever() {
        let late = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::MAX / 2);
        assert!(!ExpiresAt::FOREVER.is_past(late));
        assert!(ExpiresAt::from_time(Some(late)) < ExpiresAt::FOREVER);
        assert_eq!(ExpiresAt::from_time(Some(SystemTime::UNIX_EPOCH - Duration::from_secs(1))), ExpiresAt(0));
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
        assert!(!ExpiresAt::from_time(Some(at)).is_past(at));
        assert!(ExpiresAt::from_time(Some(at)).is_past(at + Duration::from_millis(1)));
    }
}
