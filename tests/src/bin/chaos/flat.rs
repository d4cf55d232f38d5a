//! Decides whether the memory and descriptors of a long-lived process stay flat. Pure.
//!
//! The first samples are a warm-up. In the rest, the median of the last quarter may exceed that of
//! the first quarter by an allowance at most. Medians, because a single sample depends on what the
//! process is doing at that moment.

/// Samples to skip.
const WARM_UP: usize = 15;
/// Further samples needed to tell growth from noise.
const ENOUGH: usize = 40;

/// The growth that still counts as flat.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance {
    pub(crate) kib: u64,
    pub(crate) descriptors: u64,
}

/// For a host: 6 MiB, a few percent of what debug builds use, and a few descriptors that are in
/// transit. The watches on its workers are not counted.
pub(crate) const HOST: Allowance = Allowance {
    kib: 6 * 1024,
    descriptors: 6,
};
/// For a guardian, which uses 32 KiB: 64 KiB and four descriptors.
pub(crate) const GUARDIAN: Allowance = Allowance {
    kib: 64,
    descriptors: 4,
};

/// The samples of one process, in order of time.
#[derive(Debug, Default)]
pub(crate) struct Weights {
    samples: Vec<(u64, u64)>,
}

/// The medians of the first and the last quarter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Growth {
    pub(crate) kib: (u64, u64),
    pub(crate) descriptors: (u64, u64),
}

impl Weights {
    pub(crate) fn add(&mut self, kib: u64, descriptors: u64) {
        self.samples.push((kib, descriptors));
    }

    /// `None` if there are too few samples.
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
    fn warm_up_and_spikes_are_flat() {
        let spiky = weights(|at| match at {
            0..15 => (at * 1000, at),
            _ if at % 7 == 0 => (90_000, 90),
            _ => (20_000, 30),
        });
        assert!(spiky.growth().unwrap().is_flat(GUARDIAN));
    }

    #[test]
    fn steady_leak_is_not_flat() {
        let memory = weights(|at| (20_000 + at * 200, 30)).growth().unwrap();
        assert!(!memory.is_flat(HOST), "{memory:?}");
        let descriptors = weights(|at| (20_000, 30 + at)).growth().unwrap();
        assert!(!descriptors.is_flat(HOST), "{descriptors:?}");
    }

    #[test]
    fn too_few_samples_have_no_growth() {
        let mut few = Weights::default();
        for at in 0..(WARM_UP + ENOUGH - 1) as u64 {
            few.add(at * 10_000, at);
        }
        assert_eq!(few.growth(), None);
    }
}
