//! A running instance: its tree, its pools, its end.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ostler_core::ids::RunId;
use ostler_core::spec::PoolSpec;
use ostler_os::failpoint::{self, Point};
use ostler_telemetry::{EventKind, Facts, Instance};
use tokio::sync::watch;

use crate::builder::OstlerBuilder;
use crate::cleaner;
use crate::guard::Link;
use crate::hub::{About, EventStream};
use crate::pool::{Pool, PoolBuilder, PoolError, PoolShared, pool_child};
use crate::report::{StopError, StopReport};
use crate::services::{Services, StopLevel};
use crate::supervisor::{End, StartChildError, Supervisor};
use crate::sweep::SweepReport;

/// How long the guardian has to end, once everything is down, and then again its sitters: 5 s. Their own ends take a
/// millisecond.
const QUIT_LIMIT: Duration = Duration::from_secs(5);

/// The tree of one instance, as all its handles see it.
#[derive(Debug)]
pub(crate) struct Tree {
    services: Arc<Services>,
    root: Supervisor,
    /// In the order of their starts; one that has stopped stays until the next of its name.
    pools: Mutex<Vec<Arc<PoolShared>>>,
    report: watch::Sender<Option<StopReport>>,
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
        let runtime_guard = AbandonOnDrop(Arc::clone(&tree.services));
        tokio::spawn(conclude(Arc::clone(&tree), runtime_guard));
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

    async fn start_pool(self: &Arc<Self>, spec: PoolSpec) -> Result<Pool, PoolError> {
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

    async fn stop(&self) -> StopReport {
        self.services.raise_stop_level(StopLevel::Ordered);
        failpoint::reach(Point::StopBegun);
        for pool in self.pools_in_order().iter().rev() {
            self.end_pool(pool).await;
        }
        failpoint::reach(Point::StopPoolsDown);
        self.root.request_stop();
        self.stopped().await
    }

    async fn stopped(&self) -> StopReport {
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
    let over = shared
        .phase
        .subscribe()
        .wait_for(crate::pool::PoolPhase::is_over)
        .await
        .is_ok();
    if over {
        tree.end_pool(&shared).await;
    }
}

/// The end of the instance, however its root ended: everything that outlives actors is ended and released here.
async fn conclude(tree: Arc<Tree>, runtime_guard: AbandonOnDrop) {
    let ended = tree.root.wait().await;
    let services = &tree.services;
    services.link.expect_no_other();
    // A root that was killed has nobody left who would give the workers their grace, and see to its end.
    services.raise_stop_level(if ended.is_some() {
        StopLevel::Ordered
    } else {
        StopLevel::Kill
    });
    for pool in tree.pools_in_order() {
        pool.settle().await;
        pool.stopped();
    }
    let cleanup = cleaner::check_once(services).await;
    failpoint::reach(Point::StopChecked);
    let unended = end_guardian(&services.link).await;
    failpoint::reach(Point::StopGuardianQuit);
    let mut report = StopReport::of_pools(&tree.pools_in_order());
    report.root_gave_up = ended.and_then(why_gave_up);
    report.orphans = cleanup.orphans;
    report.killed = cleanup.killed;
    report.unseen = cleanup.unseen;
    report.survivors = cleanup.survivors;
    report.survivors.extend(unended);
    services.remove_run(report.is_clean()).await;
    services
        .hub
        .emit(EventKind::RunStopped, About::run(), stopped_facts(&report));
    tree.report.send_replace(Some(report));
    drop(runtime_guard);
}

/// A runtime that is shut down drops its tasks, actors and drivers among them: the guardian is told at once to end
/// what it has, for nobody is left to do it in order.
struct AbandonOnDrop(Arc<Services>);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.link.abandon();
    }
}

/// The end of the guardian, and of every sitter of it and of those before it; what does not end is named. Killed, a
/// guardian leaves what it has to its sitters, and each ends its tree.
async fn end_guardian(link: &Link) -> Option<String> {
    if let Some(guardian) = link.close()
        && let Err(error) = guardian.quit(QUIT_LIMIT).await
    {
        tracing::error!(target: "ostler", %error, "the guardian did not end as told, and is killed");
        guardian.abandon();
        guardian.kill();
    }
    let ended = link.all_ended(QUIT_LIMIT).await;
    (!ended).then(|| "sitters of this run: each ends with what its tree holds".to_owned())
}

fn why_gave_up(end: End) -> Option<String> {
    match end {
        End::MaxIntensity { child, reason, .. } => Some(format!("{} was lost too often: {reason}", child.id)),
        End::Stopped | End::AutoShutdown | End::StartFailed { .. } => None,
    }
}

fn stopped_facts(report: &StopReport) -> Facts {
    Facts {
        count: Some(report.workers),
        message: Some(report.to_string()),
        ..Facts::default()
    }
}

/// A running instance. Dropped without [`Ostler::stop`], it leaves nothing behind all the same: its workers are killed
/// within a second, with or without a runtime.
#[derive(Debug)]
pub struct Ostler {
    tree: Arc<Tree>,
    swept: SweepReport,
}

impl Ostler {
    /// Begins an instance of the app `name`: the identity that sweeps go by.
    pub fn builder(name: impl Into<String>) -> OstlerBuilder {
        OstlerBuilder::new(name.into())
    }

    pub(crate) fn new(tree: Arc<Tree>, swept: SweepReport) -> Self {
        Self { tree, swept }
    }

    /// The id of this run.
    pub fn run_id(&self) -> RunId {
        self.tree.services.run
    }

    /// What the sweep at the start found.
    pub fn swept(&self) -> &SweepReport {
        &self.swept
    }

    /// How many records the process table holds.
    pub fn table_len(&self) -> usize {
        self.tree.services.table.len()
    }

    /// The guardian's pid, while there is one.
    pub fn guardian_pid(&self) -> Option<u32> {
        self.tree.services.link.current().map(|guardian| guardian.pid())
    }

    /// The root supervisor's actor.
    pub fn cell(&self) -> ractor::ActorCell {
        self.tree.root.cell()
    }

    /// Begins a pool named `name` with every setting at its default.
    pub fn pool(&self, name: impl Into<String>) -> PoolBuilder<'_> {
        PoolBuilder::new(self, PoolSpec::new(name, Vec::<String>::new()))
    }

    /// Begins a pool from a specification.
    pub fn pool_from(&self, spec: PoolSpec) -> PoolBuilder<'_> {
        PoolBuilder::new(self, spec)
    }

    pub(crate) async fn start_pool(&self, spec: PoolSpec) -> Result<Pool, PoolError> {
        self.tree.start_pool(spec).await
    }

    /// The pools that were started, in order.
    pub fn pools(&self) -> Vec<Pool> {
        let pool = |shared| Pool {
            shared,
            tree: Arc::clone(&self.tree),
        };
        self.tree.pools_in_order().into_iter().map(pool).collect()
    }

    /// The events from now on.
    pub fn subscribe(&self) -> EventStream {
        self.tree.services.hub.subscribe()
    }

    /// Stops everything in order: the pools, the last one first, then the root. Returns what was stopped, released and
    /// found. Its time is bounded by the grace and the release timeout of the workers.
    ///
    /// # Errors
    /// [`StopError`] when something could not be ended or released; it names it.
    pub async fn stop(self) -> Result<StopReport, StopError> {
        let report = self.tree.stop().await;
        if report.is_clean() {
            Ok(report)
        } else {
            Err(StopError { report })
        }
    }

    /// Kills every worker at once, also in the middle of [`Ostler::stop`]. The stop itself goes on in order.
    pub fn killer(&self) -> Killer {
        Killer {
            services: Arc::clone(&self.tree.services),
        }
    }

    /// Waits until the instance has ended without having been told to: its root gave up, or was stopped by its
    /// supervisor.
    pub async fn ended(&self) -> StopReport {
        self.tree.stopped().await
    }
}

impl Drop for Ostler {
    fn drop(&mut self) {
        if self.tree.report.borrow().is_some() {
            return;
        }
        self.tree.services.raise_stop_level(StopLevel::Kill);
        self.tree.root.cell().kill();
        self.tree.services.link.abandon();
    }
}

/// Kills the workers of an instance whose stop takes too long; see [`Ostler::killer`].
#[derive(Debug, Clone)]
pub struct Killer {
    services: Arc<Services>,
}

impl Killer {
    /// Kills every worker's whole tree, now. Idempotent.
    pub fn kill(&self) {
        self.services.raise_stop_level(StopLevel::Kill);
    }
}
