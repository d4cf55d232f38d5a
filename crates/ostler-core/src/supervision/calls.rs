//! Requests to a supervisor and their replies: OTP's, as types.

use super::{ChildId, ChildKey, ChildKind, ChildRef, ChildSpec, SpecError};
use crate::exit::ExitReason;

/// Identifies a request and its reply. Chosen by the driver, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// Which child to terminate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// By id. Refused under simple_one_for_one, where ids need not be unique.
    Id(ChildId),
    /// By key: OTP's "by pid".
    Key(ChildKey),
}

impl From<ChildKey> for Target {
    fn from(key: ChildKey) -> Self {
        Target::Key(key)
    }
}

impl From<ChildId> for Target {
    fn from(id: ChildId) -> Self {
        Target::Id(id)
    }
}

impl<T: AsRef<str>> From<T> for Target {
    fn from(id: T) -> Self {
        Target::Id(id.into())
    }
}

/// A request.
#[derive(Debug, Clone)]
pub enum Request<S> {
    /// Add a child and start it.
    StartChild(ChildSpec<S>),
    /// Stop a child. Its specification is kept, unless it is temporary.
    TerminateChild(Target),
    /// Start a child that is not running.
    RestartChild(ChildId),
    /// Remove the specification of a child that is not running.
    DeleteChild(ChildId),
}

/// The reply to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// The reply to [`Request::StartChild`].
    StartChild(Result<ChildStart, StartChildError>),
    /// The reply to [`Request::TerminateChild`].
    TerminateChild(Result<(), TerminateChildError>),
    /// The reply to [`Request::RestartChild`].
    RestartChild(Result<ChildStart, RestartChildError>),
    /// The reply to [`Request::DeleteChild`].
    DeleteChild(Result<(), DeleteChildError>),
}

/// The outcome of a requested start that did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChildStart {
    /// The child is running (OTP's `{ok, Pid}` and `{ok, Pid, Info}`).
    Started(ChildRef),
    /// The child declined to start (OTP's `{ok, undefined}`). Its specification is kept, unless it
    /// is temporary or dynamic.
    Ignored(ChildRef),
}

/// Why `start_child` failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StartChildError {
    /// A child with this id is running.
    #[error("child {0} is already started")]
    AlreadyStarted(ChildRef),
    /// A child with this id is specified but not running.
    #[error("child {0} is already present: restart or delete it")]
    AlreadyPresent(ChildId),
    /// The start failed; the specification was dropped.
    #[error("the child did not start")]
    Failed(#[source] ExitReason),
    /// The child was terminated before it was running.
    #[error("the child was terminated while it was starting")]
    Cancelled,
    /// The specification is invalid.
    #[error(transparent)]
    Invalid(#[from] SpecError),
    /// The supervisor is stopping.
    #[error("the supervisor is stopping")]
    Stopping,
}

/// Why `terminate_child` failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TerminateChildError {
    /// No such child.
    #[error("no such child")]
    NotFound,
    /// Children of a simple_one_for_one supervisor are terminated by key.
    #[error("children of a simple_one_for_one supervisor are terminated by key")]
    SimpleOneForOne,
    /// The supervisor is stopping, and the child with it.
    #[error("the supervisor is stopping")]
    Stopping,
}

/// Why `restart_child` failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RestartChildError {
    /// The child is running.
    #[error("the child is running")]
    Running,
    /// The child is waiting for its restart.
    #[error("the child is restarting")]
    Restarting,
    /// No such child.
    #[error("no such child")]
    NotFound,
    /// The start failed; the specification is kept.
    #[error("the child did not start")]
    Failed(#[source] ExitReason),
    /// The child was terminated before it was running.
    #[error("the child was terminated while it was starting")]
    Cancelled,
    /// Not supported under simple_one_for_one.
    #[error("a simple_one_for_one supervisor keeps no specification to restart from")]
    SimpleOneForOne,
    /// The supervisor is stopping.
    #[error("the supervisor is stopping")]
    Stopping,
}

/// Why `delete_child` failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DeleteChildError {
    /// The child is running: terminate it first.
    #[error("the child is running: terminate it first")]
    Running,
    /// The child is waiting for its restart: terminate it first.
    #[error("the child is restarting: terminate it first")]
    Restarting,
    /// No such child.
    #[error("no such child")]
    NotFound,
    /// Not supported under simple_one_for_one.
    #[error("a simple_one_for_one supervisor keeps no specification to delete")]
    SimpleOneForOne,
    /// The supervisor is stopping.
    #[error("the supervisor is stopping")]
    Stopping,
}

/// The status of a child in `which_children`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChildStatus {
    /// Not running (OTP's `undefined`).
    Undefined,
    /// Starting. OTP callers never see this state, because they block.
    Starting,
    /// Running (OTP shows the pid).
    Running,
    /// Stopping, or ended and not yet handled. OTP callers never see this state, because they
    /// block.
    Stopping,
    /// Waiting to be started again, after a failed attempt or during a backoff (OTP's
    /// `restarting`).
    Restarting,
}

/// One row of `which_children`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildInfo {
    /// The child. Its `incarnation` is that of the last start, 0 before the first.
    pub child: ChildRef,
    /// Its status.
    pub status: ChildStatus,
    /// Worker or supervisor.
    pub kind: ChildKind,
}

/// The result of `count_children`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChildCounts {
    /// Specifications. Always 1 under simple_one_for_one, as in OTP.
    pub specs: usize,
    /// Children that are running.
    pub active: usize,
    /// Supervisors, running or not.
    pub supervisors: usize,
    /// Workers, running or not.
    pub workers: usize,
}
