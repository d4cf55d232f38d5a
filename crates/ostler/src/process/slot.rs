//! A worker's place in its pool, and the handle of the process that fills it.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures_channel::mpsc;
use ostler_core::ids::{Incarnation, WorkerId};
use ostler_core::lifecycle::Cause;
use ostler_core::moment::Moment;
use ostler_core::supervision::Intensity;
use ostler_os::identity::ProcessIdentity;
use ostler_telemetry::SpanLink;
use tokio::sync::watch;

use super::exec::ProbePlace;
use super::protocol::{Listeners, Order, Progress};
use super::tap::Tap;
use crate::small_watch;
use crate::status::{PortMap, WorkerState};

/// The pause after the first start that failed uncounted. It doubles with each further one, up to
/// [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// The longest of these pauses.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// What a slot keeps from one incarnation to the next.
#[derive(Debug, Default)]
struct Memory {
    incarnations: u64,
    ports: PortMap,
    listeners: Listeners,
    /// The number of consecutive starts that failed uncounted (the machine's limits, a file that is
    /// being written, a store that stalls, a lost guardian or sitter). Each lengthens the pause
    /// before the next start.
    uncounted_failures: u32,
    /// The end of that pause.
    not_before: Option<tokio::time::Instant>,
    latest: Option<small_watch::Receiver<Progress>>,
    /// Orders to the latest incarnation.
    orders: Option<mpsc::UnboundedSender<Order>>,
    /// The cgroups of the incarnations up to this one are not reused: a process that is started in
    /// a killed cgroup is killed at birth, and the kernel may still report that cgroup as busy.
    /// They are removed with the run's.
    cgroups_spent_until: Option<Incarnation>,
    /// Its pool was made smaller, so nothing is started here.
    removed: bool,
    /// Closed: its number may belong to another slot by now.
    closed: bool,
    /// The reason of the worker's next stop, if it is known.
    stop_cause: Option<Cause>,
    /// The place of the last incarnation's stop in its trace, to which the next start is linked.
    last_stop: SpanLink,
    /// The root of its tree, which stays from one incarnation to the next.
    sitter: Option<ProcessIdentity>,
    /// The worker's latest process, which may have ended.
    process: Option<ProcessIdentity>,
    intensity: Option<UsedIntensity>,
}

/// The intensity of the slot's starter after its latest restart, as the supervision engine counts
/// it.
#[derive(Debug)]
struct UsedIntensity {
    counter: Intensity,
    /// The engine's time of the restart, and ours.
    at: (Moment, Instant),
}

/// A new incarnation.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) number: Incarnation,
    pub(super) predecessor: Option<small_watch::Receiver<Progress>>,
}

/// A worker's place in its pool.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) worker: WorkerId,
    /// Its number at the guardian.
    pub(crate) number: u32,
    /// Where its `exec` probes run, if it has any.
    pub(crate) probe: Option<Arc<ProbePlace>>,
    memory: Mutex<Memory>,
    state: Mutex<WorkerState>,
    /// Made for the first task that watches the state.
    watched: OnceLock<watch::Sender<WorkerState>>,
    pub(crate) tap: Arc<Tap>,
    /// Held while a restart, stop or start that a user asked for is carried out.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

impl Slot {
    /// Creates a slot. `first` is the number of its first incarnation: a pool of the same name may
    /// have been stopped in this run, and its numbers are not reused.
    pub(crate) fn new(worker: WorkerId, number: u32, probe: Option<Arc<ProbePlace>>, first: Incarnation) -> Arc<Self> {
        Arc::new(Self {
            worker,
            number,
            probe,
            memory: Mutex::new(Memory {
                incarnations: first.0 - 1,
                // The earlier pool may have left cgroups under the same worker's name.
                cgroups_spent_until: (first.0 > 1).then(|| Incarnation(first.0 - 1)),
                ..Memory::default()
            }),
            state: Mutex::default(),
            watched: OnceLock::new(),
            tap: Arc::default(),
            turn: tokio::sync::Mutex::default(),
        })
    }

    /// The next incarnation's number, and its predecessor's progress. Its own progress is what its
    /// successor waits for; `orders` reach it. `None` if the slot was removed.
    pub(super) fn next(
        &self,
        progress: small_watch::Receiver<Progress>,
        orders: mpsc::UnboundedSender<Order>,
    ) -> Option<Next> {
        let mut memory = self.memory();
        if memory.removed {
            return None;
        }
        memory.incarnations += 1;
        memory.orders = Some(orders);
        Some(Next {
            number: Incarnation(memory.incarnations),
            predecessor: memory.latest.replace(progress),
        })
    }

    /// Asks the latest incarnation to end, before its actor does. `cause` is the reason if no other
    /// is set. The caller sees to it that no further incarnation follows.
    pub(crate) fn stop_ahead(&self, cause: Cause) {
        let mut memory = self.memory();
        if let Some(orders) = &memory.orders {
            let order = Order {
                cause: memory.stop_cause.unwrap_or(cause),
                kill: false,
            };
            // If the driver is gone, everything is released.
            let _ = orders.unbounded_send(order);
        }
        memory.stop_cause = None;
    }

    /// Its numbers at the guardian.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u32> {
        let probe = self.probe.as_ref().map(|place| place.number);
        [Some(self.number), probe].into_iter().flatten()
    }

    /// Waits until the latest incarnation is released, or its release is overdue. Returns at once
    /// if there is none. Cancel safe.
    pub(crate) async fn settled(&self) {
        let latest = self.memory().latest.clone();
        if let Some(latest) = latest {
            // An error means that the driver is gone, as when the runtime shuts down: nothing is
            // left to wait for.
            let _ = latest.wait_for(|progress| progress != Progress::Held).await;
        }
    }

    /// Waits until the latest incarnation is released, without a limit. Cancel safe.
    pub(crate) async fn released(&self) {
        let latest = self.memory().latest.clone();
        if let Some(latest) = latest {
            let _ = latest.wait_for(|progress| progress == Progress::Released).await;
        }
    }

    /// Its pool was made smaller: nothing is started in it from now on.
    pub(crate) fn note_removed(&self) {
        self.memory().removed = true;
        self.update_state(|state| state.removed = true);
    }

    /// Its pool grows again. Returns false if it is closed; then another slot takes its place.
    pub(crate) fn come_back(&self) -> bool {
        let mut memory = self.memory();
        if memory.closed {
            return false;
        }
        (memory.removed, memory.stop_cause) = (false, None);
        drop(memory);
        self.update_state(|state| {
            state.removed = false;
            state.finished = false;
            state.gave_up = false;
            state.stopped = false;
        });
        true
    }

    /// Notes whether a user has stopped the worker.
    pub(crate) fn note_stopped(&self, stopped: bool) {
        let mut state = self.state_now();
        if std::mem::replace(&mut state.stopped, stopped) != stopped {
            self.show(&state);
        }
    }

    /// Whether nothing is held by any incarnation.
    pub(crate) fn is_released(&self) -> bool {
        self.memory()
            .latest
            .as_ref()
            .is_none_or(|latest| latest.get() == Progress::Released)
    }

    /// The slot is no longer used: drops its cgroup and its listeners. Returns true the first time,
    /// when its sitter may end too; never while something is held.
    pub(crate) fn close(&self) -> bool {
        let closes = self.is_released() && !std::mem::replace(&mut self.memory().closed, true);
        if closes {
            self.memory().listeners.clear();
        }
        closes
    }

    /// The current state of the worker.
    pub(crate) fn state(&self) -> WorkerState {
        self.state_now().clone()
    }

    /// Watches the worker's state.
    pub(crate) fn watch(&self) -> watch::Receiver<WorkerState> {
        let state = self.state_now();
        let watched = self.watched.get_or_init(|| watch::Sender::new(state.clone()));
        watched.subscribe()
    }

    pub(super) fn update_state(&self, change: impl FnOnce(&mut WorkerState)) {
        let mut state = self.state_now();
        change(&mut state);
        self.show(&state);
    }

    /// Under the lock of the state, so that those who watch see the changes in their order.
    fn show(&self, state: &MutexGuard<'_, WorkerState>) {
        if let Some(watched) = self.watched.get() {
            watched.send_replace(WorkerState::clone(state));
        }
    }

    fn state_now(&self) -> MutexGuard<'_, WorkerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The latest incarnation, which may still wait for its turn.
    pub(crate) fn begun(&self) -> Option<Incarnation> {
        let incarnations = self.memory().incarnations;
        (incarnations > 0).then_some(Incarnation(incarnations))
    }

    /// Sets the reason of the worker's next stop.
    pub(crate) fn set_stop_cause(&self, cause: Cause) {
        self.memory().stop_cause = Some(cause);
    }

    /// Takes the reason of the current stop.
    pub(crate) fn take_stop_cause(&self) -> Option<Cause> {
        self.memory().stop_cause.take()
    }

    /// The trace of the last incarnation's stop.
    pub(crate) fn last_stop(&self) -> SpanLink {
        self.memory().last_stop.clone()
    }

    pub(super) fn remember_stop(&self, stop: SpanLink) {
        self.memory().last_stop = stop;
    }

    /// The root of its tree, once it had one.
    pub(crate) fn sitter(&self) -> Option<ProcessIdentity> {
        self.memory().sitter
    }

    /// The worker's latest process, if it could be identified. It may have ended.
    pub(crate) fn process(&self) -> Option<ProcessIdentity> {
        self.memory().process
    }

    pub(super) fn note_process(&self, process: Option<ProcessIdentity>, sitter: Option<ProcessIdentity>) {
        let mut memory = self.memory();
        (memory.process, memory.sitter) = (process, sitter);
    }

    /// Remembers the starter's count of restarts, as of its time `at`, while the worker restarts.
    pub(crate) fn note_intensity(&self, counter: Intensity, at: Moment) {
        let at = (at, Instant::now());
        self.memory().intensity = Some(UsedIntensity { counter, at });
    }

    /// The used share of its intensity; at 1, the next counted restart exceeds it.
    pub(crate) fn intensity_used(&self, now: Instant) -> f64 {
        self.memory().intensity.as_ref().map_or(0.0, |used| {
            let (moment, instant) = used.at;
            used.counter.used(moment + now.saturating_duration_since(instant))
        })
    }

    /// Whether an incarnation waits for its turn.
    pub(crate) fn is_waiting(&self) -> bool {
        let memory = self.memory();
        let reserved = self.state_now().incarnation.map_or(0, |incarnation| incarnation.0);
        let held = |latest: &small_watch::Receiver<Progress>| latest.get() != Progress::Released;
        memory.incarnations > reserved && memory.latest.as_ref().is_some_and(held)
    }

    /// The last incarnation whose cgroup can't be reused.
    pub(super) fn cgroups_spent_until(&self) -> Option<Incarnation> {
        self.memory().cgroups_spent_until
    }

    /// The incarnation's cgroup was killed, or is about to be.
    pub(super) fn note_spent_cgroup(&self, incarnation: Incarnation) {
        self.memory().cgroups_spent_until = Some(incarnation);
    }

    /// Whether it has finished or given up: nothing is started in it any more.
    pub(crate) fn is_over(&self) -> bool {
        self.state_now().is_over()
    }

    pub(crate) fn note_finished(&self) {
        self.update_state(|state| state.finished = true);
    }

    pub(crate) fn note_gave_up(&self) {
        self.update_state(|state| state.gave_up = true);
    }

    /// The ports and listeners that the worker had: a restart tries the same ones first.
    pub(super) fn remembered_ports(&self) -> (PortMap, Listeners) {
        let memory = self.memory();
        (memory.ports.clone(), memory.listeners.clone())
    }

    pub(super) fn remember_ports(&self, ports: &PortMap, listeners: &Listeners) {
        let mut memory = self.memory();
        memory.ports.clone_from(ports);
        memory.listeners.clone_from(listeners);
    }

    /// Notes the end of a start at `now`, and whether it failed uncounted, so that the next one is
    /// delayed.
    pub(super) fn note_start(&self, failed_uncounted: bool, now: tokio::time::Instant) {
        let mut memory = self.memory();
        memory.uncounted_failures = match failed_uncounted {
            true => memory.uncounted_failures.saturating_add(1),
            false => 0,
        };
        memory.not_before = failed_uncounted.then(|| now + pause_after(memory.uncounted_failures));
    }

    /// The earliest time of the next start; `None` if it is not delayed.
    pub(super) fn not_before(&self) -> Option<tokio::time::Instant> {
        self.memory().not_before
    }

    /// The rest of the pause after a start that failed uncounted; `None` if the last start did not.
    pub(crate) fn pause(&self) -> Option<Duration> {
        let until = self.not_before()?;
        Some(until.saturating_duration_since(tokio::time::Instant::now()))
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pause_after(failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => PAUSE_FIRST.saturating_mul(1 << doublings.min(16)).min(PAUSE_MAX),
    }
}

/// The handle of an incarnation. Dropping it kills and releases the process.
#[derive(Debug)]
pub(crate) struct Process {
    orders: mpsc::UnboundedSender<Order>,
    progress: small_watch::Receiver<Progress>,
}

impl Process {
    pub(super) fn new(orders: mpsc::UnboundedSender<Order>, progress: small_watch::Receiver<Progress>) -> Self {
        Self { orders, progress }
    }

    /// Asks the process to end. Idempotent.
    pub(crate) fn stop(&self, cause: Cause) {
        // If the driver is gone, everything is released.
        let _ = self.orders.unbounded_send(Order { cause, kill: false });
    }

    /// Waits until it is released, or its release is overdue. Cancel safe.
    pub(crate) async fn settled(&self) {
        let _ = self.progress.wait_for(|progress| progress != Progress::Held).await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.orders.unbounded_send(Order {
            cause: Cause::OwnerGone,
            kill: true,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn starts_that_fail_uncounted_wait_ever_longer() {
        let slot = Slot::new(WorkerId::new("p", 0), 0, None, Incarnation(1));
        assert_eq!(slot.pause(), None);
        let pause = || {
            slot.note_start(true, tokio::time::Instant::now());
            slot.pause().map(|pause| pause.as_millis())
        };
        assert_eq!([pause(), pause(), pause()], [Some(100), Some(200), Some(400)]);
        let longest = (0..20).filter_map(|_| pause()).max();
        assert_eq!(longest, Some(10_000));
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(slot.pause(), Some(Duration::from_secs(3)));
        slot.note_start(false, tokio::time::Instant::now());
        assert_eq!(slot.pause(), None);
    }

    #[test]
    fn who_watches_a_worker_is_woken_by_changes_only() {
        let slot = Slot::new(WorkerId::new("p", 0), 0, None, Incarnation(1));
        let watch = slot.watch();
        slot.note_stopped(false);
        assert!(!watch.has_changed().unwrap());
        slot.note_stopped(true);
        assert!(watch.has_changed().unwrap());
        assert!(watch.borrow().stopped && slot.state().stopped);
    }

    /// A race that chaos found: a pool was stopped and started again while the kernel still called
    /// its killed cgroups busy, and every worker was born into one of those, and killed.
    #[test]
    fn a_pool_started_again_uses_no_cgroup_of_the_former_one() {
        let worker = || WorkerId::new("p", 0);
        let former = Slot::new(worker(), 0, None, Incarnation(1));
        assert_eq!(former.cgroups_spent_until(), None);
        former.note_spent_cgroup(Incarnation(1));
        assert_eq!(former.cgroups_spent_until(), Some(Incarnation(1)));

        let again = Slot::new(worker(), 0, None, Incarnation(3));
        assert_eq!(again.cgroups_spent_until(), Some(Incarnation(2)));
    }
}
