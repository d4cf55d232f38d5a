//! The host's end of the control socket: orders are sent at once if there is room, otherwise from a
//! queue, in order.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::Silence;
use super::error::OrderError;
use crate::protocol::{MAX_SPAWN_FDS, Order, OrderKind};

/// How soon a send is retried that failed for lack of kernel memory, or because this user has too
/// many descriptors in flight: no socket becomes ready when that changes.
const REFUSED_RETRY: Duration = Duration::from_millis(2);

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
    wake: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Outgoing>,
    closed: bool,
}

/// What to wait for before the queue can go on.
enum Blocked {
    Empty,
    Closed,
    Full,
    /// The kernel refused, although the socket may have room.
    Refused,
}

impl Orders {
    pub(super) fn new(socket: OwnedFd, silence: Silence) -> Self {
        Self {
            socket,
            silence,
            queue: Mutex::default(),
            wake: Notify::new(),
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
                Err(_) => self.wake.notify_one(),
            }
        }
        queue.waiting.push_back(outgoing);
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
        self.wake.notify_one();
    }

    /// A task that sends queued orders whenever there is room, until the orders are closed.
    /// Everything that can fail is done before this returns.
    pub(super) fn sending(self: Arc<Self>) -> io::Result<impl Future<Output = ()>> {
        let socket = self.socket.try_clone()?;
        // SAFETY: an OwnedFd stays open, and keeps its number, for as long as it exists.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::WRITABLE) }?;
        Ok(self.send_from_queue(socket))
    }

    async fn send_from_queue(self: Arc<Self>, socket: AsyncFd<OwnedFd>) {
        loop {
            match self.flush() {
                Blocked::Closed => return,
                Blocked::Empty => self.wake.notified().await,
                Blocked::Refused => tokio::time::sleep(REFUSED_RETRY).await,
                Blocked::Full => {
                    // It fails only when the runtime ends, and this task with it.
                    let Ok(mut ready) = socket.writable().await else { return };
                    // The readiness may be stale: only a send that would block clears it.
                    if matches!(self.flush(), Blocked::Full) {
                        ready.clear_ready();
                    }
                }
            }
        }
    }

    fn flush(&self) -> Blocked {
        let mut queue = self.lock();
        loop {
            if queue.closed {
                return Blocked::Closed;
            }
            let Some(next) = queue.waiting.front() else {
                return Blocked::Empty;
            };
            match send(self.socket.as_fd(), &next.bytes, &next.fds) {
                Ok(()) => {
                    queue.waiting.pop_front();
                }
                Err(Errno::AGAIN) => return Blocked::Full,
                Err(error) if is_refused(error) => return Blocked::Refused,
                // After any other error no order gets through. The events socket shows what
                // happened to the guardian.
                Err(_) => {
                    queue.closed = true;
                    queue.waiting.clear();
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        // A panic can't leave the queue half changed: each change is one call.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
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
