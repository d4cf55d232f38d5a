//! Pools: so many workers of one kind, each slot kept filled by a starter of its own.

mod shared;
mod starter;
mod worker;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ostler_core::lifecycle::Cause;
use ostler_core::spec::{Health, OnGiveUp, OutputSpec, PoolSpec, Port, Ports, Ready, SpecProblem, StopSpec};
use ostler_core::supervision::{Backoff, Restart, RestartChildError, StartChildError};

use crate::instance::handle::Ostler;
use crate::instance::tree::Tree;
use crate::status::WorkerState;

pub use shared::PoolPhase;
pub(crate) use shared::PoolShared;
pub(crate) use starter::pool_child;
#[cfg(test)]
pub(crate) use worker::WorkerMessage;

/// Why a pool could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The specification can't be meant; every mistake in it.
    #[error("the specification of pool {pool:?} can't be meant: {}", list(problems))]
    Invalid {
        /// The pool.
        pool: String,
        /// The mistakes.
        problems: Vec<SpecProblem>,
    },
    /// The instance has a pool of that name.
    #[error("there is a pool named {pool:?} already; choose another name, or stop that one first")]
    Exists {
        /// The name.
        pool: String,
    },
    /// The pool has no such worker.
    #[error("pool {pool:?} has no worker {index}: it has {workers}")]
    NoSuchWorker {
        /// The pool.
        pool: String,
        /// Who was meant.
        index: u32,
        /// How many it has, counted from 0.
        workers: usize,
    },
    /// The worker's slot has finished or given up, or the pool is stopping.
    #[error("worker {index} of pool {pool:?} can't be restarted: {why}")]
    NotRestartable {
        /// The pool.
        pool: String,
        /// Who was meant.
        index: u32,
        /// Why not.
        why: String,
    },
    /// The instance is stopping, or has ended.
    #[error("the instance is stopping; start another one")]
    Stopping,
    /// The pool's actors could not be started.
    #[error("pool {pool:?} did not start: {why}")]
    NotStarted {
        /// The pool.
        pool: String,
        /// What was said.
        why: String,
    },
}

fn list(problems: &[SpecProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Makes a pool; see [`PoolSpec`] and [`WorkerSpec`](ostler_core::spec::WorkerSpec) for what each setting means and its default.
#[derive(Debug)]
#[must_use = "a pool runs when it is started"]
pub struct PoolBuilder<'a> {
    ostler: &'a Ostler,
    spec: PoolSpec,
}

macro_rules! pool_settings {
    ($($(#[$doc:meta])* $name:ident: $type:ty => $($field:ident).+;)*) => {
        $($(#[$doc])* pub fn $name(mut self, value: $type) -> Self {
            self.spec.$($field).+ = value;
            self
        })*
    };
}

impl<'a> PoolBuilder<'a> {
    pub(crate) fn new(ostler: &'a Ostler, spec: PoolSpec) -> Self {
        Self { ostler, spec }
    }

    /// The program and its arguments; see [`WorkerSpec::command`](ostler_core::spec::WorkerSpec::command).
    pub fn command(mut self, command: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.spec.worker.command = command.into_iter().map(Into::into).collect();
        self
    }

    /// Sets a variable of the workers' environment.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.spec.worker.env.insert(name.into(), value.into());
        self
    }

    /// The working directory. Default: the host's.
    pub fn cwd(mut self, directory: impl Into<PathBuf>) -> Self {
        self.spec.worker.cwd = Some(directory.into());
        self
    }

    /// A port without a name. Default: none.
    pub fn port(mut self, port: Port) -> Self {
        self.spec.worker.ports = Ports::One(port);
        self
    }

    /// Ports with names. Default: none.
    pub fn ports(mut self, ports: impl IntoIterator<Item = (impl Into<String>, Port)>) -> Self {
        self.spec.worker.ports = Ports::Named(ports.into_iter().map(|(name, port)| (name.into(), port)).collect());
        self
    }

    /// When a worker counts as ready. Default: when exec has succeeded.
    pub fn ready(mut self, ready: Ready) -> Self {
        self.spec.worker.ready = Some(ready);
        self
    }

    /// A probe on an interval once a worker is ready. Default: none.
    pub fn health(mut self, health: Health) -> Self {
        self.spec.worker.health = Some(health);
        self
    }

    /// The longest silence between two `WATCHDOG=1` messages of a ready worker. Default: none.
    pub fn watchdog(mut self, interval: Duration) -> Self {
        self.spec.worker.watchdog = Some(interval);
        self
    }

    /// More than `restarts` of one worker within `period`, and its slot gives up. Default: 3 within 5 s.
    pub fn intensity(mut self, restarts: u32, period: Duration) -> Self {
        self.spec.intensity = restarts;
        self.spec.period = period;
        self
    }

    /// A pause before restarts. Default: none.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.spec.backoff = Some(backoff);
        self
    }

    pool_settings! {
        /// How many workers. Default 1.
        workers: u32 => workers;
        /// The pool gives up when fewer slots than this are left. Default 1.
        min_workers: u32 => min_workers;
        /// How many workers may be starting at a time. Default 8.
        max_starting: u32 => max_starting;
        /// When a worker's end is followed by a restart. Default permanent.
        restart: Restart => restart;
        /// What a slot's giving up means for the pool. Default: the others serve on.
        on_give_up: OnGiveUp => on_give_up;
        /// Whether the host's environment is passed on. Default true.
        inherit_env: bool => worker.inherit_env;
        /// An exit sooner than this after the spawn is a failure. Default zero: no such rule.
        min_uptime: Duration => worker.min_uptime;
        /// The address of the ports. Default 127.0.0.1.
        address: IpAddr => worker.address;
        /// From the reservation to ready, at most. Default 30 s; zero: no limit.
        start_timeout: Duration => worker.start_timeout;
        /// How a worker is asked to end. Default TERM, and KILL for its whole tree after 5 s.
        stop: StopSpec => worker.stop;
        /// How it ends when the host has died. Default KILL at once.
        host_death: StopSpec => worker.host_death;
        /// How long the release may take before it counts as a failure. Default 10 s.
        release_timeout: Duration => worker.release_timeout;
        /// What is kept of its output. Default 64 KiB a stream, and each line to the log.
        output: OutputSpec => worker.output;
    }

    /// Starts the pool. Returns when its slots are supervised; [`Pool::wait_ready`] waits for its workers.
    ///
    /// # Errors
    /// [`PoolError::Invalid`] with every mistake at once; [`PoolError::Exists`]; [`PoolError::Stopping`].
    pub async fn start(self) -> Result<Pool, PoolError> {
        let problems = self.spec.problems();
        if !problems.is_empty() {
            return Err(PoolError::Invalid {
                pool: self.spec.name,
                problems,
            });
        }
        for doubt in self.spec.doubts() {
            tracing::warn!(target: "ostler", "pool.{}.{doubt}", self.spec.name);
        }
        self.ostler.start_pool(self.spec).await
    }
}

/// A running pool. Clones are handles of the same pool; dropping them does not stop it.
#[derive(Debug, Clone)]
pub struct Pool {
    pub(crate) shared: Arc<PoolShared>,
    pub(crate) tree: Arc<Tree>,
}

impl Pool {
    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.shared.spec.name
    }

    /// What the pool was made by.
    pub fn spec(&self) -> &PoolSpec {
        &self.shared.spec
    }

    /// How far it is.
    pub fn phase(&self) -> PoolPhase {
        self.shared.phase.borrow().clone()
    }

    /// Every worker as it is now, by its index.
    pub fn workers(&self) -> Vec<WorkerState> {
        self.shared.slots.iter().map(|slot| slot.state()).collect()
    }

    /// How many workers are ready.
    pub fn ready_workers(&self) -> usize {
        self.shared.ready_workers()
    }

    /// Waits until every worker is ready, or the pool's end has begun. Returns the phase it came to.
    pub async fn wait_ready(&self) -> PoolPhase {
        self.wait_until(|phase| *phase == PoolPhase::Ready || phase.is_over())
            .await
    }

    /// Waits until the pool has finished, given up or stopped, and all it held is released.
    pub async fn wait_stopped(&self) -> PoolPhase {
        self.wait_until(|phase| matches!(phase, PoolPhase::Stopped(_))).await
    }

    /// Waits until the pool's end has begun: it has finished, given up, or been stopped.
    pub async fn wait_over(&self) -> PoolPhase {
        self.wait_until(PoolPhase::is_over).await
    }

    async fn wait_until(&self, reached: impl FnMut(&PoolPhase) -> bool) -> PoolPhase {
        let mut phase = self.shared.phase.subscribe();
        // The sender lives in `shared`, which this handle holds.
        phase
            .wait_for(reached)
            .await
            .map_or_else(|_| self.phase(), |phase| phase.clone())
    }

    /// Stops one worker and starts it again; returns when its next incarnation's actor is up. Not counted against its
    /// intensity: this is OTP's `terminate_child` and `restart_child` at its starter.
    ///
    /// # Errors
    /// [`PoolError::NoSuchWorker`]; [`PoolError::NotRestartable`] when its slot has finished or given up.
    pub async fn restart_worker(&self, index: u32) -> Result<(), PoolError> {
        let slot = usize::try_from(index).ok().and_then(|at| self.shared.slots.get(at));
        let slot = slot.ok_or_else(|| PoolError::NoSuchWorker {
            pool: self.name().to_owned(),
            index,
            workers: self.shared.slots.len(),
        })?;
        let not = |why: String| PoolError::NotRestartable {
            pool: self.name().to_owned(),
            index,
            why,
        };
        let starter = self
            .shared
            .starter(index)
            .ok_or_else(|| not("its starter has not started yet".into()))?;
        slot.set_stop_cause(Cause::RestartRequested);
        let stopped = starter.terminate_child(starter::WORKER).await;
        slot.take_stop_cause();
        stopped.map_err(|error| not(error.to_string()))?;
        match starter.restart_child(starter::WORKER).await {
            Ok(_) | Err(RestartChildError::Running) => Ok(()),
            // A temporary worker's specification went with it (OTP): it is added anew.
            Err(RestartChildError::NotFound) => {
                match starter.start_child(starter::worker_child(slot, &self.shared)).await {
                    Ok(_) | Err(StartChildError::AlreadyStarted(_)) => Ok(()),
                    Err(error) => Err(not(error.to_string())),
                }
            }
            Err(error) => Err(not(error.to_string())),
        }
    }

    /// Stops every worker and releases all that the pool held. Idempotent; returns when it is done.
    pub async fn stop(&self) {
        self.tree.end_pool(&self.shared).await;
    }
}
