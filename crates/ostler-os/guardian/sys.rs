//! Typed system calls: files, sockets, memory, time. Processes are in `process`, waiting for them
//! is in `wait`, messages are in `wire`.

use core::ffi::CStr;
use core::ptr::null;

use crate::arch::{number, syscall};

/// An error number of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

impl Errno {
    pub(crate) const EPERM: Self = Self(1);
    pub(crate) const ENOENT: Self = Self(2);
    pub(crate) const ESRCH: Self = Self(3);
    pub(crate) const EINTR: Self = Self(4);
    pub(crate) const EIO: Self = Self(5);
    pub(crate) const ECHILD: Self = Self(10);
    pub(crate) const EAGAIN: Self = Self(11);
    pub(crate) const ENOMEM: Self = Self(12);
    pub(crate) const EBUSY: Self = Self(16);
    pub(crate) const ENODEV: Self = Self(19);
    pub(crate) const EINVAL: Self = Self(22);
    pub(crate) const EMFILE: Self = Self(24);
    pub(crate) const ENOBUFS: Self = Self(105);
    pub(crate) const ESHUTDOWN: Self = Self(108);
}

pub(crate) type Result<T> = core::result::Result<T, Errno>;

/// # Safety
///
/// As the call itself: pointers among the arguments must be valid for what the kernel
/// reads and writes.
pub(crate) unsafe fn call(number: usize, args: [usize; 6]) -> Result<usize> {
    // SAFETY: the caller's promise.
    outcome(unsafe { syscall(number, args) })
}

/// The result of a system call: errors are -4095 to -1 (syscall(2)).
pub(crate) fn outcome(answer: isize) -> Result<usize> {
    match answer {
        error @ -4095..=-1 => Err(Errno(-error as i32)),
        value => Ok(value as usize),
    }
}

/// A descriptor that is closed when it goes out of scope.
#[derive(Debug)]
pub(crate) struct Fd(i32);

impl Fd {
    /// Takes over a descriptor that nothing else closes.
    pub(crate) fn own(raw: i32) -> Self {
        Self(raw)
    }

    pub(crate) fn raw(&self) -> i32 {
        self.0
    }

    /// Returns the descriptor without closing it.
    pub(crate) fn into_raw(self) -> i32 {
        core::mem::ManuallyDrop::new(self).0
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        close(self.0);
    }
}

/// Whatever close(2) returns, the descriptor is closed.
pub(crate) fn close(fd: i32) {
    // SAFETY: no pointers.
    let _ = unsafe { call(number::CLOSE, [fd as usize, 0, 0, 0, 0, 0]) };
}

/// Closes `first` and all above; without the call (before Linux 5.9) those up to `highest`.
pub(crate) fn close_from(first: i32, highest: i32) {
    // SAFETY: no pointers.
    if unsafe { call(number::CLOSE_RANGE, [first as usize, u32::MAX as usize, 0, 0, 0, 0]) }.is_err() {
        (first..=highest).for_each(close);
    }
}

const CLOSE_RANGE_UNSHARE: usize = 2;

/// Leaves a descriptor table that is shared with another process, with a copy of the descriptors
/// below `first` (Linux 5.9).
pub(crate) fn leave_shared_table(first: i32) -> Result<()> {
    let args = [first as usize, u32::MAX as usize, CLOSE_RANGE_UNSHARE, 0, 0, 0];
    // SAFETY: no pointers.
    unsafe { call(number::CLOSE_RANGE, args) }.map(drop)
}

/// Fails where [`leave_shared_table`] would. Closes nothing: no descriptor has that number.
pub(crate) fn can_leave_shared_table() -> Result<()> {
    let none = u32::MAX as usize;
    // SAFETY: no pointers.
    unsafe { call(number::CLOSE_RANGE, [none, none, CLOSE_RANGE_UNSHARE, 0, 0, 0]) }.map(drop)
}

/// Marks `first` and all above close-on-exec. Fails before Linux 5.11.
pub(crate) fn close_on_exec_from(first: i32) -> Result<()> {
    const CLOSE_RANGE_CLOEXEC: usize = 4;
    // SAFETY: no pointers.
    unsafe {
        call(
            number::CLOSE_RANGE,
            [first as usize, u32::MAX as usize, CLOSE_RANGE_CLOEXEC, 0, 0, 0],
        )
    }
    .map(drop)
}

pub(crate) const O_CLOEXEC: usize = 0o2_000_000;
pub(crate) const O_NONBLOCK: usize = 0o4_000;
const AT_FDCWD: i32 = -100;

/// Opens for reading.
pub(crate) fn open(path: &CStr) -> Result<Fd> {
    open_at(AT_FDCWD, path, 0)
}

/// Opens a file of a directory for reading.
pub(crate) fn open_in(directory: &Fd, path: &CStr) -> Result<Fd> {
    open_at(directory.0, path, 0)
}

/// Opens a file of a directory for writing.
pub(crate) fn open_in_to_write(directory: &Fd, path: &CStr) -> Result<Fd> {
    open_at(directory.0, path, 1)
}

fn open_at(directory: i32, path: &CStr, flags: usize) -> Result<Fd> {
    let args = [directory as usize, path.as_ptr() as usize, flags | O_CLOEXEC, 0, 0, 0];
    // SAFETY: the path is a C string that outlives the call.
    unsafe { call(number::OPENAT, args) }.map(|raw| Fd(raw as i32))
}

pub(crate) fn read(fd: i32, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most the buffer's length.
    unsafe {
        call(
            number::READ,
            [fd as usize, buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0],
        )
    }
}

/// Reads at this position of a file.
pub(crate) fn read_at(fd: i32, buffer: &mut [u8], position: usize) -> Result<usize> {
    // SAFETY: the kernel writes at most the buffer's length.
    unsafe {
        call(
            number::PREAD64,
            [fd as usize, buffer.as_mut_ptr() as usize, buffer.len(), position, 0, 0],
        )
    }
}

pub(crate) fn write(fd: i32, bytes: &[u8]) -> Result<usize> {
    // SAFETY: the kernel reads at most the bytes' length.
    unsafe {
        call(
            number::WRITE,
            [fd as usize, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0],
        )
    }
}

/// The next entries of a directory, as `linux_dirent64` records; 0 bytes at the end.
pub(crate) fn read_directory(fd: &Fd, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most the buffer's length.
    unsafe {
        call(
            number::GETDENTS64,
            [fd.0 as usize, buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0],
        )
    }
}

/// The size of a file.
pub(crate) fn size(fd: i32) -> Result<usize> {
    const SEEK_END: usize = 2;
    // SAFETY: no pointers.
    unsafe { call(number::LSEEK, [fd as usize, 0, SEEK_END, 0, 0, 0]) }
}

/// The inode number of an open file.
pub(crate) fn inode(fd: &Fd) -> Result<u64> {
    const AT_EMPTY_PATH: usize = 0x1000;
    const STATX_INO: usize = 0x100;
    // struct statx is 256 bytes on every architecture, and its inode number the fifth of its 64-bit
    // words.
    let mut words = [0_u64; 32];
    let args = [
        fd.0 as usize,
        c"".as_ptr() as usize,
        AT_EMPTY_PATH,
        STATX_INO,
        words.as_mut_ptr() as usize,
        0,
    ];
    // SAFETY: an empty C string, and room for a struct statx.
    unsafe { call(number::STATX, args) }?;
    Ok(words[4])
}

/// A pipe: reading end, writing end. Both are non-blocking and close-on-exec.
pub(crate) fn pipe() -> Result<(Fd, Fd)> {
    let mut ends = [0_i32; 2];
    // SAFETY: room for the two numbers that the kernel writes.
    unsafe {
        call(
            number::PIPE2,
            [ends.as_mut_ptr() as usize, O_CLOEXEC | O_NONBLOCK, 0, 0, 0, 0],
        )
    }?;
    Ok((Fd(ends[0]), Fd(ends[1])))
}

/// Two ends of a connection that keeps message boundaries.
pub(crate) fn socket_pair() -> Result<(Fd, Fd)> {
    const AF_UNIX: usize = 1;
    const SOCK_SEQPACKET: usize = 5;
    let mut ends = [0_i32; 2];
    let args = [AF_UNIX, SOCK_SEQPACKET | O_CLOEXEC, 0, ends.as_mut_ptr() as usize, 0, 0];
    // SAFETY: room for the two numbers that the kernel writes.
    unsafe { call(number::SOCKETPAIR, args) }?;
    Ok((Fd(ends[0]), Fd(ends[1])))
}

/// Makes `to` a copy of `from`, close-on-exec or not. The two must differ.
pub(crate) fn duplicate_to(from: i32, to: i32, close_on_exec: bool) -> Result<()> {
    let flags = if close_on_exec { O_CLOEXEC } else { 0 };
    // SAFETY: no pointers.
    unsafe { call(number::DUP3, [from as usize, to as usize, flags, 0, 0, 0]) }.map(drop)
}

/// A close-on-exec copy whose number is at least `least`.
pub(crate) fn duplicate_above(fd: i32, least: i32) -> Result<i32> {
    const F_DUPFD_CLOEXEC: usize = 1030;
    // SAFETY: no pointers.
    unsafe { call(number::FCNTL, [fd as usize, F_DUPFD_CLOEXEC, least as usize, 0, 0, 0]) }.map(|raw| raw as i32)
}

/// One entry for [`poll`]. A negative descriptor is ignored (poll(2)).
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct PollFd {
    fd: i32,
    events: i16,
    revents: i16,
}

impl PollFd {
    pub(crate) const NONE: Self = Self {
        fd: -1,
        events: 0,
        revents: 0,
    };

    /// Wakes when it can be read, and when the other end is closed.
    pub(crate) const fn readable(fd: i32) -> Self {
        Self {
            fd,
            events: 1,
            revents: 0,
        }
    }

    /// Wakes only when the other end is closed.
    pub(crate) const fn end_only(fd: i32) -> Self {
        Self {
            fd,
            events: 0,
            revents: 0,
        }
    }

    /// Wakes when it can be written, and when the other end is closed.
    pub(crate) const fn writable(fd: i32) -> Self {
        Self {
            fd,
            events: 4,
            revents: 0,
        }
    }

    pub(crate) fn woke(&self) -> bool {
        self.revents != 0
    }
}

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

/// Waits until an entry wakes, or until `until` on the clock of [`now`]; `None` waits forever. An
/// interrupted wait returns early with no entry awake. EINVAL: the descriptor limit is lower than
/// the number of entries (ppoll(2)).
pub(crate) fn poll(entries: &mut [PollFd], until: Option<u64>) -> Result<()> {
    let left = until.map(|until| until.saturating_sub(now()));
    let time = left.map(|left| Timespec {
        seconds: (left / 1_000_000_000) as i64,
        nanoseconds: (left % 1_000_000_000) as i64,
    });
    let time = time.as_ref().map_or(null(), |time| time as *const Timespec);
    // SAFETY: entries and time are valid for the call; there is no signal mask.
    let waited = unsafe {
        call(
            number::PPOLL,
            [entries.as_mut_ptr() as usize, entries.len(), time as usize, 0, 0, 0],
        )
    };
    if waited.is_err() {
        entries.iter_mut().for_each(|entry| entry.revents = 0);
    }
    match waited {
        Err(Errno::EINVAL) => Err(Errno::EINVAL),
        _ => Ok(()),
    }
}

/// Nanoseconds of the monotonic clock.
pub(crate) fn now() -> u64 {
    const CLOCK_MONOTONIC: usize = 1;
    clock(CLOCK_MONOTONIC)
}

/// The time since boot in clock ticks, the unit in which `/proc` shows when a process started. For
/// user space there are always 100 in a second (USER_HZ).
pub(crate) fn boot_ticks() -> u64 {
    const CLOCK_BOOTTIME: usize = 7;
    const TICK: u64 = 10_000_000;
    clock(CLOCK_BOOTTIME) / TICK
}

fn clock(clock: usize) -> u64 {
    let mut time = Timespec {
        seconds: 0,
        nanoseconds: 0,
    };
    // SAFETY: room for what the kernel writes. It can't fail for these clocks (clock_gettime(2)).
    let _ = unsafe { call(number::CLOCK_GETTIME, [clock, &raw mut time as usize, 0, 0, 0, 0]) };
    time.seconds as u64 * 1_000_000_000 + time.nanoseconds as u64
}

/// An anonymous zeroed mapping.
pub(crate) fn map(bytes: usize) -> Result<*mut u8> {
    const PRIVATE: usize = 2;
    map_as(bytes, PRIVATE)
}

/// The same, shared with processes that are forked from now on.
pub(crate) fn map_shared(bytes: usize) -> Result<*mut u8> {
    const SHARED: usize = 1;
    map_as(bytes, SHARED)
}

fn map_as(bytes: usize, kind: usize) -> Result<*mut u8> {
    const ANONYMOUS: usize = 0x20;
    const READ_WRITE: usize = 3;
    let args = [0, bytes, READ_WRITE, kind | ANONYMOUS, -1_isize as usize, 0];
    // SAFETY: a new mapping disturbs nothing.
    unsafe { call(number::MMAP, args) }.map(|at| at as *mut u8)
}

/// Removes a mapping of [`map`] or [`map_shared`].
///
/// # Safety
/// Nothing refers to it.
pub(crate) unsafe fn unmap(at: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise. It can't fail for a whole mapping.
    let _ = unsafe { call(number::MUNMAP, [at as usize, bytes, 0, 0, 0, 0]) };
}

/// Grows a mapping of [`map`], and may move it. The new part is zeroed.
///
/// # Safety
/// `at` is such a mapping of `bytes` bytes, and nothing refers to it.
pub(crate) unsafe fn grow(at: *mut u8, bytes: usize, larger: usize) -> Result<*mut u8> {
    const MREMAP_MAYMOVE: usize = 1;
    // SAFETY: the caller's promise.
    unsafe { call(number::MREMAP, [at as usize, bytes, larger, MREMAP_MAYMOVE, 0, 0]) }.map(|at| at as *mut u8)
}

/// Keeps a mapping out of forked processes. If this fails, they carry a copy that they never use.
pub(crate) fn keep_from_children(at: *mut u8, bytes: usize) {
    const MADV_DONTFORK: usize = 10;
    // SAFETY: this advice changes no memory of this process.
    let _ = unsafe { call(number::MADVISE, [at as usize, bytes, MADV_DONTFORK, 0, 0, 0]) };
}

pub(crate) fn change_directory(path: &CStr) -> Result<()> {
    // SAFETY: a C string that outlives the call.
    unsafe { call(number::CHDIR, [path.as_ptr() as usize, 0, 0, 0, 0, 0]) }.map(drop)
}
