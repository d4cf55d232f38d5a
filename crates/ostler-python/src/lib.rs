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
//! With the feature `pool` (default), one call does all of it, and the pool is ready to be called:
//!
#![cfg_attr(feature = "pool", doc = "```no_run")]
#![cfg_attr(not(feature = "pool"), doc = "```ignore")]
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use ostler::{Ostler, Pool};
//! use ostler_python::PythonPool as _;
//!
//! let ostler = Ostler::builder("demo").start().await?;
//! let pool = Pool::python("worker.py").workers(4).start(&ostler, "embed").await?;
//! let vectors: Vec<Vec<f32>> = pool.call("embed", &["a text", "another"]).await?;
//! # Ok(())
//! # }
//! ```
//! Everything but `Python::start` blocks: it runs before a pool is added, on a thread that may
//! wait.

mod command;
mod error;
mod interpreter;
mod job;
#[cfg(feature = "pool")]
mod pool;
mod preflight;
mod preset;
mod requirements;
mod venv;

pub use error::{CommandError, PythonError};
#[cfg(feature = "pool")]
pub use pool::{PythonPool, StartError};
pub use preflight::{Module, PREFLIGHT_TIMEOUT, Problem, Report, Requirement, preflight};
pub use preset::{Python, STOP_GRACE, Transport};
pub use venv::INSTALL_TIMEOUT;
