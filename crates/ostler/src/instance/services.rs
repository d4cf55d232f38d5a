//! What every actor of one instance uses: its identity, its events, its table, its link to the
//! guardian.
//!
//! It outlives every actor, so that what an actor owned can be ended and released however the actor
//! ended.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ostler_core::chain::chain;
use ostler_core::ids::RunId;
use ostler_core::lifecycle::Cause;
use ostler_failpoint::{self as failpoint, Point};
use ostler_os::cgroup::RunGroup;
use ostler_os::identity::ProcessIdentity;
use ostler_os::limits;
use ostler_registry::{Owner, RunDir, Scratch, Table};
use tokio::sync::{OnceCell, watch};

use super::cleaner::CleanupReport;
use crate::guard::Link;
use crate::hub::Hub;
use crate::remains::{self, ByMarker};
use crate::scratch;
use crate::shared_work::SharedWork;

/// How urgently the instance is being stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StopLevel {
    /// It is not being stopped.
    None,
    /// Every worker is being asked to end.
    Ordered,
    /// Every worker is being killed.
    Kill,
}

/// How long the kernel may report the cgroup of a run that has ended as busy: 500 ms.
const CGROUP_LIMIT: Duration = Duration::from_millis(500);

/// What every actor and driver of one instance uses.
#[derive(Debug)]
pub(crate) struct Services {
    /// App, instance and run, as records have them.
    pub(crate) owner: Owner,
    pub(crate) run: RunId,
    pub(crate) hub: Arc<Hub>,
    pub(crate) table: Table,
    pub(crate) link: Arc<Link>,
    /// The run's cgroup; `None` if cgroups are unavailable or switched off.
    pub(crate) cgroup: Option<Arc<RunGroup>>,
    /// The run's processes by their marker, for the workers that have lost their sitters.
    pub(crate) by_marker: Arc<SharedWork<Arc<ByMarker>>>,
    /// Where sockets and ready files belong: the run's own directory, or a spare one.
    pub(crate) scratch: Arc<Scratch>,
    run_dir: Mutex<Option<RunDir>>,
    /// What the emergency cleaner found, once it has checked.
    pub(crate) cleanup: OnceCell<CleanupReport>,
    pub(crate) stop_level: watch::Sender<StopLevel>,
    parent_ended: AtomicBool,
    /// How many incarnations are not yet released.
    pub(crate) unreleased: watch::Sender<usize>,
    /// Incarnations that are not proven to have left nothing, each with the reason.
    pub(crate) unseen: Arc<Mutex<Vec<String>>>,
}

/// What [`Services::new`] is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) owner: Owner,
    pub(crate) hub: Arc<Hub>,
    pub(crate) table: Table,
    pub(crate) link: Arc<Link>,
    pub(crate) cgroup: Option<RunGroup>,
    pub(crate) run_dir: RunDir,
}

impl Services {
    pub(crate) fn new(parts: Parts) -> Self {
        let run = parts.owner.run;
        let by_marker = move || Arc::new(ByMarker::of_run(run, remains::own_host().as_ref()));
        Self {
            run,
            owner: parts.owner,
            hub: parts.hub,
            table: parts.table,
            link: parts.link,
            cgroup: parts.cgroup.map(Arc::new),
            by_marker: Arc::new(SharedWork::new(by_marker)),
            scratch: Arc::new(Scratch::of(parts.run_dir.path())),
            run_dir: Mutex::new(Some(parts.run_dir)),
            cleanup: OnceCell::new(),
            stop_level: watch::Sender::new(StopLevel::None),
            parent_ended: AtomicBool::new(false),
            unreleased: watch::Sender::new(0),
            unseen: Arc::default(),
        }
    }

    /// Incarnations that are not proven to have left nothing, each with the reason.
    pub(crate) fn unseen(&self) -> Vec<String> {
        self.unseen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Raises the stop level, which never falls.
    pub(crate) fn raise_stop_level(&self, level: StopLevel) {
        self.stop_level.send_if_modified(|current| {
            let rises = level > *current;
            *current = (*current).max(level);
            rises
        });
    }

    /// Kills every worker, now.
    pub(crate) fn kill_workers(&self) {
        self.raise_stop_level(StopLevel::Kill);
    }

    /// The actor that the instance is linked under ends, which becomes the cause of all stops.
    pub(crate) fn note_parent_ended(&self) {
        self.parent_ended.store(true, Ordering::Release);
    }

    /// Whether the instance is stopping.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.stop_level.borrow() != StopLevel::None
    }

    /// The lock file that every guardian and its sitters hold; `None` if the run has been removed.
    pub(crate) fn guardian_lock(&self) -> Option<Arc<OwnedFd>> {
        self.run_dir().as_ref().map(RunDir::guardian_lock)
    }

    /// Writes this guardian to `run.json`, so that a sweep after the host's death can wait for it.
    pub(crate) fn note_guardian(&self, guardian: &ProcessIdentity) {
        let run_dir = self.run_dir();
        let noted = run_dir.as_ref().map(|run_dir| run_dir.set_guardian(Some(*guardian)));
        if let Some(Err(error)) = noted {
            tracing::warn!(target: "ostler", error = %chain(&error), "run.json does not name the guardian");
        }
    }

    /// Makes room for the descriptors of so many workers more, in a thread of its own: the kernel
    /// may make the caller wait for each doubling of the table. Returns at once.
    pub(crate) fn make_room_for(&self, workers: u32) {
        let workers = u64::from(workers).saturating_add(*self.unreleased.borrow() as u64);
        // Without room, the table grows with the workers.
        drop(tokio::task::spawn_blocking(move || {
            limits::reserve_for_workers(workers)
        }));
    }

    /// Begins to remove the run's cgroups, once no pool is left: beside the ends of the sitters,
    /// which keep the other processor busy. Returns at once. A group that is not empty stays until
    /// [`Services::remove_run`].
    pub(crate) fn begin_removing_cgroups(&self) {
        if let Some(cgroup) = self.cgroup.clone() {
            // What it could not remove is tried again, and reported then.
            drop(tokio::task::spawn_blocking(move || cgroup.group().try_remove()));
        }
    }

    /// Closes the table and removes the run's directory. The directory of a run that is not clean
    /// stays for the next start's sweep.
    pub(crate) async fn remove_run(self: &Arc<Self>, clean: bool) {
        if let Err(error) = self.table.close().await {
            tracing::warn!(target: "ostler", error = %chain(&error), "the process table was not closed in order");
        }
        failpoint::reach(Point::TableClosed);
        let services = Arc::clone(self);
        // If the runtime ends meanwhile, the next start's sweep removes it.
        drop(tokio::task::spawn_blocking(move || services.remove_directories(clean)).await);
    }

    /// Waits for a cgroup that the kernel reports as busy, and for the disk.
    fn remove_directories(&self, clean: bool) {
        if let Some(cgroup) = &self.cgroup {
            let removed = cgroup.group().remove_until(Instant::now() + CGROUP_LIMIT);
            if !matches!(removed, Ok(true)) {
                tracing::warn!(target: "ostler", path = %cgroup.group().path().display(), ?removed, "the run's cgroup is left");
            }
        }
        if let Err(error) = self.scratch.remove_spare() {
            tracing::warn!(target: "ostler", error = %chain(&error), "a directory of the run is left for the next start");
        }
        let Some(run_dir) = self.run_dir().take() else { return };
        if !clean {
            tracing::warn!(target: "ostler", path = %run_dir.path().display(), "the run's directory is left for the next sweep");
            return;
        }
        if let Err(error) = scratch::remove(self.owner.run, run_dir.path()) {
            tracing::warn!(target: "ostler", error = %chain(&error), "sockets outside the run's directory are left");
        }
        if let Err(error) = run_dir.remove() {
            tracing::warn!(target: "ostler", error = %chain(&error), "the run's directory is left for the next sweep");
        }
    }

    fn run_dir(&self) -> MutexGuard<'_, Option<RunDir>> {
        self.run_dir.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why a worker is being stopped, when its supervisor does not say.
    pub(crate) fn stop_cause(&self) -> Cause {
        match *self.stop_level.borrow() {
            StopLevel::None => Cause::PoolStop,
            StopLevel::Ordered | StopLevel::Kill if self.parent_ended.load(Ordering::Acquire) => Cause::ParentEnded,
            StopLevel::Ordered | StopLevel::Kill => Cause::InstanceStop,
        }
    }
}
