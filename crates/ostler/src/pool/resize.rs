//! Changes the number of a pool's slots, and restarts its workers in turn.

use std::sync::Arc;

use futures_util::future::{join_all, try_join_all};
use ostler_core::lifecycle::Cause;
use tokio::sync::MutexGuard;

use super::error::PoolError;
use super::phase::{PoolEnd, PoolPhase};
use super::shared::PoolShared;
use super::starter::start_slot;
use super::worker_handle::Worker;
use crate::process::Slot;
use crate::supervisor::StartChildError;

impl PoolShared {
    /// Changes the number of workers.
    pub(super) async fn resize(self: &Arc<Self>, workers: u32) -> Result<(), PoolError> {
        let _sizing = self.turn().await?;
        self.check_size(workers)?;
        self.set_size(workers, 0).await
    }

    /// Replaces every worker, `surge` at a time (at least one), while as many additional ones
    /// serve.
    pub(super) async fn rolling_restart(self: &Arc<Self>, surge: u32) -> Result<(), PoolError> {
        let _sizing = self.turn().await?;
        let slots = self.slots.present();
        let workers = u32::try_from(slots.len()).unwrap_or(u32::MAX);
        let surge = surge.min(workers);
        let with_surge = workers.saturating_add(surge);
        self.check_size(with_surge)?;
        let restarted = async {
            self.set_size(with_surge, surge).await?;
            for stand_in in workers..with_surge {
                self.wait_until_up(stand_in).await?;
            }
            for group in slots.chunks(surge.max(1) as usize) {
                let living = group.iter().filter(|slot| !slot.is_over() && !slot.state().stopped);
                try_join_all(living.map(|slot| self.replace(slot))).await?;
            }
            Ok(())
        };
        let restarted = restarted.await;
        let sized = self.set_size(workers, 0).await;
        restarted.and(sized)
    }

    async fn replace(self: &Arc<Self>, slot: &Arc<Slot>) -> Result<(), PoolError> {
        Worker::new(self, slot).replace().await
    }

    async fn wait_until_up(self: &Arc<Self>, index: u32) -> Result<(), PoolError> {
        match self.slots.get(index) {
            Some(slot) => Worker::new(self, &slot).next_ready(None).await,
            None => Ok(()),
        }
    }

    /// Waits until no other change of the pool's size is in progress.
    async fn turn(&self) -> Result<MutexGuard<'_, ()>, PoolError> {
        tokio::select! {
            biased;
            end = self.wait_ended(PoolPhase::is_over) => Err(self.over(end)),
            turn = self.sizing.lock() => Ok(turn),
        }
    }

    /// Whether a pool with this many workers is valid.
    fn check_size(&self, workers: u32) -> Result<(), PoolError> {
        let problems = self.spec.as_ref().clone().workers(workers).problems();
        match problems.is_empty() {
            true => Ok(()),
            false => Err(PoolError::Invalid {
                pool: self.spec.name.clone(),
                problems,
            }),
        }
    }

    async fn set_size(self: &Arc<Self>, workers: u32, surge: u32) -> Result<(), PoolError> {
        let before = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        self.services.make_room_for(workers.saturating_sub(before));
        let added = self.slots.grow(workers, |index| self.new_slot(index));
        let removed = self.slots.shrink(workers);
        // Before anything of it starts or ends: what the pool hears of slots that it does not have
        // changes nothing.
        self.note_size(workers, surge);
        let started = self.start(&added).await;
        if started.is_err() {
            let undone = self.slots.shrink(before);
            self.note_size(before, 0);
            drop(self.remove(undone).await);
        }
        let released = self.remove(removed).await;
        started.and(released)
    }

    /// Starts the added slots.
    async fn start(self: &Arc<Self>, added: &[Arc<Slot>]) -> Result<(), PoolError> {
        for slot in added {
            let Some(supervisor) = self.supervisor() else {
                return self.unless_over();
            };
            match start_slot(&supervisor, slot, self).await {
                Ok(()) => {}
                // The pool is ending, or its supervisor was lost and the next one starts all slots.
                Err(StartChildError::Stopping | StartChildError::Cancelled) => return self.unless_over(),
                Err(reason) => {
                    let pool = self.spec.name.clone();
                    return Err(PoolError::NotStarted { pool, reason });
                }
            }
        }
        Ok(())
    }

    fn unless_over(&self) -> Result<(), PoolError> {
        self.phase().end().map_or(Ok(()), |end| Err(self.over(end.clone())))
    }

    fn over(&self, end: PoolEnd) -> PoolError {
        PoolError::Over {
            pool: self.spec.name.clone(),
            end: Box::new(end),
        }
    }

    /// Ends the removed slots, all at the same time, and waits until they are released.
    async fn remove(self: &Arc<Self>, removed: Vec<Arc<Slot>>) -> Result<(), PoolError> {
        let supervisor = self.supervisor();
        let ends = removed.iter().map(|slot| async {
            let index = slot.worker.index;
            slot.set_stop_cause(Cause::PoolResize);
            if let (Some(supervisor), Some(key)) = (&supervisor, self.starter_key(index)) {
                // A supervisor that is stopping ends all its starters; one that is gone has ended
                // them.
                drop(supervisor.terminate_child(key).await);
            }
            self.forget_starter(index);
            slot.settled().await;
        });
        join_all(ends).await;
        let (released, overdue): (Vec<_>, Vec<_>) = removed.into_iter().partition(|slot| self.slots.forget(slot));
        self.close(&released);
        if overdue.is_empty() {
            return Ok(());
        }
        let workers = overdue.iter().map(|slot| slot.worker.clone()).collect();
        for slot in overdue {
            tokio::spawn(close_when_released(Arc::clone(self), slot));
        }
        Err(PoolError::ReleaseOverdue {
            pool: self.spec.name.clone(),
            workers,
        })
    }
}

/// Forgets a slot whose release was overdue once it is released, unless the pool has grown again
/// and reuses it.
async fn close_when_released(shared: Arc<PoolShared>, slot: Arc<Slot>) {
    slot.released().await;
    if shared.slots.forget(&slot) {
        shared.close(&[slot]);
    }
}
