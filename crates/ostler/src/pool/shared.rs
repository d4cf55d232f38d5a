//! What a pool's handle, its supervisor, its starters and its workers have in common.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ostler_core::failure::Failure;
use ostler_core::pool::{PoolEffect, PoolInput, PoolWatch};
use ostler_core::spec::PoolSpec;
use ostler_telemetry::{EventKind, Facts};
use tokio::sync::{Semaphore, watch};

use crate::hub::About;
use crate::instance::services::Services;
use crate::process::Slot;
use crate::supervisor::{DynamicSupervisor, Supervisor};

/// How far a pool is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolPhase {
    /// Not every worker is ready.
    Starting,
    /// Every worker is ready.
    Ready,
    /// Every slot has finished, and the pool is being stopped.
    Finished,
    /// It gave up, and is being stopped.
    GaveUp(Option<Failure>),
    /// It is down, and all it held is released. The phase it was in before tells why.
    Stopped(Box<PoolPhase>),
}

impl PoolPhase {
    /// Whether the pool's end has begun: nothing will be restarted any more.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Finished | Self::GaveUp(_) | Self::Stopped(_))
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct PoolShared {
    pub(crate) spec: Arc<PoolSpec>,
    pub(crate) services: Arc<Services>,
    pub(crate) slots: Vec<Arc<Slot>>,
    pub(crate) phase: watch::Sender<PoolPhase>,
    /// Its id in the root supervisor. No other pool of the run has it, not even a later one of the same name: whoever
    /// ends this pool late can't end that one.
    pub(crate) child_id: String,
    watch: Mutex<PoolWatch>,
    starters: Mutex<HashMap<u32, Supervisor>>,
    supervisor: Mutex<Option<DynamicSupervisor>>,
}

impl PoolShared {
    pub(crate) fn new(spec: PoolSpec, services: Arc<Services>) -> Arc<Self> {
        let spec = Arc::new(spec);
        let starting = Arc::new(Semaphore::new(spec.max_starting as usize));
        let slot = |index| Slot::new(index, Arc::clone(&spec), Arc::clone(&services), Arc::clone(&starting));
        let slots = (0..spec.workers).map(slot).collect();
        let (watch, at_once) = PoolWatch::new(spec.workers, spec.min_workers, spec.on_give_up);
        let shared = Arc::new(Self {
            spec: Arc::clone(&spec),
            services,
            slots,
            phase: watch::Sender::new(PoolPhase::Starting),
            child_id: format!("pool {} ({})", spec.name, uuid::Uuid::new_v4().simple()),
            watch: Mutex::new(watch),
            starters: Mutex::default(),
            supervisor: Mutex::default(),
        });
        if let Some(effect) = at_once {
            shared.carry_out(effect);
        }
        shared
    }

    /// Takes note of what happened to a slot, and does what follows for the pool.
    pub(crate) fn tell(&self, input: PoolInput) {
        let mut watch = lock(&self.watch);
        let effect = watch.step(input);
        let ready = watch.ready_workers();
        // Carried out under the lock, so that events come in the order of their causes. Nothing in it waits.
        if let Some(effect) = effect {
            self.carry_out(effect);
        } else if ready < self.slots.len() {
            self.enter(|phase| *phase == PoolPhase::Ready, PoolPhase::Starting);
        }
    }

    /// How many workers are ready.
    pub(crate) fn ready_workers(&self) -> usize {
        lock(&self.watch).ready_workers()
    }

    /// The pool gives up for a reason that is not one of its slots'.
    pub(crate) fn give_up(&self, message: String) {
        self.carry_out(PoolEffect::GaveUp { message, failure: None });
    }

    fn carry_out(&self, effect: PoolEffect) {
        match effect {
            PoolEffect::Ready => {
                let count = Some(self.slots.len() as u64);
                self.emit(
                    EventKind::PoolReady,
                    Facts {
                        count,
                        ..Facts::default()
                    },
                );
                self.enter(|phase| *phase == PoolPhase::Starting, PoolPhase::Ready);
            }
            PoolEffect::Finished => {
                self.emit(EventKind::PoolFinished, Facts::default());
                self.enter(|phase| !phase.is_over(), PoolPhase::Finished);
            }
            PoolEffect::GaveUp { message, failure } => {
                self.emit(EventKind::PoolGaveUp, why(message, failure.as_ref()));
                self.enter(|phase| !phase.is_over(), PoolPhase::GaveUp(failure));
            }
        }
    }

    fn enter(&self, from: impl Fn(&PoolPhase) -> bool, to: PoolPhase) {
        self.phase.send_if_modified(|phase| {
            let enters = from(phase);
            if enters {
                *phase = to;
            }
            enters
        });
    }

    /// The pool is down, and all it held is released.
    pub(crate) fn stopped(&self) {
        self.phase.send_if_modified(|phase| {
            let news = !matches!(phase, PoolPhase::Stopped(_));
            if news {
                self.emit(EventKind::PoolStopped, Facts::default());
                let before = std::mem::replace(phase, PoolPhase::Starting);
                *phase = PoolPhase::Stopped(Box::new(before));
            }
            news
        });
    }

    pub(crate) fn is_stopped(&self) -> bool {
        matches!(&*self.phase.borrow(), PoolPhase::Stopped(_))
    }

    /// Waits until every worker's latest incarnation is released, or its release is overdue; then its slots' sitters
    /// may end.
    pub(crate) async fn settle(&self) {
        for slot in &self.slots {
            slot.settled().await;
        }
        let closed = self.slots.iter().filter(|slot| slot.close()).map(|slot| slot.number);
        self.services.link.close_slots(closed.collect());
    }

    fn emit(&self, kind: EventKind, facts: Facts) {
        self.services.hub.emit(kind, About::pool(&self.spec.name), facts);
    }

    pub(crate) fn note_supervisor(&self, supervisor: DynamicSupervisor) {
        *lock(&self.supervisor) = Some(supervisor);
    }

    pub(crate) fn supervisor(&self) -> Option<DynamicSupervisor> {
        lock(&self.supervisor).clone()
    }

    pub(crate) fn note_starter(&self, index: u32, starter: Supervisor) {
        lock(&self.starters).insert(index, starter);
    }

    pub(crate) fn starter(&self, index: u32) -> Option<Supervisor> {
        lock(&self.starters).get(&index).cloned()
    }
}

/// What a pool says of its giving up: the last failure, so that nobody has to look for it.
fn why(message: String, failure: Option<&Failure>) -> Facts {
    match failure {
        None => Facts {
            message: Some(message),
            ..Facts::default()
        },
        Some(failure) => {
            let message = Some(format!("{message}; the last failure: {}", failure.message));
            Facts {
                message,
                ..Facts::of_failure(failure)
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
