//! Kills processes that are not our children: kill all, then wait for all, with one deadline.
//!
//! [`kill_all`] kills exactly the given processes; [`kill_trees`] also kills their descendants. A
//! killed process loses its children to a reaper immediately, so a tree is halted first: its
//! members are stopped (SIGSTOP cannot be ignored, and a stopped process cannot fork) until a pass
//! finds no new and no running member. Then all are killed. No process is stopped or killed before
//! its identity was verified.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::libc;
use ostler_core::chain::chain;
use ostler_core::signal::Signal;

use crate::holders::{ProcessHolder, describe_processes};
use crate::identity::{
    self, Attribution, Delivery, ProcessHandle, ProcessIdentity, SignalError, Unverifiable, Verified, wait_any,
};
use crate::procfile;
use crate::tree;

/// How many pidfds are kept open while waiting; the other processes are verified again at each
/// tick.
const MOST_PIDFDS: usize = 128;

/// The interval of checks for processes without a pidfd.
const TICK: Duration = Duration::from_millis(10);

/// How long halting a tree may take before it is killed anyway.
const HALT_TIME: Duration = Duration::from_millis(500);

/// The interval of checks while a tree is being halted.
const HALT_TICK: Duration = Duration::from_millis(1);

/// How long naming the survivors may take beyond the deadline.
const NAMING_TIME: Duration = Duration::from_millis(500);

/// The result of a kill.
#[derive(Debug, Default)]
pub struct KillReport {
    /// Processes that were killed and have ended.
    pub killed: Vec<ProcessIdentity>,
    /// Processes that had already ended. If a foreign process has the pid now, it was not touched.
    pub already_gone: Vec<ProcessIdentity>,
    /// Processes that are still alive, each with the reason.
    pub survivors: Vec<Survivor>,
    /// Why the trees could not be read, or which process in them could not be identified. That
    /// process and its descendants may be alive.
    pub unwalked: Option<String>,
    /// The duration.
    pub elapsed: Duration,
}

impl KillReport {
    /// Whether no process is left, as far as all were found.
    pub fn is_clean(&self) -> bool {
        self.survivors.is_empty() && self.unwalked.is_none()
    }

    /// What is left, or may be left, as text.
    pub fn left(&self) -> impl Iterator<Item = String> + '_ {
        let unwalked = |error| format!("a process below them could not be inspected: {error}");
        self.survivors
            .iter()
            .map(ToString::to_string)
            .chain(self.unwalked.iter().map(unwalked))
    }
}

/// A process that should have been killed but is alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survivor {
    /// Who it is.
    pub identity: ProcessIdentity,
    /// The reason.
    pub why: Why,
    /// What `/proc` reports about it, if anything.
    pub holder: Option<ProcessHolder>,
}

/// Why a process did not end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// It belongs to a user whose processes we may not signal.
    NotPermitted,
    /// It waits in the kernel, where no signal reaches it (state `D`).
    Uninterruptible,
    /// Its tracer holds it: it ends when the tracer does.
    Traced {
        /// The tracer; 0 if it is outside this PID namespace.
        by: i32,
    },
    /// It could not be verified, so it was not touched.
    Unverifiable(Unverifiable),
    /// A system call failed.
    Failed(String),
    /// It was killed, but had not ended at the deadline.
    StillEnding,
}

impl fmt::Display for Survivor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.holder {
            Some(holder) => write!(f, "{holder}")?,
            None => write!(f, "{}", self.identity)?,
        }
        match &self.why {
            Why::NotPermitted => f.write_str(": no permission to signal it"),
            Why::Uninterruptible => f.write_str(": no signal reaches it where it waits"),
            Why::Traced { by } => write!(f, ": it ends when its tracer, pid {by}, does"),
            Why::Unverifiable(why) => write!(f, ": not touched, {why}"),
            Why::Failed(error) => write!(f, ": {error}"),
            Why::StillEnding => f.write_str(": killed, but not ended at the deadline"),
        }
    }
}

/// Kills each of `identities` that is still the same process, then waits for all. Blocks until all
/// have ended, or until `deadline` (plus half a second to name survivors). With a deadline in the
/// past it kills and does not wait.
pub fn kill_all(identities: &[ProcessIdentity], attribution: &Attribution, deadline: Instant) -> KillReport {
    let start = Instant::now();
    let mut round = Round::default();
    for identity in identities {
        round.kill(*identity, attribution);
    }
    round.wait(deadline);
    round.report(start, deadline)
}

/// Kills each of `roots` that is still the same process, and all its descendants, then waits for
/// all. Never touches this process, or what is only reached through it. Blocks like [`kill_all`].
pub fn kill_trees(roots: &[ProcessIdentity], attribution: &Attribution, deadline: Instant) -> KillReport {
    let start = Instant::now();
    let (mut halted, unwalked) = halt(roots, attribution, deadline.min(start + HALT_TIME));
    let mut round = Round::default();
    round.report.unwalked = unwalked.map(|error| error.to_string());
    for identity in roots.iter().filter(|root| !is_us(root)) {
        halted.remove(&identity.pid);
        round.kill(*identity, attribution);
    }
    for identity in halted.into_values() {
        round.kill(identity, attribution);
    }
    round.wait(deadline);
    round.report(start, deadline)
}

/// A member of a tree that is being halted.
struct Member {
    identity: ProcessIdentity,
    /// Whether we may signal it, so that it will stop and is worth waiting for.
    halts: bool,
}

impl Member {
    fn stop(handle: &ProcessHandle, attribution: &Attribution) -> Self {
        let stop = Signal::from_number(libc::SIGSTOP).expect("SIGSTOP is a signal");
        Self {
            identity: handle.identity(),
            halts: handle.signal(stop, attribution).is_ok(),
        }
    }

    fn still_moves(&self) -> bool {
        self.halts && is_running(self.identity.pid)
    }
}

/// Stops the trees below `roots` until no new and no running member is found, or until `until`.
/// Returns all members by pid, and what the last pass could not see, if anything.
fn halt(
    roots: &[ProcessIdentity],
    attribution: &Attribution,
    until: Instant,
) -> (BTreeMap<i32, ProcessIdentity>, Option<io::Error>) {
    let us = rustix::process::getpid().as_raw_nonzero().get();
    let mut members: BTreeMap<i32, Member> = BTreeMap::new();
    for root in roots.iter().filter(|root| !is_us(root)) {
        if let Ok(Verified::Same(handle)) = identity::verify(root) {
            members.insert(root.pid, Member::stop(&handle, attribution));
        }
    }
    loop {
        let known: Vec<i32> = members.keys().copied().collect();
        let (below, mut unwalked) = match tree::descendants_except(&known, Some(us)) {
            Ok(below) => (below, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let mut quiet = unwalked.is_none();
        for pid in below {
            match ProcessHandle::open(pid) {
                Ok(Some(handle)) => {
                    if is_child_of_one(&members, pid) {
                        members.insert(pid, Member::stop(&handle, attribution));
                    }
                    quiet = false;
                }
                Ok(None) => {}
                Err(error) => unwalked = Some(io::Error::new(error.kind(), format!("pid {pid}: {error}"))),
            }
        }
        quiet &= !members.values().any(Member::still_moves);
        let now = Instant::now();
        if quiet || now >= until {
            let found = members.into_iter().map(|(pid, member)| (pid, member.identity));
            return (found.collect(), unwalked);
        }
        // Polling, because nothing notifies other processes than the parent that a process has
        // stopped.
        let _ = wait_any(&[], now + HALT_TICK);
    }
}

/// Whether a process's parent is a member *and is still the same process* after the child named it:
/// if a member's pid was reused, the children of that foreign process must not be killed.
fn is_child_of_one(members: &BTreeMap<i32, Member>, pid: i32) -> bool {
    let parent = procfile::stat(pid)
        .ok()
        .flatten()
        .and_then(|stat| members.get(&stat.parent));
    parent.is_some_and(|parent| matches!(identity::verify(&parent.identity), Ok(Verified::Same(_))))
}

fn is_us(identity: &ProcessIdentity) -> bool {
    identity.pid == rustix::process::getpid().as_raw_nonzero().get()
}

/// Whether it could still fork. A process that has ended, is stopped or traced, or waits
/// uninterruptibly cannot.
fn is_running(pid: i32) -> bool {
    let state = procfile::stat(pid)
        .ok()
        .flatten()
        .filter(|stat| !stat.has_ended())
        .map(|stat| stat.state);
    matches!(state, Some('R' | 'S' | 'Z'))
}

/// The state of a kill: which processes were signalled, and which are waited for.
#[derive(Default)]
struct Round {
    waiting: Vec<(ProcessIdentity, Option<ProcessHandle>)>,
    refused: Vec<(ProcessIdentity, Why)>,
    report: KillReport,
}

impl Round {
    fn kill(&mut self, identity: ProcessIdentity, attribution: &Attribution) {
        let handle = match identity::verify(&identity) {
            Ok(Verified::Same(handle)) => handle,
            Ok(Verified::Gone | Verified::Reused) => return self.report.already_gone.push(identity),
            Ok(Verified::Unknown(why)) => return self.refused.push((identity, Why::Unverifiable(why))),
            Err(error) => return self.refused.push((identity, Why::Failed(error.to_string()))),
        };
        match handle.signal(Signal::KILL, attribution) {
            Ok(Delivery::Gone) => self.report.already_gone.push(identity),
            Ok(Delivery::Sent) => {
                let keep = self.waiting.len() < MOST_PIDFDS;
                self.waiting.push((identity, keep.then_some(handle)));
            }
            Err(SignalError::NotPermitted { .. }) => self.refused.push((identity, Why::NotPermitted)),
            Err(error) => self.refused.push((identity, Why::Failed(chain(&error)))),
        }
    }

    fn wait(&mut self, deadline: Instant) {
        loop {
            let report = &mut self.report;
            self.waiting.retain(|(identity, handle)| {
                let ended = has_ended(identity, handle.as_ref());
                if ended {
                    report.killed.push(*identity);
                }
                !ended
            });
            let now = Instant::now();
            if self.waiting.is_empty() || now >= deadline {
                return;
            }
            let held: Vec<BorrowedFd<'_>> = self
                .waiting
                .iter()
                .filter_map(|(_, handle)| handle.as_ref())
                .map(AsFd::as_fd)
                .collect();
            // The tick also catches zombies whose pidfd stays silent, and processes without a
            // pidfd. A failing poll, for example with more pidfds than a lowered limit allows, is
            // not a reason to give up.
            let tick = deadline.min(now + TICK);
            if wait_any(&held, tick).is_err() {
                let _ = wait_any(&[], tick);
            }
        }
    }

    fn report(self, start: Instant, deadline: Instant) -> KillReport {
        let mut report = self.report;
        let left = self.waiting.into_iter().map(|(identity, _)| (identity, None));
        let left: Vec<_> = left
            .chain(self.refused.into_iter().map(|(id, why)| (id, Some(why))))
            .collect();
        if !left.is_empty() {
            let pids: Vec<i32> = left
                .iter()
                .filter(|(_, why)| is_of_here(why))
                .map(|(id, _)| id.pid)
                .collect();
            let naming_ends = deadline.max(Instant::now()) + NAMING_TIME;
            let mut holders: BTreeMap<i32, ProcessHolder> = describe_processes(&pids, naming_ends)
                .into_iter()
                .map(|holder| (holder.pid, holder))
                .collect();
            for (identity, why) in left {
                let holder = holders.remove(&identity.pid);
                let why = why.unwrap_or_else(|| why_still_ending(holder.as_ref()));
                report.survivors.push(Survivor { identity, why, holder });
            }
        }
        report.elapsed = start.elapsed();
        report
    }
}

/// Whether the pid is meaningful here: in another PID namespace it belongs to another process,
/// which must not be named.
fn is_of_here(why: &Option<Why>) -> bool {
    !matches!(why, Some(Why::Unverifiable(_)))
}

fn has_ended(identity: &ProcessIdentity, handle: Option<&ProcessHandle>) -> bool {
    match handle {
        Some(handle) => handle.has_ended().unwrap_or(false),
        None => matches!(identity::verify(identity), Ok(Verified::Gone | Verified::Reused)),
    }
}

fn why_still_ending(holder: Option<&ProcessHolder>) -> Why {
    match holder {
        Some(ProcessHolder { tracer: Some(by), .. }) => Why::Traced { by: *by },
        Some(ProcessHolder { state: 'D', .. }) => Why::Uninterruptible,
        _ => Why::StillEnding,
    }
}
