//! Reads and verifies process identities, and sends signals that can't hit an unrelated process.
//!
//! Pids are reused. A process is identified by boot, PID namespace, pid and start time and, since
//! Linux 6.9, by the inode number of its pidfd, which is unique within a boot. To signal a process,
//! open a pidfd *first* and compare the identity *then*: a pidfd keeps its process, so a signal
//! through it reaches the verified process or none (pidfd_open(2), pidfd_send_signal(2)).

use std::borrow::Cow;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;
use std::time::Instant;

use nix::libc;
pub use ostler_core::process::ProcessIdentity;
use ostler_core::signal::Signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{fstat, fstatfs};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};
use uuid::Uuid;

use crate::procfile::{self, Stat};

/// The result of comparing an identity with the process that now has its pid.
#[derive(Debug)]
pub enum Verified {
    /// The process lives, and this holds it.
    Same(ProcessHandle),
    /// It has ended: reaped, a zombie without another thread, or of an earlier boot.
    Gone,
    /// It has ended, and an unrelated process has its pid now. That process is never touched.
    Reused,
    /// Neither proven nor refuted. The process is not touched, and must not be taken for gone.
    Unknown(Unverifiable),
}

/// Why an identity can be neither proven nor refuted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unverifiable {
    /// It was recorded in another PID namespace, where pids name other processes.
    ForeignNamespace,
    /// A process of this pid lives, but `/proc` hides it (`hidepid`).
    Hidden,
    /// The identity has no start time (0): a process of this pid lives, and may be another one.
    NoStartTime,
}

impl fmt::Display for Unverifiable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ForeignNamespace => "it was recorded in another PID namespace",
            Self::Hidden => "/proc hides it (hidepid)",
            Self::NoStartTime => "it was recorded without its start time",
        })
    }
}

/// The identity of the living process with this pid; `None` when there is none, or it is a zombie.
///
/// # Errors
/// When `/proc` can't be read, hides the process (`PermissionDenied`), or no descriptor is left.
pub fn of(pid: i32) -> io::Result<Option<ProcessIdentity>> {
    Ok(ProcessHandle::open(pid)?.map(|handle| handle.identity))
}

/// The identity of the calling process.
///
/// # Errors
/// [`NoOwnIdentity`], which says what this machine does not allow.
pub fn own() -> Result<ProcessIdentity, NoOwnIdentity> {
    let here = here().map_err(NoOwnIdentity::Proc)?;
    let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).map_err(|error| NoOwnIdentity::Pidfd(error.into()))?;
    let pid = getpid().as_raw_pid();
    let stat = procfile::stat(pid).map_err(NoOwnIdentity::Proc)?;
    let stat = stat.ok_or_else(|| NoOwnIdentity::Proc(io::Error::other("it does not show this process")))?;
    Ok(ProcessIdentity {
        boot_id: here.boot_id,
        pid_namespace: here.pid_namespace,
        pid,
        start_time: stat.start_time,
        pidfd_inode: pidfd_inode(pidfd.as_fd()),
    })
}

/// Why this process can't identify itself, and so no other process either.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoOwnIdentity {
    /// `/proc` is not mounted, or shows another PID namespace.
    #[error("/proc can't be read; mount /proc for this PID namespace")]
    Proc(#[source] io::Error),
    /// pidfd_open(2) was refused, as by a seccomp filter or a kernel before 5.3.
    #[error("pidfd_open was refused; it needs Linux 5.3, a seccomp profile that allows it, and a free descriptor")]
    Pidfd(#[source] io::Error),
}

/// Opens the process that now has the pid, and compares. What the returned handle holds is the
/// identified process.
///
/// # Errors
/// When `/proc` can't be read or no descriptor is left: the identity is then neither proven nor
/// refuted.
pub fn verify(identity: &ProcessIdentity) -> io::Result<Verified> {
    let here = here()?;
    if identity.boot_id != here.boot_id {
        return Ok(Verified::Gone);
    }
    if identity.pid_namespace != here.pid_namespace {
        return Ok(Verified::Unknown(Unverifiable::ForeignNamespace));
    }
    let Some(pidfd) = open_pidfd(identity.pid)? else {
        return Ok(Verified::Gone);
    };
    let inode = pidfd_inode(pidfd.as_fd());
    let by_inode = identity.pidfd_inode != 0 && inode != 0;
    if by_inode && identity.pidfd_inode != inode {
        return Ok(Verified::Reused);
    }
    let Some(stat) = procfile::shown(procfile::stat(identity.pid))?.flatten() else {
        let ended = is_ready(pidfd.as_fd())?;
        return Ok(match (ended, by_inode) {
            (true, _) => Verified::Gone,
            // The inode number identifies the process even though /proc hides it.
            (false, true) => Verified::Same(ProcessHandle {
                identity: *identity,
                pidfd,
            }),
            (false, false) => Verified::Unknown(Unverifiable::Hidden),
        });
    };
    if identity.start_time == 0 && !by_inode {
        return Ok(Verified::Unknown(Unverifiable::NoStartTime));
    }
    if identity.start_time != 0 && identity.start_time != stat.start_time {
        return Ok(Verified::Reused);
    }
    if stat.has_ended() || is_ready(pidfd.as_fd())? {
        return Ok(Verified::Gone);
    }
    Ok(Verified::Same(ProcessHandle {
        identity: *identity,
        pidfd,
    }))
}

/// Like [`verify`], for a process whose end is only watched: where the inode number of its pidfd is
/// known, that decides, and `/proc` is not read. It could add nothing, and once it is asked about a
/// process, the kernel has an entry to remove when that process ends, which takes 14 µs
/// (docs/performance.md).
///
/// # Errors
/// Those of [`verify`].
pub fn verify_to_watch(identity: &ProcessIdentity) -> io::Result<Verified> {
    let here = here()?;
    let is_here = identity.boot_id == here.boot_id && identity.pid_namespace == here.pid_namespace;
    if !is_here || identity.pidfd_inode == 0 {
        return verify(identity);
    }
    let Some(pidfd) = open_pidfd(identity.pid)? else {
        return Ok(Verified::Gone);
    };
    match pidfd_inode(pidfd.as_fd()) {
        0 => verify(identity),
        inode if inode != identity.pidfd_inode => Ok(Verified::Reused),
        _ if is_ready(pidfd.as_fd())? => Ok(Verified::Gone),
        _ => Ok(Verified::Same(ProcessHandle {
            identity: *identity,
            pidfd,
        })),
    }
}

/// A process that is held by a pidfd: signals through it can't hit a later process with the same
/// pid.
#[derive(Debug)]
pub struct ProcessHandle {
    identity: ProcessIdentity,
    pidfd: OwnedFd,
}

impl ProcessHandle {
    /// Holds the process that now has this pid; `None` when there is none, or it has ended.
    ///
    /// # Errors
    /// When `/proc` can't be read, hides the process (`PermissionDenied`), or no descriptor is
    /// left.
    pub fn open(pid: i32) -> io::Result<Option<Self>> {
        Ok(Self::open_with_stat(pid)?.map(|(handle, _)| handle))
    }

    /// Like [`Self::open`], with what `/proc` says about the process.
    pub(crate) fn open_with_stat(pid: i32) -> io::Result<Option<(Self, Stat)>> {
        let here = here()?;
        let Some(pidfd) = open_pidfd(pid)? else {
            return Ok(None);
        };
        let Some(stat) = procfile::stat(pid)? else {
            if is_ready(pidfd.as_fd())? {
                return Ok(None);
            }
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("/proc hides process {pid} (hidepid)"),
            ));
        };
        // Still alive after /proc was read, so what /proc says is about this process.
        if stat.has_ended() || is_ready(pidfd.as_fd())? {
            return Ok(None);
        }
        let identity = ProcessIdentity {
            boot_id: here.boot_id,
            pid_namespace: here.pid_namespace,
            pid,
            start_time: stat.start_time,
            pidfd_inode: pidfd_inode(pidfd.as_fd()),
        };
        Ok(Some((Self { identity, pidfd }, stat)))
    }

    /// The process's identity.
    pub fn identity(&self) -> ProcessIdentity {
        self.identity
    }

    /// Whether it has ended: its pidfd is ready, or it is a zombie without another thread.
    ///
    /// # Errors
    /// When `/proc` can't be read.
    pub fn has_ended(&self) -> io::Result<bool> {
        if is_ready(self.pidfd.as_fd())? {
            return Ok(true);
        }
        Ok(procfile::stat(self.identity.pid)?.is_some_and(|stat| stat.has_ended()))
    }

    /// Blocks until it has ended or the deadline passes; says whether it has ended.
    ///
    /// # Errors
    /// When it can't be polled.
    pub fn wait_until(&self, deadline: Instant) -> io::Result<bool> {
        wait_any(&[self.pidfd.as_fd()], deadline)?;
        self.has_ended()
    }

    /// Signals the process, and traces the signal with its attribution.
    ///
    /// # Errors
    /// [`SignalError::NotPermitted`] for a process of another user.
    pub fn signal(&self, signal: Signal, attribution: &Attribution) -> Result<Delivery, SignalError> {
        let (pid, identity) = (self.identity.pid, self.identity);
        let error = send_signal(self.pidfd.as_fd(), signal.number(), 0).err();
        let outcome = match error {
            None => Ok(Delivery::Sent),
            Some(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(Delivery::Gone),
            Some(error) if error.raw_os_error() == Some(libc::EPERM) => Err(SignalError::NotPermitted { identity }),
            Some(source) => Err(SignalError::Send { identity, source }),
        };
        tracing::debug!(pid, %signal, sender = %attribution.sender, cause = %attribution.cause, ?outcome, "signal");
        outcome
    }
}

impl AsFd for ProcessHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Who sends a signal, and why. Every signal of Ostler's is traced with it: an unexplained TERM
/// costs hours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribution {
    /// The part of Ostler that sends the signal, such as `sweep`.
    pub sender: Cow<'static, str>,
    /// The reason, such as `left by the dead run 9f3a-07c4`.
    pub cause: Cow<'static, str>,
}

impl Attribution {
    /// Sent by `sender` because of `cause`.
    pub fn new(sender: impl Into<Cow<'static, str>>, cause: impl Into<Cow<'static, str>>) -> Self {
        Self {
            sender: sender.into(),
            cause: cause.into(),
        }
    }
}

impl fmt::Display for Attribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.sender, self.cause)
    }
}

/// What became of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The kernel accepted it.
    Sent,
    /// The process had ended before.
    Gone,
}

/// Why a signal was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// EPERM: the process runs as another user.
    #[error("{identity} can't be signalled: it runs as another user")]
    NotPermitted {
        /// The process.
        identity: ProcessIdentity,
    },
    /// The system call failed otherwise, such as EINVAL for a number that is no signal.
    #[error("{identity} could not be signalled")]
    Send {
        /// The process.
        identity: ProcessIdentity,
        /// What went wrong.
        source: io::Error,
    },
}

/// The part of an identity that all processes of this PID namespace share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Here {
    /// This boot of the machine.
    pub boot_id: Uuid,
    /// The caller's PID namespace, by its inode number.
    pub pid_namespace: u64,
}

/// This boot and the caller's PID namespace. Read once.
///
/// # Errors
/// When `/proc` is not mounted or not readable.
pub fn here() -> io::Result<Here> {
    static HERE: OnceLock<Here> = OnceLock::new();
    if let Some(here) = HERE.get() {
        return Ok(*here);
    }
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let boot_id = Uuid::try_parse(text.trim()).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let pid_namespace = fs::metadata("/proc/self/ns/pid")?.ino();
    Ok(*HERE.get_or_init(|| Here { boot_id, pid_namespace }))
}

/// The inode number of a pidfd; 0 where pidfds have no inode of their own (before Linux 6.9, or on
/// 32 bits).
fn pidfd_inode(pidfd: BorrowedFd<'_>) -> u64 {
    if !has_pidfs() {
        return 0;
    }
    fstat(pidfd).map_or(0, |stat| stat.st_ino)
}

/// Whether pidfds are on a file system of their own, with one inode per process. Asked once.
pub(crate) fn has_pidfs() -> bool {
    /// PID_FS_MAGIC of linux/magic.h.
    const PIDFS: i128 = 0x5049_4446;
    static HAS: OnceLock<bool> = OnceLock::new();
    let asked = || {
        let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).ok()?;
        // The type of `f_type` differs among architectures.
        fstatfs(&pidfd).ok().map(|system| i128::from(system.f_type) == PIDFS)
    };
    // An error, such as EMFILE, is not an answer: ask again next time.
    HAS.get()
        .copied()
        .unwrap_or_else(|| asked().is_some_and(|has| *HAS.get_or_init(|| has && cfg!(target_pointer_width = "64"))))
}

/// `None` when this is not the pid of a process; the id of a thread that leads no process counts as
/// none.
fn open_pidfd(pid: i32) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = (pid > 0).then(|| Pid::from_raw(pid)).flatten() else {
        return Ok(None);
    };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(Some(pidfd)),
        // ENOENT and, before 6.9, EINVAL: the number is the id of a thread that leads no process.
        Err(Errno::SRCH | Errno::NOENT | Errno::INVAL) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// pidfd_send_signal(2). rustix has it too, but for named signals only and without flags, and a
/// spec may ask for a real-time signal.
pub(crate) fn send_signal(pidfd: BorrowedFd<'_>, signal: i32, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: with an open descriptor, a null siginfo and flags the call accesses no memory of
    // ours.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            flags,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Whether a pidfd says that its process has ended.
fn is_ready(pidfd: BorrowedFd<'_>) -> io::Result<bool> {
    wait_any(&[pidfd], Instant::now())
}

/// Polls descriptors until one is ready or the deadline passes; says whether one is.
pub(crate) fn wait_any(fds: &[BorrowedFd<'_>], deadline: Instant) -> io::Result<bool> {
    let mut polled: Vec<PollFd<'_>> = fds
        .iter()
        .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
        .collect();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        match poll(&mut polled, Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
