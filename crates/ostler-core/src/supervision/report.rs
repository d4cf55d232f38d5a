//! What a supervisor tells about its children: OTP's reports, and one of ours.

use std::fmt;
use std::time::Duration;

use super::ChildId;
use crate::exit::ExitReason;

/// A child as added to one supervisor, never used again: a child deleted and added anew under the same id has another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChildKey(pub(crate) u64);

impl fmt::Display for ChildKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// One incarnation of one child.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ChildRef {
    /// Its name.
    pub id: ChildId,
    /// Which added child of that name.
    pub key: ChildKey,
    /// Which start of it, from 1; a start that failed has a number too.
    pub incarnation: u64,
}

impl fmt::Display for ChildRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.id, self.incarnation)
    }
}

/// Something happened to a child.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// It was started (OTP's progress report; OTP has none for children of a simple_one_for_one, we do).
    Progress {
        /// Who.
        child: ChildRef,
    },
    /// It could not be started, when the supervisor started or in a restart. A failed `start_child` is only its caller's business.
    StartError {
        /// Who.
        child: ChildRef,
        /// Why.
        reason: ExitReason,
    },
    /// It ended by itself, abnormally or although it is permanent.
    ChildTerminated {
        /// Who.
        child: ChildRef,
        /// Why.
        reason: ExitReason,
        /// Extension: false when its end is nobody's fault, and its restart isn't counted.
        counted: bool,
    },
    /// It was being stopped, and ended otherwise than asked: killed after its time, by an error, and so on.
    ShutdownError {
        /// Who.
        child: ChildRef,
        /// How it ended.
        reason: ExitReason,
    },
    /// Extension: it is to be restarted (with its siblings, as the strategy says), counted already.
    RestartScheduled {
        /// The incarnation that ended.
        child: ChildRef,
        /// Why it is restarted: its exit, or why its last start failed.
        reason: ExitReason,
        /// Which restart in a row, from 1; a row ends when the child was up for the backoff's reset time (or the period).
        attempt: u32,
        /// How long from now; zero without backoff.
        delay: Duration,
        /// Restarts of this supervisor that are counted within the period.
        restarts: usize,
    },
    /// It was to be restarted once more than the intensity allows: the supervisor stops everything and ends.
    ReachedMaxRestartIntensity {
        /// The incarnation that ended.
        child: ChildRef,
        /// Its exit, or why its last start failed.
        reason: ExitReason,
        /// Restarts counted within the period, this one included.
        restarts: usize,
    },
}

impl Report {
    /// OTP's name of the report, or ours.
    pub fn name(&self) -> &'static str {
        match self {
            Report::Progress { .. } => "progress",
            Report::StartError { .. } => "start_error",
            Report::ChildTerminated { .. } => "child_terminated",
            Report::ShutdownError { .. } => "shutdown_error",
            Report::RestartScheduled { .. } => "restart_scheduled",
            Report::ReachedMaxRestartIntensity { .. } => "reached_max_restart_intensity",
        }
    }

    /// Whom it is about.
    pub fn child(&self) -> &ChildRef {
        match self {
            Report::Progress { child }
            | Report::StartError { child, .. }
            | Report::ChildTerminated { child, .. }
            | Report::ShutdownError { child, .. }
            | Report::RestartScheduled { child, .. }
            | Report::ReachedMaxRestartIntensity { child, .. } => child,
        }
    }

    /// The exit or failure that it tells of.
    pub fn reason(&self) -> Option<&ExitReason> {
        match self {
            Report::Progress { .. } => None,
            Report::StartError { reason, .. }
            | Report::ChildTerminated { reason, .. }
            | Report::ShutdownError { reason, .. }
            | Report::RestartScheduled { reason, .. }
            | Report::ReachedMaxRestartIntensity { reason, .. } => Some(reason),
        }
    }
}
