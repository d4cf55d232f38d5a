//! A pool of Python workers in an instance of its own, and the proof that nothing of it is left.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ostler::testing::TestBed;
use ostler::{EventKind, Ostler, Pool, PoolSpec};
use ostler_python::{Python, PythonError, PythonPool as _, Transport};
use ostler_serve::ServingPool;

/// The repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A worker with a method for each thing that a handler can do.
pub(crate) fn everything() -> Python {
    of_this_checkout(Pool::python(repository().join("python/tests/workers/everything.py")))
}

/// The worker, with the SDK of this checkout.
pub(crate) fn of_this_checkout(python: Python) -> Python {
    python
        .env("PYTHONPATH", repository().join("python/src").display().to_string())
        .env("PYTHONDONTWRITEBYTECODE", "1")
}

/// The worker with numpy and grpcio, which are fetched once; `None`: they can't be.
pub(crate) fn with_packages(python: Python) -> Option<Python> {
    let python = python.requirements(repository().join("python/requirements-test.txt"));
    let mut progress = |line: &str| println!("{line}");
    match python.prepare(&mut progress) {
        Ok(_) => Some(python),
        Err(error @ (PythonError::Install { .. } | PythonError::Timeout { .. })) => {
            println!("skipped: the packages could not be fetched from PyPI: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

pub(crate) struct Scene {
    pub(crate) bed: TestBed,
    ostler: Ostler,
    pub(crate) pool: ServingPool,
}

impl Scene {
    pub(crate) async fn start(python: Python) -> Self {
        Self::start_with(python, |_| {}).await
    }

    /// `change` has the last word about the specification.
    pub(crate) async fn start_with(python: Python, change: impl FnOnce(&mut PoolSpec)) -> Self {
        Self::start_within(ostler_tests::SOON, python, change).await
    }

    /// The same where the start, or the stop, may take longer.
    pub(crate) async fn start_within(time: Duration, python: Python, change: impl FnOnce(&mut PoolSpec)) -> Self {
        let mut bed = TestBed::new();
        bed.set_deadline(time.max(bed.deadline()));
        let ostler = bed.builder().start().await.expect("it starts");
        let mut spec = python.pool("py", &mut |_| {}).expect("an interpreter");
        change(&mut spec);
        let pool = ostler.add_pool(spec).await.expect("the pool starts");
        bed.within("a ready pool", pool.wait_ready())
            .await
            .expect("it becomes ready");
        let pool = ServingPool::of(pool);
        Self { bed, ostler, pool }
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        let workers = self.pool.pool().workers();
        workers.iter().filter_map(|worker| worker.pid).collect()
    }

    /// Waits until the worker that has ended has a successor.
    pub(crate) async fn replaced(&mut self) {
        self.bed.event("py/0", EventKind::WorkerReleased).await;
        self.bed.event("py/0", EventKind::WorkerReady).await;
    }

    /// Stops the instance; nothing may be left, of this process neither.
    pub(crate) async fn end(self) {
        let Self { bed, ostler, pool } = self;
        let stopped = bed.within("the stop", ostler.stop()).await;
        assert!(
            stopped.as_ref().is_ok_and(ostler::StopReport::is_success),
            "{stopped:?}"
        );
        drop(pool);
        bed.finish().await;
    }
}

/// The same worker over gRPC.
pub(crate) fn over_grpc(python: Python) -> Option<Python> {
    with_packages(python.transport(Transport::Grpc))
}

/// Runs each of these tests, which take a worker, over stdio and over gRPC.
macro_rules! over_both_transports {
    ($($test:ident),* $(,)?) => {
        mod over_stdio {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(crate::scene::everything()).await;
            })*
        }

        mod over_grpc {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                if let Some(python) = crate::scene::over_grpc(crate::scene::everything()) {
                    super::$test(python).await;
                }
            })*
        }
    };
}
pub(crate) use over_both_transports;

/// Waits for a state, with a deadline.
pub(crate) async fn until(what: &str, reached: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + ostler_tests::SOON;
    while !reached() {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
