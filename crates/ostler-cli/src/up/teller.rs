//! Where every event goes: to the journal, to the board, to the screen.

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ostler_telemetry::Event;

use crate::tell::board::Board;
use crate::tell::journal::Journal;
use crate::tell::lines::{Detail, Lines};
use crate::tell::screen::Screen;
use crate::tell::{summary, table};

/// Tells the run to everybody who listens.
#[derive(Debug)]
pub(super) struct Teller {
    screen: Arc<Screen>,
    journal: Option<Journal>,
    board: Board,
    last: Option<Arc<Event>>,
    lines: Lines,
}

/// The events file, if one is wanted.
pub(super) fn open_journal(path: Option<&Path>) -> Result<Option<Journal>, String> {
    path.map(|path| Journal::open(path).map_err(|error| format!("--events {}: {error}", path.display())))
        .transpose()
}

/// Whether the events go to the same terminal that the table would be on.
pub(super) fn events_on_terminal(path: Option<&Path>) -> bool {
    path == Some(Path::new("-")) && io::stdout().is_terminal()
}

impl Teller {
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

    /// Takes in the next event.
    pub(super) fn take(&mut self, event: &Arc<Event>) {
        if let Some(trouble) = self.journal.as_mut().and_then(|journal| journal.write(event)) {
            self.say(&format!("ostler: {trouble}"));
        }
        self.board.apply(event);
        if let Some(text) = self.lines.text(event) {
            self.say(&text);
        }
        self.last = Some(Arc::clone(event));
    }

    /// Says something of our own.
    pub(super) fn say(&self, text: &str) {
        self.screen.say(text);
    }

    /// Draws the table as it is now, where there is one.
    pub(super) fn refresh(&self) {
        if self.screen.has_table() {
            let (width, height) = self.screen.size();
            self.screen
                .draw(table::render(&self.board, SystemTime::now(), width, height));
        }
    }

    /// Puts the summary in the table's place.
    pub(super) fn summarise(&self, app: &str, run: &str, took: Duration) {
        if self.screen.has_table() {
            self.screen.draw(Vec::new());
        }
        self.say(&summary::summary(app, run, &self.board, took));
    }

    /// Waits until the events are written, at most until `deadline`.
    pub(super) fn finish(&mut self, deadline: Instant) {
        let last = self.last.as_deref();
        if let Some(trouble) = self.journal.take().and_then(|journal| journal.finish(last, deadline)) {
            self.say(&format!("ostler: {trouble}"));
        }
    }
}
