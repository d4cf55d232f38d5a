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
mod threads;
mod up;

use std::process::ExitCode;

use clap::Parser as _;

/// Parses the command line and runs the command; returns the program's exit status.
pub fn main() -> ExitCode {
    let signals = signals::set_up();
    let cli = cli::Cli::parse();
    let outcome = match cli.command {
        cli::Command::Up(args) => up::run(&args, &signals),
        cli::Command::Check(args) => check::run(&args),
        cli::Command::Sweep(args) => sweep::run(&args),
        cli::Command::Doctor(args) => doctor::run(&args),
    };
    outcome.unwrap_or_else(exit::Failed::print).into()
}
