//! A day of an upstream as it is kept: bytes to bytes.
//!
//! Owns: their form. A later larder may add to a value's end, never change what is before. Never
//! touches: where they are kept (`store::state`).

use std::sync::Arc;

use crate::telemetry::cost::credits::{CreditUsage, MicroCredits};
use crate::telemetry::cost::utc_day::Day;

/// What is to be kept under a key; `None`: no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRow {
    /// Unique among the rows.
    pub key: Vec<u8>,
    /// What stands there.
    pub value: Option<Vec<u8>>,
}

/// The row of an upstream's day; without a sum it is to go.
pub(super) fn encode(upstream: &str, day: Day, sum: Option<CreditUsage>) -> UsageRow {
    let mut key = day.raw().to_be_bytes().to_vec();
    key.extend_from_slice(upstream.as_bytes());
    let value = sum.map(|CreditUsage { calls, paid, credits, avoided_calls, avoided }| {
        [calls, paid, credits.0, avoided_calls, avoided.0].map(u64::to_be_bytes).concat()
    });
    UsageRow { key, value }
}

/// Whose it is, of which day, and how much; `None`: it is no row.
pub(super) fn decode(key: &[u8], value: &[u8]) -> Option<(Arc<str>, Day, CreditUsage)> {
    let (day, upstream) = key.split_first_chunk()?;
    let upstream = std::str::from_utf8(upstream).ok().filter(|name| !name.is_empty())?;
    let (calls, rest) = number(value)?;
    let (paid, rest) = number(rest)?;
    let (credits, rest) = number(rest)?;
    let (avoided_calls, rest) = number(rest)?;
    let (avoided, _later) = number(rest)?;
    let (credits, avoided) = (MicroCredits(credits), MicroCredits(avoided));
    let sum = CreditUsage { calls, paid, credits, avoided_calls, avoided };
    Some((upstream.into(), Day::from_raw(u32::from_be_bytes(*day)), sum))
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u64::from_be_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_as_it_was_written_whatever_a_later_larder_adds() {
        let sum = CreditUsage {
            calls: 1,
            paid: 2,
            credits: MicroCredits(u64::MAX),
            avoided_calls: 4,
            avoided: MicroCredits(5),
        };
        let UsageRow { key, value } = encode("coins", Day::from_raw(20_000), Some(sum));
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
