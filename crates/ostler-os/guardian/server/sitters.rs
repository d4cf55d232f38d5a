//! Creates sitters, and sends orders to them.

use super::Server;
use crate::children;
use crate::failpoint::{self, Point};
use crate::fd;
use crate::nursery::Place;
use crate::process::{self, DescriptorLimit};
use crate::protocol::{Order, Step};
use crate::sitter;
use crate::slots::{Slot, State};
use crate::status;
use crate::sys::{self, Errno, Fd};
use crate::wire::send;

impl Server {
    pub(super) fn make_sitter(&mut self, slot: u32) -> Result<(), (Step, Errno)> {
        let (ours, theirs) = sys::socket_pair().map_err(|errno| (Step::SitterSocket, errno))?;
        self.highest = self.highest.max(ours.raw()).max(theirs.raw());
        let place = self.nursery.take(&theirs);
        let birth = Birth {
            slot,
            place,
            control: place.map_or(theirs.raw(), Place::descriptor),
            highest: self.highest,
            limit: self.limit,
            ticks: sys::boot_ticks(),
        };
        let pid = process::fork_to(become_sitter, &raw const birth as usize, place.is_some());
        if let Some(place) = place {
            self.nursery.given(place, pid.unwrap_or(0));
        }
        let pid = pid.map_err(|errno| (Step::SitterFork, errno))?;
        failpoint::reach(Point::GuardianForked);
        self.sitters += 1;
        let slot = self.slots.at(slot).map_err(|errno| (Step::Slot, errno))?;
        slot.sitter = pid;
        slot.socket = ours.into_raw();
        slot.incarnation = 0;
        slot.set(State::Serving);
        Ok(())
    }
}

/// What a new sitter starts with.
struct Birth {
    slot: u32,
    /// Where its socket is while it shares the guardian's descriptors; `None` if it has a copy of
    /// all of them.
    place: Option<Place>,
    /// Its end of the socket to the guardian.
    control: i32,
    /// The highest descriptor that it may have inherited.
    highest: i32,
    limit: DescriptorLimit,
    /// The clock before the fork.
    ticks: u64,
}

/// The first steps of a new sitter. `birth` is the address of a [`Birth`].
extern "C" fn become_sitter(birth: usize) -> ! {
    // SAFETY: this is a copy of the guardian's memory at the fork, and that frame is in it.
    let birth = unsafe { (birth as *const Birth).read() };
    // SAFETY: `birth` was read out of those frames, and nothing else refers to them.
    unsafe { process::forget_parents_frames() };
    if birth.place.is_some_and(|place| place.leave().is_err()) {
        process::exit(status::SETUP);
    }
    if sys::duplicate_to(birth.control, fd::CONTROL, true).is_err() {
        process::exit(status::SETUP);
    }
    // Only the guardian may keep the host's pidfd and the other sitters' sockets open.
    sys::close_from(fd::HOST, birth.highest);
    // Unless a tick came since the fork, only `/proc` knows on which side of it that was.
    let start_time = match sys::boot_ticks() {
        ticks if ticks == birth.ticks => ticks,
        _ => children::start_time(process::own_pid()),
    };
    sitter::run(birth.slot, birth.limit, start_time);
}

/// Sends an order to a sitter, and wakes it.
pub(super) fn send_order(slot: &Slot, order: &Order) -> sys::Result<()> {
    let outcome = send(slot.socket, &order.encode());
    wake(slot);
    outcome
}

/// Continues a sitter that was stopped from outside. It is our unreaped child, so the signal can't
/// hit another process.
pub(super) fn wake(slot: &Slot) {
    let _ = process::signal(slot.sitter, process::SIGCONT);
}

pub(super) fn close_socket(socket: &mut i32) {
    if *socket > 0 {
        drop(Fd::own(*socket));
        *socket = 0;
    }
}
