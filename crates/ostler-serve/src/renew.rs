//! Workers are replaced: one that was in the middle of a lost call at once, one that is recycled
//! when a stand-in serves, all of them in turn.
//!
//! A worker that is replaced gets no further calls, and finishes those it has (`drain_timeout`). A
//! stand-in is one worker more, at the end of the pool, for as long as another one is missing.

use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use ostler::{Cause, EventKind, Facts, Incarnation, PoolError};
use ostler_core::chain::chain;
use ostler_core::spec::Recycle;
use ostler_os::patience;
use tokio::sync::MutexGuard;

use crate::policy::recycle::RecycleReason;
use crate::policy::workers::WorkerKey;
use crate::pool::{Serving, ServingPool};
use crate::worker::{Leases, Worker};

/// How often the age and memory of workers are checked.
const LOOK: Duration = Duration::from_millis(250);

/// How long a worker that is due is left alone after its stand-in has failed to start.
const NEXT_STAND_IN: Duration = Duration::from_secs(1);

/// Why a worker is replaced: the cause in its event `worker.draining`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replacement {
    /// A call on it was lost with its connection, or its answer could not be read.
    CallLost,
    /// The caller of a call on it gave up.
    CallCancelled,
    /// The holder of its lease has asked for it.
    Discarded,
    /// [`ServingPool::replace`].
    Requested,
    /// It has reached a limit of `recycle`.
    Recycled(RecycleReason),
    /// All workers are restarted in turn.
    RollingRestart,
    /// The pool becomes smaller, or does not need it any more as a stand-in.
    Resized,
}

impl Replacement {
    fn cause(self) -> Cause {
        match self {
            Self::CallLost => Cause::CallLost,
            Self::CallCancelled => Cause::CallCancelled,
            Self::Discarded => Cause::Discarded,
            Self::Requested => Cause::ReplaceRequested,
            Self::Recycled(RecycleReason::Age) => Cause::RecycleAge,
            Self::Recycled(RecycleReason::Requests) => Cause::RecycleRequests,
            Self::Recycled(RecycleReason::Memory) => Cause::RecycleMemory,
            Self::RollingRestart => Cause::RollingRestart,
            Self::Resized => Cause::PoolResize,
        }
    }

    /// A worker that may be in the middle of something is not left to its holder.
    fn leases(self) -> Leases {
        match self {
            Self::CallLost | Self::CallCancelled | Self::Discarded => Leases::CutOff,
            Self::Requested | Self::Recycled(_) | Self::RollingRestart | Self::Resized => Leases::Awaited,
        }
    }
}

impl ServingPool {
    /// Lets the worker finish its calls (`drain_timeout`), then restarts it. Meanwhile it gets no
    /// new calls. Does nothing if the worker is not ready.
    pub fn replace(&self, index: u32) {
        if let Some(worker) = self.serving().worker(index) {
            self.serving().replace(&worker, Replacement::Requested);
        }
    }

    /// Changes how many workers the pool has ([`Pool::resize`](ostler::Pool::resize)): those that
    /// go finish the calls that they have first (`drain_timeout`). Changes are made one after the
    /// other, in the order of the calls. Cancel safe: what was begun goes on.
    ///
    /// # Errors
    /// Those of [`Pool::resize`](ostler::Pool::resize).
    pub async fn resize(&self, workers: u32) -> Result<(), PoolError> {
        let serving = Arc::clone(self.serving());
        self.go_on(async move {
            let _sizing = serving.sizing.lock().await;
            serving.shrink(workers).await
        })
        .await
    }

    /// Restarts all workers in turn, each after it has finished the calls that it has
    /// (`drain_timeout`), and waits for each until it is ready. With `recycle.surge` 1, a stand-in
    /// is ready before the first of them drains: at no moment are fewer workers ready than the pool
    /// has. Cancel safe: what was begun goes on.
    ///
    /// # Errors
    /// [`PoolError::NotReady`] as soon as a new process has failed, and another [`PoolError`] if a
    /// worker can't be restarted or a stand-in can't be added (a pool of fixed ports has no port
    /// for it). The workers that are left keep running as they are.
    pub async fn rolling_restart(&self) -> Result<(), PoolError> {
        let serving = Arc::clone(self.serving());
        self.go_on(async move { serving.restart_all().await }).await
    }

    /// Runs this to its end, whatever becomes of the caller. It begins in the caller, so that
    /// concurrent changes queue in the order of the calls: of two tasks the later may begin first.
    async fn go_on(&self, work: impl Future<Output = Result<(), PoolError>> + Send + 'static) -> Result<(), PoolError> {
        let (runtime, mut work) = (self.serving().runtime(), Box::pin(work));
        let begun = std::future::poll_fn(|context| {
            let _entered = runtime.enter();
            Poll::Ready(work.as_mut().poll(context))
        });
        if let Poll::Ready(done) = begun.await {
            return done;
        }
        runtime.spawn(work).await.unwrap_or(Err(PoolError::Stopping))
    }
}

impl Serving {
    /// The worker gets no further calls, finishes those it has, and is restarted. Once, however
    /// often it is asked for.
    pub(crate) fn replace(self: &Arc<Self>, worker: &Arc<Worker>, why: Replacement) {
        if !self.drain(worker, why) {
            return;
        }
        let (serving, worker) = (Arc::clone(self), Arc::clone(worker));
        // Where the runtime is gone, so is the pool.
        self.runtime().spawn(async move {
            if let Err(error) = serving.restart(&worker, why.leases()).await {
                tracing::debug!(target: "ostler", worker = %worker.who(), error = %chain(&error), "a worker was not replaced");
            }
        });
    }

    /// The worker has reached a limit of `recycle`.
    pub(crate) fn recycle(self: &Arc<Self>, worker: &Arc<Worker>, reason: RecycleReason) {
        if self.spec().recycle.surge == 0 {
            return self.replace(worker, Replacement::Recycled(reason));
        }
        if !worker.becomes_due() {
            return;
        }
        let (serving, worker) = (Arc::clone(self), Arc::clone(worker));
        self.runtime().spawn(async move {
            let sizing = serving.sizing.lock().await;
            // It may have ended by itself while it waited for its turn.
            if !worker.is_serving() {
                return;
            }
            let why = Replacement::Recycled(reason);
            match serving.stand_in(&sizing).await {
                Ok(size) => {
                    if serving.drain(&worker, why) {
                        note(&worker, serving.renewed(&worker).await);
                    }
                    note(&worker, serving.shrink(size).await);
                }
                // What fails to start is no replacement: the worker serves on meanwhile.
                Err(error @ PoolError::NotReady { .. }) => {
                    note(&worker, Err(error));
                    drop(sizing);
                    tokio::time::sleep(NEXT_STAND_IN).await;
                    worker.is_due_again();
                }
                // There is no room for a stand-in.
                Err(error) => {
                    note(&worker, Err(error));
                    serving.replace(&worker, why);
                }
            }
        });
    }

    async fn restart_all(self: &Arc<Self>) -> Result<(), PoolError> {
        let sizing = self.sizing.lock().await;
        let size = match self.spec().recycle.surge {
            0 => self.size(),
            _ => self.stand_in(&sizing).await?,
        };
        let mut restarted = Ok(());
        for index in 0..size {
            let Some(worker) = self.worker(index) else { continue };
            restarted = match self.drain(&worker, Replacement::RollingRestart) {
                true => self.renewed(&worker).await,
                // It is being replaced already.
                false => self.next_ready(index, Some(worker.key().incarnation)).await,
            };
            if restarted.is_err() {
                break;
            }
        }
        restarted.and(self.shrink(size).await)
    }

    fn size(&self) -> u32 {
        u32::try_from(self.pool().size()).unwrap_or(u32::MAX)
    }

    /// Adds one worker, and waits until it is ready for calls. Returns how many there were before.
    async fn stand_in(&self, _: &MutexGuard<'_, ()>) -> Result<u32, PoolError> {
        let size = self.size();
        self.pool().resize(size.saturating_add(1)).await?;
        let ready = self.next_ready(size, None).await;
        if ready.is_err() {
            drop(self.pool().resize(size).await);
        }
        ready.map(|()| size)
    }

    /// Restarts a draining worker, and waits until its successor is ready for calls.
    async fn renewed(&self, worker: &Worker) -> Result<(), PoolError> {
        self.restart(worker, Leases::Awaited).await?;
        let WorkerKey { index, incarnation } = worker.key();
        self.next_ready(index, Some(incarnation)).await
    }

    /// Waits until a process of this worker later than `after` is ready for calls, and no longer
    /// than until one has failed: a pool may start its workers again and again forever.
    async fn next_ready(&self, index: u32, after: Option<Incarnation>) -> Result<(), PoolError> {
        let mut arrivals = self.arrivals();
        self.pool().worker(index)?.next_ready(after).await?;
        let is_later = |worker: &Worker| after.is_none_or(|after| worker.key().incarnation > after);
        let arrived = async {
            while !self.worker(index).is_some_and(|worker| is_later(&worker)) {
                // The sender is in `self`.
                _ = arrivals.changed().await;
            }
        };
        // It arrives in a moment, unless it ends at once.
        drop(tokio::time::timeout(LOOK, arrived).await);
        Ok(())
    }

    /// The pool has this many workers from now on; those that go finish what they have.
    async fn shrink(self: &Arc<Self>, workers: u32) -> Result<(), PoolError> {
        let leaving: Vec<_> = (workers..self.size()).filter_map(|index| self.worker(index)).collect();
        for worker in &leaving {
            self.drain(worker, Replacement::Resized);
        }
        let drained = async {
            for worker in &leaving {
                worker.drained(Leases::Awaited).await;
            }
        };
        // After the limit they are stopped with what they have.
        patience::within(self.spec().drain_timeout, drained).await;
        self.pool().resize(workers).await
    }

    /// The worker gets no further calls. False: it is being replaced already.
    fn drain(&self, worker: &Arc<Worker>, why: Replacement) -> bool {
        let first = worker.leave();
        if first {
            self.dispatcher().unready(worker.key());
            let facts = Facts::default()
                .with_pid(worker.pid())
                .with_cause(why.cause())
                .with_count(u64::from(worker.in_flight()));
            let who = worker.who();
            let of = Some((&who.id, who.incarnation));
            self.pool().publish(EventKind::WorkerDraining, of, facts);
        }
        first
    }

    /// Waits until a draining worker has finished what it has, and restarts it.
    async fn restart(&self, worker: &Worker, leases: Leases) -> Result<(), PoolError> {
        // After the limit it is stopped with what it has.
        patience::within(self.spec().drain_timeout, worker.drained(leases)).await;
        // It may have ended by itself, and then another one has its place.
        let handle = self.pool().worker(worker.key().index)?;
        handle.restart_if(worker.key().incarnation).await.map(drop)
    }
}

fn note(worker: &Worker, done: Result<(), PoolError>) {
    if let Err(error) = done {
        tracing::debug!(target: "ostler", worker = %worker.who(), %error, "a worker was not replaced as planned");
    }
}

/// Reads `/proc`, which may take its time.
async fn memory(serving: &Serving, worker: &Worker) -> Option<u64> {
    let (pool, index) = (serving.pool().clone(), worker.key().index);
    tokio::task::spawn_blocking(move || pool.resident_memory(index))
        .await
        .ok()?
}

/// Replaces workers that have reached a limit, until the pool's clients are gone. Requests are
/// counted where they end, so without a limit of age or memory there is nothing to check.
pub(crate) async fn recycle(serving: Weak<Serving>, Recycle { age, memory: limit, .. }: Recycle) {
    if age.is_none() && limit.is_none() {
        return;
    }
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(serving) = serving.upgrade() else { return };
        for worker in serving.workers().into_iter().filter(|worker| worker.is_serving()) {
            let memory = match worker.limits.has_memory() {
                true => memory(&serving, &worker).await,
                false => None,
            };
            let age = worker.ready_at.elapsed();
            if let Some(reason) = worker.limits.exceeded(age, worker.served(), memory) {
                tracing::info!(target: "ostler", worker = %worker.who(), ?reason, "a worker is recycled");
                serving.recycle(&worker, reason);
            }
        }
    }
}
