//! The task that keeps the instance: starts its pools, waits for their end or for the order to
//! stop, stops it.

use ostler::{Ostler, StopReport};
use ostler_core::chain::chain;
use ostler_core::spec::PoolSpec;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How it ended.
#[derive(Debug, Default)]
pub(super) struct End {
    /// What was stopped, released and found.
    pub(super) report: StopReport,
    /// Why not even the pools could be started.
    pub(super) error: Option<String>,
}

/// The instance, while it runs and while it stops.
#[derive(Debug)]
pub(super) struct Keeper {
    task: JoinHandle<End>,
    stop: watch::Sender<bool>,
}

impl Keeper {
    /// Starts the pools.
    pub(super) fn new(ostler: Ostler, pools: Vec<PoolSpec>) -> Self {
        let (stop, asked) = watch::channel(false);
        Self {
            task: tokio::spawn(keep(ostler, pools, asked)),
            stop,
        }
    }

    /// Begins the ordered stop. `false`: it had begun already.
    pub(super) fn stop(&self) -> bool {
        !self.stop.send_replace(true)
    }

    /// Whether the stop has begun.
    pub(super) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Waits for its end. Cancel safe.
    pub(super) async fn ended(&mut self) -> End {
        match (&mut self.task).await {
            Ok(end) => end,
            // Only a panic gets here: the instance was dropped by it, and with it everything was
            // ended.
            Err(error) => End {
                error: Some(format!("the instance broke: {error}")),
                ..End::default()
            },
        }
    }
}

async fn keep(ostler: Ostler, pools: Vec<PoolSpec>, mut asked: watch::Receiver<bool>) -> End {
    let error = tokio::select! {
        report = ostler.ended() => return End { report, error: None },
        _ = asked.wait_for(|stop| *stop) => None,
        outcome = run_pools(&ostler, pools) => outcome.err(),
    };
    End {
        report: ostler.stop().await.unwrap_or_else(|left| left.report),
        error,
    }
}

/// Starts every pool, and waits until each has finished or given up.
async fn run_pools(ostler: &Ostler, specs: Vec<PoolSpec>) -> Result<(), String> {
    let mut pools = Vec::with_capacity(specs.len());
    for spec in specs {
        pools.push(ostler.pool_from(spec).start().await.map_err(|error| chain(&error))?);
    }
    for pool in &pools {
        pool.wait_stopped().await;
    }
    Ok(())
}
