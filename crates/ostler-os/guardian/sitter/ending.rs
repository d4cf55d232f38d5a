//! From the end of a process to the end of the tree.

use super::{Master, Sitter};
use crate::failpoint::{self, Point};
use crate::life::{Do, Phase, SIGKILL};
use crate::process::{self, SIGCONT};
use crate::protocol::{Cause, Event, Payload, TreeKill};
use crate::sys::{self, Errno};
use crate::tree::{self, Kill, Targets};
use crate::wait;

/// The most children reaped before orders and time are looked at again.
const REAPS: u32 = 64;
/// How often a draining group is looked at when no event announces a change: 100 ms.
const DRAIN_LOOK: u64 = 100_000_000;

impl Sitter {
    pub(super) fn reap(&mut self, now: u64) {
        self.reap_again = false;
        for _ in 0..REAPS {
            match wait::peek_ended() {
                Ok(Some(ended)) if ended.pid == self.worker => self.worker_ended(ended, now),
                Ok(Some(ended)) => self.other_ended(ended, now),
                Ok(None) => return self.settle(false, now),
                Err(Errno::ECHILD) => return self.settle(true, now),
                // Nothing else is possible (wait(2)). A later SIGCHLD or look tries again.
                Err(_) => return,
            }
        }
        self.reap_again = true;
    }

    /// The worker has ended. Its group is killed first, in one call, and the worker reaped last:
    /// until then the group's number can't be reused.
    fn worker_ended(&mut self, ended: wait::Ended, now: u64) {
        failpoint::reach(Point::SitterWorkerEnded);
        if self.exec.is_some() {
            // The child was the pipe's only writer, so the outcome is known now.
            self.read_exec_outcome();
        }
        if self.failure.is_none() {
            let todo = self.life.worker_ended(now);
            self.act(todo, now);
        }
        if let Some(kill) = &mut self.kill {
            kill.hurry(now);
        }
        // It has ended and is our child, so this succeeds at once.
        let _ = wait::reap(ended.pid);
        self.worker = 0;
        self.memory = None;
        failpoint::reach(Point::SitterWorkerReaped);
        if self.failure.is_none() {
            self.report(Payload::Exited {
                worker: ended.pid,
                status: ended.status,
            });
        }
        self.drain_look = now;
    }

    fn other_ended(&mut self, ended: wait::Ended, now: u64) {
        // It has ended and is our child, so this succeeds at once.
        let _ = wait::reap(ended.pid);
        if let Some(kill) = &mut self.kill {
            if ended.status & 0x7f == SIGKILL {
                kill.killed += 1;
            }
            kill.hurry(now);
        }
        self.drain_look = now;
    }

    /// All children that had ended are reaped. `childless` says whether none is left.
    fn settle(&mut self, childless: bool, now: u64) {
        if !childless || self.life.phase() == Phase::Idle {
            return;
        }
        if let Some(failure) = self.failure.take() {
            self.refuse(self.life.incarnation(), failure);
            return self.free_slot(now);
        }
        if !self.cgroup.as_ref().is_some_and(tree::is_populated) {
            let (killed, how) = self
                .kill
                .as_ref()
                .map_or((0, TreeKill::NONE), |kill| (kill.killed, kill.how));
            failpoint::reach(Point::SitterTreeGone);
            self.report(Payload::TreeGone { killed, how });
            return self.free_slot(now);
        }
        // The cgroup has members that are not our children. They are killed, too.
        if let Some(kill) = &mut self.kill {
            kill.how.cgroup_populated = true;
        } else {
            let todo = self.life.drained();
            self.act(todo, now);
        }
    }

    fn free_slot(&mut self, now: u64) {
        if let Master::Gone(since) = &mut self.master {
            *since = now;
        }
        self.life.finish();
        let killed = self.kill.take().is_some_and(|kill| kill.how.cgroup);
        if let Some(cgroup) = self.cgroup.take().filter(|_| killed) {
            self.spent = sys::inode(&cgroup).unwrap_or(0);
        }
        self.failure = None;
    }

    /// Looks at a draining group, and at a tree that is being killed, when it is time to.
    pub(super) fn look(&mut self, now: u64) {
        if self.life.phase() == Phase::Draining && self.worker == 0 && now >= self.drain_look {
            self.drain_look = now + DRAIN_LOOK;
            if !tree::group_has_child(self.group) {
                let todo = self.life.drained();
                self.act(todo, now);
            }
        }
        let targets = Targets {
            worker: self.worker,
            cgroup: self.cgroup.as_ref(),
        };
        let Some(kill) = self.kill.as_mut().filter(|kill| now >= kill.next_look()) else {
            return;
        };
        let children = kill.look(&targets, now);
        let (held, how) = (kill.is_held(now), kill.how);
        if children > 0 && !core::mem::replace(&mut kill.reported, true) {
            self.report(Payload::Signalled {
                signal: SIGKILL,
                cause: Cause::TreeKill,
            });
        }
        if held {
            self.report(Payload::Held { children, how });
        }
        // No SIGCHLD announces a tracer that let go, or an empty cgroup.
        self.reap_again = true;
    }

    /// Carries out what the incarnation's life requires.
    pub(super) fn act(&mut self, todo: Do, now: u64) {
        match todo {
            Do::Nothing => {}
            Do::Signal(signal, cause) => self.signal_worker(signal, cause),
            Do::Kill(cause) => {
                failpoint::reach(Point::SitterKilling);
                let targets = Targets {
                    worker: self.worker,
                    cgroup: self.cgroup.as_ref(),
                };
                // After the worker's own end there is usually nothing to kill: it is reported when
                // there is.
                let ordered = cause != Cause::TreeKill;
                self.kill = Some(Kill::begin(&targets, ordered, now));
                if ordered {
                    self.report(Payload::Signalled { signal: SIGKILL, cause });
                }
            }
        }
    }

    /// Signals the worker's group, then continues it: in a stopped process every signal but KILL
    /// stays pending.
    fn signal_worker(&mut self, signal: i32, cause: Cause) {
        let group = self.worker;
        // No such group: the child has not called setsid yet.
        let sent = match process::signal_group(group, signal) {
            Err(Errno::ESRCH) => process::signal(group, signal),
            outcome => outcome,
        };
        // A refusal (EPERM) shows in the report of the kill at the end of the grace period.
        if sent.is_err() {
            return;
        }
        let _ = process::signal_group(group, SIGCONT);
        let event = Event::new(self.slot, self.life.incarnation(), Payload::Signalled { signal, cause });
        match cause {
            Cause::Stop => self.outbox.push_unhurried(event),
            _ => self.outbox.push(event),
        }
    }
}
