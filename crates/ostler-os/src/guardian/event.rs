//! The events of guardian and sitters.
//!
//! For one incarnation, in this order: `Spawned` or `SpawnFailed`; `Signalled` any number of times
//! (before `Spawned` if the end was ordered while exec was under way); `Exited`; possibly `Held`;
//! `TreeGone`. After `SpawnFailed` or `TreeGone` nothing of the incarnation is left, and its slot
//! takes the next one. If the sitter is killed, `SitterLost` comes instead.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use ostler_core::signal::Signal;

use crate::identity::{Here, ProcessIdentity, has_pidfs};
pub use crate::protocol::{Cause as SignalCause, Step as SpawnStep, TreeKill};
use crate::protocol::{Event, Payload};

/// What happened to a slot, or to the guardian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuardianEvent {
    /// The worker's program runs: exec succeeded (or the process was killed before exec could
    /// fail).
    Spawned {
        /// Its slot.
        slot: u32,
        /// Its incarnation.
        incarnation: u64,
        /// Its own process, which also leads a process group and a session. Start time and inode
        /// number were read while the pid could not be reused.
        worker: TreeProcess,
        /// Its sitter: every process of its tree is below it.
        sitter: TreeProcess,
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
    /// A signal was sent to the worker's process group, or (KILL) to its whole tree. Every signal
    /// but KILL is followed by CONT, so that a stopped worker receives it; that CONT has no event
    /// of its own.
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
    /// The worker's own process has ended and is reaped. Until `TreeGone`, other processes of its
    /// tree may live.
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
    /// The whole tree is gone: the sitter has no child left, and the cgroup, if there is one, is
    /// empty.
    TreeGone {
        /// Its slot.
        slot: u32,
        /// Its incarnation.
        incarnation: u64,
        /// The number of processes, other than the worker, that were killed and reaped.
        killed: u32,
        /// How they were killed.
        how: TreeKill,
    },
    /// The tree kill has not ended the tree yet, and goes on. At most once per incarnation.
    Held {
        /// Its slot.
        slot: u32,
        /// Its incarnation.
        incarnation: u64,
        /// Children that the sitter still has.
        children: u32,
        /// How the kill was attempted. `refused` is the likeliest cause.
        how: TreeKill,
    },
    /// The slot's sitter died unexpectedly. The guardian has killed and reaped its tree. The slot
    /// can be used again, with a new sitter.
    SitterLost {
        /// The slot.
        slot: u32,
        /// The last incarnation in the slot, or 0.
        incarnation: u64,
        /// How the sitter ended.
        status: ExitStatus,
        /// The number of processes that were reaped in its place, including the worker.
        killed: u32,
    },
    /// The slot's sitter has ended, as ordered by [`close`](super::Guardian::close).
    Closed {
        /// The slot.
        slot: u32,
    },
    /// The guardian could not forward an order to the slot's sitter. (A failed spawn is a
    /// `SpawnFailed` instead.)
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
        /// Children of the guardian that are not sitters. Only a dead sitter leaves any, for a
        /// moment.
        strays: Vec<TreeProcess>,
        /// The number of strays, including those not listed.
        strays_total: u32,
    },
    /// The guardian ended unexpectedly. Sitters end their trees, and their last events still come.
    Lost {
        /// How it ended; `None` when something else in this process reaped it.
        status: Option<ExitStatus>,
    },
    /// The last event: the guardian, every sitter and every tree have ended.
    Ended,
}

/// A child of a sitter or of the guardian. With boot and PID namespace it is an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeProcess {
    /// Its pid.
    pub pid: u32,
    /// Field 22 of /proc/PID/stat, in clock ticks since boot; 0 if unknown, for example without
    /// /proc.
    pub start_time: u64,
    /// The inode number of its pidfd; 0 if unknown. Only known for workers and sitters.
    pub pidfd_inode: u64,
}

impl TreeProcess {
    /// Its identity, if the guardian runs `here`.
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

/// Turns wire events into [`GuardianEvent`]s. Some are put together from several wire events.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    sitters: Vec<(u32, u32)>,
    strays: Vec<TreeProcess>,
    /// Slot, pid and pidfd inode of workers whose `Spawned` comes next.
    pidfds: Vec<(u32, i32, u64)>,
    /// Slot, start time and pidfd inode of sitters whose worker's `Spawned` comes next.
    parents: Vec<(u32, u64, u64)>,
}

impl Assembler {
    /// `None` for a part of a larger event, for an unknown signal, and for events of the handshake
    /// and the farewell.
    pub(super) fn accept(&mut self, event: Event) -> Option<GuardianEvent> {
        let Event {
            slot,
            incarnation,
            payload,
        } = event;
        Some(match payload {
            Payload::Ready { .. } | Payload::Bye | Payload::Pong => return None,
            Payload::Pidfd { worker, inode } => {
                self.pidfds.push((slot, worker, inode));
                return None;
            }
            Payload::Sitter { start_time, inode } => {
                self.parents.push((slot, start_time, inode));
                return None;
            }
            Payload::Spawned {
                worker,
                sitter,
                start_time,
                in_cgroup,
            } => GuardianEvent::Spawned {
                slot,
                incarnation,
                worker: TreeProcess {
                    pid: worker.unsigned_abs(),
                    start_time,
                    pidfd_inode: self.pidfd_inode(slot, worker),
                },
                sitter: self.parent(slot, sitter),
                in_cgroup,
            },
            Payload::SpawnFailed { step, errno } => GuardianEvent::SpawnFailed {
                slot,
                incarnation,
                step,
                errno,
            },
            Payload::Signalled { signal, cause } => GuardianEvent::Signalled {
                slot,
                incarnation,
                signal: Signal::from_number(signal)?,
                cause,
            },
            Payload::Exited { worker, status } => GuardianEvent::Exited {
                slot,
                incarnation,
                pid: worker.unsigned_abs(),
                status: ExitStatus::from_raw(status),
            },
            Payload::TreeGone { killed, how } => GuardianEvent::TreeGone {
                slot,
                incarnation,
                killed: killed.unsigned_abs(),
                how,
            },
            Payload::Held { children, how } => GuardianEvent::Held {
                slot,
                incarnation,
                children: children.unsigned_abs(),
                how,
            },
            Payload::SitterLost { killed, status } => GuardianEvent::SitterLost {
                slot,
                incarnation,
                status: ExitStatus::from_raw(status),
                killed: killed.unsigned_abs(),
            },
            Payload::Closed => GuardianEvent::Closed { slot },
            Payload::OrderFailed { errno, .. } => GuardianEvent::OrderFailed {
                slot,
                incarnation,
                errno,
            },
            Payload::CensusSitter { pid } => {
                self.sitters.push((slot, pid.unsigned_abs()));
                return None;
            }
            Payload::CensusStray { pid, start_time } => {
                self.strays.push(TreeProcess {
                    pid: pid.unsigned_abs(),
                    start_time,
                    pidfd_inode: 0,
                });
                return None;
            }
            Payload::Census { strays, .. } => GuardianEvent::Census {
                sitters: std::mem::take(&mut self.sitters),
                strays: std::mem::take(&mut self.strays),
                strays_total: strays.unsigned_abs(),
            },
        })
    }

    /// The sitter of the worker whose `Spawned` this is.
    fn parent(&mut self, slot: u32, pid: i32) -> TreeProcess {
        let of_slot = self.parents.extract_if(.., |(of, ..)| *of == slot);
        let (start_time, pidfd_inode) = of_slot.last().map_or((0, 0), |(_, start, inode)| (start, inode));
        TreeProcess {
            pid: pid.unsigned_abs(),
            start_time,
            pidfd_inode,
        }
    }

    /// The inode number that came before this worker's `Spawned`, if any. Older ones of the slot
    /// are dropped.
    fn pidfd_inode(&mut self, slot: u32, pid: i32) -> u64 {
        let of_slot = self.pidfds.extract_if(.., |(of, ..)| *of == slot);
        of_slot
            .filter(|(_, of, _)| *of == pid)
            .last()
            .map_or(0, |(.., inode)| inode)
    }
}
