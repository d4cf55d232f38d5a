//! The guardian itself: forwards orders to sitters, creates and reaps sitters, and ends everything
//! when the host is gone.

mod census;
mod ending;
mod hunt;
mod inbox;
mod sitters;

use crate::failpoint::{self, Point};
use crate::fd;
use crate::nursery::Nursery;
use crate::outbox::Outbox;
use crate::process::{self, DescriptorLimit};
use crate::protocol::{Event, Order, OrderKind, Payload, Step};
use crate::slots::{Slots, State};
use crate::sys::{self, Errno, PollFd};
use crate::wait;
use crate::wire::{Fds, send_with};
use ending::Course;
use hunt::Hunt;
use inbox::{Inbox, Taken};

const MILLISECOND: u64 = 1_000_000;

/// The most orders taken before anything else is looked at.
const ORDERS: u32 = 16;
/// The most children reaped before orders are looked at again.
const REAPS: u32 = 64;
/// Orders are taken while the outbox has room for at least this many events.
const ROOM: usize = 12;
/// Children are reaped while the outbox has room for at least this many: each may cause one, and
/// the last child `Bye`.
const REAP_ROOM: usize = 4;
/// How long the last events wait for a host that does not read.
const LAST_EVENTS: u64 = 5_000 * MILLISECOND;

struct Server {
    slots: Slots,
    /// The number of sitters.
    sitters: u32,
    nursery: Nursery,
    inbox: Inbox,
    outbox: Outbox,
    /// The descriptor limit of workers.
    limit: DescriptorLimit,
    /// The highest descriptor seen so far.
    highest: i32,
    course: Course,
    hunt: Option<Hunt>,
    /// The next slot of a census that is under way.
    census: Option<u32>,
    /// Censuses that were asked for meanwhile. Each question has its own answer: the host counts
    /// them.
    censuses_due: u32,
    reap_again: bool,
}

/// Serves until the end.
pub(crate) fn serve(slots: Slots, nursery: Nursery, outbox: Outbox, limit: DescriptorLimit) -> ! {
    let mut server = Server {
        slots,
        sitters: 0,
        nursery,
        inbox: Inbox::new(),
        outbox,
        limit,
        highest: fd::HOST,
        course: Course::Serving,
        hunt: None,
        census: None,
        censuses_due: 0,
        reap_again: false,
    };
    loop {
        server.turn();
    }
}

impl Server {
    /// Waits for something to do, and does it.
    fn turn(&mut self) {
        let mut now = sys::now();
        self.continue_census();
        self.outbox.flush(now);
        self.exit_when_done(now);

        let host_present = matches!(self.course, Course::Serving | Course::Quitting(_));
        let control = match host_present {
            true if self.outbox.room() < ROOM => PollFd::end_only(fd::CONTROL),
            true => PollFd::readable(fd::CONTROL),
            false => PollFd::NONE,
        };
        let host = if host_present {
            PollFd::readable(fd::HOST)
        } else {
            PollFd::NONE
        };
        let room = if self.outbox.wants_room() {
            PollFd::writable(fd::EVENTS)
        } else {
            PollFd::NONE
        };
        let mut polled = [PollFd::readable(fd::SIGNALS), control, host, room];
        process::wait(&mut polled, self.next_time(now));
        now = sys::now();

        let [signals, control, host, _] = polled;
        if signals.woke() {
            process::take_child_signal(fd::SIGNALS);
            self.reap_again = true;
        }
        if host.woke() {
            self.host_gone(true, now);
        }
        // Orders come last, so that the slot of a dead sitter can be used as soon as nothing is
        // left of it.
        if self.reap_again {
            self.reap(now);
        }
        self.hunt(now);
        let present = host_present && !host.woke();
        if present && (control.woke() || !self.inbox.is_empty()) {
            self.orders(now);
        }
        self.close_again(now);
    }

    /// When the next turn is due even if nothing happens; `None` for never.
    fn next_time(&self, now: u64) -> Option<u64> {
        let reap = self.reap_again && self.outbox.room() >= REAP_ROOM;
        let room = self.outbox.room() >= ROOM;
        if reap || (room && (self.census.is_some() || !self.inbox.is_empty())) {
            return Some(now);
        }
        [
            self.course.due(),
            self.hunt.as_ref().map(Hunt::next),
            self.outbox.retry_at(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn report(&mut self, slot: u32, incarnation: u64, payload: Payload) {
        self.outbox.push(Event::new(slot, incarnation, payload));
    }

    // Orders.

    /// Takes several orders, because stopping a pool sends a thousand. But not too many, and none
    /// after a spawn, before anything else is looked at. The first one is taken even without room:
    /// then the host has closed the socket.
    fn orders(&mut self, now: u64) {
        for _ in 0..ORDERS {
            if !self.order(now) || self.outbox.room() < ROOM {
                return;
            }
        }
    }

    /// Takes one order. Returns whether the next one may be taken at once.
    fn order(&mut self, now: u64) -> bool {
        let mut fds = Fds::none();
        match self.inbox.take(&mut fds) {
            Taken::Nothing => false,
            Taken::End => {
                self.host_gone(false, now);
                false
            }
            // Its descriptors are closed here.
            Taken::NoOrder => true,
            Taken::Order { order, truncated } => {
                self.highest = self.highest.max(fds.highest());
                self.execute(&order, &fds, truncated, now);
                order.kind != OrderKind::Spawn
            }
        }
    }

    fn execute(&mut self, order: &Order, fds: &Fds, truncated: bool, now: u64) {
        match order.kind {
            OrderKind::Spawn => {
                if let Err((step, errno)) = self.spawn(order, fds, truncated) {
                    let errno = errno.0;
                    self.report(order.slot, order.incarnation, Payload::SpawnFailed { step, errno });
                }
            }
            OrderKind::End => {
                // Without a sitter, nothing of the incarnation is left.
                let _ = self.forward(order);
                failpoint::reach(Point::GuardianEnded);
            }
            OrderKind::Close => match self.slots.get(order.slot).map_or(State::Empty, |slot| slot.state()) {
                State::Empty => self.report(order.slot, 0, Payload::Closed),
                State::Serving => {
                    if self.forward(order).is_ok() {
                        self.set_state(order.slot, State::Closing);
                    }
                }
                // `Closed` or `SitterLost` follows.
                State::Closing | State::Lost => {}
            },
            OrderKind::Census if self.census.is_some() => self.censuses_due = self.censuses_due.saturating_add(1),
            OrderKind::Census => self.census = Some(0),
            OrderKind::Ping => self.report(0, 0, Payload::Pong),
            OrderKind::Quit => {
                failpoint::reach(Point::GuardianQuitting);
                self.course = Course::Quitting(now);
                self.reap_again = true;
            }
            // Only for sitters.
            OrderKind::HostGone => {}
        }
    }

    /// Forwards an order to its slot's sitter. ENOENT if there is none; any other failure is
    /// reported to the host.
    fn forward(&mut self, order: &Order) -> sys::Result<()> {
        let Some(slot) = self.slots.get(order.slot).filter(|slot| slot.has_sitter()) else {
            return Err(Errno::ENOENT);
        };
        let outcome = sitters::send_order(slot, order);
        if let Err(Errno(errno)) = outcome {
            let order_failed = Payload::OrderFailed {
                errno,
                order: order.kind,
            };
            self.report(order.slot, order.incarnation, order_failed);
        }
        outcome
    }

    fn set_state(&mut self, slot: u32, state: State) {
        if let Some(slot) = self.slots.get(slot) {
            slot.set(state);
        }
    }

    fn spawn(&mut self, order: &Order, fds: &Fds, truncated: bool) -> Result<(), (Step, Errno)> {
        if self.course != Course::Serving {
            return Err((Step::Slot, Errno::ESHUTDOWN));
        }
        if truncated {
            return Err((Step::Receive, Errno::EMFILE));
        }
        match self.slots.at(order.slot).map_err(|errno| (Step::Slot, errno))?.state() {
            State::Serving => {}
            State::Empty => self.make_sitter(order.slot)?,
            State::Closing | State::Lost => return Err((Step::Slot, Errno::EBUSY)),
        }
        let slot = self.slots.at(order.slot).map_err(|errno| (Step::Slot, errno))?;
        failpoint::reach(Point::GuardianSpawning);
        send_with(slot.socket, &order.encode(), fds).map_err(|errno| (Step::Forward, errno))?;
        sitters::wake(slot);
        failpoint::reach(Point::GuardianSpawned);
        slot.incarnation = order.incarnation;
        Ok(())
    }

    // Children.

    fn reap(&mut self, now: u64) {
        for _ in 0..REAPS {
            if self.outbox.room() < REAP_ROOM {
                self.outbox.flush(now);
                if self.outbox.room() < REAP_ROOM {
                    // They stay unreaped until the host has read.
                    break;
                }
            }
            match wait::reap_any() {
                Ok(Some(ended)) => match self.slots.of_sitter(ended.pid) {
                    Some(slot) => self.sitter_ended(slot, ended.status, now),
                    None => self.stray_ended(now),
                },
                Ok(None) => {
                    self.reap_again = false;
                    return;
                }
                Err(_no_child) => {
                    self.reap_again = false;
                    return self.leave_if_ordered(now);
                }
            }
        }
        self.reap_again = true;
    }
}
