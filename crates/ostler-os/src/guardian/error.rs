//! What can go wrong between the host and its guardian.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// The guardian could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Every way to run the guardian's program was refused.
    #[error("the guardian's program can't be run here: {}", describe(.tried))]
    NoProgram {
        /// Each way that was tried, with its error.
        tried: Vec<Attempt>,
    },
    /// A resource that the launch needs was not available.
    #[error("the guardian can't be launched: {what}")]
    Setup {
        /// What was being done.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The program ended before it answered: it is not a guardian, or its set-up failed.
    #[error("the guardian ended before it answered ({})", status.map_or_else(|| "status unknown".to_owned(), |s| s.to_string()))]
    Died {
        /// How it ended, if known.
        status: Option<ExitStatus>,
    },
    /// Host and guardian speak different versions of the protocol.
    #[error(
        "the guardian speaks protocol version {theirs}, this library version {ours}; does OSTLER_GUARDIAN name an old program?"
    )]
    Version {
        /// This library's version.
        ours: u32,
        /// The guardian's version.
        theirs: u64,
    },
    /// The guardian said that it cannot serve.
    #[error("the guardian can't serve")]
    Refused {
        /// The guardian's reason.
        source: io::Error,
    },
    /// No answer in time.
    #[error("the guardian did not answer within {within:?}")]
    Timeout {
        /// The time it had.
        within: Duration,
    },
}

/// One way in which running the guardian's program was tried.
#[derive(Debug)]
pub struct Attempt {
    /// From where: a memory file, or the path of a file.
    pub from: PathBuf,
    /// Why it did not work.
    pub error: io::Error,
}

fn describe(tried: &[Attempt]) -> String {
    let each: Vec<String> = tried
        .iter()
        .map(|a| format!("{}: {}", a.from.display(), a.error))
        .collect();
    format!(
        "{}; name a program that may be executed in OSTLER_GUARDIAN",
        each.join("; ")
    )
}

/// An order could not be given.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The guardian is gone: it died, quit on request, or was abandoned.
    #[error("the guardian is gone")]
    Gone,
    /// The system refused (EMFILE, ENOMEM, …); nothing was sent, and the order may be given again.
    #[error("the order could not be sent")]
    Io(#[from] io::Error),
    /// A path, argument or variable holds a NUL byte, which exec cannot pass on.
    #[error("{what} holds a NUL byte")]
    Nul {
        /// Which part of the request.
        what: &'static str,
    },
    /// Arguments and environment together are too large for any exec.
    #[error(
        "arguments and environment take {bytes} bytes; at most {} can be passed on",
        crate::protocol::MAX_SPEC
    )]
    TooLarge {
        /// Their size.
        bytes: usize,
    },
    /// More listening sockets than one spawn can carry.
    #[error(
        "{count} listening sockets; at most {} go with one worker",
        crate::protocol::MAX_LISTEN
    )]
    TooManyListeners {
        /// How many there were.
        count: usize,
    },
    /// The slot's number is not below [`MAX_SLOTS`](crate::protocol::MAX_SLOTS).
    #[error("slot {slot} is out of range; slots are below {}", crate::protocol::MAX_SLOTS)]
    SlotRange {
        /// The number.
        slot: u32,
    },
}

/// The guardian did not quit.
#[derive(Debug, thiserror::Error)]
pub enum QuitError {
    /// The order could not be sent.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// It still holds a tree: ask for a [census](super::Guardian::census).
    #[error("the guardian still holds processes after {within:?}")]
    Timeout {
        /// The time it had.
        within: Duration,
    },
}
