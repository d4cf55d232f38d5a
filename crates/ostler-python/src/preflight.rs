//! Asks a worker's interpreter, before anything serves, whether the worker could be imported.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ostler_core::traceback::Missing;
use serde::Deserialize;

use crate::command::{self, Step};
use crate::error::PythonError;
use crate::job::Cancel;

/// How long the imports may take: 2 minutes; large frameworks take tens of seconds from a cold
/// disk.
pub const PREFLIGHT_TIMEOUT: Duration = Duration::from_secs(120);

const SCRIPT: &str = include_str!("preflight.py");

/// What the interpreter found.
#[derive(Debug, Clone, Deserialize)]
pub struct Report {
    /// Its version.
    pub python: String,
    /// The modules that the worker's file imports, in their order.
    pub modules: Vec<Module>,
    /// The lines of the requirements file.
    pub requirements: Vec<Requirement>,
    /// Why the file is no Python, if it is none.
    pub syntax_error: Option<String>,
}

/// A module that the worker imports.
#[derive(Debug, Clone, Deserialize)]
pub struct Module {
    /// As it is imported.
    pub module: String,
    /// Where: a line of the worker's file.
    pub line: u32,
    /// The version of its distribution; `None`: it is of the standard library, or has none.
    pub version: Option<String>,
    /// The module that is missing: this one, or one that it imports itself.
    pub missing: Option<String>,
    /// Why it cannot be imported.
    pub error: Option<String>,
}

/// A line of the requirements file.
#[derive(Debug, Clone, Deserialize)]
pub struct Requirement {
    /// As it is written.
    pub requirement: String,
    /// The version that is installed.
    pub installed: Option<String>,
    /// Whether that is enough.
    pub satisfied: bool,
}

/// Something that would keep the worker from starting, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub suggestion: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.message, self.suggestion)
    }
}

impl Report {
    /// All that is wrong; empty: the worker can be imported by this `interpreter`.
    pub fn problems(&self, interpreter: &Path) -> Vec<Problem> {
        let python = interpreter.display().to_string();
        let syntax = self.syntax_error.iter().map(|error| Problem {
            message: format!("the worker is no valid Python {}, {error}", self.python),
            suggestion: "correct it, or choose another interpreter".to_owned(),
        });
        let modules = self.modules.iter().filter_map(|module| module.problem(&python));
        let requirements = self
            .requirements
            .iter()
            .filter(|requirement| !requirement.satisfied)
            .map(|requirement| requirement.problem(&python));
        syntax.chain(modules).chain(requirements).collect()
    }
}

impl Module {
    fn problem(&self, python: &str) -> Option<Problem> {
        let error = self.error.as_ref()?;
        Some(Problem {
            message: format!("line {}: import {}: {error}", self.line, self.module),
            suggestion: match &self.missing {
                Some(missing) => Missing::new(missing).suggestion(python),
                None => format!("run {python} -c 'import {}' by hand", self.module),
            },
        })
    }
}

impl Requirement {
    fn problem(&self, python: &str) -> Problem {
        Problem {
            message: match &self.installed {
                Some(version) => format!("{} is required, and {version} is installed", self.requirement),
                None => format!("{} is required, and not installed", self.requirement),
            },
            suggestion: format!("{python} -m pip install '{}'", self.requirement),
        }
    }
}

/// Starts `interpreter` once and imports what `file` imports; the file itself is not run.
///
/// # Errors
/// The interpreter does not run, does not end within [`PREFLIGHT_TIMEOUT`], or an import ended it.
pub fn preflight(interpreter: &Path, file: &Path, requirements: Option<&Path>) -> Result<Report, PythonError> {
    let mut command = Command::new(interpreter);
    command.args(["-c", SCRIPT]).arg(file).args(requirements);
    let printed = command::run(&Step {
        name: &format!("the preflight of {}", file.display()),
        command: &command,
        timeout: PREFLIGHT_TIMEOUT,
        lock: None,
        cancel: &Cancel::never(),
    })?;
    serde_json::from_str(&printed).map_err(|source| PythonError::NoReport {
        file: file.to_owned(),
        printed,
        source,
    })
}
