//! The inputs of an incarnation, and why some of them are ignored.

use super::Cause;
use crate::failure::{ExitStatus, Failure};

/// Something that happened to an incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The reservation is in the process table.
    Recorded,
    /// The reservation is not in the table, and will not be written.
    RecordFailed(Failure),
    /// exec has succeeded.
    Spawned,
    /// There is no process, and nothing holds a port: the program is missing, no port is available,
    /// or a limit of the machine was reached.
    SpawnFailed(Failure),
    /// The worker is ready.
    Ready,
    /// The worker can't become ready and must end: an unrelated process has its port, or readiness
    /// can't be watched.
    StartFailed(Failure),
    /// The worker failed its health probes or stopped its heartbeat, and must end.
    Unhealthy(Failure),
    /// A request to end the incarnation. Accepted in every state.
    Stop {
        /// The reason.
        cause: Cause,
        /// Whether to KILL at once, even if a stop with grace is under way.
        kill: bool,
    },
    /// The leader has exited, and its output is drained.
    Exited(ExitStatus),
    /// Nothing of the tree is left. May come before [`Input::Exited`].
    TreeGone,
    /// The slot's sitter was killed. The kernel killed the leader with it, and the guardian has
    /// killed and reaped the rest.
    SitterLost,
    /// The guardian is gone. The sitter ends the tree as `host_death` says and takes no orders. A
    /// spawn under way is still answered.
    GuardianLost,
    /// The guardian and all its sitters have ended. No further events come, and only the host is
    /// left to end the tree.
    SittersEnded,
    /// The host has killed what it found below the sitter: the answer to
    /// [`Effect::KillPastSitter`](super::Effect::KillPastSitter). The sitter reports the end.
    KilledPastSitter,
    /// What is left of a tree without a sitter: the answer to
    /// [`Effect::EndWithoutSitter`](super::Effect::EndWithoutSitter).
    EndedWithoutSitter(Rest),
    /// Every port can be bound again.
    PortsFree,
    /// A port can't be bound yet; the port and its holder.
    PortsHeld(String),
    /// The record is removed.
    Unrecorded,
    /// The record could not be removed, with the reason.
    UnrecordFailed(String),
    /// The processes that are left: the answer to
    /// [`Effect::NameHolders`](super::Effect::NameHolders).
    Held(String),
    /// The moment of [`Lifecycle::deadline`](super::Lifecycle::deadline) has passed.
    Deadline,
}

/// What is left of a tree that no sitter could end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rest {
    /// Nothing, which is proven.
    Gone,
    /// Nothing was found, but it is not proven that nothing is left, for this reason.
    Unseen(String),
    /// These processes are still alive.
    Left(String),
}

/// Why an input was ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Ignored {
    /// It answers a question that is not open.
    #[error("not asked")]
    NotAsked,
    /// It repeats something known.
    #[error("already so")]
    Already,
    /// The process is ending already, and the first cause stands.
    #[error("ending already")]
    Ending,
    /// It reports about a process, and there is none (yet).
    #[error("no process")]
    NoProcess,
    /// There is no deadline, or it has not passed yet.
    #[error("no deadline passed")]
    TooEarly,
    /// The incarnation is released.
    #[error("released")]
    Over,
}
