//! The handle of a running instance.

use std::sync::Arc;

use ostler_core::ids::RunId;
use ostler_core::spec::PoolSpec;

use super::builder::OstlerBuilder;
use super::report::{StopError, StopReport};
use super::services::{Services, StopLevel};
use super::sweep::SweepReport;
use super::tree::Tree;
use crate::hub::EventStream;
use crate::pool::{Pool, PoolBuilder, PoolError};

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

    pub(super) fn new(tree: Arc<Tree>, swept: SweepReport) -> Self {
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
