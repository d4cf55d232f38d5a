//! Sends and receives messages and the descriptors that come with them.

use core::mem::size_of;

use crate::arch::number;
use crate::protocol::MAX_SPAWN_FDS;
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

/// The kernel's struct msghdr (user_msghdr).
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

/// struct cmsghdr with room for the descriptors of one message.
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

    /// Closes all, in place: a second value in a receiver's frame would cost every sitter memory.
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

    /// The descriptors from `first` on that were not taken.
    pub(crate) fn rest(&self, first: usize) -> &[Option<Fd>] {
        self.list.get(first..self.count).unwrap_or(&[])
    }

    /// The highest descriptor number; -1 if there is none.
    pub(crate) fn highest(&self) -> i32 {
        self.list[..self.count]
            .iter()
            .flatten()
            .map(Fd::raw)
            .max()
            .unwrap_or(-1)
    }
}

/// The result of [`receive`].
pub(crate) enum Received {
    Message {
        length: usize,
        /// Some descriptors were lost: this process's descriptor table is full.
        truncated: bool,
    },
    /// No message is waiting.
    Nothing,
    /// The other end is closed, or the socket is broken.
    End,
}

/// Receives one message into `buffer` and its descriptors into `fds`. Never waits.
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

/// Like [`send`], with all of `fds`, which stay the caller's.
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
