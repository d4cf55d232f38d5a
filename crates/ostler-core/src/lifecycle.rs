//! One incarnation of a worker, from its reservation until all that it held is released: a pure,
//! total machine.
//!
//! ```text
//! Reserved ──> Spawned ──> Ready ──> Stopping ──> Exited ──> Releasing ──> Released { outcome }
//!     │            └──────────┴─────────(exit)──────^            ^
//!     └──────────(nothing was spawned)───────────────────────────┘
//! ```
//!
//! [`Lifecycle::step`] takes what happened and the time, and returns what to do. It never waits and
//! never fails: an input that doesn't fit the state changes nothing, and [`Lifecycle::try_step`]
//! says why. The table of all states and inputs is `docs/lifecycle.md`, and a test compares it with
//! this code.
//!
//! These invariants hold for every history of inputs, and random ones check them:
//! - [`Effect::Spawn`] comes only after [`Input::Recorded`], and once.
//! - Wherever a process may live that must end, its end was ordered by [`Effect::End`],
//!   [`Effect::KillPastSitter`] or [`Effect::EndWithoutSitter`], or its sitter ends it because the
//!   guardian is lost. If that does not help, it is repeated as a kill every `release_timeout`.
//! - [`Effect::Done`] comes once, last, and only after the tree is gone, the ports are free and the
//!   record is removed. The passing of time is never taken for a release; and a tree of which
//!   nothing proves that it is gone ends with [`Transition::Unseen`], never with
//!   [`Transition::Released`].
//! - The first cause of an end is its outcome; later ones do not replace it.
//! - Transitions are announced in the order of the states, each at most once, except that
//!   [`Transition::Stopping`] comes again with each escalation, and that [`Transition::Failed`]
//!   also comes with each [`Effect::ReleaseOverdue`].
//! - A deadline that is noticed more than [`LATE`] too late is armed once more before it leads to a
//!   verdict: the host could not run meanwhile.

mod alarm;
mod ending;
mod guard;
mod input;
mod machine;
mod overdue;

use std::time::Duration;

pub use input::{Cause, Ignored, Input, Rest};
pub use machine::Lifecycle;

use crate::failure::{ExitStatus, Failure};
use crate::signal::Signal;
use crate::spec::StopSpec;

/// The first pause before a port is probed or a record is removed again; it doubles up to
/// [`RETRY_MAX`].
pub const RETRY_FIRST: Duration = Duration::from_millis(10);

/// The longest pause between two tries to release the same thing.
pub const RETRY_MAX: Duration = Duration::from_millis(500);

/// How long after the tree is gone the leader's exit status may still come (its output is being
/// drained). Then the release goes on without a status.
pub const EXIT_STATUS_WAIT: Duration = Duration::from_secs(2);

/// A deadline that is noticed later than this shows that the host could not run (suspended, frozen,
/// starved). 250 ms: more than a busy machine usually delays a timer.
pub const LATE: Duration = Duration::from_millis(250);

/// KILL to the whole tree, at once.
pub const KILL_NOW: StopSpec = StopSpec {
    signal: Signal::KILL,
    grace: Duration::ZERO,
};

/// The rules of one incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// From the written reservation to ready, at most; then it is ended with
    /// [`Reason::ReadyTimeout`](crate::failure::Reason). The record itself has as long to be
    /// written. Zero: no limit for becoming ready; the record and the spawn then have
    /// `release_timeout` each.
    pub start_timeout: Duration,
    /// It is ready as soon as exec has succeeded: there is no sign to wait for.
    pub ready_when_spawned: bool,
    /// An exit sooner than this after the spawn is a failure, whatever its status. Zero: no such
    /// rule.
    pub min_uptime: Duration,
    /// How it is asked to end.
    pub stop: StopSpec,
    /// How its sitter ends it when the guardian is lost. Only its grace matters here: the time it
    /// is given.
    pub host_death: StopSpec,
    /// From the exit (or from the end of the grace, whichever is later) until all is released; then
    /// what still holds is named, and named again each time it has passed once more. Zero is taken
    /// for one millisecond.
    pub release_timeout: Duration,
    /// Whether it has ports that must be free again before the next incarnation is reserved.
    pub has_ports: bool,
}

/// Where an incarnation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Its record is being written, or its process is being spawned.
    Reserved,
    /// exec has succeeded; not ready.
    Spawned,
    /// It can be used.
    Ready,
    /// Its end was ordered, or its sitter ends it.
    Stopping,
    /// Its leader has ended; others of its tree may still live.
    Exited,
    /// The tree is gone (or never was); its ports and its record are being released.
    Releasing,
    /// Nothing of it is left.
    Released,
}

impl State {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 7] = [
        Self::Reserved,
        Self::Spawned,
        Self::Ready,
        Self::Stopping,
        Self::Exited,
        Self::Releasing,
        Self::Released,
    ];

    /// The state's name, such as `reserved`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Spawned => "spawned",
            Self::Ready => "ready",
            Self::Stopping => "stopping",
            Self::Exited => "exited",
            Self::Releasing => "releasing",
            Self::Released => "released",
        }
    }
}

/// What to do now, in the order of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Write the reservation; answer with [`Input::Recorded`] or [`Input::RecordFailed`].
    Record,
    /// Start the process; answer with [`Input::Spawned`] or [`Input::SpawnFailed`].
    Spawn,
    /// Watch for readiness; answer with [`Input::Ready`] or [`Input::StartFailed`]. Moot after any
    /// [`Effect::End`].
    WatchReady,
    /// Watch health and heartbeat; answer with [`Input::Unhealthy`]. Moot after any
    /// [`Effect::End`].
    WatchHealth,
    /// Have the guardian signal the process group, and kill the whole tree after the grace. Comes
    /// again to escalate, then with [`KILL_NOW`]. Before [`Input::Spawned`] it means whatever the
    /// spawn may have left.
    End(StopSpec),
    /// Kill what lives below the sitter, which takes no orders because its guardian is lost; answer
    /// with [`Input::KilledPastSitter`]. The sitter reaps it and reports the end.
    KillPastSitter,
    /// Kill what is left of a tree whose sitter is gone too, by identity, marker and cgroup; answer
    /// with [`Input::EndedWithoutSitter`].
    EndWithoutSitter,
    /// See whether the ports can be bound; answer with [`Input::PortsFree`] or
    /// [`Input::PortsHeld`]. Comes again when they were held, and when no answer came within
    /// `release_timeout`.
    CheckPorts,
    /// Remove the record; answer with [`Input::Unrecorded`] or [`Input::UnrecordFailed`]. Comes
    /// again in the same cases; removing what isn't there is a success.
    Unrecord,
    /// Find out which processes of the tree are left; answer with [`Input::Held`].
    NameHolders,
    /// Publish a transition.
    Announce {
        /// What happened.
        what: Transition,
        /// The time since the state before was entered.
        elapsed: Duration,
    },
    /// The release is overdue. It goes on being tried; the failure counts as a failed restart.
    ReleaseOverdue(Failure),
    /// Released: the next incarnation may be reserved. The last effect of a life.
    Done(Outcome),
}

/// A published transition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition {
    /// It is in the process table; nothing of it runs yet.
    Reserved,
    /// exec has succeeded.
    Spawned,
    /// It can be used.
    Ready,
    /// It failed its probes or its heartbeat.
    Unhealthy(Failure),
    /// It is asked to end; comes again when that is escalated.
    Stopping {
        /// Why.
        cause: Cause,
        /// With which signal and grace.
        stop: StopSpec,
    },
    /// Its leader has ended. Does not come when nothing was spawned, or when its status is unknown.
    Exited(ExitStatus),
    /// It failed, or its release is overdue.
    Failed(Failure),
    /// Nothing of it is left.
    Released,
    /// Its life is over, all of it that was found is killed, and nothing proves that nothing is
    /// left; why.
    Unseen(String),
}

/// How an incarnation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A stop was asked for before anything else ended it.
    Stopped {
        /// How the process ended; `None` when none was spawned, or when its status is unknown.
        status: Option<ExitStatus>,
    },
    /// It ended by itself, well.
    Finished {
        /// How the process ended.
        status: ExitStatus,
    },
    /// It failed.
    Failed(Failure),
}
