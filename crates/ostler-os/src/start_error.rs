//! What a system's error means for the start of a worker: one table, by what was being done.
//!
//! execve(2), open(2), chdir(2), clone(2) and what prepares them fail for reasons that differ in
//! whose fault they are. The table gives each error its failure reason, which also decides whether
//! it is counted against the worker; docs/failure-reasons.md shows it, and a test compares both.

use std::io;

use nix::libc::{
    E2BIG, EACCES, EAGAIN, EDQUOT, EHOSTDOWN, EHOSTUNREACH, EINVAL, EIO, EISDIR, ELIBBAD, ELOOP, EMFILE, ENAMETOOLONG,
    ENFILE, ENOBUFS, ENOENT, ENOEXEC, ENOMEM, ENOSPC, ENOTCONN, ENOTDIR, EPERM, EREMOTEIO, ESTALE, ETIMEDOUT,
    ETOOMANYREFS, ETXTBSY,
};
use ostler_core::failure::Reason;

use crate::guardian::SpawnStep;

/// What was being done for a start when the system refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Running the program, or looking at it before (execve(2), stat(2), open(2)).
    Execute,
    /// Entering the working directory (chdir(2)), or looking at it before.
    EnterDirectory,
    /// Creating a process: the worker's, or its sitter's (clone(2)).
    CreateProcess,
    /// Setting the new process up: its pipes, descriptors, limits, session.
    SetUp,
    /// Passing the order on to the worker's sitter.
    Order,
    /// Making what the host has for the worker: pipes, sockets, files.
    Host,
}

use Action::{CreateProcess, EnterDirectory, Execute, Host, Order, SetUp};

const ANY: &[Action] = &[Execute, EnterDirectory, CreateProcess, SetUp, Order, Host];
const FILES: &[Action] = &[Execute, EnterDirectory];

impl Action {
    /// All actions, in the order of docs/failure-reasons.md.
    pub const ALL: [Self; 6] = [Execute, EnterDirectory, CreateProcess, SetUp, Order, Host];

    /// What guardian and sitter do at a step of a spawn.
    pub const fn of(step: SpawnStep) -> Self {
        match step {
            SpawnStep::Exec => Execute,
            SpawnStep::Directory => EnterDirectory,
            SpawnStep::SitterFork | SpawnStep::Fork => CreateProcess,
            SpawnStep::Slot | SpawnStep::Forward | SpawnStep::Parent => Order,
            SpawnStep::Receive | SpawnStep::SitterSocket | SpawnStep::Pipe => SetUp,
            SpawnStep::Session | SpawnStep::Spec | SpawnStep::Descriptors | SpawnStep::Limits => SetUp,
        }
    }

    /// Its name in docs/failure-reasons.md.
    pub const fn name(self) -> &'static str {
        match self {
            Execute => "program",
            EnterDirectory => "directory",
            CreateProcess => "clone",
            SetUp => "set-up",
            Order => "order",
            Host => "host",
        }
    }

    /// The reason for an error that has no row of its own.
    pub const fn otherwise(self) -> Reason {
        match self {
            Execute | EnterDirectory | CreateProcess | SetUp => Reason::ExecFailed,
            Order => Reason::GuardianLost,
            Host => Reason::StoreFailed,
        }
    }
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// During these actions.
    pub at: &'static [Action],
    /// The error's number.
    pub errno: i32,
    /// Its name, for example `ETXTBSY`.
    pub name: &'static str,
    /// The failure's reason.
    pub reason: Reason,
    /// What it means, for the failure's message.
    pub meaning: &'static str,
    /// What to do about it, where the reason's own suggestion doesn't fit.
    pub suggestion: Option<&'static str>,
}

macro_rules! rows {
    ($($at:expr, $errno:ident => $reason:ident, $meaning:literal $(, $suggestion:literal)?;)*) => {
        &[$(Row {
            at: $at,
            errno: $errno,
            name: stringify!($errno),
            reason: Reason::$reason,
            meaning: $meaning,
            suggestion: rows!(@suggestion $($suggestion)?),
        }),*]
    };
    (@suggestion) => { None };
    (@suggestion $suggestion:literal) => { Some($suggestion) };
}

/// The table. An action and an errno have at most one row.
pub const ROWS: &[Row] = rows! {
    // What the worker's specification or its files must be changed for.
    &[Execute], ENOENT => CommandNotFound, "it is gone, or its interpreter or loader is missing";
    &[Execute], ENOTDIR => CommandNotFound, "a part of its path is not a directory";
    &[Execute], EACCES => PermissionDenied, "it may not be executed by this user";
    &[Execute], EPERM => PermissionDenied, "a security rule forbids it",
        "run it by hand as the same user: a seccomp filter, no_new_privs or a security module forbids it";
    &[Execute], ENOEXEC => ExecFailed, "its format is not one that this machine runs",
        "build it for this machine; a script has to begin with the line of its interpreter, such as #!/bin/sh";
    &[Execute], ELIBBAD => ExecFailed, "its loader is damaged or built for another machine",
        "build it for this machine, or install its loader again";
    &[Execute], EISDIR => ExecFailed, "its loader is a directory",
        "build it for this machine, or install its loader again";
    &[Execute], EINVAL => ExecFailed, "its file is damaged: it names more than one loader", "build it again";
    &[Execute], E2BIG => ExecFailed, "command and environment together are too large",
        "shorten command and env: one string may have 128 KiB, and all together a quarter of the stack limit (ulimit -s)";
    &[Execute], ELOOP => ExecFailed, "its path has a loop of symbolic links, or its interpreters are nested too deep",
        "repair the symbolic links in the program's path, or the interpreter in its first line";
    &[Execute], ENAMETOOLONG => ExecFailed, "its path is too long",
        "shorten the first word of command: a path has at most 4095 bytes, each part of it 255";
    &[EnterDirectory], ENOENT => DirectoryMissing, "it does not exist";
    &[EnterDirectory], ENOTDIR => DirectoryMissing, "it, or a part of its path, is not a directory";
    &[EnterDirectory], ELOOP => DirectoryMissing, "its path has a loop of symbolic links",
        "repair the symbolic links in cwd";
    &[EnterDirectory], ENAMETOOLONG => DirectoryMissing, "its path is too long",
        "shorten cwd: a path has at most 4095 bytes, each part of it 255";
    &[EnterDirectory], EACCES => PermissionDenied, "this user may not enter it";
    &[EnterDirectory], EPERM => PermissionDenied, "a security rule forbids it";
    &[CreateProcess, SetUp], EACCES => PermissionDenied, "a security rule forbids it",
        "allow it in the seccomp filter or the security module under which Ostler runs";
    &[CreateProcess, SetUp], EPERM => PermissionDenied, "a security rule forbids it",
        "allow it in the seccomp filter or the security module under which Ostler runs";
    &[Order], EINVAL => ExecFailed, "the instance has too many workers", "run fewer workers in one instance";

    // What passes, and is not the worker's fault.
    &[Execute], ETXTBSY => ProgramBusy, "its file, or its interpreter's, is open for writing";
    FILES, EIO => FileSystemFailed, "its file system could not read it";
    FILES, ESTALE => FileSystemFailed, "it was replaced on the server of its network file system";
    FILES, ENOSPC => FileSystemFailed, "its file system is full", "free space on its file system";
    FILES, EDQUOT => FileSystemFailed, "the quota of its file system is used up", "free space, or raise the quota";
    FILES, ETIMEDOUT => FileSystemFailed, "the server of its network file system does not answer";
    FILES, EHOSTDOWN => FileSystemFailed, "the server of its network file system is down";
    FILES, EHOSTUNREACH => FileSystemFailed, "the server of its network file system can't be reached";
    FILES, EREMOTEIO => FileSystemFailed, "the server of its file system failed";
    FILES, ENOTCONN => FileSystemFailed, "its FUSE file system is not connected", "mount the file system again";
    &[Execute, EnterDirectory, CreateProcess, SetUp, Host], EAGAIN => ProcessLimit, "a limit on processes is reached";
    &[Order], EAGAIN => GuardianLost, "its sitter does not take orders";
    ANY, ENOMEM => OutOfMemory, "no memory is left";
    &[SetUp, Order, Host], ENOBUFS => OutOfMemory, "no memory is left for sockets";
    ANY, EMFILE => DescriptorLimit, "the process has no descriptor left";
    ANY, ENFILE => DescriptorLimit, "the system has no descriptor left";
    &[SetUp, Order, Host], ETOOMANYREFS => DescriptorLimit, "too many descriptors are on their way in sockets";
    &[Host], ENOSPC => StoreFailed, "the file system is full", "free space on the file system of the state directory";
    &[Host], EDQUOT => StoreFailed, "the quota is used up", "free space, or raise the quota";
};

/// What an error means for a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The failure's reason. It decides whether the failure is counted.
    pub reason: Reason,
    /// What it means, with the error as the system has it, for the failure's message.
    pub meaning: String,
    /// What to do about it.
    pub suggestion: &'static str,
}

/// Looks an error up in the table.
pub fn verdict(action: Action, errno: i32) -> Verdict {
    let error = io::Error::from_raw_os_error(errno).to_string();
    match ROWS.iter().find(|row| row.errno == errno && row.at.contains(&action)) {
        Some(row) => Verdict {
            reason: row.reason,
            meaning: format!("{} ({}: {})", row.meaning, row.name, without_number(&error)),
            suggestion: row.suggestion.unwrap_or(row.reason.suggestion()),
        },
        None => Verdict {
            reason: action.otherwise(),
            meaning: error,
            suggestion: action.otherwise().suggestion(),
        },
    }
}

/// An I/O error that was not made by the system has no errno; it counts as one without a row.
pub fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

/// std appends ` (os error 26)`.
fn without_number(error: &str) -> &str {
    error.split_once(" (os error").map_or(error, |(text, _)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_has_two_rows() {
        for action in Action::ALL {
            let mut errnos: Vec<i32> = ROWS
                .iter()
                .filter(|row| row.at.contains(&action))
                .map(|row| row.errno)
                .collect();
            let rows = errnos.len();
            errnos.sort_unstable();
            errnos.dedup();
            assert_eq!(errnos.len(), rows, "{action:?}");
        }
    }

    /// What a user sees for each error.
    #[test]
    fn what_passes_is_not_counted_and_no_error_is_taken_for_another() {
        for action in [Execute, EnterDirectory] {
            for errno in [ESTALE, EIO, EAGAIN, ENOMEM, EMFILE, ENFILE, EDQUOT, ENOSPC] {
                assert!(!verdict(action, errno).reason.is_counted(), "{action:?} {errno}");
            }
        }
        for action in [CreateProcess, SetUp, Order, Host] {
            for errno in [EAGAIN, ENOMEM, EMFILE, ENFILE] {
                assert!(!verdict(action, errno).reason.is_counted(), "{action:?} {errno}");
            }
        }
        assert!(!verdict(Execute, ETXTBSY).reason.is_counted());
        for errno in [ENOEXEC, E2BIG, ELOOP, ENAMETOOLONG, ELIBBAD] {
            let Verdict { reason, suggestion, .. } = verdict(Execute, errno);
            assert_eq!(reason, Reason::ExecFailed, "{errno}");
            assert!(reason.is_counted());
            assert_ne!(suggestion, reason.suggestion(), "{errno}");
        }
    }

    #[test]
    fn an_error_without_a_row_is_counted_unless_it_is_ours() {
        const UNKNOWN: i32 = 4000;
        for action in [Execute, EnterDirectory, CreateProcess, SetUp] {
            assert_eq!(verdict(action, UNKNOWN).reason, Reason::ExecFailed);
        }
        assert_eq!(verdict(Order, UNKNOWN).reason, Reason::GuardianLost);
        assert_eq!(verdict(Host, UNKNOWN).reason, Reason::StoreFailed);
        assert!(verdict(Execute, UNKNOWN).meaning.contains("4000"));
    }

    #[test]
    fn a_meaning_has_the_name_and_the_text_of_the_error() {
        let busy = verdict(Execute, ETXTBSY).meaning;
        assert_eq!(
            busy,
            "its file, or its interpreter's, is open for writing (ETXTBSY: Text file busy)"
        );
    }
}
