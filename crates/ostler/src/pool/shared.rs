//! The state shared by a pool's handles, its supervisor, its starters and its workers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ostler_core::failure::Failure;
use ostler_core::ids::WorkerId;
use ostler_core::pool::{PoolEffect, PoolInput, PoolWatch};
use ostler_core::spec::PoolSpec;
use ostler_telemetry::{EventKind, Facts};
use tokio::sync::watch;

use super::phase::{PoolEnd, PoolPhase};
use super::slots::Slots;
use crate::follow::Followers;
use crate::hub::About;
use crate::instance::services::Services;
use crate::process::{Host, ProbePlace, Setup, Slot};
use crate::supervisor::{ChildKey, DynamicSupervisor, Supervisor};

/// The pool's phase, for tasks that wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) phase: PoolPhase,
    /// Slots gave up and no worker is starting, so that the pool can't become ready by itself.
    short: bool,
}

/// Shared by everything that belongs to one pool. It outlives the pool's actors.
#[derive(Debug)]
pub(crate) struct PoolShared {
    pub(crate) spec: Arc<PoolSpec>,
    pub(crate) services: Arc<Services>,
    /// What its incarnations share.
    pub(super) setup: Arc<Setup>,
    pub(crate) slots: Slots,
    pub(crate) followers: Arc<Followers>,
    /// Its id in the root supervisor, unique in the run: a late end of this pool can't end a later
    /// pool of the same name.
    pub(crate) child_id: String,
    /// Held while the number of slots changes, and while the pool's supervisor starts them, so that
    /// they don't change meanwhile.
    pub(super) sizing: tokio::sync::Mutex<()>,
    /// Sets the root supervisor that the pool is a child of.
    root: Supervisor,
    standing: watch::Sender<Standing>,
    watch: Mutex<PoolWatch>,
    starters: Mutex<HashMap<u32, Starter>>,
    supervisor: Mutex<Option<DynamicSupervisor>>,
    turns: AtomicUsize,
}

impl PoolShared {
    pub(crate) fn new(spec: PoolSpec, services: Arc<Services>, root: Supervisor) -> Arc<Self> {
        let spec = Arc::new(spec);
        let followers = Arc::new(Followers::default());
        let host = Host::of(&services, Arc::clone(&followers));
        let setup = Setup::new(host, Arc::clone(&spec));
        let slots = (0..spec.workers).map(|index| new_slot(&spec, &services, index));
        let slots = Slots::new(slots.collect());
        let (watch, at_once) = PoolWatch::new(spec.workers, spec.min_workers, spec.on_give_up);
        let standing = Standing {
            phase: watch.readiness().into(),
            short: false,
        };
        let shared = Arc::new(Self {
            spec: Arc::clone(&spec),
            setup,
            services,
            slots,
            followers,
            child_id: format!("pool {} ({})", spec.name, uuid::Uuid::new_v4().simple()),
            sizing: tokio::sync::Mutex::default(),
            root,
            standing: watch::Sender::new(standing),
            watch: Mutex::new(watch),
            starters: Mutex::default(),
            supervisor: Mutex::default(),
            turns: AtomicUsize::new(0),
        });
        if let Some(effect) = at_once {
            shared.carry_out(effect);
        }
        shared
    }

    /// Processes what happened to a slot, and does what follows for the pool.
    pub(crate) fn tell(&self, input: PoolInput) {
        self.watched(|watch| watch.step(input));
    }

    /// Sets the number of slots, and how many of them are only there during a rolling restart.
    pub(super) fn note_size(&self, workers: u32, surge: u32) {
        self.watched(|watch| watch.resize(workers, surge));
    }

    fn watched(&self, change: impl FnOnce(&mut PoolWatch) -> Option<PoolEffect>) {
        let mut watch = lock(&self.watch);
        let effect = change(&mut watch);
        if self.is_over() {
            return;
        }
        let (readiness, short) = (watch.readiness(), watch.is_short());
        // Under the lock, so that events have the order of their causes. Nothing here waits.
        if let Some(effect) = effect {
            self.carry_out(effect);
        }
        self.update(|standing| {
            let now = Standing {
                phase: readiness.into(),
                short,
            };
            let news = !standing.phase.is_over() && *standing != now;
            if news {
                *standing = now;
            }
            news
        });
    }

    /// The number of ready workers.
    pub(crate) fn ready_workers(&self) -> usize {
        lock(&self.watch).ready_workers()
    }

    /// A counter for picking workers in turn.
    pub(crate) fn next_turn(&self) -> usize {
        self.turns.fetch_add(1, Ordering::Relaxed)
    }

    /// Creates a slot.
    pub(super) fn new_slot(&self, index: u32) -> Arc<Slot> {
        new_slot(&self.spec, &self.services, index)
    }

    /// The pool gives up for a reason that is not that of a slot.
    pub(crate) fn give_up(&self, message: String) {
        if !self.is_over() {
            self.carry_out(PoolEffect::GaveUp { message, failure: None });
        }
    }

    fn carry_out(&self, effect: PoolEffect) {
        match effect {
            PoolEffect::Ready => {
                let facts = Facts::default().with_count(self.slots.len() as u64);
                self.emit(EventKind::PoolReady, facts);
            }
            PoolEffect::Degraded { ready, expected, waits } => {
                let why = waits.map(|(index, failure)| {
                    let worker = WorkerId::new(self.spec.name.clone(), index);
                    format!("; {worker} can't be started for now: {}", failure.message)
                });
                let message = format!("{ready} of {expected} workers are ready{}", why.unwrap_or_default());
                let facts = Facts::default().with_count(ready as u64).with_message(message);
                self.emit(EventKind::PoolDegraded, facts);
            }
            PoolEffect::Finished => {
                self.emit(EventKind::PoolFinished, Facts::default());
                self.begin_end(PoolEnd::Finished);
            }
            PoolEffect::GaveUp { message, failure } => {
                self.emit(EventKind::PoolGaveUp, why(message, failure.as_ref()));
                self.begin_end(PoolEnd::GaveUp(failure));
            }
        }
    }

    /// Changes the standing; `change` returns whether it did, and so does this.
    fn update(&self, change: impl FnOnce(&mut Standing) -> bool) -> bool {
        self.standing.send_if_modified(change)
    }

    /// Begins the pool's end. The first end counts.
    fn begin_end(&self, end: PoolEnd) {
        self.update(|standing| {
            let begins = !standing.phase.is_over();
            if begins {
                standing.phase = PoolPhase::Ending(end);
            }
            begins
        });
    }

    /// Stops the pool in order. Returns when everything it held is released, or its release is
    /// overdue.
    pub(crate) async fn end(&self) {
        self.begin_end(PoolEnd::Stopped);
        // A root that has ended has taken its pools with it; the wait below sees to what they held.
        drop(self.root.terminate_child(self.child_id.as_str()).await);
        drop(self.root.delete_child(self.child_id.as_str()).await);
        self.settle().await;
        self.ended();
    }

    /// Asks every worker to end, before their supervisors do, one level of actors after the other.
    /// So no worker's end waits for the release of others. Only when the pool ends for good: its
    /// workers' actors then leave it to their supervisors to end them.
    pub(crate) fn stop_ahead(&self) {
        if !self.ends_for_good() {
            return;
        }
        let cause = self.services.stop_cause();
        for slot in self.slots.held() {
            slot.stop_ahead(cause);
        }
    }

    /// Whether no worker is started any more.
    pub(super) fn ends_for_good(&self) -> bool {
        self.services.is_stopping() || self.is_over()
    }

    /// The pool is down, and everything it held is released.
    pub(crate) fn ended(&self) {
        let ends = self.update(|standing| {
            let end = match &standing.phase {
                PoolPhase::Ended(_) => return false,
                PoolPhase::Ending(end) => end.clone(),
                PoolPhase::Starting | PoolPhase::Ready | PoolPhase::Degraded { .. } => PoolEnd::Stopped,
            };
            self.emit(EventKind::PoolStopped, Facts::default());
            standing.phase = PoolPhase::Ended(end);
            true
        });
        // The end of the whole instance soon frees everything at once.
        if ends && !self.services.is_stopping() {
            self.forget_actors();
        }
    }

    /// Frees the mailboxes of its actors, most of what a worker takes: a pool that has ended stays
    /// until the next one of its name.
    fn forget_actors(&self) {
        let starters = std::mem::take(&mut *lock(&self.starters));
        let supervisor = lock(&self.supervisor).take();
        drop_aside((starters, supervisor));
    }

    /// The current phase.
    pub(crate) fn phase(&self) -> PoolPhase {
        self.standing.borrow().phase.clone()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Waits until every worker is ready, or that will not happen.
    pub(crate) async fn wait_ready(&self) -> Result<(), PoolEnd> {
        let verdict = |standing: &Standing| match &standing.phase {
            PoolPhase::Ready => Some(Ok(())),
            PoolPhase::Ending(end) | PoolPhase::Ended(end) => Some(Err(end.clone())),
            PoolPhase::Degraded { ready, expected } if standing.short => Some(Err(PoolEnd::Degraded {
                ready: *ready,
                expected: *expected,
            })),
            PoolPhase::Starting | PoolPhase::Degraded { .. } => None,
        };
        let mut standing = self.subscribe();
        // The sender lives in `self`.
        match standing.wait_for(|standing| verdict(standing).is_some()).await {
            Ok(standing) => verdict(&standing).unwrap_or(Ok(())),
            Err(_) => Err(PoolEnd::Stopped),
        }
    }

    /// Waits for a phase of the pool's end, and returns the end.
    pub(crate) async fn wait_ended(&self, reached: impl Fn(&PoolPhase) -> bool) -> PoolEnd {
        let mut standing = self.subscribe();
        // The sender lives in `self`.
        let at_end = standing.wait_for(|standing| reached(&standing.phase)).await;
        at_end.map_or(PoolEnd::Stopped, |standing| {
            standing.phase.end().cloned().unwrap_or(PoolEnd::Stopped)
        })
    }

    fn is_over(&self) -> bool {
        self.standing.borrow().phase.is_over()
    }

    pub(crate) fn is_ended(&self) -> bool {
        matches!(self.standing.borrow().phase, PoolPhase::Ended(_))
    }

    /// Waits until every worker's latest incarnation is released, or its release is overdue; then
    /// its slots' sitters may end.
    pub(crate) async fn settle(&self) {
        let slots = self.slots.held();
        for slot in &slots {
            slot.settled().await;
        }
        self.close(&slots);
    }

    /// The sitters of these slots may end, unless they still hold something.
    pub(super) fn close(&self, slots: &[Arc<Slot>]) {
        let closed = slots.iter().filter(|slot| slot.close()).flat_map(|slot| slot.numbers());
        self.services.link.close_slots(&closed.collect::<Vec<_>>());
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

    /// The slot's starter is this child of the pool's supervisor.
    pub(super) fn note_starter_key(&self, index: u32, key: ChildKey) {
        lock(&self.starters).entry(index).or_default().key = Some(key);
    }

    pub(crate) fn note_starter(&self, index: u32, starter: Supervisor) {
        lock(&self.starters).entry(index).or_default().handle = Some(starter);
    }

    pub(crate) fn starter(&self, index: u32) -> Option<Supervisor> {
        lock(&self.starters).get(&index)?.handle.clone()
    }

    /// Its key in the pool's supervisor.
    pub(super) fn starter_key(&self, index: u32) -> Option<ChildKey> {
        lock(&self.starters).get(&index)?.key
    }

    pub(super) fn forget_starter(&self, index: u32) {
        lock(&self.starters).remove(&index);
    }
}

/// The starter of a slot.
#[derive(Debug, Default)]
struct Starter {
    key: Option<ChildKey>,
    handle: Option<Supervisor>,
}

/// The first incarnation of a slot. A pool of the same name may have been stopped in this run, or
/// this one made smaller, and the numbers of those incarnations are not reused.
fn new_slot(spec: &PoolSpec, services: &Services, index: u32) -> Arc<Slot> {
    let worker = WorkerId::new(spec.name.clone(), index);
    let first = services.table.next_incarnation(&worker);
    let probed = spec.worker.probe_commands().next().is_some();
    let probe = probed.then(|| ProbePlace::new(services.link.new_slot()));
    Slot::new(worker, services.link.new_slot(), probe, first)
}

/// The message of a pool that gives up. It includes the last failure, so that readers need not look
/// it up.
fn why(message: String, failure: Option<&Failure>) -> Facts {
    match failure {
        None => Facts::default().with_message(message),
        Some(failure) => {
            Facts::of_failure(failure).with_message(format!("{message}; the last failure: {}", failure.message))
        }
    }
}

/// Drops what thousands of workers left, which takes up to 10 µs for each, where no one waits for
/// it.
pub(crate) fn drop_aside<T: Send + 'static>(value: T) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(move || drop(value))),
        Err(_) => drop(value),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
