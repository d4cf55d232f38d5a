//! stderr: plain lines, with the live table below them where it is a terminal that can show one.
//!
//! The table needs two control sequences, which every terminal since the VT100 knows, so no
//! terminal library is at work here: `comfy-table` lays the columns out, `terminal_size` asks the
//! kernel for the size, `anstream` decides on colours.

use std::env;
use std::ffi::OsStr;
use std::io::{self, IsTerminal as _};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anstream::{AutoStream, ColorChoice};
use terminal_size::{Height, Width};

use super::outlet::{Outlet, QUEUE, Stream};
use super::text::Line;

/// Erases from the cursor to the end of the screen (ECMA-48: ED).
const ERASE_BELOW: &str = "\x1b[J";

/// stderr, shared by everything that writes to it.
#[derive(Debug)]
pub(crate) struct Screen {
    inner: Mutex<Inner>,
    table: bool,
    colours: bool,
}

#[derive(Debug)]
struct Inner {
    outlet: Option<Outlet<Vec<u8>>>,
    /// The lines of the table on the screen.
    frame: Vec<Line>,
    /// Texts that stderr's reader did not take in time.
    lost: u64,
}

impl Screen {
    /// Takes stderr over; with a table if `table` is true and it is a terminal that understands
    /// cursor movements.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn new(table: bool) -> io::Result<Self> {
        let moves_cursor = io::stderr().is_terminal() && moves_cursor(env::var_os("TERM").as_deref());
        Ok(Self {
            inner: Mutex::new(Inner {
                outlet: Some(Outlet::new("ostler-stderr", Stream(io::stderr()), QUEUE)?),
                frame: Vec::new(),
                lost: 0,
            }),
            table: table && moves_cursor,
            colours: AutoStream::choice(&io::stderr()) != ColorChoice::Never,
        })
    }

    /// Whether it shows the table.
    pub(crate) fn has_table(&self) -> bool {
        self.table
    }

    /// Columns and lines of the terminal; 80 and 24 where the kernel knows no size, as in the pty
    /// of a CI.
    pub(crate) fn size(&self) -> (u16, u16) {
        terminal_size::terminal_size_of(io::stderr()).map_or((80, 24), |(Width(width), Height(height))| (width, height))
    }

    /// Writes a line above the table.
    pub(crate) fn say(&self, line: &str) {
        self.say_all(&[Line::plain(line)]);
    }

    /// Writes lines above the table, all or none.
    pub(crate) fn say_all(&self, lines: &[Line]) {
        self.with(|inner| {
            let mut text = above(&inner.frame);
            if inner.lost > 0 {
                let gap = format!("({} texts are missing here: stderr was read too slowly)", inner.lost);
                text.push_str(&self.render(&[Line::plain(gap)]));
            }
            text.push_str(&self.render(lines));
            text.push_str(&self.render(&inner.frame));
            if inner.offer(text) {
                inner.lost = 0;
            } else {
                inner.lost += 1;
            }
        });
    }

    /// Replaces the table.
    pub(crate) fn draw(&self, frame: Vec<Line>) {
        self.with(|inner| {
            if inner.frame == frame {
                return;
            }
            let text = above(&inner.frame) + &self.render(&frame);
            if inner.offer(text) {
                inner.frame = frame;
            }
        });
    }

    /// Waits until everything is written, at most until `deadline`.
    pub(crate) fn finish(&self, deadline: Instant) {
        let outlet = self.with(|inner| inner.outlet.take());
        if let Some(outlet) = outlet {
            outlet.finish(deadline);
        }
    }

    fn render(&self, lines: &[Line]) -> String {
        lines.iter().map(|line| line.render(self.colours)).collect()
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Inner {
    fn offer(&self, text: String) -> bool {
        self.outlet
            .as_ref()
            .is_some_and(|outlet| outlet.offer(text.into_bytes()))
    }
}

/// A terminal without a type is as dumb as one that says so.
fn moves_cursor(term: Option<&OsStr>) -> bool {
    term.is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// Moves the cursor to the first line of the frame, and erases the frame.
fn above(frame: &[Line]) -> String {
    match frame.len() {
        0 => String::new(),
        lines => format!("\x1b[{lines}A\r{ERASE_BELOW}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_takes_the_place_of_the_one_before() {
        assert_eq!(above(&[]), "");
        assert_eq!(above(&[Line::plain("a"), Line::plain("b")]), "\x1b[2A\r\x1b[J");
    }

    #[test]
    fn a_dumb_terminal_gets_no_cursor_movements() {
        for (term, moves) in [
            (None, false),
            (Some(""), false),
            (Some("dumb"), false),
            (Some("xterm"), true),
        ] {
            assert_eq!(moves_cursor(term.map(OsStr::new)), moves, "{term:?}");
        }
    }
}
