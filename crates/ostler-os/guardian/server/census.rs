//! The census: reports the guardian's children, as fast as the outbox has room.

use super::{ROOM, Server};
use crate::children;
use crate::protocol::{Event, Payload};

/// The most strays that a census reports one by one.
const NAMED: i32 = 8;

impl Server {
    /// Reports more sitters while there is room. Strays and totals come last.
    pub(super) fn continue_census(&mut self) {
        let Some(mut next) = self.census else { return };
        while self.outbox.room() >= ROOM {
            let Some(slot) = self.slots.get(next) else {
                self.census = (self.censuses_due > 0).then_some(0);
                self.censuses_due = self.censuses_due.saturating_sub(1);
                return self.end_census();
            };
            if slot.has_sitter() {
                let pid = slot.sitter;
                self.report(next, 0, Payload::CensusSitter { pid });
            }
            next += 1;
        }
        self.census = Some(next);
    }

    fn end_census(&mut self) {
        let (slots, outbox) = (&mut self.slots, &mut self.outbox);
        let mut strays = 0;
        // A stray that can't be looked up is not counted.
        let _ = children::each(|pid| {
            if slots.of_sitter(pid).is_some() {
                return;
            }
            strays += 1;
            if strays <= NAMED {
                let start_time = children::start_time(pid);
                outbox.push(Event::new(0, 0, Payload::CensusStray { pid, start_time }));
            }
        });
        let sitters = i32::try_from(self.sitters).unwrap_or(i32::MAX);
        self.report(0, 0, Payload::Census { sitters, strays });
    }
}
