//! A sitter: subreaper and parent of one slot's worker, one incarnation after the other.
//!
//! That it has no child left is the proof that a tree is gone. It ends itself when it is told to, or when the guardian
//! is gone, but never before its tree.

use crate::children;
use crate::failpoint::{self, Point};
use crate::fd;
use crate::life::{Do, Life, Phase, Policy, SIGKILL};
use crate::process::{self, DescriptorLimit, wake_at_parents_end};
use crate::protocol::{Cause, Event, EventKind, Order, OrderKind, Step, flag};
use crate::status;
use crate::sys::{self, Errno, Fd, PollFd};
use crate::tree::{self, Targets, TreeKill};
use crate::wait;
use crate::wire::{Fds, Outbox, Received, receive};
use crate::worker::{self, Failure, Launch, Outcome};

/// At most this many children are reaped before orders and time are looked at again.
const REAPS: u32 = 64;
/// Orders are taken while at least this many events can wait: more than one order and its whole life can bring.
const ROOM: usize = 17;
/// Children that an answer to a query names.
const NAMED: i32 = 8;
/// How long last words wait for a host that does not read, once guardian and tree are gone.
const LAST_WORDS: u64 = 5_000_000_000;
/// How often a draining group is looked at when nothing tells of a change.
const DRAIN_LOOK: u64 = 100_000_000;

/// Who still gives orders.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Master {
    Serving,
    /// The slot was closed: the sitter ends with its tree.
    Leaving,
    /// Nobody is left; the time is when the slot was last freed since, or the news came.
    Gone(u64),
}

struct Sitter {
    slot: u32,
    limit: DescriptorLimit,
    life: Life,
    master: Master,
    outbox: Outbox,
    /// The worker's pid until it is reaped, else 0.
    worker: i32,
    /// The worker's pid, also after it was reaped: the number of its process group.
    group: i32,
    start_time: u64,
    /// The inode number of the worker's pidfd; 0 when it can't be had.
    pidfd_inode: u64,
    in_cgroup: bool,
    cgroup: Option<Fd>,
    /// The inode of the cgroup that was last killed, which is spent; 0 for none.
    spent: u64,
    /// Tells the outcome of exec, until it has.
    exec: Option<Fd>,
    /// What exec or a step before it has failed with; told when the child is reaped.
    failure: Option<Failure>,
    kill: Option<TreeKill>,
    /// When to look at a draining group again.
    drain_look: u64,
    /// More children may have ended than were reaped.
    reap_again: bool,
}

/// The life of a sitter, in a freshly forked child of the guardian whose end of their socket is `fd::CONTROL`.
pub(crate) fn run(slot: u32, limit: DescriptorLimit) -> ! {
    process::set_name(c"ostler-sitter");
    if process::become_subreaper().is_err() {
        // It cannot fail (prctl(2)); if it does, there is no promise to keep here.
        process::exit(status::SETUP);
    }
    wake_at_parents_end();
    failpoint::reach(Point::SitterBegun);
    let mut sitter = Sitter {
        slot,
        limit,
        life: Life::new(),
        master: Master::Serving,
        outbox: Outbox::new(),
        worker: 0,
        group: 0,
        start_time: 0,
        pidfd_inode: 0,
        in_cgroup: false,
        cgroup: None,
        spent: 0,
        exec: None,
        failure: None,
        kill: None,
        drain_look: 0,
        reap_again: false,
    };
    loop {
        sitter.turn();
    }
}

impl Sitter {
    /// Waits for something to do, and does it.
    fn turn(&mut self) {
        let mut now = sys::now();
        self.outbox.flush(now);
        self.exit_when_done(now);

        let control = match self.master {
            Master::Gone(_) => PollFd::NONE,
            _ if self.outbox.room() < ROOM => PollFd::end_only(fd::CONTROL),
            _ => PollFd::readable(fd::CONTROL),
        };
        let room = if self.outbox.wants_room() {
            PollFd::writable(fd::EVENTS)
        } else {
            PollFd::NONE
        };
        let exec = self
            .exec
            .as_ref()
            .map_or(PollFd::NONE, |exec| PollFd::readable(exec.raw()));
        let mut polled = [PollFd::readable(fd::SIGNALS), control, exec, room];
        process::wait(&mut polled, self.next_time(now));
        now = sys::now();

        let [signals, control, exec, _] = polled;
        if exec.woke() {
            self.exec_told();
        }
        if signals.woke() {
            process::take_child_signal(fd::SIGNALS);
            self.reap_again = true;
        }
        if self.reap_again {
            self.reap(now);
        }
        if control.woke() {
            self.order(now);
        }
        let todo = self.life.tick(now);
        self.act(todo, now);
        self.look(now);
    }

    /// When a turn is due though nothing happens; `None` for never.
    fn next_time(&self, now: u64) -> Option<u64> {
        if self.reap_again {
            return Some(now);
        }
        let drain = (self.life.phase() == Phase::Draining && self.worker == 0).then_some(self.drain_look);
        let last_words = match self.master {
            Master::Gone(since) if self.life.phase() == Phase::Idle => Some(since + LAST_WORDS),
            _ => None,
        };
        let kill = self.kill.as_ref().map(TreeKill::next_look);
        [self.life.deadline(), drain, last_words, kill, self.outbox.retry_at()]
            .into_iter()
            .flatten()
            .min()
    }

    fn exit_when_done(&mut self, now: u64) {
        if self.life.phase() != Phase::Idle {
            return;
        }
        match self.master {
            Master::Serving => {}
            Master::Leaving if self.outbox.is_empty() => {
                failpoint::reach(Point::SitterLeaving);
                process::exit(status::DONE)
            }
            Master::Leaving => {}
            Master::Gone(since) => {
                if self.outbox.is_empty() || now >= since + LAST_WORDS {
                    process::exit(status::DONE);
                }
            }
        }
    }

    fn say(&mut self, kind: EventKind, a: i32, b: i32) {
        self.say_with(kind, a, b, 0, 0);
    }

    fn say_with(&mut self, kind: EventKind, a: i32, b: i32, c: u64, flags: u16) {
        let incarnation = self.life.incarnation();
        self.outbox.push(Event {
            kind,
            flags,
            slot: self.slot,
            incarnation,
            a,
            b,
            c,
        });
    }

    // Orders.

    fn order(&mut self, now: u64) {
        let mut bytes = [0; Order::SIZE];
        let mut fds = Fds::none();
        match receive(fd::CONTROL, &mut bytes, &mut fds) {
            Received::Nothing => {}
            Received::End => self.bereaved(Cause::GuardianDeath, now),
            Received::Message { length, truncated } => {
                // The guardian passes on what it has decoded itself; anything else is dropped with its descriptors.
                if let Some(order) = Order::decode(&bytes[..length]) {
                    self.obey(&order, &mut fds, truncated, now);
                }
            }
        }
    }

    fn obey(&mut self, order: &Order, fds: &mut Fds, truncated: bool, now: u64) {
        match order.kind {
            OrderKind::Spawn => {
                failpoint::reach(Point::SitterSpawning);
                self.spawn(order, fds, truncated);
            }
            OrderKind::End => {
                failpoint::reach(Point::SitterEnding);
                if order.incarnation == self.life.incarnation() {
                    let todo = self.life.end(order.signal, order.grace_ms, Cause::Stop, now);
                    self.act(todo, now);
                }
            }
            OrderKind::Close => self.master = Master::Leaving,
            OrderKind::Query => self.name_children(),
            OrderKind::HostGone => {
                if order.signal != 0 {
                    self.outbox.give_up();
                }
                self.bereaved(Cause::HostDeath, now);
            }
            // Not for sitters.
            OrderKind::Census | OrderKind::Quit => {}
        }
    }

    fn bereaved(&mut self, cause: Cause, now: u64) {
        if !matches!(self.master, Master::Gone(_)) {
            failpoint::reach(Point::SitterBereft);
            self.master = Master::Gone(now);
            let todo = self.life.bereaved(cause, now);
            self.act(todo, now);
        }
    }

    fn name_children(&mut self) {
        let (slot, incarnation, outbox) = (self.slot, self.life.incarnation(), &mut self.outbox);
        let (mut total, mut named) = (0, 0);
        // What could not be read is not named, and not counted.
        let _ = children::each(|pid| {
            total += 1;
            if named < NAMED {
                named += 1;
                let c = children::start_time(pid);
                outbox.push(Event {
                    a: pid,
                    c,
                    ..Event::new(EventKind::Child, slot, incarnation)
                });
            }
        });
        self.say(EventKind::Children, total, named);
    }

    // From the order to exec.

    fn spawn(&mut self, order: &Order, fds: &mut Fds, truncated: bool) {
        let before_stdin = 3 + usize::from(order.cgroup);
        let wanted = before_stdin + usize::from(order.stdin) + usize::from(order.listen);
        let (spec, stdout, stderr) = (fds.take(0), fds.take(1), fds.take(2));
        let cgroup = if order.cgroup { fds.take(3) } else { None };
        let stdin = if order.stdin { fds.take(before_stdin) } else { None };
        // Nothing that is cloned into a spent cgroup lives: the worker starts outside, and the host is told that.
        let cgroup =
            cgroup.filter(|cgroup| self.spent == 0 || sys::inode(cgroup).is_ok_and(|inode| inode != self.spent));
        let refused = if self.life.phase() != Phase::Idle {
            Some((Step::Slot, Errno::EBUSY))
        } else if truncated || fds.count() != wanted {
            Some((Step::Receive, Errno::EMFILE))
        } else {
            None
        };
        let (Some(spec), Some(stdout), Some(stderr), None) = (spec, stdout, stderr, refused) else {
            let (step, errno) = refused.unwrap_or((Step::Receive, Errno::EMFILE));
            return self.refuse(
                order.incarnation,
                Failure {
                    step: step as i32,
                    errno: errno.0,
                },
            );
        };
        let launch = Launch {
            spec: &spec,
            stdin: stdin.as_ref(),
            stdout: &stdout,
            stderr: &stderr,
            cgroup: cgroup.as_ref(),
            listen: fds.rest(wanted - usize::from(order.listen)),
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
                self.in_cgroup = born.in_cgroup;
                self.cgroup = cgroup.filter(|_| born.in_cgroup);
                self.start_time = children::start_time(born.pid);
                self.pidfd_inode = children::pidfd_inode(born.pid);
            }
        }
    }

    /// Says that an incarnation was not started; the one in the slot, if any, goes on.
    fn refuse(&mut self, incarnation: u64, failure: Failure) {
        let event = Event::new(EventKind::SpawnFailed, self.slot, incarnation);
        self.outbox.push(Event {
            a: failure.errno,
            b: failure.step,
            ..event
        });
    }

    /// The pipe of exec has something to tell.
    fn exec_told(&mut self) {
        let Some(exec) = &self.exec else { return };
        match worker::outcome(exec) {
            Outcome::Undecided => return,
            Outcome::Executed => {
                failpoint::reach(Point::SitterExecuted);
                self.life.executed();
                if self.start_time == 0 {
                    // It could not be read at the birth, for want of a descriptor or memory.
                    self.start_time = children::start_time(self.worker);
                }
                if self.pidfd_inode == 0 {
                    self.pidfd_inode = children::pidfd_inode(self.worker);
                }
                if self.pidfd_inode != 0 {
                    self.say_with(EventKind::Pidfd, self.worker, 0, self.pidfd_inode, 0);
                }
                let flags = if self.in_cgroup { flag::IN_CGROUP } else { 0 };
                self.say_with(
                    EventKind::Spawned,
                    self.worker,
                    process::own_pid(),
                    self.start_time,
                    flags,
                );
            }
            Outcome::Failed(failure) => self.failure = Some(failure),
        }
        self.exec = None;
    }

    // From the end of processes to the end of the tree.

    fn reap(&mut self, now: u64) {
        self.reap_again = false;
        for _ in 0..REAPS {
            match wait::peek_ended() {
                Ok(Some(ended)) if ended.pid == self.worker => self.worker_ended(ended, now),
                Ok(Some(ended)) => self.other_ended(ended, now),
                Ok(None) => return self.settle(false, now),
                Err(Errno::ECHILD) => return self.settle(true, now),
                // Nothing else is possible (wait(2)); a later SIGCHLD or look tries again.
                Err(_) => return,
            }
        }
        self.reap_again = true;
    }

    /// The worker has ended. It is reaped last: as long as it is not, its group's number is its own, and whatever is left
    /// in the group can be killed at a stroke.
    fn worker_ended(&mut self, ended: wait::Ended, now: u64) {
        failpoint::reach(Point::SitterWorkerEnded);
        if self.exec.is_some() {
            // The child was the pipe's only writer, so it tells now.
            self.exec_told();
        }
        if self.failure.is_none() {
            let todo = self.life.worker_ended(now);
            self.act(todo, now);
        }
        if let Some(kill) = &mut self.kill {
            kill.hurry(now);
        }
        // It has ended and is ours, so this succeeds at once.
        let _ = wait::reap(ended.pid);
        self.worker = 0;
        failpoint::reach(Point::SitterWorkerReaped);
        if self.failure.is_none() {
            self.say(EventKind::Exited, ended.status, ended.pid);
        }
        self.drain_look = now;
    }

    fn other_ended(&mut self, ended: wait::Ended, now: u64) {
        // As above.
        let _ = wait::reap(ended.pid);
        if let Some(kill) = &mut self.kill {
            if ended.status & 0x7f == SIGKILL {
                kill.killed += 1;
            }
            kill.hurry(now);
        }
        self.drain_look = now;
    }

    /// All that had ended is reaped; `childless` says whether anything is left.
    fn settle(&mut self, childless: bool, now: u64) {
        if childless && self.life.phase() != Phase::Idle {
            if let Some(failure) = self.failure.take() {
                self.refuse(self.life.incarnation(), failure);
                return self.free_slot(now);
            }
            if !self.cgroup.as_ref().is_some_and(tree::is_populated) {
                let (killed, flags) = self.kill.as_ref().map_or((0, 0), |kill| (kill.killed, kill.flags));
                failpoint::reach(Point::SitterTreeGone);
                self.say_with(EventKind::TreeGone, killed, 0, 0, flags);
                return self.free_slot(now);
            }
            // Members of the cgroup that are no children of ours: they are killed like the rest.
            if let Some(kill) = &mut self.kill {
                kill.flags |= flag::CGROUP_POPULATED;
            } else {
                let todo = self.life.drained();
                self.act(todo, now);
            }
        }
    }

    fn free_slot(&mut self, now: u64) {
        if let Master::Gone(since) = &mut self.master {
            *since = now;
        }
        self.life.finish();
        let killed = self
            .kill
            .take()
            .is_some_and(|kill| kill.flags & flag::KILLED_CGROUP != 0);
        if let Some(cgroup) = self.cgroup.take().filter(|_| killed) {
            self.spent = sys::inode(&cgroup).unwrap_or(0);
        }
        self.failure = None;
    }

    /// Looks at what resists, when it is time to.
    fn look(&mut self, now: u64) {
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
        let (held, flags) = (kill.is_held(now), kill.flags);
        if children > 0 && !core::mem::replace(&mut kill.told, true) {
            self.say(EventKind::Signalled, SIGKILL, Cause::TreeKill as i32);
        }
        if held {
            self.say_with(EventKind::Held, children, 0, 0, flags);
        }
        // Also when no SIGCHLD tells of it: a tracer that let go, a cgroup that has emptied.
        self.reap_again = true;
    }

    /// Does what the incarnation's life says.
    fn act(&mut self, todo: Do, now: u64) {
        match todo {
            Do::Nothing => {}
            Do::Signal(signal, cause) => {
                // No such group: the child has not come to setsid yet.
                let sent = match process::signal_group(self.worker, signal) {
                    Err(Errno::ESRCH) => process::signal(self.worker, signal),
                    outcome => outcome,
                };
                // A refusal (EPERM) shows in what the kill at the end of the grace reports.
                if sent.is_ok() {
                    let event = Event {
                        a: signal,
                        b: cause as i32,
                        ..Event::new(EventKind::Signalled, self.slot, self.life.incarnation())
                    };
                    match cause {
                        Cause::Stop => self.outbox.push_unhurried(event),
                        _ => self.outbox.push(event),
                    }
                }
            }
            Do::Kill(cause) => {
                failpoint::reach(Point::SitterKilling);
                let targets = Targets {
                    worker: self.worker,
                    cgroup: self.cgroup.as_ref(),
                };
                // After the worker's own end there is mostly nothing to kill: it is said when there is.
                let ordered = cause != Cause::TreeKill;
                self.kill = Some(TreeKill::begin(&targets, ordered, now));
                if ordered {
                    self.say(EventKind::Signalled, SIGKILL, cause as i32);
                }
            }
        }
    }
}
