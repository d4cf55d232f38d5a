//! Asks a worker's interpreter, before anything serves, whether the worker could be imported.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ostler_core::spec::{Placeholder, WorkerSpec};
use ostler_core::traceback::{Installer, Missing};
use ostler_os::python_env;
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
    /// What was asked, as the worker's command names it.
    #[serde(skip)]
    pub interpreter: PathBuf,
    /// The requirements file.
    #[serde(skip)]
    pub requirements_file: Option<PathBuf>,
}

/// A module that the worker imports.
#[derive(Debug, Clone, Deserialize)]
pub struct Module {
    /// As it is imported.
    pub module: String,
    /// Where: a line of the worker's file; 0: the SDK imports it, for the pool's transport.
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
    /// All that is wrong; empty: the worker can be imported.
    pub fn problems(&self) -> Vec<Problem> {
        let syntax = self.syntax_error.iter().map(|error| Problem {
            message: format!("the worker is no valid Python {}, {error}", self.python),
            suggestion: "correct it, or choose another interpreter".to_owned(),
        });
        let python = Target {
            path: self.interpreter.display().to_string(),
            installer: python_env::installer(&self.interpreter),
        };
        let file = self.requirements_file.as_deref();
        let modules = self.modules.iter().filter_map(|module| module.problem(&python, file));
        let requirements = self
            .requirements
            .iter()
            .filter(|requirement| !requirement.satisfied)
            .map(|requirement| requirement.problem(&python));
        syntax.chain(modules).chain(requirements).collect()
    }
}

/// Where packages would be installed.
struct Target {
    path: String,
    installer: Installer,
}

impl Module {
    fn problem(&self, python: &Target, requirements: Option<&Path>) -> Option<Problem> {
        let error = self.error.as_ref()?;
        let message = match self.line {
            0 => format!("the pool's transport needs {}: {error}", self.module),
            line => format!("line {line}: import {}: {error}", self.module),
        };
        let suggestion = match &self.missing {
            Some(missing) => {
                let missing = Missing::new(missing);
                let install = missing.suggestion(python.installer, &python.path);
                match requirements {
                    Some(file) => format!("add {} to {}, or {install}", missing.package, file.display()),
                    None => install,
                }
            }
            None => format!("run {} -c 'import {}' by hand", python.path, self.module),
        };
        Some(Problem { message, suggestion })
    }
}

impl Requirement {
    fn problem(&self, python: &Target) -> Problem {
        Problem {
            message: match &self.installed {
                Some(version) => format!("{} is required, and {version} is installed", self.requirement),
                None => format!("{} is required, and not installed", self.requirement),
            },
            suggestion: python
                .installer
                .command(&python.path, &format!("'{}'", self.requirement)),
        }
    }
}

/// Starts the interpreter of `worker` once, in the worker's environment and directory, and imports
/// what `file` imports; the file itself is not run. `requirements` are compared with what is
/// installed.
///
/// Blocks.
///
/// # Errors
/// The interpreter does not run, does not end within [`PREFLIGHT_TIMEOUT`], or an import ended it.
pub fn preflight(worker: &WorkerSpec, file: &Path, requirements: Option<&Path>) -> Result<Report, PythonError> {
    let worker = worker.expanded(|placeholder| match placeholder {
        Placeholder::Device => worker.device(0).map(str::to_owned),
        Placeholder::Index => Some("0".to_owned()),
        Placeholder::Incarnation => Some("1".to_owned()),
        _ => None,
    });
    let interpreter = worker.command.first().map(PathBuf::from).unwrap_or_default();
    let absolute = |path: &Path| std::path::absolute(path).map_err(PythonError::io(path));
    let mut command = Command::new(&interpreter);
    command.args(["-c", SCRIPT]).arg(absolute(file)?);
    if let Some(requirements) = requirements {
        command.arg(absolute(requirements)?);
    }
    if !worker.inherit_env {
        for (name, _) in std::env::vars_os() {
            command.env_remove(name);
        }
    }
    command.envs(&worker.env);
    if let Some(folder) = &worker.cwd {
        command.current_dir(folder);
    }
    let printed = command::run(&Step {
        name: &format!("the preflight of {}", file.display()),
        command: &command,
        timeout: PREFLIGHT_TIMEOUT,
        lock: None,
        cancel: &Cancel::never(),
    })?;
    let report: Report = serde_json::from_str(&printed).map_err(|source| PythonError::NoReport {
        file: file.to_owned(),
        printed,
        source,
    })?;
    Ok(Report {
        interpreter,
        requirements_file: requirements.map(Path::to_owned),
        ..report
    })
}
