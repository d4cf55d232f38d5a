//! A sitter: subreaper and parent of one slot's worker, for one incarnation after the other.
//!
//! A sitter without a child is the proof that the tree is gone. It exits when ordered to or when
//! the guardian is gone, but never before its tree.

mod ending;
mod spawn;

use crate::children;
use crate::failpoint::{self, Point};
use crate::fd;
use crate::life::{Life, Phase};
use crate::outbox::Outbox;
use crate::process::{self, DescriptorLimit, wake_at_parents_end};
use crate::protocol::{Cause, Event, Order, OrderKind, Payload};
use crate::status;
use crate::sys::{self, Fd, PollFd};
use crate::tree::Kill;
use crate::wire::{Fds, Received, receive};
use crate::worker::{Failure, Memory};

/// Orders are taken while the outbox has room for at least this many events: more than an order and
/// its whole life cause.
const ROOM: usize = 17;
/// How long the last events wait for a host that does not read, once guardian and tree are gone: 5
/// s.
const LAST_EVENTS: u64 = 5_000_000_000;

/// Where orders come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Master {
    Serving,
    /// The slot is closed: the sitter exits with its tree.
    Leaving,
    /// Host or guardian is gone. The time is when that was noticed, or when the slot was last freed
    /// since then.
    Gone(u64),
}

struct Sitter {
    slot: u32,
    /// Its own start time and the inode number of its pidfd.
    own_start: u64,
    own_inode: u64,
    limit: DescriptorLimit,
    life: Life,
    master: Master,
    outbox: Outbox,
    /// The worker's pid; 0 once it is reaped.
    worker: i32,
    /// The number of the worker's process group: the worker's pid, also after it is reaped.
    group: i32,
    start_time: u64,
    /// The inode number of the worker's pidfd; 0 if unknown.
    pidfd_inode: u64,
    in_cgroup: bool,
    cgroup: Option<Fd>,
    /// The inode of the cgroup that was last killed, which is spent; 0 for none.
    spent: u64,
    /// The pipe that reports the outcome of exec, until it has.
    exec: Option<Fd>,
    /// What the worker uses until it has exec'd or is reaped.
    memory: Option<Memory>,
    /// Why the worker could not be started. Reported when the child is reaped.
    failure: Option<Failure>,
    kill: Option<Kill>,
    /// When to look at a draining group again.
    drain_look: u64,
    /// Not all children that have ended are reaped.
    reap_again: bool,
}

/// Runs a sitter, in a freshly forked child of the guardian. Its end of their socket is
/// `fd::CONTROL`. `start_time` is its own, as `/proc` shows it.
pub(crate) fn run(slot: u32, limit: DescriptorLimit, start_time: u64) -> ! {
    process::set_name(c"ostler-sitter");
    if process::become_subreaper().is_err() {
        // It can't fail (prctl(2)). Without it, a sitter can't keep its promise.
        process::exit(status::SETUP);
    }
    wake_at_parents_end();
    failpoint::reach(Point::SitterBegun);
    let mut sitter = Sitter {
        slot,
        own_start: start_time,
        own_inode: children::pidfd_inode(process::own_pid()),
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
        memory: None,
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
            self.read_exec_outcome();
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

    /// When the next turn is due even if nothing happens; `None` for never.
    fn next_time(&self, now: u64) -> Option<u64> {
        if self.reap_again {
            return Some(now);
        }
        let drain = (self.life.phase() == Phase::Draining && self.worker == 0).then_some(self.drain_look);
        let last_events = match self.master {
            Master::Gone(since) if self.life.phase() == Phase::Idle => Some(since + LAST_EVENTS),
            _ => None,
        };
        let kill = self.kill.as_ref().map(Kill::next_look);
        [self.life.deadline(), drain, last_events, kill, self.outbox.retry_at()]
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
                if self.outbox.is_empty() || now >= since + LAST_EVENTS {
                    process::exit(status::DONE);
                }
            }
        }
    }

    /// Reports something about the present incarnation.
    fn report(&mut self, payload: Payload) {
        let event = Event::new(self.slot, self.life.incarnation(), payload);
        self.outbox.push(event);
    }

    // Orders.

    fn order(&mut self, now: u64) {
        let mut bytes = [0; Order::SIZE];
        let mut fds = Fds::none();
        match receive(fd::CONTROL, &mut bytes, &mut fds) {
            Received::Nothing => {}
            Received::End => self.master_gone(Cause::GuardianDeath, now),
            Received::Message { length, truncated } => {
                // The guardian forwards only what it has decoded. Anything else is dropped, with
                // its descriptors.
                if let Some(order) = Order::decode(&bytes[..length]) {
                    self.execute(&order, &mut fds, truncated, now);
                }
            }
        }
    }

    fn execute(&mut self, order: &Order, fds: &mut Fds, truncated: bool, now: u64) {
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
            OrderKind::HostGone => {
                if order.signal != 0 {
                    self.outbox.abandon();
                }
                self.master_gone(Cause::HostDeath, now);
            }
            // Only for the guardian.
            OrderKind::Census | OrderKind::Quit | OrderKind::Ping => {}
        }
    }

    fn master_gone(&mut self, cause: Cause, now: u64) {
        if !matches!(self.master, Master::Gone(_)) {
            failpoint::reach(Point::SitterGuardianGone);
            self.master = Master::Gone(now);
            let todo = self.life.master_gone(cause, now);
            self.act(todo, now);
        }
    }
}
