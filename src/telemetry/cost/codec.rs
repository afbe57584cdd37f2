//! Codec for the persisted usage of one upstream on one day.
//!
//! Owns: the format of key and value. A later version may append to a value, but not change the existing
//! fields. Never touches: the database (`store::state_db`).

use std::sync::Arc;

use crate::telemetry::cost::credits::{CreditUsage, MicroCredits};
use crate::telemetry::cost::utc_day::Day;

/// A row to write to or remove from the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateRow {
    /// The unique key of the row.
    pub key: Vec<u8>,
    /// The value; `None` removes the row.
    pub value: Option<Vec<u8>>,
}

/// The row of an upstream and a day; without a sum it removes the persisted row.
pub(super) fn encode(upstream: &str, day: Day, sum: Option<CreditUsage>) -> StateRow {
    let mut key = day.raw().to_be_bytes().to_vec();
    key.extend_from_slice(upstream.as_bytes());
    let value = sum.map(|CreditUsage { calls, paid, credits, avoided_calls, avoided }| {
        [calls, paid, credits.0, avoided_calls, avoided.0].map(u64::to_be_bytes).concat()
    });
    StateRow { key, value }
}

/// The upstream, the day and the usage of a row; `None` if the row is invalid.
pub(super) fn decode(key: &[u8], value: &[u8]) -> Option<(Arc<str>, Day, CreditUsage)> {
    let (day, upstream) = key.split_first_chunk()?;
    let upstream = std::str::from_utf8(upstream).ok().filter(|name| !name.is_empty())?;
    let (numbers, _incomplete) = value.as_chunks();
    let [calls, paid, credits, avoided_calls, avoided] = numbers.first_chunk()?.map(u64::from_be_bytes);
    let (credits, avoided) = (MicroCredits(credits), MicroCredits(avoided));
    let sum = CreditUsage { calls, paid, credits, avoided_calls, avoided };
    Some((upstream.into(), Day::from_raw(u32::from_be_bytes(*day)), sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_decoded_as_encoded_also_with_appended_bytes() {
        let sum = CreditUsage {
            calls: 1,
            paid: 2,
            credits: MicroCredits(u64::MAX),
            avoided_calls: 4,
            avoided: MicroCredits(5),
        };
        let StateRow { key, value } = encode("coins", Day::from_raw(20_000), Some(sum));
        let mut value = value.unwrap();
        let expected = ("coins".into(), Day::from_raw(20_000), sum);
        assert_eq!(decode(&key, &value).as_ref(), Some(&expected));
        value.push(7);
        assert_eq!(decode(&key, &value), Some(expected));
        value.truncate(39);
        assert_eq!(decode(&key, &value), None);
        assert_eq!(decode(b"abc", &[0; 40]), None);
        assert_eq!(decode(b"abcd\xff", &[0; 40]), None);
    }
}
