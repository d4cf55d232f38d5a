//! When a pool is ready, degraded, has finished, or gives up: the rules of pools beyond OTP (ADR
//! 0001), as a pure value.

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

/// What happens to a slot of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolInput {
    /// The slot's worker is ready.
    Ready(u32),
    /// The slot's worker is no longer ready.
    NotReady(u32),
    /// The slot's worker ended by itself, and is being restarted.
    Restarting(u32),
    /// The slot's worker can't be started just now, through no fault of its own; the start is
    /// repeated after a pause.
    Waiting(u32, Failure),
    /// The slot has finished.
    Finished(u32),
    /// The slot gave up, for the last failure of its worker.
    GaveUp(u32, Option<Failure>),
}

impl PoolInput {
    /// The slot that it happens to.
    fn index(&self) -> u32 {
        match self {
            Self::Ready(index) | Self::NotReady(index) | Self::Restarting(index) => *index,
            Self::Waiting(index, _) | Self::Finished(index) | Self::GaveUp(index, _) => *index,
        }
    }
}

/// What follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolEffect {
    /// Every worker is ready: for the first time, or again.
    Ready,
    /// The pool serves with fewer workers than it should: one is being restarted, or a slot gave
    /// up. Once until the pool is ready again; once more for each slot that gives up, and for the
    /// first that waits for what is not its worker's fault.
    Degraded {
        /// How many workers are ready.
        ready: usize,
        /// How many should be.
        expected: usize,
        /// What it waits for: the slot, and why its worker can't be started.
        waits: Option<(u32, Failure)>,
    },
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

/// How many of a pool's workers serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Not every worker has been ready yet, and no slot is known to stay empty.
    Starting,
    /// Every worker is ready. Those that have finished no longer count.
    Ready,
    /// Fewer workers are ready than should be: the pool was ready before, or slots gave up.
    Degraded {
        /// How many workers are ready.
        ready: usize,
        /// How many should be: all that have not finished.
        expected: usize,
    },
}

/// The state of a pool's slots, and the rules for the pool as a whole.
///
/// A pool gives up when fewer than `min_workers` slots are left that may still serve (finished ones
/// do not count as lost), or at the first slot that gives up under [`OnGiveUp::Pool`]. It has
/// finished when every slot has finished, or gave up without taking the pool with it. Both happen
/// once, and nothing follows them.
#[derive(Debug, Clone)]
pub struct PoolWatch {
    slots: Vec<Slot>,
    /// How many slots are in each state, so that a step costs the same in a pool of a thousand
    /// workers.
    tally: [usize; 4],
    min_workers: u32,
    on_give_up: OnGiveUp,
    /// How many of the slots are there only so that others can be replaced.
    surge: usize,
    /// The pool's start is over: no slot has been busy at one moment at least, or one waits.
    started: bool,
    announced: Announced,
    over: bool,
}

/// What was announced last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Announced {
    /// Nothing that holds still.
    Nothing,
    Ready,
    Degraded,
    /// Degraded, and what it waits for.
    Waiting,
}

impl PoolWatch {
    /// A pool of `workers` slots, all busy. An empty pool is ready at once, which the effect says,
    /// and can grow.
    pub fn new(workers: u32, min_workers: u32, on_give_up: OnGiveUp) -> (Self, Option<PoolEffect>) {
        let slots = vec![Slot::Busy; workers as usize];
        let mut tally = [0; 4];
        tally[Slot::Busy as usize] = slots.len();
        let mut watch = Self {
            slots,
            tally,
            min_workers,
            on_give_up,
            surge: 0,
            started: false,
            announced: Announced::Nothing,
            over: false,
        };
        let effect = watch.ready();
        (watch, effect)
    }

    /// The pool has `workers` slots from now on, and `surge` of them are there only so that others
    /// can be replaced: they are not expected to be ready. Slots are added, busy, and removed at
    /// the end. A pool that is emptied so has not finished: it can grow again. Returns what
    /// follows.
    pub fn resize(&mut self, workers: u32, surge: u32) -> Option<PoolEffect> {
        if self.over {
            return None;
        }
        let (before, now) = (self.slots.len(), workers as usize);
        let requested = before.saturating_sub(self.surge);
        for removed in self.slots.get(now..).unwrap_or_default() {
            self.tally[*removed as usize] -= 1;
        }
        self.slots.resize(now, Slot::Busy);
        self.tally[Slot::Busy as usize] += now.saturating_sub(before);
        self.surge = surge as usize;
        if now.saturating_sub(self.surge) != requested {
            self.announced = Announced::Nothing;
        }
        self.too_few(None).or_else(|| self.finished()).or_else(|| self.ready())
    }

    /// Takes what happened; returns what follows.
    pub fn step(&mut self, input: PoolInput) -> Option<PoolEffect> {
        if self.over {
            return None;
        }
        if input.index() as usize >= self.slots.len() {
            // The slot was removed, and its worker is ending.
            return None;
        }
        let (mut lost, mut waits) = (false, None);
        match input {
            PoolInput::Ready(index) => self.set(index, Slot::Ready),
            PoolInput::NotReady(index) => self.set(index, Slot::Busy),
            PoolInput::Restarting(index) => {
                self.set(index, Slot::Busy);
                lost = !matches!(self.announced, Announced::Degraded | Announced::Waiting);
            }
            PoolInput::Waiting(index, failure) => {
                self.set(index, Slot::Busy);
                self.started = true;
                lost = self.announced != Announced::Waiting;
                waits = Some((index, failure));
            }
            PoolInput::Finished(index) => self.set(index, Slot::Finished),
            PoolInput::GaveUp(index, failure) => {
                self.set(index, Slot::GaveUp);
                if let Some(effect) = self.gave_up(index, failure) {
                    return Some(effect);
                }
                lost = true;
            }
        }
        if self.count(Slot::Busy) == 0 && !self.started {
            self.started = true;
            lost = true;
        }
        self.finished()
            .or_else(|| self.ready())
            .or_else(|| self.degraded(lost, waits))
    }

    /// How many workers serve. Of no meaning once the pool has finished or given up.
    pub fn readiness(&self) -> Readiness {
        let ready = self.ready_workers();
        let living = self.slots.len() - self.count(Slot::Finished);
        let expected = living.saturating_sub(self.surge);
        match self.started {
            _ if ready >= expected && (ready > 0 || self.slots.is_empty()) => Readiness::Ready,
            true => Readiness::Degraded { ready, expected },
            false => Readiness::Starting,
        }
    }

    /// Whether slots gave up, so that the pool can't become ready unless one of them is started
    /// again.
    pub fn is_short(&self) -> bool {
        self.count(Slot::GaveUp) > 0 && self.count(Slot::Busy) == 0
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
        if self.announced == Announced::Ready && self.readiness() != Readiness::Ready {
            self.announced = Announced::Nothing;
        }
    }

    fn gave_up(&mut self, index: u32, failure: Option<Failure>) -> Option<PoolEffect> {
        match self.on_give_up {
            OnGiveUp::Pool => {
                self.over = true;
                let message = format!("worker {index} gave up, and on_give_up = \"pool\"");
                Some(PoolEffect::GaveUp { message, failure })
            }
            OnGiveUp::Worker => self.too_few(failure),
        }
    }

    /// The pool gives up when slots gave up, and fewer than `min_workers` are left.
    fn too_few(&mut self, failure: Option<Failure>) -> Option<PoolEffect> {
        let lost = self.count(Slot::GaveUp);
        let left = self.slots.len() - lost;
        if lost == 0 || left >= self.min_workers as usize {
            return None;
        }
        self.over = true;
        let message = format!(
            "{lost} of {} workers gave up, fewer than min_workers ({}) are left",
            self.slots.len(),
            self.min_workers
        );
        Some(PoolEffect::GaveUp { message, failure })
    }

    fn finished(&mut self) -> Option<PoolEffect> {
        let ended = self.count(Slot::Finished) + self.count(Slot::GaveUp);
        let is_over = ended == self.slots.len() && ended > 0;
        is_over.then(|| {
            self.over = true;
            PoolEffect::Finished
        })
    }

    fn ready(&mut self) -> Option<PoolEffect> {
        let news = self.readiness() == Readiness::Ready && self.announced != Announced::Ready;
        news.then(|| {
            self.announced = Announced::Ready;
            PoolEffect::Ready
        })
    }

    fn degraded(&mut self, lost: bool, waits: Option<(u32, Failure)>) -> Option<PoolEffect> {
        match self.readiness() {
            Readiness::Degraded { ready, expected } if lost => {
                if waits.is_some() {
                    self.announced = Announced::Waiting;
                } else if self.announced != Announced::Waiting {
                    self.announced = Announced::Degraded;
                }
                Some(PoolEffect::Degraded { ready, expected, waits })
            }
            Readiness::Degraded { .. } | Readiness::Ready | Readiness::Starting => None,
        }
    }
}

#[cfg(test)]
mod tests;
