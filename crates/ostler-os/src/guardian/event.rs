//! Everything that guardian and sitters tell the host.
//!
//! Of one incarnation, in this order: `Spawned` or `SpawnFailed`; `Signalled` any number of times (it may come before
//! `Spawned` when the end was ordered while exec was under way); `Exited`; perhaps `Held`; `TreeGone`. `SpawnFailed` and
//! `TreeGone` are last words: nothing of the incarnation is left, and its slot takes the next one. Instead of them comes
//! `SitterLost` when the sitter itself was killed.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use ostler_core::signal::Signal;

use crate::identity::{Here, ProcessIdentity, has_pidfs};
pub use crate::protocol::{Cause as SignalCause, Step as SpawnStep};
use crate::protocol::{Event, EventKind, flag};

/// What happened to a slot, or to the guardian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuardianEvent {
    /// The worker's program runs: exec succeeded (or the process was killed before exec could fail).
    Spawned {
        /// Its slot.
        slot: u32,
        /// Its incarnation.
        incarnation: u64,
        /// Its own process; its pid is also its process group's and its session's. Start time and inode number were
        /// read while the pid could not be reused.
        worker: TreeProcess,
        /// The pid of its sitter: every process of its tree is below it.
        sitter: u32,
        /// Whether it was born inside the cgroup of its request.
        in_cgroup: bool,
    },
    /// The worker could not be started; nothing of it is left.
    SpawnFailed {
        /// Its slot.
        slot: u32,
        /// Its incarnation.
        incarnation: u64,
        /// What failed.
        step: SpawnStep,
        /// The system's error number.
        errno: i32,
    },
    /// A signal was sent to the worker's process group, or (KILL) to its whole tree.
    Signalled {
        /// Its slot.
        slot: u32,
        /// Its incarnation.
        incarnation: u64,
        /// The signal.
        signal: Signal,
        /// Why.
        cause: SignalCause,
    },
    /// The worker's own process has ended and is reaped. Others of its tree may still live until `TreeGone`.
    Exited {
        /// Its slot.
        slot: u32,
        /// Its incarnation.
        incarnation: u64,
        /// Its pid, which may be reused from now on.
        pid: u32,
        /// How it ended.
        status: ExitStatus,
    },
    /// The whole tree is gone: the sitter has no child left, and the cgroup, where there is one, is empty.
    TreeGone {
        /// Its slot.
        slot: u32,
        /// Its incarnation.
        incarnation: u64,
        /// How many processes other than the worker were reaped after they had to be killed.
        killed: u32,
        /// How they were killed.
        how: TreeKill,
    },
    /// The tree kill has not ended the tree yet; it goes on. Said at most once an incarnation.
    Held {
        /// Its slot.
        slot: u32,
        /// Its incarnation.
        incarnation: u64,
        /// Children that the sitter still has.
        children: u32,
        /// How the kill was tried; `refused` names the likeliest cause.
        how: TreeKill,
    },
    /// Answer to [`query`](super::Guardian::query).
    Children {
        /// The slot.
        slot: u32,
        /// The incarnation that the slot holds, or held last.
        incarnation: u64,
        /// How many children the sitter has.
        total: u32,
        /// The first few of them.
        named: Vec<TreeProcess>,
    },
    /// The slot's sitter died without being told to. What it had is killed and reaped by the guardian; the slot can be
    /// used again, with a new sitter.
    SitterLost {
        /// The slot.
        slot: u32,
        /// The last incarnation in the slot, or 0.
        incarnation: u64,
        /// How the sitter ended.
        status: ExitStatus,
        /// Processes that were reaped in its place, the worker among them.
        killed: u32,
    },
    /// The slot's sitter ended, as [`close`](super::Guardian::close) asked.
    Closed {
        /// The slot.
        slot: u32,
    },
    /// The guardian could not pass an order on to the slot's sitter (a failed spawn is a `SpawnFailed` instead).
    OrderFailed {
        /// The slot.
        slot: u32,
        /// The incarnation.
        incarnation: u64,
        /// The system's error number.
        errno: i32,
    },
    /// Answer to [`census`](super::Guardian::census).
    Census {
        /// Slot and pid of each sitter.
        sitters: Vec<(u32, u32)>,
        /// Children of the guardian that are no sitters; only a dead sitter leaves any, and only for a moment.
        strays: Vec<TreeProcess>,
        /// How many strays there are, named above or not.
        strays_total: u32,
    },
    /// The guardian died without having been told to. Sitters end their trees, and their last events still come.
    Lost {
        /// How it ended; `None` when something else in this process reaped it.
        status: Option<ExitStatus>,
    },
    /// The last event: the guardian and every sitter have ended, and with them every tree that they held.
    Ended,
}

/// A process that a sitter or the guardian has for a child: an identity together with the boot and the pid namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeProcess {
    /// Its pid.
    pub pid: u32,
    /// Field 22 of /proc/PID/stat, in clock ticks since boot; 0 when unknown, as where /proc is not mounted.
    pub start_time: u64,
    /// The inode number of its pidfd; 0 when unknown, as it is of everybody but a worker.
    pub pidfd_inode: u64,
}

impl TreeProcess {
    /// Who it is, told by a guardian that is here.
    pub fn identity(&self, here: Here) -> ProcessIdentity {
        ProcessIdentity {
            boot_id: here.boot_id,
            pid_namespace: here.pid_namespace,
            pid: self.pid.cast_signed(),
            start_time: self.start_time,
            pidfd_inode: if has_pidfs() { self.pidfd_inode } else { 0 },
        }
    }
}

/// How a tree was killed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TreeKill {
    /// `cgroup.kill` was used; the next incarnation needs a fresh cgroup.
    pub cgroup: bool,
    /// Children were found outside the worker's process group.
    pub strays: bool,
    /// A kill was refused: some process changed its user.
    pub refused: bool,
    /// The cgroup holds members that are not the sitter's children.
    pub cgroup_populated: bool,
}

impl TreeKill {
    fn from_flags(flags: u16) -> Self {
        Self {
            cgroup: flags & flag::KILLED_CGROUP != 0,
            strays: flags & flag::KILLED_STRAYS != 0,
            refused: flags & flag::REFUSED != 0,
            cgroup_populated: flags & flag::CGROUP_POPULATED != 0,
        }
    }
}

/// Turns wire events into [`GuardianEvent`]s, putting answers of several events together.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    children: Vec<(u32, TreeProcess)>,
    sitters: Vec<(u32, u32)>,
    strays: Vec<TreeProcess>,
    /// Slot, pid and the inode number of its pidfd, of workers of which `Spawned` comes next.
    pidfds: Vec<(u32, i32, u64)>,
}

impl Assembler {
    /// `None` for a part of an answer, for an unknown signal, step or cause, and for what only the handshake reads.
    pub(super) fn accept(&mut self, event: Event) -> Option<GuardianEvent> {
        let Event { slot, incarnation, .. } = event;
        Some(match event.kind {
            EventKind::Ready | EventKind::Bye => return None,
            EventKind::Pidfd => {
                self.pidfds.push((slot, event.a, event.c));
                return None;
            }
            EventKind::Spawned => GuardianEvent::Spawned {
                slot,
                incarnation,
                worker: TreeProcess {
                    pidfd_inode: self.pidfd_inode(slot, event.a),
                    ..process(event)
                },
                sitter: event.b.unsigned_abs(),
                in_cgroup: event.flags & flag::IN_CGROUP != 0,
            },
            EventKind::SpawnFailed => GuardianEvent::SpawnFailed {
                slot,
                incarnation,
                step: SpawnStep::from_wire(event.b)?,
                errno: event.a,
            },
            EventKind::Signalled => GuardianEvent::Signalled {
                slot,
                incarnation,
                signal: Signal::from_number(event.a)?,
                cause: SignalCause::from_wire(event.b)?,
            },
            EventKind::Exited => GuardianEvent::Exited {
                slot,
                incarnation,
                pid: event.b.unsigned_abs(),
                status: ExitStatus::from_raw(event.a),
            },
            EventKind::TreeGone => GuardianEvent::TreeGone {
                slot,
                incarnation,
                killed: event.a.unsigned_abs(),
                how: TreeKill::from_flags(event.flags),
            },
            EventKind::Held => GuardianEvent::Held {
                slot,
                incarnation,
                children: event.a.unsigned_abs(),
                how: TreeKill::from_flags(event.flags),
            },
            EventKind::Child => {
                self.children.push((slot, process(event)));
                return None;
            }
            EventKind::Children => {
                let (mine, others) = self.children.drain(..).partition(|(of, _)| *of == slot);
                self.children = others;
                GuardianEvent::Children {
                    slot,
                    incarnation,
                    total: event.a.unsigned_abs(),
                    named: Vec::into_iter(mine).map(|(_, child)| child).collect(),
                }
            }
            EventKind::SitterLost => GuardianEvent::SitterLost {
                slot,
                incarnation,
                status: ExitStatus::from_raw(event.b),
                killed: event.a.unsigned_abs(),
            },
            EventKind::Closed => GuardianEvent::Closed { slot },
            EventKind::OrderFailed => GuardianEvent::OrderFailed {
                slot,
                incarnation,
                errno: event.a,
            },
            EventKind::CensusSitter => {
                self.sitters.push((slot, event.a.unsigned_abs()));
                return None;
            }
            EventKind::CensusStray => {
                self.strays.push(process(event));
                return None;
            }
            EventKind::Census => GuardianEvent::Census {
                sitters: std::mem::take(&mut self.sitters),
                strays: std::mem::take(&mut self.strays),
                strays_total: event.b.unsigned_abs(),
            },
        })
    }

    /// What came before `Spawned` for this worker, if anything. What came for another of the slot's is of no use any more.
    fn pidfd_inode(&mut self, slot: u32, pid: i32) -> u64 {
        let of_slot = self.pidfds.extract_if(.., |(of, ..)| *of == slot);
        of_slot
            .filter(|(_, of, _)| *of == pid)
            .last()
            .map_or(0, |(.., inode)| inode)
    }
}

fn process(event: Event) -> TreeProcess {
    TreeProcess {
        pid: event.a.unsigned_abs(),
        start_time: event.c,
        pidfd_inode: 0,
    }
}
