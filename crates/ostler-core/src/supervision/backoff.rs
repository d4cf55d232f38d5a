//! Extension to OTP: a pause between two starts, which doubles on consecutive restarts.

use std::time::Duration;

use super::SpecError;

/// The least time between a child's start and its next one, as launchd's `ThrottleInterval`:
/// `first` for the first restart, twice as long for each consecutive one, up to `max`. A child that
/// ran for longer than that is restarted at once (ADR 0020).
///
/// A backoff only delays restarts: each one counts towards the intensity as it would without.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Backoff {
    /// The pause before the first restart, counted from the child's start. Zero: no pause.
    pub first: Duration,
    /// The longest pause, including jitter.
    pub max: Duration,
    /// The random part of the pause, from 0 to 1. With 0.2, a pause is up to 20 % shorter or
    /// longer. Zero: no jitter.
    pub jitter: f64,
    /// How long a child must run before its next restart counts as the first again. `None`: the
    /// supervisor's period.
    pub reset: Option<Duration>,
}

impl Backoff {
    /// Doubling pauses from `first` to `max` without jitter, reset after the supervisor's period.
    pub fn new(first: Duration, max: Duration) -> Self {
        Backoff {
            first,
            max,
            jitter: 0.0,
            reset: None,
        }
    }

    /// The random part of the pause, from 0 to 1. Default zero: no jitter.
    #[must_use]
    pub fn jitter(mut self, jitter: f64) -> Self {
        self.jitter = jitter;
        self
    }

    /// How long a child must run before its next restart counts as the first again. Default: the
    /// supervisor's period.
    #[must_use]
    pub fn reset(mut self, reset: Duration) -> Self {
        self.reset = Some(reset);
        self
    }

    /// The default of pools of processes (ADR 0020): from 50 ms to 10 s, with a jitter of 0.2.
    pub fn of_pools() -> Self {
        Backoff::new(Duration::from_millis(50), Duration::from_secs(10)).jitter(0.2)
    }

    /// The pause before the `attempt`-th consecutive restart, counted from 1. The time for which
    /// the child ran is part of it. `fraction` is a random number in `0.0..1.0`.
    pub fn delay(&self, attempt: u32, fraction: f64) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        let base = self.first.saturating_mul(1 << doublings).min(self.max);
        let spread = 1.0 + self.jitter * (2.0 * fraction - 1.0);
        let delay = Duration::try_from_secs_f64(base.as_secs_f64() * spread.clamp(0.0, 2.0));
        // What is too long for a Duration is too long for `max`.
        delay.unwrap_or(self.max).min(self.max)
    }

    pub(crate) fn validate(&self) -> Result<(), SpecError> {
        if self.first > self.max {
            return Err(SpecError::BackoffFirstOverMax {
                first: self.first,
                max: self.max,
            });
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return Err(SpecError::BackoffJitter(self.jitter));
        }
        Ok(())
    }
}

/// Random fractions for the jitter. SplitMix64, so that policies with the same seed behave the
/// same.
#[derive(Debug, Clone)]
pub(crate) struct Fractions(u64);

impl Fractions {
    pub(crate) fn new(seed: u64) -> Self {
        Fractions(seed)
    }

    pub(crate) fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^= bits >> 31;
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_max() {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let delays: Vec<u128> = (1..=6).map(|attempt| backoff.delay(attempt, 0.5).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.delay(u32::MAX, 0.5), Duration::from_secs(1));
    }

    #[test]
    fn jitter_stays_within_its_fraction_and_max() {
        let backoff = Backoff {
            jitter: 0.2,
            ..Backoff::new(Duration::from_millis(100), Duration::from_millis(210))
        };
        assert_eq!(backoff.delay(1, 0.0), Duration::from_millis(80));
        assert!(backoff.delay(1, 0.999).as_millis() >= 119);
        assert_eq!(backoff.delay(3, 0.999), Duration::from_millis(210));
    }

    #[test]
    fn no_delay_overflows() {
        for jitter in [0.0, 1.0, f64::NAN] {
            let backoff = Backoff {
                jitter,
                ..Backoff::new(Duration::MAX, Duration::MAX)
            };
            for fraction in [0.0, 0.5, 0.999] {
                assert!(backoff.delay(u32::MAX, fraction) <= Duration::MAX);
            }
        }
    }

    #[test]
    fn fractions_are_within_0_and_1_and_differ() {
        let mut fractions = Fractions::new(7);
        let drawn: Vec<f64> = (0..1000).map(|_| fractions.next()).collect();
        assert!(drawn.iter().all(|fraction| (0.0..1.0).contains(fraction)));
        assert!(drawn.iter().any(|fraction| *fraction < 0.1) && drawn.iter().any(|fraction| *fraction > 0.9));
    }
}
