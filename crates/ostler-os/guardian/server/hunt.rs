//! Kills what dead sitters left: every child of the guardian that is not a sitter.

use super::ending::Course;
use super::{MILLISECOND, ROOM, Server, sitters};
use crate::children;
use crate::failpoint::{self, Point};
use crate::process;
use crate::protocol::{Event, Payload};
use crate::slots::State;
use crate::tree;

/// The pause between two looks for strays, from the first to the longest. It doubles each time.
const FIRST_PAUSE: u64 = 2 * MILLISECOND;
const LONGEST_PAUSE: u64 = 512 * MILLISECOND;

/// A kill of strays that is under way.
pub(super) struct Hunt {
    next: u64,
    pause: u64,
    killed: i32,
}

impl Hunt {
    pub(super) fn next(&self) -> u64 {
        self.next
    }
}

impl Server {
    /// A sitter that exits on its own has no child left. One that was killed leaves its tree to the
    /// guardian.
    pub(super) fn sitter_ended(&mut self, number: u32, status: i32, now: u64) {
        failpoint::reach(Point::GuardianReaped);
        self.sitters = self.sitters.saturating_sub(1);
        let pid = self.slots.get(number).map_or(0, |slot| slot.sitter);
        self.nursery.ended(pid);
        let host_gone = self.course == Course::HostGone;
        let Some(slot) = self.slots.get(number) else { return };
        sitters::close_socket(&mut slot.socket);
        slot.status = status;
        match (status, slot.state()) {
            // The host expects no event, and may not read: a thousand events must not delay the
            // end.
            (0, _) if host_gone => slot.set(State::Empty),
            (0, State::Closing) => {
                slot.set(State::Empty);
                self.report(number, 0, Payload::Closed);
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

    pub(super) fn stray_ended(&mut self, now: u64) {
        if let Some(hunt) = &mut self.hunt {
            hunt.killed += 1;
            hunt.pause = FIRST_PAUSE;
            hunt.next = hunt.next.min(now + FIRST_PAUSE);
        }
    }

    /// Kills every child that is not a sitter, until a look at all children finds none.
    ///
    /// A child stays visible until we reap it, and we adopt a stray's children before we can reap
    /// it. So a look that finds none has missed none.
    pub(super) fn hunt(&mut self, now: u64) {
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
                // If this is refused (EPERM), the next look finds it again.
                let _ = tree::kill_with_group(child, own_group);
            }
        });
        self.reap_again = true;
        if looked.is_ok() && !found && self.report_lost() {
            self.hunt = None;
        }
    }

    /// Reports the lost sitters once nothing of them is left. False if there was no room for all of
    /// them.
    fn report_lost(&mut self) -> bool {
        let mut killed = self.hunt.as_ref().map_or(0, |hunt| hunt.killed);
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
            let status = slot.status;
            let lost = Payload::SitterLost { killed, status };
            self.outbox.push(Event::new(number, slot.incarnation, lost));
            killed = 0;
            slot.set(State::Empty);
        }
        true
    }
}
