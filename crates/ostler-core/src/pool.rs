//! When a pool is ready, has finished, or gives up: what is said of pools beyond OTP (ADR 0001), as a pure value.

use crate::failure::Failure;
use crate::spec::OnGiveUp;

/// What became of one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    /// Its worker is starting, restarting or stopping.
    Busy,
    /// Its worker is ready.
    Ready,
    /// Its worker ended normally and is not restarted.
    Finished,
    /// Its worker was restarted too often.
    GaveUp,
}

/// What the pool's watcher is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolInput {
    /// The slot's worker is ready.
    Ready(u32),
    /// The slot's worker is no longer ready.
    NotReady(u32),
    /// The slot has finished.
    Finished(u32),
    /// The slot gave up, for the last failure of its worker.
    GaveUp(u32, Option<Failure>),
}

/// What follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolEffect {
    /// Every slot that is left is ready: for the first time, or again.
    Ready,
    /// Every slot has finished; nothing is left to supervise.
    Finished,
    /// The pool gives up: stop what is left of it.
    GaveUp {
        /// Why, for people.
        message: String,
        /// The failure of the slot that gave up last.
        failure: Option<Failure>,
    },
}

/// The state of a pool's slots, and the rules for the pool as a whole.
///
/// A pool gives up when fewer than `min_workers` slots are left that may still serve (finished ones do not count as
/// lost), or at the first slot that gives up under [`OnGiveUp::Pool`]. It has finished when every slot has finished,
/// or gave up without taking the pool with it. Both happen once, and nothing follows them.
#[derive(Debug, Clone)]
pub struct PoolWatch {
    slots: Vec<Slot>,
    /// How many slots are in each state: what is asked at each step of a thousand workers is not counted anew.
    tally: [usize; 4],
    min_workers: u32,
    on_give_up: OnGiveUp,
    announced_ready: bool,
    over: bool,
}

impl PoolWatch {
    /// A pool of `workers` slots, all busy. An empty pool has finished at once: the effect says so.
    pub fn new(workers: u32, min_workers: u32, on_give_up: OnGiveUp) -> (Self, Option<PoolEffect>) {
        let slots = vec![Slot::Busy; workers as usize];
        let mut tally = [0; 4];
        tally[Slot::Busy as usize] = slots.len();
        let mut watch = Self {
            slots,
            tally,
            min_workers,
            on_give_up,
            announced_ready: false,
            over: false,
        };
        let effect = watch.finished();
        (watch, effect)
    }

    /// Takes what happened; says what follows.
    pub fn step(&mut self, input: PoolInput) -> Option<PoolEffect> {
        if self.over {
            return None;
        }
        match input {
            PoolInput::Ready(index) => self.set(index, Slot::Ready),
            PoolInput::NotReady(index) => self.set(index, Slot::Busy),
            PoolInput::Finished(index) => self.set(index, Slot::Finished),
            PoolInput::GaveUp(index, failure) => {
                self.set(index, Slot::GaveUp);
                if let Some(effect) = self.gave_up(index, failure) {
                    return Some(effect);
                }
            }
        }
        self.finished().or_else(|| self.ready())
    }

    /// How many slots have a ready worker.
    pub fn ready_workers(&self) -> usize {
        self.count(Slot::Ready)
    }

    fn count(&self, state: Slot) -> usize {
        self.tally[state as usize]
    }

    fn set(&mut self, index: u32, state: Slot) {
        if let Some(slot) = self.slots.get_mut(index as usize) {
            self.tally[*slot as usize] -= 1;
            self.tally[state as usize] += 1;
            *slot = state;
        }
        if state != Slot::Ready {
            self.announced_ready = false;
        }
    }

    fn gave_up(&mut self, index: u32, failure: Option<Failure>) -> Option<PoolEffect> {
        let lost = self.count(Slot::GaveUp);
        let left = self.slots.len() - lost;
        let message = match self.on_give_up {
            OnGiveUp::Pool => format!("worker {index} gave up, and on_give_up = \"pool\""),
            OnGiveUp::Worker if left < self.min_workers as usize => {
                format!(
                    "{lost} of {} workers gave up, fewer than min_workers ({}) are left",
                    self.slots.len(),
                    self.min_workers
                )
            }
            OnGiveUp::Worker => return None,
        };
        self.over = true;
        Some(PoolEffect::GaveUp { message, failure })
    }

    fn finished(&mut self) -> Option<PoolEffect> {
        let ended = self.count(Slot::Finished) + self.count(Slot::GaveUp);
        (ended == self.slots.len()).then(|| {
            self.over = true;
            PoolEffect::Finished
        })
    }

    fn ready(&mut self) -> Option<PoolEffect> {
        let news = self.count(Slot::Busy) == 0 && !self.announced_ready && self.count(Slot::Ready) > 0;
        self.announced_ready |= news;
        news.then_some(PoolEffect::Ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(workers: u32, min: u32, rule: OnGiveUp) -> PoolWatch {
        PoolWatch::new(workers, min, rule).0
    }

    #[test]
    fn ready_is_told_once_and_again_after_a_loss() {
        let mut watch = pool(2, 1, OnGiveUp::Worker);
        assert_eq!(watch.step(PoolInput::Ready(0)), None);
        assert_eq!(watch.step(PoolInput::Ready(1)), Some(PoolEffect::Ready));
        assert_eq!(watch.step(PoolInput::NotReady(0)), None);
        assert_eq!(watch.step(PoolInput::Ready(0)), Some(PoolEffect::Ready));
    }

    #[test]
    fn the_others_serve_on_until_too_few_are_left() {
        let mut watch = pool(3, 2, OnGiveUp::Worker);
        assert_eq!(watch.step(PoolInput::GaveUp(0, None)), None);
        assert!(matches!(
            watch.step(PoolInput::GaveUp(1, None)),
            Some(PoolEffect::GaveUp { .. })
        ));
        assert_eq!(watch.step(PoolInput::GaveUp(2, None)), None, "it gives up once");
    }

    #[test]
    fn the_last_slot_to_give_up_takes_the_pool_with_it() {
        let mut watch = pool(2, 1, OnGiveUp::Worker);
        assert_eq!(watch.step(PoolInput::GaveUp(0, None)), None);
        assert!(matches!(
            watch.step(PoolInput::GaveUp(1, None)),
            Some(PoolEffect::GaveUp { .. })
        ));
    }

    #[test]
    fn under_otps_rule_the_first_slot_takes_the_pool_with_it() {
        let mut watch = pool(9, 1, OnGiveUp::Pool);
        assert!(matches!(
            watch.step(PoolInput::GaveUp(4, None)),
            Some(PoolEffect::GaveUp { .. })
        ));
    }

    #[test]
    fn finished_when_all_slots_have() {
        let mut watch = pool(2, 1, OnGiveUp::Worker);
        assert_eq!(watch.step(PoolInput::Finished(1)), None);
        assert_eq!(watch.step(PoolInput::Finished(0)), Some(PoolEffect::Finished));
    }

    #[test]
    fn an_empty_pool_has_finished_at_once() {
        assert_eq!(PoolWatch::new(0, 0, OnGiveUp::Worker).1, Some(PoolEffect::Finished));
    }
}
