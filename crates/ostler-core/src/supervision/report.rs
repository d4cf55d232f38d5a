//! What a supervisor reports about its children: OTP's reports, and one extension.

use std::fmt;
use std::time::Duration;

use super::{ChildId, Intensity};
use crate::exit::ExitReason;
use crate::moment::Moment;

/// A child as added to one supervisor. Never reused: a child that is deleted and added again under
/// the same id gets another key.
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
    /// The child's id.
    pub id: ChildId,
    /// The child's key, which tells children with the same id apart.
    pub key: ChildKey,
    /// The number of this start, from 1. Failed starts count too.
    pub incarnation: u64,
}

impl fmt::Display for ChildRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.id, self.incarnation)
    }
}

/// A report about a child.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Report {
    /// The child started (OTP's progress report). Unlike OTP, also sent for children of a
    /// simple_one_for_one supervisor.
    Progress {
        /// The child.
        child: ChildRef,
    },
    /// The child failed to start, at the supervisor's start or in a restart. A failed `start_child`
    /// is reported to its caller only.
    StartError {
        /// The child.
        child: ChildRef,
        /// Why the start failed.
        reason: ExitReason,
    },
    /// The child exited on its own, either abnormally or although it is permanent.
    ChildTerminated {
        /// The child.
        child: ChildRef,
        /// Its exit reason.
        reason: ExitReason,
        /// Extension: false if the exit is not the child's fault and its restart is not counted.
        counted: bool,
    },
    /// The child did not stop the way its specification expects: it was killed after its timeout,
    /// or failed.
    ShutdownError {
        /// The child.
        child: ChildRef,
        /// Its exit reason.
        reason: ExitReason,
    },
    /// Extension: a restart of the child (and of its siblings, depending on the strategy) is
    /// scheduled and already counted.
    RestartScheduled {
        /// The incarnation that ended.
        child: ChildRef,
        /// Why it is restarted: its exit reason, or why its last start failed.
        reason: ExitReason,
        /// The number of this consecutive restart, from 1. It starts over once the child has run
        /// for the backoff's `reset` time (or the period).
        attempt: u32,
        /// The delay from now: what is left of the backoff's pause. Zero without a backoff, or if
        /// the child ran for longer than the pause.
        delay: Duration,
        /// Restarts of this supervisor counted within the period.
        restarts: usize,
        /// The same as a counter that can be asked later.
        intensity: Intensity,
        /// When this was decided, in the time that the policy gets.
        at: Moment,
    },
    /// Another restart would exceed the intensity: the supervisor stops all children and ends.
    ReachedMaxRestartIntensity {
        /// The incarnation that ended.
        child: ChildRef,
        /// Its exit reason, or why its last start failed.
        reason: ExitReason,
        /// Restarts counted within the period, including this one.
        restarts: usize,
    },
}

impl Report {
    /// OTP's name for the report, or the extension's.
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

    /// The child the report is about.
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

    /// The exit reason or failure in the report.
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
