//! Who a process is, and signals that reach nobody else.
//!
//! A pid is a number that is used again. A process is identified by (boot, PID namespace, pid, start time) and, since
//! Linux 6.9, by its pidfd's inode number, which no other process of the boot ever has. To touch
//! one, a pidfd is opened *first* and the identity is compared *then*: what the pidfd holds can't change afterwards, so
//! a signal through it reaches the process that was verified, or nobody (pidfd_open(2), pidfd_send_signal(2)).

use std::borrow::Cow;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;
use std::time::Instant;

use nix::libc;
use ostler_core::signal::Signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{fstat, fstatfs};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::procfile;

/// Who a process is: no other process has the same, ever.
///
/// The start time counts clock ticks (10 ms): two processes share it when a pid is given out again within one tick, as
/// a small `pid_max` or a write to `ns_last_pid` allows. The pidfd's inode number tells those two apart as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// The boot of the machine (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: Uuid,
    /// The PID namespace in which `pid` counts, by its inode number.
    pub pid_namespace: u64,
    /// The process id in that namespace.
    pub pid: i32,
    /// When it started, in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub start_time: u64,
    /// Inode number of its pidfds, unique in this boot (Linux 6.9, 64 bits); 0 where the kernel has none, or it is not
    /// known.
    #[serde(default)]
    pub pidfd_inode: u64,
}

impl fmt::Display for ProcessIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} (started at tick {})", self.pid, self.start_time)
    }
}

/// What has become of an identity.
#[derive(Debug)]
pub enum Verified {
    /// It lives, and this holds it.
    Same(ProcessHandle),
    /// It has ended: reaped, a zombie without another thread, or of an earlier boot.
    Gone,
    /// It has ended, and its pid now belongs to another process. Never touched.
    Stranger,
    /// Nothing can be said from here. Never touched, and not to be taken for gone.
    Unknown(Unverifiable),
}

/// Why nothing can be said of an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unverifiable {
    /// It was recorded in another PID namespace, where pids mean other processes.
    ForeignNamespace,
    /// It lives, but `/proc` hides it from us (`hidepid`).
    Hidden,
    /// When it started was not known to whoever recorded it (0): a process of that pid lives, and may be another.
    NoStartTime,
}

impl fmt::Display for Unverifiable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ForeignNamespace => "it was recorded in another PID namespace",
            Self::Hidden => "/proc hides it from us (hidepid)",
            Self::NoStartTime => "it was recorded without its start time",
        })
    }
}

impl ProcessIdentity {
    /// The identity of a living process; `None` when there is none of this pid, or it is a zombie.
    ///
    /// # Errors
    /// When `/proc` can't be read or no descriptor is left.
    pub fn of(pid: i32) -> io::Result<Option<Self>> {
        Ok(ProcessHandle::open(pid)?.map(|handle| handle.identity))
    }

    /// Opens what now has the pid, compares, and says whether it is the same process.
    ///
    /// # Errors
    /// When `/proc` can't be read or no descriptor is left: the identity is then neither proven nor refuted.
    pub fn verify(&self) -> io::Result<Verified> {
        let here = here()?;
        if self.boot_id != here.boot_id {
            return Ok(Verified::Gone);
        }
        if self.pid_namespace != here.pid_namespace {
            return Ok(Verified::Unknown(Unverifiable::ForeignNamespace));
        }
        let Some(pidfd) = open_pidfd(self.pid)? else {
            return Ok(Verified::Gone);
        };
        let Some(stat) = procfile::shown(procfile::stat(self.pid))?.flatten() else {
            // The pidfd says that somebody lives whom /proc does not show, or it ended this very moment.
            let ended = is_ready(pidfd.as_fd())?;
            return Ok(if ended {
                Verified::Gone
            } else {
                Verified::Unknown(Unverifiable::Hidden)
            });
        };
        let inode = pidfd_inode(pidfd.as_fd());
        if self.start_time == 0 && (self.pidfd_inode == 0 || inode == 0) {
            return Ok(Verified::Unknown(Unverifiable::NoStartTime));
        }
        let now = Self {
            start_time: stat.start_time,
            pidfd_inode: inode,
            ..*self
        };
        if !self.is_same_as(&now) {
            return Ok(Verified::Stranger);
        }
        if stat.has_ended() || is_ready(pidfd.as_fd())? {
            return Ok(Verified::Gone);
        }
        Ok(Verified::Same(ProcessHandle { identity: *self, pidfd }))
    }

    /// Whether both name one process: what both know must agree. A start time or an inode number that one of them lacks
    /// (0) says nothing.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let agree = |ours: u64, theirs: u64| ours == 0 || theirs == 0 || ours == theirs;
        (self.boot_id, self.pid_namespace, self.pid) == (other.boot_id, other.pid_namespace, other.pid)
            && agree(self.start_time, other.start_time)
            && agree(self.pidfd_inode, other.pidfd_inode)
    }

    /// Signals the process, if it is still the same one.
    ///
    /// # Errors
    /// [`SignalError`]; a process that has ended is no error.
    pub fn signal(&self, signal: Signal, attribution: &Attribution) -> Result<Delivery, SignalError> {
        match self.verify().map_err(|source| SignalError::Verify {
            identity: *self,
            source,
        })? {
            Verified::Same(handle) => handle.signal(signal, attribution),
            Verified::Gone | Verified::Stranger => Ok(Delivery::Gone),
            Verified::Unknown(why) => Err(SignalError::Unverifiable { identity: *self, why }),
        }
    }
}

/// A process that is held by a pidfd, so that its pid can't come to mean another one.
#[derive(Debug)]
pub struct ProcessHandle {
    identity: ProcessIdentity,
    pidfd: OwnedFd,
}

impl ProcessHandle {
    /// Holds the process that now has this pid; `None` when there is none, or it has ended.
    ///
    /// # Errors
    /// When `/proc` can't be read, hides the process, or no descriptor is left.
    pub fn open(pid: i32) -> io::Result<Option<Self>> {
        match open_pidfd(pid)? {
            Some(pidfd) => Self::from_pidfd(pid, pidfd),
            None => Ok(None),
        }
    }

    /// Takes a pidfd that is known to hold `pid`, such as one that came from the process's parent.
    ///
    /// # Errors
    /// When `/proc` can't be read, or hides the process.
    pub fn from_pidfd(pid: i32, pidfd: OwnedFd) -> io::Result<Option<Self>> {
        let here = here()?;
        let Some(stat) = procfile::stat(pid)? else {
            if is_ready(pidfd.as_fd())? {
                return Ok(None);
            }
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("/proc hides process {pid} from us"),
            ));
        };
        // Still alive after /proc was read: what was read there is this process.
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
        Ok(Some(Self { identity, pidfd }))
    }

    /// Who it is.
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

    /// Signals it. Every signal of ours says who sent it and why: it is traced with its attribution.
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

/// Who sends a signal, and why: hours have gone into tracing a TERM that nobody owned up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribution {
    /// The part of Ostler that sends it, such as `sweep`.
    pub sender: Cow<'static, str>,
    /// Its reason, such as `left by the dead run 9f3a-07c4`.
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
    /// The kernel has taken it.
    Sent,
    /// The process had ended before.
    Gone,
}

/// Why a signal was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// EPERM: the process runs as a user whom we may not signal.
    #[error("we may not signal {identity}: it runs as another user")]
    NotPermitted {
        /// Whom it was for.
        identity: ProcessIdentity,
    },
    /// Nothing can be said of the identity from here, so it is not touched.
    #[error("{identity} is not signalled: {why}")]
    Unverifiable {
        /// Whom it was for.
        identity: ProcessIdentity,
        /// What keeps us from knowing.
        why: Unverifiable,
    },
    /// The identity could not be compared.
    #[error("{identity} could not be verified")]
    Verify {
        /// Whom it was for.
        identity: ProcessIdentity,
        /// What went wrong.
        source: io::Error,
    },
    /// The system call failed otherwise, such as EINVAL for a number that is no signal.
    #[error("{identity} could not be signalled")]
    Send {
        /// Whom it was for.
        identity: ProcessIdentity,
        /// What went wrong.
        source: io::Error,
    },
}

/// Where we are: the part of an identity that is the same for all our processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Here {
    /// This boot of the machine.
    pub boot_id: Uuid,
    /// Our own PID namespace, by its inode number.
    pub pid_namespace: u64,
}

/// This boot and our PID namespace; read once.
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

/// The inode number of a pidfd; 0 where the kernel gives pidfds none of their own (before 6.9, or on 32 bits).
fn pidfd_inode(pidfd: BorrowedFd<'_>) -> u64 {
    if !has_pidfs() {
        return 0;
    }
    fstat(pidfd).map_or(0, |stat| stat.st_ino)
}

/// Whether pidfds lie in a file system of their own, where each process has an inode; asked once.
pub(crate) fn has_pidfs() -> bool {
    /// PID_FS_MAGIC of linux/magic.h.
    const PIDFS: i128 = 0x5049_4446;
    static HAS: OnceLock<bool> = OnceLock::new();
    let of_ours = || {
        let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).ok()?;
        // The type of `f_type` differs among architectures.
        fstatfs(&pidfd).ok().map(|system| i128::from(system.f_type) == PIDFS)
    };
    // A refusal, such as of a descriptor too many, is no answer: it is asked again.
    HAS.get()
        .copied()
        .unwrap_or_else(|| of_ours().is_some_and(|has| *HAS.get_or_init(|| has && cfg!(target_pointer_width = "64"))))
}

/// `None` when no process has this pid as its own; the id of a mere thread counts as none.
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

/// pidfd_send_signal(2). rustix has it too, but for named signals only and without flags, and a spec may ask for a
/// real-time signal.
pub(crate) fn send_signal(pidfd: BorrowedFd<'_>, signal: i32, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: with a descriptor that is open, a null siginfo and flags it touches no memory of ours.
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
