//! The handle of a pool.

use std::sync::Arc;

use ostler_core::ids::{Incarnation, WorkerId};
use ostler_core::lifecycle::State;
use ostler_core::spec::PoolSpec;
use ostler_telemetry::{EventKind, Facts, Observer};

use super::error::PoolError;
use super::phase::{PoolEnd, PoolPhase};
use super::shared::PoolShared;
use super::worker_handle::Worker;
use crate::detached::detached;
use crate::follow::Follower;
use crate::hub::About;
use crate::process::Slot;
use crate::status::WorkerState;
use crate::usage::usage;

/// A running pool. Cheap to clone; all clones are handles of the same pool, and dropping them does
/// not stop it.
///
/// Every `async fn` here is cancel safe: once polled, what it orders happens even if its future is
/// dropped.
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

    /// The specification that the pool was made from. [`Pool::size`] is its current number of
    /// workers.
    pub fn spec(&self) -> &PoolSpec {
        &self.shared.spec
    }

    /// The app that it belongs to.
    pub fn app(&self) -> &str {
        self.shared.services.hub.app()
    }

    /// What observes its instance, if anything does: for crates that call the workers.
    #[doc(hidden)]
    pub fn observer(&self) -> Option<&Arc<dyn Observer>> {
        self.shared.services.hub.observer()
    }

    /// Publishes an event of the pool, or of one incarnation of a worker: for crates that call the
    /// workers.
    #[doc(hidden)]
    pub fn publish(&self, kind: EventKind, worker: Option<(&WorkerId, Incarnation)>, facts: Facts) {
        let about = match worker {
            Some((worker, incarnation)) => About::worker(worker, Some(incarnation)),
            None => About::pool(self.name()),
        };
        self.shared.services.hub.emit(kind, about, facts);
    }

    /// The current phase.
    pub fn phase(&self) -> PoolPhase {
        self.shared.phase()
    }

    /// The number of workers: that of its specification, unless it was resized.
    pub fn size(&self) -> usize {
        self.shared.slots.len()
    }

    /// The current state of every worker, by index.
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

    /// The workers that are ready.
    pub fn ready(&self) -> impl Iterator<Item = Worker> + '_ {
        let slots = self.shared.slots.present().into_iter();
        slots
            .filter(|slot| slot.state().state == Some(State::Ready))
            .map(|slot| Worker::new(&self.shared, &slot))
    }

    /// The next ready worker, in turn; `None` if no worker is ready. All handles of the pool share
    /// the turn.
    pub fn pick(&self) -> Option<Worker> {
        let turn = self.shared.next_turn();
        let is_ready = |slot: &Slot| slot.state().state == Some(State::Ready);
        let picked = self.shared.slots.first_from(turn, is_ready)?;
        Some(Worker::new(&self.shared, &picked))
    }

    /// The number of ready workers.
    pub fn ready_workers(&self) -> usize {
        self.shared.ready_workers()
    }

    /// The resident memory of the worker's whole tree, in bytes; shared pages count for each
    /// process. `None` while it has no process, or if it can't be read. Blocks while it reads
    /// `/proc`.
    pub fn resident_memory(&self, index: u32) -> Option<u64> {
        let slot = self.shared.slots.get(index)?;
        usage(&slot).map(|usage| usage.resident)
    }

    /// Calls this follower, in place, for each worker that is ready and for every later change,
    /// until the follower is dropped.
    pub fn follow(&self, follower: &Arc<impl Follower>) {
        self.shared.followers.add(follower);
    }

    /// Waits until every worker is ready. Cancel safe.
    ///
    /// # Errors
    /// [`PoolEnd`], if that will not happen: the pool is ending or has ended, or slots gave up
    /// while the others continue.
    pub async fn wait_ready(&self) -> Result<(), PoolEnd> {
        self.shared.wait_ready().await
    }

    /// Waits until the pool is down and everything it held is released. Returns how it ended.
    /// Cancel safe.
    pub async fn wait_stopped(&self) -> PoolEnd {
        self.shared
            .wait_ended(|phase| matches!(phase, PoolPhase::Ended(_)))
            .await
    }

    /// Waits until the end of the pool begins: it has finished, given up, or is being stopped.
    /// Cancel safe.
    pub async fn wait_over(&self) -> PoolEnd {
        self.shared.wait_ended(PoolPhase::is_over).await
    }

    /// [`Worker::restart`] of the worker with this index. Cancel safe: once polled, the restart
    /// continues.
    ///
    /// # Errors
    /// [`PoolError::NoSuchWorker`]; otherwise as [`Worker::restart`].
    pub async fn restart_worker(&self, index: u32) -> Result<(), PoolError> {
        self.worker(index)?.restart().await.map(drop)
    }

    /// Changes the number of workers. New workers get the next indices and start under
    /// `max_starting`; this returns when they are supervised, and [`Pool::wait_ready`] waits for
    /// them. To shrink, the workers with the highest indices are stopped, all at the same time,
    /// with the cause `pool_resize` in their events; this returns when everything they held is
    /// released. No other worker is touched. With zero, the pool continues without workers.
    ///
    /// [`Pool::spec`] keeps the original number. Changes of one pool are made one after the other,
    /// in the order of the calls. Cancel safe: once polled, a change continues.
    ///
    /// # Errors
    /// [`PoolError::Invalid`] if a pool of this size would be invalid: fewer workers than
    /// `min_workers`, or more than its ports allow. Then nothing is changed.
    /// [`PoolError::ReleaseOverdue`] if workers have ended, but were not released in time;
    /// [`PoolError::Over`]; [`PoolError::Stopping`] if the runtime is shutting down.
    pub async fn resize(&self, workers: u32) -> Result<(), PoolError> {
        let shared = Arc::clone(&self.shared);
        let resized = detached(async move { shared.resize(workers).await }).await;
        resized.unwrap_or(Err(PoolError::Stopping))
    }

    /// Restarts every worker in turn, and waits until each is ready before it stops the next one.
    /// Workers that have finished, given up or were stopped by [`Worker::stop`] stay as they are.
    ///
    /// With `surge` above zero, that many additional workers are started first, with the next
    /// indices, and then that many are replaced at a time, so that there are never fewer ready
    /// workers than before. At the end the additional workers are removed. With zero, one worker at
    /// a time is missing.
    ///
    /// A [`Pool::resize`] waits for its end. Cancel safe: once polled, the restart continues.
    ///
    /// # Errors
    /// [`PoolError::NotReady`] with the first worker whose new process failed; the others keep
    /// running as they are. [`PoolError::Invalid`] if the pool has too few ports for the additional
    /// workers; otherwise as [`Pool::resize`] and [`Worker::restart`].
    pub async fn rolling_restart(&self, surge: u32) -> Result<(), PoolError> {
        let shared = Arc::clone(&self.shared);
        let restarted = detached(async move { shared.rolling_restart(surge).await }).await;
        restarted.unwrap_or(Err(PoolError::Stopping))
    }

    /// Stops every worker and releases everything the pool held. Returns when that is done, with
    /// how the pool ended, because another end may have come first. Idempotent, cancel safe.
    pub async fn stop(&self) -> PoolEnd {
        let shared = Arc::clone(&self.shared);
        detached(async move { shared.end().await }).await;
        self.wait_stopped().await
    }
}
