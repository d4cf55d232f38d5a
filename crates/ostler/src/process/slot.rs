//! A worker's place in its pool, and the handle of the process that fills it.

use std::collections::{BTreeMap, VecDeque};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ostler_core::ids::{Incarnation, WorkerId};
use ostler_core::lifecycle::Cause;
use ostler_core::spec::PoolSpec;
use ostler_os::identity::ProcessIdentity;
use ostler_telemetry::SpanLink;
use tokio::sync::{Semaphore, mpsc, watch};

use super::driver;
use super::protocol::{Line, Message, Progress, Told};
use crate::follow::Followers;
use crate::services::{PortMap, Services};
use crate::status::WorkerState;

/// Listeners that the host has bound for a worker (`port = "listen"`), by the port's name.
pub(crate) type Listeners = BTreeMap<String, Arc<TcpListener>>;

/// What a slot remembers from one incarnation to the next.
#[derive(Debug, Default)]
pub(super) struct Memory {
    incarnations: u64,
    /// The ports it had: a restart tries them first.
    ports: PortMap,
    listeners: Listeners,
    /// Starts in a row that failed by nobody's fault (the machine's limits, a guardian or sitter that was lost); each
    /// lengthens the pause before the next one.
    pub(super) uncounted_failures: u32,
    latest: Option<watch::Receiver<Progress>>,
    /// Cgroups of the slot that were killed and could not be removed at once: they go with the run's.
    spent_cgroups: u64,
    /// Nothing starts here any more, and its number may be another slot's by now.
    closed: bool,
    /// Why the worker is about to be stopped, when somebody said so.
    stop_cause: Option<Cause>,
    /// Where the trace of its last incarnation's end is: what follows is linked to it.
    last_stop: SpanLink,
    /// The root of its tree: it stays from one incarnation to the next.
    sitter: Option<ProcessIdentity>,
    /// When it was restarted within the period of its intensity.
    restarts: VecDeque<Instant>,
}

/// A worker's place in its pool.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) worker: WorkerId,
    /// Its number at the guardian.
    pub(crate) number: u32,
    pub(crate) spec: Arc<PoolSpec>,
    pub(crate) services: Arc<Services>,
    /// Starts in flight in the pool (`max_starting`).
    pub(super) starting: Arc<Semaphore>,
    /// Who hears at once what becomes of the worker.
    pub(super) followers: Arc<Followers>,
    memory: Mutex<Memory>,
    state: watch::Sender<WorkerState>,
}

impl Slot {
    pub(crate) fn new(
        index: u32,
        spec: Arc<PoolSpec>,
        services: Arc<Services>,
        starting: Arc<Semaphore>,
        followers: Arc<Followers>,
    ) -> Arc<Self> {
        let number = services.link.new_slot();
        let worker = WorkerId::new(spec.name.clone(), index);
        // A pool of the same name may have been stopped in this run: its numbers are used up.
        let next = services.table.next_incarnation(&worker);
        Arc::new(Self {
            worker,
            number,
            spec,
            services,
            starting,
            followers,
            memory: Mutex::new(Memory {
                incarnations: next.0 - 1,
                ..Memory::default()
            }),
            state: watch::Sender::default(),
        })
    }

    /// Begins the next incarnation. It is reserved only when the one before it is released, and when the pool's
    /// `max_starting` allows.
    pub(crate) fn start(self: &Arc<Self>, told: Box<dyn Fn(Told) + Send + Sync>) -> Process {
        let (inbox, received) = mpsc::unbounded_channel();
        let (progress, seen) = watch::channel(Progress::Held);
        let (incarnation, predecessor) = {
            let mut memory = self.memory();
            memory.incarnations += 1;
            (Incarnation(memory.incarnations), memory.latest.replace(seen.clone()))
        };
        self.services.unreleased.send_modify(|count| *count += 1);
        let line = Line {
            told,
            progress,
            predecessor,
            inbox: received,
            sender: inbox.clone(),
        };
        tokio::spawn(driver::drive(Arc::clone(self), incarnation, line));
        Process { inbox, progress: seen }
    }

    /// Waits until the latest incarnation is released, or its release is overdue. At once where there is none.
    pub(crate) async fn settled(&self) {
        let latest = self.memory().latest.clone();
        if let Some(mut latest) = latest {
            // An error means that the driver is gone, as when the runtime shuts down: nothing is left to wait for.
            let _ = latest.wait_for(|progress| *progress != Progress::Held).await;
        }
    }

    /// Whether nothing is held by any incarnation.
    pub(crate) fn is_released(&self) -> bool {
        self.memory()
            .latest
            .as_ref()
            .is_none_or(|latest| *latest.borrow() == Progress::Released)
    }

    /// The slot is not used any more: its cgroup and its listeners may go. True the first time, when its sitter may go
    /// too; never while something is held.
    pub(crate) fn close(&self) -> bool {
        let closes = self.is_released() && !std::mem::replace(&mut self.memory().closed, true);
        if closes {
            self.memory().listeners.clear();
        }
        closes
    }

    /// What is known of the worker now.
    pub(crate) fn state(&self) -> WorkerState {
        self.state.borrow().clone()
    }

    /// The worker's states from now on.
    pub(crate) fn watch(&self) -> watch::Receiver<WorkerState> {
        self.state.subscribe()
    }

    /// The latest incarnation that was begun. It may still wait for its turn.
    pub(crate) fn begun(&self) -> Option<Incarnation> {
        let incarnations = self.memory().incarnations;
        (incarnations > 0).then_some(Incarnation(incarnations))
    }

    /// Its worker's next stop is for this reason.
    pub(crate) fn set_stop_cause(&self, cause: Cause) {
        self.memory().stop_cause = Some(cause);
    }

    /// The reason for the stop under way, once.
    pub(crate) fn take_stop_cause(&self) -> Cause {
        self.memory()
            .stop_cause
            .take()
            .unwrap_or_else(|| self.services.stop_cause())
    }

    /// The trace of the last incarnation's end.
    pub(crate) fn last_stop(&self) -> SpanLink {
        self.memory().last_stop.clone()
    }

    pub(super) fn remember_stop(&self, stop: SpanLink) {
        self.memory().last_stop = stop;
    }

    pub(super) fn note_sitter(&self, sitter: Option<ProcessIdentity>) {
        self.memory().sitter = sitter;
    }

    /// The root of its tree, while it has had one.
    pub(crate) fn sitter(&self) -> Option<ProcessIdentity> {
        self.memory().sitter
    }

    /// It is being restarted, and that is counted.
    pub(crate) fn note_restart(&self, now: Instant) {
        let mut memory = self.memory();
        memory.restarts.push_back(now);
        let period = self.spec.period;
        memory
            .restarts
            .retain(|at| now.saturating_duration_since(*at) <= period);
    }

    /// Which part of its intensity is used; 1 when the next restart is one too many.
    pub(crate) fn intensity_used(&self, now: Instant) -> f64 {
        let within = |at: &&Instant| now.saturating_duration_since(**at) <= self.spec.period;
        let used = self.memory().restarts.iter().filter(within).count();
        match self.spec.intensity {
            0 => 1.0,
            // Both are small.
            intensity => used as f64 / f64::from(intensity),
        }
    }

    /// Whether an incarnation waits for its turn.
    pub(crate) fn is_waiting(&self) -> bool {
        let memory = self.memory();
        let reserved = self.state.borrow().incarnation.map_or(0, |incarnation| incarnation.0);
        let held = |latest: &watch::Receiver<Progress>| *latest.borrow() != Progress::Released;
        memory.incarnations > reserved && memory.latest.as_ref().is_some_and(held)
    }

    pub(crate) fn spent_cgroups(&self) -> u64 {
        self.memory().spent_cgroups
    }

    pub(super) fn note_spent_cgroup(&self) {
        self.memory().spent_cgroups += 1;
    }

    /// Whether it has finished or given up: nothing is started in it any more.
    pub(crate) fn is_over(&self) -> bool {
        let state = self.state.borrow();
        state.finished || state.gave_up
    }

    pub(crate) fn note_finished(&self) {
        self.update_state(|state| state.finished = true);
    }

    pub(crate) fn note_gave_up(&self) {
        self.update_state(|state| state.gave_up = true);
    }

    pub(super) fn update_state(&self, change: impl FnOnce(&mut WorkerState)) {
        self.state.send_modify(change);
    }

    /// The ports and listeners that the worker had.
    pub(super) fn remembered_ports(&self) -> (PortMap, Listeners) {
        let memory = self.memory();
        (memory.ports.clone(), memory.listeners.clone())
    }

    pub(super) fn remember_ports(&self, ports: &PortMap, listeners: &Listeners) {
        let mut memory = self.memory();
        memory.ports.clone_from(ports);
        memory.listeners.clone_from(listeners);
    }

    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The line to an incarnation's driver. Dropped, it has the process killed and released.
#[derive(Debug)]
pub(crate) struct Process {
    inbox: mpsc::UnboundedSender<Message>,
    progress: watch::Receiver<Progress>,
}

impl Process {
    /// Asks the process to end. Idempotent.
    pub(crate) fn stop(&self, cause: Cause) {
        // A driver that is gone has released everything.
        let _ = self.inbox.send(Message::Stop { cause, kill: false });
    }

    /// Waits until it is released, or its release is overdue.
    pub(crate) async fn settled(&mut self) {
        let _ = self.progress.wait_for(|progress| *progress != Progress::Held).await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.inbox.send(Message::Stop {
            cause: Cause::OwnerGone,
            kill: true,
        });
    }
}
