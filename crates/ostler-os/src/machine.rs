//! What this machine allows, looked at or tried out: the facts that `ostler doctor` judges by.
//!
//! Every fact comes from the mechanism itself where that can be tried without a trace (a subreaper,
//! a pidfd, a cgroup), and from what the kernel says of it elsewhere. A fact that can't be had is
//! an error of its own, and hides no other.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::libc;
use procfs::process::Process;
use rustix::io::Errno;
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use crate::cgroup::{CgroupUse, Site, Unusable};
use crate::limits::{self, ProcessLimits};
use crate::{identity, procfile};

/// The inode number of the first PID namespace of a machine (PROC_PID_INIT_INO in the kernel's
/// sources).
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// PIDFD_SIGNAL_PROCESS_GROUP of pidfd_send_signal(2), Linux 6.9.
const TO_GROUP: libc::c_uint = 1 << 2;

/// What was found. Times of a few milliseconds in all; nothing is left changed.
#[derive(Debug)]
pub struct Machine {
    /// The kernel's release, such as `6.8.0-45-generic` (`/proc/sys/kernel/osrelease`).
    pub kernel: Option<String>,
    /// Our effective user.
    pub uid: u32,
    /// Our own pid, in our PID namespace.
    pub pid: u32,
    /// What `/proc` shows.
    pub proc: io::Result<Proc>,
    /// Whether orphans can be had as children (PR_SET_CHILD_SUBREAPER).
    pub subreaper: io::Result<()>,
    /// Whether a process can be held and signalled by a descriptor (pidfd_open(2),
    /// pidfd_send_signal(2)).
    pub pidfd: io::Result<()>,
    /// Whether a whole process group can be (Linux 6.9). Ostler does without it.
    pub pidfd_group: io::Result<bool>,
    /// `vm.memfd_noexec`: 0 lets memory files be executed, 1 those that ask for it, 2 none. `None`
    /// before Linux 6.3.
    pub memfd_noexec: Option<u64>,
    /// Yama's `ptrace_scope`; `None` where there is no Yama.
    pub ptrace_scope: Option<u64>,
    /// Our own cgroup, in which workers can have theirs, or why not.
    pub cgroup: Result<PathBuf, Unusable>,
    /// Descriptors, soft and hard limit; `u64::MAX` is unlimited.
    pub descriptors: (u64, u64),
    /// The limits on processes.
    pub process_limits: ProcessLimits,
    /// How many processes and threads of our user there are now; 0 when `/proc` can't be read.
    pub user_processes: u64,
    /// How many processes and threads the system has now (`/proc/loadavg`).
    pub system_processes: Option<u64>,
}

/// What `/proc` shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proc {
    /// The inode number of our PID namespace.
    pub pid_namespace: u64,
    /// Whether that is the machine's first one.
    pub is_first_namespace: bool,
    /// The `hidepid` option of its mount, unless it hides nothing (proc(5)).
    pub hidepid: Option<String>,
}

impl Machine {
    /// Looks. Blocks for some milliseconds: a group is made in our cgroup and removed again. This
    /// process is a subreaper for a moment; don't call it while a child of it is losing its parent.
    pub fn examine(cgroups: CgroupUse) -> Self {
        let uid = rustix::process::geteuid().as_raw();
        Self {
            kernel: text_in("/proc/sys/kernel/osrelease"),
            uid,
            pid: std::process::id(),
            proc: proc(),
            subreaper: try_subreaper(),
            pidfd: try_pidfd(),
            pidfd_group: try_pidfd_group(),
            memfd_noexec: number_in("/proc/sys/vm/memfd_noexec"),
            ptrace_scope: number_in("/proc/sys/kernel/yama/ptrace_scope"),
            cgroup: Site::find(cgroups).map(|site| site.path().to_owned()),
            descriptors: limits::descriptors(),
            process_limits: limits::processes(),
            user_processes: processes_of(uid),
            system_processes: system_processes(),
        }
    }
}

fn proc() -> io::Result<Proc> {
    let here = identity::here()?;
    let us = i32::try_from(std::process::id()).unwrap_or(i32::MAX);
    procfile::stat(us)?.ok_or_else(|| io::Error::other("/proc does not show this process"))?;
    Ok(Proc {
        pid_namespace: here.pid_namespace,
        is_first_namespace: here.pid_namespace == FIRST_PID_NAMESPACE,
        hidepid: hidepid()?,
    })
}

/// The option of the last mount on /proc, which is the one that is seen.
pub(crate) fn hidepid() -> io::Result<Option<String>> {
    let mounts = Process::myself()
        .and_then(|us| us.mountinfo())
        .map_err(io::Error::other)?;
    let mount = mounts
        .0
        .into_iter()
        .rfind(|mount| mount.fs_type == "proc" && mount.mount_point == Path::new("/proc"));
    let option = mount.and_then(|mut mount| mount.super_options.remove("hidepid").flatten());
    Ok(option.filter(|value| value != "0" && value != "off"))
}

/// Whether we can be one; we are what we were afterwards.
fn try_subreaper() -> io::Result<()> {
    let before = rustix::process::child_subreaper()?;
    rustix::process::set_child_subreaper(Some(getpid()))?;
    let took = rustix::process::child_subreaper()?.is_some();
    rustix::process::set_child_subreaper(before)?;
    took.then_some(())
        .ok_or_else(|| io::Error::other("it was set, and is not"))
}

/// Signal 0 asks only whether a signal could be sent (kill(2)).
const NO_SIGNAL: i32 = 0;

fn try_pidfd() -> io::Result<()> {
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    identity::send_signal(own.as_fd(), NO_SIGNAL, 0)
}

fn try_pidfd_group() -> io::Result<bool> {
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    match identity::send_signal(own.as_fd(), NO_SIGNAL, TO_GROUP) {
        Ok(()) => Ok(true),
        Err(error) => match Errno::from_io_error(&error) {
            // We lead no group: the question was understood.
            Some(Errno::SRCH) => Ok(true),
            Some(Errno::INVAL) => Ok(false),
            _ => Err(error),
        },
    }
}

fn processes_of(uid: u32) -> u64 {
    let threads = |pid: i32| {
        let status = procfile::status(pid).ok().flatten()?;
        (status.uid == uid).then_some(procfile::stat(pid).ok().flatten()?.threads)
    };
    let pids = procfile::all_pids().unwrap_or_default();
    pids.into_iter().filter_map(threads).sum()
}

/// The fourth field of `/proc/loadavg` is `running/all`, threads counted.
fn system_processes() -> Option<u64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    let (_, all) = text.split_ascii_whitespace().nth(3)?.split_once('/')?;
    all.parse().ok()
}

/// Whether this program runs with more rights than the user who started it (set-uid, set-gid, file
/// capabilities; AT_SECURE of getauxval(3)). Then nothing in its environment may choose what it
/// executes or where it writes.
pub fn is_secure_execution() -> bool {
    // SAFETY: the call has no preconditions.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// A variable of this program's environment, if the user who chose its value may choose for this
/// program: not in [secure execution](is_secure_execution). Whatever names a path to be used, or a
/// place to search, is read with this.
pub fn trusted_variable(name: &str) -> Option<OsString> {
    variable(name, is_secure_execution())
}

fn variable(name: &str, is_secure_execution: bool) -> Option<OsString> {
    match is_secure_execution {
        true => None,
        false => env::var_os(name),
    }
}

fn number_in(path: &str) -> Option<u64> {
    text_in(path)?.parse().ok()
}

fn text_in(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_ignored_in_secure_execution() {
        // Cargo sets it for every test.
        assert!(variable("CARGO_MANIFEST_DIR", false).is_some());
        assert_eq!(variable("CARGO_MANIFEST_DIR", true), None);
        assert!(
            trusted_variable("CARGO_MANIFEST_DIR").is_some(),
            "this is an ordinary program"
        );
    }

    #[test]
    fn this_machine_can_be_examined_and_is_left_as_it_was() {
        let before = rustix::process::child_subreaper().expect("asked").is_some();
        let machine = Machine::examine(CgroupUse::Auto);
        assert_eq!(rustix::process::child_subreaper().expect("asked").is_some(), before);
        let proc = machine.proc.expect("these tests need /proc");
        assert_eq!(proc.pid_namespace, identity::here().expect("readable").pid_namespace);
        machine.subreaper.expect("these tests need a subreaper");
        machine.pidfd.expect("these tests need pidfds");
        machine.pidfd_group.expect("it is there or not");
        assert!(machine.user_processes >= 2, "this test has two threads at least");
        // Not compared with each other: they are read one after the other, while others come and
        // go.
        assert!(machine.system_processes >= Some(2));
        assert!(machine.descriptors.0 <= machine.descriptors.1);
    }
}
