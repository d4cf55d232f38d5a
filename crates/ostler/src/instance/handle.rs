//! The handle of a running instance.

use std::sync::Arc;

use ostler_core::ids::RunId;
use ostler_core::spec::PoolSpec;

use super::builder::OstlerBuilder;
use super::pool_builder::PoolBuilder;
use super::report::{StopError, StopReport};
use super::services::Services;
use super::sweep::SweepReport;
use super::tree::Tree;
use crate::hub::EventStream;
use crate::pool::{Pool, PoolError};

/// A running instance. Cheap to clone: one task can watch it while another stops it.
///
/// When the last handle is dropped before the instance has ended, its workers are killed within a
/// second, with or without a runtime, even in the middle of a stop. If the instance is linked and
/// its parent is ending, the drop does nothing: the app's state that holds the handle is dropped
/// with the app, and the instance stops in order (see [`OstlerBuilder::start_linked`]).
///
/// Every `async fn` here is cancel safe: once polled, what it orders happens even if its future is
/// dropped.
///
/// ```no_run
/// use ostler::{Ostler, PoolSpec};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let ostler = Ostler::builder("demo").start().await?;
/// let pool = ostler.add_pool(PoolSpec::new("web", ["./server"]).workers(2)).await?;
/// // Another task watches it.
/// let watched = ostler.clone();
/// let watch = tokio::spawn(async move { watched.ended().await });
/// pool.wait_ready().await?;
/// ostler.stop().await?;
/// println!("{}", watch.await?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Ostler {
    held: Arc<Held>,
}

/// Shared by all handles, and dropped with the last one.
#[derive(Debug)]
struct Held {
    tree: Arc<Tree>,
    swept: SweepReport,
}

impl Drop for Held {
    fn drop(&mut self) {
        let parent_ends = self
            .tree
            .anchor
            .as_ref()
            .is_some_and(|anchor| anchor.parent_is_ending());
        if !parent_ends && !self.tree.has_stopped() {
            self.tree.kill();
        }
    }
}

impl Ostler {
    /// Begins an instance of the app `name`, which identifies the app to later sweeps.
    pub fn builder(name: impl Into<String>) -> OstlerBuilder {
        OstlerBuilder::new(name.into())
    }

    pub(super) fn new(tree: Arc<Tree>, swept: SweepReport) -> Self {
        Self {
            held: Arc::new(Held { tree, swept }),
        }
    }

    pub(super) fn tree(&self) -> &Arc<Tree> {
        &self.held.tree
    }

    /// The id of this run.
    pub fn run_id(&self) -> RunId {
        self.tree().services.run
    }

    /// What the sweep at the start found.
    pub fn swept(&self) -> &SweepReport {
        &self.held.swept
    }

    /// How many records the process table holds.
    pub fn table_len(&self) -> usize {
        self.tree().services.table.len()
    }

    /// The guardian's pid, while there is one.
    pub fn guardian_pid(&self) -> Option<u32> {
        self.tree().services.link.current().map(|guardian| guardian.pid())
    }

    /// The instance's actor, for links and names: for a linked instance the child that its parent
    /// sees, otherwise the root supervisor. Stop it with [`Ostler::stop`]; ractor's own `kill`
    /// kills the workers at once.
    pub fn cell(&self) -> ractor::ActorCell {
        match &self.tree().anchor {
            Some(anchor) => anchor.cell(),
            None => self.tree().root.cell(),
        }
    }

    /// Begins a pool named `name` with every setting at its default.
    pub fn pool(&self, name: impl Into<String>) -> PoolBuilder {
        self.pool_from(PoolSpec::new(name, Vec::<String>::new()))
    }

    /// Begins a pool from a specification.
    pub fn pool_from(&self, spec: PoolSpec) -> PoolBuilder {
        PoolBuilder::new(Arc::clone(self.tree()), spec)
    }

    /// Starts a pool from a specification: [`PoolBuilder::start`]. Cancel safe in the same way.
    ///
    /// # Errors
    /// As [`PoolBuilder::start`].
    pub async fn add_pool(&self, spec: PoolSpec) -> Result<Pool, PoolError> {
        self.pool_from(spec).start().await
    }

    /// The pools in the order of their starts. A pool that has ended stays listed until the next
    /// one of its name is started.
    pub fn pools(&self) -> Vec<Pool> {
        let pools = self.tree().pools_in_order();
        pools.into_iter().map(|shared| Pool { shared }).collect()
    }

    /// Subscribes to the events from now on.
    pub fn subscribe(&self) -> EventStream {
        self.tree().services.hub.subscribe()
    }

    /// Stops everything in order: the pools, the last one first, then the root. Returns what was
    /// stopped, released and found; if the instance has ended already, its report. Takes at most
    /// the grace and the release timeout of the workers. It may be awaited anywhere, including the
    /// callbacks of the actor that the instance is linked under. Cancel safe: once polled, the stop
    /// continues.
    ///
    /// # Errors
    /// [`StopError`], which names what could not be ended or released.
    pub async fn stop(&self) -> Result<StopReport, StopError> {
        self.request_stop();
        let report = self.ended().await;
        if report.is_clean() {
            Ok(report)
        } else {
            Err(StopError { report })
        }
    }

    /// Begins [`Ostler::stop`] without waiting for it. Idempotent.
    pub fn request_stop(&self) {
        self.tree().begin_stop();
    }

    /// Kills every worker at once, even in the middle of [`Ostler::stop`]. The stop itself
    /// continues in order.
    pub fn killer(&self) -> Killer {
        Killer {
            services: Arc::clone(&self.tree().services),
        }
    }

    /// Waits until the instance has ended, for whatever cause: it was stopped, its root gave up, or
    /// its parent ended. Cancel safe.
    pub async fn ended(&self) -> StopReport {
        self.tree().stopped().await
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
        self.services.kill_workers();
    }
}
