//! What can happen to an incarnation, and why some of it changes nothing.

use std::fmt;

use crate::failure::{ExitStatus, Failure};

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The reservation is in the process table.
    Recorded,
    /// The reservation is not in the table, and will not be.
    RecordFailed(Failure),
    /// exec has succeeded.
    Spawned,
    /// No process exists (any more), and nothing holds a port: no program, no port available, no
    /// room for a process.
    SpawnFailed(Failure),
    /// Readiness was seen.
    Ready,
    /// It can't become ready (an unrelated process has its port; readiness can't be watched): end
    /// it.
    StartFailed(Failure),
    /// It failed its health probes, or its heartbeat is lost: end it.
    Unhealthy(Failure),
    /// End it. Accepted in every state.
    Stop {
        /// By whom and why.
        cause: Cause,
        /// KILL at once, also when a stop with grace is under way.
        kill: bool,
    },
    /// The leader's exit was seen, and its output is drained.
    Exited(ExitStatus),
    /// Nothing of the tree is left. May come before [`Input::Exited`].
    TreeGone,
    /// The slot's sitter was killed. The kernel killed the leader with it, and the guardian has
    /// killed and reaped the rest.
    SitterLost,
    /// The guardian is gone. The sitter ends the tree as `host_death` says and takes no orders. A
    /// spawn under way is still answered.
    GuardianLost,
    /// The guardian and all its sitters have ended: no further news comes, and only
    /// the host is left to end the tree.
    SittersEnded,
    /// What the kill past the sitter reached is killed: the answer to
    /// [`Effect::KillPastSitter`](super::Effect::KillPastSitter). The sitter reports the end.
    KilledPastSitter,
    /// What a tree without a sitter came to: the answer to
    /// [`Effect::EndWithoutSitter`](super::Effect::EndWithoutSitter).
    EndedWithoutSitter(Rest),
    /// Every port can be bound again.
    PortsFree,
    /// A port can't be bound yet; which, and who holds it.
    PortsHeld(String),
    /// The record is removed.
    Unrecorded,
    /// The record could not be removed; why.
    UnrecordFailed(String),
    /// Who of the tree is left: the answer to [`Effect::NameHolders`](super::Effect::NameHolders).
    Held(String),
    /// The moment of [`Lifecycle::deadline`](super::Lifecycle::deadline) has passed.
    Deadline,
}

/// What is left of a tree that no sitter could end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rest {
    /// Nothing, and that is proven.
    Gone,
    /// Nothing was found, but nothing proves that nothing is left; why.
    Unseen(String),
    /// These processes live on.
    Left(String),
}

/// Why a process is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A user stopped this worker.
    UserStop,
    /// A user asked for a restart of this worker.
    RestartRequested,
    /// Its pool is made smaller.
    PoolResize,
    /// Its pool stops or gives up.
    PoolStop,
    /// The whole instance stops.
    InstanceStop,
    /// The actor that the instance is linked under ends.
    ParentEnded,
    /// It was not ready in time.
    StartTimeout,
    /// It can't become ready.
    StartFailed,
    /// It failed its health probes or its heartbeat.
    Unhealthy,
    /// The guardian is gone; its sitter ends it.
    GuardianLost,
    /// It should be gone by now.
    ReleaseRetry,
    /// The actor that owned it was killed or panicked.
    OwnerGone,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 12] = [
        Self::UserStop,
        Self::RestartRequested,
        Self::PoolResize,
        Self::PoolStop,
        Self::InstanceStop,
        Self::ParentEnded,
        Self::StartTimeout,
        Self::StartFailed,
        Self::Unhealthy,
        Self::GuardianLost,
        Self::ReleaseRetry,
        Self::OwnerGone,
    ];

    /// The cause's name in events, such as `user_stop`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UserStop => "user_stop",
            Self::RestartRequested => "restart_requested",
            Self::PoolResize => "pool_resize",
            Self::PoolStop => "pool_stop",
            Self::InstanceStop => "instance_stop",
            Self::ParentEnded => "parent_ended",
            Self::StartTimeout => "start_timeout",
            Self::StartFailed => "start_failed",
            Self::Unhealthy => "unhealthy",
            Self::GuardianLost => "guardian_lost",
            Self::ReleaseRetry => "release_retry",
            Self::OwnerGone => "owner_gone",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why an input changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Ignored {
    /// It answers a question that is not open.
    #[error("not asked")]
    NotAsked,
    /// It repeats what is known.
    #[error("already so")]
    Already,
    /// The process is ending already, and the first cause stands.
    #[error("ending already")]
    Ending,
    /// It reports on a process, and there is none (or none yet).
    #[error("no process")]
    NoProcess,
    /// There is no deadline, or it has not passed.
    #[error("no deadline passed")]
    TooEarly,
    /// The incarnation is released.
    #[error("released")]
    Over,
}
