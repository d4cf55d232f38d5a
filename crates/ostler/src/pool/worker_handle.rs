//! The handle of one worker.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ostler_core::ids::{Incarnation, WorkerId};
use ostler_core::lifecycle::{Cause, State};
use ostler_core::signal::Signal;
use ostler_core::spec::unnamed_or_only;
use ostler_core::supervision::{RestartChildError, StartChildError, TerminateChildError};
use ostler_os::identity::{self, Attribution, Delivery, SignalError, Verified};
use tokio::sync::watch;

use super::error::{NotRestartable, NotSignalled, PoolError};
use super::phase::{PoolEnd, PoolPhase};
use super::shared::PoolShared;
use super::starter;
use crate::detached::detached;
use crate::process::{Slot, WorkerOutput};
use crate::status::WorkerState;

/// One worker of a pool, over all its incarnations. Cheap to clone; dropping it does nothing to the
/// worker.
///
/// Every `async fn` here is cancel safe: once polled, what it orders happens even if its future is
/// dropped.
///
/// ```no_run
/// # async fn example(pool: ostler::Pool) -> Result<(), Box<dyn std::error::Error>> {
/// let worker = pool.worker(0)?;
/// let incarnation = worker.restart().await?;
/// // Its actor is up; wait until this one is ready.
/// assert_eq!(worker.ready().await?, incarnation);
/// println!("{}#{incarnation} serves at {:?}", worker.id(), worker.addr());
///
/// let mut states = worker.watch();
/// states.wait_for(|state| state.pid.is_none()).await?;
/// println!("{} has ended: {:?}", worker.id(), states.borrow().last_failure);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Worker {
    pool: Arc<PoolShared>,
    slot: Arc<Slot>,
}

impl Worker {
    pub(super) fn new(pool: &Arc<PoolShared>, slot: &Arc<Slot>) -> Self {
        Self {
            pool: Arc::clone(pool),
            slot: Arc::clone(slot),
        }
    }

    /// The worker's id, such as `web/0`.
    pub fn id(&self) -> &WorkerId {
        &self.slot.worker
    }

    /// The current state of the worker.
    pub fn state(&self) -> WorkerState {
        self.slot.state()
    }

    /// Watches the worker's state, starting with the current one. A slow reader sees only the
    /// latest state.
    pub fn watch(&self) -> watch::Receiver<WorkerState> {
        self.slot.watch()
    }

    /// The process of its latest incarnation, while it has one.
    pub fn pid(&self) -> Option<u32> {
        self.state().pid
    }

    /// Its latest incarnation, from 1; `None` before the first is reserved.
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.state().incarnation
    }

    /// The address of its port without a name, or of its only port. `None` while it has none.
    pub fn addr(&self) -> Option<SocketAddr> {
        unnamed_or_only(&self.state().ports).map(|port| self.at(*port))
    }

    /// The address of its port with this name. `None` while it has none of that name.
    pub fn addr_of(&self, port: &str) -> Option<SocketAddr> {
        self.state().ports.get(port).map(|port| self.at(*port))
    }

    /// Its Unix socket (`port = "unix"`): the one without a name, or its only one. `None` while it
    /// has none.
    pub fn socket(&self) -> Option<PathBuf> {
        unnamed_or_only(&self.state().sockets).cloned()
    }

    /// Its Unix socket with this name. `None` while it has none of that name.
    pub fn socket_of(&self, name: &str) -> Option<PathBuf> {
        self.state().sockets.remove(name)
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.pool.spec.worker.address, port)
    }

    /// Waits until its latest incarnation is ready, and returns that incarnation. Cancel safe.
    ///
    /// # Errors
    /// [`PoolEnd`] if it will not become ready: its pool ends, or its slot has finished, given up
    /// or was removed.
    pub async fn ready(&self) -> Result<Incarnation, PoolEnd> {
        let mut states = self.slot.watch();
        let mut ends = self.pool.subscribe();
        loop {
            let (state, started) = (states.borrow_and_update().clone(), self.slot.begun());
            if state.state == Some(State::Ready) && state.incarnation == started {
                return Ok(started.unwrap_or(Incarnation(1)));
            }
            if let Some(end) = ends.borrow_and_update().phase.end() {
                return Err(end.clone());
            }
            if state.removed {
                return Err(PoolEnd::Removed);
            }
            if state.finished {
                return Err(PoolEnd::Finished);
            }
            if state.gave_up {
                return Err(PoolEnd::GaveUp(state.last_failure));
            }
            // Neither sender is dropped before this handle.
            tokio::select! {
                _ = states.changed() => {}
                _ = ends.changed() => {}
            }
        }
    }

    /// Stops the worker and starts it again. Returns the new incarnation when its actor is up,
    /// which is before it is ready: [`Worker::ready`] waits for that. Not counted towards its
    /// intensity, as OTP's `terminate_child` and `restart_child`. Cancel safe: once polled, the
    /// restart continues.
    ///
    /// # Errors
    /// [`PoolError::NotRestartable`]; [`PoolError::Stopping`] if the runtime is shutting down.
    pub async fn restart(&self) -> Result<Incarnation, PoolError> {
        let worker = self.clone();
        self.ordered(async move { worker.end_and_begin().await }).await
    }

    /// The same, if this incarnation is still the latest and its process has not ended; whether it
    /// was so. One that has ended is left to its supervisor, which restarts it or not, and is never
    /// restarted twice. Cancel safe: once polled, the restart continues.
    ///
    /// # Errors
    /// As [`Worker::restart`].
    pub async fn restart_if(&self, incarnation: Incarnation) -> Result<bool, PoolError> {
        let worker = self.clone();
        let work = async move {
            // A process that begins between this check and the order to end is not ready yet: it
            // has no work to lose.
            if worker.slot.begun() != Some(incarnation) || worker.slot.state().has_ended(incarnation) {
                return Ok(false);
            }
            worker.end_and_begin().await.map(|_| true)
        };
        self.ordered(work).await
    }

    async fn end_and_begin(&self) -> Result<Incarnation, PoolError> {
        self.end(Cause::RestartRequested).await?;
        self.begin().await
    }

    /// Stops the worker, and keeps its slot empty until [`Worker::start`]. Returns when everything
    /// it held is released. The cause in its events is `user_stop`. Idempotent. Cancel safe: once
    /// polled, the stop continues.
    ///
    /// # Errors
    /// As [`Worker::restart`].
    pub async fn stop(&self) -> Result<(), PoolError> {
        let worker = self.clone();
        let stop = async move {
            worker.end(Cause::UserStop).await?;
            worker.slot.note_stopped(true);
            Ok(())
        };
        self.ordered(stop).await
    }

    /// Starts a worker that [`Worker::stop`] has stopped. Returns the incarnation when its actor is
    /// up. If the worker is running, returns the running incarnation. Cancel safe: once polled, the
    /// start continues.
    ///
    /// # Errors
    /// As [`Worker::restart`].
    pub async fn start(&self) -> Result<Incarnation, PoolError> {
        let worker = self.clone();
        self.ordered(async move { worker.begin().await }).await
    }

    /// Sends a signal to the worker's process, but not to its children. Many programs reload their
    /// configuration on HUP, for example. The signal is sent through a pidfd whose identity was
    /// verified, so it reaches no other process. If the worker exits because of it, that counts as
    /// an exit of its own: it is counted, and followed by a restart as specified. To end a worker,
    /// use
    /// [`Worker::stop`] or [`Worker::restart`].
    ///
    /// Logs a line with target `ostler`, worker, incarnation, pid, signal, sender and cause.
    ///
    /// # Errors
    /// [`NotSignalled`].
    pub fn signal(&self, signal: Signal) -> Result<(), NotSignalled> {
        let worker = || self.slot.worker.clone();
        let failed = |source| NotSignalled::Failed {
            worker: worker(),
            source,
        };
        let none = || NotSignalled::NoProcess { worker: worker() };
        let process = self.slot.process().ok_or_else(none)?;
        let handle = match identity::verify(&process).map_err(failed)? {
            Verified::Same(handle) => handle,
            Verified::Gone | Verified::Reused => return Err(none()),
            Verified::Unknown(why) => return Err(failed(io::Error::other(why.to_string()))),
        };
        let (sender, cause) = ("worker handle", "user_signal");
        match handle.signal(signal, &Attribution::new(sender, cause)) {
            Ok(Delivery::Sent) => {
                let (worker, incarnation) = (worker(), self.incarnation().map(|incarnation| incarnation.0));
                tracing::info!(target: "ostler", %worker, incarnation, pid = process.pid, %signal, sender, cause, "signal sent");
                Ok(())
            }
            Ok(Delivery::Gone) => Err(none()),
            Err(SignalError::NotPermitted { .. }) => Err(NotSignalled::NotPermitted { worker: worker() }),
            Err(SignalError::Send { source, .. }) => Err(failed(source)),
        }
    }

    /// The last lines that its latest process has written to stderr, oldest first, at most `lines`
    /// of those that are kept ([`OutputSpec::ring`](crate::OutputSpec)). For display: control
    /// characters are escaped, and each line is cut at 1 KiB. Available until the next process
    /// starts. Never waits.
    pub fn stderr_tail(&self, lines: usize) -> Vec<String> {
        self.slot.tap.stderr_tail(lines)
    }

    /// The worker's output: first the complete lines that are kept of its latest process, those of
    /// stdout before those of stderr, then each new line of this process and of later ones. Ends
    /// with the worker's slot or pool. A reader that is too slow loses the oldest lines and gets
    /// their number; the worker is never slowed down.
    ///
    /// With [`Stdin::Pipe`](crate::Stdin), stdout belongs to a client, and only stderr is included.
    pub fn output(&self) -> WorkerOutput {
        let (mut states, mut ends) = (self.slot.watch(), self.pool.subscribe());
        self.slot.tap.read(async move {
            tokio::select! {
                // Either ends when its sender does, too.
                _ = ends.wait_for(|standing| matches!(standing.phase, PoolPhase::Ended(_))) => {}
                _ = async {
                    let removed = |state: &WorkerState| state.removed && state.state == Some(State::Released);
                    states.wait_for(removed).await.map(drop)
                } => {}
            }
        })
    }

    /// Restarts it and waits until the new process is ready.
    ///
    /// # Errors
    /// [`PoolError::NotReady`] as soon as a new process has a counted failure.
    pub(super) async fn replace(&self) -> Result<(), PoolError> {
        let begun = self.restart().await?;
        self.becomes_ready(begun).await
    }

    /// Waits until a process later than `after` is ready (`None`: its latest). Unlike
    /// [`Worker::ready`], it does not wait for a worker that fails again and again. Cancel safe.
    ///
    /// # Errors
    /// [`PoolError::NotReady`] as soon as such a process has a counted failure;
    /// [`PoolError::NotRestartable`] if the pool ends.
    pub async fn next_ready(&self, after: Option<Incarnation>) -> Result<(), PoolError> {
        let latest = || self.slot.begun().unwrap_or(Incarnation(1));
        let begun = after.map_or_else(latest, |after| Incarnation(after.0 + 1));
        self.becomes_ready(begun).await
    }

    async fn becomes_ready(&self, mut begun: Incarnation) -> Result<(), PoolError> {
        let mut states = self.slot.watch();
        let supervisor = self.pool.supervisor();
        let lost = async {
            match &supervisor {
                Some(supervisor) => supervisor.wait().await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(lost);
        loop {
            let state = states.borrow_and_update().clone();
            let latest = self.slot.begun().unwrap_or(begun).max(begun);
            if state.state == Some(State::Ready) && state.incarnation == Some(latest) {
                return Ok(());
            }
            let has_ended = state.incarnation == Some(begun) && state.state == Some(State::Released);
            if state.is_over() || has_ended || latest > begun {
                match state.last_failure {
                    // A lost guardian is not the worker's fault.
                    Some(failure) if !failure.reason.is_counted() && !state.gave_up && !state.removed => begun = latest,
                    failure => {
                        return Err(PoolError::NotReady {
                            worker: self.slot.worker.clone(),
                            failure: failure.map(Box::new),
                        });
                    }
                }
            }
            tokio::select! {
                // The sender is in the slot, which this handle holds.
                _ = states.changed() => {}
                _ = self.pool.wait_ended(PoolPhase::is_over) => return Err(self.not(NotRestartable::Stopping)),
                // The next one starts the slots once the pool's size is settled again: not before
                // this ends.
                _ = &mut lost => return Err(self.not(NotRestartable::Starting)),
            }
        }
    }

    /// Carries this out even if the caller stops waiting, one at a time and in the order of the
    /// calls: the end that one restart orders would cancel the start of another.
    async fn ordered<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, PoolError>> + Send + 'static,
    ) -> Result<T, PoolError> {
        let slot = Arc::clone(&self.slot);
        let in_turn = async move {
            let _turn = slot.turn.lock().await;
            work.await
        };
        detached(in_turn).await.unwrap_or(Err(PoolError::Stopping))
    }

    async fn end(&self, cause: Cause) -> Result<(), PoolError> {
        let starter = self.starter()?;
        self.slot.set_stop_cause(cause);
        let ended = starter.terminate_child(starter::WORKER).await;
        self.slot.take_stop_cause();
        match ended {
            // A temporary worker's specification went with it (OTP).
            Ok(()) | Err(TerminateChildError::NotFound) => Ok(()),
            Err(_) => Err(self.not(self.why_gone().unwrap_or(NotRestartable::Stopping))),
        }
    }

    async fn begin(&self) -> Result<Incarnation, PoolError> {
        let starter = self.starter()?;
        let refused = match starter.restart_child(starter::WORKER).await {
            Ok(_) | Err(RestartChildError::Running) => None,
            Err(RestartChildError::NotFound) => {
                let child = starter::worker_child(&self.slot, &self.pool);
                match starter.start_child(child).await {
                    Ok(_) | Err(StartChildError::AlreadyStarted(_)) => None,
                    Err(error) => Some(NotRestartable::NotAdded(error)),
                }
            }
            Err(error) => Some(NotRestartable::Refused(error)),
        };
        match refused {
            None => {
                self.slot.note_stopped(false);
                Ok(self.slot.begun().unwrap_or(Incarnation(1)))
            }
            Some(refused) => Err(self.not(self.why_gone().unwrap_or(refused))),
        }
    }

    fn starter(&self) -> Result<crate::supervisor::Supervisor, PoolError> {
        if let Some(why) = self.why_gone() {
            return Err(self.not(why));
        }
        self.pool
            .starter(self.slot.worker.index)
            .ok_or_else(|| self.not(NotRestartable::Starting))
    }

    /// Why nothing can be started in its slot; `None` if something can.
    fn why_gone(&self) -> Option<NotRestartable> {
        let state = self.state();
        match self.pool.phase() {
            PoolPhase::Ending(PoolEnd::GaveUp(_)) | PoolPhase::Ended(PoolEnd::GaveUp(_)) => {
                Some(NotRestartable::PoolGaveUp)
            }
            PoolPhase::Ending(PoolEnd::Finished) | PoolPhase::Ended(PoolEnd::Finished) => {
                Some(NotRestartable::PoolFinished)
            }
            PoolPhase::Ending(_) | PoolPhase::Ended(_) => Some(NotRestartable::Stopping),
            _ if self.pool.services.is_stopping() => Some(NotRestartable::Stopping),
            _ if state.removed => Some(NotRestartable::Removed),
            _ if state.gave_up => Some(NotRestartable::GaveUp),
            _ if state.finished => Some(NotRestartable::Finished),
            PoolPhase::Starting | PoolPhase::Ready | PoolPhase::Degraded { .. } => None,
        }
    }

    fn not(&self, reason: NotRestartable) -> PoolError {
        PoolError::NotRestartable {
            worker: self.slot.worker.clone(),
            reason,
        }
    }
}
