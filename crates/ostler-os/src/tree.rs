//! The tree of processes below a process, by parentage.
//!
//! Below a sitter this is a worker's complete tree, whatever its members did, because the sitter is
//! a subreaper and adopts orphans. Elsewhere it is what is still connected.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::sync::OnceLock;

use crate::identity::{self, ProcessIdentity, Verified};
use crate::procfile::{self, Stat, shown};

/// The maximum length of a chain of parents; longer ones are treated as loops, because pids can be
/// reused during the walk.
const DEEPEST: usize = 4096;

/// Returns every descendant of `root`, parents before their children, without `root`; empty if it
/// is gone.
///
/// Children that start or end during the walk may be missed. A caller that needs all of them
/// repeats the walk until nothing new appears, with the known ones stopped (see [`crate::kill`]).
///
/// # Errors
///
/// If `/proc` cannot be read.
pub fn descendants(root: i32) -> io::Result<Vec<i32>> {
    descendants_except(&[root], None)
}

/// Returns every descendant of any of `roots`, without the roots, `spared`, and what is only
/// reached through it.
pub(crate) fn descendants_except(roots: &[i32], spared: Option<i32>) -> io::Result<Vec<i32>> {
    // Not even a pass over all processes, where the kernel lists no children.
    if roots.is_empty() {
        return Ok(Vec::new());
    }
    let mut known: HashSet<i32> = roots.iter().copied().chain(spared).collect();
    let mut found: Vec<i32> = roots.to_vec();
    let by_parent = if kernel_lists_children() {
        None
    } else {
        Some(children_by_parent()?)
    };
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        next += 1;
        let children = match &by_parent {
            Some(map) => map.get(&pid).cloned().unwrap_or_default(),
            None => listed_children(pid)?,
        };
        found.extend(children.into_iter().filter(|child| known.insert(*child)));
    }
    found.drain(..roots.len());
    Ok(found)
}

/// Returns the living descendants of `root`, each verified to be below it after it was identified;
/// empty if `root` itself has ended.
///
/// # Errors
///
/// If `/proc` cannot be read, or no descriptor is left.
pub fn living_descendants(root: &ProcessIdentity) -> io::Result<Vec<ProcessIdentity>> {
    let mut found = Vec::new();
    for pid in descendants(root.pid)? {
        if let Some(identity) = shown(identity::of(pid))?.flatten()
            && is_descendant(pid, root.pid)?
        {
            found.push(identity);
        }
    }
    match identity::verify(root)? {
        Verified::Same(_) => Ok(found),
        Verified::Gone | Verified::Reused | Verified::Unknown(_) => Ok(Vec::new()),
    }
}

/// Whether a process is below another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ancestry {
    /// It is. A process is not below itself.
    Below,
    /// It is not.
    Elsewhere,
    /// `/proc` does not show this process, which is the one in question or an ancestor of it: it
    /// has ended, or is hidden (`hidepid`).
    Unknown {
        /// Its pid.
        pid: i32,
    },
}

/// Whether `pid` is below `ancestor`.
///
/// # Errors
///
/// If `/proc` cannot be read.
pub fn ancestry(pid: i32, ancestor: i32) -> io::Result<Ancestry> {
    let mut current = pid;
    for _ in 0..DEEPEST {
        let Some(Stat { parent, .. }) = shown(procfile::stat(current))?.flatten() else {
            return Ok(Ancestry::Unknown { pid: current });
        };
        if parent == ancestor {
            return Ok(Ancestry::Below);
        }
        if parent <= 1 {
            return Ok(Ancestry::Elsewhere);
        }
        current = parent;
    }
    Ok(Ancestry::Elsewhere)
}

/// Whether `/proc` shows that `ancestor` is an ancestor of `pid`. A process is not its own
/// descendant.
///
/// # Errors
///
/// If `/proc` cannot be read.
pub fn is_descendant(pid: i32, ancestor: i32) -> io::Result<bool> {
    Ok(ancestry(pid, ancestor)? == Ancestry::Below)
}

/// Returns the processes that `/proc` shows, each with the nearest of `roots` that it is below;
/// `None` is below none of them. Processes whose ancestors are not all shown (`hidepid`) are left
/// out. Takes one pass over all processes, for any number of roots.
///
/// # Errors
///
/// If `/proc` cannot be read.
pub fn owners(roots: &[i32]) -> io::Result<HashMap<i32, Option<i32>>> {
    let roots: HashSet<i32> = roots.iter().copied().collect();
    let mut parents = HashMap::new();
    for pid in procfile::all_pids()? {
        let stat = shown(procfile::stat(pid))?.flatten();
        if let Some(stat) = stat.filter(|stat| !stat.has_ended()) {
            parents.insert(pid, stat.parent);
        }
    }
    Ok(parents
        .keys()
        .filter_map(|pid| Some((*pid, nearest(*pid, &roots, &parents)?)))
        .collect())
}

/// The nearest of `roots` above a process; `None` if an ancestor is not known.
fn nearest(pid: i32, roots: &HashSet<i32>, parents: &HashMap<i32, i32>) -> Option<Option<i32>> {
    let mut current = pid;
    for _ in 0..DEEPEST {
        current = *parents.get(&current)?;
        if roots.contains(&current) {
            return Some(Some(current));
        }
        if current <= 1 {
            break;
        }
    }
    Some(None)
}

/// The resource usage of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TreeUsage {
    /// The number of processes, including zombies.
    pub processes: u64,
    /// Resident memory in bytes; shared pages count once per process.
    pub resident_bytes: u64,
    /// CPU time in clock ticks, user and kernel, of the living processes and of those that ended
    /// and were waited for. A sitter waits for all orphans of its tree, so below a sitter the sum
    /// never decreases.
    pub cpu_ticks: u64,
}

/// The resource usage of `root`'s descendants, without `root`. With a sitter as root, that of the
/// worker's complete tree.
///
/// # Errors
///
/// If `/proc` cannot be read.
pub fn usage(root: i32) -> io::Result<TreeUsage> {
    let page = rustix::param::page_size() as u64;
    let mut usage = TreeUsage {
        cpu_ticks: procfile::stat(root)?.map_or(0, |stat| stat.waited_ticks),
        ..TreeUsage::default()
    };
    for pid in descendants(root)? {
        if let Some(stat) = shown(procfile::stat(pid))?.flatten() {
            usage.processes += 1;
            usage.resident_bytes += stat.resident_pages * page;
            usage.cpu_ticks += stat.user_ticks + stat.system_ticks + stat.waited_ticks;
        }
    }
    Ok(usage)
}

/// Clock ticks per second; at least 1.
pub fn ticks_per_second() -> u64 {
    rustix::param::clock_ticks_per_second().max(1)
}

/// Whether this kernel has `/proc/PID/task/TID/children` (CONFIG_PROC_CHILDREN).
fn kernel_lists_children() -> bool {
    static LISTS: OnceLock<bool> = OnceLock::new();
    *LISTS.get_or_init(|| fs::exists("/proc/thread-self/children").unwrap_or(false))
}

/// The children of all threads of a process, as listed by the kernel.
fn listed_children(pid: i32) -> io::Result<Vec<i32>> {
    let mut children = Vec::new();
    let Some(tasks) = shown(fs::read_dir(format!("/proc/{pid}/task")))? else {
        return Ok(children);
    };
    for task in tasks {
        let Some(task) = shown(task)? else { break };
        if let Some(text) = shown(fs::read_to_string(task.path().join("children")))? {
            children.extend(
                text.split_ascii_whitespace()
                    .filter_map(|child| child.parse::<i32>().ok()),
            );
        }
    }
    Ok(children)
}

/// One pass over all processes, for kernels that do not list children.
fn children_by_parent() -> io::Result<HashMap<i32, Vec<i32>>> {
    let mut map: HashMap<i32, Vec<i32>> = HashMap::new();
    for pid in procfile::all_pids()? {
        if let Some(stat) = shown(procfile::stat(pid))?.flatten() {
            map.entry(stat.parent).or_default().push(pid);
        }
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_finding_children_agree() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("starting sleep");
        let (us, pid) = (std::process::id() as i32, child.id() as i32);
        let listed = listed_children(us).expect("readable");
        let scanned = children_by_parent().expect("readable");
        assert!(!kernel_lists_children() || listed.contains(&pid));
        assert!(scanned[&us].contains(&pid));
        let owners = owners(&[us]).expect("readable");
        assert_eq!(owners.get(&pid), Some(&Some(us)));
        assert_eq!(owners.get(&us), Some(&None), "no process is below itself");
        // Its parent is not shown.
        let parents = HashMap::from([(12, 11), (11, 10), (22, 21), (32, 1)]);
        let of = |pid| nearest(pid, &HashSet::from([10]), &parents);
        assert_eq!([of(12), of(22), of(32)], [Some(Some(10)), None, Some(None)]);
        child.kill().expect("killed");
        child.wait().expect("reaped");
    }
}
