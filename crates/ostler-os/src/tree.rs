//! The tree of processes under one, by parentage.
//!
//! Under a sitter this is the whole of a worker's tree, whatever its members did: the sitter is a subreaper, so orphans
//! come back to it. Elsewhere it is what still hangs together.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::sync::OnceLock;

use crate::identity::{self, ProcessIdentity, Verified};
use crate::procfile::{self, Stat, shown};

/// How long a chain of parents may be before it is taken for a loop (pids are used again while it is walked).
const DEEPEST: usize = 4096;

/// Every descendant of `root`, parents before their children, `root` itself not included; empty when it is gone.
///
/// Children that come or go during the walk may be missed: a caller that must have all asks again until nothing new
/// comes, with the known ones stopped (see [`crate::kill`]).
///
/// # Errors
/// When `/proc` can't be read.
pub fn descendants(root: i32) -> io::Result<Vec<i32>> {
    descendants_except(&[root], None)
}

/// Every descendant of any of `roots`, which are not included; neither is `spared`, nor what is reached through it.
pub(crate) fn descendants_except(roots: &[i32], spared: Option<i32>) -> io::Result<Vec<i32>> {
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

/// Who lives under `root`, each verified to be under it after it was identified; nobody when `root` itself has ended.
///
/// # Errors
/// When `/proc` can't be read, or no descriptor is left.
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

/// Whether `ancestor` is found on the way up from `pid`. A process is no descendant of itself.
///
/// # Errors
/// When `/proc` can't be read.
pub fn is_descendant(pid: i32, ancestor: i32) -> io::Result<bool> {
    let mut current = pid;
    for _ in 0..DEEPEST {
        let Some(Stat { parent, .. }) = procfile::stat(current)? else {
            return Ok(false);
        };
        if parent == ancestor {
            return Ok(true);
        }
        if parent <= 1 {
            return Ok(false);
        }
        current = parent;
    }
    Ok(false)
}

/// Whoever lives below one of `roots`, and below which: the nearest. One pass over all processes, however many roots.
///
/// # Errors
/// When `/proc` can't be read.
pub fn owners(roots: &[i32]) -> io::Result<HashMap<i32, i32>> {
    let roots: HashSet<i32> = roots.iter().copied().collect();
    let mut parents = HashMap::new();
    for pid in procfile::all_pids()? {
        if let Some(stat) = procfile::stat(pid)?.filter(|stat| !stat.has_ended()) {
            parents.insert(pid, stat.parent);
        }
    }
    let owner = |pid: i32| {
        let above = std::iter::successors(parents.get(&pid), |parent| parents.get(parent));
        above.take(DEEPEST).find(|ancestor| roots.contains(ancestor)).copied()
    };
    Ok(parents.keys().filter_map(|pid| Some((*pid, owner(*pid)?))).collect())
}

/// What a tree uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TreeUsage {
    /// Number of processes, zombies included.
    pub processes: u64,
    /// Resident memory in bytes, pages that processes share counted for each.
    pub resident_bytes: u64,
    /// CPU time in clock ticks, user and kernel, of the processes that live now and of those that ended and were waited
    /// for. A sitter waits for all that its descendants leave, so below it the sum does not fall.
    pub cpu_ticks: u64,
}

/// What `root`'s descendants use, `root` not included: with a sitter as root, what the worker's whole tree does.
///
/// # Errors
/// When `/proc` can't be read.
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

/// How many clock ticks the kernel counts a second; at least 1.
pub fn ticks_a_second() -> u64 {
    rustix::param::clock_ticks_per_second().max(1)
}

/// Whether this kernel has `/proc/PID/task/TID/children` (CONFIG_PROC_CHILDREN).
fn kernel_lists_children() -> bool {
    static LISTS: OnceLock<bool> = OnceLock::new();
    *LISTS.get_or_init(|| fs::exists("/proc/thread-self/children").unwrap_or(false))
}

/// The children of all threads of a process, as the kernel lists them.
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

/// One pass over all processes, for kernels that don't list children.
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
    fn both_ways_of_finding_children_agree_on_our_own() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("sleep starts");
        let (us, pid) = (std::process::id() as i32, child.id() as i32);
        let listed = listed_children(us).expect("readable");
        let scanned = children_by_parent().expect("readable");
        assert!(!kernel_lists_children() || listed.contains(&pid));
        assert!(scanned[&us].contains(&pid));
        let owners = owners(&[us]).expect("readable");
        assert_eq!(owners.get(&pid), Some(&us));
        assert_eq!(owners.get(&us), None, "nobody is below itself");
        child.kill().expect("killed");
        child.wait().expect("reaped");
    }
}
