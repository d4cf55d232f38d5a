//! A pool of Python workers, from the file to the first call.

use std::path::PathBuf;

use ostler::{Ostler, Pool, PoolEnd, PoolError};
use ostler_serve::ServingPool;

use crate::error::PythonError;
use crate::job::{Cancel, Job};
use crate::preset::Python;

/// Why a pool of Python workers does not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The interpreter, or its virtual environment.
    #[error(transparent)]
    Python(#[from] PythonError),
    /// The pool could not be added.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// It ended before it was ready; a pool that gave up names its last failure.
    #[error("the pool did not become ready")]
    NotReady(#[from] PoolEnd),
    /// The runtime is shut down.
    #[error("the runtime is shut down")]
    Shutdown,
}

/// `Pool::python("worker.py")`.
pub trait PythonPool {
    /// The workers of a pool that runs this file. [`Python::start`] starts it.
    fn python(file: impl Into<PathBuf>) -> Python;
}

impl PythonPool for Pool {
    fn python(file: impl Into<PathBuf>) -> Python {
        Python::new(file)
    }
}

impl Python {
    /// Finds the interpreter, makes the virtual environment if need be (which can take minutes, and
    /// is logged), adds the pool and waits until it is ready.
    ///
    /// Cancel safe: while the environment is being made, pip and all that it has started are ended,
    /// and the next call makes the environment again; a pool that was added goes on, and stopping
    /// the instance ends it.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(self, ostler: &Ostler, name: impl Into<String>) -> Result<ServingPool, StartError> {
        let name = name.into();
        let (dropped_with_this_call, cancel) = Cancel::on_drop();
        let prepare = move || {
            let mut progress = |line: &str| tracing::info!(pool = name, "{line}");
            self.pool_as(
                &name,
                &mut Job {
                    progress: &mut progress,
                    cancel,
                },
            )
        };
        let spec = tokio::task::spawn_blocking(prepare)
            .await
            .map_err(|_| StartError::Shutdown)??;
        drop(dropped_with_this_call);
        let pool = ostler.add_pool(spec).await?;
        pool.wait_ready().await?;
        Ok(ServingPool::of(pool))
    }
}
