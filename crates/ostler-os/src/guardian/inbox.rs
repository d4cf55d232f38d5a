//! What guardian and sitters have sent: read from the events socket by the task that passes it on
//! or, while orders wait for room, by the [relay](super::relay).

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::sync::Notify;

use super::event::{Assembler, GuardianEvent};
use super::{Ending, Silence};
use crate::protocol::{Event, Payload};

/// The host's end of the events socket, and what was read from it.
#[derive(Debug)]
pub(super) struct Inbox {
    socket: OwnedFd,
    /// Held from the reading of a message to its place in the queue, so that the order of messages
    /// is kept.
    read: Mutex<Read>,
    /// Notified when messages were read on another thread than that of the task. The socket's own
    /// readiness does not show them: epoll reports nothing for a message that is read before the
    /// runtime looks.
    read_elsewhere: Notify,
    /// Whether the host has ordered the end.
    ending: Ending,
    silence: Silence,
}

/// What was read and not taken.
#[derive(Debug, Default)]
struct Read {
    assembler: Assembler,
    events: VecDeque<GuardianEvent>,
    /// The guardian's first event, until it is checked.
    answer: Option<Event>,
    /// The guardian has announced its end, as ordered.
    farewell: bool,
}

/// What a read has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Message,
    /// No message is there yet.
    Nothing,
    /// All writers are gone.
    End,
}

impl Inbox {
    pub(super) fn new(socket: OwnedFd, ending: Ending, silence: Silence) -> Self {
        Self {
            socket,
            read: Mutex::default(),
            read_elsewhere: Notify::new(),
            ending,
            silence,
        }
    }

    /// Reads one message. Never waits.
    pub(super) fn read_one(&self) -> Found {
        let mut read = self.lock();
        let mut buffer = [0; Event::SIZE * Event::BATCH];
        let received =
            rustix::io::retry_on_intr(|| rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT));
        let length = match received {
            Ok((length, _)) => length,
            Err(Errno::AGAIN) => return Found::Nothing,
            // An error on a socket that worked until now counts as its end.
            Err(_) => 0,
        };
        self.silence.heard();
        for event in buffer[..length.min(buffer.len())]
            .chunks_exact(Event::SIZE)
            .filter_map(Event::decode)
        {
            match event.payload {
                Payload::Ready { .. } => read.answer = Some(event),
                // A guardian that leaves without an order, for example because a forked copy of the
                // host shut its socket down, is lost: its exit, which comes next, says so.
                Payload::Bye if self.ending.is_ordered() => read.farewell = true,
                Payload::Bye => {}
                Payload::Pong => self.silence.answered(),
                _ => {
                    let assembled = read.assembler.accept(event);
                    read.events.extend(assembled);
                }
            }
        }
        match length {
            0 => Found::End,
            _ => Found::Message,
        }
    }

    /// Reads what there is. Never waits. Says whether the socket is at its end, or else whether
    /// there was anything.
    pub(super) fn read_all(&self) -> Found {
        let mut all = Found::Nothing;
        loop {
            match self.read_one() {
                Found::Message => all = Found::Message,
                Found::Nothing => return all,
                Found::End => return Found::End,
            }
        }
    }

    /// The same, on behalf of the task that receives the events, which it wakes.
    pub(super) fn read_for_task(&self) -> Found {
        let found = self.read_all();
        if found != Found::Nothing {
            self.read_elsewhere.notify_one();
        }
        found
    }

    /// Waits until another thread has read something. Cancel safe.
    pub(super) async fn read_elsewhere(&self) {
        self.read_elsewhere.notified().await;
    }

    /// Takes what was read.
    pub(super) fn take(&self) -> VecDeque<GuardianEvent> {
        std::mem::take(&mut self.lock().events)
    }

    /// Takes the guardian's first event.
    pub(super) fn take_answer(&self) -> Option<Event> {
        self.lock().answer.take()
    }

    /// Whether the guardian has announced its end, as ordered.
    pub(super) fn farewell(&self) -> bool {
        self.lock().farewell
    }

    fn lock(&self) -> MutexGuard<'_, Read> {
        // A panic can't leave it half changed in a way that matters: a message would be lost.
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The inbox as the runtime registers it.
#[derive(Debug, Clone)]
pub(super) struct Shared(pub(super) Arc<Inbox>);

impl AsRawFd for Shared {
    fn as_raw_fd(&self) -> RawFd {
        self.0.socket.as_raw_fd()
    }
}
