//! The builder of a pool.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ostler_core::spec::{Health, OnGiveUp, OutputSpec, PoolSpec, Port, Ready, StopSpec};
use ostler_core::supervision::{Backoff, Restart};

use super::tree::Tree;
use crate::detached::detached;
use crate::pool::{Pool, PoolError};

/// Configures and starts a pool: a [`PoolSpec`] with its setters, and the pool's instance.
#[derive(Debug)]
#[must_use = "a pool runs when it is started"]
pub struct PoolBuilder {
    tree: Arc<Tree>,
    spec: PoolSpec,
}

macro_rules! settings_of_the_spec {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {
        $(
            #[doc = concat!("Sets [`PoolSpec::", stringify!($name), "()`].")]
            pub fn $name(mut self, $($argument: $type),*) -> Self {
                self.spec = self.spec.$name($($argument),*);
                self
            }
        )*
    };
}

impl PoolBuilder {
    pub(super) fn new(tree: Arc<Tree>, spec: PoolSpec) -> Self {
        Self { tree, spec }
    }

    settings_of_the_spec! {
        command(command: impl IntoIterator<Item = impl Into<String>>);
        env(name: impl Into<String>, value: impl Into<String>);
        cwd(directory: impl Into<PathBuf>);
        port(port: Port);
        ports(ports: impl IntoIterator<Item = (impl Into<String>, Port)>);
        ready(ready: Ready);
        health(health: Health);
        watchdog(interval: Duration);
        intensity(restarts: u32, period: Duration);
        backoff(backoff: Backoff);
        workers(value: u32);
        min_workers(value: u32);
        max_starting(value: u32);
        restart(value: Restart);
        on_give_up(value: OnGiveUp);
        inherit_env(value: bool);
        min_uptime(value: Duration);
        address(value: IpAddr);
        start_timeout(value: Duration);
        stop(value: StopSpec);
        host_death(value: StopSpec);
        release_timeout(value: Duration);
        output(value: OutputSpec);
    }

    /// Starts the pool. Returns when its slots are supervised; [`Pool::wait_ready`] waits for its
    /// workers. Cancel safe: once polled, the start continues, and
    /// [`Ostler::pools`](crate::Ostler::pools) lists the pool.
    ///
    /// # Errors
    /// [`PoolError::Invalid`] with every mistake at once; [`PoolError::Exists`];
    /// [`PoolError::Stopping`].
    pub async fn start(self) -> Result<Pool, PoolError> {
        let problems = self.spec.problems();
        if !problems.is_empty() {
            return Err(PoolError::Invalid {
                pool: self.spec.name,
                problems,
            });
        }
        for warning in self.spec.warnings() {
            let (pool, key) = (&self.spec.name, warning.key);
            tracing::warn!(target: "ostler", pool, key, "{}", warning.message);
        }
        let (tree, spec) = (self.tree, self.spec);
        detached(async move { tree.start_pool(spec).await })
            .await
            .unwrap_or(Err(PoolError::Stopping))
    }
}
