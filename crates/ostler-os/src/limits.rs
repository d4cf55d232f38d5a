//! The limits that matter to a host of many workers: descriptors, processes and memory. Reads them,
//! and raises the one that can be raised.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use procfs::ProcessCGroup;
use procfs::process::{MountInfo, Process};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that the host needs per worker: its two pipes, its cgroup, the pidfd by which its
/// process is watched, and a notify socket or a listener. `tests/tests/descriptors.rs` measures it.
pub const DESCRIPTORS_PER_WORKER: u64 = 5;

/// Processes that a worker needs at least: itself and its sitter.
pub const PROCESSES_PER_WORKER: u64 = 2;

/// The limits on descriptors before they were raised.
static ORIGINAL: Mutex<Option<(u64, u64)>> = Mutex::new(None);

/// This process's limits on open descriptors, soft and hard (RLIMIT_NOFILE, getrlimit(2)).
/// Unlimited is `u64::MAX`.
pub fn descriptors() -> (u64, u64) {
    pair(getrlimit(Resource::Nofile))
}

/// The limits on descriptors, soft and hard, before the first [`raise_descriptors`]; `None` if it
/// was never called. Workers get these limits, because a program that uses select(2) breaks above
/// 1,024.
pub fn original_descriptors() -> Option<(u64, u64)> {
    *ORIGINAL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Raises the soft limit on descriptors to the hard limit, and returns the limits now in effect.
/// Affects the whole process, can be called repeatedly, and needs no privilege.
///
/// # Errors
///
/// The error of setrlimit(2). The limits are unchanged then, and nothing is remembered.
pub fn raise_descriptors() -> io::Result<(u64, u64)> {
    let mut original = ORIGINAL.lock().unwrap_or_else(PoisonError::into_inner);
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: before.maximum,
        ..before
    };
    if before.current != before.maximum {
        setrlimit(Resource::Nofile, raised)?;
    }
    original.get_or_insert(pair(before));
    Ok(pair(raised))
}

/// How many descriptors a host has open besides those of its workers, about.
const OTHER_DESCRIPTORS: u64 = 64;

/// Makes room for the descriptors of a host with so many workers: see [`reserve_descriptors`].
///
/// # Errors
///
/// As [`reserve_descriptors`].
pub fn reserve_for_workers(workers: u64) -> io::Result<()> {
    let count = workers.saturating_mul(DESCRIPTORS_PER_WORKER);
    reserve_descriptors(count.saturating_add(OTHER_DESCRIPTORS))
}

/// Makes room for `count` descriptors in this process's table, at most as many as the soft limit
/// allows. Zero does nothing.
///
/// The kernel doubles a full table. In a process with threads it then waits for an RCU grace
/// period, some 10 to 20 ms, in whichever thread opens a file: eight times until there are a
/// thousand workers. Called while the process has one thread it waits for nothing, otherwise once,
/// in the calling thread.
///
/// # Errors
///
/// When the process has no descriptor left, or the kernel no memory.
pub fn reserve_descriptors(count: u64) -> io::Result<()> {
    let (soft, _) = descriptors();
    let highest = i32::try_from(count.min(soft)).unwrap_or(i32::MAX) - 1;
    if highest >= 0 {
        let any = eventfd(0, EventfdFlags::CLOEXEC)?;
        fcntl_dupfd_cloexec(&any, highest)?;
    }
    Ok(())
}

/// The stack of a thread that [`try_threads`] creates.
const TRIED_STACK: usize = 64 * 1024;

/// Creates `count` threads that live at the same time, and ends them: what a program with libraries
/// that abort or hang without their threads does before it uses them. Takes about 20 µs for each.
///
/// # Errors
///
/// That of the first thread that can't be created, usually EAGAIN: a limit on processes or threads
/// is reached (clone(2)).
pub fn try_threads(count: usize) -> io::Result<()> {
    let gate = Mutex::new(());
    thread::scope(|scope| {
        let closed = gate.lock();
        let thread = || {
            let thread = thread::Builder::new().stack_size(TRIED_STACK);
            thread.spawn_scoped(scope, || drop(gate.lock()))
        };
        let mut started = Vec::new();
        let outcome = (0..count).try_for_each(|_| {
            started.push(thread()?);
            Ok(())
        });
        drop(closed);
        // The scope waits for what they do, and this for their ends: until then they count.
        started.into_iter().for_each(|thread| drop(thread.join()));
        outcome
    })
}

fn pair(limit: Rlimit) -> (u64, u64) {
    (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX))
}

/// The limits on processes, for the message of a `process_limit`, because the kernel's EAGAIN does
/// not say which limit was reached. Threads count as processes in all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessLimits {
    /// Processes of this user (RLIMIT_NPROC, soft). `None` is unlimited. Does not apply to root.
    pub user: Option<u64>,
    /// Processes of the whole system (/proc/sys/kernel/threads-max).
    pub threads_max: Option<u64>,
    /// The number of available pids (/proc/sys/kernel/pid_max).
    pub pid_max: Option<u64>,
    /// The lowest `pids.max` of this process's cgroup and its visible ancestors.
    pub cgroup: Option<GroupLimit>,
}

/// A cgroup's limit on processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupLimit {
    /// The group's directory.
    pub path: PathBuf,
    /// Its `pids.max`.
    pub max: u64,
    /// Its `pids.current`: the number of processes at the time of reading.
    pub current: u64,
}

/// Reads the limits on processes. Takes a few small reads from /proc and the cgroup file system;
/// for error messages and diagnosis, not for the hot path. Values that cannot be read are left out.
pub fn processes() -> ProcessLimits {
    ProcessLimits {
        user: getrlimit(Resource::Nproc).current,
        threads_max: read_number(Path::new("/proc/sys/kernel/threads-max")),
        pid_max: read_number(Path::new("/proc/sys/kernel/pid_max")),
        cgroup: narrowest_group(),
    }
}

impl fmt::Display for ProcessLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.user {
            Some(user) => write!(f, "user {user}")?,
            None => f.write_str("user unlimited")?,
        }
        if let Some(group) = &self.cgroup {
            write!(
                f,
                ", cgroup {} of {} ({})",
                group.current,
                group.max,
                group.path.display()
            )?;
        }
        if let Some(threads) = self.threads_max {
            write!(f, ", system {threads}")?;
        }
        match self.pid_max {
            Some(ids) => write!(f, ", ids {ids}"),
            None => Ok(()),
        }
    }
}

fn narrowest_group() -> Option<GroupLimit> {
    let myself = Process::myself().ok()?;
    let mounts = myself.mountinfo().ok()?.0;
    let groups = myself.cgroups().ok()?.0;
    let (mount, directory) = groups.iter().find_map(|group| group_directory(group, &mounts))?;
    directory
        .ancestors()
        .take_while(|path| path.starts_with(&mount))
        .filter_map(group_limit)
        .min_by_key(|limit| limit.max)
}

/// The mount point and directory of the group in the hierarchy that counts processes: v1's `pids`,
/// or v2.
fn group_directory(group: &ProcessCGroup, mounts: &[MountInfo]) -> Option<(PathBuf, PathBuf)> {
    let version_1 = group.controllers.iter().any(|controller| controller == "pids");
    let version_2 = group.hierarchy == 0;
    let mount = mounts.iter().find(|mount| {
        (version_1 && mount.fs_type == "cgroup" && mount.super_options.contains_key("pids"))
            || (version_2 && mount.fs_type == "cgroup2")
    })?;
    let inside = Path::new(&group.pathname).strip_prefix(&mount.root).ok()?;
    let directory = mount.mount_point.join(inside);
    // On a hybrid system, v2 has no pids controller; the v1 hierarchy counts.
    directory
        .ancestors()
        .any(|path| path.join("pids.max").exists())
        .then(|| (mount.mount_point.clone(), directory))
}

fn group_limit(directory: &Path) -> Option<GroupLimit> {
    // "max" is not a number: such a group has no limit.
    let max = read_number(&directory.join("pids.max"))?;
    let current = read_number(&directory.join("pids.current"))?;
    Some(GroupLimit {
        path: directory.to_owned(),
        max,
        current,
    })
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
