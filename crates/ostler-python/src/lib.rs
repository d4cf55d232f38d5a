//! Python workers: which interpreter runs them, the virtual environment with what they require, a
//! check of both before anything serves, and the [`WorkerSpec`](ostler_core::spec::WorkerSpec) with
//! the settings that suit the package `ostler-worker`.
//!
//! ```no_run
//! use ostler_python::Python;
//!
//! let worker = Python::new("worker.py").requirements("requirements.txt");
//! let spec = worker.pool("embed", &mut |line| eprintln!("{line}"))?;
//! # Ok::<(), ostler_python::PythonError>(())
//! ```
//! Everything here blocks: it runs before a pool is added, on a thread that may wait.

mod command;
mod error;
mod interpreter;
mod preflight;
mod preset;
mod venv;

pub use error::PythonError;
pub use preflight::{Module, PREFLIGHT_TIMEOUT, Problem, Report, Requirement, preflight};
pub use preset::{Python, STOP_GRACE, Transport};
pub use venv::INSTALL_TIMEOUT;
