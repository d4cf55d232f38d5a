//! Typed exits of children, and the conversion of ractor's untyped exits to [`ExitReason`]s.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use ostler_core::exit::{ExitReason, Failure};
use ractor::{ActorId, ActorProcessingErr, SupervisionEvent};

/// A typed exit. Return it as the error of any callback (`Err(Exit::from(reason).into())`), and the
/// supervisor uses its reason. Returned from `pre_start`, it is the reason why the start failed.
///
/// Without it, a supervisor derives the reason from how the actor ended:
///
/// | the actor ended by | reason |
/// |---|---|
/// | `stop(None)` | `Normal` |
/// | `stop(Some("shutdown"))` | `Shutdown(None)` |
/// | `stop(Some(why))`, `why = "killed"` too; `drain()` is `"Drained"` | `Shutdown(Some(why))` |
/// | `kill()`, or its task was cancelled (the runtime shuts down) | `Killed` |
/// | an error or a panic in a callback | `Failed` |
#[derive(Debug, Clone, PartialEq)]
pub struct Exit {
    /// The exit reason.
    pub reason: ExitReason,
    /// Extension: false if the exit is not the child's fault, so that its restart does not count
    /// towards the intensity.
    pub counted: bool,
}

impl Exit {
    /// An exit whose restart is not counted (extension to OTP).
    pub fn uncounted(reason: ExitReason) -> Self {
        Exit { reason, counted: false }
    }

    /// Converts the error that an actor failed with.
    pub(crate) fn of_error(error: ActorProcessingErr) -> Self {
        match error.downcast::<Exit>() {
            Ok(exit) => *exit,
            Err(error) => ExitReason::Failed(Failure::new(error)).into(),
        }
    }
}

impl From<ExitReason> for Exit {
    /// A counted exit, as in OTP.
    fn from(reason: ExitReason) -> Self {
        Exit { reason, counted: true }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.reason, f)
    }
}

/// The source of the reason.
impl std::error::Error for Exit {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.reason.source()
    }
}

/// Returned as the error of `pre_start`, declines the start, which is not a failure (OTP's
/// `ignore`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ignore;

impl fmt::Display for Ignore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the actor declined to start")
    }
}

impl std::error::Error for Ignore {}

/// What is known about an actor's end in addition to ractor's event: whether it stopped normally.
///
/// ractor reports a kill with the string `"killed"`, which a user's `stop(Some("killed"))` produces
/// as well. Only the latter reaches `post_stop`.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    stopped: AtomicBool,
}

impl Probe {
    pub(crate) fn note_orderly_stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    pub(crate) fn stopped_orderly(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

/// The reason that ractor reports for a kill.
const KILLED: &str = "killed";
/// The reason that ractor reports for an actor whose task was dropped.
const TASK_CANCELLED: &str = "actor_task_cancelled";
/// The reason with which supervisors stop their children: OTP's `shutdown`.
pub(crate) const SHUTDOWN: &str = "shutdown";

/// How an actor ended according to ractor's event, without the actor's state.
#[derive(Debug)]
pub(crate) enum Ending {
    Terminated {
        reason: Option<String>,
        state_was_back: bool,
    },
    Failed(ActorProcessingErr),
}

impl Ending {
    /// Reads the event of a child that ended; `None` for any other event. Drops the event, and with
    /// it the child's state.
    pub(crate) fn read(event: SupervisionEvent) -> Option<(ActorId, Ending)> {
        match event {
            SupervisionEvent::ActorTerminated(cell, state, reason) => {
                let state_was_back = state.is_some();
                drop_guarded(state);
                Some((cell.get_id(), Ending::Terminated { reason, state_was_back }))
            }
            SupervisionEvent::ActorFailed(cell, error) => Some((cell.get_id(), Ending::Failed(error))),
            _ => None,
        }
    }

    pub(crate) fn exit(self, probe: Option<&Probe>) -> Exit {
        match self {
            Ending::Failed(error) => Exit::of_error(error),
            Ending::Terminated { reason, state_was_back } => {
                // A kill during post_stop loses the state; any other kill does not reach post_stop.
                let orderly = state_was_back && probe.is_some_and(Probe::stopped_orderly);
                of_termination(reason, orderly).into()
            }
        }
    }
}

fn of_termination(reason: Option<String>, orderly: bool) -> ExitReason {
    match reason {
        None => ExitReason::Normal,
        Some(reason) if !orderly && (reason == KILLED || reason == TASK_CANCELLED) => ExitReason::Killed,
        Some(reason) if reason == SHUTDOWN => ExitReason::SHUTDOWN,
        Some(reason) => ExitReason::Shutdown(Some(reason)),
    }
}

/// The child's state is part of ractor's event. A panic in its `Drop` is the child's and must not
/// end the supervisor.
fn drop_guarded<T>(state: T) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(state))).is_err() {
        tracing::warn!("dropping the state of a child panicked");
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::io;

    use ostler_core::chain::{chain, repeats_its_source};
    use ostler_core::supervision::StartChildError;

    use super::*;
    use crate::SupervisorError;

    #[test]
    fn an_exit_keeps_the_causes_of_its_failure() {
        let failure = SupervisorError::Spawn(Failure::new(io::Error::other("no memory")));
        let exit = Exit::from(ExitReason::Failed(Failure::new(failure)));
        assert_eq!(chain(&exit), "failed: the supervisor's actor did not start: no memory");
        assert!(exit.source().is_some() && !repeats_its_source(&exit), "{exit:?}");
        let outer = StartChildError::Failed(exit.reason);
        assert!(outer.source().is_some() && !repeats_its_source(&outer), "{outer:?}");
    }
}
