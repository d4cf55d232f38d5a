//! The observer's view: all processes below this one, according to /proc alone.
//!
//! This process is a subreaper above the host, so every orphan becomes its child, whatever it did
//! to its session or environment. No process can leave, so none must be searched for by name.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};
use ostler_tests::has_ended;
use procfs::process::{Stat, all_processes};

/// A process, identified so that a later process with the same pid is not mistaken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) pid: i32,
    pub(crate) start: u64,
}

impl Id {
    /// Identifies the process that has this pid now.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        stat(pid).map(|stat| id(&stat))
    }

    /// Whether the process has neither ended nor become a zombie.
    pub(crate) fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|stat| id(&stat) == self && !has_ended(&stat))
    }

    /// Signals the process if it still exists. All targets are descendants of the observer: if the
    /// pid has been reused in between, it belongs to the same set of pools.
    pub(crate) fn signal(self, signal: Signal) {
        if self.is_alive() {
            // A process that has just ended is as good as signalled.
            _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// The process's parent.
    pub(crate) fn parent(self) -> Option<Self> {
        Self::of(stat(self.pid)?.ppid)
    }

    /// The value of the marker variable: the worker and its incarnation.
    pub(crate) fn marker(self) -> Option<String> {
        let environ = std::fs::read(format!("/proc/{}/environ", self.pid)).ok()?;
        let variables = String::from_utf8_lossy(&environ).into_owned();
        let marker = variables
            .split('\0')
            .find(|variable| variable.starts_with("OSTLER_RUN_"))?;
        marker.split_once('=').map(|(_, value)| value.to_owned())
    }
}

fn stat(pid: i32) -> Option<Stat> {
    procfs::process::Process::new(pid).ok()?.stat().ok()
}

fn id(stat: &Stat) -> Id {
    Id {
        pid: stat.pid,
        start: stat.starttime,
    }
}

/// The machine's processes at one moment, as far as a walk through /proc is one.
pub(crate) struct Census {
    living: HashMap<i32, Id>,
    children: HashMap<i32, Vec<i32>>,
    /// Processes whose parent was gone when they were read, so that their new parent is unknown.
    adrift: Vec<Id>,
}

impl Census {
    /// Reads /proc.
    pub(crate) fn take() -> Self {
        let stats: Vec<Stat> = all_processes()
            .expect("reading /proc")
            .flatten()
            .filter_map(|process| process.stat().ok())
            .collect();
        let pids: HashSet<i32> = stats.iter().map(|stat| stat.pid).collect();
        let mut census = Self {
            living: HashMap::new(),
            children: HashMap::new(),
            adrift: Vec::new(),
        };
        for stat in &stats {
            census.children.entry(stat.ppid).or_default().push(stat.pid);
            if !has_ended(stat) {
                census.living.insert(stat.pid, id(stat));
                if stat.ppid != 0 && !pids.contains(&stat.ppid) {
                    census.adrift.push(id(stat));
                }
            }
        }
        census
    }

    /// The living children of a process.
    pub(crate) fn children(&self, pid: i32) -> Vec<Id> {
        let of = self.children.get(&pid).map(Vec::as_slice).unwrap_or_default();
        of.iter().filter_map(|pid| self.living.get(pid).copied()).collect()
    }

    /// The living descendants of a process, including those below a zombie.
    pub(crate) fn below(&self, pid: i32) -> Vec<Id> {
        let mut found = Vec::new();
        let mut todo = vec![pid];
        while let Some(next) = todo.pop() {
            for child in self.children.get(&next).into_iter().flatten() {
                found.extend(self.living.get(child).copied());
                todo.push(*child);
            }
        }
        found
    }
}

/// This process, as the ancestor of all others.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    /// The exit statuses of reaped children, until they are asked for.
    ended: HashMap<i32, WaitStatus>,
    /// Children that have nothing to do with Ostler and must not be touched.
    bystanders: Vec<Id>,
}

impl Observer {
    /// Makes this process the subreaper of all its descendants.
    pub(crate) fn new() -> Self {
        nix::sys::prctl::set_child_subreaper(true).expect("becoming a subreaper");
        Self::default()
    }

    pub(crate) fn add_bystander(&mut self, bystander: Id) {
        self.bystanders.push(bystander);
    }

    /// The bystanders that have been killed.
    pub(crate) fn lost_bystanders(&self) -> Vec<Id> {
        let lost = |id: &&Id| !id.is_alive();
        self.bystanders.iter().filter(lost).copied().collect()
    }

    /// Reaps all children that have ended.
    pub(crate) fn reap(&mut self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(status) => {
                    if let Some(pid) = status.pid() {
                        self.ended.insert(pid.as_raw(), status);
                    }
                }
                Err(_) => {}
            }
        }
    }

    /// The exit status of this child, once it has ended.
    pub(crate) fn end_of(&mut self, pid: i32) -> Option<WaitStatus> {
        self.reap();
        self.ended.remove(&pid)
    }

    /// Forgets exit statuses that no caller has asked for.
    pub(crate) fn forget_ends(&mut self) {
        self.ended.clear();
    }

    pub(crate) fn bystanders(&self) -> &[Id] {
        &self.bystanders
    }

    /// All living descendants except the bystanders, and except `except` and its descendants.
    pub(crate) fn survivors(&mut self, except: Option<i32>) -> Vec<Id> {
        self.reap();
        let census = Census::take();
        let mut left: HashSet<Id> = census.below(getpid().as_raw()).into_iter().collect();
        left.extend(census.adrift.iter().filter(|id| may_be_ours(id.pid)));
        if let Some(except) = except {
            left.remove(&Id::of(except).unwrap_or(Id { pid: except, start: 0 }));
            for id in census.below(except) {
                left.remove(&id);
            }
        }
        for bystander in &self.bystanders {
            left.remove(bystander);
        }
        left.into_iter().collect()
    }

    /// Waits until no descendant is left except `except` and its descendants. Returns how long it
    /// took, or the remaining processes. One empty result is not enough: a walk through /proc can
    /// miss a process that is just being created.
    pub(crate) fn await_no_survivors(&mut self, except: Option<i32>, within: Duration) -> Result<Duration, Vec<Id>> {
        let begun = Instant::now();
        let mut first = None;
        loop {
            let left = self.survivors(except);
            match (left.is_empty(), first) {
                (true, Some(first)) => return Ok(first),
                (true, None) => first = Some(begun.elapsed()),
                (false, _) if begun.elapsed() > within => return Err(left),
                (false, _) => first = None,
            }
            pause();
        }
    }

    /// Kills all descendants, including bystanders, until none is left.
    pub(crate) fn end_everything(&mut self) {
        self.bystanders.clear();
        while let Err(left) = self.await_no_survivors(None, Duration::ZERO) {
            for id in left {
                id.signal(Signal::SIGKILL);
            }
        }
    }
}

/// Checks again, from child to parent, whether this process is a descendant of this one. True also
/// if that cannot be decided because an ancestor has just ended. Unrelated processes of the machine
/// start and end all the time.
fn may_be_ours(pid: i32) -> bool {
    let us = getpid().as_raw();
    let mut next = pid;
    loop {
        match stat(next) {
            _ if next == us => return true,
            Some(stat) if stat.ppid <= 1 => return false,
            Some(stat) => next = stat.ppid,
            // It has ended, or its parent has, so that it has a new parent now.
            None => return next != pid && stat(pid).is_some(),
        }
    }
}

/// Pauses between two checks of a condition.
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(4));
}

/// A description of a process for messages.
pub(crate) fn describe(id: Id) -> String {
    let Ok(process) = procfs::process::Process::new(id.pid) else {
        return format!("{} (gone)", id.pid);
    };
    let line = process.cmdline().map(|line| line.join(" ")).unwrap_or_default();
    let (state, parent) = process.stat().map_or(('?', 0), |stat| (stat.state, stat.ppid));
    let marker = id.marker().unwrap_or_default();
    format!("{} {state} parent {parent} {marker} {line}", id.pid)
}

/// Resident memory in KiB, and the number of descriptors without the watches on these processes.
pub(crate) fn weight(pid: i32, watched: &[i32]) -> Option<(u64, u64)> {
    let process = procfs::process::Process::new(pid).ok()?;
    let pages = process.statm().ok()?.resident;
    let descriptors = process.fd_count().ok()?.saturating_sub(watches(pid, watched));
    Some((pages * procfs::page_size() / 1024, descriptors as u64))
}

/// The number of these processes on which the process `pid` holds a pidfd. A second one of the same
/// process, and one of a process that has ended (`Pid: -1`), are not among them.
fn watches(pid: i32, watched: &[i32]) -> usize {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten();
    let target = |entry: std::fs::DirEntry| -> Option<i32> {
        let text = std::fs::read_to_string(entry.path()).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pid:"))?;
        line.trim().parse().ok()
    };
    let targets: HashSet<i32> = descriptors.flatten().filter_map(target).collect();
    watched.iter().filter(|pid| targets.contains(pid)).count()
}
