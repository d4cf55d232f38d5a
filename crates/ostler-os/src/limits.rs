//! The limits that a host of many workers meets: descriptors, processes, memory. What they are, how the one that we
//! may raise is raised, and which failure an errno stands for.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ostler_core::failure::Reason;
use procfs::ProcessCGroup;
use procfs::process::{MountInfo, Process};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that the host needs for a worker: its two pipes, and a socket or a listener.
pub const DESCRIPTORS_A_WORKER: u64 = 3;

/// Processes that a worker is at least: itself and its sitter.
pub const PROCESSES_A_WORKER: u64 = 2;

/// The limits on descriptors as they were before we raised them.
static ORIGINAL: Mutex<Option<(u64, u64)>> = Mutex::new(None);

/// This process's limits on open descriptors, soft and hard (RLIMIT_NOFILE, getrlimit(2)). "Unlimited" is `u64::MAX`.
pub fn descriptors() -> (u64, u64) {
    pair(getrlimit(Resource::Nofile))
}

/// The limits on descriptors, soft and hard, as they were before the first [`raise_descriptors`]; `None` when it was
/// never called. Workers get these back: a program that uses select(2) breaks above 1,024.
pub fn original_descriptors() -> Option<(u64, u64)> {
    *ORIGINAL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Raises the soft limit on descriptors to the hard one, and gives the limits that hold now. It is process-wide, can
/// be called any number of times, and needs no privilege.
///
/// # Errors
/// What setrlimit(2) says. The limits are then as they were, and nothing is remembered.
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

fn pair(limit: Rlimit) -> (u64, u64) {
    (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX))
}

/// The failure that this errno of a fork, a clone, of opening or passing a descriptor stands for (fork(2), clone(2), open(2),
/// unix(7));
/// `None` for any other errno.
pub fn reason_of_errno(errno: i32) -> Option<Reason> {
    match Errno::from_raw_os_error(errno) {
        Errno::AGAIN => Some(Reason::ProcessLimit),
        Errno::NOMEM => Some(Reason::OutOfMemory),
        Errno::MFILE | Errno::NFILE | Errno::TOOMANYREFS => Some(Reason::DescriptorLimit),
        _ => None,
    }
}

/// The limits on processes, for the message of a `process_limit`: the kernel's EAGAIN doesn't say which one was met.
/// Threads count as processes in all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessLimits {
    /// Processes of this user (RLIMIT_NPROC, soft). `None` is unlimited. It does not bind root.
    pub user: Option<u64>,
    /// Of the whole system (/proc/sys/kernel/threads-max).
    pub threads_max: Option<u64>,
    /// Ids that there are (/proc/sys/kernel/pid_max).
    pub pid_max: Option<u64>,
    /// The narrowest `pids.max` of our own cgroup and the groups above it, as far as they are visible.
    pub cgroup: Option<GroupLimit>,
}

/// A cgroup's limit on processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupLimit {
    /// The group's directory.
    pub path: PathBuf,
    /// Its `pids.max`.
    pub max: u64,
    /// Its `pids.current`: how many there were when we looked.
    pub current: u64,
}

/// Reads the limits on processes. A handful of small reads from /proc and the cgroup file system, for an error's
/// message and for diagnosis, not for the hot path. What can't be read is left out.
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

/// The mount point and the directory of our group in the hierarchy that counts processes: v1's `pids`, or v2.
fn group_directory(group: &ProcessCGroup, mounts: &[MountInfo]) -> Option<(PathBuf, PathBuf)> {
    let version_1 = group.controllers.iter().any(|controller| controller == "pids");
    let version_2 = group.hierarchy == 0;
    let mount = mounts.iter().find(|mount| {
        (version_1 && mount.fs_type == "cgroup" && mount.super_options.contains_key("pids"))
            || (version_2 && mount.fs_type == "cgroup2")
    })?;
    let inside = Path::new(&group.pathname).strip_prefix(&mount.root).ok()?;
    let directory = mount.mount_point.join(inside);
    // A hybrid system's v2 has no pids controller; the v1 hierarchy is the one to look at then.
    directory
        .ancestors()
        .any(|path| path.join("pids.max").exists())
        .then(|| (mount.mount_point.clone(), directory))
}

fn group_limit(directory: &Path) -> Option<GroupLimit> {
    // "max" is no number: such a group sets no limit.
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
