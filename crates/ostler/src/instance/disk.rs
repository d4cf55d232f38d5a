//! The steps of a start that use the disk. A disk that stalls only delays them, as it delays a
//! reservation: each is waited for, and says so every few seconds.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ostler_core::chain::chain;
use ostler_registry::{Engine, RunDir, RunDirError, RunInfo, Table, TableError, TableEvent, TableOptions};
use tokio::time::{Instant, timeout};

use super::builder::StartError;
use super::sweep::{self, Elsewhere, SweepReport};

/// How often a step that takes long is reported: 5 s, as for calls to the table.
const REPORT: Duration = Duration::from_secs(5);

pub(super) async fn sweep_dead_runs(app_dir: &Path) -> Result<SweepReport, RunDirError> {
    let directory = app_dir.to_owned();
    let sweep = tokio::task::spawn_blocking(move || sweep::sweep(&directory, Elsewhere::Keep));
    // The task panics only if the sweep does: then nothing was swept, and the next start sweeps.
    patiently("the sweep of dead runs", app_dir, sweep)
        .await
        .unwrap_or_else(|_| Ok(SweepReport::default()))
}

/// Makes the run's directory, on a thread of its own: a stall must not keep the runtime.
pub(super) async fn make_run_dir(app_dir: &Path, info: RunInfo) -> Result<RunDir, StartError> {
    let directory = app_dir.to_owned();
    let make = tokio::task::spawn_blocking(move || RunDir::create(&directory, info));
    match patiently("the run's directory", app_dir, make).await {
        Ok(made) => made.map_err(|source| StartError::RunDirectory { source }),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(StartError::stopped()),
        },
    }
}

pub(super) async fn open_table(run_dir: &RunDir, engine: Engine) -> Result<Table, TableError> {
    let options = TableOptions {
        engine,
        ..TableOptions::default()
    };
    Table::open(run_dir, options, Arc::new(|event| trace_table(&event))).await
}

/// Waits for a step, however long it takes.
async fn patiently<T>(step: &'static str, path: &Path, work: impl Future<Output = T>) -> T {
    let (begun, mut work) = (Instant::now(), pin!(work));
    loop {
        match timeout(REPORT, &mut work).await {
            Ok(done) => return done,
            Err(_) => say_slow(step, path, begun.elapsed()),
        }
    }
}

fn say_slow(step: &'static str, path: &Path, waited: Duration) {
    tracing::warn!(target: "ostler", path = %path.display(), ?waited, "{step} takes long: the start waits for it; check the file system");
}

fn trace_table(event: &TableEvent) {
    match event {
        TableEvent::OpensSlowly { path, waited } => say_slow("opening the process table", path, *waited),
        TableEvent::SetAside(aside) => {
            tracing::error!(target: "ostler", path = %aside.path.display(), why = %chain(&aside.why), "the process table was set aside, and a new one begun");
        }
        TableEvent::Degraded { error } => {
            tracing::error!(target: "ostler", error = %chain(error), suggestion = error.suggestion(), "the process table can't be written; Ostler goes on from memory");
        }
        TableEvent::Recovered { records, after } => {
            tracing::info!(target: "ostler", records, ?after, "the process table is written again");
        }
    }
}
