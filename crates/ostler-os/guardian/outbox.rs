//! Events that wait to be sent to the host.

use crate::fd;
use crate::protocol::Event;
use crate::sys::Errno;
use crate::wire::send;

/// How soon a send is retried that failed for want of kernel memory: no socket becomes ready when
/// there is some again.
const MEMORY_RETRY: u64 = 10_000_000;

/// Why events wait.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stalled {
    No,
    /// Until the socket has room.
    Full,
    /// Until this time.
    NoMemory(u64),
}

/// Events on their way to the host, in order. A host that is slow or stopped delays only them.
pub(crate) struct Outbox {
    /// Encoded.
    events: [[u8; Event::SIZE]; Self::CAPACITY],
    first: usize,
    count: usize,
    stalled: Stalled,
    /// The host is gone: no event will ever be read.
    abandoned: bool,
    /// An event waits that the host does not expect.
    pressing: bool,
}

impl Outbox {
    const CAPACITY: usize = 32;

    pub(crate) const fn new() -> Self {
        Self {
            events: [[0; Event::SIZE]; Self::CAPACITY],
            first: 0,
            count: 0,
            stalled: Stalled::No,
            abandoned: false,
            pressing: false,
        }
    }

    /// How many more events fit. Callers take an order only while there is room for everything that
    /// it can cause.
    pub(crate) fn room(&self) -> usize {
        Self::CAPACITY - self.count
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds an event. Drops it if there is no room, which can happen only to answers and to
    /// repeated signals, because no order is taken while room is low.
    pub(crate) fn push(&mut self, event: Event) {
        self.pressing = true;
        self.push_unhurried(event);
    }

    /// Adds an event that only confirms an order: it is sent together with the next one. When a
    /// pool stops, this saves one message, and one wake-up of the host, per worker.
    pub(crate) fn push_unhurried(&mut self, event: Event) {
        if self.abandoned || self.room() == 0 {
            return;
        }
        self.events[(self.first + self.count) % Self::CAPACITY] = event.encode();
        self.count += 1;
    }

    /// Drops all events, waiting and future ones: the host is gone.
    pub(crate) fn abandon(&mut self) {
        self.abandoned = true;
        self.count = 0;
        self.stalled = Stalled::No;
    }

    /// Sends as much as the socket has room for.
    pub(crate) fn flush(&mut self, now: u64) {
        if matches!(self.stalled, Stalled::NoMemory(until) if now < until) {
            return;
        }
        self.stalled = Stalled::No;
        if !self.pressing {
            return;
        }
        while self.count > 0 {
            let batch = self.count.min(Event::BATCH);
            let mut bytes = [0; Event::SIZE * Event::BATCH];
            for (index, place) in bytes.chunks_exact_mut(Event::SIZE).take(batch).enumerate() {
                place.copy_from_slice(&self.events[(self.first + index) % Self::CAPACITY]);
            }
            match send(fd::EVENTS, &bytes[..batch * Event::SIZE]) {
                Ok(()) => {
                    self.first = (self.first + batch) % Self::CAPACITY;
                    self.count -= batch;
                }
                Err(Errno::EAGAIN) => {
                    self.stalled = Stalled::Full;
                    return;
                }
                Err(Errno::ENOBUFS | Errno::ENOMEM | Errno::EINTR) => {
                    self.stalled = Stalled::NoMemory(now + MEMORY_RETRY);
                    return;
                }
                // EPIPE, ECONNRESET: the reading end is closed.
                Err(_) => self.abandon(),
            }
        }
        self.pressing = false;
    }

    /// Whether to poll for room in the socket.
    pub(crate) fn wants_room(&self) -> bool {
        self.stalled == Stalled::Full
    }

    /// When to flush again by the clock.
    pub(crate) fn retry_at(&self) -> Option<u64> {
        match self.stalled {
            Stalled::NoMemory(until) => Some(until),
            Stalled::No | Stalled::Full => None,
        }
    }
}
