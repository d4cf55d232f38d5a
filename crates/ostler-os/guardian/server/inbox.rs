//! Orders from the host: one message may hold several, which are taken out one by one.

use crate::fd;
use crate::protocol::Order;
use crate::wire::{Fds, Received, receive};

/// The last message from the host, and how much of it is taken out.
pub(super) struct Inbox {
    bytes: [u8; Order::SIZE * Order::BATCH],
    next: usize,
    end: usize,
}

/// The result of [`Inbox::take`].
pub(super) enum Taken {
    Order {
        order: Order,
        /// Some of its descriptors were lost.
        truncated: bool,
    },
    /// Both ends have the same version, so this is not from the host.
    NoOrder,
    /// No order is waiting.
    Nothing,
    /// The host has closed the socket.
    End,
}

impl Inbox {
    pub(super) const fn new() -> Self {
        Self {
            bytes: [0; Order::SIZE * Order::BATCH],
            next: 0,
            end: 0,
        }
    }

    /// Drops what is not taken out: the host is gone.
    pub(super) fn clear(&mut self) {
        self.next = self.end;
    }

    /// Whether every order of the last message is taken out.
    pub(super) fn is_empty(&self) -> bool {
        self.next >= self.end
    }

    /// The next order, with its descriptors in `fds`. Never waits.
    pub(super) fn take(&mut self, fds: &mut Fds) -> Taken {
        let mut lost = false;
        if self.is_empty() {
            match receive(fd::CONTROL, &mut self.bytes, fds) {
                Received::Nothing => return Taken::Nothing,
                Received::End => return Taken::End,
                Received::Message { length, truncated } => {
                    (self.next, self.end) = (0, length);
                    lost = truncated;
                }
            }
        }
        let end = self.end.min(self.next + Order::SIZE);
        let order = Order::decode(&self.bytes[self.next..end]);
        self.next = end;
        match order {
            Some(order) => Taken::Order { order, truncated: lost },
            None => Taken::NoOrder,
        }
    }
}
