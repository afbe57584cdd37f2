//! What is taken off a lifetime, so that what was stored together does not expire together (OVL-09).
//!
//! Owns: how much. Never touches: the clock; by the same arrival it is the same at every read.

use std::time::SystemTime;

use crate::policy::cacheability::Lifetime;

/// `lifetime` less up to `share` of it, by an amount that the time of arrival decides. For ever is not
/// shortened.
pub(super) fn shortened(lifetime: Lifetime, share: f64, response_time: SystemTime) -> Lifetime {
    match lifetime {
        Lifetime::For(whole) if share > 0.0 => {
            let off = whole.mul_f64(share.min(LARGEST) * chance(response_time));
            Lifetime::For(whole.saturating_sub(off))
        }
        Lifetime::For(_) | Lifetime::Forever => lifetime,
    }
}

/// More than half is no lifetime that anybody asked for.
const LARGEST: f64 = 0.5;

/// From 0 to just under 1, as good as chance from one nanosecond to the next.
fn chance(time: SystemTime) -> f64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let nanos =
        since.as_secs().wrapping_mul(1_000_000_000).wrapping_add(u64::from(since.subsec_nanos()));
    let high = u32::try_from(mixed(nanos) >> 32).unwrap_or(u32::MAX);
    f64::from(high) / (f64::from(u32::MAX) + 1.0)
}

/// The last step of `SplitMix64`: every bit of the input changes half of the output.
fn mixed(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(nanos: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)
    }

    fn left(whole: Duration, share: f64, nanos: u64) -> Duration {
        match shortened(Lifetime::For(whole), share, at(nanos)) {
            Lifetime::For(left) => left,
            Lifetime::Forever => panic!("it was not for ever"),
        }
    }

    #[test]
    fn what_arrives_together_is_spread_over_the_whole_share_whatever_lies_between() {
        for step in [1, 1000, 1_000_000, 1_000_000_000] {
            let begun = 1_800_000_000_000_000_000;
            let mut tenths = [0_u32; 10];
            for n in 0..1000 {
                let off = HOUR.saturating_sub(left(HOUR, 0.1, begun + n * step));
                let tenth = usize::try_from(off.as_secs() / 36).unwrap();
                tenths[tenth] += 1;
            }
            assert!(tenths.iter().all(|tenth| (60..=140).contains(tenth)), "{step}: {tenths:?}");
        }
    }

    #[test]
    fn nothing_is_taken_off_without_jitter_and_never_from_what_is_for_ever() {
        assert_eq!(left(HOUR, 0.0, 7), HOUR);
        assert_eq!(left(HOUR, -0.1, 7), HOUR);
        assert_eq!(left(HOUR, f64::NAN, 7), HOUR);
        assert_eq!(shortened(Lifetime::Forever, 0.5, at(7)), Lifetime::Forever);
    }

    proptest! {
        #[test]
        fn a_lifetime_is_never_longer_never_shorter_than_the_share_allows_and_always_the_same(
            millis in 0_u64..100_000_000_000, share in 0.0..1.0_f64, nanos in 0_u64..u64::MAX,
        ) {
            let whole = Duration::from_millis(millis);
            let left_over = left(whole, share, nanos);
            prop_assert!(left_over <= whole);
            let least = whole.mul_f64(1.0 - share.min(0.5));
            prop_assert!(left_over + Duration::from_micros(1) >= least, "{left_over:?} {least:?}");
            prop_assert_eq!(left_over, left(whole, share, nanos));
            prop_assert_eq!(left_over.is_zero(), whole.is_zero());
        }
    }
}
