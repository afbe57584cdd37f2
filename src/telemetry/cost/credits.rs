//! What was spent and avoided, added up: whole numbers, so that nothing is lost however much is added.
//!
//! Owns: millionths of credits. Never touches: whose they are.

/// Millionths of a credit: what an API counts in whole credits adds up exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct MicroCredits(pub(super) u64);

impl MicroCredits {
    /// One credit.
    pub(super) const CREDIT: Self = Self(MILLION);

    /// What is no amount (negative, or no number) is none.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the conversion saturates, and what is no amount becomes 0"
    )]
    pub(super) fn of(credits: f64) -> Self {
        Self((credits * 1e6).round() as u64)
    }

    /// In credits.
    #[expect(clippy::cast_precision_loss, reason = "exact up to nine thousand million credits")]
    pub(super) fn credits(self) -> f64 {
        self.0 as f64 / 1e6
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// What came together in some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct CreditUsage {
    /// Calls that were made: answered, or left by a client that did not wait for the answer.
    pub(super) calls: u64,
    /// Those of them that cost something.
    pub(super) paid: u64,
    /// What they cost.
    pub(super) credits: MicroCredits,
    /// Calls that were not made, because what is stored answered.
    pub(super) avoided_calls: u64,
    /// What they would have cost, and what calls would have cost that cost nothing.
    pub(super) avoided: MicroCredits,
}

impl CreditUsage {
    /// A call that cost so much.
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

    /// What a call costs that costs something; `None`: there was none yet.
    pub(super) fn usual(self) -> Option<MicroCredits> {
        self.credits.0.checked_div(self.paid).map(MicroCredits)
    }
}

const MILLION: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_amount_is_none_and_what_is_too_much_is_the_most() {
        for nothing in [0.0, -1.0, f64::NAN, f64::NEG_INFINITY, 1e-9] {
            assert_eq!(MicroCredits::of(nothing), MicroCredits(0), "{nothing}");
        }
        for most in [f64::INFINITY, 1e300] {
            assert_eq!(MicroCredits::of(most), MicroCredits(u64::MAX), "{most}");
        }
        let full = CreditUsage::spent(MicroCredits(u64::MAX));
        assert_eq!(full.plus(full).credits, MicroCredits(u64::MAX));
    }

    proptest! {
        #[test]
        fn whole_credits_add_up_exactly(credits in proptest::collection::vec(0u32..100_000, 1..100)) {
            let sum = credits.iter().fold(CreditUsage::default(), |sum, one| {
                sum.plus(CreditUsage::spent(MicroCredits::of(f64::from(*one))))
            });
            let expected: u64 = credits.iter().map(|one| u64::from(*one)).sum();
            prop_assert_eq!(sum.credits, MicroCredits(expected * MILLION));
            prop_assert_eq!(sum.calls, credits.len() as u64);
        }
    }
}
