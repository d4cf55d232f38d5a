//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

const STATUSES: &str = "\
Exit status:
  0  nothing is left, and no pool gave up
  1  a pool gave up, or an orphan was found
  2  the file or the command line is wrong; every mistake of the file is reported at once
  3  the machine or the store fails

A file to begin with:
  [app]
  name = \"demo\"
  [pool.web]
  command = [\"python3\", \"-m\", \"http.server\", \"{port}\"]
  workers = 2
  port = \"any\"
  ready = { http = \"/\" }

`ostler check FILE` prints it with every default.";

const DOCTOR_STATUSES: &str = "\
Exit status:
  0  every promise holds on this machine
  1  a promise is weaker here, or can't be kept
  2  the file or the command line is wrong
  3  something could not be found out";

/// Runs pools of processes from a TOML file: starts, watches, restarts and stops them, and leaves
/// nothing behind.
#[derive(Debug, Parser)]
#[command(name = "ostler", version, after_help = STATUSES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs the pools of a file until a signal arrives, --for has passed, or every pool has ended
    #[command(after_help = STATUSES)]
    Up(UpArgs),
    /// Checks a file, and prints the specification with every default
    #[command(after_help = STATUSES)]
    Check(CheckArgs),
    /// Ends what dead runs of an app have left, and removes their records; live runs are not
    /// touched
    #[command(after_help = STATUSES)]
    Sweep(SweepArgs),
    /// Reports what this machine allows, what that means for the promises, and what to do about it
    #[command(after_help = DOCTOR_STATUSES)]
    Doctor(DoctorArgs),
}

/// `ostler up`.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// The pools, in TOML; relative paths in it are relative to its own directory
    pub(crate) file: PathBuf,

    /// Stop in order after this time, such as 10s or 1h30m, as after a signal
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) time: Option<Duration>,

    /// Write every event as a line of JSON to this file, or to stdout with "-"; USR1 opens it again
    #[arg(long, value_name = "FILE")]
    pub(crate) events: Option<PathBuf>,

    /// What goes to the log on stderr; info shows what the workers print
    #[arg(long, value_name = "LEVEL", env = "OSTLER_LOG", default_value = "warn")]
    #[arg(
        long_help = "What goes to the log on stderr: error, warn, info, debug, trace, or off; info shows what the workers print. \
        Filters of the tracing crates work as well, such as warn,ostler_os=debug"
    )]
    pub(crate) log: String,

    /// Plain lines on a terminal, instead of the live table
    #[arg(long)]
    pub(crate) no_table: bool,
}

/// `ostler check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The pools, in TOML
    pub(crate) file: PathBuf,

    /// Start the interpreter of each Python pool once and import what its worker imports: reports
    /// what is missing and how to install it. Makes the virtual environments of `requirements`
    #[arg(long)]
    pub(crate) preflight: bool,
}

/// `ostler sweep`.
#[derive(Debug, Args)]
pub(crate) struct SweepArgs {
    /// The app's name, as in `[app] name`
    #[arg(long, value_name = "NAME", value_parser = app_name)]
    pub(crate) app: String,

    /// Where its process table is kept, as `[app] state_dir` has it; default: the runtime directory
    /// of the machine
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,

    /// Remove dead runs of other PID namespaces, too: of containers that are gone. What has escaped
    /// its guardian in one that is not is found by no sweep then
    #[arg(long)]
    pub(crate) forget_elsewhere: bool,
}

fn app_name(name: &str) -> Result<String, ostler::AppDirError> {
    ostler::check_app_name(name)?;
    Ok(name.to_owned())
}

/// `ostler doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Pools, in TOML: tries their state directory, and reports whether their workers have room
    pub(crate) file: Option<PathBuf>,

    /// Try this state directory; default: the file's, else the machine's runtime directory
    #[arg(long, value_name = "DIR", conflicts_with = "file")]
    pub(crate) state_dir: Option<PathBuf>,

    /// Print one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Cli;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_has_what_a_newcomer_needs() {
        let help = Cli::command().render_long_help().to_string();
        for word in ["up", "check", "sweep", "doctor", "Exit status:", "[pool.web]"] {
            assert!(help.contains(word), "{word} is missing from:\n{help}");
        }
    }
}
