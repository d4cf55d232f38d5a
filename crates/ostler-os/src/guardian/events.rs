//! The host's end of the events socket.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::error::LaunchError;
use super::event::{Assembler, GuardianEvent};
use super::{Ending, Exit, Silence};
use crate::protocol::{Event, MAGIC, Payload, VERSION};

/// The events of guardian and sitters, in order for each slot.
///
/// A slow reader delays only the events: a sitter keeps them until there is room, and goes on
/// killing and reaping.
#[derive(Debug)]
pub struct Events {
    socket: AsyncFd<OwnedFd>,
    exit: watch::Receiver<Option<Exit>>,
    assembler: Assembler,
    decoded: VecDeque<GuardianEvent>,
    /// The guardian's first event, until it is checked.
    answer: Option<Event>,
    farewell: Farewell,
    /// Whether the host has ordered the end.
    ending: Ending,
    silence: Silence,
}

/// How long to wait for the exit of a guardian that has closed its end: 1 s.
const EXIT_LIMIT: Duration = Duration::from_secs(1);

/// How far the guardian's end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Farewell {
    /// The guardian serves.
    None,
    /// It has announced its end, or `Lost` is reported.
    Said,
    /// All writers are gone. `Ended` is reported.
    Ended,
}

enum Woke {
    /// A message of this length; 0 at the end of the socket.
    Read(usize),
    GuardianEnded(Exit),
}

impl Events {
    pub(super) fn new(
        socket: OwnedFd,
        exit: watch::Receiver<Option<Exit>>,
        ending: Ending,
        silence: Silence,
    ) -> io::Result<Self> {
        // SAFETY: an OwnedFd stays open, and keeps its number, for as long as it exists.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Self {
            socket,
            exit,
            assembler: Assembler::default(),
            decoded: VecDeque::new(),
            answer: None,
            farewell: Farewell::None,
            ending,
            silence,
        })
    }

    /// Waits for the guardian's first event.
    pub(super) async fn ready(&mut self) -> Result<(), LaunchError> {
        loop {
            self.more().await;
            if let Some(answer) = self.answer.take() {
                return check(answer);
            }
            if self.farewell != Farewell::None {
                return Err(self.died().await);
            }
        }
    }

    /// The guardian has ended instead of answering.
    pub(super) async fn died(&mut self) -> LaunchError {
        let Exit(status) = self.wait_exit().await;
        LaunchError::Died { status }
    }

    /// The next event; `None` after [`GuardianEvent::Ended`]. Cancel safe.
    pub async fn recv(&mut self) -> Option<GuardianEvent> {
        loop {
            if let Some(event) = self.decoded.pop_front() {
                return Some(event);
            }
            if self.farewell == Farewell::Ended {
                return None;
            }
            self.more().await;
        }
    }

    /// Waits for a message, for the end of the socket, or for the guardian's end, and processes it.
    async fn more(&mut self) {
        let watching = self.farewell == Farewell::None;
        let mut buffer = Buffer::default();
        let woke = tokio::select! {
            biased;
            ready = self.socket.readable() => match ready {
                Ok(mut ready) => match ready.try_io(|socket| Ok(buffer.read(socket.get_ref().as_fd())?)) {
                    Ok(Ok(length)) => Woke::Read(length),
                    Err(_would_block) => return,
                    // An error on a socket that worked until now counts as its end.
                    Ok(Err(_)) => Woke::Read(0),
                },
                Err(_) => Woke::Read(0),
            },
            exit = self.exit.wait_for(Option::is_some), if watching => {
                Woke::GuardianEnded(exit.ok().and_then(|exit| *exit).unwrap_or(Exit(None)))
            }
        };
        let at_end = match woke {
            Woke::Read(length) => self.take(&buffer, length),
            Woke::GuardianEnded(exit) => self.lost_after_last_words(exit),
        };
        if at_end {
            self.ended().await;
        }
    }

    /// Reads what the guardian sent before its end, whether or not the runtime has noticed it yet.
    /// True when the socket has ended, too.
    fn lost_after_last_words(&mut self, exit: Exit) -> bool {
        let mut at_end = false;
        while !at_end && self.farewell == Farewell::None {
            let mut buffer = Buffer::default();
            at_end = match buffer.read(self.socket.get_ref().as_fd()) {
                Ok(length) => self.take(&buffer, length),
                Err(Errno::AGAIN) => break,
                Err(_) => true,
            };
        }
        self.lost(exit);
        at_end
    }

    fn lost(&mut self, Exit(status): Exit) {
        if self.farewell == Farewell::None {
            self.farewell = Farewell::Said;
            self.decoded.push_back(GuardianEvent::Lost { status });
        }
    }

    async fn ended(&mut self) {
        if self.farewell == Farewell::None {
            // It closed its end without an announcement, so it is dead or dying. If it is traced,
            // its exit shows only when the tracer lets go.
            let exit = tokio::time::timeout(EXIT_LIMIT, self.wait_exit()).await;
            self.lost(exit.unwrap_or(Exit(None)));
        }
        self.farewell = Farewell::Ended;
        self.decoded.push_back(GuardianEvent::Ended);
    }

    async fn wait_exit(&mut self) -> Exit {
        self.exit
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|exit| *exit)
            .unwrap_or(Exit(None))
    }

    /// Processes a message. True at the end of the socket.
    fn take(&mut self, buffer: &Buffer, length: usize) -> bool {
        self.silence.heard();
        for event in buffer.0[..length].chunks_exact(Event::SIZE).filter_map(Event::decode) {
            match event.payload {
                Payload::Ready { .. } => self.answer = Some(event),
                // A guardian that leaves without an order, for example because a forked copy of the
                // host shut its socket down, is lost: its exit, which comes next, says so.
                Payload::Bye if self.ending.is_ordered() => self.farewell = Farewell::Said,
                Payload::Bye => {}
                Payload::Pong => self.silence.answered(),
                _ => self.decoded.extend(self.assembler.accept(event)),
            }
        }
        length == 0
    }
}

/// Room for the largest message.
struct Buffer([u8; Event::SIZE * Event::BATCH]);

impl Default for Buffer {
    fn default() -> Self {
        Self([0; Event::SIZE * Event::BATCH])
    }
}

impl Buffer {
    /// The length of one message; 0 at the end. Never waits.
    fn read(&mut self, socket: BorrowedFd<'_>) -> Result<usize, Errno> {
        let (length, _) =
            rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut self.0[..], RecvFlags::DONTWAIT))?;
        Ok(length.min(self.0.len()))
    }
}

fn check(answer: Event) -> Result<(), LaunchError> {
    let Payload::Ready { errno, version, .. } = answer.payload else {
        return Err(LaunchError::Died { status: None });
    };
    if answer.slot != MAGIC || version != u64::from(VERSION) {
        return Err(LaunchError::Version {
            ours: VERSION,
            theirs: version,
        });
    }
    match errno {
        0 => Ok(()),
        errno => Err(LaunchError::Refused {
            source: io::Error::from_raw_os_error(errno),
        }),
    }
}
