//! Exit statuses, and the messages before them.

use std::io;
use std::process::ExitCode;

use ostler_core::chain::chain;

use crate::config::Mistakes;
use crate::output::text::{self, Line};

/// How the program ends. The help and `docs/cli.md` explain each status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Nothing is left, and no pool gave up.
    Clean = 0,
    /// A pool gave up, or an orphan was found.
    Trouble = 1,
    /// The file or the command line is wrong. clap uses the same status for the latter.
    Wrong = 2,
    /// The machine or the store fails.
    Machine = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An end before anything was started.
#[derive(Debug)]
pub(crate) struct Failed {
    exit: Exit,
    lines: Vec<Line>,
}

impl Failed {
    /// The file or the command line is wrong, in one line.
    pub(crate) fn wrong(message: impl ToString) -> Self {
        Self {
            exit: Exit::Wrong,
            lines: vec![Line::plain(message.to_string())],
        }
    }

    /// The file is wrong: a line for each mistake.
    pub(crate) fn mistakes(mistakes: Mistakes) -> Self {
        Self {
            exit: Exit::Wrong,
            lines: mistakes.lines().map(Line::plain).collect(),
        }
    }

    /// The machine does not allow it. Further lines, such as those that pip printed, are indented,
    /// so that none of them looks like ours.
    pub(crate) fn machine(message: impl ToString) -> Self {
        let text = format!("ostler: {}", message.to_string());
        let mut lines = text.lines();
        let first = lines.next().map(Line::plain);
        let further = lines.map(|line| Line::plain(format!("    {line}")));
        Self {
            exit: Exit::Machine,
            lines: first.into_iter().chain(further).collect(),
        }
    }

    /// The machine does not allow it: the error with its causes.
    pub(crate) fn error(error: impl std::error::Error + 'static) -> Self {
        Self::machine(chain(&error))
    }

    /// Why.
    pub(crate) fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// With which status.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// Prints why, and gives the status.
    pub(crate) fn print(self) -> Exit {
        // If stderr can't be written, there is no place left to say so.
        drop(text::print(&mut io::stderr(), &self.lines));
        self.exit
    }
}

/// Prints a command's result on stdout.
///
/// # Errors
/// [`Exit::Machine`] when it can't be written, as on a full disk.
pub(crate) fn print(lines: &[Line]) -> Result<(), Failed> {
    text::print(&mut io::stdout(), lines).map_err(|error| Failed::machine(format!("stdout: {error}")))
}
