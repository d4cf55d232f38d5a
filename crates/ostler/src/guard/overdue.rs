//! A guardian or a sitter that lives but does nothing, because it is stopped or hangs.
//!
//! Any process of the same user can stop them. A guardian that stays silent although it has orders
//! is continued and asked for a sign of life. If none comes it is killed, which is handled like any
//! other loss. A sitter that does not report its worker's end is continued by the order to end that
//! worker.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use ostler_core::ids::Incarnation;
use ostler_core::signal::Signal;
use ostler_os::guardian::{Guardian, GuardianEvent, TreeProcess};
use ostler_os::identity::{self, Verified, here};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior};

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

/// How long a worker runs, at least, before its own process is watched: 1 s, and twice that at
/// most. So a burst of starts does not pay for the watches.
const WATCH_AFTER: Duration = Duration::from_secs(1);
/// How long a sitter may take to report its worker's end: 1 s.
const REPORT_LIMIT: Duration = Duration::from_secs(1);

/// The guardian of this generation, as long as it serves.
fn guardian_of(link: &Link, generation: u64) -> Option<Guardian> {
    let (guardian, now) = link.serving_now()?;
    (now == generation).then_some(guardian)
}

/// Checks a guardian until it no longer serves.
pub(super) async fn watch_guardian(link: Arc<Link>, generation: u64) {
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
    }
}

/// The watches on the processes of one guardian's workers. Ended on drop.
#[derive(Default)]
pub(super) struct WorkerWatches(Arc<Mutex<Watches>>);

#[derive(Default)]
struct Watches {
    by_slot: HashMap<u32, Watch>,
    /// Begins the watches of young workers, as long as there are any.
    beginner: Option<AbortHandle>,
}

/// The watch on one worker.
enum Watch {
    /// Begins when the worker is old enough.
    Young(Young),
    Begun(AbortHandle),
}

struct Young {
    since: Instant,
    incarnation: Incarnation,
    worker: TreeProcess,
}

impl WorkerWatches {
    /// Notes a worker that is spawned, and ends its watch when its end is reported.
    pub(super) fn observe(&mut self, event: &GuardianEvent, link: &Arc<Link>, generation: u64) {
        match event {
            GuardianEvent::Spawned {
                slot,
                incarnation,
                worker,
                ..
            } => {
                let young = Young {
                    since: Instant::now(),
                    incarnation: Incarnation(*incarnation),
                    worker: *worker,
                };
                let mut watches = lock(&self.0);
                watches.replace(*slot, Some(Watch::Young(young)));
                if watches.beginner.is_none() {
                    let begin = begin_watches(Arc::downgrade(&self.0), Arc::clone(link), generation);
                    watches.beginner = Some(tokio::spawn(begin).abort_handle());
                }
            }
            GuardianEvent::Exited { slot, .. } | GuardianEvent::SitterLost { slot, .. } => {
                lock(&self.0).replace(*slot, None);
            }
            _ => {}
        }
    }
}

impl Watches {
    fn replace(&mut self, slot: u32, watch: Option<Watch>) {
        let before = match watch {
            Some(watch) => self.by_slot.insert(slot, watch),
            None => self.by_slot.remove(&slot),
        };
        if let Some(Watch::Begun(before)) = before {
            before.abort();
        }
    }

    /// Begins the watches of workers that are old enough. Returns whether others are still young.
    fn begin(&mut self, link: &Arc<Link>, generation: u64) -> bool {
        let (now, mut others) = (Instant::now(), false);
        for (slot, watch) in &mut self.by_slot {
            let Watch::Young(young) = watch else { continue };
            if now < young.since + WATCH_AFTER {
                others = true;
                continue;
            }
            let watched = watch_worker(Arc::clone(link), generation, *slot, young.incarnation, young.worker);
            *watch = Watch::Begun(tokio::spawn(watched).abort_handle());
        }
        others
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        let begun = self.by_slot.values().filter_map(|watch| match watch {
            Watch::Young(_) => None,
            Watch::Begun(watch) => Some(watch),
        });
        begun.chain(&self.beginner).for_each(AbortHandle::abort);
    }
}

/// One task for all young workers of a guardian, so that none has to be made for a worker that ends
/// soon.
async fn begin_watches(watches: Weak<Mutex<Watches>>, link: Arc<Link>, generation: u64) {
    loop {
        tokio::time::sleep(WATCH_AFTER).await;
        let Some(watches) = watches.upgrade() else { return };
        let mut watches = lock(&watches);
        if !watches.begin(&link, generation) {
            watches.beginner = None;
            return;
        }
    }
}

fn lock(watches: &Mutex<Watches>) -> MutexGuard<'_, Watches> {
    watches.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the worker's own process to end, then for its sitter's report, which ends this task.
async fn watch_worker(link: Arc<Link>, generation: u64, slot: u32, incarnation: Incarnation, worker: TreeProcess) {
    let identity = here().ok().map(|here| worker.identity(here));
    match identity.as_ref().map(identity::verify) {
        Some(Ok(Verified::Same(process))) => {
            if process.ended().await.is_err() {
                return;
            }
        }
        Some(Ok(Verified::Gone | Verified::Reused)) => {}
        // Without an identity or a descriptor there is nothing to watch; the sitter's report
        // remains.
        Some(Ok(Verified::Unknown(_)) | Err(_)) | None => return,
    }
    tokio::time::sleep(REPORT_LIMIT).await;
    let Some(guardian) = guardian_of(&link, generation) else {
        return;
    };
    tracing::warn!(target: "ostler", incarnation = incarnation.0, pid = worker.pid, "the worker has ended and its sitter does not report it: the sitter is continued, and ends what is left");
    // The sitters of a lost guardian end their trees without an order.
    let _ = guardian.end(slot, incarnation.0, Signal::KILL, Duration::ZERO);
}
