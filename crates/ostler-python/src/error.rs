//! Why a Python worker cannot be started.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// Why there is no interpreter to run a worker with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PythonError {
    /// The worker's file does not exist.
    #[error("{} does not exist: correct `python`, which is relative to the file that names it", .0.display())]
    NoFile(PathBuf),
    /// No interpreter has this name, in the PATH or at this path.
    #[error("no Python interpreter {0:?} was found: install Python 3.9 or later, or set `interpreter` or `venv`")]
    NoInterpreter(String),
    /// It was found, and does not run.
    #[error("{interpreter} does not run")]
    BrokenInterpreter {
        /// The interpreter's path.
        interpreter: String,
        /// How it ended.
        source: CommandError,
    },
    /// It runs, and what it prints is no version of Python.
    #[error("{interpreter} is no Python: its version is {version:?}")]
    NoVersion {
        /// The interpreter's path.
        interpreter: String,
        /// What it printed.
        version: String,
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
    /// Neither HOME nor XDG_CACHE_HOME is set, so there is no folder for virtual environments.
    #[error("there is no folder for virtual environments: set HOME or XDG_CACHE_HOME, or `venv`")]
    NoCache,
    /// Another user may have put something into the folder of virtual environments.
    #[error(
        "{} is a link, belongs to another user, or can be written to by others: chown it and chmod go-w it, or set `venv`",
        .0.display()
    )]
    NotPrivate(PathBuf),
    /// The folder exists, and this program has not made it.
    #[error("{} exists and is no virtual environment: set `venv` to a folder of its own", .0.display())]
    NotAVenv(PathBuf),
    /// The virtual environment could not be made.
    #[error("{step} failed")]
    Install {
        /// Which command failed.
        step: String,
        /// How it failed.
        source: CommandError,
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
    #[error("{} can't be read or written", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// What the preflight printed is no report.
    #[error("the preflight of {} printed no report, but {printed:?}", .file.display())]
    NoReport {
        /// The worker's file.
        file: PathBuf,
        /// What it printed.
        printed: String,
        /// Where that is no report.
        source: serde_json::Error,
    },
}

/// Why a command failed: an interpreter, pip or uv.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// It could not be started, or its output could not be read.
    #[error("{program} can't be run")]
    NotRun {
        /// The program.
        program: String,
        /// The system's error.
        source: io::Error,
    },
    /// It ended with an error.
    #[error("{status}\n{output}{}", hint(.output))]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its output: at most 8, stderr after stdout.
        output: String,
    },
}

impl PythonError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// What to do about the best known failures of pip and venv.
fn hint(output: &str) -> &'static str {
    if output.contains("ensurepip") {
        "\n  (Debian and Ubuntu: apt-get install python3-venv)"
    } else if output.contains("No matching distribution") {
        "\n  (no version of the package fits this interpreter and machine: check its name, and that PyPI can be reached)"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::os::unix::process::ExitStatusExt as _;

    use ostler_core::chain::{chain, repeats_its_source};

    use super::*;

    fn ended(output: &str) -> CommandError {
        CommandError::Ended {
            status: ExitStatus::from_raw(1 << 8),
            output: output.to_owned(),
        }
    }

    fn install(source: CommandError) -> PythonError {
        let step = "pip install".to_owned();
        PythonError::Install { step, source }
    }

    #[test]
    fn no_text_repeats_its_source() {
        let interpreter = "python3".to_owned();
        let not_run = CommandError::NotRun {
            program: "uv".to_owned(),
            source: io::ErrorKind::NotFound.into(),
        };
        let no_report = PythonError::NoReport {
            file: "worker.py".into(),
            printed: "noise".to_owned(),
            source: serde_json::from_str::<u8>("noise").expect_err("it is no JSON"),
        };
        let errors = [
            PythonError::BrokenInterpreter {
                interpreter,
                source: ended("no libpython"),
            },
            install(not_run),
            install(ended("no space")),
            PythonError::io("requirements.txt")(io::ErrorKind::NotFound.into()),
            no_report,
        ];
        for error in errors {
            each_text_is_its_own(&error);
            #[cfg(feature = "pool")]
            each_text_is_its_own(&crate::StartError::Python(error));
        }
        #[cfg(feature = "pool")]
        each_text_is_its_own(&crate::StartError::NotReady(ostler::PoolEnd::Stopped));
    }

    fn each_text_is_its_own(error: &(dyn Error + 'static)) {
        assert!(error.source().is_some(), "{error:?}");
        assert!(!repeats_its_source(error), "{error:?}");
    }

    #[test]
    fn known_failures_say_what_to_do_at_the_end() {
        for (output, advice) in [
            ("ensurepip is not available", "apt-get install python3-venv)"),
            ("No matching distribution found for x", "PyPI can be reached)"),
        ] {
            let text = chain(&install(ended(output)));
            assert!(text.starts_with("pip install failed: exit status: 1\n"), "{text}");
            assert!(text.contains(output) && text.ends_with(advice), "{text}");
        }
    }
}
