//! A guardian or a sitter that lives but does nothing, because it is stopped or hangs.
//!
//! Any process of the same user can stop them. A guardian that stays silent although it has orders
//! is continued and asked for a sign of life. If none comes it is killed, which is handled like any
//! other loss. A sitter that does not report its worker's end is continued by the order to end that
//! worker.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ostler_core::ids::Incarnation;
use ostler_core::signal::Signal;
use ostler_os::guardian::{Guardian, GuardianEvent, TreeProcess};
use ostler_os::identity::{self, ProcessHandle, Verified, here};
use ostler_os::process_ends::ProcessEnds;
use tokio::time::MissedTickBehavior;

use super::link::Link;

/// The interval between two checks of the guardian: 500 ms. Checks are counted instead of measuring
/// time, because time also passes while the host itself is suspended.
const LOOK: Duration = Duration::from_millis(500);
/// A guardian silent for this many checks (1 s) is asked for a sign of life: only that proves that
/// it has read its orders.
const ASK_AFTER: u32 = 2;
/// A guardian silent for this many checks (2 s) is continued and asked again.
const WAKE_AFTER: u32 = 4;
/// A guardian silent for this many checks (6 s) is killed.
const KILL_AFTER: u32 = 12;

/// After how many checks a worker's own process is watched: 1 s after its start, and 1.5 s at most.
/// So a burst of starts does not pay for the watches.
const WATCH_AFTER: u32 = 3;
/// How many checks after its worker's end a sitter may take to report it: 1 s.
const REPORT_LIMIT: u32 = 2;

/// The guardian of this generation, as long as it serves.
fn guardian_of(link: &Link, generation: u64) -> Option<Guardian> {
    let (guardian, now) = link.serving_now()?;
    (now == generation).then_some(guardian)
}

/// Checks a guardian until it no longer serves, and the ends of its workers.
pub(super) async fn watch_guardian(link: Arc<Link>, generation: u64, workers: WorkerWatches) {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut silent, mut heard) = (0, None);
    loop {
        looks.tick().await;
        let Some(guardian) = guardian_of(&link, generation) else {
            return;
        };
        let now = guardian.unconfirmed();
        silent = if now.is_some() && now == heard { silent + 1 } else { 0 };
        heard = now;
        match silent {
            ASK_AFTER => guardian.ask(),
            WAKE_AFTER => guardian.wake(),
            _ => {}
        }
        if silent == KILL_AFTER {
            tracing::error!(target: "ostler", pid = guardian.pid(), "the guardian does not answer: killing it and starting another one");
            guardian.kill();
            return;
        }
        for (slot, incarnation) in workers.check() {
            // The sitters of a lost guardian end their trees without an order.
            let _ = guardian.end(slot, incarnation.0, Signal::KILL, Duration::ZERO);
        }
    }
}

/// The watches on the processes of one guardian's workers: a sitter that is stopped does not report
/// its worker's end. A worker's end wakes no thread; it is noticed with the next check.
#[derive(Clone, Default)]
pub(super) struct WorkerWatches(Arc<Mutex<Watches>>);

#[derive(Default)]
struct Watches {
    by_slot: HashMap<u32, Watch>,
    /// How many checks there were.
    checks: u32,
    /// Workers that are not watched yet, and after which check they will be.
    young: VecDeque<(u32, u32, Incarnation)>,
    /// The watched workers. Made with the first of them.
    ends: Option<ProcessEnds>,
    /// Workers that have ended unreported, and after which check that is too late.
    ended: Vec<(u32, u32, Incarnation)>,
}

/// A worker whose end its sitter has not reported.
struct Watch {
    incarnation: Incarnation,
    worker: TreeProcess,
    /// Its process, once it is watched.
    process: Option<ProcessHandle>,
}

impl WorkerWatches {
    /// Notes a worker that is spawned, and ends its watch when its end is reported.
    pub(super) fn observe(&self, event: &GuardianEvent) {
        match event {
            GuardianEvent::Spawned {
                slot,
                incarnation,
                worker,
                ..
            } => self.lock().note(*slot, Incarnation(*incarnation), *worker),
            GuardianEvent::Exited { slot, .. } | GuardianEvent::SitterLost { slot, .. } => {
                self.lock().by_slot.remove(slot);
            }
            _ => {}
        }
    }

    /// Returns the workers that ended a while ago and whose sitters do not report it.
    fn check(&self) -> Vec<(u32, Incarnation)> {
        let mut watches = self.lock();
        watches.checks += 1;
        watches.begin();
        watches.take_ends();
        watches.overdue()
    }

    fn lock(&self) -> MutexGuard<'_, Watches> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watches {
    fn note(&mut self, slot: u32, incarnation: Incarnation, worker: TreeProcess) {
        let watch = Watch {
            incarnation,
            worker,
            process: None,
        };
        self.by_slot.insert(slot, watch);
        self.young.push_back((self.checks + WATCH_AFTER, slot, incarnation));
    }

    /// The worker of this slot if it is still the same incarnation, whose end was not reported.
    fn unreported(&mut self, slot: u32, incarnation: Incarnation) -> Option<&mut Watch> {
        self.by_slot
            .get_mut(&slot)
            .filter(|watch| watch.incarnation == incarnation)
    }

    /// Begins the watches of workers that are old enough.
    fn begin(&mut self) {
        while let Some((_, slot, incarnation)) = self.young.pop_front_if(|(due, ..)| *due <= self.checks) {
            let Some(worker) = self.unreported(slot, incarnation).map(|watch| watch.worker) else {
                continue;
            };
            match here().map(|here| identity::verify_to_watch(&worker.identity(here))) {
                Ok(Ok(Verified::Same(process))) => self.watch(slot, process),
                Ok(Ok(Verified::Gone | Verified::Reused)) => self.note_end(slot, incarnation),
                // Without an identity or a descriptor there is nothing to watch; the sitter's
                // report remains.
                Ok(Ok(Verified::Unknown(_)) | Err(_)) | Err(_) => {}
            }
        }
    }

    fn watch(&mut self, slot: u32, process: ProcessHandle) {
        if self.ends.is_none() {
            self.ends = ProcessEnds::new().ok();
        }
        let added = self.ends.as_ref().map(|ends| ends.add(&process, u64::from(slot)));
        if let (Some(Ok(())), Some(watch)) = (added, self.by_slot.get_mut(&slot)) {
            watch.process = Some(process);
        }
    }

    fn take_ends(&mut self) {
        let taken = self.ends.as_ref().and_then(|ends| ends.take().ok()).unwrap_or_default();
        for slot in taken.into_iter().filter_map(|key| u32::try_from(key).ok()) {
            let Some(watch) = self.by_slot.get(&slot) else { continue };
            // The end may be that of an earlier incarnation.
            let ended = |process: &ProcessHandle| process.has_ended().unwrap_or(false);
            if watch.process.as_ref().is_some_and(ended) {
                self.note_end(slot, watch.incarnation);
            }
        }
    }

    fn note_end(&mut self, slot: u32, incarnation: Incarnation) {
        self.ended.push((self.checks + REPORT_LIMIT, slot, incarnation));
    }

    fn overdue(&mut self) -> Vec<(u32, Incarnation)> {
        let due = self
            .ended
            .extract_if(.., |(due, ..)| *due <= self.checks)
            .collect::<Vec<_>>();
        due.into_iter()
            .filter_map(|(_, slot, incarnation)| {
                let pid = self.unreported(slot, incarnation)?.worker.pid;
                tracing::warn!(target: "ostler", incarnation = incarnation.0, pid, "the worker has ended and its sitter does not report it: the sitter is continued, and ends what is left");
                Some((slot, incarnation))
            })
            .collect()
    }
}
