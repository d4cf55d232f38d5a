//! Why a worker failed: a reason that machines compare, a message that says what happened, a suggestion that says
//! what to do. The reasons' names are fixed; people and checks outside the project rely on them.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::signal::Signal;

/// Why a worker failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Somebody else holds the port; the failure names the holder.
    PortInUse,
    /// The program is not in the PATH of the worker's environment, or its interpreter is missing.
    CommandNotFound,
    /// The working directory is missing.
    DirectoryMissing,
    /// The program or the directory may not be used by this user.
    PermissionDenied,
    /// It ended before it was ready, whatever its status.
    ExitedBeforeReady,
    /// It ended before `min_uptime`.
    ExitedEarly,
    /// It was not ready within `start_timeout`.
    ReadyTimeout,
    /// It failed so many health probes in a row.
    HealthCheckFailed,
    /// It was silent for longer than `watchdog`.
    HeartbeatLost,
    /// The kernel refused another process (EAGAIN).
    ProcessLimit,
    /// No descriptor was left (EMFILE, ENFILE).
    DescriptorLimit,
    /// The kernel had no memory for another process.
    OutOfMemory,
    /// The kernel's out-of-memory killer ended it.
    OomKilled,
    /// A signal that was not ours ended it.
    Killed,
    /// It ended by itself, with a status that is not success.
    Exited,
    /// What it held was not released in time; the failure names the holders.
    ReleaseTimeout,
    /// The guardian died, and took the worker with it. Nobody's fault, not counted.
    GuardianLost,
    /// The process table could not be written.
    StoreFailed,
}

impl Reason {
    /// Every reason, in the order of the docs.
    pub const ALL: [Self; 18] = [
        Self::PortInUse,
        Self::CommandNotFound,
        Self::DirectoryMissing,
        Self::PermissionDenied,
        Self::ExitedBeforeReady,
        Self::ExitedEarly,
        Self::ReadyTimeout,
        Self::HealthCheckFailed,
        Self::HeartbeatLost,
        Self::ProcessLimit,
        Self::DescriptorLimit,
        Self::OutOfMemory,
        Self::OomKilled,
        Self::Killed,
        Self::Exited,
        Self::ReleaseTimeout,
        Self::GuardianLost,
        Self::StoreFailed,
    ];

    /// The reason's name in events, such as `port_in_use`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PortInUse => "port_in_use",
            Self::CommandNotFound => "command_not_found",
            Self::DirectoryMissing => "directory_missing",
            Self::PermissionDenied => "permission_denied",
            Self::ExitedBeforeReady => "exited_before_ready",
            Self::ExitedEarly => "exited_early",
            Self::ReadyTimeout => "ready_timeout",
            Self::HealthCheckFailed => "health_check_failed",
            Self::HeartbeatLost => "heartbeat_lost",
            Self::ProcessLimit => "process_limit",
            Self::DescriptorLimit => "descriptor_limit",
            Self::OutOfMemory => "out_of_memory",
            Self::OomKilled => "oom_killed",
            Self::Killed => "killed",
            Self::Exited => "exited",
            Self::ReleaseTimeout => "release_timeout",
            Self::GuardianLost => "guardian_lost",
            Self::StoreFailed => "store_failed",
        }
    }

    /// What to do about it, when nothing more precise is known.
    pub const fn suggestion(self) -> &'static str {
        match self {
            Self::PortInUse => "stop the holder, or give the pool another port, a range, or port = \"any\"",
            Self::CommandNotFound => {
                "check the first word of command, and the PATH of the worker's environment; a script also needs the interpreter of its first line"
            }
            Self::DirectoryMissing => "create the directory, or correct cwd; it is relative to the file that names it",
            Self::PermissionDenied => {
                "make the program executable, and readable and reachable for the user that runs Ostler"
            }
            Self::ExitedBeforeReady => {
                "read its last lines on stderr; run the command by hand in the same directory and environment"
            }
            Self::ExitedEarly => "read its last lines on stderr; lower min_uptime if so short a life is right for it",
            Self::ReadyTimeout => {
                "raise start_timeout if it is slow by nature; otherwise check that ready asks what the worker offers"
            }
            Self::HealthCheckFailed => {
                "look at what the worker was doing; raise health.timeout or health.misses if it was merely busy"
            }
            Self::HeartbeatLost => "look at what the worker was doing; raise watchdog, or send WATCHDOG=1 more often",
            Self::ProcessLimit => {
                "raise the limit on processes (ulimit -u, TasksMax, pids.max), or run fewer workers or fewer threads in each"
            }
            Self::DescriptorLimit => {
                "raise the limit on open files (ulimit -n, LimitNOFILE); Ostler needs about three a worker"
            }
            Self::OutOfMemory => "free memory, or run fewer workers",
            Self::OomKilled => "raise the memory limit, or find out why the worker grows",
            Self::Killed => {
                "find out who sent the signal: it was not Ostler; the kernel's log tells of an out-of-memory kill"
            }
            Self::Exited => "read its last lines on stderr",
            Self::ReleaseTimeout => {
                "end the holder that is named, or raise release_timeout; Ostler goes on waiting and starts nothing in its place"
            }
            Self::GuardianLost => {
                "nothing: the workers are restarted; find out who killed the guardian if it happens again"
            }
            Self::StoreFailed => "check space and permissions of the state directory",
        }
    }

    /// A limit of the machine, not a fault of the worker: retried with a pause of its own and never counted.
    pub const fn is_machine_limit(self) -> bool {
        matches!(self, Self::ProcessLimit | Self::DescriptorLimit | Self::OutOfMemory)
    }

    /// Whether a failure for this reason counts against the slot's intensity.
    pub const fn is_counted(self) -> bool {
        !self.is_machine_limit() && !matches!(self, Self::GuardianLost)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a process ended, as wait(2) tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ExitStatus {
    /// By exit with this status.
    Code(i32),
    /// By this signal.
    Signal(Signal),
}

impl ExitStatus {
    /// Exit with status 0.
    pub const fn success(self) -> bool {
        matches!(self, Self::Code(0))
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// One failure of one worker, with all that is known of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Failure {
    /// Why.
    pub reason: Reason,
    /// What happened, with paths, ports, pids.
    pub message: String,
    /// What to do about it.
    pub suggestion: String,
    /// How the process ended, where it did.
    pub status: Option<ExitStatus>,
    /// The last lines of its stderr, oldest first.
    pub stderr_tail: Vec<String>,
    /// Who holds what could not be had.
    pub holder: Option<String>,
}

impl Failure {
    /// A failure with the suggestion that belongs to its reason.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            suggestion: reason.suggestion().to_owned(),
            status: None,
            stderr_tail: Vec::new(),
            holder: None,
        }
    }

    /// The same with a suggestion that knows more.
    #[must_use]
    pub fn with_suggestion(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = suggestion.into();
        self
    }

    /// The same with its holder.
    #[must_use]
    pub fn with_holder(mut self, holder: impl Into<String>) -> Self {
        self.holder = Some(holder.into());
        self
    }

    /// The same with the process's end.
    #[must_use]
    pub const fn with_status(mut self, status: ExitStatus) -> Self {
        self.status = Some(status);
        self
    }
}

/// What an exit that nobody asked for means: `None` when it is a normal end, else the failure.
///
/// `uptime` is the time since the spawn, `was_ready` whether the worker had become ready. An exit before ready is a
/// failure whatever its status, as is one before `min_uptime`.
pub fn judge_exit(status: ExitStatus, was_ready: bool, uptime: Duration, min_uptime: Duration) -> Option<Failure> {
    let after = format!("{:.3} s after its start", uptime.as_secs_f64());
    let failure = match status {
        _ if !was_ready => Failure::new(
            Reason::ExitedBeforeReady,
            format!("it ended with {status} before it was ready, {after}"),
        ),
        _ if uptime < min_uptime => Failure::new(
            Reason::ExitedEarly,
            format!(
                "it ended with {status} {after}, before min_uptime ({:.3} s)",
                min_uptime.as_secs_f64()
            ),
        ),
        ExitStatus::Code(0) => return None,
        ExitStatus::Code(_) => Failure::new(Reason::Exited, format!("it ended with {status} {after}")),
        ExitStatus::Signal(_) => Failure::new(
            Reason::Killed,
            format!("it was ended by {status} {after}, which Ostler did not send"),
        ),
    };
    Some(failure.with_status(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn names_are_the_serialised_ones_and_all_differ() {
        let names: std::collections::HashSet<_> = Reason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        assert!(Reason::ALL.iter().all(|r| !r.suggestion().is_empty()));
    }

    #[test]
    fn an_exit_before_ready_fails_whatever_its_status() {
        let judge = |status, ready| judge_exit(status, ready, SECOND, Duration::ZERO).map(|f| f.reason);
        assert_eq!(judge(ExitStatus::Code(0), false), Some(Reason::ExitedBeforeReady));
        assert_eq!(judge(ExitStatus::Code(0), true), None);
        assert_eq!(judge(ExitStatus::Code(3), true), Some(Reason::Exited));
        assert_eq!(judge(ExitStatus::Signal(Signal::KILL), true), Some(Reason::Killed));
    }

    #[test]
    fn an_exit_before_min_uptime_is_early() {
        let judge = |uptime| judge_exit(ExitStatus::Code(0), true, uptime, SECOND).map(|f| f.reason);
        assert_eq!(judge(SECOND / 2), Some(Reason::ExitedEarly));
        assert_eq!(judge(SECOND), None);
    }
}
