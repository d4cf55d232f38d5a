//! A deadline that is extended once for a host that could not run.

use std::time::Duration;

use crate::moment::Moment;

/// A deadline that is noticed later than this shows that the host could not run (suspended, frozen,
/// starved). 250 ms: more than a busy machine usually delays a timer.
pub const LATE: Duration = Duration::from_millis(250);

/// By how much a deadline is extended, once, that ends a time of this `length` and is noticed this
/// `late`: as long as it was late, at most its own length. `None`: it was noticed in time, and
/// leads to its verdict.
pub fn extension(length: Duration, late: Duration) -> Option<Duration> {
    (late > LATE && !length.is_zero()).then(|| late.min(length))
}

/// A deadline that leads to a verdict, with its one [`extension`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Alarm {
    at: Option<Moment>,
    length: Duration,
    rearmed: bool,
}

impl Alarm {
    pub(crate) fn at(&self) -> Option<Moment> {
        self.at
    }

    pub(crate) fn arm(&mut self, now: Moment, at: Moment) {
        *self = Self {
            at: Some(at),
            length: at.since(now),
            rearmed: false,
        };
    }

    /// Arms it for the earlier of `at` and its current time.
    pub(crate) fn advance(&mut self, now: Moment, at: Moment) {
        if self.at.is_none_or(|armed| at < armed) {
            self.arm(now, at);
        }
    }

    /// Arms it for the later of `at` and its current time.
    pub(crate) fn postpone(&mut self, now: Moment, at: Moment) {
        if self.at.is_none_or(|armed| at > armed) {
            self.arm(now, at);
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn has_passed(&self, now: Moment) -> bool {
        self.at.is_some_and(|at| at <= now)
    }

    /// Whether it passed so long ago that it is extended instead of leading to a verdict.
    pub(crate) fn rearm_when_late(&mut self, now: Moment) -> bool {
        let Some(at) = self.at else { return false };
        let more = extension(self.length, now.since(at)).filter(|_| !self.rearmed);
        if let Some(more) = more {
            self.at = Some(now + more);
            self.rearmed = true;
        }
        more.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::ORIGIN + Duration::from_millis(ms)
    }

    #[test]
    fn a_deadline_noticed_late_is_armed_once_more_for_as_long_as_it_was_late() {
        let mut alarm = Alarm::default();
        alarm.arm(at(0), at(10_000));
        assert!(!alarm.rearm_when_late(at(10_000) + LATE), "a little late is in time");
        assert!(alarm.rearm_when_late(at(13_000)));
        assert_eq!(alarm.at(), Some(at(16_000)));
        assert!(!alarm.rearm_when_late(at(30_000)), "only once");
    }

    #[test]
    fn it_is_armed_for_no_longer_than_its_own_length() {
        let mut alarm = Alarm::default();
        alarm.arm(at(1_000), at(3_000));
        assert!(alarm.rearm_when_late(at(3_600_000)));
        assert_eq!(alarm.at(), Some(at(3_602_000)));
    }
}
