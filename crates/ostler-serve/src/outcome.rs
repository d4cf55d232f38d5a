//! The outcome of a call: it is answered, refused (certainly not sent), or its outcome is unknown
//! (sent, and then the worker or the connection was lost).

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ostler::PoolEnd;
use ostler_core::chain::chain;
use ostler_core::failure::Failure;
use ostler_core::ids::{Incarnation, WorkerId};

use crate::error::{BoxError, SharedError};

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
///
/// The text is one line without the causes, which follow as `source()`: [`ostler::chain`] prints
/// all of them.
#[derive(Debug, Clone)]
pub enum CallError {
    /// It was certainly not sent to any worker. It is safe to try again.
    Refused(Refused),
    /// It was sent, at least in part, and the worker may have executed it, once at most.
    Unknown(Unknown),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refused) => write!(f, "refused: {refused}"),
            Self::Unknown(unknown) => write!(f, "outcome unknown: {unknown}"),
        }
    }
}

/// The text of the variant is part of its own, so the source is what caused that.
impl Error for CallError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Refused(refused) => refused.source(),
            Self::Unknown(unknown) => unknown.source(),
        }
    }
}

impl From<Refused> for CallError {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<Unknown> for CallError {
    fn from(unknown: Unknown) -> Self {
        Self::Unknown(unknown)
    }
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
    #[error("pool {pool:?} is over")]
    PoolOver {
        /// The pool.
        pool: String,
        /// How it ended; a pool that gave up names its last failure.
        #[source]
        end: Arc<PoolEnd>,
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
    #[error(transparent)]
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
    #[error("{worker} could not be reached")]
    Unreachable {
        /// The worker.
        worker: WorkerRef,
        /// What the adapter or the worker reports.
        source: SharedError,
    },
    /// The request itself can't be sent.
    #[error("the request can't be sent")]
    Invalid {
        /// What the adapter reports.
        source: SharedError,
    },
}

impl Refused {
    pub(crate) fn unreachable(worker: &WorkerRef, error: impl Into<BoxError>) -> Self {
        Self::Unreachable {
            worker: worker.clone(),
            source: SharedError::new(error),
        }
    }

    pub(crate) fn invalid(error: impl Into<BoxError>) -> Self {
        Self::Invalid {
            source: SharedError::new(error),
        }
    }

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
#[derive(Debug, Clone)]
pub struct SessionLost {
    /// The session.
    pub session: String,
    /// Its worker.
    pub worker: WorkerRef,
    /// The source: what the worker failed of; `None`: it was stopped, restarted, recycled or
    /// drained.
    pub failure: Option<Arc<Failure>>,
}

impl fmt::Display for SessionLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, the worker of session {:?}, is gone", self.worker, self.session)?;
        match last_line(self.failure.as_deref()) {
            Some(line) => write!(f, " (its last line on stderr: {line})"),
            None => Ok(()),
        }
    }
}

impl Error for SessionLost {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        let failure = self.failure.as_deref()?;
        Some(failure)
    }
}

/// What happened to a call that was sent and has no answer.
#[derive(Debug, Clone)]
pub struct Unknown {
    /// The worker that it was sent to.
    pub worker: WorkerRef,
    /// What was noticed.
    pub cause: Lost,
    /// The source, where the worker has failed: what it failed of, with its reason and the last
    /// lines of its stderr.
    pub failure: Option<Arc<Failure>>,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cause)?;
        // The source is the failure, so this would be lost.
        if let (Some(_), Some(error)) = (&self.failure, self.cause.source()) {
            write!(f, ": {}", chain(error))?;
        }
        write!(f, " ({}", self.worker)?;
        if let Some(line) = last_line(self.failure.as_deref()) {
            write!(f, "; its last line on stderr: {line}")?;
        }
        f.write_str(")")
    }
}

/// The text of `cause` is part of its own, so the source is what caused that.
impl Error for Unknown {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self.failure.as_deref() {
            Some(failure) => Some(failure),
            None => self.cause.source(),
        }
    }
}

/// What was noticed of a call that has no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Lost {
    /// The worker's process ended.
    #[error("the worker was lost with the call")]
    Worker,
    /// The worker was asked to stop, and did not finish the call before it ended.
    #[error("the worker was stopped before it answered")]
    Stopped,
    /// The connection failed or was closed.
    #[error("the connection was lost")]
    Connection(#[source] SharedError),
    /// The deadline came before the answer.
    #[error("no answer came within the deadline; the call was sent {sent_for:?} before")]
    Deadline {
        /// How long ago the call was sent.
        sent_for: Duration,
    },
    /// What came is no answer that can be read.
    #[error("the answer can't be read")]
    Answer(#[source] SharedError),
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

/// A traceback ends with what was wrong. A message may contain it, and is the source.
fn last_line(failure: Option<&Failure>) -> Option<&String> {
    let failure = failure?;
    let last = failure.stderr_tail.last();
    last.filter(|last| !failure.message.contains(*last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_core::chain::repeats_its_source;
    use ostler_core::failure::Reason;

    fn worker() -> WorkerRef {
        WorkerRef {
            id: WorkerId::new("embed", 0),
            incarnation: Incarnation(3),
        }
    }

    fn failure() -> Failure {
        let mut failure = Failure::new(Reason::Killed, "it was killed by SIGSEGV");
        failure.stderr_tail = vec!["first".into(), "ValueError: no".into()];
        failure
    }

    fn unknown(cause: Lost, failure: Option<Failure>) -> Unknown {
        Unknown {
            worker: worker(),
            cause,
            failure: failure.map(Arc::new),
        }
    }

    fn reset() -> std::io::Error {
        std::io::ErrorKind::ConnectionReset.into()
    }

    #[test]
    fn an_unknown_outcome_says_what_the_worker_died_of() {
        assert_eq!(
            chain(&CallError::from(unknown(Lost::Worker, Some(failure())))),
            "outcome unknown: the worker was lost with the call (embed/0#3; its last line on stderr: ValueError: no): \
             killed: it was killed by SIGSEGV"
        );
    }

    #[test]
    fn the_source_of_a_lost_connection_is_the_adapters_own_error() {
        for error in [
            CallError::from(unknown(Lost::Connection(SharedError::new(reset())), None)),
            Refused::unreachable(&worker(), reset()).into(),
        ] {
            let source = error.source().and_then(|source| source.downcast_ref());
            assert_eq!(source.map(std::io::Error::kind), Some(reset().kind()), "{error}");
        }
    }

    #[test]
    fn no_text_repeats_its_source() {
        let session_lost = |failure| SessionLost {
            session: "s".into(),
            worker: worker(),
            failure,
        };
        let over = |end| Refused::PoolOver {
            pool: "embed".into(),
            end: Arc::new(end),
        };
        let refused = [
            over(PoolEnd::Stopped),
            over(PoolEnd::GaveUp(Some(failure()))),
            Refused::SessionLost(session_lost(Some(Arc::new(failure())))),
            Refused::unreachable(&worker(), reset()),
            Refused::invalid("too long"),
        ];
        let unknown = [
            unknown(Lost::Worker, Some(failure())),
            unknown(Lost::Connection(SharedError::new(reset())), None),
            unknown(Lost::Answer(SharedError::new("half a line")), None),
        ];
        for refused in refused {
            each_text_is_its_own(&refused);
            each_text_is_its_own(&CallError::from(refused));
        }
        for unknown in unknown {
            each_text_is_its_own(&unknown);
            #[cfg(feature = "http")]
            each_text_is_its_own(&crate::http::CutOff(unknown.clone()));
            #[cfg(feature = "stdio")]
            each_text_is_its_own(&crate::stdio::StdioError::Call(unknown.clone().into()));
            each_text_is_its_own(&CallError::from(unknown));
        }
        #[cfg(feature = "stdio")]
        each_text_is_its_own(&crate::stdio::StdioError::Result("no number".into()));
    }

    fn each_text_is_its_own(error: &(dyn Error + 'static)) {
        assert!(error.source().is_some(), "{error:?}");
        assert!(!repeats_its_source(error), "{error:?}");
    }
}
