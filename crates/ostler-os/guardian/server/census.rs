//! The census: who the guardian's children are, told as far as there is room for it.

use super::{ROOM, Server};
use crate::children;
use crate::protocol::{Event, EventKind};

/// Strays that a census names.
const NAMED: i32 = 8;

impl Server {
    /// Goes on naming sitters as far as there is room; strays and the totals come last.
    pub(super) fn go_on_with_census(&mut self) {
        let Some(mut next) = self.census else { return };
        while self.outbox.room() >= ROOM {
            let Some(slot) = self.slots.get(next) else {
                self.census = None;
                return self.end_census();
            };
            if slot.has_sitter() {
                let pid = slot.sitter;
                self.say(EventKind::CensusSitter, next, 0, pid, 0);
            }
            next += 1;
        }
        self.census = Some(next);
    }

    fn end_census(&mut self) {
        let (slots, outbox) = (&mut self.slots, &mut self.outbox);
        let mut strays = 0;
        // What cannot be read is not named, and not counted.
        let _ = children::each(|pid| {
            if slots.of_sitter(pid).is_some() {
                return;
            }
            strays += 1;
            if strays <= NAMED {
                let c = children::start_time(pid);
                outbox.push(Event {
                    a: pid,
                    c,
                    ..Event::new(EventKind::CensusStray, 0, 0)
                });
            }
        });
        let sitters = i32::try_from(self.sitters).unwrap_or(i32::MAX);
        self.say(EventKind::Census, 0, 0, sitters, strays);
    }
}
