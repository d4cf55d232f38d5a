//! The host's end of the control socket: orders are sent at once if there is room, otherwise from a
//! queue, in order, and by the [relay](super::relay).

use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown};

use super::Silence;
use super::error::OrderError;
use crate::protocol::{MAX_SPAWN_FDS, Order, OrderKind};

/// An order that waits for room in the socket, with the descriptors that go with it.
#[derive(Debug)]
struct Outgoing {
    bytes: [u8; Order::SIZE],
    fds: Vec<OwnedFd>,
}

#[derive(Debug)]
pub(super) struct Orders {
    socket: OwnedFd,
    silence: Silence,
    queue: Mutex<Queue>,
    /// Notified when the queue is no longer empty, and when it is closed.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Outgoing>,
    closed: bool,
}

/// What to wait for before the queue can go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blocked {
    Empty,
    Closed,
    Full,
    /// The kernel refused, for lack of memory or because this user has too many descriptors in
    /// flight: no socket becomes ready when that changes.
    Refused,
}

impl Orders {
    pub(super) fn new(socket: OwnedFd, silence: Silence) -> Self {
        Self {
            socket,
            silence,
            queue: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Sends at once, or queues behind earlier orders. On an error nothing is sent or queued.
    pub(super) fn give(&self, order: &Order, fds: Vec<OwnedFd>) -> Result<(), OrderError> {
        let mut queue = self.lock();
        if queue.closed {
            return Err(OrderError::Gone);
        }
        match order.kind {
            OrderKind::Ping => self.silence.pinged(),
            _ => self.silence.ordered(),
        }
        let outgoing = Outgoing {
            bytes: order.encode(),
            fds,
        };
        if queue.waiting.is_empty() {
            match send(self.socket.as_fd(), &outgoing.bytes, &outgoing.fds) {
                Ok(()) => return Ok(()),
                Err(error) if is_gone(error) => return Err(OrderError::Gone),
                Err(error) if error != Errno::AGAIN && !is_refused(error) => return Err(OrderError::Io(error.into())),
                Err(_) => {}
            }
        }
        if queue.waiting.is_empty() {
            self.changed.notify_one();
        }
        queue.waiting.push_back(outgoing);
        Ok(())
    }

    /// Sends orders without descriptors, several in a message, or queues what there is no room for.
    pub(super) fn give_all(&self, orders: impl Iterator<Item = Order>) -> Result<(), OrderError> {
        let mut queue = self.lock();
        if queue.closed {
            return Err(OrderError::Gone);
        }
        self.silence.ordered();
        queue.waiting.extend(orders.map(|order| Outgoing {
            bytes: order.encode(),
            fds: Vec::new(),
        }));
        match queue.send(self.socket.as_fd()) {
            Blocked::Closed => return Err(OrderError::Gone),
            Blocked::Empty => {}
            Blocked::Full | Blocked::Refused => self.changed.notify_one(),
        }
        Ok(())
    }

    /// Abandons the guardian, for which the host counts as dead from now on. Needs no runtime.
    /// Shuts the connection itself down, so that a copy of the socket in a forked process does not
    /// keep it open.
    pub(super) fn close(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        queue.waiting.clear();
        // It fails only if the guardian's end is closed already.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
        self.changed.notify_one();
    }

    /// Waits on this thread until an order waits. False when the orders are closed.
    pub(super) fn wait_for_queue(&self) -> bool {
        let queue = self.lock();
        let idle = |queue: &mut Queue| queue.waiting.is_empty() && !queue.closed;
        let queue = self.changed.wait_while(queue, idle);
        !queue.unwrap_or_else(PoisonError::into_inner).closed
    }

    /// Waits on this thread, at most for `time`, until an order waits or the orders are closed.
    pub(super) fn pause(&self, time: Duration) {
        let idle = |queue: &mut Queue| queue.waiting.is_empty() && !queue.closed;
        drop(self.changed.wait_timeout_while(self.lock(), time, idle));
    }

    /// Sends what waits, until there is no room.
    pub(super) fn flush(&self) -> Blocked {
        self.lock().send(self.socket.as_fd())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        // A panic can't leave the queue half changed: each change is one call.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Sends what waits, until there is no room.
    fn send(&mut self, socket: BorrowedFd<'_>) -> Blocked {
        loop {
            if self.closed {
                return Blocked::Closed;
            }
            let Some(first) = self.waiting.front() else {
                return Blocked::Empty;
            };
            let together = self.together();
            let mut bytes = Vec::with_capacity(together * Order::SIZE);
            let orders = self.waiting.iter().take(together);
            orders.for_each(|order| bytes.extend_from_slice(&order.bytes));
            match send(socket, &bytes, &first.fds) {
                Ok(()) => drop(self.waiting.drain(..together)),
                Err(Errno::AGAIN) => return Blocked::Full,
                Err(error) if is_refused(error) => return Blocked::Refused,
                // After any other error no order gets through. The events socket shows what
                // happened to the guardian.
                Err(_) => {
                    self.closed = true;
                    self.waiting.clear();
                }
            }
        }
    }

    /// How many of the waiting orders go into the next message: several only without descriptors.
    fn together(&self) -> usize {
        let first = self.waiting.iter().take(Order::BATCH);
        first.take_while(|order| order.fds.is_empty()).count().max(1)
    }
}

impl AsFd for Orders {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn is_refused(error: Errno) -> bool {
    matches!(error, Errno::NOBUFS | Errno::NOMEM | Errno::TOOMANYREFS)
}

fn is_gone(error: Errno) -> bool {
    matches!(error, Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN)
}

/// Sends one message with its descriptors, without waiting. The descriptors stay the caller's.
pub(super) fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[OwnedFd]) -> Result<(), Errno> {
    let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SPAWN_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(Errno::INVAL);
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::io::retry_on_intr(|| rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// The relay pauses while no order waits. One that comes meanwhile must not wait for the end of
    /// the pause.
    #[test]
    fn an_order_that_waits_ends_a_pause() {
        let (ours, _theirs) = super::super::socket_pair().unwrap();
        let orders = Orders::new(ours, Silence::default());
        let close = Order::new(OrderKind::Close, 0, 0);
        std::thread::scope(|scope| {
            let (tell, heard) = std::sync::mpsc::channel();
            let orders = &orders;
            let paused = scope.spawn(move || {
                let since = Instant::now();
                tell.send(rustix::thread::gettid()).unwrap();
                orders.pause(Duration::from_secs(60));
                since.elapsed()
            });
            let stat = format!("/proc/self/task/{}/stat", heard.recv().unwrap());
            // It sleeps: nothing before the pause blocks it.
            while !std::fs::read_to_string(&stat).unwrap().contains(") S ") {
                std::thread::yield_now();
            }
            while orders.lock().waiting.is_empty() {
                orders.give(&close, Vec::new()).unwrap();
            }
            assert!(paused.join().unwrap() < Duration::from_secs(20));
        });
        assert_eq!(orders.flush(), Blocked::Full);
    }
}
