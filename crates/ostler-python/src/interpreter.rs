//! Finds the interpreter of a worker, and asks it who it is.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ostler_os::machine::trusted_variable;

use crate::command::{self, Step};
use crate::error::PythonError;
use crate::job::Cancel;

/// How long an interpreter may take to print its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(30);
/// The oldest Python that `ostler-worker` runs on.
const OLDEST: (u32, u32) = (3, 9);

/// An interpreter that runs.
#[derive(Debug, Clone)]
pub(crate) struct Interpreter {
    pub(crate) path: PathBuf,
    /// For example `3.11.7`.
    pub(crate) version: String,
}

/// The interpreter at this path or of this name; default `python3`.
pub(crate) fn find(name: Option<&str>, base: &Path, cancel: &Cancel) -> Result<Interpreter, PythonError> {
    let name = name.unwrap_or("python3");
    let path = which::which_in(name, trusted_variable("PATH"), base)
        .map_err(|_| PythonError::NoInterpreter(name.to_owned()))?;
    examine(path, cancel)
}

/// Runs the interpreter once, and checks its version.
pub(crate) fn examine(path: PathBuf, cancel: &Cancel) -> Result<Interpreter, PythonError> {
    let interpreter = path.display().to_string();
    let code = "import sys; print('.'.join(map(str, sys.version_info[:3]))); print(sys.executable)";
    let mut ask = Command::new(&path);
    ask.args(["-I", "-c", code]);
    let step = Step {
        name: &interpreter,
        command: &ask,
        timeout: VERSION_TIMEOUT,
        lock: None,
        cancel,
    };
    let printed = command::run(&step).map_err(|error| match error {
        PythonError::Install { source, .. } => PythonError::BrokenInterpreter {
            interpreter: interpreter.clone(),
            source,
        },
        other => other,
    })?;
    let mut lines = printed.lines().map(str::trim);
    let version = lines.next().unwrap_or_default().to_owned();
    // Behind a shim, such as pyenv's, which is a script that every start would run.
    let path = lines
        .next()
        .map(PathBuf::from)
        .filter(|itself| itself.is_absolute() && itself.is_file())
        .unwrap_or(path);
    let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(major), Some(minor)) if (major, minor) >= OLDEST => Ok(Interpreter { path, version }),
        (Some(_), Some(_)) => Err(PythonError::OldInterpreter { interpreter, version }),
        _ => Err(PythonError::NoVersion { interpreter, version }),
    }
}
