//! How often restarts may happen: OTP's `add_restart`.

use std::collections::VecDeque;
use std::time::Duration;

use crate::moment::Moment;

/// The restarts within the period. OTP counts whole seconds; we count as finely as time is passed in.
#[derive(Debug, Clone)]
pub(crate) struct Intensity {
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

    /// Counts a restart, and says whether there are now more than the limit that are not older than the period.
    pub(crate) fn exceeded_by_one_more(&mut self, now: Moment) -> bool {
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

    /// How many restarts the window held at the last count.
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
    fn more_than_the_limit_within_the_period_exceeds_it() {
        let mut intensity = Intensity::new(2, Duration::from_secs(5));
        assert!(!intensity.exceeded_by_one_more(at(0)));
        assert!(!intensity.exceeded_by_one_more(at(1)));
        assert!(intensity.exceeded_by_one_more(at(2)));
    }

    #[test]
    fn the_edge_of_the_period_counts() {
        let mut intensity = Intensity::new(1, Duration::from_secs(5));
        assert!(!intensity.exceeded_by_one_more(at(0)));
        assert!(intensity.exceeded_by_one_more(at(5)));
        let mut intensity = Intensity::new(1, Duration::from_secs(5));
        assert!(!intensity.exceeded_by_one_more(at(0)));
        assert!(!intensity.exceeded_by_one_more(at(0) + Duration::from_millis(5001)));
    }

    #[test]
    fn zero_allows_none() {
        assert!(Intensity::new(0, Duration::from_secs(5)).exceeded_by_one_more(at(9)));
    }
}
