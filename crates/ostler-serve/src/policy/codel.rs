//! Controlled delay (RFC 8289) for calls in a queue: when every call has waited longer than
//! `target` for an `interval`, some are refused at once, ever more of them, until the wait is short
//! again. A queue that is long for a moment is left alone; one that stays long is shortened before
//! everything in it expires.

use std::time::Duration;

use ostler_core::moment::Moment;
use ostler_core::spec::Codel as Rules;

/// The state of the algorithm, updated by each call that leaves the queue.
#[derive(Debug)]
pub(crate) struct Codel {
    rules: Rules,
    /// When the wait will have been above `target` for a whole interval.
    patience_ends: Option<Moment>,
    dropping: bool,
    drop_next: Moment,
    drops: u32,
    drops_before: u32,
}

impl Codel {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            patience_ends: None,
            dropping: false,
            drop_next: Moment::ORIGIN,
            drops: 0,
            drops_before: 0,
        }
    }

    /// Whether a call that has waited this long must be refused. `last`: no other call waits.
    pub(crate) fn refuses(&mut self, now: Moment, waited: Duration, last: bool) -> bool {
        let too_long = self.too_long(now, waited, last);
        if !too_long {
            self.dropping = false;
            return false;
        }
        if self.dropping {
            if now < self.drop_next {
                return false;
            }
            self.drops += 1;
        } else {
            self.dropping = true;
            let since = now.since(self.drop_next);
            let recent = self.drops.saturating_sub(self.drops_before);
            // A queue that was just being shortened is shortened on at the rate that was reached.
            self.drops = if recent > 1 && since < 16 * self.rules.interval {
                recent
            } else {
                1
            };
            self.drops_before = self.drops;
            self.drop_next = now;
        }
        self.drop_next = self.drop_next + self.rules.interval.div_f64(f64::from(self.drops).sqrt());
        true
    }

    fn too_long(&mut self, now: Moment, waited: Duration, last: bool) -> bool {
        if waited < self.rules.target || last {
            self.patience_ends = None;
            return false;
        }
        match self.patience_ends {
            Some(end) => now >= end,
            None => {
                self.patience_ends = Some(now + self.rules.interval);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules::default()
            .target(Duration::from_millis(50))
            .interval(Duration::from_secs(1))
    }

    /// Of calls that leave the queue every 10 ms for so long, each after this wait: when one was
    /// refused.
    fn refusals(codel: &mut Codel, from_ms: u64, to_ms: u64, waited_ms: u64) -> Vec<u64> {
        let refused = |at: &u64| {
            let now = Moment::after_origin(Duration::from_millis(*at));
            codel.refuses(now, Duration::from_millis(waited_ms), false)
        };
        (from_ms..to_ms).step_by(10).filter(refused).collect()
    }

    #[test]
    fn a_short_wait_is_never_refused() {
        assert_eq!(refusals(&mut Codel::new(rules()), 0, 60_000, 49), [0u64; 0]);
    }

    #[test]
    fn a_burst_shorter_than_the_interval_is_left_alone() {
        let mut codel = Codel::new(rules());
        assert_eq!(refusals(&mut codel, 0, 990, 500), [0u64; 0]);
        assert_eq!(refusals(&mut codel, 990, 1_000, 10), [0u64; 0]);
        assert_eq!(refusals(&mut codel, 1_000, 1_990, 500), [0u64; 0]);
    }

    #[test]
    fn a_standing_queue_is_refused_ever_faster() {
        let at = refusals(&mut Codel::new(rules()), 0, 10_000, 500);
        assert_eq!(at[0], 1_000, "after one whole interval");
        let gaps: Vec<u64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.windows(2).all(|pair| pair[1] <= pair[0] + 10), "{gaps:?}");
        assert!(gaps[0] >= 990 && gaps[gaps.len() - 1] < 300, "{gaps:?}");
    }

    #[test]
    fn the_last_one_waiting_is_served() {
        let mut codel = Codel::new(rules());
        let far = |ms| Moment::after_origin(Duration::from_millis(ms));
        assert!((0..5_000).all(|ms| !codel.refuses(far(ms), Duration::from_secs(1), true)));
    }
}
