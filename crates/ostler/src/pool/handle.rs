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
use crate::process::Slot;
use crate::status::WorkerState;
use crate::usage::usage;

/// A running pool. Cheap to clone; all clones are handles of the same pool, and dropping them does
/// not stop it.
///
/// Every `async fn` here is cancel safe: what was ordered happens although its future is dropped
/// once it was polled.
///
/// ```no_run
/// # async fn example(pool: ostler::Pool) -> Result<(), Box<dyn std::error::Error>> {
/// pool.wait_ready().await?;
/// for worker in pool.ready() {
///     println!("{} has pid {:?} and serves at {:?}", worker.id(), worker.pid(), worker.addr());
/// }
/// // The next ready worker, in turn.
/// let worker = pool.pick().ok_or("no worker is ready")?;
/// println!("{} is asked next; the pool is {:?}", worker.id(), pool.phase());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Pool {
    pub(crate) shared: Arc<PoolShared>,
}

impl Pool {
    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.shared.spec.name
    }

    /// What the pool was made from. [`Pool::size`] is how many workers it has now.
    pub fn spec(&self) -> &PoolSpec {
        &self.shared.spec
    }

    /// How far it is.
    pub fn phase(&self) -> PoolPhase {
        self.shared.phase()
    }

    /// How many workers it has: those of its specification, until it is resized.
    pub fn size(&self) -> usize {
        self.shared.slots.len()
    }

    /// The state of every worker now, by its index.
    pub fn workers(&self) -> Vec<WorkerState> {
        let slots = self.shared.slots.present();
        slots.iter().map(|slot| slot.state()).collect()
    }

    /// The worker with this index, counted from 0.
    ///
    /// # Errors
    /// [`PoolError::NoSuchWorker`].
    pub fn worker(&self, index: u32) -> Result<Worker, PoolError> {
        match self.shared.slots.get(index) {
            Some(slot) => Ok(Worker::new(&self.shared, &slot)),
            None => Err(PoolError::NoSuchWorker {
                pool: self.name().to_owned(),
                index,
                workers: self.shared.slots.len(),
            }),
        }
    }

    /// The workers that are ready now.
    pub fn ready(&self) -> impl Iterator<Item = Worker> + '_ {
        let slots = self.shared.slots.present().into_iter();
        slots
            .filter(|slot| slot.state().state == Some(State::Ready))
            .map(|slot| Worker::new(&self.shared, &slot))
    }

    /// The next ready worker, in turn; `None` when no worker is ready. All handles of the pool take
    /// turns together.
    pub fn pick(&self) -> Option<Worker> {
        let turn = self.shared.next_turn();
        let is_ready = |slot: &Slot| slot.state().state == Some(State::Ready);
        let picked = self.shared.slots.first_from(turn, is_ready)?;
        Some(Worker::new(&self.shared, &picked))
    }

    /// How many workers are ready.
    pub fn ready_workers(&self) -> usize {
        self.shared.ready_workers()
    }

    /// The resident memory of the worker's whole tree, in bytes; shared pages count for each
    /// process. `None` while it has no process, or if it can't be read. Reads `/proc`, so call it
    /// where that may take its time.
    pub fn resident_memory(&self, index: u32) -> Option<u64> {
        let slot = self.shared.slots.get(index)?;
        usage(&slot).map(|usage| usage.resident)
    }

    /// Calls this follower, in place, for each worker that is ready now and for all that happens to
    /// any of them from now on, until the follower is dropped.
    pub fn follow(&self, follower: &Arc<impl Follower>) {
        self.shared.followers.add(follower);
    }

    /// Waits until every worker is ready. Cancel safe.
    ///
    /// # Errors
    /// [`PoolEnd`], when that will not happen: the pool ends or has ended, or slots gave up while
    /// the others serve on.
    pub async fn wait_ready(&self) -> Result<(), PoolEnd> {
        self.shared.wait_ready().await
    }

    /// Waits until the pool is down, and all it held is released. Returns how it ended. Cancel
    /// safe.
    pub async fn wait_stopped(&self) -> PoolEnd {
        self.shared
            .wait_ended(|phase| matches!(phase, PoolPhase::Ended(_)))
            .await
    }

    /// Waits until the pool's end has begun: it has finished, given up, or is being stopped. Cancel
    /// safe.
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

    /// Changes how many workers the pool has. It grows at the end, and its new workers start under
    /// `max_starting`; this returns when they are supervised, and [`Pool::wait_ready`] waits for
    /// them. It shrinks at the end: the workers with the highest indices are asked to end, the
    /// highest first, with the cause `pool_resize` in their events, and this returns when all that
    /// they held is released. No other worker is touched. Zero: the pool lives on without workers.
    ///
    /// [`Pool::spec`] keeps the number that the pool was made with. Changes of one pool come one
    /// after the other, in the order of the calls. Cancel safe: a change that was polled once goes
    /// on.
    ///
    /// # Errors
    /// [`PoolError::Invalid`] when a pool of this size would be: fewer workers than `min_workers`,
    /// more than its ports allow. Nothing is changed then. [`PoolError::ReleaseOverdue`] when
    /// workers are ended, but not released in time; [`PoolError::Over`]; [`PoolError::Stopping`]
    /// when the runtime is shutting down.
    pub async fn resize(&self, workers: u32) -> Result<(), PoolError> {
        let shared = Arc::clone(&self.shared);
        let resized = detached(async move { shared.resize(workers).await }).await;
        resized.unwrap_or(Err(PoolError::Stopping))
    }

    /// Restarts every worker in turn, and waits for each until it is ready before the next is
    /// stopped. Workers that have finished, given up or were stopped by [`Worker::stop`] stay as
    /// they are.
    ///
    /// With `surge` above zero that many workers more are started first, with the next indices, and
    /// that many are then replaced at a time: at no moment are fewer workers ready than before. At
    /// the end they are removed again. With zero, one worker at a time is missing.
    ///
    /// A [`Pool::resize`] waits for its end. Cancel safe: a restart that was polled once goes on.
    ///
    /// # Errors
    /// [`PoolError::NotReady`] with the first worker whose new process failed: the others keep
    /// running as they are. [`PoolError::Invalid`] when the pool can't have so many more workers,
    /// because it has too few ports; else as [`Pool::resize`] and [`Worker::restart`].
    pub async fn rolling_restart(&self, surge: u32) -> Result<(), PoolError> {
        let shared = Arc::clone(&self.shared);
        let restarted = detached(async move { shared.rolling_restart(surge).await }).await;
        restarted.unwrap_or(Err(PoolError::Stopping))
    }

    /// Stops every worker and releases all that the pool held; returns when that is done, with how
    /// the pool ended: another end may have come first. Idempotent, cancel safe.
    pub async fn stop(&self) -> PoolEnd {
        let shared = Arc::clone(&self.shared);
        detached(async move { shared.end().await }).await;
        self.wait_stopped().await
    }
}
