//! How many calls may be tried again: a share of all calls, so that retries never turn a failure
//! into a storm.

/// Retries that are allowed before the first calls have earned any.
const RESERVE: f64 = 3.0;

/// The largest number of retries that can be saved up.
const MOST: f64 = 100.0;

/// A bucket that each call fills by `share`, and each retry empties by one.
#[derive(Debug)]
pub(crate) struct Budget {
    share: f64,
    left: f64,
}

impl Budget {
    /// Zero allows no retries at all.
    pub(crate) fn new(share: f64) -> Self {
        let left = if share > 0.0 { RESERVE } else { 0.0 };
        Self { share, left }
    }

    /// A call was made.
    pub(crate) fn called(&mut self) {
        self.left = (self.left + self.share).min(MOST);
    }

    /// Whether a retry may be made; if so, it is counted.
    pub(crate) fn spend(&mut self) -> bool {
        // Shares such as 0.1 do not add up to exactly one.
        let may = self.left >= 1.0 - 1e-9;
        if may {
            self.left -= 1.0;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ten_calls_pay_for_one_retry() {
        let mut budget = Budget::new(0.1);
        while budget.spend() {}
        (0..9).for_each(|_| budget.called());
        assert!(!budget.spend());
        budget.called();
        assert!(budget.spend() && !budget.spend());
    }

    #[test]
    fn no_share_no_retries() {
        let mut budget = Budget::new(0.0);
        (0..1000).for_each(|_| budget.called());
        assert!(!budget.spend());
    }

    proptest! {
        #[test]
        fn retries_stay_within_their_share(share in 0.0f64..1.0, calls in prop::collection::vec(0u8..4, 1..500)) {
            let mut budget = Budget::new(share);
            let (mut made, mut retried) = (0.0, 0.0);
            for tried in calls {
                budget.called();
                made += 1.0;
                retried += f64::from((0..tried).map(|_| u8::from(budget.spend())).sum::<u8>());
                prop_assert!(retried <= share * made + RESERVE + 1e-6);
            }
        }
    }
}
