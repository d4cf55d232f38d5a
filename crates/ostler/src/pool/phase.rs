//! How far a pool is, and how it ends.

use ostler_core::failure::Failure;
use ostler_core::pool::Readiness;

/// How far a pool is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoolPhase {
    /// Not every worker has been ready yet.
    Starting,
    /// Every worker is ready. Workers that have finished no longer count.
    Ready,
    /// The pool serves with fewer workers than it should: it was ready before, or slots gave up.
    Degraded {
        /// How many workers are ready.
        ready: usize,
        /// How many should be: all that have not finished.
        expected: usize,
    },
    /// Its end has begun: nothing is restarted any more.
    Ending(PoolEnd),
    /// It is down, and all it held is released, or its release is overdue.
    Ended(PoolEnd),
}

impl PoolPhase {
    /// Whether the pool's end has begun: nothing is restarted any more.
    pub fn is_over(&self) -> bool {
        self.end().is_some()
    }

    /// How the pool ends, once its end has begun.
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

/// Why a pool will not be ready. Each value has one meaning, however far the pool's end is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolEnd {
    /// Every worker has ended normally and is not restarted.
    #[error("the pool has finished: its workers ended normally and are not restarted")]
    Finished,
    /// Fewer slots than `min_workers` are left, or the first one gave up under `on_give_up =
    /// "pool"`; with the last failure.
    #[error("the pool gave up{}", .0.as_ref().map(|failure| format!(": {}", failure.message)).unwrap_or_default())]
    GaveUp(Option<Failure>),
    /// The pool or its instance was stopped.
    #[error("the pool was stopped")]
    Stopped,
    /// The worker's slot is gone: the pool was made smaller. Only
    /// [`Worker::ready`](super::Worker::ready) returns it: the pool lives.
    #[error("the worker was removed: its pool was made smaller")]
    Removed,
    /// Slots gave up, and the others serve on. Only [`Pool::wait_ready`](super::Pool::wait_ready)
    /// returns it: the pool lives.
    #[error("the pool is degraded: {ready} of {expected} workers are ready, and the slots of the others gave up")]
    Degraded {
        /// How many workers are ready.
        ready: usize,
        /// How many should be.
        expected: usize,
    },
}
