//! Why a worker failed: a reason for machines to match on, a message that says what happened, and a
//! suggestion that says what to do.
//!
//! Reason names are stable: users' dashboards and scripts match on them.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::signal::Signal;

/// Why a worker failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// Another process holds the port; the failure names the holder.
    PortInUse,
    /// The program is not in the `PATH` of the worker's environment, or its interpreter is missing.
    CommandNotFound,
    /// The working directory does not exist, is no directory, or its path can't be resolved.
    DirectoryMissing,
    /// The user lacks permission for the program or the directory.
    PermissionDenied,
    /// The kernel can't run the program for another reason: its format, too large a command and
    /// environment, a path with a loop of links. The message names the system's error.
    ExecFailed,
    /// The program's file is open for writing (ETXTBSY), as while it is being deployed.
    ProgramBusy,
    /// The file system of the program or of the working directory failed (EIO, ESTALE and the
    /// like).
    FileSystemFailed,
    /// The process exited before it became ready, with any status.
    ExitedBeforeReady,
    /// The process exited before `min_uptime`.
    ExitedEarly,
    /// The worker did not become ready within `start_timeout`.
    ReadyTimeout,
    /// `health.misses` health probes failed in a row.
    HealthCheckFailed,
    /// No heartbeat arrived within `watchdog`.
    HeartbeatLost,
    /// The kernel refused to create another process (EAGAIN).
    ProcessLimit,
    /// No file descriptor was left (EMFILE, ENFILE).
    DescriptorLimit,
    /// The kernel had no memory for another process (ENOMEM).
    OutOfMemory,
    /// The kernel's out-of-memory killer killed the process.
    OomKilled,
    /// A signal that Ostler did not send ended the process.
    Killed,
    /// The process exited on its own with a non-zero status.
    Exited,
    /// The worker's resources were not released within `release_timeout`; the failure names the
    /// holders.
    ReleaseTimeout,
    /// The guardian died and its workers were ended with it. Not the worker's fault, so not
    /// counted.
    GuardianLost,
    /// The process table could not be written, or a path by which the worker reports or serves was
    /// removed while it ran.
    StoreFailed,
}

impl Reason {
    /// All reasons, in the order of docs/failure-reasons.md.
    pub const ALL: [Self; 21] = [
        Self::PortInUse,
        Self::CommandNotFound,
        Self::DirectoryMissing,
        Self::PermissionDenied,
        Self::ExecFailed,
        Self::ProgramBusy,
        Self::FileSystemFailed,
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

    /// The reason's name in events, for example `port_in_use`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PortInUse => "port_in_use",
            Self::CommandNotFound => "command_not_found",
            Self::DirectoryMissing => "directory_missing",
            Self::PermissionDenied => "permission_denied",
            Self::ExecFailed => "exec_failed",
            Self::ProgramBusy => "program_busy",
            Self::FileSystemFailed => "file_system_failed",
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

    /// What to do about it, unless the failure has a more specific suggestion.
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
            Self::ExecFailed => "run the command by hand in the same directory and environment",
            Self::ProgramBusy => {
                "no action needed, the start is repeated until the file is no longer written; deploy by renaming a new file over the old one"
            }
            Self::FileSystemFailed => {
                "no action needed if it passes, the start is repeated; otherwise check the file system and its mount"
            }
            Self::ExitedBeforeReady => {
                "read its last lines on stderr; run the command by hand in the same directory and environment"
            }
            Self::ExitedEarly => {
                "read its last lines on stderr; lower min_uptime if the worker is expected to finish that quickly"
            }
            Self::ReadyTimeout => {
                "raise start_timeout if the worker is slow to start; otherwise check that ready probes something the worker provides"
            }
            Self::HealthCheckFailed => {
                "check what the worker was doing; raise health.timeout or health.misses if it was only busy"
            }
            Self::HeartbeatLost => "check what the worker was doing; raise watchdog, or send WATCHDOG=1 more often",
            Self::ProcessLimit => {
                "raise the limit on processes (ulimit -u, TasksMax, pids.max), or run fewer workers or fewer threads in each"
            }
            Self::DescriptorLimit => {
                "raise the limit on open files (ulimit -n, LimitNOFILE); Ostler needs about five per worker"
            }
            Self::OutOfMemory => "free memory, or run fewer workers",
            Self::OomKilled => "raise the memory limit, or find out why the worker grows",
            Self::Killed => "find out who sent the signal: it was not Ostler; the kernel log shows out-of-memory kills",
            Self::Exited => "read its last lines on stderr",
            Self::ReleaseTimeout => {
                "end the named holder, or raise release_timeout; until then Ostler starts no replacement"
            }
            Self::GuardianLost => {
                "no action needed, the workers are restarted; if it happens again, find out what killed the guardian"
            }
            Self::StoreFailed => "check the free space and permissions of the state directory",
        }
    }

    /// Whether the reason is a limit of the machine and not a fault of the worker. Such starts are
    /// retried after a delay of their own and are never counted.
    pub const fn is_machine_limit(self) -> bool {
        matches!(self, Self::ProcessLimit | Self::DescriptorLimit | Self::OutOfMemory)
    }

    /// Whether a failure with this reason counts towards the slot's restart intensity. What is not
    /// the worker's fault does not: the machine's limits, a program that is being written, a file
    /// system that fails, the guardian's death, a store that stalls, a path that was removed.
    pub const fn is_counted(self) -> bool {
        let passing = matches!(self, Self::ProgramBusy | Self::FileSystemFailed);
        !self.is_machine_limit() && !passing && !matches!(self, Self::GuardianLost | Self::StoreFailed)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a process ended, as reported by wait(2) and its memory cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ExitStatus {
    /// Exited with this status.
    Code(i32),
    /// Killed by this signal.
    Signal(Signal),
    /// Killed by the kernel's out-of-memory killer, with SIGKILL.
    OomKilled,
}

impl ExitStatus {
    /// Whether the process exited with status 0.
    pub const fn success(self) -> bool {
        matches!(self, Self::Code(0))
    }

    /// The status that the process exited with, unless a signal ended it.
    pub const fn code(self) -> Option<i32> {
        match self {
            Self::Code(code) => Some(code),
            Self::Signal(_) | Self::OomKilled => None,
        }
    }

    /// The signal that ended the process.
    pub const fn signal(self) -> Option<Signal> {
        match self {
            Self::Code(_) => None,
            Self::Signal(signal) => Some(signal),
            Self::OomKilled => Some(Signal::KILL),
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::OomKilled => write!(f, "signal {} of the kernel's out-of-memory killer", Signal::KILL),
        }
    }
}

/// One failure of one worker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
#[non_exhaustive]
pub struct Failure {
    /// The reason.
    pub reason: Reason,
    /// What happened, with paths, ports and pids.
    pub message: String,
    /// What to do about it.
    pub suggestion: String,
    /// How the process ended, if it did.
    pub status: Option<ExitStatus>,
    /// The last lines of stderr, oldest first.
    pub stderr_tail: Vec<String>,
    /// The process that holds the port or other resource.
    pub holder: Option<String>,
}

impl Failure {
    /// Creates a failure with the default suggestion for `reason`.
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

    /// Replaces the suggestion with a more specific one.
    #[must_use]
    pub fn with_suggestion(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = suggestion.into();
        self
    }

    /// Sets the holder.
    #[must_use]
    pub fn with_holder(mut self, holder: impl Into<String>) -> Self {
        self.holder = Some(holder.into());
        self
    }

    /// Sets the exit status of the process.
    #[must_use]
    pub const fn with_status(mut self, status: ExitStatus) -> Self {
        self.status = Some(status);
        self
    }
}

/// Judges an exit that Ostler did not request: returns `None` for a normal exit, otherwise the
/// failure.
///
/// `uptime` is the time since the spawn; `starting` says whether the worker had yet to show that it
/// is ready. Such an exit, or one before `min_uptime`, is a failure even with status 0. An
/// out-of-memory kill keeps its own reason whenever it comes, because the other reasons would hide
/// what to do.
pub fn judge_exit(status: ExitStatus, starting: bool, uptime: Duration, min_uptime: Duration) -> Option<Failure> {
    let after = format!("{:.3} s after its start", uptime.as_secs_f64());
    let failure = match status {
        ExitStatus::OomKilled => {
            let when = if starting { " before it became ready," } else { "" };
            Failure::new(Reason::OomKilled, format!("it was killed by {status}{when} {after}"))
        }
        _ if starting => Failure::new(
            Reason::ExitedBeforeReady,
            format!("it ended with {status} before it became ready, {after}"),
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
            format!("it was killed by {status} {after}, which Ostler did not send"),
        ),
    };
    Some(failure.with_status(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn reason_names_are_unique() {
        let names: std::collections::HashSet<_> = Reason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        assert!(Reason::ALL.iter().all(|r| !r.suggestion().is_empty()));
    }

    #[test]
    fn exit_before_ready_fails_with_any_status() {
        let judge = |status, starting| judge_exit(status, starting, SECOND, Duration::ZERO).map(|f| f.reason);
        assert_eq!(judge(ExitStatus::Code(0), true), Some(Reason::ExitedBeforeReady));
        assert_eq!(judge(ExitStatus::Code(0), false), None);
        assert_eq!(judge(ExitStatus::Code(3), false), Some(Reason::Exited));
        assert_eq!(judge(ExitStatus::Signal(Signal::KILL), false), Some(Reason::Killed));
    }

    #[test]
    fn out_of_memory_kill_keeps_its_reason() {
        for (starting, min_uptime) in [(false, Duration::ZERO), (false, SECOND * 2), (true, Duration::ZERO)] {
            let failure = judge_exit(ExitStatus::OomKilled, starting, SECOND, min_uptime).expect("a failure");
            assert_eq!(failure.reason, Reason::OomKilled);
            assert_eq!(failure.status.and_then(ExitStatus::signal), Some(Signal::KILL));
            assert_eq!(failure.message.contains("before it became ready"), starting);
        }
    }

    #[test]
    fn exit_before_min_uptime_is_early() {
        let judge = |uptime| judge_exit(ExitStatus::Code(0), false, uptime, SECOND).map(|f| f.reason);
        assert_eq!(judge(SECOND / 2), Some(Reason::ExitedEarly));
        assert_eq!(judge(SECOND), None);
    }
}
