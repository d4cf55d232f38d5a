//! The observer's own eyes: every process below this one, by /proc alone.
//!
//! This process is a subreaper above the host: whatever loses its parent, however it cut its ties, becomes our child.
//! Nothing can leave, so nothing needs to be searched for by name.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};
use procfs::process::{Stat, all_processes};

/// A process that is never taken for a later one of its pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) pid: i32,
    pub(crate) start: u64,
}

impl Id {
    /// Who has this pid now.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        stat(pid).map(|stat| id(&stat))
    }

    /// It has neither ended nor become a zombie.
    pub(crate) fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|stat| id(&stat) == self && stat.state != 'Z')
    }

    /// Signals it if it is still there. What the observer strikes is below it: a pid that has just become another's is one
    /// of the same set of pools.
    pub(crate) fn signal(self, signal: Signal) {
        if self.is_alive() {
            // One that has just ended is as good as struck.
            _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// The value of the variable that Ostler marks workers with: which incarnation of which worker it is.
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

/// The processes of the machine at one moment, as far as a walk through /proc is one.
pub(crate) struct Census {
    living: HashMap<i32, Id>,
    children: HashMap<i32, Vec<i32>>,
    /// Whose parent was gone when they were looked at: whose child they have become is not known.
    adrift: Vec<Id>,
}

impl Census {
    /// Walks through /proc.
    pub(crate) fn take() -> Self {
        let stats: Vec<Stat> = all_processes()
            .expect("/proc is there")
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
            if stat.state != 'Z' {
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

    /// The living descendants of a process, also those below a zombie.
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

/// This process, as the parent of everything.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    /// How those of our children ended whose end somebody asks for.
    ended: HashMap<i32, WaitStatus>,
    /// Children of ours that have nothing to do with Ostler, and that nobody may touch.
    bystanders: Vec<Id>,
}

impl Observer {
    /// Becomes the subreaper of all that is below.
    pub(crate) fn new() -> Self {
        nix::sys::prctl::set_child_subreaper(true).expect("Linux has subreapers");
        Self::default()
    }

    pub(crate) fn add_bystander(&mut self, bystander: Id) {
        self.bystanders.push(bystander);
    }

    /// The bystanders that somebody has killed.
    pub(crate) fn lost_bystanders(&self) -> Vec<Id> {
        let lost = |id: &&Id| !id.is_alive();
        self.bystanders.iter().filter(lost).copied().collect()
    }

    /// Reaps whoever of our children has ended.
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

    /// How this child of ours ended, once it has.
    pub(crate) fn end_of(&mut self, pid: i32) -> Option<WaitStatus> {
        self.reap();
        self.ended.remove(&pid)
    }

    /// Forgets how children ended for whom nobody has asked.
    pub(crate) fn forget_ends(&mut self) {
        self.ended.clear();
    }

    pub(crate) fn bystanders(&self) -> &[Id] {
        &self.bystanders
    }

    /// Everything alive below us but the bystanders; `except` with all that is below it is left out.
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

    /// Waits until nobody is left below us but `except` with what is below it, and says how long it took; else who is left. Nobody has to be seen twice: a
    /// walk through /proc can miss who is born meanwhile.
    pub(crate) fn await_nobody(&mut self, except: Option<i32>, within: Duration) -> Result<Duration, Vec<Id>> {
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

    /// Kills all that is left, bystanders too, until there is nothing: the end of the observer, however it came.
    pub(crate) fn end_everything(&mut self) {
        self.bystanders.clear();
        while let Err(left) = self.await_nobody(None, Duration::ZERO) {
            for id in left {
                id.signal(Signal::SIGKILL);
            }
        }
    }
}

/// Looks again, from child to parent: whether it comes to us, or can't be told because somebody on the way has just gone.
/// Others of this machine start and lose processes too.
fn may_be_ours(pid: i32) -> bool {
    let us = getpid().as_raw();
    let mut next = pid;
    loop {
        match stat(next) {
            _ if next == us => return true,
            Some(stat) if stat.ppid <= 1 => return false,
            Some(stat) => next = stat.ppid,
            // It has ended itself, or its parent has: then it has another by now.
            None => return next != pid && stat(pid).is_some(),
        }
    }
}

/// Between two looks at a state that is waited for.
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(4));
}

/// A process as people want to see it.
pub(crate) fn describe(id: Id) -> String {
    let Ok(process) = procfs::process::Process::new(id.pid) else {
        return format!("{} (gone)", id.pid);
    };
    let line = process.cmdline().map(|line| line.join(" ")).unwrap_or_default();
    let (state, parent) = process.stat().map_or(('?', 0), |stat| (stat.state, stat.ppid));
    let marker = id.marker().unwrap_or_default();
    format!("{} {state} parent {parent} {marker} {line}", id.pid)
}

/// Resident memory in KiB and the number of descriptors.
pub(crate) fn weight(pid: i32) -> Option<(u64, u64)> {
    let process = procfs::process::Process::new(pid).ok()?;
    let pages = process.statm().ok()?.resident;
    let descriptors = process.fd_count().ok()?;
    Some((pages * procfs::page_size() / 1024, descriptors as u64))
}
