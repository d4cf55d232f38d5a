//! What people hold of a pool.

use std::sync::Arc;

use ostler_core::lifecycle::State;
use ostler_core::spec::PoolSpec;

use super::error::PoolError;
use super::phase::{PoolEnd, PoolPhase};
use super::shared::PoolShared;
use super::worker_handle::Worker;
use crate::detached::detached;
use crate::follow::Follower;
use crate::status::WorkerState;
use crate::usage::usage;

/// A running pool. Cheap to clone; all clones are handles of the same pool, and dropping them does not stop it.
///
/// Every `async fn` here is cancel safe: what was ordered happens although its future is dropped once it was polled.
#[derive(Debug, Clone)]
pub struct Pool {
    pub(crate) shared: Arc<PoolShared>,
}

impl Pool {
    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.shared.spec.name
    }

    /// What the pool was made from.
    pub fn spec(&self) -> &PoolSpec {
        &self.shared.spec
    }

    /// How far it is.
    pub fn phase(&self) -> PoolPhase {
        self.shared.phase()
    }

    /// The state of every worker now, by its index.
    pub fn workers(&self) -> Vec<WorkerState> {
        self.shared.slots.iter().map(|slot| slot.state()).collect()
    }

    /// The worker with this index, counted from 0.
    ///
    /// # Errors
    /// [`PoolError::NoSuchWorker`].
    pub fn worker(&self, index: u32) -> Result<Worker, PoolError> {
        let slot = usize::try_from(index).ok().and_then(|at| self.shared.slots.get(at));
        match slot {
            Some(slot) => Ok(Worker::new(&self.shared, slot)),
            None => Err(PoolError::NoSuchWorker {
                pool: self.name().to_owned(),
                index,
                workers: self.shared.slots.len(),
            }),
        }
    }

    /// The workers that are ready now.
    pub fn ready(&self) -> impl Iterator<Item = Worker> + '_ {
        let slots = self.shared.slots.iter();
        slots
            .map(|slot| Worker::new(&self.shared, slot))
            .filter(|worker| worker.state().state == Some(State::Ready))
    }

    /// The next ready worker, in turn; `None` when no worker is ready. All handles of the pool take turns together.
    pub fn pick(&self) -> Option<Worker> {
        let slots = &self.shared.slots;
        let first = self.shared.next_turn();
        let in_turn = (0..slots.len()).map(|step| &slots[(first + step) % slots.len()]);
        in_turn
            .map(|slot| Worker::new(&self.shared, slot))
            .find(|worker| worker.state().state == Some(State::Ready))
    }

    /// How many workers are ready.
    pub fn ready_workers(&self) -> usize {
        self.shared.ready_workers()
    }

    /// The resident memory of the worker's whole tree, in bytes; shared pages count for each process. `None` while it has
    /// no process, or if it can't be read. Reads `/proc`, so call it where that may take its time.
    pub fn resident_memory(&self, index: u32) -> Option<u64> {
        let slot = self.shared.slots.get(usize::try_from(index).ok()?)?;
        usage(slot).map(|usage| usage.resident)
    }

    /// Calls this follower, in place, for each worker that is ready now and for all that happens to any of them from now on,
    /// until the follower is dropped.
    pub fn follow(&self, follower: &Arc<impl Follower>) {
        self.shared.followers.add(follower);
    }

    /// Waits until every worker is ready. Cancel safe.
    ///
    /// # Errors
    /// [`PoolEnd`], when that will not happen: the pool ends or has ended, or slots gave up while the others serve on.
    pub async fn wait_ready(&self) -> Result<(), PoolEnd> {
        self.shared.wait_ready().await
    }

    /// Waits until the pool is down, and all it held is released. Returns how it ended. Cancel safe.
    pub async fn wait_stopped(&self) -> PoolEnd {
        self.shared
            .wait_ended(|phase| matches!(phase, PoolPhase::Ended(_)))
            .await
    }

    /// Waits until the pool's end has begun: it has finished, given up, or is being stopped. Cancel safe.
    pub async fn wait_over(&self) -> PoolEnd {
        self.shared.wait_ended(PoolPhase::is_over).await
    }

    /// [`Worker::restart`] of the worker with this index.
    ///
    /// # Errors
    /// [`PoolError::NoSuchWorker`]; else as [`Worker::restart`].
    pub async fn restart_worker(&self, index: u32) -> Result<(), PoolError> {
        self.worker(index)?.restart().await.map(drop)
    }

    /// Stops every worker and releases all that the pool held; returns when that is done, with how the pool ended: another end
    /// may have come first. Idempotent, cancel safe.
    pub async fn stop(&self) -> PoolEnd {
        let shared = Arc::clone(&self.shared);
        detached(async move { shared.end().await }).await;
        self.wait_stopped().await
    }
}
