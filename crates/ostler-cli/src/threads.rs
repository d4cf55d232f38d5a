//! Whether the threads that a command needs can be created.

use std::num::NonZero;
use std::thread;

use ostler_os::limits;

use crate::exit::Failed;

/// The threads of the program besides those of the runtime: of the table, the screen, the events,
/// telemetry, searches of /proc, and blocking calls.
const OTHERS: usize = 16;

/// Tries it: without its threads, tokio hangs and RocksDB aborts.
///
/// # Errors
///
/// If a limit is in the way.
pub(crate) fn require() -> Result<(), Failed> {
    let count = OTHERS + of_the_runtime();
    limits::try_threads(count).map_err(|error| {
        Failed::machine(format!(
            "{count} threads can't be created: {error}; raise the limit on processes (ulimit -u, LimitNPROC=, \
             TasksMax=, pids.max), in which threads count"
        ))
    })
}

/// As tokio chooses it.
fn of_the_runtime() -> usize {
    let chosen = std::env::var("TOKIO_WORKER_THREADS").ok();
    let chosen = chosen.and_then(|text| text.parse().ok());
    chosen.unwrap_or_else(|| thread::available_parallelism().map_or(1, NonZero::get))
}
