//! TTL jitter: shortens lifetimes so that responses stored at the same time do not expire at the same time
//! (OVL-09).
//!
//! Owns: the amount. Never touches: the clock; the same arrival time always gives the same amount.

use std::time::SystemTime;

use crate::policy::cacheability::Lifetime;

/// `lifetime` shortened by up to `share` of it, depending on the arrival time. `Forever` is not shortened.
pub(super) fn shortened(lifetime: Lifetime, share: f64, response_time: SystemTime) -> Lifetime {
    match lifetime {
        Lifetime::For(whole) if share > 0.0 => {
            let reduction = whole.mul_f64(share.min(LARGEST) * fraction(response_time));
            Lifetime::For(whole.saturating_sub(reduction))
        }
        Lifetime::For(_) | Lifetime::Forever => lifetime,
    }
}

/// The largest share: more than half would be far from the configured lifetime.
const LARGEST: f64 = 0.5;

/// A pseudo-random number from 0 to just below 1 that changes with every nanosecond.
fn fraction(time: SystemTime) -> f64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let nanos = since.as_secs().wrapping_mul(1_000_000_000).wrapping_add(u64::from(since.subsec_nanos()));
    let high = u32::try_from(mixed(nanos) >> 32).unwrap_or(u32::MAX);
    f64::from(high) / (f64::from(u32::MAX) + 1.0)
}

/// The finalizer of `SplitMix64`: every input bit changes about half of the output bits.
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
    fn simultaneous_arrivals_are_spread_over_the_whole_share() {
        for step in [1, 1000, 1_000_000, 1_000_000_000] {
            let start = 1_800_000_000_000_000_000;
            let mut tenths = [0_u32; 10];
            for n in 0..1000 {
                let reduction = HOUR.saturating_sub(left(HOUR, 0.1, start + n * step));
                let tenth = usize::try_from(reduction.as_secs() / 36).unwrap();
                tenths[tenth] += 1;
            }
            assert!(tenths.iter().all(|tenth| (60..=140).contains(tenth)), "{step}: {tenths:?}");
        }
    }

    #[test]
    fn without_jitter_or_with_forever_nothing_is_shortened() {
        assert_eq!(left(HOUR, 0.0, 7), HOUR);
        assert_eq!(left(HOUR, -0.1, 7), HOUR);
        assert_eq!(left(HOUR, f64::NAN, 7), HOUR);
        assert_eq!(shortened(Lifetime::Forever, 0.5, at(7)), Lifetime::Forever);
    }

    proptest! {
        #[test]
        fn a_lifetime_stays_within_the_share_and_is_deterministic(
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
