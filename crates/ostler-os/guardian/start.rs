//! From the guardian's first instruction to its first event.

use crate::failpoint::{self, Point};
use crate::fd;
use crate::nursery::Nursery;
use crate::outbox::Outbox;
use crate::process::{self, DescriptorLimit};
use crate::protocol::{Event, Hello, VERSION};
use crate::server;
use crate::slots::Slots;
use crate::status;
use crate::sys::{self, Fd, PollFd};
use crate::wire::{Fds, Received, receive};

/// Runs the guardian. Its standard input is the control socket.
pub(crate) fn run() -> ! {
    failpoint::arm();
    let hello = take_hello();
    failpoint::reach(Point::GuardianGreeted);
    let slots = set_up(&hello);
    let limit = match &slots {
        Ok(_) => raise_limit(&hello),
        Err(errno) => Err(*errno),
    };
    let nursery = Nursery::new();
    failpoint::reach(Point::GuardianSetUp);
    let errno = limit.as_ref().map_or_else(|errno| errno.0, |_| 0);
    let mut outbox = Outbox::new();
    outbox.push(Event::ready(process::own_pid(), errno, VERSION));
    outbox.flush(sys::now());
    if hello.version != VERSION {
        process::exit(status::VERSION);
    }
    let (Ok(slots), Ok(limit)) = (slots, limit) else {
        process::exit(status::SETUP)
    };
    server::serve(slots, nursery, outbox, limit)
}

/// Waits for the host's first message, and puts every descriptor in its place.
fn take_hello() -> Hello {
    let (mut bytes, mut fds) = ([0; Hello::SIZE], Fds::none());
    let length = loop {
        process::wait(&mut [PollFd::readable(0)], None);
        match receive(0, &mut bytes, &mut fds) {
            Received::Message { length, .. } => break length,
            Received::Nothing => {}
            // The host ended before it sent anything.
            Received::End => process::exit(status::DONE),
        }
    };
    let (hello, events, host) = (Hello::decode(&bytes[..length]), fds.take(0), fds.take(1));
    // Without a lock its place is filled anyway, so that sitters inherit no other descriptor there.
    let lock = fds.take(2).map_or(1, Fd::into_raw);
    let (Some(hello), Some(events), Some(host)) = (hello, events, host) else {
        process::exit(status::NO_HELLO)
    };
    let placed = [
        (0, fd::CONTROL),
        (events.raw(), fd::EVENTS),
        (lock, fd::LOCK),
        (host.raw(), fd::HOST),
    ];
    // Everything is moved out of the way first, then to its place. 1 is /dev/null.
    let aside = placed.map(|(raw, place)| sys::duplicate_above(raw, fd::HOST + 1).map(|raw| (raw, place)));
    for copy in aside {
        let done = copy.and_then(|(raw, place)| sys::duplicate_to(raw, place, true));
        if done.is_err() {
            process::exit(status::SETUP);
        }
    }
    // Their numbers may be places that are filled now, or the signalfd's, which is filled next.
    let _ = (events.into_raw(), host.into_raw());
    // The copies, and anything that the host leaked.
    let highest = process::descriptor_limit().map_or(1024, |limit| limit.soft.min(65_536));
    sys::close_from(fd::HOST + 1, highest as i32);
    if sys::duplicate_to(1, 0, false).is_err() {
        process::exit(status::SETUP);
    }
    hello
}

/// Turns this process into a guardian.
fn set_up(hello: &Hello) -> sys::Result<Slots> {
    process::set_name(c"ostler-guardian");
    // It fails only for the leader of a process group, which a freshly spawned process is not. A
    // terminal's signals are blocked anyway.
    let _ = process::new_session();
    // Blocked rather than ignored: nothing reaches us, and workers inherit every signal's default
    // action.
    process::default_signal_actions();
    process::set_blocked_signals(u64::MAX)?;
    let signals = process::child_signals()?;
    match signals.into_raw() {
        fd::SIGNALS => {}
        raw => {
            let signals = Fd::own(raw);
            sys::duplicate_to(signals.raw(), fd::SIGNALS, true)?;
        }
    }
    if !hello.dumpable {
        // Sitters inherit it: no process of this user, workers included, can trace them or take
        // their sockets.
        process::forbid_tracing();
    }
    process::become_subreaper()?;
    process::wake_at_parents_end();
    Slots::new()
}

/// A worker takes one of our descriptors. The kernel doubles a full table, and waits for an RCU
/// grace period if a new sitter shares it; as long as we are alone it does not. 64 KiB of its
/// memory.
const ROOM: i32 = 8192;

/// Raises our own descriptor limit as far as possible, and makes room for descriptors. Returns the
/// limit of workers.
fn raise_limit(hello: &Hello) -> sys::Result<DescriptorLimit> {
    let own = process::descriptor_limit()?;
    process::set_descriptor_limit(DescriptorLimit {
        soft: own.hard,
        hard: own.hard,
    })?;
    let highest = i32::try_from(own.hard).unwrap_or(i32::MAX).min(ROOM) - 1;
    // Without room, the table grows with the workers.
    if let Ok(raw) = sys::duplicate_above(1, highest) {
        drop(Fd::own(raw));
    }
    let hard = hello.nofile_hard.min(own.hard);
    Ok(DescriptorLimit {
        soft: hello.nofile_soft.min(hard),
        hard,
    })
}
