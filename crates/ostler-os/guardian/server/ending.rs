//! How the guardian ends: because the host is gone, or because it is ordered to quit.

use super::{LAST_EVENTS, MILLISECOND, Server, sitters};
use crate::failpoint::{self, Point};
use crate::process;
use crate::protocol::{Order, OrderKind, Payload};
use crate::slots::State;
use crate::status;

/// How often the order to close is sent again to slots that could not take it.
const CLOSE_AGAIN: u64 = 100 * MILLISECOND;

/// Whether, and how, the guardian is ending.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Course {
    Serving,
    /// Ordered to quit: closes slots until none is left, and at this time sends the order again.
    Quitting(u64),
    /// The host is gone, and every sitter knows.
    HostGone,
    /// No child is left, and the last event was reported at this time.
    Leaving(u64),
}

impl Course {
    pub(super) fn due(self) -> Option<u64> {
        match self {
            Self::Quitting(again) => Some(again),
            Self::Leaving(since) => Some(since + LAST_EVENTS),
            Self::Serving | Self::HostGone => None,
        }
    }
}

impl Server {
    pub(super) fn exit_when_done(&self, now: u64) {
        if let Course::Leaving(since) = self.course
            && (self.outbox.is_empty() || now >= since + LAST_EVENTS)
        {
            process::exit(status::DONE);
        }
    }

    /// The host is dead, or it has let go. Every sitter gets the order, and then loses its socket.
    pub(super) fn host_gone(&mut self, dead: bool, now: u64) {
        failpoint::reach(Point::GuardianHostGone);
        self.course = Course::HostGone;
        self.census = None;
        self.censuses_due = 0;
        self.inbox.clear();
        if dead {
            self.outbox.abandon();
        }
        let order = Order {
            signal: i32::from(dead),
            ..Order::new(OrderKind::HostGone, 0, 0)
        };
        for slot in self.slots.all().iter_mut().filter(|slot| slot.has_sitter()) {
            // If this fails, the closed socket says the same.
            let _ = sitters::send_order(slot, &order);
            sitters::close_socket(&mut slot.socket);
            failpoint::reach(Point::GuardianPassedOn);
        }
        self.reap(now);
    }

    /// Orders every slot to close, and repeats this for slots that could not take the order.
    pub(super) fn close_again(&mut self, now: u64) {
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
            if sitters::send_order(slot, &order).is_ok() {
                slot.set(State::Closing);
            }
        }
    }

    /// There is no child. Ends the guardian if that was all it waited for.
    pub(super) fn leave_if_ordered(&mut self, now: u64) {
        let ending = matches!(self.course, Course::Quitting(_) | Course::HostGone);
        if ending && self.sitters == 0 && self.hunt.is_none() {
            failpoint::reach(Point::GuardianLeaving);
            self.report(0, 0, Payload::Bye);
            self.course = Course::Leaving(now);
        }
    }
}
