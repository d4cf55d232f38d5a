//! Where every event goes: to the events file, to the board, to the screen.

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ostler::EventItem;
use ostler_telemetry::Event;

use crate::output::board::Board;
use crate::output::journal::Journal;
use crate::output::lines::{Detail, Lines, counted};
use crate::output::screen::Screen;
use crate::output::{summary, table};

/// Reports the run to people and to programs.
#[derive(Debug)]
pub(super) struct Reporter {
    screen: Arc<Screen>,
    journal: Option<Journal>,
    board: Board,
    last: Option<Arc<Event>>,
    lines: Lines,
}

/// The events file, if one is requested.
pub(super) fn open_journal(path: Option<&Path>) -> Result<Option<Journal>, String> {
    path.map(|path| Journal::open(path).map_err(|error| format!("--events {}: {error}", path.display())))
        .transpose()
}

/// Whether the events go to the terminal that the table would be on.
pub(super) fn events_on_terminal(path: Option<&Path>) -> bool {
    path == Some(Path::new("-")) && io::stdout().is_terminal()
}

impl Reporter {
    pub(super) fn new(screen: Arc<Screen>, journal: Option<Journal>) -> Self {
        let detail = if screen.has_table() {
            Detail::Trouble
        } else {
            Detail::All
        };
        Self {
            screen,
            journal,
            board: Board::default(),
            last: None,
            lines: Lines::new(detail),
        }
    }

    /// Takes in the next event, or notes that some were lost.
    pub(super) fn take(&mut self, item: EventItem) {
        match item {
            EventItem::Event(event) => self.event(&event),
            EventItem::Lagged(events) => {
                if let Some(journal) = &mut self.journal {
                    journal.miss(events);
                }
                self.say(&format!(
                    "ostler: {} missing here: this machine is too slow",
                    counted(events, "event is", "events are")
                ));
            }
            _ => {}
        }
    }

    fn event(&mut self, event: &Arc<Event>) {
        if let Some(journal) = &mut self.journal {
            journal.write(event);
        }
        self.board.apply(event);
        let lines = self.lines.lines(event);
        if !lines.is_empty() {
            self.screen.say_all(&lines);
        }
        self.last = Some(Arc::clone(event));
    }

    /// Writes a line of our own.
    pub(super) fn say(&self, text: &str) {
        self.screen.say(text);
    }

    /// Opens the events file again, as after a log rotation.
    pub(super) fn reopen(&mut self) {
        match &mut self.journal {
            Some(journal) => journal.rotate(),
            None => tracing::info!("there is no events file to open again"),
        }
    }

    /// Draws the table as it is now, where there is one, and says what is wrong with the events
    /// file.
    pub(super) fn refresh(&mut self) {
        let troubles = self.journal.iter_mut().flat_map(Journal::troubles);
        for trouble in troubles.collect::<Vec<_>>() {
            self.say(&format!("ostler: {trouble}"));
        }
        if self.screen.has_table() {
            let (width, height) = self.screen.size();
            self.screen
                .draw(table::render(&self.board, SystemTime::now(), width, height));
        }
    }

    /// Replaces the table by the summary.
    pub(super) fn summarise(&self, app: &str, run: &str, took: Duration) {
        if self.screen.has_table() {
            self.screen.draw(Vec::new());
        }
        self.screen.say_all(&summary::summary(app, run, &self.board, took));
    }

    /// Waits until the events are written, at most until `deadline`.
    pub(super) fn finish(&mut self, deadline: Instant) {
        let last = self.last.as_ref();
        let troubles = self.journal.take().map(|journal| journal.finish(last, deadline));
        for trouble in troubles.into_iter().flatten() {
            self.say(&format!("ostler: {trouble}"));
        }
    }
}
