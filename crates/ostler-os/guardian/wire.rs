//! Messages with descriptors in, messages with descriptors out, and the events that wait for room.

use core::mem::size_of;

use crate::arch::number;
use crate::fd;
use crate::protocol::{Event, MAX_SPAWN_FDS};
use crate::sys::{Errno, Fd, Result, call};

const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;
const MSG_CTRUNC: i32 = 8;
const MSG_DONTWAIT: usize = 0x40;
const MSG_NOSIGNAL: usize = 0x4000;
const MSG_CMSG_CLOEXEC: usize = 0x4000_0000;

/// struct iovec.
#[repr(C)]
struct Slice {
    base: *mut u8,
    length: usize,
}

/// struct msghdr of the kernel (user_msghdr).
#[repr(C)]
struct Header {
    name: *mut u8,
    name_length: u32,
    slices: *mut Slice,
    slice_count: usize,
    control: *mut u8,
    control_length: usize,
    flags: i32,
}

/// struct cmsghdr with room for as many descriptors as one message may bring.
#[repr(C, align(8))]
struct Rights {
    length: usize,
    level: i32,
    kind: i32,
    fds: [i32; MAX_SPAWN_FDS],
}

const RIGHTS_HEAD: usize = 16;

impl Rights {
    const fn empty() -> Self {
        Self {
            length: 0,
            level: 0,
            kind: 0,
            fds: [-1; MAX_SPAWN_FDS],
        }
    }
}

/// The descriptors of one message, closed when they go out of scope.
pub(crate) struct Fds {
    list: [Option<Fd>; MAX_SPAWN_FDS],
    count: usize,
}

impl Fds {
    pub(crate) const fn none() -> Self {
        Self {
            list: [const { None }; MAX_SPAWN_FDS],
            count: 0,
        }
    }

    /// Closes all. In place: the frames of those who receive are what a sitter's memory is.
    fn clear(&mut self) {
        self.count = 0;
        for place in &mut self.list {
            *place = None;
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Takes one out; each can be taken once.
    pub(crate) fn take(&mut self, index: usize) -> Option<Fd> {
        self.list.get_mut(index)?.take()
    }

    /// Those from `first` on that were not taken.
    pub(crate) fn rest(&self, first: usize) -> &[Option<Fd>] {
        self.list.get(first..self.count).unwrap_or(&[])
    }

    /// The highest number among them.
    pub(crate) fn highest(&self) -> i32 {
        self.list[..self.count]
            .iter()
            .flatten()
            .map(Fd::raw)
            .max()
            .unwrap_or(-1)
    }
}

/// What a socket gave.
pub(crate) enum Received {
    Message {
        length: usize,
        /// Some descriptors could not be taken in: this process's table is full.
        truncated: bool,
    },
    /// There is nothing to read.
    Nothing,
    /// The other end is closed, or the socket is of no use any more.
    End,
}

/// Takes one message into `buffer`, its descriptors into `fds`, without waiting.
pub(crate) fn receive(socket: i32, buffer: &mut [u8], fds: &mut Fds) -> Received {
    let mut rights = Rights::empty();
    let mut slice = Slice {
        base: buffer.as_mut_ptr(),
        length: buffer.len(),
    };
    let mut header = Header {
        name: core::ptr::null_mut(),
        name_length: 0,
        slices: &raw mut slice,
        slice_count: 1,
        control: (&raw mut rights).cast(),
        control_length: size_of::<Rights>(),
        flags: 0,
    };
    let flags = MSG_DONTWAIT | MSG_CMSG_CLOEXEC;
    // SAFETY: buffer and rights are ours to write for the lengths given.
    let outcome = unsafe {
        call(
            number::RECVMSG,
            [socket as usize, &raw mut header as usize, flags, 0, 0, 0],
        )
    };
    let length = match outcome {
        Ok(0) => return Received::End,
        Ok(length) => length,
        Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOMEM | Errno::ENOBUFS) => return Received::Nothing,
        Err(_) => return Received::End,
    };
    fds.clear();
    if header.control_length >= RIGHTS_HEAD && rights.level == SOL_SOCKET && rights.kind == SCM_RIGHTS {
        let bytes = rights.length.saturating_sub(RIGHTS_HEAD);
        fds.count = (bytes / size_of::<i32>()).min(MAX_SPAWN_FDS);
        for (place, raw) in fds.list.iter_mut().zip(&rights.fds[..fds.count]) {
            *place = Some(Fd::own(*raw));
        }
    }
    Received::Message {
        length,
        truncated: header.flags & MSG_CTRUNC != 0,
    }
}

/// Sends one message. Never waits, never raises SIGPIPE.
pub(crate) fn send(socket: i32, bytes: &[u8]) -> Result<()> {
    let flags = MSG_DONTWAIT | MSG_NOSIGNAL;
    // SAFETY: the kernel reads the bytes for their whole length; there is no address.
    unsafe {
        call(
            number::SENDTO,
            [socket as usize, bytes.as_ptr() as usize, bytes.len(), flags, 0, 0],
        )
    }
    .map(drop)
}

/// The same with all of `fds`, which stay the caller's.
pub(crate) fn send_with(socket: i32, bytes: &[u8], fds: &Fds) -> Result<()> {
    let mut rights = Rights::empty();
    let mut count = 0;
    for (place, fd) in rights.fds.iter_mut().zip(fds.rest(0).iter().flatten()) {
        *place = fd.raw();
        count += 1;
    }
    rights.length = RIGHTS_HEAD + count * size_of::<i32>();
    rights.level = SOL_SOCKET;
    rights.kind = SCM_RIGHTS;
    let mut slice = Slice {
        base: bytes.as_ptr().cast_mut(),
        length: bytes.len(),
    };
    let with_rights = count > 0;
    let header = Header {
        name: core::ptr::null_mut(),
        name_length: 0,
        slices: &raw mut slice,
        slice_count: 1,
        control: if with_rights {
            (&raw mut rights).cast()
        } else {
            core::ptr::null_mut()
        },
        control_length: if with_rights {
            rights.length.next_multiple_of(8)
        } else {
            0
        },
        flags: 0,
    };
    let flags = MSG_DONTWAIT | MSG_NOSIGNAL;
    // SAFETY: the kernel reads bytes and rights for the lengths given, and writes to neither.
    unsafe {
        call(
            number::SENDMSG,
            [socket as usize, &raw const header as usize, flags, 0, 0, 0],
        )
    }
    .map(drop)
}

/// How soon a send is tried again for which the kernel had no memory: no socket tells when it has.
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

/// Events on their way to the host, in order. The host may be slow or stopped: they wait here, and nothing else does.
pub(crate) struct Outbox {
    events: [Event; Self::CAPACITY],
    first: usize,
    count: usize,
    stalled: Stalled,
    /// Nobody will ever read an event: the host is gone.
    unheard: bool,
    /// Something waits that the host does not know of itself.
    pressing: bool,
}

impl Outbox {
    const CAPACITY: usize = 32;

    pub(crate) const fn new() -> Self {
        let nothing = Event::new(crate::protocol::EventKind::Bye, 0, 0);
        Self {
            events: [nothing; Self::CAPACITY],
            first: 0,
            count: 0,
            stalled: Stalled::No,
            unheard: false,
            pressing: false,
        }
    }

    /// How many more events can wait. Callers keep room for what they must be able to say before they take an order.
    pub(crate) fn room(&self) -> usize {
        Self::CAPACITY - self.count
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds an event. Without room it is dropped: only answers and signals that are said often can meet that, because
    /// no order is taken while the room is low.
    pub(crate) fn push(&mut self, event: Event) {
        self.pressing = true;
        self.push_unhurried(event);
    }

    /// Adds what only confirms an order of the host's: it goes with the next event. When a pool is stopped, that is one
    /// message a worker, and one wake-up of the host, in place of two.
    pub(crate) fn push_unhurried(&mut self, event: Event) {
        if self.unheard || self.room() == 0 {
            return;
        }
        self.events[(self.first + self.count) % Self::CAPACITY] = event;
        self.count += 1;
    }

    /// The host is gone: forgets what waits, and whatever is said later.
    pub(crate) fn give_up(&mut self) {
        self.unheard = true;
        self.count = 0;
        self.stalled = Stalled::No;
    }

    /// Sends what there is room for.
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
                place.copy_from_slice(&self.events[(self.first + index) % Self::CAPACITY].encode());
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
                Err(_) => self.give_up(),
            }
        }
        self.pressing = false;
    }

    /// Whether to wait for room in the socket.
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
