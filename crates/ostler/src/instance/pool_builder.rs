//! Makes a pool of an instance.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ostler_core::spec::{Health, OnGiveUp, OutputSpec, PoolSpec, Port, Ports, Ready, StopSpec};
use ostler_core::supervision::{Backoff, Restart};

use super::tree::Tree;
use crate::detached::detached;
use crate::pool::{Pool, PoolError};

/// Makes a pool; see [`PoolSpec`] and [`WorkerSpec`](ostler_core::spec::WorkerSpec) for what each setting means and its default.
#[derive(Debug)]
#[must_use = "a pool runs when it is started"]
pub struct PoolBuilder {
    tree: Arc<Tree>,
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

impl PoolBuilder {
    pub(super) fn new(tree: Arc<Tree>, spec: PoolSpec) -> Self {
        Self { tree, spec }
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

    /// OTP's rule: more than `restarts` of one worker within `period`, and its slot gives up;
    /// restarts follow at once unless a backoff is set. Default: a patient pool (ADR 0020), see
    /// [`PoolSpec::limit_restarts`].
    pub fn intensity(mut self, restarts: u32, period: Duration) -> Self {
        self.spec.limit_restarts(Some(restarts), Some(period));
        self
    }

    /// The pauses before restarts. Default: from 100 ms to 10 s, none with
    /// [`PoolBuilder::intensity`].
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

    /// Starts the pool. Returns when its slots are supervised; [`Pool::wait_ready`] waits for its workers. Cancel safe: a start
    /// that was polled once goes on, and [`Ostler::pools`](crate::Ostler::pools) lists the pool.
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
        for warning in self.spec.warnings() {
            tracing::warn!(target: "ostler", "pool.{}.{warning}", self.spec.name);
        }
        let (tree, spec) = (self.tree, self.spec);
        detached(async move { tree.start_pool(spec).await })
            .await
            .unwrap_or(Err(PoolError::Stopping))
    }
}
