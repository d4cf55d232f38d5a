//! The events of guardian and sitters, as the host receives them.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::Exit;
use super::error::LaunchError;
use super::event::GuardianEvent;
use super::inbox::{Found, Inbox, Shared};
use crate::patience;
use crate::protocol::{Event, MAGIC, Payload, VERSION};

/// The events of guardian and sitters, in order for each slot.
///
/// A slow reader delays only the events: a sitter keeps them until there is room, and goes on
/// killing and reaping. While orders wait for room, the host reads all events into memory.
#[derive(Debug)]
pub struct Events {
    inbox: AsyncFd<Shared>,
    exit: watch::Receiver<Option<Exit>>,
    /// Read, and due next.
    events: VecDeque<GuardianEvent>,
    farewell: Farewell,
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
    Read(Found),
    GuardianEnded(Exit),
}

impl Events {
    pub(super) fn new(inbox: Arc<Inbox>, exit: watch::Receiver<Option<Exit>>) -> io::Result<Self> {
        // SAFETY: the inbox's OwnedFd stays open, and keeps its number, for as long as it exists.
        let inbox = unsafe { AsyncFd::register_with_interest(Shared(inbox), Interest::READABLE) }?;
        Ok(Self {
            inbox,
            exit,
            events: VecDeque::new(),
            farewell: Farewell::None,
        })
    }

    /// Where they are read, for as long as anybody waits for them here.
    pub(super) fn inbox(&self) -> Weak<Inbox> {
        Arc::downgrade(&self.inbox.get_ref().0)
    }

    /// Waits for the guardian's first event.
    pub(super) async fn ready(&mut self) -> Result<(), LaunchError> {
        loop {
            self.more().await;
            if let Some(answer) = self.read().take_answer() {
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
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            self.events = self.read().take();
            if !self.events.is_empty() {
                continue;
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
        let woke = tokio::select! {
            biased;
            ready = self.inbox.readable() => match ready {
                Ok(mut ready) => {
                    let found = ready.get_inner().0.read_one();
                    if found == Found::Nothing {
                        ready.clear_ready();
                    }
                    Woke::Read(found)
                }
                Err(_) => Woke::Read(Found::End),
            },
            () = self.inbox.get_ref().0.read_elsewhere() => Woke::Read(Found::Message),
            exit = self.exit.wait_for(Option::is_some), if watching => {
                Woke::GuardianEnded(exit.ok().and_then(|exit| *exit).unwrap_or(Exit(None)))
            }
        };
        let found = match woke {
            Woke::Read(found) => found,
            // What the guardian sent before its end comes first, whether or not the runtime has
            // noticed it yet.
            Woke::GuardianEnded(_) => self.read().read_all(),
        };
        if self.farewell == Farewell::None && self.read().farewell() {
            self.farewell = Farewell::Said;
        }
        if let Woke::GuardianEnded(exit) = woke {
            self.lost(exit);
        }
        if found == Found::End {
            self.ended().await;
        }
    }

    fn read(&self) -> &Inbox {
        &self.inbox.get_ref().0
    }

    fn lost(&mut self, Exit(status): Exit) {
        if self.farewell == Farewell::None {
            self.farewell = Farewell::Said;
            self.append(GuardianEvent::Lost { status });
        }
    }

    async fn ended(&mut self) {
        if self.farewell == Farewell::None {
            // It closed its end without an announcement, so it is dead or dying. If it is traced,
            // its exit shows only when the tracer lets go.
            let exit = patience::within(EXIT_LIMIT, self.wait_exit()).await;
            self.lost(exit.unwrap_or(Exit(None)));
        }
        self.farewell = Farewell::Ended;
        self.append(GuardianEvent::Ended);
    }

    /// Adds an event of the host's own behind everything that was read.
    fn append(&mut self, event: GuardianEvent) {
        let read = self.read().take();
        self.events.extend(read);
        self.events.push_back(event);
    }

    async fn wait_exit(&mut self) -> Exit {
        self.exit
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|exit| *exit)
            .unwrap_or(Exit(None))
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
