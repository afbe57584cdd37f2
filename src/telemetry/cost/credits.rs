//! Sums of spent and avoided credits as integers, so that adding loses no precision.
//!
//! Owns: fixed-point credits in millionths. Never touches: upstreams and periods.

/// Millionths of a credit. Sums of whole credits are exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct MicroCredits(pub(super) u64);

impl MicroCredits {
    /// One credit.
    pub(super) const CREDIT: Self = Self(MILLION);

    /// Converts from credits. A negative value or NaN becomes zero.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the conversion saturates, and negative values and NaN become 0"
    )]
    pub(super) fn from_credits(credits: f64) -> Self {
        Self((credits * 1e6).round() as u64)
    }

    /// The value in credits.
    #[expect(clippy::cast_precision_loss, reason = "exact up to nine thousand million credits")]
    pub(super) fn credits(self) -> f64 {
        self.0 as f64 / 1e6
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// The usage in some period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct CreditUsage {
    /// Calls that were made, including those whose client disconnected before the response.
    pub(super) calls: u64,
    /// Calls that cost something.
    pub(super) paid: u64,
    /// The cost of the calls.
    pub(super) credits: MicroCredits,
    /// Calls that were avoided by a response from the store or of another request's fill.
    pub(super) avoided_calls: u64,
    /// The cost of the avoided calls, plus the cost that calls without a charge would have had.
    pub(super) avoided: MicroCredits,
}

impl CreditUsage {
    /// The usage of one call with this cost.
    pub(super) fn spent(credits: MicroCredits) -> Self {
        let paid = u64::from(credits > MicroCredits::default());
        Self { calls: 1, paid, credits, ..Self::default() }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            calls: self.calls.saturating_add(other.calls),
            paid: self.paid.saturating_add(other.paid),
            credits: self.credits.plus(other.credits),
            avoided_calls: self.avoided_calls.saturating_add(other.avoided_calls),
            avoided: self.avoided.plus(other.avoided),
        }
    }

    /// The average cost of a call that cost something; `None` before the first one.
    pub(super) fn average_cost(self) -> Option<MicroCredits> {
        self.credits.0.checked_div(self.paid).map(MicroCredits)
    }
}

const MILLION: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn invalid_amounts_become_zero_and_large_ones_saturate() {
        for invalid in [0.0, -1.0, f64::NAN, f64::NEG_INFINITY, 1e-9] {
            assert_eq!(MicroCredits::from_credits(invalid), MicroCredits(0), "{invalid}");
        }
        for too_large in [f64::INFINITY, 1e300] {
            assert_eq!(MicroCredits::from_credits(too_large), MicroCredits(u64::MAX), "{too_large}");
        }
        let full = CreditUsage::spent(MicroCredits(u64::MAX));
        assert_eq!(full.plus(full).credits, MicroCredits(u64::MAX));
    }

    proptest! {
        #[test]
        fn whole_credits_add_up_exactly(credits in proptest::collection::vec(0u32..100_000, 1..100)) {
            let sum = credits.iter().fold(CreditUsage::default(), |sum, one| {
                sum.plus(CreditUsage::spent(MicroCredits::from_credits(f64::from(*one))))
            });
            let expected: u64 = credits.iter().map(|one| u64::from(*one)).sum();
            prop_assert_eq!(sum.credits, MicroCredits(expected * MILLION));
            prop_assert_eq!(sum.calls, credits.len() as u64);
        }
    }
}
