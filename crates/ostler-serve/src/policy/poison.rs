//! Requests that crash workers: counted by their key over all their attempts, and refused once
//! there were too many.

use std::collections::{BTreeMap, HashMap};

/// How many keys are remembered; beyond that the oldest is forgotten.
const REMEMBERED: usize = 10_000;

/// Crashes by request.
#[derive(Debug)]
pub(crate) struct Poison {
    limit: u32,
    crashes: HashMap<Box<str>, (u32, u64)>,
    /// Keys by the time of their last crash.
    order: BTreeMap<u64, Box<str>>,
    seq: u64,
}

impl Poison {
    /// A request is refused after so many crashes; zero: never.
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            limit,
            crashes: HashMap::new(),
            order: BTreeMap::new(),
            seq: 0,
        }
    }

    /// Whether so many crashes are too many.
    pub(crate) fn is_too_many(&self, crashes: u32) -> bool {
        self.limit > 0 && crashes >= self.limit
    }

    /// How many crashes this request has caused so far.
    pub(crate) fn crashes(&self, key: &str) -> u32 {
        self.crashes.get(key).map_or(0, |(count, _)| *count)
    }

    /// A worker crashed on this request.
    pub(crate) fn crashed(&mut self, key: &str) {
        self.seq += 1;
        let entry = self.crashes.entry(key.into()).or_insert((0, self.seq));
        self.order.remove(&entry.1);
        *entry = (entry.0 + 1, self.seq);
        self.order.insert(self.seq, key.into());
        if self.order.len() > REMEMBERED
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.crashes.remove(&oldest);
        }
    }

    /// The request was answered: its crashes were not its fault.
    pub(crate) fn answered(&mut self, key: &str) {
        if let Some((_, seq)) = self.crashes.remove(key) {
            self.order.remove(&seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_crash_is_one_too_many_and_an_answer_clears_it() {
        let mut poison = Poison::new(2);
        poison.crashed("a");
        assert!(!poison.is_too_many(poison.crashes("a")));
        poison.crashed("a");
        assert!(poison.is_too_many(poison.crashes("a")));
        assert_eq!(poison.crashes("b"), 0);
        poison.answered("a");
        assert_eq!(poison.crashes("a"), 0);
        assert!(poison.order.is_empty());
    }

    #[test]
    fn the_oldest_is_forgotten_and_memory_is_bounded() {
        let mut poison = Poison::new(2);
        (0..=REMEMBERED).for_each(|nth| poison.crashed(&nth.to_string()));
        assert_eq!((poison.crashes.len(), poison.order.len()), (REMEMBERED, REMEMBERED));
        assert_eq!((poison.crashes("0"), poison.crashes("1")), (0, 1));
    }

    #[test]
    fn zero_is_no_limit() {
        assert!(!Poison::new(0).is_too_many(1_000));
    }
}
