//! The `ostler` program: pools of supervised processes from a TOML file.

// What is printed may hold names and output of other processes: it goes through `output::text`,
// which makes it harmless.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod check;
mod cli;
mod config;
#[cfg(test)]
mod docs;
mod doctor;
mod exit;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod output;
mod python;
mod signals;
mod sweep;
mod up;

use std::num::NonZero;
use std::process::ExitCode;
use std::thread;

use clap::Parser as _;
use ostler_os::limits;

/// The threads of the program besides those of the runtime: of the table, the screen, the events,
/// telemetry, searches of /proc, and blocking calls.
const OTHER_THREADS: usize = 16;

/// Parses the command line and runs the command; returns the program's exit status.
pub fn main() -> ExitCode {
    let signals = signals::set_up();
    let cli = cli::Cli::parse();
    let outcome = match cli.command {
        cli::Command::Up(args) => with_threads(|| up::run(&args, &signals)),
        cli::Command::Check(args) => check::run(&args),
        cli::Command::Sweep(args) => with_threads(|| sweep::run(&args)),
        cli::Command::Doctor(args) => with_threads(|| doctor::run(&args)),
    };
    outcome.unwrap_or_else(exit::Failed::print).into()
}

/// Runs a command for which there are enough threads: without them, tokio hangs and RocksDB aborts.
fn with_threads(command: impl FnOnce() -> Result<exit::Exit, exit::Failed>) -> Result<exit::Exit, exit::Failed> {
    let count = OTHER_THREADS + thread::available_parallelism().map_or(1, NonZero::get);
    limits::try_threads(count).map_err(|error| {
        exit::Failed::machine(format!(
            "{count} threads can't be created: {error}; raise the limit on processes (ulimit -u, LimitNPROC=, \
             TasksMax=, pids.max), in which threads count"
        ))
    })?;
    command()
}
