//! When a worker has served long enough to be replaced by a fresh one.

use std::time::Duration;

use ostler_core::spec::Recycle as Rules;

/// Why a worker is recycled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecycleReason {
    /// It is older than `age`.
    Age,
    /// It has served `requests` calls.
    Requests,
    /// Its whole tree holds more resident memory than `memory`.
    Memory,
}

/// The limits of one incarnation: the pool's, each made smaller by a random part of up to `jitter`,
/// so that workers that were started together are not recycled together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Limits {
    age: Option<Duration>,
    requests: Option<u64>,
    memory: Option<u64>,
}

impl Limits {
    /// `random` gives numbers from 0 up to 1, without 1.
    pub(crate) fn draw(rules: &Rules, mut random: impl FnMut() -> f64) -> Self {
        let mut keep = || 1.0 - rules.jitter.clamp(0.0, 1.0) * random();
        let scaled = |limit: u64, keep: f64| ((limit as f64 * keep) as u64).max(1);
        Self {
            age: rules.age.map(|age| age.mul_f64(keep())),
            requests: rules.requests.map(|requests| scaled(requests, keep())),
            memory: rules.memory.map(|memory| scaled(memory, keep())),
        }
    }

    /// Whether memory is limited, and has to be measured.
    pub(crate) fn has_memory(&self) -> bool {
        self.memory.is_some()
    }

    /// The limit that is exceeded, if any. `memory` is `None` if it was not measured.
    pub(crate) fn exceeded(&self, age: Duration, requests: u64, memory: Option<u64>) -> Option<RecycleReason> {
        if self.requests.is_some_and(|limit| requests >= limit) {
            Some(RecycleReason::Requests)
        } else if self.age.is_some_and(|limit| age >= limit) {
            Some(RecycleReason::Age)
        } else if self.memory.zip(memory).is_some_and(|(limit, memory)| memory > limit) {
            Some(RecycleReason::Memory)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules() -> Rules {
        Rules::default()
            .age(Duration::from_secs(100))
            .requests(10)
            .memory(1000)
            .jitter(0.2)
    }

    #[test]
    fn each_limit_counts_by_itself() {
        let limits = Limits::draw(&rules(), || 0.0);
        let second = Duration::from_secs(1);
        assert_eq!(limits.exceeded(99 * second, 9, Some(1000)), None);
        assert_eq!(limits.exceeded(99 * second, 9, None), None);
        assert_eq!(limits.exceeded(100 * second, 9, None), Some(RecycleReason::Age));
        assert_eq!(limits.exceeded(second, 10, None), Some(RecycleReason::Requests));
        assert_eq!(limits.exceeded(second, 1, Some(1001)), Some(RecycleReason::Memory));
        let never = Limits::draw(&Rules::default(), || 0.0);
        assert_eq!(never.exceeded(Duration::MAX, u64::MAX, Some(u64::MAX)), None);
    }

    proptest! {
        /// Jitter makes limits smaller, by no more than its share, and never zero.
        #[test]
        fn jitter_stays_within_its_share(random in 0.0f64..1.0, requests in 1u64..1_000_000, jitter in 0.0f64..1.0) {
            let limits = Limits::draw(&rules().requests(requests).jitter(jitter), || random);
            let drawn = limits.requests.expect("a limit");
            prop_assert!((1..=requests).contains(&drawn));
            prop_assert!(drawn as f64 >= (requests as f64 * (1.0 - jitter)).floor());
        }
    }
}
