//! The fields of an event besides its subject.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use ostler_core::failure::{ExitStatus, Failure, Reason};
use ostler_core::lifecycle::Cause;
use ostler_core::signal::Signal;

/// What contains a worker's process tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Containment {
    /// Its sitter, a subreaper: it finds processes by their descent, and by the marker in their
    /// environment.
    Sitter,
    /// A cgroup of its own, which no process leaves.
    Cgroup,
}

impl Containment {
    /// Its name in events: `sitter` or `cgroup`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sitter => "sitter",
            Self::Cgroup => "cgroup",
        }
    }
}

impl fmt::Display for Containment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The fields of an event besides its subject.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Facts {
    /// The process id.
    pub pid: Option<u32>,
    /// The port of a worker with one port.
    pub port: Option<u16>,
    /// The ports of a worker with named ports.
    pub ports: BTreeMap<String, u16>,
    /// The path of the Unix socket of a worker with one.
    pub socket: Option<String>,
    /// The paths of the Unix sockets of a worker with named ones.
    pub sockets: BTreeMap<String, String>,
    /// What contains the worker's process tree.
    pub containment: Option<Containment>,
    /// Why the incarnation failed.
    pub reason: Option<Reason>,
    /// What happened, in one sentence.
    pub message: Option<String>,
    /// What to do about it.
    pub suggestion: Option<String>,
    /// How the process ended: `status` or `signal` in the JSON.
    pub exit: Option<ExitStatus>,
    /// The signal that was sent. Also `signal` in the JSON; an event never has both.
    pub signal: Option<Signal>,
    /// What caused it, for example a stop of the pool.
    pub cause: Option<Cause>,
    /// The last lines of stderr, oldest first.
    pub stderr_tail: Vec<String>,
    /// The process that holds the port or other resource.
    pub holder: Option<String>,
    /// A count; its meaning depends on the kind.
    pub count: Option<u64>,
    /// The processes found, one text each.
    pub orphans: Vec<String>,
    /// The number of this consecutive restart.
    pub attempt: Option<u32>,
    /// The delay before the restart.
    pub delay: Option<Duration>,
    /// The time since the incarnation's previous state.
    pub elapsed: Option<Duration>,
}

macro_rules! setters {
    ($($name:ident: $field:ident, $type:ty;)*) => {
        $(
            #[doc = concat!("Sets `", stringify!($field), "`.")]
            #[must_use]
            pub fn $name(mut self, value: impl Into<$type>) -> Self {
                self.$field = value.into();
                self
            }
        )*
    };
}

impl Facts {
    setters! {
        with_pid: pid, Option<u32>;
        with_port: port, Option<u16>;
        with_containment: containment, Option<Containment>;
        with_reason: reason, Option<Reason>;
        with_message: message, Option<String>;
        with_exit: exit, Option<ExitStatus>;
        with_signal: signal, Option<Signal>;
        with_cause: cause, Option<Cause>;
        with_count: count, Option<u64>;
        with_orphans: orphans, Vec<String>;
        with_attempt: attempt, Option<u32>;
        with_delay: delay, Option<Duration>;
        with_elapsed: elapsed, Option<Duration>;
    }

    /// The fields of a failure.
    pub fn of_failure(failure: &Failure) -> Self {
        Self {
            reason: Some(failure.reason),
            message: Some(failure.message.clone()),
            suggestion: Some(failure.suggestion.clone()),
            exit: failure.status,
            stderr_tail: failure.stderr_tail.clone(),
            holder: failure.holder.clone(),
            ..Self::default()
        }
    }
}
