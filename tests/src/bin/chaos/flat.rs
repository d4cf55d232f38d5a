//! Flat: what memory and descriptors of a long-lived process may do. Pure.
//!
//! The first samples are a warm-up. Of the rest, the median of the last quarter may exceed that of the first quarter by
//! no more than an allowance: medians, because a single sample shows a moment's work.

/// So many samples make no statement yet.
const WARM_UP: usize = 15;
/// So many more are needed before growth can be told from noise.
const ENOUGH: usize = 40;

/// How much more at the end than at the beginning is still flat.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance {
    pub(crate) kib: u64,
    pub(crate) descriptors: u64,
}

/// For a host: 6 MiB, a few percent of what tests' builds have, and a handful of descriptors that are on their way.
pub(crate) const HOST: Allowance = Allowance {
    kib: 6 * 1024,
    descriptors: 6,
};
/// For a guardian, which has 32 KiB: 64 KiB and four descriptors.
pub(crate) const GUARDIAN: Allowance = Allowance {
    kib: 64,
    descriptors: 4,
};

/// What one process weighed, in the order of time.
#[derive(Debug, Default)]
pub(crate) struct Weights {
    samples: Vec<(u64, u64)>,
}

/// From the first quarter to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Growth {
    pub(crate) kib: (u64, u64),
    pub(crate) descriptors: (u64, u64),
}

impl Weights {
    pub(crate) fn add(&mut self, kib: u64, descriptors: u64) {
        self.samples.push((kib, descriptors));
    }

    /// `None` while there are too few samples.
    pub(crate) fn growth(&self) -> Option<Growth> {
        let samples = self.samples.get(WARM_UP..).filter(|rest| rest.len() >= ENOUGH)?;
        let quarter = samples.len() / 4;
        let (first, last) = (&samples[..quarter], &samples[samples.len() - quarter..]);
        let both = |of: fn(&(u64, u64)) -> u64| (median(first, of), median(last, of));
        Some(Growth {
            kib: both(|sample| sample.0),
            descriptors: both(|sample| sample.1),
        })
    }
}

impl Growth {
    pub(crate) fn is_flat(&self, allowed: Allowance) -> bool {
        self.kib.1 <= self.kib.0 + allowed.kib && self.descriptors.1 <= self.descriptors.0 + allowed.descriptors
    }
}

fn median(samples: &[(u64, u64)], of: fn(&(u64, u64)) -> u64) -> u64 {
    let mut values: Vec<u64> = samples.iter().map(of).collect();
    values.sort_unstable();
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(of: impl Fn(u64) -> (u64, u64)) -> Weights {
        let mut weights = Weights::default();
        for at in 0..100 {
            let (kib, descriptors) = of(at);
            weights.add(kib, descriptors);
        }
        weights
    }

    #[test]
    fn a_warm_up_and_spikes_are_flat() {
        let spiky = weights(|at| match at {
            0..15 => (at * 1000, at),
            _ if at % 7 == 0 => (90_000, 90),
            _ => (20_000, 30),
        });
        assert!(spiky.growth().unwrap().is_flat(GUARDIAN));
    }

    #[test]
    fn a_steady_leak_is_not() {
        let memory = weights(|at| (20_000 + at * 200, 30)).growth().unwrap();
        assert!(!memory.is_flat(HOST), "{memory:?}");
        let descriptors = weights(|at| (20_000, 30 + at / 4)).growth().unwrap();
        assert!(!descriptors.is_flat(HOST), "{descriptors:?}");
    }

    #[test]
    fn a_few_samples_say_nothing() {
        let mut few = Weights::default();
        for at in 0..(WARM_UP + ENOUGH - 1) as u64 {
            few.add(at * 10_000, at);
        }
        assert_eq!(few.growth(), None);
    }
}
