//! Exit statuses, and the last words before them.

use std::io::{self, Write as _};
use std::process::ExitCode;

/// How the program ends. What each means is in the help, and in `docs/cli.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Nothing is left, and no pool gave up.
    Clean = 0,
    /// A pool gave up, or an orphan was found.
    Trouble = 1,
    /// The file or the command line is wrong. clap's own status for the latter is the same.
    Wrong = 2,
    /// The machine or the store fails us.
    Machine = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An end before there is anything to stop.
#[derive(Debug)]
pub(crate) struct Failed {
    exit: Exit,
    message: String,
}

impl Failed {
    /// The file or the command line is wrong; the message is complete.
    pub(crate) fn wrong(message: impl ToString) -> Self {
        Self {
            exit: Exit::Wrong,
            message: message.to_string(),
        }
    }

    /// The machine does not let us.
    pub(crate) fn machine(message: impl ToString) -> Self {
        Self {
            exit: Exit::Machine,
            message: format!("ostler: {}", message.to_string()),
        }
    }

    /// Why.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// With which status.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// Says why, to whoever still reads stderr.
    pub(crate) fn tell(self) -> Exit {
        // `eprintln!` panics when stderr is closed; nobody is left to be told then.
        drop(writeln!(io::stderr(), "{}", self.message));
        self.exit
    }
}
