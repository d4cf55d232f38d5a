//! Time as the pure core sees it: a point that is passed in, never read off a clock.

use std::ops::Add;
use std::time::Duration;

/// A point on a monotonic time line, as the time passed since an origin that its user chose.
///
/// Only moments of the same origin can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(Duration);

impl Moment {
    /// The origin itself.
    pub const ORIGIN: Moment = Moment(Duration::ZERO);

    /// The moment that is `elapsed` after the origin.
    pub const fn after_origin(elapsed: Duration) -> Self {
        Moment(elapsed)
    }

    /// The time passed since the origin.
    pub const fn since_origin(self) -> Duration {
        self.0
    }

    /// The time passed since `earlier`; zero if `earlier` lies ahead.
    pub const fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    /// Saturates: the far end of time is a moment too.
    fn add(self, later: Duration) -> Moment {
        Moment(self.0.saturating_add(later))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_ahead_is_no_time_ago() {
        let early = Moment::ORIGIN + Duration::from_secs(1);
        let late = early + Duration::from_secs(2);
        assert_eq!(late.since(early), Duration::from_secs(2));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(late + Duration::MAX, Moment::after_origin(Duration::MAX));
    }
}
