//! Time for the pure core: a point in time that callers pass in.

use std::ops::Add;
use std::time::Duration;

/// A point on a monotonic timeline, stored as the time elapsed since an origin that the caller
/// chooses.
///
/// Compare only moments with the same origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(Duration);

impl Moment {
    /// The origin.
    pub const ORIGIN: Moment = Moment(Duration::ZERO);

    /// The moment `elapsed` after the origin.
    pub const fn after_origin(elapsed: Duration) -> Self {
        Moment(elapsed)
    }

    /// The time elapsed since the origin.
    pub const fn since_origin(self) -> Duration {
        self.0
    }

    /// The time elapsed since `earlier`, or zero if `earlier` is later than `self`.
    pub const fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    /// Saturates at the greatest representable moment.
    fn add(self, later: Duration) -> Moment {
        Moment(self.0.saturating_add(later))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_a_later_moment_is_zero() {
        let early = Moment::ORIGIN + Duration::from_secs(1);
        let late = early + Duration::from_secs(2);
        assert_eq!(late.since(early), Duration::from_secs(2));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(late + Duration::MAX, Moment::after_origin(Duration::MAX));
    }
}
