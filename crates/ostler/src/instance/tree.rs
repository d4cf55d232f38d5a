//! The tree of an instance: its root, its pools, and how they stop.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ostler_core::spec::PoolSpec;
use ostler_failpoint::{self as failpoint, Point};
use ostler_telemetry::Instance;
use tokio::sync::watch;

use super::conclude::{self, AbandonOnDrop};
use super::report::StopReport;
use super::services::{Services, StopLevel};
use crate::pool::{Pool, PoolError, PoolPhase, PoolShared, pool_child};
use crate::supervisor::{StartChildError, Supervisor};

/// The tree of one instance, as all its handles see it.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(super) services: Arc<Services>,
    pub(super) root: Supervisor,
    /// In the order of their starts; one that has stopped stays until the next of its name.
    pools: Mutex<Vec<Arc<PoolShared>>>,
    pub(super) report: watch::Sender<Option<StopReport>>,
}

impl Tree {
    pub(crate) fn new(services: Arc<Services>, root: Supervisor) -> Arc<Self> {
        let report = watch::Sender::new(None);
        let tree = Arc::new(Self {
            services,
            root,
            pools: Mutex::default(),
            report,
        });
        if let Some(observer) = tree.services.hub.observer() {
            // As a type first, or the pointer would have no place for the trait's methods.
            let instance: Arc<dyn Instance> = Arc::<Self>::clone(&tree);
            observer.watch(Arc::downgrade(&instance));
        }
        // Made here and not in the task: a runtime can be shut down before it has polled that for the first time.
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

    /// Takes a new pool in, under a name that no other has now.
    fn admit(&self, spec: PoolSpec) -> Result<Arc<PoolShared>, PoolError> {
        let mut pools = self.pools();
        if let Some(at) = pools.iter().position(|pool| pool.spec.name == spec.name) {
            if !pools[at].is_stopped() {
                return Err(PoolError::Exists { pool: spec.name });
            }
            pools.remove(at);
        }
        let shared = PoolShared::new(spec, Arc::clone(&self.services));
        pools.push(Arc::clone(&shared));
        Ok(shared)
    }

    pub(super) async fn start_pool(self: &Arc<Self>, spec: PoolSpec) -> Result<Pool, PoolError> {
        let name = spec.name.clone();
        if self.services.is_stopping() {
            return Err(PoolError::Stopping);
        }
        let shared = self.admit(spec)?;
        match self.root.start_child(pool_child(&shared)).await {
            Ok(_) => {
                tokio::spawn(end_when_over(Arc::clone(self), Arc::clone(&shared)));
                Ok(Pool {
                    shared,
                    tree: Arc::clone(self),
                })
            }
            Err(error) => {
                shared.stopped();
                Err(match error {
                    StartChildError::Stopping | StartChildError::Cancelled => PoolError::Stopping,
                    other => PoolError::NotStarted {
                        pool: name,
                        why: other.to_string(),
                    },
                })
            }
        }
    }

    /// Stops a pool in order; returns when all it held is released, or its release is overdue.
    pub(crate) async fn end_pool(&self, shared: &Arc<PoolShared>) {
        // A root that has ended has taken its pools with it; the wait below sees to what they held.
        drop(self.root.terminate_child(shared.child_id.as_str()).await);
        drop(self.root.delete_child(shared.child_id.as_str()).await);
        shared.settle().await;
        shared.stopped();
    }

    /// The pools in the order of their starts.
    pub(crate) fn pools_in_order(&self) -> Vec<Arc<PoolShared>> {
        self.pools().clone()
    }

    pub(super) async fn stop(&self) -> StopReport {
        self.services.raise_stop_level(StopLevel::Ordered);
        failpoint::reach(Point::StopBegun);
        for pool in self.pools_in_order().iter().rev() {
            self.end_pool(pool).await;
        }
        failpoint::reach(Point::StopPoolsDown);
        self.root.request_stop();
        self.stopped().await
    }

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
async fn end_when_over(tree: Arc<Tree>, shared: Arc<PoolShared>) {
    let over = shared.phase.subscribe().wait_for(PoolPhase::is_over).await.is_ok();
    if over {
        tree.end_pool(&shared).await;
    }
}
