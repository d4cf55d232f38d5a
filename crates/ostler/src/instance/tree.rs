//! The tree of an instance: its root, its pools, and how they stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ostler_core::spec::PoolSpec;
use ostler_failpoint::{self as failpoint, Point};
use ostler_telemetry::Instance;
use tokio::sync::watch;

use super::anchor::Anchor;
use super::conclude::{self, AbandonOnDrop};
use super::report::StopReport;
use super::services::{Services, StopLevel};
use crate::pool::shared::{PoolShared, drop_aside};
use crate::pool::starter::pool_child;
use crate::pool::{Pool, PoolError, PoolPhase};
use crate::supervisor::{StartChildError, Supervisor};

/// The tree of one instance, shared by all its handles.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(super) services: Arc<Services>,
    pub(super) root: Supervisor,
    /// Its place under an actor of the app, if it is linked.
    pub(super) anchor: Option<Anchor>,
    /// In the order of their starts. A stopped pool stays until the next one of its name.
    pools: Mutex<Vec<Arc<PoolShared>>>,
    pub(super) report: watch::Sender<Option<StopReport>>,
    /// The ordered stop has begun.
    stopping: AtomicBool,
}

impl Tree {
    pub(super) fn new(services: Arc<Services>, root: Supervisor, anchor: Option<Anchor>) -> Arc<Self> {
        let report = watch::Sender::new(None);
        let tree = Arc::new(Self {
            services,
            root,
            anchor,
            pools: Mutex::default(),
            report,
            stopping: AtomicBool::new(false),
        });
        if let Some(observer) = tree.services.hub.observer() {
            // Typed first, because the coercion to the trait object needs a concrete `Weak`.
            let instance: Arc<dyn Instance> = Arc::<Self>::clone(&tree);
            observer.watch(Arc::downgrade(&instance));
        }
        // Made here and not in the task: a runtime can shut down before it polls the task for the
        // first time.
        let runtime_guard = AbandonOnDrop::new(&tree.services);
        tokio::spawn(conclude::conclude(Arc::clone(&tree), runtime_guard));
        tree
    }

    pub(crate) fn services(&self) -> &Arc<Services> {
        &self.services
    }

    fn pools(&self) -> MutexGuard<'_, Vec<Arc<PoolShared>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a new pool, whose name no running pool may have.
    fn admit(&self, spec: PoolSpec) -> Result<Arc<PoolShared>, PoolError> {
        let mut pools = self.pools();
        if let Some(at) = pools.iter().position(|pool| pool.spec.name == spec.name) {
            if !pools[at].is_ended() {
                return Err(PoolError::Exists { pool: spec.name });
            }
            drop_aside(pools.remove(at));
        }
        let shared = PoolShared::new(spec, Arc::clone(&self.services), self.root.clone());
        pools.push(Arc::clone(&shared));
        Ok(shared)
    }

    /// Starts a pool. Not cancel safe: its name is taken from the start on.
    pub(super) async fn start_pool(self: &Arc<Self>, spec: PoolSpec) -> Result<Pool, PoolError> {
        if self.services.is_stopping() {
            return Err(PoolError::Stopping);
        }
        self.services.make_room_for(spec.workers);
        let shared = self.admit(spec)?;
        match self.root.start_child(pool_child(&shared)).await {
            Ok(_) => {
                tokio::spawn(end_when_over(Arc::clone(&shared)));
                Ok(Pool { shared })
            }
            Err(error) => {
                shared.ended();
                Err(match error {
                    StartChildError::Stopping | StartChildError::Cancelled => PoolError::Stopping,
                    reason => PoolError::NotStarted {
                        pool: shared.spec.name.clone(),
                        reason,
                    },
                })
            }
        }
    }

    /// The pools in the order of their starts.
    pub(crate) fn pools_in_order(&self) -> Vec<Arc<PoolShared>> {
        self.pools().clone()
    }

    /// Begins the ordered stop, once, in a task of its own: the pools, the last one first, then the
    /// root.
    pub(super) fn begin_stop(self: &Arc<Self>) {
        self.services.raise_stop_level(StopLevel::Ordered);
        if self.stopping.swap(true, Ordering::AcqRel) {
            return;
        }
        let tree = Arc::clone(self);
        tokio::spawn(async move {
            failpoint::reach(Point::StopBegun);
            for pool in tree.pools_in_order().iter().rev() {
                pool.end().await;
            }
            failpoint::reach(Point::StopPoolsDown);
            tree.services.begin_removing_cgroups();
            tree.root.request_stop();
        });
    }

    /// Kills all workers, even without a runtime. The rest ends in order, in its own tasks.
    pub(super) fn kill(&self) {
        self.services.kill_workers();
        self.root.cell().kill();
        self.services.link.abandon();
    }

    pub(super) fn has_stopped(&self) -> bool {
        self.report.borrow().is_some()
    }

    /// Waits until the instance has ended and everything it held is released or named in the
    /// report.
    pub(super) async fn stopped(&self) -> StopReport {
        let mut report = self.report.subscribe();
        // The sender lives in `self`.
        match report.wait_for(Option::is_some).await {
            Ok(report) => report.clone().unwrap_or_default(),
            Err(_) => StopReport::default(),
        }
    }
}

/// A pool that has finished or given up is taken down.
async fn end_when_over(shared: Arc<PoolShared>) {
    shared.wait_ended(PoolPhase::is_over).await;
    shared.end().await;
}
