//! System calls about processes: own identity, signals, groups, fork, limits, exec.

use core::ffi::CStr;

use crate::arch::{self, number};
use crate::status;
use crate::sys::{self, Errno, Fd, O_CLOEXEC, O_NONBLOCK, PollFd, Result, call, read};

pub(crate) fn exit(status: i32) -> ! {
    loop {
        // SAFETY: no pointers; the call does not return.
        let _ = unsafe { call(number::EXIT_GROUP, [status as usize, 0, 0, 0, 0, 0]) };
    }
}

pub(crate) fn own_pid() -> i32 {
    // SAFETY: no pointers. It cannot fail.
    unsafe { call(number::GETPID, [0; 6]) }.map_or(0, |pid| pid as i32)
}

pub(crate) fn parent_pid() -> i32 {
    // SAFETY: no pointers. It cannot fail.
    unsafe { call(number::GETPPID, [0; 6]) }.map_or(0, |pid| pid as i32)
}

/// The process group of a process; 0 for the caller's.
pub(crate) fn group_of(pid: i32) -> Result<i32> {
    // SAFETY: no pointers.
    unsafe { call(number::GETPGID, [pid as usize, 0, 0, 0, 0, 0]) }.map(|group| group as i32)
}

pub(crate) fn new_session() -> Result<()> {
    // SAFETY: no pointers.
    unsafe { call(number::SETSID, [0; 6]) }.map(drop)
}

/// Signals one process. Refuses the numbers by which kill(2) means all processes or the caller's
/// group.
pub(crate) fn signal(pid: i32, signal: i32) -> Result<()> {
    if pid <= 1 {
        return Err(Errno::EINVAL);
    }
    // SAFETY: no pointers.
    unsafe { call(number::KILL, [pid as usize, signal as usize, 0, 0, 0, 0]) }.map(drop)
}

/// Signals all members of a process group. The only place where a pid is negated.
pub(crate) fn signal_group(group: i32, signal: i32) -> Result<()> {
    if group <= 1 {
        return Err(Errno::EINVAL);
    }
    // SAFETY: no pointers.
    unsafe { call(number::KILL, [-group as usize, signal as usize, 0, 0, 0, 0]) }.map(drop)
}

const PAGE: usize = 4096;
const SIGCHLD: usize = 17;
/// The child uses its parent's memory until it execs or ends.
const CLONE_VM: usize = 0x100;

/// What a child of [`start_child`] begins with.
pub(crate) struct ChildStart {
    /// The end of its stack, aligned to 16 bytes.
    pub(crate) stack: usize,
    /// It never returns.
    pub(crate) entry: extern "C" fn(usize) -> !,
    pub(crate) argument: usize,
}

/// Creates a child in this process's memory, at the cost of vfork(2) and without waiting for its
/// exec. Everything else, such as descriptors and signal actions, is a copy of its own.
///
/// # Safety
/// Until the child has exec'd or ended, nothing else uses its stack, and what it reads stays
/// unchanged.
pub(crate) unsafe fn start_child(start: &ChildStart) -> Result<i32> {
    let arguments = [CLONE_VM | SIGCHLD, start.stack];
    // SAFETY: the caller's promise.
    sys::outcome(unsafe { arch::clone_onto(number::CLONE, arguments, start.entry, start.argument) })
        .map(|pid| pid as i32)
}

/// The same, of a child that is a member of the cgroup from its first moment (clone(2),
/// CLONE_INTO_CGROUP, 5.7).
///
/// # Safety
/// As [`start_child`].
pub(crate) unsafe fn start_child_into(cgroup: &Fd, start: &ChildStart) -> Result<i32> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    /// clone3(2) counts the stack from its lowest address. Any size will do: it only adds the two.
    const STACK: u64 = 16;
    let (flags, stack) = (CLONE_INTO_CGROUP | CLONE_VM as u64, start.stack as u64 - STACK);
    // struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls,
    // set_tid, set_tid_size, cgroup.
    let args: [u64; 11] = [
        flags,
        0,
        0,
        0,
        SIGCHLD as u64,
        stack,
        STACK,
        0,
        0,
        0,
        cgroup.raw() as u64,
    ];
    let arguments = [args.as_ptr() as usize, size_of_val(&args)];
    // SAFETY: the kernel reads 88 bytes; otherwise the caller's promise.
    sys::outcome(unsafe { arch::clone_onto(number::CLONE3, arguments, start.entry, start.argument) })
        .map(|pid| pid as i32)
}

/// fork(2) of a child that continues in `entry`, on a fresh page of the stack: it copies only the
/// pages that its own calls write to. `shares_descriptors`: it uses the same table of them as this
/// process, instead of a copy.
pub(crate) fn fork_to(entry: extern "C" fn(usize) -> !, argument: usize, shares_descriptors: bool) -> Result<i32> {
    const CLONE_FILES: usize = 0x400;
    /// What a leaf function may use below its stack pointer.
    const RED_ZONE: usize = 128;
    let flags = SIGCHLD | if shares_descriptors { CLONE_FILES } else { 0 };
    let here = 0_u8;
    let stack = (&raw const here as usize - RED_ZONE) & !(PAGE - 1);
    // SAFETY: without CLONE_VM the child has its own memory: the rest of the stack, below our
    // frames.
    sys::outcome(unsafe { arch::clone_onto(number::CLONE, [flags, stack], entry, argument) }).map(|pid| pid as i32)
}

/// In the first frame of a child of [`fork_to`]: releases the parent's frames. The parent writes to
/// them before it forks the next child, so each child would keep its own copy.
///
/// # Safety
/// Nothing refers to those frames.
pub(crate) unsafe fn forget_parents_frames() {
    const MADV_DONTNEED: usize = 4;
    /// More than the guardian's frames ever need; no page above them is copied.
    const FRAMES: usize = 4 * PAGE;
    let here = 0_u8;
    let border = (&raw const here as usize | (PAGE - 1)) + 1;
    // SAFETY: the caller's promise. If the call fails, the copies stay.
    let _ = unsafe { call(number::MADVISE, [border, FRAMES, MADV_DONTNEED, 0, 0, 0]) };
}

/// Signal numbers are the same on both architectures.
pub(crate) const SIGCONT: i32 = 18;

/// A pidfd of the process that now has this pid.
pub(crate) fn open(pid: i32) -> Result<Fd> {
    // SAFETY: no pointers.
    unsafe { call(number::PIDFD_OPEN, [pid as usize, 0, 0, 0, 0, 0]) }.map(|raw| Fd::own(raw as i32))
}

const PR_SET_PDEATHSIG: usize = 1;
const PR_SET_DUMPABLE: usize = 4;
const PR_SET_NAME: usize = 15;
const PR_SET_CHILD_SUBREAPER: usize = 36;

/// Has the kernel send this process `signal` when the thread that forked it ends.
pub(crate) fn signal_at_parents_end(signal: i32) -> Result<()> {
    // SAFETY: no pointers.
    unsafe { call(number::PRCTL, [PR_SET_PDEATHSIG, signal as usize, 0, 0, 0, 0]) }.map(drop)
}

/// A stopped process would not notice that its parent's socket is closed: has the kernel continue
/// it when the parent ends, which works although SIGCONT is blocked (signal(7)).
pub(crate) fn wake_at_parents_end() {
    // It can't fail for a valid signal (prctl(2)).
    let _ = signal_at_parents_end(SIGCONT);
}

/// Keeps processes of the same user, without CAP_SYS_PTRACE, from tracing this process and from
/// copying its descriptors (ptrace(2), pidfd_getfd(2)). Forked processes inherit this until they
/// exec.
pub(crate) fn forbid_tracing() {
    // SAFETY: no pointers. It can't fail for 0 (prctl(2)).
    let _ = unsafe { call(number::PRCTL, [PR_SET_DUMPABLE, 0, 0, 0, 0, 0]) };
}

/// Makes this process adopt the orphans among its descendants.
pub(crate) fn become_subreaper() -> Result<()> {
    // SAFETY: no pointers.
    unsafe { call(number::PRCTL, [PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0, 0]) }.map(drop)
}

/// Sets the name in process listings, at most 15 bytes. It can't fail for a readable string.
pub(crate) fn set_name(name: &CStr) {
    // SAFETY: a C string that outlives the call.
    let _ = unsafe { call(number::PRCTL, [PR_SET_NAME, name.as_ptr() as usize, 0, 0, 0, 0]) };
}

/// Soft and hard limit of descriptors.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct DescriptorLimit {
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

const RLIMIT_NOFILE: usize = 7;

pub(crate) fn descriptor_limit() -> Result<DescriptorLimit> {
    let mut limit = DescriptorLimit { soft: 0, hard: 0 };
    // SAFETY: room for what the kernel writes.
    unsafe { call(number::PRLIMIT64, [0, RLIMIT_NOFILE, 0, &raw mut limit as usize, 0, 0]) }?;
    Ok(limit)
}

pub(crate) fn set_descriptor_limit(limit: DescriptorLimit) -> Result<()> {
    // SAFETY: the kernel reads the limit only.
    unsafe {
        call(
            number::PRLIMIT64,
            [0, RLIMIT_NOFILE, &raw const limit as usize, 0, 0, 0],
        )
    }
    .map(drop)
}

/// Raises our own soft limit to the hard one. Workers get the host's limits.
pub(crate) fn raise_descriptor_limit() -> Result<()> {
    let hard = descriptor_limit()?.hard;
    set_descriptor_limit(DescriptorLimit { soft: hard, hard })
}

/// [`sys::poll`] under any descriptor limit. A process that may signal us may also lower our
/// limits, and with fewer descriptors than entries no wait is possible: we would not notice a
/// death. We may raise the soft limit again. If that does not help we exit, and the processes above
/// and below us end what we had.
pub(crate) fn wait(entries: &mut [PollFd], until: Option<u64>) {
    if sys::poll(entries, until).is_ok() {
        return;
    }
    if raise_descriptor_limit().is_err() || sys::poll(entries, until).is_err() {
        exit(status::DEAF);
    }
}

/// Restores every signal's default action. For KILL and STOP the call fails, which does not matter.
pub(crate) fn default_signal_actions() {
    // struct sigaction of the kernel: handler (0: default), flags, restorer, mask; one word longer
    // than some need.
    let action = [0_u64; 4];
    for signal in 1..=64 {
        // SAFETY: the kernel reads an action of zeros, and writes nothing.
        let _ = unsafe { call(number::RT_SIGACTION, [signal, action.as_ptr() as usize, 0, 8, 0, 0]) };
    }
}

/// Blocks exactly the signals of the mask: bit n-1 is signal n.
pub(crate) fn set_blocked_signals(mask: u64) -> Result<()> {
    const SIG_SETMASK: usize = 2;
    // SAFETY: the kernel reads eight bytes.
    unsafe {
        call(
            number::RT_SIGPROCMASK,
            [SIG_SETMASK, &raw const mask as usize, 0, 8, 0, 0],
        )
    }
    .map(drop)
}

/// A descriptor that can be read when SIGCHLD is pending.
pub(crate) fn child_signals() -> Result<Fd> {
    const SIGCHLD_BIT: u64 = 1 << 16;
    let mask = SIGCHLD_BIT;
    let args = [
        -1_isize as usize,
        &raw const mask as usize,
        8,
        O_CLOEXEC | O_NONBLOCK,
        0,
        0,
    ];
    // SAFETY: the kernel reads eight bytes.
    unsafe { call(number::SIGNALFD4, args) }.map(|raw| Fd::own(raw as i32))
}

/// Takes a pending SIGCHLD. At most one is pending, however many children have ended.
pub(crate) fn take_child_signal(fd: i32) {
    let mut info = [0; 128];
    // It fails if none is pending.
    let _ = read(fd, &mut info);
}

/// Returns only if it failed.
///
/// # Safety
/// `argv` and `envp` are arrays of pointers to C strings, each closed by a null pointer.
pub(crate) unsafe fn execute(path: &CStr, argv: *const u64, envp: *const u64) -> Errno {
    // SAFETY: the caller's promise.
    match unsafe {
        call(
            number::EXECVE,
            [path.as_ptr() as usize, argv as usize, envp as usize, 0, 0, 0],
        )
    } {
        Err(errno) => errno,
        // It does not return otherwise.
        Ok(_) => Errno::EIO,
    }
}
