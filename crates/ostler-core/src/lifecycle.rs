//! One incarnation of a worker, from its reservation until all that it held is released: a pure, total machine.
//!
//! ```text
//! Reserved ──> Spawned ──> Ready ──> Stopping ──> Exited ──> Releasing ──> Released { outcome }
//!     │            └──────────┴─────────(exit)──────^            ^
//!     └──────────(nothing was spawned)───────────────────────────┘
//! ```
//!
//! [`Lifecycle::step`] takes what happened and the time, and returns what is to be done. It never waits and never
//! fails: an input that doesn't fit the state changes nothing, and [`Lifecycle::try_step`] says why. The table of all
//! states and inputs is `docs/lifecycle.md`, and a test compares it with this code.
//!
//! What holds for every history of inputs, and is checked by random ones:
//! - [`Effect::Spawn`] comes only after [`Input::Recorded`], and once.
//! - Wherever a process may live and is no longer wanted there has been an [`Effect::End`] (or the guardian is lost,
//!   and the sitter ends it); when it does not help, it is repeated with KILL every `release_timeout`.
//! - [`Effect::Done`] comes once, last, and only after the tree is gone, the ports are free and the record is removed.
//!   No passing of time is taken for a release.
//! - The first cause of an end is its outcome; later ones do not replace it.
//! - Transitions are announced in the order of the states, each at most once, except that [`Transition::Stopping`]
//!   comes again with each escalation, and that [`Transition::Failed`] also comes with each
//!   [`Effect::ReleaseOverdue`].

mod ending;
mod input;
mod machine;
mod overdue;

use std::time::Duration;

pub use input::{Cause, Ignored, Input};
pub use machine::Lifecycle;

use crate::failure::{ExitStatus, Failure};
use crate::signal::Signal;
use crate::spec::StopSpec;

/// The first pause before a port is probed or a record is removed again; it doubles up to [`RETRY_MAX`].
pub const RETRY_FIRST: Duration = Duration::from_millis(10);

/// The longest pause between two tries to release the same thing.
pub const RETRY_MAX: Duration = Duration::from_millis(500);

/// How long after the tree is gone the leader's exit status may still come (its output is being drained). Then the
/// release goes on without a status.
pub const EXIT_STATUS_WAIT: Duration = Duration::from_secs(2);

/// KILL to the whole tree, at once.
pub const KILL_NOW: StopSpec = StopSpec {
    signal: Signal::KILL,
    grace: Duration::ZERO,
};

/// What one incarnation goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// From the reservation to ready, at most; then it is ended with [`Reason::ReadyTimeout`](crate::failure::Reason).
    /// Zero: no limit for becoming ready; the record and the spawn then have `release_timeout` each.
    pub start_timeout: Duration,
    /// An exit sooner than this after the spawn is a failure, whatever its status. Zero: no such rule.
    pub min_uptime: Duration,
    /// How it is asked to end.
    pub stop: StopSpec,
    /// How its sitter ends it when the guardian is lost. Only its grace matters here: the time it is given.
    pub host_death: StopSpec,
    /// From the exit (or from the end of the grace, whichever is later) until all is released; then what still holds
    /// is named, and named again each time it has passed once more. Zero is taken for one millisecond.
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
    /// It has been asked to end, or its sitter ends it.
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

/// What is to be done now, in the order of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Write the reservation; answer with [`Input::Recorded`] or [`Input::RecordFailed`].
    Record,
    /// Start the process; answer with [`Input::Spawned`] or [`Input::SpawnFailed`].
    Spawn,
    /// Watch for readiness; answer with [`Input::Ready`] or [`Input::StartFailed`]. Moot after any [`Effect::End`].
    WatchReady,
    /// Watch health and heartbeat; answer with [`Input::Unhealthy`]. Moot after any [`Effect::End`].
    WatchHealth,
    /// Signal the process group, and kill the whole tree after the grace. Comes again to escalate, then with
    /// [`KILL_NOW`]. Before [`Input::Spawned`] it means whatever the spawn may have left.
    End(StopSpec),
    /// See whether the ports can be bound; answer with [`Input::PortsFree`] or [`Input::PortsHeld`]. Comes again when
    /// they were held, and when no answer came within `release_timeout`.
    CheckPorts,
    /// Remove the record; answer with [`Input::Unrecorded`] or [`Input::UnrecordFailed`]. Comes again likewise:
    /// removing what isn't there is a success.
    Unrecord,
    /// Find out who of the tree is left; answer with [`Input::Held`].
    NameHolders,
    /// Tell everybody.
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

/// What everybody is told of.
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
        /// By whom and why.
        cause: Cause,
        /// With which signal and grace.
        stop: StopSpec,
    },
    /// Its leader has ended. Does not come when nothing was spawned, or when nobody could tell how it ended.
    Exited(ExitStatus),
    /// It failed, or its release is overdue.
    Failed(Failure),
    /// Nothing of it is left.
    Released,
}

/// How an incarnation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A stop was asked for before anything else ended it.
    Stopped {
        /// How the process ended; `None` when none had been spawned, or when nobody could tell.
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
