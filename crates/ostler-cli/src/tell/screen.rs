//! stderr: plain lines, with the live table under them where it is a terminal.
//!
//! The table needs two control sequences, which every terminal since the VT100 knows, so no terminal library is at work
//! here: `comfy-table` lays the columns out, `terminal_size` asks the kernel for the size.

use std::io::{self, IsTerminal as _};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use terminal_size::{Height, Width};

use super::outlet::{Outlet, QUEUE};

/// Erases from the cursor to the end of the screen (ECMA-48: ED).
const ERASE_BELOW: &str = "\x1b[J";

/// stderr, for everybody who has something to say.
#[derive(Debug)]
pub(crate) struct Screen {
    inner: Mutex<Inner>,
    table: bool,
}

#[derive(Debug)]
struct Inner {
    outlet: Option<Outlet>,
    /// The lines of the table that stand on the screen.
    frame: Vec<String>,
    /// Lines that stderr's reader did not take in time.
    lost: u64,
}

impl Screen {
    /// Takes stderr over; with a table if it is a terminal and `table` says so.
    pub(crate) fn new(table: bool) -> io::Result<Self> {
        Ok(Self {
            inner: Mutex::new(Inner {
                outlet: Some(Outlet::new("ostler-stderr", io::stderr(), QUEUE)?),
                frame: Vec::new(),
                lost: 0,
            }),
            table: table && io::stderr().is_terminal(),
        })
    }

    /// Whether it shows the table.
    pub(crate) fn has_table(&self) -> bool {
        self.table
    }

    /// Columns and lines of the terminal.
    pub(crate) fn size(&self) -> (u16, u16) {
        terminal_size::terminal_size_of(io::stderr()).map_or((80, 24), |(Width(width), Height(height))| (width, height))
    }

    /// Writes text, which may have several lines, above the table.
    pub(crate) fn say(&self, text: &str) {
        self.with(|inner| {
            let mut bytes = above(&inner.frame);
            if inner.lost > 0 {
                bytes.push_str(&format!(
                    "({} lines are missing here: stderr was read too slowly)\n",
                    inner.lost
                ));
            }
            bytes.push_str(text.trim_end_matches('\n'));
            bytes.push('\n');
            bytes.push_str(&joined(&inner.frame));
            if inner.offer(bytes) {
                inner.lost = 0;
            } else {
                inner.lost += 1;
            }
        });
    }

    /// Puts this table in the place of the one that stands there.
    pub(crate) fn draw(&self, frame: Vec<String>) {
        self.with(|inner| {
            if inner.frame == frame {
                return;
            }
            let bytes = above(&inner.frame) + &joined(&frame);
            if inner.offer(bytes) {
                inner.frame = frame;
            }
        });
    }

    /// Waits until all is written, at most until `deadline`; a reader that is gone or stuck is nobody's business any more.
    pub(crate) fn finish(&self, deadline: Instant) {
        let outlet = self.with(|inner| inner.outlet.take());
        if let Some(outlet) = outlet {
            outlet.finish(deadline);
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Inner {
    fn offer(&self, bytes: String) -> bool {
        self.outlet
            .as_ref()
            .is_some_and(|outlet| outlet.offer(bytes.into_bytes()))
    }
}

/// What takes the cursor to the first line of the frame, and erases it.
fn above(frame: &[String]) -> String {
    match frame.len() {
        0 => String::new(),
        lines => format!("\x1b[{lines}A\r{ERASE_BELOW}"),
    }
}

fn joined(frame: &[String]) -> String {
    frame.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_takes_the_place_of_the_one_before() {
        let frame = ["a".to_owned(), "b".to_owned()];
        assert_eq!(above(&[]), "");
        assert_eq!(above(&frame), "\x1b[2A\r\x1b[J");
        assert_eq!(joined(&frame), "a\nb\n");
    }
}
