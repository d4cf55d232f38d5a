//! The state of one child.

use std::time::Duration;

use super::{CallId, ChildId, ChildKey, ChildKind, ChildRef, ChildSpec, ChildStatus, Request, Restart, Shutdown};
use crate::alarm::Alarm;
use crate::exit::ExitReason;
use crate::moment::Moment;

#[derive(Debug)]
pub(super) struct Child<S> {
    pub(super) id: ChildId,
    /// `None` once a temporary child has been started, because it is never started again.
    pub(super) start: Option<S>,
    pub(super) restart: Restart,
    pub(super) shutdown: Shutdown,
    pub(super) significant: bool,
    pub(super) kind: ChildKind,
    /// The incarnation of the last start, from 1; 0 before the first.
    pub(super) incarnation: u64,
    /// Consecutive restarts.
    pub(super) attempts: u32,
    pub(super) state: State,
    /// Requests that wait until the child is neither starting nor stopping.
    pub(super) postponed: Vec<(CallId, Request<S>)>,
}

#[derive(Debug, PartialEq)]
pub(super) enum State {
    Undefined,
    Starting {
        on_behalf_of: StartFor,
        /// Set if the child must stop as soon as its start completes.
        cancelled: Option<StopFor>,
    },
    Running {
        since: Moment,
    },
    /// Exited on its own; the supervisor has not handled the exit yet.
    Ended(Ended),
    Stopping {
        on_behalf_of: StopFor,
        /// When it is killed; unset if it has been, or if its stop has no limit.
        kill: Alarm,
    },
    Restarting {
        due: Moment,
        next: Retry,
        reason: ExitReason,
    },
}

/// An exit that was not requested.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ended {
    pub(super) reason: ExitReason,
    pub(super) counted: bool,
    /// How long the child was running.
    pub(super) lasted: Duration,
}

/// What a start is for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum StartFor {
    /// The supervisor's own start.
    Init,
    /// A restart of the child or of its group.
    Restart,
    /// `start_child`.
    NewChild(CallId),
    /// `restart_child`.
    Again(CallId),
}

/// What a stop is for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum StopFor {
    /// One or more `terminate_child` calls.
    Calls(Vec<CallId>),
    /// The restart of its group.
    Group,
    /// The supervisor's own stop.
    End,
}

/// What happens when a `Restarting` child is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// The start failed. Count the next attempt (if `counted`), then delay it, then start.
    Count { counted: bool },
    /// The restart is already counted, and its delay is running.
    Start,
}

impl<S> Child<S> {
    pub(super) fn new(spec: ChildSpec<S>) -> Self {
        Child {
            id: spec.id,
            start: Some(spec.start),
            restart: spec.restart,
            shutdown: spec.shutdown,
            significant: spec.significant,
            kind: spec.kind,
            incarnation: 0,
            attempts: 0,
            state: State::Undefined,
            postponed: Vec::new(),
        }
    }

    pub(super) fn reference(&self, key: ChildKey) -> ChildRef {
        ChildRef {
            id: self.id.clone(),
            key,
            incarnation: self.incarnation,
        }
    }

    pub(super) fn status(&self) -> ChildStatus {
        match self.state {
            State::Undefined => ChildStatus::Undefined,
            State::Starting { .. } => ChildStatus::Starting,
            State::Running { .. } => ChildStatus::Running,
            State::Ended(_) | State::Stopping { .. } => ChildStatus::Stopping,
            State::Restarting { .. } => ChildStatus::Restarting,
        }
    }

    /// When the child needs attention without an event: the time to kill it or to restart it.
    pub(super) fn deadline(&self) -> Option<Moment> {
        match self.state {
            State::Stopping { kill, .. } => kill.at(),
            State::Restarting { due, .. } => Some(due),
            State::Undefined | State::Starting { .. } | State::Running { .. } | State::Ended(_) => None,
        }
    }

    /// Whether a child that was stopped exited the way its specification expects (OTP's
    /// `shutdown/1`). If not, the supervisor reports a shutdown error.
    pub(super) fn stopped_as_expected(&self, reason: &ExitReason) -> bool {
        match reason {
            ExitReason::Shutdown(None) if self.shutdown != Shutdown::BrutalKill => true,
            ExitReason::Normal | ExitReason::Shutdown(_) => self.restart != Restart::Permanent,
            ExitReason::Killed => self.shutdown == Shutdown::BrutalKill,
            ExitReason::Failed(_) => false,
        }
    }
}
