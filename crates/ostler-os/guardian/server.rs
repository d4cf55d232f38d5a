//! The guardian itself: passes orders on to sitters, makes and reaps them, and ends everything when the host is gone.

mod census;

use crate::children;
use crate::failpoint::{self, Point};
use crate::fd;
use crate::process::{self, DescriptorLimit};
use crate::protocol::{Event, EventKind, Order, OrderKind, Step};
use crate::sitter;
use crate::slots::{Slot, Slots, State};
use crate::status;
use crate::sys::{self, Errno, Fd, PollFd};
use crate::tree;
use crate::wait;
use crate::wire::{Fds, Outbox, Received, receive, send, send_with};

const MILLISECOND: u64 = 1_000_000;

/// At most this many orders are taken before anything else is looked at.
const ORDERS: u32 = 16;
/// At most this many children are reaped before orders are looked at again.
const REAPS: u32 = 64;
/// Orders are taken while at least this many events can wait.
const ROOM: usize = 12;
/// Children are reaped while at least this many can: each may be told of, and the last one's end brings the last word.
const REAP_ROOM: usize = 4;
/// Between two looks for strays: from the first to the last, doubled each time.
const FIRST_PAUSE: u64 = 2 * MILLISECOND;
const LONGEST_PAUSE: u64 = 512 * MILLISECOND;
/// How often slots that could not be told to close are told again.
const CLOSE_AGAIN: u64 = 100 * MILLISECOND;
/// How long last words wait for a host that does not read.
const LAST_WORDS: u64 = 5_000 * MILLISECOND;

/// The kill of what dead sitters left: every child that is no sitter.
struct Hunt {
    next: u64,
    pause: u64,
    killed: i32,
}

/// How the guardian comes to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Course {
    Serving,
    /// Told to quit: closes slots until none is left. The time is when to tell those again that could not be told.
    Quitting(u64),
    /// The host is gone: every sitter knows.
    Bereft,
    /// No child is left, and the last word is said, at this time.
    Leaving(u64),
}

struct Server {
    slots: Slots,
    /// How many sitters there are.
    sitters: u32,
    outbox: Outbox,
    /// What workers get back.
    limit: DescriptorLimit,
    /// The highest descriptor seen so far.
    highest: i32,
    course: Course,
    hunt: Option<Hunt>,
    /// The next slot that a running census looks at.
    census: Option<u32>,
    reap_again: bool,
}

/// Serves until the end.
pub(crate) fn serve(slots: Slots, outbox: Outbox, limit: DescriptorLimit) -> ! {
    let mut server = Server {
        slots,
        sitters: 0,
        outbox,
        limit,
        highest: fd::HOST,
        course: Course::Serving,
        hunt: None,
        census: None,
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
        self.go_on_with_census();
        self.outbox.flush(now);
        if let Course::Leaving(since) = self.course
            && (self.outbox.is_empty() || now >= since + LAST_WORDS)
        {
            process::exit(status::DONE);
        }

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
        // Orders come last: a slot whose sitter has died can be used again as soon as nothing is left of it.
        if self.reap_again {
            self.reap(now);
        }
        self.hunt(now);
        if control.woke() && !host.woke() {
            self.orders(now);
        }
        self.close_again(now);
    }

    /// When a turn is due though nothing happens; `None` for never.
    fn next_time(&self, now: u64) -> Option<u64> {
        let reap = self.reap_again && self.outbox.room() >= REAP_ROOM;
        if reap || (self.census.is_some() && self.outbox.room() >= ROOM) {
            return Some(now);
        }
        let course = match self.course {
            Course::Quitting(again) => Some(again),
            Course::Leaving(since) => Some(since + LAST_WORDS),
            Course::Serving | Course::Bereft => None,
        };
        [course, self.hunt.as_ref().map(|hunt| hunt.next), self.outbox.retry_at()]
            .into_iter()
            .flatten()
            .min()
    }

    fn say(&mut self, kind: EventKind, slot: u32, incarnation: u64, a: i32, b: i32) {
        self.outbox.push(Event {
            a,
            b,
            ..Event::new(kind, slot, incarnation)
        });
    }

    // Orders.

    /// Takes what orders there are: a pool that is stopped sends a thousand. But not many, and none behind a spawn, before
    /// anything else is looked at. The first is taken without room, too: then control woke because the host has let go.
    fn orders(&mut self, now: u64) {
        for _ in 0..ORDERS {
            if !self.order(now) || self.outbox.room() < ROOM {
                return;
            }
        }
    }

    /// Takes one order; whether the next may be taken at once.
    fn order(&mut self, now: u64) -> bool {
        let (mut bytes, mut fds) = ([0; Order::SIZE], Fds::none());
        match receive(fd::CONTROL, &mut bytes, &mut fds) {
            Received::Nothing => false,
            Received::End => {
                self.host_gone(false, now);
                false
            }
            Received::Message { length, truncated } => {
                self.highest = self.highest.max(fds.highest());
                // Both ends have the same version, so anything else is no order; its descriptors are closed here.
                Order::decode(&bytes[..length]).is_none_or(|order| {
                    self.obey(&order, &fds, truncated, now);
                    order.kind != OrderKind::Spawn
                })
            }
        }
    }

    fn obey(&mut self, order: &Order, fds: &Fds, truncated: bool, now: u64) {
        match order.kind {
            OrderKind::Spawn => {
                if let Err((step, errno)) = self.spawn(order, fds, truncated) {
                    self.say(
                        EventKind::SpawnFailed,
                        order.slot,
                        order.incarnation,
                        errno.0,
                        step as i32,
                    );
                }
            }
            OrderKind::End => {
                // Without a sitter nothing of the incarnation is left: it has ended.
                let _ = self.pass_on_or_tell(order);
                failpoint::reach(Point::GuardianEnded);
            }
            OrderKind::Query => {
                if self.pass_on_or_tell(order) == Err(Errno::ENOENT) {
                    self.say(
                        EventKind::OrderFailed,
                        order.slot,
                        0,
                        Errno::ENOENT.0,
                        order.kind as i32,
                    );
                }
            }
            OrderKind::Close => match self.slots.get(order.slot).map_or(State::Empty, |slot| slot.state()) {
                State::Empty => self.say(EventKind::Closed, order.slot, 0, 0, 0),
                State::Serving => {
                    if self.pass_on_or_tell(order).is_ok() {
                        self.set_state(order.slot, State::Closing);
                    }
                }
                // Said already, or SitterLost is about to say that there is none any more.
                State::Closing | State::Lost => {}
            },
            OrderKind::Census => self.census = self.census.or(Some(0)),
            OrderKind::Quit => {
                failpoint::reach(Point::GuardianQuitting);
                self.course = Course::Quitting(now);
                self.reap_again = true;
            }
            // Not for guardians.
            OrderKind::HostGone => {}
        }
    }

    /// Gives an order to its slot's sitter: ENOENT when there is none; any other failure is told to the host.
    fn pass_on_or_tell(&mut self, order: &Order) -> sys::Result<()> {
        let Some(slot) = self.slots.get(order.slot).filter(|slot| slot.has_sitter()) else {
            return Err(Errno::ENOENT);
        };
        let outcome = tell(slot, order);
        if let Err(errno) = outcome {
            self.say(
                EventKind::OrderFailed,
                order.slot,
                order.incarnation,
                errno.0,
                order.kind as i32,
            );
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
        failpoint::reach(Point::GuardianSpawned);
        slot.incarnation = order.incarnation;
        Ok(())
    }

    fn make_sitter(&mut self, slot: u32) -> Result<(), (Step, Errno)> {
        let (ours, theirs) = sys::socket_pair().map_err(|errno| (Step::SitterSocket, errno))?;
        self.highest = self.highest.max(ours.raw()).max(theirs.raw());
        let birth = Birth {
            slot,
            control: theirs.raw(),
            highest: self.highest,
            limit: self.limit,
        };
        let pid = process::fork_to(become_sitter, &raw const birth as usize);
        let pid = pid.map_err(|errno| (Step::SitterFork, errno))?;
        failpoint::reach(Point::GuardianForked);
        self.sitters += 1;
        let place = self.slots.at(slot).map_err(|errno| (Step::Slot, errno))?;
        place.sitter = pid;
        place.socket = ours.into_raw();
        place.incarnation = 0;
        place.set(State::Serving);
        Ok(())
    }

    // The host's end, and ours.

    /// The host is dead, or it has let go. Every sitter is told, and then loses its socket.
    fn host_gone(&mut self, dead: bool, now: u64) {
        failpoint::reach(Point::GuardianBereft);
        self.course = Course::Bereft;
        self.census = None;
        if dead {
            self.outbox.give_up();
        }
        let order = Order {
            signal: i32::from(dead),
            ..Order::new(OrderKind::HostGone, 0, 0)
        };
        for slot in self.slots.all().iter_mut().filter(|slot| slot.has_sitter()) {
            // Where this does not go through, the closed socket says the same.
            let _ = tell(slot, &order);
            close_socket(&mut slot.socket);
            failpoint::reach(Point::GuardianToldOne);
        }
        self.reap(now);
    }

    /// Tells every slot to close, and those again that could not take it in.
    fn close_again(&mut self, now: u64) {
        let Course::Quitting(at) = self.course else { return };
        if now < at {
            return;
        }
        self.course = Course::Quitting(now + CLOSE_AGAIN);
        for (number, slot) in self
            .slots
            .all()
            .iter_mut()
            .enumerate()
            .filter(|(_, slot)| slot.state() == State::Serving)
        {
            let order = Order::new(OrderKind::Close, u32::try_from(number).unwrap_or(u32::MAX), 0);
            if tell(slot, &order).is_ok() {
                slot.set(State::Closing);
            }
        }
    }

    // Children.

    fn reap(&mut self, now: u64) {
        for _ in 0..REAPS {
            if self.outbox.room() < REAP_ROOM {
                self.outbox.flush(now);
                if self.outbox.room() < REAP_ROOM {
                    // They wait, unreaped, until the host has read.
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
                Err(_childless) => {
                    self.reap_again = false;
                    return self.leave_if_told(now);
                }
            }
        }
        self.reap_again = true;
    }

    /// A sitter that ends by itself has no child left. One that is killed leaves its tree to us.
    fn sitter_ended(&mut self, number: u32, status: i32, now: u64) {
        failpoint::reach(Point::GuardianReaped);
        self.sitters = self.sitters.saturating_sub(1);
        let bereft = self.course == Course::Bereft;
        let Some(slot) = self.slots.get(number) else { return };
        close_socket(&mut slot.socket);
        slot.status = status;
        match (status, slot.state()) {
            // Nobody asked, and perhaps nobody reads: a thousand of these must not hold up the end.
            (0, _) if bereft => slot.set(State::Empty),
            (0, State::Closing) => {
                slot.set(State::Empty);
                self.say(EventKind::Closed, number, 0, 0, 0);
            }
            _ => {
                slot.set(State::Lost);
                let killed = self.hunt.as_ref().map_or(0, |hunt| hunt.killed);
                self.hunt = Some(Hunt {
                    next: now,
                    pause: FIRST_PAUSE,
                    killed,
                });
            }
        }
    }

    fn stray_ended(&mut self, now: u64) {
        if let Some(hunt) = &mut self.hunt {
            hunt.killed += 1;
            hunt.pause = FIRST_PAUSE;
            hunt.next = hunt.next.min(now + FIRST_PAUSE);
        }
    }

    /// Kills every child that is no sitter, until a whole look at our children finds none.
    ///
    /// A child of ours stays in sight until we reap it, and a stray's children become ours before we can reap it: so a
    /// look that finds none has missed none.
    fn hunt(&mut self, now: u64) {
        let Some(hunt) = self.hunt.as_mut().filter(|hunt| now >= hunt.next) else {
            return;
        };
        hunt.next = now + hunt.pause;
        hunt.pause = (hunt.pause * 2).min(LONGEST_PAUSE);
        let own_group = process::group_of(0).unwrap_or(0);
        let mut found = false;
        let slots = &mut self.slots;
        let looked = children::each(|child| {
            if slots.of_sitter(child).is_none() {
                found = true;
                // Refused (EPERM) or gone already: the next look sees.
                let _ = tree::kill_with_group(child, own_group);
            }
        });
        self.reap_again = true;
        if looked.is_ok() && !found && self.report_lost() {
            self.hunt = None;
        }
    }

    /// Says which sitters were lost, now that nothing of them is left. False when there was no room for all.
    fn report_lost(&mut self) -> bool {
        let killed = self.hunt.as_ref().map_or(0, |hunt| hunt.killed);
        let mut left = killed;
        for (number, slot) in self
            .slots
            .all()
            .iter_mut()
            .enumerate()
            .filter(|(_, slot)| slot.state() == State::Lost)
        {
            if self.outbox.room() < ROOM / 2 {
                return false;
            }
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            let event = Event::new(EventKind::SitterLost, number, slot.incarnation);
            self.outbox.push(Event {
                a: left,
                b: slot.status,
                ..event
            });
            left = 0;
            slot.set(State::Empty);
        }
        true
    }

    /// There is no child. Ends the guardian if that was all it waited for.
    fn leave_if_told(&mut self, now: u64) {
        let done = matches!(self.course, Course::Quitting(_) | Course::Bereft);
        if done && self.sitters == 0 && self.hunt.is_none() {
            failpoint::reach(Point::GuardianLeaving);
            self.say(EventKind::Bye, 0, 0, 0, 0);
            self.course = Course::Leaving(now);
        }
    }
}

/// What a sitter is born with.
struct Birth {
    slot: u32,
    /// Its end of the socket to the guardian.
    control: i32,
    /// The highest descriptor that it may have inherited.
    highest: i32,
    limit: DescriptorLimit,
}

/// The child's first steps on its way to be a sitter; `birth` is the address of a [`Birth`].
extern "C" fn become_sitter(birth: usize) -> ! {
    // SAFETY: a copy of the guardian's memory as it was at the fork, with that frame in it.
    let birth = unsafe { (birth as *const Birth).read() };
    // SAFETY: it was read out.
    unsafe { process::forget_parents_frames() };
    if sys::duplicate_to(birth.control, fd::CONTROL, true).is_err() {
        process::exit(status::SETUP);
    }
    // The host's pidfd and the other sitters' sockets: nobody but the guardian may keep those open.
    sys::close_from(fd::HOST, birth.highest);
    sitter::run(birth.slot, birth.limit);
}

/// Gives a sitter an order, and wakes it: somebody may have stopped it. It is our child and not reaped, so the signal can
/// hit nobody else.
fn tell(slot: &Slot, order: &Order) -> sys::Result<()> {
    let outcome = send(slot.socket, &order.encode());
    let _ = process::signal(slot.sitter, process::SIGCONT);
    outcome
}

fn close_socket(socket: &mut i32) {
    if *socket > 0 {
        drop(Fd::own(*socket));
        *socket = 0;
    }
}
