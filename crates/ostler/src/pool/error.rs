//! Errors of a pool's operations.

use std::io;

use ostler_core::failure::Failure;
use ostler_core::ids::WorkerId;
use ostler_core::spec::SpecProblem;
use ostler_core::supervision::{RestartChildError, StartChildError};

use super::phase::PoolEnd;

/// An error of an operation on a pool or a worker.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The specification is invalid; every mistake in it.
    #[error("pool {pool:?}: invalid specification: {}", list(problems))]
    Invalid {
        /// The pool.
        pool: String,
        /// The mistakes.
        problems: Vec<SpecProblem>,
    },
    /// The instance has a pool of that name.
    #[error("pool {pool:?} exists already; choose another name, or stop that pool first")]
    Exists {
        /// The name.
        pool: String,
    },
    /// The pool has no such worker.
    #[error("pool {pool:?} has no worker {index}; it has {workers}, counted from 0")]
    NoSuchWorker {
        /// The pool.
        pool: String,
        /// The index that was given.
        index: u32,
        /// The number of its workers.
        workers: usize,
    },
    /// The worker can't be started or restarted.
    #[error("worker {worker} can't be restarted")]
    NotRestartable {
        /// The worker.
        worker: WorkerId,
        /// Why not.
        #[source]
        reason: NotRestartable,
    },
    /// The instance is stopping, or has ended.
    #[error("the instance is stopping; start another one")]
    Stopping,
    /// The pool has ended, or is ending.
    #[error("pool {pool:?} can't be changed: its end has begun")]
    Over {
        /// The pool.
        pool: String,
        /// How it ends.
        #[source]
        end: Box<PoolEnd>,
    },
    /// The pool has its new size, but workers that were removed were not released within their
    /// `release_timeout`. Their release is still retried.
    #[error("pool {pool:?}: {} not released yet", ids(workers))]
    ReleaseOverdue {
        /// The pool.
        pool: String,
        /// The workers that still hold something.
        workers: Vec<WorkerId>,
    },
    /// A new process of this worker did not become ready, which ends a rolling restart.
    #[error("worker {worker} did not become ready")]
    NotReady {
        /// The worker.
        worker: WorkerId,
        /// Its failure; `None` if it was stopped or has finished.
        #[source]
        failure: Option<Box<Failure>>,
    },
    /// The pool's actors could not be started.
    #[error("pool {pool:?} did not start")]
    NotStarted {
        /// The pool.
        pool: String,
        /// What its supervisor reports.
        #[source]
        reason: StartChildError,
    },
}

/// Why a worker can't be started or restarted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NotRestartable {
    /// Its slot gave up; stop the pool and start it again.
    #[error("its slot gave up; stop its pool and start it again once the cause is removed")]
    GaveUp,
    /// Its slot has finished.
    #[error("it has finished; stop its pool and start it again")]
    Finished,
    /// The whole pool gave up.
    #[error("its pool gave up; stop the pool and start it again once the cause is removed")]
    PoolGaveUp,
    /// The whole pool has finished.
    #[error("its pool has finished; start the pool again")]
    PoolFinished,
    /// Its slot was removed, because the pool was made smaller.
    #[error("its pool was made smaller, and its slot is gone")]
    Removed,
    /// Its pool or its instance is stopping, or has stopped.
    #[error("its pool is stopping, or has stopped")]
    Stopping,
    /// Its starter is not up yet, or is being replaced.
    #[error("its starter is not up yet; try again")]
    Starting,
    /// Its starter refused.
    #[error(transparent)]
    Refused(RestartChildError),
    /// Its starter could not add it again (a temporary worker).
    #[error(transparent)]
    NotAdded(StartChildError),
}

/// Why a worker was not signalled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotSignalled {
    /// It has no process now, or that could not be identified.
    #[error("worker {worker} has no process")]
    NoProcess {
        /// The worker.
        worker: WorkerId,
    },
    /// Its process runs as another user.
    #[error("worker {worker} runs as another user, whose processes this one may not signal")]
    NotPermitted {
        /// The worker.
        worker: WorkerId,
    },
    /// A system call failed.
    #[error("worker {worker} could not be signalled")]
    Failed {
        /// The worker.
        worker: WorkerId,
        /// What went wrong.
        source: io::Error,
    },
}

fn ids(workers: &[WorkerId]) -> String {
    workers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn list(problems: &[SpecProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
