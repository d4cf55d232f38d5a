//! From the order to spawn to exec.

use super::Sitter;
use crate::children;
use crate::failpoint::{self, Point};
use crate::life::{Phase, Policy};
use crate::process;
use crate::protocol::{Event, Order, Payload, Step};
use crate::sys::{self, Errno};
use crate::wire::Fds;
use crate::worker::{self, Failure, Launch, Outcome};

impl Sitter {
    pub(super) fn spawn(&mut self, order: &Order, fds: &mut Fds, truncated: bool) {
        let before_stdin = 3 + usize::from(order.cgroup);
        let expected = before_stdin + usize::from(order.stdin) + usize::from(order.listen);
        let (spec, stdout, stderr) = (fds.take(0), fds.take(1), fds.take(2));
        let cgroup = if order.cgroup { fds.take(3) } else { None };
        let stdin = if order.stdin { fds.take(before_stdin) } else { None };
        // Whatever is cloned into a spent cgroup is killed: the worker starts outside, and the host
        // is informed.
        let cgroup =
            cgroup.filter(|cgroup| self.spent == 0 || sys::inode(cgroup).is_ok_and(|inode| inode != self.spent));
        let refusal = if self.life.phase() != Phase::Idle {
            Some((Step::Slot, Errno::EBUSY))
        } else if truncated || fds.count() != expected {
            Some((Step::Receive, Errno::EMFILE))
        } else {
            None
        };
        let (Some(spec), Some(stdout), Some(stderr), None) = (spec, stdout, stderr, refusal) else {
            let (step, errno) = refusal.unwrap_or((Step::Receive, Errno::EMFILE));
            return self.refuse(order.incarnation, Failure { step, errno });
        };
        let launch = Launch {
            spec: &spec,
            stdin: stdin.as_ref(),
            stdout: &stdout,
            stderr: &stderr,
            cgroup: cgroup.as_ref(),
            listen: fds.rest(expected - usize::from(order.listen)),
            limit: self.limit,
        };
        match worker::start(&launch) {
            Err(failure) => self.refuse(order.incarnation, failure),
            Ok(born) => {
                failpoint::reach(Point::SitterForked);
                self.life.begin(
                    order.incarnation,
                    Policy {
                        signal: order.signal,
                        grace_ms: order.grace_ms,
                    },
                );
                (self.worker, self.group) = (born.pid, born.pid);
                self.exec = Some(born.exec);
                self.memory = Some(born.memory);
                self.in_cgroup = born.in_cgroup;
                self.cgroup = cgroup.filter(|_| born.in_cgroup);
                self.start_time = born.start_time.unwrap_or_else(|| children::start_time(born.pid));
                self.pidfd_inode = children::pidfd_inode(born.pid);
            }
        }
    }

    /// Reports that an incarnation was not started. The one in the slot, if any, goes on.
    pub(super) fn refuse(&mut self, incarnation: u64, Failure { step, errno }: Failure) {
        let errno = errno.0;
        self.outbox
            .push(Event::new(self.slot, incarnation, Payload::SpawnFailed { step, errno }));
    }

    /// Reads the outcome of exec, if the pipe has it.
    pub(super) fn read_exec_outcome(&mut self) {
        let Some(exec) = &self.exec else { return };
        match worker::outcome(exec) {
            Outcome::Undecided => return,
            Outcome::Executed => {
                failpoint::reach(Point::SitterExecuted);
                // The pipe was closed by the exec, or by the end of the process: both leave the
                // memory before they close descriptors.
                self.memory = None;
                self.life.executed();
                self.report_spawned();
            }
            Outcome::Failed(failure) => self.failure = Some(failure),
        }
        self.exec = None;
    }

    fn report_spawned(&mut self) {
        let worker = self.worker;
        // For want of a descriptor or memory they may have been unreadable at the birth.
        if self.start_time == 0 {
            self.start_time = children::start_time(worker);
        }
        if self.pidfd_inode == 0 {
            self.pidfd_inode = children::pidfd_inode(worker);
        }
        let inode = self.pidfd_inode;
        if inode != 0 {
            self.report(Payload::Pidfd { worker, inode });
        }
        self.report(Payload::Sitter {
            start_time: self.own_start,
            inode: self.own_inode,
        });
        self.report(Payload::Spawned {
            worker,
            sitter: process::own_pid(),
            start_time: self.start_time,
            in_cgroup: self.in_cgroup,
        });
    }
}
