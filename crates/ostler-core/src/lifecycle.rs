//! One incarnation of a worker, from its reservation until everything it held is released: a pure,
//! total state machine.
//!
//! ```text
//! Reserved ──> Spawned ──> Ready ──> Stopping ──> Exited ──> Releasing ──> Released { outcome }
//!     │            └──────────┴─────────(exit)──────^            ^
//!     └──────────(nothing was spawned)───────────────────────────┘
//! ```
//!
//! [`Lifecycle::step`] takes what happened and the time, and returns what to do. It never waits and
//! never fails: an input that doesn't fit the state is ignored, and [`Lifecycle::try_step`] says
//! why. The table of all states and inputs is `docs/lifecycle.md`, and a test compares it with
//! this code.
//!
//! These invariants hold for every history of inputs; tests check them with random histories:
//! - [`Effect::Spawn`] comes only after [`Input::Recorded`], and once.
//! - If a process that must end may be alive, its end was ordered by [`Effect::End`],
//!   [`Effect::KillPastSitter`] or [`Effect::EndWithoutSitter`], or its sitter ends it because the
//!   guardian is lost. If that has no effect, it is repeated as a kill every `release_timeout`.
//! - [`Effect::Done`] comes once, last, and only after the tree is gone, the ports are free and the
//!   record is removed. Time alone never releases anything, and a tree that is not proven to be
//!   gone ends with [`Transition::Unseen`], never with [`Transition::Released`].
//! - The first cause of an end is its outcome; later ones do not replace it.
//! - Transitions are announced in the order of the states, each at most once, except that
//!   [`Transition::Stopping`] comes again with each escalation, and that [`Transition::Failed`]
//!   also comes with each [`Effect::ReleaseOverdue`].
//! - A deadline that is noticed more than [`LATE`] too late is extended once before it leads to a
//!   verdict, because the host could not run meanwhile.

mod cause;
mod ending;
mod guard;
mod input;
mod machine;
mod overdue;

use std::time::Duration;

pub use cause::Cause;
pub use input::{Ignored, Input, Rest};
pub use machine::Lifecycle;

pub use crate::alarm::{LATE, extension};
use crate::failure::{ExitStatus, Failure};
use crate::signal::Signal;
use crate::spec::StopSpec;

/// The first pause before a port is probed or a record is removed again; it doubles up to
/// [`RETRY_MAX`].
pub const RETRY_FIRST: Duration = Duration::from_millis(10);

/// The longest pause between two attempts to release the same thing.
pub const RETRY_MAX: Duration = Duration::from_millis(500);

/// How long after the end of the tree the leader's exit status may still arrive, while its output
/// is being drained. Then the release continues without a status.
pub const EXIT_STATUS_WAIT: Duration = Duration::from_secs(2);

/// KILL to the whole tree, at once.
pub const KILL_NOW: StopSpec = StopSpec {
    signal: Signal::KILL,
    grace: Duration::ZERO,
};

/// The rules of one incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The longest time from the written reservation to ready; then the worker is ended with
    /// [`Reason::ReadyTimeout`](crate::failure::Reason). Writing the record may take as long. Zero:
    /// no limit for becoming ready; the record and the spawn then have
    /// `release_timeout` each.
    pub start_timeout: Duration,
    /// What makes the worker ready.
    pub start: Start,
    /// An exit sooner than this after the spawn is a failure, whatever its status. Zero: no such
    /// rule.
    pub min_uptime: Duration,
    /// How a worker is stopped.
    pub stop: StopSpec,
    /// How the sitter ends the worker when the guardian is lost. Only the grace matters here.
    pub host_death: StopSpec,
    /// The time from the exit, or from the end of the grace if that is later, until everything is
    /// released. After that, what is still held is reported, again after each further period. Zero
    /// counts as one millisecond.
    pub release_timeout: Duration,
    /// Whether it has ports that must be free again before the next incarnation is reserved.
    pub has_ports: bool,
}

/// What makes a worker ready, and what an exit before that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Its spawn: it is ready as soon as exec has succeeded.
    AtOnce,
    /// [`Input::Ready`], once it has lived for a moment. An earlier exit is judged by its status,
    /// like any other.
    Alive,
    /// [`Input::Ready`], once it has shown that it is ready. An earlier exit is a failed start,
    /// whatever its status.
    Shown,
}

/// The state of an incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// The record is being written, or the process is being spawned.
    Reserved,
    /// exec has succeeded; the worker is not ready yet.
    Spawned,
    /// The worker is ready.
    Ready,
    /// The end was ordered, or the sitter ends the worker.
    Stopping,
    /// The leader has exited; other processes of the tree may be alive.
    Exited,
    /// The tree is gone (or never existed); ports and record are being released.
    Releasing,
    /// Nothing is left.
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
    /// Watch for readiness; answer with [`Input::Ready`] or [`Input::StartFailed`]. Not needed
    /// after an [`Effect::End`].
    WatchReady,
    /// Watch health and heartbeat; answer with [`Input::Unhealthy`]. Not needed after an
    /// [`Effect::End`].
    WatchHealth,
    /// Order the guardian to signal the process group, and to kill the whole tree after the grace.
    /// Repeated with [`KILL_NOW`] to escalate. Before [`Input::Spawned`] it applies to whatever the
    /// spawn may have left.
    End(StopSpec),
    /// Kill the processes below the sitter, which takes no orders because its guardian is lost;
    /// answer with [`Input::KilledPastSitter`]. The sitter reaps them and reports the end.
    KillPastSitter,
    /// Kill what is left of a tree whose sitter is gone too, by identity, marker and cgroup; answer
    /// with [`Input::EndedWithoutSitter`].
    EndWithoutSitter,
    /// Check whether the ports can be bound; answer with [`Input::PortsFree`] or
    /// [`Input::PortsHeld`]. Repeated while they are held, and if no answer comes within
    /// `release_timeout`.
    CheckPorts,
    /// Remove the record; answer with [`Input::Unrecorded`] or [`Input::UnrecordFailed`]. Repeated
    /// in the same cases. Removing a missing record succeeds.
    Unrecord,
    /// Find out which processes of the tree are left; answer with [`Input::Held`].
    NameHolders,
    /// Publish a transition.
    Announce {
        /// What happened.
        what: Transition,
        /// The time since the previous state was entered.
        elapsed: Duration,
    },
    /// The release is overdue. It is still retried; the failure counts as a failed restart.
    ReleaseOverdue(Failure),
    /// Released: the next incarnation may be reserved. The last effect.
    Done(Outcome),
}

/// A published transition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition {
    /// It is in the process table; no process exists yet.
    Reserved,
    /// exec has succeeded.
    Spawned,
    /// The worker is ready.
    Ready,
    /// The worker failed its probes or its heartbeat.
    Unhealthy(Failure),
    /// It is being stopped. Announced again when that is escalated.
    Stopping {
        /// Why.
        cause: Cause,
        /// With which signal and grace.
        stop: StopSpec,
    },
    /// The leader has exited. Not announced if nothing was spawned, or if the status is unknown.
    Exited(ExitStatus),
    /// It failed, or its release is overdue.
    Failed(Failure),
    /// Nothing is left.
    Released,
    /// It has ended, and everything that was found is killed, but it is not proven that nothing is
    /// left, for this reason.
    Unseen(String),
}

/// How an incarnation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A stop was requested before anything else ended it.
    Stopped {
        /// How the process ended; `None` when none was spawned, or when its status is unknown.
        status: Option<ExitStatus>,
    },
    /// It exited normally without a stop.
    Finished {
        /// How the process ended.
        status: ExitStatus,
    },
    /// It failed.
    Failed(Failure),
}
