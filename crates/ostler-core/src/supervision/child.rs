//! One child as the policy sees it.

use std::time::Duration;

use super::{CallId, ChildId, ChildKey, ChildKind, ChildRef, ChildSpec, ChildStatus, Request, Restart, Shutdown};
use crate::exit::ExitReason;
use crate::moment::Moment;

#[derive(Debug)]
pub(super) struct Child<S> {
    pub(super) id: ChildId,
    /// Taken at the start of a temporary child, which is never started again.
    pub(super) start: Option<S>,
    pub(super) restart: Restart,
    pub(super) shutdown: Shutdown,
    pub(super) significant: bool,
    pub(super) kind: ChildKind,
    /// The last one that was started, from 1; 0 before the first.
    pub(super) incarnation: u64,
    /// Restarts in a row.
    pub(super) attempts: u32,
    pub(super) state: State,
    /// Requests that wait for it to be neither starting nor stopping.
    pub(super) postponed: Vec<(CallId, Request<S>)>,
}

#[derive(Debug, PartialEq)]
pub(super) enum State {
    Undefined,
    Starting {
        on_behalf_of: StartFor,
        /// Set when it is to end as soon as the start has come to its end.
        cancelled: Option<StopFor>,
    },
    Running {
        since: Moment,
    },
    /// It ended by itself, and the supervisor has not come to it yet.
    Ended(Ended),
    Stopping {
        on_behalf_of: StopFor,
        kill_at: Option<Moment>,
    },
    Restarting {
        due: Moment,
        next: Retry,
        reason: ExitReason,
    },
}

/// An end that a child came to by itself.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ended {
    pub(super) reason: ExitReason,
    pub(super) counted: bool,
    /// How long it was up.
    pub(super) lasted: Duration,
}

/// Who wants a child started.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum StartFor {
    /// The start of the supervisor.
    Init,
    /// A restart, its own or its group's.
    Restart,
    /// `start_child`.
    NewChild(CallId),
    /// `restart_child`.
    Again(CallId),
}

/// Who wants a child stopped.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum StopFor {
    /// `terminate_child`, once or more often.
    Calls(Vec<CallId>),
    /// The restart of its group.
    Group,
    /// The end of the supervisor.
    End,
}

/// What a child in `Restarting` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// Its start failed: the next attempt is to be counted (unless the failure was nobody's fault), then delayed, then made.
    Count { counted: bool },
    /// It was counted, and its delay runs.
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

    /// The one moment at which something is to be done about it without any event.
    pub(super) fn deadline(&self) -> Option<Moment> {
        match self.state {
            State::Stopping { kill_at, .. } => kill_at,
            State::Restarting { due, .. } => Some(due),
            State::Undefined | State::Starting { .. } | State::Running { .. } | State::Ended(_) => None,
        }
    }

    /// Whether a child that was to stop ended as it should (OTP's `shutdown/1`): otherwise it is reported.
    pub(super) fn stopped_as_asked(&self, reason: &ExitReason) -> bool {
        match reason {
            ExitReason::Shutdown(None) if self.shutdown != Shutdown::BrutalKill => true,
            ExitReason::Normal | ExitReason::Shutdown(_) => self.restart != Restart::Permanent,
            ExitReason::Killed => self.shutdown == Shutdown::BrutalKill,
            ExitReason::Failed(_) => false,
        }
    }
}
