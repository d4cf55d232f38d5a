//! Why a Python worker cannot be started.

use std::path::PathBuf;

/// Why there is no interpreter to run a worker with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PythonError {
    /// The worker's file does not exist.
    #[error("{} does not exist: correct `python`, which is relative to the file that names it", .0.display())]
    NoFile(PathBuf),
    /// No interpreter has this name, in the PATH or at this path.
    #[error("no Python interpreter {0:?} was found: install Python 3.9 or later, or set `interpreter`")]
    NoInterpreter(String),
    /// It was found, and does not run.
    #[error("{interpreter} does not run: {why}")]
    BrokenInterpreter {
        /// The interpreter's path.
        interpreter: String,
        /// Its last words.
        why: String,
    },
    /// The interpreter is older than Python 3.9.
    #[error("{interpreter} is Python {version}, and ostler-worker needs 3.9 or later")]
    OldInterpreter {
        /// The interpreter's path.
        interpreter: String,
        /// Its version.
        version: String,
    },
    /// The virtual environment lacks this part, and there are no requirements to make it again
    /// from.
    #[error(
        "{} is no complete virtual environment, {missing} is missing: remove it and make it again with python3 -m venv, or set `requirements`",
        .venv.display()
    )]
    IncompleteVenv {
        /// The environment's folder.
        venv: PathBuf,
        /// What is missing in it.
        missing: &'static str,
    },
    /// The folder exists, and this program has not made it.
    #[error("{} exists and is no virtual environment: set `venv` to a folder of its own", .0.display())]
    NotAVenv(PathBuf),
    /// The virtual environment could not be made.
    #[error("{step} failed: {why}{}", hint(.why))]
    Install {
        /// Which command failed.
        step: String,
        /// Its last lines of output.
        why: String,
    },
    /// A command did not end in time and was killed.
    #[error("{step} did not end within {seconds} s and was killed; its last line: {last}")]
    Timeout {
        /// Which command.
        step: String,
        /// The limit in seconds.
        seconds: u64,
        /// The last line of its output.
        last: String,
    },
    /// A file could not be read or written.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// What the preflight printed is no report.
    #[error("the preflight of {} printed no report: {why}", .file.display())]
    NoReport {
        /// The worker's file.
        file: PathBuf,
        /// What it printed.
        why: String,
    },
}

impl PythonError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |error| Self::Io { path, error }
    }
}

/// What to do about the best known failures of pip and venv.
fn hint(why: &str) -> &'static str {
    if why.contains("ensurepip") {
        "\n  (Debian and Ubuntu: apt-get install python3-venv)"
    } else if why.contains("No matching distribution") {
        "\n  (no version of the package fits this interpreter and machine: check its name, and that PyPI can be reached)"
    } else {
        ""
    }
}
