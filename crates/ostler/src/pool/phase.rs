//! The phases of a pool, and how it ends.

use ostler_core::failure::Failure;
use ostler_core::pool::Readiness;

/// The phase of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoolPhase {
    /// Not every worker has been ready yet.
    Starting,
    /// Every worker is ready. Workers that have finished no longer count.
    Ready,
    /// The pool serves with fewer workers than it should: it was ready before, or slots gave up.
    Degraded {
        /// The number of ready workers.
        ready: usize,
        /// The number that should be ready: all that have not finished.
        expected: usize,
    },
    /// It is ending, and nothing is restarted.
    Ending(PoolEnd),
    /// It is down, and everything it held is released, or its release is overdue.
    Ended(PoolEnd),
}

impl PoolPhase {
    /// Whether the pool is ending or has ended, so that nothing is restarted.
    pub fn is_over(&self) -> bool {
        self.end().is_some()
    }

    /// How the pool ends; `None` before its end has begun.
    pub fn end(&self) -> Option<&PoolEnd> {
        match self {
            Self::Ending(end) | Self::Ended(end) => Some(end),
            Self::Starting | Self::Ready | Self::Degraded { .. } => None,
        }
    }
}

impl From<Readiness> for PoolPhase {
    fn from(readiness: Readiness) -> Self {
        match readiness {
            Readiness::Starting => Self::Starting,
            Readiness::Ready => Self::Ready,
            Readiness::Degraded { ready, expected } => Self::Degraded { ready, expected },
        }
    }
}

/// Why a pool will not be ready. Each value has one meaning, in every phase of the pool's end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolEnd {
    /// Every worker has ended normally and is not restarted.
    #[error("the pool has finished: its workers ended normally and are not restarted")]
    Finished,
    /// Fewer slots than `min_workers` are left, or the first one gave up under `on_give_up =
    /// "pool"`; with the last failure.
    #[error("the pool gave up")]
    GaveUp(#[source] Option<Failure>),
    /// The pool or its instance was stopped.
    #[error("the pool was stopped")]
    Stopped,
    /// The worker's slot was removed, because the pool was made smaller. Only
    /// [`Worker::ready`](super::Worker::ready) returns it: the pool itself continues.
    #[error("the worker was removed: its pool was made smaller")]
    Removed,
    /// Slots gave up, and the others continue. Only [`Pool::wait_ready`](super::Pool::wait_ready)
    /// returns it: the pool itself continues.
    #[error("the pool is degraded: {ready} of {expected} workers are ready, and the slots of the others gave up")]
    Degraded {
        /// How many workers are ready.
        ready: usize,
        /// How many should be.
        expected: usize,
    },
}
