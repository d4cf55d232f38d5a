//! Restart intensity: OTP's `add_restart`.

use std::collections::VecDeque;
use std::time::Duration;

use crate::moment::Moment;

/// The restarts within the period. OTP counts in whole seconds; this counts at the resolution of
/// [`Moment`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intensity {
    limit: u32,
    period: Duration,
    restarts: VecDeque<Moment>,
}

impl Intensity {
    pub(crate) fn new(limit: u32, period: Duration) -> Self {
        Intensity {
            limit,
            period,
            restarts: VecDeque::new(),
        }
    }

    /// Counts a restart. Returns whether the restarts within the period now exceed the limit.
    pub(crate) fn add_restart(&mut self, now: Moment) -> bool {
        while self
            .restarts
            .front()
            .is_some_and(|restart| now.since(*restart) > self.period)
        {
            self.restarts.pop_front();
        }
        self.restarts.push_back(now);
        self.restarts.len() > self.limit as usize
    }

    /// Which part of the limit is used at `now`: 1 when the next counted restart is one too many.
    pub fn used(&self, now: Moment) -> f64 {
        let within = |restart: &&Moment| now.since(**restart) <= self.period;
        let used = self.restarts.iter().filter(within).count();
        match self.limit {
            0 => 1.0,
            // Both are small.
            limit => used as f64 / f64::from(limit),
        }
    }

    /// How many restarts were within the period at the last count.
    pub(crate) fn counted(&self) -> usize {
        self.restarts.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::after_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn one_more_than_the_limit_within_the_period_exceeds_it() {
        let mut intensity = Intensity::new(2, Duration::from_secs(5));
        assert!(!intensity.add_restart(at(0)));
        assert!(!intensity.add_restart(at(1)));
        assert!(intensity.add_restart(at(2)));
    }

    #[test]
    fn period_is_inclusive() {
        let mut intensity = Intensity::new(1, Duration::from_secs(5));
        assert!(!intensity.add_restart(at(0)));
        assert!(intensity.add_restart(at(5)));
        let mut intensity = Intensity::new(1, Duration::from_secs(5));
        assert!(!intensity.add_restart(at(0)));
        assert!(!intensity.add_restart(at(0) + Duration::from_millis(5001)));
    }

    #[test]
    fn the_used_part_shrinks_as_restarts_leave_the_period() {
        let mut intensity = Intensity::new(2, Duration::from_secs(5));
        assert!(!intensity.add_restart(at(0)));
        assert!(!intensity.add_restart(at(3)));
        let used = [3, 5, 6, 9].map(|seconds| intensity.used(at(seconds)));
        assert_eq!(used, [1.0, 1.0, 0.5, 0.0]);
        assert_eq!(Intensity::new(0, Duration::ZERO).used(at(9)), 1.0);
    }

    #[test]
    fn limit_of_zero_allows_no_restart() {
        assert!(Intensity::new(0, Duration::from_secs(5)).add_restart(at(9)));
    }
}
