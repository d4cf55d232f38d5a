//! The outcome of a call: it is answered, refused (certainly not sent), or its outcome is unknown
//! (sent, and then the worker or the connection was lost).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ostler_core::failure::Failure;
use ostler_core::ids::{Incarnation, WorkerId};

/// One incarnation of one worker: a process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WorkerRef {
    /// The worker, such as `embed/0`.
    pub id: WorkerId,
    /// Which of its processes, from 1.
    pub incarnation: Incarnation,
}

impl fmt::Display for WorkerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.id, self.incarnation)
    }
}

/// Why a call has no answer. Any answer is `Ok`, whatever its content.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// It was certainly not sent to any worker. It is safe to try again.
    #[error("refused: {0}")]
    Refused(#[from] Refused),
    /// It was sent, at least in part, and the worker may have executed it, once at most.
    #[error("outcome unknown: {0}")]
    Unknown(#[from] Unknown),
}

impl CallError {
    /// Whether the call was certainly not sent.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Refused(_))
    }

    /// How long to wait before the next call, where that is known: an open circuit breaker refuses
    /// everything until then.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(Refused::BreakerOpen { retry_after }) => Some(*retry_after),
            _ => None,
        }
    }
}

/// Why a call was not sent.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The pool has ended: it was stopped, has finished or gave up.
    #[error("pool {pool:?} is over: {why}")]
    PoolOver {
        /// The pool.
        pool: String,
        /// How it ended; a pool that gave up names its last failure.
        why: String,
    },
    /// The queue is full. More workers, a larger `concurrency` or a larger `queue.max` would have
    /// taken it.
    #[error("{queued} calls wait for a worker already, and queue.max is {limit}")]
    Saturated {
        /// How many wait.
        queued: usize,
        /// How many may.
        limit: usize,
    },
    /// The deadline came while it waited for a worker.
    #[error("its deadline came after {waited:?} in the queue")]
    Expired {
        /// How long it waited.
        waited: Duration,
    },
    /// Calls wait too long for a worker, and this one was refused to shorten the queue
    /// (`queue.codel`).
    #[error("calls wait for a worker longer than queue.codel allows; this one waited {waited:?}")]
    Overloaded {
        /// How long it waited.
        waited: Duration,
    },
    /// The pool's circuit breaker is open: its workers keep failing.
    #[error("the circuit breaker of the pool is open; try again in {retry_after:?}")]
    BreakerOpen {
        /// When a call may be let through again.
        retry_after: Duration,
    },
    /// The worker that the session was bound to is gone, and what it knew of the session with it.
    /// The session's next call is bound to another worker.
    #[error("{0}")]
    SessionLost(SessionLost),
    /// The session's worker is busy, and `sessions.affinity` is `strict_fail_fast`.
    #[error("{worker}, the worker of session {session:?}, is busy")]
    SessionBusy {
        /// The session.
        session: String,
        /// Its worker.
        worker: WorkerRef,
    },
    /// No further session can be bound to a worker.
    #[error("{limit} sessions are bound to workers already, which is sessions.max")]
    TooManySessions {
        /// How many may be bound.
        limit: usize,
    },
    /// Workers crashed on this request, and it is not tried on another one.
    #[error("{crashes} workers crashed on this request; it is not tried again (poison)")]
    Poisoned {
        /// How many.
        crashes: u32,
    },
    /// A worker was chosen, and could not be reached.
    #[error("{worker} could not be reached: {why}")]
    Unreachable {
        /// The worker.
        worker: WorkerRef,
        /// Why.
        why: String,
    },
    /// The request itself can't be sent.
    #[error("the request can't be sent: {why}")]
    Invalid {
        /// Why.
        why: String,
    },
}

impl Refused {
    /// A stable name for metrics and messages, such as `saturated`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::PoolOver { .. } => "pool_over",
            Self::Saturated { .. } => "saturated",
            Self::Expired { .. } => "expired",
            Self::Overloaded { .. } => "overloaded",
            Self::BreakerOpen { .. } => "breaker_open",
            Self::SessionLost(_) => "session_lost",
            Self::SessionBusy { .. } => "session_busy",
            Self::TooManySessions { .. } => "too_many_sessions",
            Self::Poisoned { .. } => "poisoned",
            Self::Unreachable { .. } => "unreachable",
            Self::Invalid { .. } => "invalid",
        }
    }
}

/// A session's worker is gone.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{worker}, the worker of session {session:?}, is gone{}", because(.failure.as_deref()))]
pub struct SessionLost {
    /// The session.
    pub session: String,
    /// Its worker.
    pub worker: WorkerRef,
    /// What the worker failed of; `None`: it was stopped, restarted, recycled or drained.
    pub failure: Option<Arc<Failure>>,
}

/// What happened to a call that was sent and has no answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{cause} ({worker}){}", because(.failure.as_deref()))]
pub struct Unknown {
    /// The worker that it was sent to.
    pub worker: WorkerRef,
    /// What was noticed.
    pub cause: Lost,
    /// What the worker failed of, with its reason and the last lines of its stderr, where it has
    /// failed.
    pub failure: Option<Arc<Failure>>,
}

/// What was noticed of a call that has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Lost {
    /// The worker's process ended.
    #[error("the worker was lost with the call")]
    Worker,
    /// The worker was asked to stop, and did not finish the call before it ended.
    #[error("the worker was stopped before it answered")]
    Stopped,
    /// The connection failed or was closed.
    #[error("the connection was lost: {0}")]
    Connection(String),
    /// The deadline came before the answer.
    #[error("no answer came within the deadline; the call was sent {sent_for:?} before")]
    Deadline {
        /// How long ago the call was sent.
        sent_for: Duration,
    },
    /// What came is no answer that can be read.
    #[error("the answer can't be read: {0}")]
    Answer(String),
}

impl Unknown {
    /// A stable name for metrics and messages, such as `worker_lost`.
    pub fn name(&self) -> &'static str {
        match self.cause {
            Lost::Worker => "worker_lost",
            Lost::Stopped => "worker_stopped",
            Lost::Connection(_) => "connection_lost",
            Lost::Deadline { .. } => "deadline",
            Lost::Answer(_) => "bad_answer",
        }
    }
}

fn because(failure: Option<&Failure>) -> String {
    failure.map_or_else(String::new, |failure| {
        let last = failure
            .stderr_tail
            .last()
            .filter(|last| !failure.message.contains(*last));
        let last = last.map_or_else(String::new, |last| format!("; its last line on stderr: {last}"));
        format!(": {}{last}", failure.message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_core::failure::Reason;

    #[test]
    fn an_unknown_outcome_says_what_the_worker_died_of() {
        let mut failure = Failure::new(Reason::Killed, "it was killed by SIGSEGV");
        failure.stderr_tail = vec!["first".into(), "ValueError: no".into()];
        let unknown = Unknown {
            worker: WorkerRef {
                id: WorkerId::new("embed", 0),
                incarnation: Incarnation(3),
            },
            cause: Lost::Worker,
            failure: Some(Arc::new(failure)),
        };
        assert_eq!(
            CallError::from(unknown).to_string(),
            "outcome unknown: the worker was lost with the call (embed/0#3): it was killed by SIGSEGV; its last line on \
             stderr: ValueError: no"
        );
    }
}
