//! The workers that can be used, ordered by how busy they are.

use std::collections::{BTreeMap, BTreeSet};

use ostler_core::ids::Incarnation;

/// One incarnation of one worker of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WorkerKey {
    pub(crate) index: u32,
    pub(crate) incarnation: Incarnation,
}

#[derive(Debug)]
struct Worker<W> {
    incarnation: Incarnation,
    in_flight: u32,
    /// When it was last chosen, as a number that only grows.
    turn: u64,
    handle: W,
}

/// Every worker that is ready and not draining, with its calls in flight. `W` is the handle of a
/// worker.
#[derive(Debug)]
pub(crate) struct Workers<W> {
    concurrency: u32,
    ready: BTreeMap<u32, Worker<W>>,
    /// Those with room for another call: fewest in flight first; among equals the one that was
    /// chosen longest ago.
    free: BTreeSet<(u32, u64, u32)>,
    turns: u64,
}

impl<W: Clone> Workers<W> {
    /// No workers yet; each will take up to `concurrency` calls at a time.
    pub(crate) fn new(concurrency: u32) -> Self {
        Self {
            concurrency: concurrency.max(1),
            ready: BTreeMap::new(),
            free: BTreeSet::new(),
            turns: 0,
        }
    }

    /// This incarnation can be used from now on, and has nothing in flight. An older one of the
    /// worker is forgotten.
    pub(crate) fn insert(&mut self, key: WorkerKey, handle: W) {
        self.remove(key.index);
        self.turns += 1;
        self.free.insert((0, self.turns, key.index));
        let worker = Worker {
            incarnation: key.incarnation,
            in_flight: 0,
            turn: self.turns,
            handle,
        };
        self.ready.insert(key.index, worker);
    }

    /// The worker gets no further calls.
    pub(crate) fn remove(&mut self, index: u32) -> Option<Incarnation> {
        let worker = self.ready.remove(&index)?;
        self.free.remove(&(worker.in_flight, worker.turn, index));
        Some(worker.incarnation)
    }

    /// Takes the least busy worker; `None`: all are full, or there is none.
    pub(crate) fn take(&mut self) -> Option<(WorkerKey, W)> {
        let &(_, _, index) = self.free.first()?;
        self.take_this(index)
    }

    /// Takes this worker; `None`: it is full, or not ready.
    pub(crate) fn take_this(&mut self, index: u32) -> Option<(WorkerKey, W)> {
        let worker = self.ready.get_mut(&index)?;
        if worker.in_flight >= self.concurrency {
            return None;
        }
        self.free.remove(&(worker.in_flight, worker.turn, index));
        self.turns += 1;
        worker.in_flight += 1;
        worker.turn = self.turns;
        if worker.in_flight < self.concurrency {
            self.free.insert((worker.in_flight, worker.turn, index));
        }
        let key = WorkerKey {
            index,
            incarnation: worker.incarnation,
        };
        Some((key, worker.handle.clone()))
    }

    /// Whether this worker can take another call.
    pub(crate) fn has_room(&self, index: u32) -> bool {
        self.ready
            .get(&index)
            .is_some_and(|worker| worker.in_flight < self.concurrency)
    }

    /// A call has ended. False: that incarnation no longer serves, and nothing changes.
    pub(crate) fn give_back(&mut self, key: WorkerKey) -> bool {
        let Some(worker) = self.ready.get_mut(&key.index) else {
            return false;
        };
        if worker.incarnation != key.incarnation || worker.in_flight == 0 {
            return false;
        }
        self.free.remove(&(worker.in_flight, worker.turn, key.index));
        worker.in_flight -= 1;
        self.free.insert((worker.in_flight, worker.turn, key.index));
        true
    }

    /// The incarnation of this worker that can be used.
    pub(crate) fn incarnation(&self, index: u32) -> Option<Incarnation> {
        self.ready.get(&index).map(|worker| worker.incarnation)
    }

    /// Every worker that can be used.
    pub(crate) fn keys(&self) -> impl Iterator<Item = WorkerKey> + '_ {
        self.ready.iter().map(|(index, worker)| WorkerKey {
            index: *index,
            incarnation: worker.incarnation,
        })
    }

    /// How many can be used.
    pub(crate) fn len(&self) -> usize {
        self.ready.len()
    }

    /// Calls in flight on workers that can be used.
    pub(crate) fn in_flight(&self) -> u64 {
        self.ready.values().map(|worker| u64::from(worker.in_flight)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(index: u32, incarnation: u64) -> WorkerKey {
        WorkerKey {
            index,
            incarnation: Incarnation(incarnation),
        }
    }

    fn three(concurrency: u32) -> Workers<()> {
        let mut workers = Workers::new(concurrency);
        (0..3).for_each(|index| workers.insert(key(index, 1), ()));
        workers
    }

    fn taken(workers: &mut Workers<()>) -> Option<u32> {
        workers.take().map(|(key, ())| key.index)
    }

    #[test]
    fn the_least_busy_is_chosen_and_equals_take_turns() {
        let mut workers = three(2);
        let order: Vec<_> = (0..7).map(|_| taken(&mut workers)).collect();
        assert_eq!(order, [Some(0), Some(1), Some(2), Some(0), Some(1), Some(2), None]);
        assert!(workers.give_back(key(1, 1)));
        assert_eq!(taken(&mut workers), Some(1));
        assert_eq!(taken(&mut workers), None);
    }

    #[test]
    fn what_an_old_incarnation_gives_back_frees_nothing() {
        let mut workers = three(1);
        assert_eq!(workers.take_this(0).map(|(key, ())| key), Some(key(0, 1)));
        workers.insert(key(0, 2), ());
        assert!(workers.take_this(0).is_some());
        assert!(!workers.give_back(key(0, 1)));
        assert!(workers.take_this(0).is_none());
        assert!(workers.give_back(key(0, 2)));
        assert!(!workers.give_back(key(0, 2)), "twice is once too often");
    }

    proptest! {
        /// Against a model that counts: never above the limit, always a least busy one, never one
        /// that is gone.
        #[test]
        fn agrees_with_a_plain_count(steps in prop::collection::vec((0u8..4, 0u32..5), 1..200), concurrency in 1u32..4) {
            let mut workers = Workers::new(concurrency);
            let mut model: BTreeMap<u32, (u64, u32)> = BTreeMap::new();
            let mut held = Vec::new();
            let mut incarnations = 0;
            for (what, index) in steps {
                match what {
                    0 => {
                        incarnations += 1;
                        workers.insert(key(index, incarnations), ());
                        model.insert(index, (incarnations, 0));
                    }
                    1 => {
                        prop_assert_eq!(workers.remove(index).is_some(), model.remove(&index).is_some());
                    }
                    2 => {
                        let least = model.values().map(|(_, busy)| *busy).filter(|busy| *busy < concurrency).min();
                        let got = workers.take().map(|(key, ())| key);
                        prop_assert_eq!(got.is_some(), least.is_some());
                        if let Some(got) = got {
                            let worker = model.get_mut(&got.index).expect("it is ready");
                            prop_assert_eq!((worker.0, Some(worker.1)), (got.incarnation.0, least));
                            worker.1 += 1;
                            held.push(got);
                        }
                    }
                    _ => if let Some(back) = held.pop() {
                        let current = model.get_mut(&back.index).filter(|worker| worker.0 == back.incarnation.0);
                        prop_assert_eq!(workers.give_back(back), current.is_some());
                        if let Some(worker) = current {
                            worker.1 -= 1;
                        }
                    }
                }
                prop_assert_eq!(workers.in_flight(), model.values().map(|(_, busy)| u64::from(*busy)).sum::<u64>());
            }
        }
    }
}
