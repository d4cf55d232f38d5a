//! The relay: a thread that keeps both sockets moving while orders wait for room in one of them.
//!
//! The control socket has room for a few hundred orders, and the events socket for a few hundred
//! messages. When a large pool stops, the tasks of the runtime are busy with workers that have
//! ended, and an order or a message would wait until they are done: the guardian has nothing to do
//! meanwhile, or thousands of sitters wait for room in one socket. The thread depends on no
//! runtime. It wakes for an order that waits, and sleeps again when none does and the task that
//! receives the events reads them in time.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak, mpsc};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::inbox::{Found, Inbox};
use super::orders::{Blocked, Orders};

/// How long the thread pauses between two rounds, so that a message does not cost a wake-up: 1 ms,
/// in which neither socket is used up.
const PACE: Duration = Duration::from_millis(1);
/// After this many rounds in which it has found nothing to do, the thread sleeps.
const IDLE_ROUNDS: u32 = 100;
/// How long it waits for room at most before it looks at the orders again: 100 ms.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// The thread, before it has anything to do. Without it, the thread ends.
pub(super) struct Relay(mpsc::Sender<(Arc<Orders>, Weak<Inbox>)>);

impl Relay {
    pub(super) fn start() -> io::Result<Self> {
        let (give, given) = mpsc::channel::<(Arc<Orders>, Weak<Inbox>)>();
        thread::Builder::new()
            .name("ostler-relay".to_owned())
            .stack_size(64 * 1024)
            .spawn(move || {
                if let Ok((orders, inbox)) = given.recv() {
                    while orders.wait_for_queue() {
                        relay(&orders, &inbox);
                    }
                }
            })?;
        Ok(Self(give))
    }

    /// Serves these sockets until the orders are closed.
    pub(super) fn serve(self, orders: Arc<Orders>, inbox: Weak<Inbox>) {
        // The thread waits for exactly this.
        let _ = self.0.send((orders, inbox));
    }
}

/// Sends and reads until there is nothing to do for a while.
fn relay(orders: &Orders, inbox: &Weak<Inbox>) {
    let mut idle_rounds = 0;
    while idle_rounds < IDLE_ROUNDS {
        let blocked = orders.flush();
        // Without an inbox, the events are not received any more.
        let inbox = inbox.upgrade();
        let found = inbox.as_ref().map_or(Found::End, |inbox| inbox.read_for_task());
        match blocked {
            Blocked::Closed => return,
            Blocked::Empty if found == Found::Message => idle_rounds = 0,
            Blocked::Empty => idle_rounds += 1,
            Blocked::Full | Blocked::Refused => idle_rounds = 0,
        }
        match blocked {
            Blocked::Empty => orders.pause(PACE),
            Blocked::Full | Blocked::Refused | Blocked::Closed => thread::sleep(PACE),
        }
        if blocked == Blocked::Full {
            wait_for_room(orders, inbox.as_deref().filter(|_| found != Found::End));
        }
    }
}

/// Waits until there is room for an order, or a message to read, whose sender may then take one.
fn wait_for_room(orders: &Orders, inbox: Option<&Inbox>) {
    let mut polled = vec![PollFd::from_borrowed_fd(orders.as_fd(), PollFlags::OUT)];
    polled.extend(inbox.map(|inbox| PollFd::from_borrowed_fd(inbox.as_fd(), PollFlags::IN)));
    // An error, such as EINTR, is another look.
    let _ = rustix::event::poll(&mut polled, Some(&LOOK));
}
