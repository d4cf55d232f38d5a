//! Pools with `python`: their interpreters are found and their virtual environments made before
//! anything starts, and a preflight asks whether their workers can be imported.

use std::path::{Path, PathBuf};

use ostler_core::chain::chain;
use ostler_core::spec::{PoolSpec, WorkerSpec};
use ostler_python::{PythonError, Report, preflight};

use crate::config::Config;

/// Sets the interpreter of every pool with `python`. `say` receives what is done.
///
/// # Errors
/// The first pool without one, and why.
pub(crate) fn prepare(config: &mut Config, say: &mut dyn FnMut(&str)) -> Result<(), String> {
    for pool in &mut config.pools {
        let Some(python) = config.python.get(&pool.name) else {
            continue;
        };
        let interpreter = python
            .prepare(&mut |line| say(&format!("ostler: pool {}: {line}", pool.name)))
            .map_err(|error| format!("pool {}: {}", pool.name, chain(&error)))?;
        pool.worker.command[0] = interpreter.display().to_string();
    }
    Ok(())
}

/// What a preflight found of one pool.
pub(crate) struct Finding {
    /// The pool.
    pub(crate) pool: String,
    /// What there is: the interpreter, and the versions of what the worker imports.
    pub(crate) found: String,
    /// What would keep the worker from starting; each with what to do.
    pub(crate) problems: Vec<(String, String)>,
}

/// Starts the interpreter of each Python pool once and imports what its worker imports. Pools with
/// another command are left out.
pub(crate) fn examine(config: &Config, say: &mut dyn FnMut(&str)) -> Vec<Finding> {
    config
        .pools
        .iter()
        .filter_map(|pool| Some((pool, subject(config, pool, say)?)))
        .map(|(pool, subject)| match subject.and_then(Subject::report) {
            Ok(report) => Finding {
                pool: pool.name.clone(),
                found: describe(&report),
                problems: report
                    .problems()
                    .into_iter()
                    .map(|problem| (problem.message, problem.suggestion))
                    .collect(),
            },
            Err(error) => Finding {
                pool: pool.name.clone(),
                found: pool.worker.command.join(" "),
                problems: vec![(chain(&error), "correct that, and check again".to_owned())],
            },
        })
        .collect()
}

/// A worker and its file.
struct Subject {
    worker: WorkerSpec,
    file: PathBuf,
    requirements: Option<PathBuf>,
}

impl Subject {
    fn report(self) -> Result<Report, PythonError> {
        preflight(&self.worker, &self.file, self.requirements.as_deref())
    }
}

/// `None`: the pool runs no Python file.
fn subject(config: &Config, pool: &PoolSpec, say: &mut dyn FnMut(&str)) -> Option<Result<Subject, PythonError>> {
    let mut worker = pool.worker.clone();
    let Some(python) = config.python.get(&pool.name) else {
        let file = file_of(&worker)?;
        let requirements = None;
        return Some(Ok(Subject {
            worker,
            file,
            requirements,
        }));
    };
    Some(python.prepare(say).map(|interpreter| {
        worker.command[0] = interpreter.display().to_string();
        Subject {
            worker,
            file: python.file(),
            requirements: python.requirements_file(),
        }
    }))
}

/// The file of a command such as `python3 -u worker.py`.
fn file_of(worker: &WorkerSpec) -> Option<PathBuf> {
    let (program, arguments) = worker.command.split_first()?;
    let name = Path::new(program).file_name()?.to_str()?;
    let is_python = name
        .strip_prefix("python")
        .is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || c == '.'));
    let file = arguments.iter().find(|argument| !argument.starts_with('-'))?;
    let runs_file = is_python && file.ends_with(".py");
    runs_file.then(|| worker.cwd.as_deref().unwrap_or(Path::new("")).join(file))
}

fn describe(report: &Report) -> String {
    let versions = report
        .modules
        .iter()
        .filter_map(|module| Some(format!("{} {}", module.module, module.version.as_ref()?)));
    let python = format!("Python {} ({})", report.python, report.interpreter.display());
    std::iter::once(python).chain(versions).collect::<Vec<_>>().join(", ")
}
