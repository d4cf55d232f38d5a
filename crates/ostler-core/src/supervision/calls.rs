//! The requests that can be made of a supervisor, and their results: OTP's, as types.

use super::{ChildId, ChildKey, ChildKind, ChildRef, ChildSpec, SpecError};
use crate::exit::ExitReason;

/// Names a request, so that its reply finds back. Chosen by the driver, used once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// Which child to terminate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// By name. Refused under simple_one_for_one, where names need not be unique.
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
    /// Stop a child; its specification stays, unless it is temporary.
    TerminateChild(Target),
    /// Start a child that is not there.
    RestartChild(ChildId),
    /// Remove the specification of a child that is not there.
    DeleteChild(ChildId),
}

/// The reply to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// To [`Request::StartChild`].
    StartChild(Result<ChildStart, StartChildError>),
    /// To [`Request::TerminateChild`].
    TerminateChild(Result<(), TerminateChildError>),
    /// To [`Request::RestartChild`].
    RestartChild(Result<ChildStart, RestartChildError>),
    /// To [`Request::DeleteChild`].
    DeleteChild(Result<(), DeleteChildError>),
}

/// A start that was asked for and didn't fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChildStart {
    /// The child is up (OTP's `{ok, Pid}` and `{ok, Pid, Info}`).
    Started(ChildRef),
    /// The child declined to start (OTP's `{ok, undefined}`): its specification is kept, unless it is temporary or dynamic.
    Ignored(ChildRef),
}

/// Why `start_child` did nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StartChildError {
    /// A child of that id is up.
    #[error("child {0} is started already")]
    AlreadyStarted(ChildRef),
    /// A child of that id is specified, and not up.
    #[error("child {0} is present already: restart it or delete it")]
    AlreadyPresent(ChildId),
    /// It could not be started; its specification was dropped.
    #[error("the child did not start: {0}")]
    Failed(ExitReason),
    /// It was terminated before it was up.
    #[error("the child was terminated while it started")]
    Cancelled,
    /// The specification is refused.
    #[error(transparent)]
    Invalid(#[from] SpecError),
    /// The supervisor is stopping.
    #[error("the supervisor is stopping")]
    Stopping,
}

/// Why `terminate_child` did nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TerminateChildError {
    /// There is no such child.
    #[error("no such child")]
    NotFound,
    /// Children of a simple_one_for_one are terminated by key.
    #[error("a child of a simple_one_for_one supervisor is terminated by its key")]
    SimpleOneForOne,
    /// The supervisor is stopping, and the child with it.
    #[error("the supervisor is stopping")]
    Stopping,
}

/// Why `restart_child` did nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RestartChildError {
    /// It is up.
    #[error("the child is running")]
    Running,
    /// It waits to be restarted.
    #[error("the child is restarting")]
    Restarting,
    /// There is no such child.
    #[error("no such child")]
    NotFound,
    /// It could not be started; its specification is kept.
    #[error("the child did not start: {0}")]
    Failed(ExitReason),
    /// It was terminated before it was up.
    #[error("the child was terminated while it started")]
    Cancelled,
    /// Not on simple_one_for_one.
    #[error("a simple_one_for_one supervisor keeps no specification to restart from")]
    SimpleOneForOne,
    /// The supervisor is stopping.
    #[error("the supervisor is stopping")]
    Stopping,
}

/// Why `delete_child` did nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DeleteChildError {
    /// It is up: terminate it first.
    #[error("the child is running: terminate it first")]
    Running,
    /// It waits to be restarted: terminate it first.
    #[error("the child is restarting: terminate it first")]
    Restarting,
    /// There is no such child.
    #[error("no such child")]
    NotFound,
    /// Not on simple_one_for_one.
    #[error("a simple_one_for_one supervisor keeps no specification to delete")]
    SimpleOneForOne,
    /// The supervisor is stopping.
    #[error("the supervisor is stopping")]
    Stopping,
}

/// Where a child is, as `which_children` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChildStatus {
    /// Not there (OTP's `undefined`).
    Undefined,
    /// Being started; OTP's callers never see it, they wait.
    Starting,
    /// Up (OTP shows its pid).
    Running,
    /// Being stopped, or ended and not yet dealt with; OTP's callers never see it, they wait.
    Stopping,
    /// To be started again, after a failed attempt or a backoff (OTP's `restarting`).
    Restarting,
}

/// A line of `which_children`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildInfo {
    /// Who; `incarnation` is the last one that was started, 0 before the first.
    pub child: ChildRef,
    /// Where it is.
    pub status: ChildStatus,
    /// What it is.
    pub kind: ChildKind,
}

/// The result of `count_children`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChildCounts {
    /// Specifications; on a simple_one_for_one always 1, as in OTP.
    pub specs: usize,
    /// Children that are up.
    pub active: usize,
    /// Supervisors, up or not.
    pub supervisors: usize,
    /// Workers, up or not.
    pub workers: usize,
}
