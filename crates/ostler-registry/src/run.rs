//! The directory of a run, which contains its process table, and its locks.
//!
//! ```text
//! <app directory>/
//! <run id>/            created as `.new-<run id>`, locked, described, then renamed
//!     run.lock           held by the host for as long as it lives
//!     guardian.lock      held as long as a guardian or a sitter of the run lives, and by the host
//!     run.json           who the host and the guardian are, and which engine keeps the table
//!     table.redb         or table.rocksdb/
//!   set-aside/           stores that could not be read, kept for people
//! ```
//! **A free lock means that the host is dead**, without looking at any pid; the guardian's lock
//! says the same about guardians and sitters. A sweep takes the host's lock before it looks
//! further, so two sweeps never work on the same run, and a directory whose lock is held is not
//! touched. Removal starts with a rename to `.gone-<run id>.<pid>.<number>`, so a run's directory
//! is never visible in part.

mod dead;
mod info;
mod lock;
mod scratch;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ostler_core::process::ProcessIdentity;
use ostler_failpoint::{self as failpoint, Point};

use lock::{GUARDIAN_LOCK, HOST_LOCK, RunLock, Taken};

use crate::private::{Distrust, PrivateDir, Refused};
use crate::record::UnixNanos;
use crate::store::{Engine, Place, SET_ASIDE};

pub use dead::{DeadRun, FoundRun, LiveRun, remove_leftovers, runs};
pub use info::{RUN_FORMAT, RunInfo, RunInfoError};
pub use scratch::Scratch;

const NEW_PREFIX: &str = ".new-";
const GONE_PREFIX: &str = ".gone-";

/// How long creating a directory is retried if a sweep mistakes it for one of a dead process: 2 s.
/// A sweep looks only once, but may be delayed between its check and its removal.
const MAKE_LIMIT: Duration = Duration::from_secs(2);
/// The pause between attempts: 1 ms.
const MAKE_PAUSE: Duration = Duration::from_millis(1);

/// Why a run's directory could not be created, locked, listed or removed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RunDirError {
    /// The operating system returned an error.
    #[error("can't {action} {}", path.display())]
    Io {
        /// The attempted action.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// The file system grants a lock twice, or not at all, so it cannot show whether a host is
    /// alive.
    #[error("locks do not work on the file system of {}: {detail}", path.display())]
    LocksDontWork {
        /// The lock file.
        path: PathBuf,
        /// What was observed.
        detail: String,
    },
    /// The directory was repeatedly removed while it was being created.
    #[error("{} is repeatedly removed by another process while it is being created", path.display())]
    Vanishes {
        /// The directory.
        path: PathBuf,
    },
    /// A run's directory lacks a lock, so nothing is known about the processes that should hold it.
    #[error("{} has no {lock}, so it is unknown whether processes of its run are alive", path.display())]
    NoLock {
        /// The directory.
        path: PathBuf,
        /// The name of the lock.
        lock: &'static str,
    },
    /// Another user could have filled the directory, or it is not the one that was opened, so
    /// nothing in it is believed or removed.
    #[error("{} is not trusted: {why}", path.display())]
    Untrusted {
        /// The directory.
        path: PathBuf,
        /// Why not.
        why: Distrust,
    },
}

impl RunDirError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io {
            action,
            path,
            source: Arc::new(error),
        }
    }

    fn untrusted(path: &Path, why: Distrust) -> Self {
        let path = path.to_owned();
        Self::Untrusted { path, why }
    }

    /// Whether something was not found.
    fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// What the user can do about it.
    pub fn suggestion(&self) -> String {
        match self {
            Self::Io { path, source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => format!(
                    "free space on the file system of {}, or choose another state directory",
                    path.display()
                ),
                io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => format!(
                    "make {} writable for this user, or choose another state directory",
                    path.parent().unwrap_or(path).display()
                ),
                _ => format!(
                    "check {} and its file system, or choose another state directory",
                    path.display()
                ),
            },
            Self::LocksDontWork { .. } => {
                "choose a state directory on a local file system, such as one below $XDG_RUNTIME_DIR".to_owned()
            }
            Self::Vanishes { path } => {
                format!(
                    "find out what clears {}, or choose another state directory",
                    path.display()
                )
            }
            Self::NoLock { path, .. } => {
                format!("make sure that no Ostler uses {}, then remove it", path.display())
            }
            Self::Untrusted {
                path,
                why: Distrust::Replaced,
            } => format!(
                "find out what replaced {}, and make sure that no Ostler uses it",
                path.display()
            ),
            Self::Untrusted { path, .. } => format!(
                "set `state_dir` to a directory of this user; or, if you trust its content, make {0} this user's alone: \
                 chown it, and chmod 700 {0}",
                path.display()
            ),
        }
    }
}

impl From<Refused> for RunDirError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Io { action, path, source } => Self::io(action, &path)(source),
            Refused::Untrusted { path, why } => Self::Untrusted { path, why },
        }
    }
}

/// Checks whether runs could be stored in `dir`, and returns the directory in which that was
/// checked: `dir`, or its nearest existing ancestor. Does what a run does first, in a temporary
/// directory: takes a lock, and checks that a second one is refused.
///
/// # Errors
///
/// [`RunDirError::Io`] if the directory is not writable; [`RunDirError::LocksDontWork`].
pub fn try_out(dir: &Path) -> Result<PathBuf, RunDirError> {
    let place = dir.ancestors().find(|path| path.is_dir()).unwrap_or(dir);
    // Always a new one: what has the name already may be anybody's.
    let trial = place.join(format!(".ostler-trial-{}-{}", std::process::id(), UnixNanos::now().0));
    let made = fs::DirBuilder::new().mode(0o700).create(&trial);
    made.map_err(RunDirError::io("make", &trial))?;
    // Where others may write, they may have exchanged it meanwhile: the lock is removed through the
    // descriptor, and by its path only a directory that is empty.
    let taken = PrivateDir::open(&trial).map_err(RunDirError::from).and_then(|opened| {
        let taken = RunLock::create(&opened, HOST_LOCK);
        // A lock that stays shows in the directory's removal.
        drop(fs::remove_file(opened.entry(HOST_LOCK)));
        taken
    });
    let removed = fs::remove_dir(&trial).map_err(RunDirError::io("remove", &trial));
    match taken? {
        Taken::Ours(_) => removed.map(|()| place.to_owned()),
        Taken::Held | Taken::Absent => Err(RunDirError::Vanishes { path: trial }),
    }
}

/// The directory of this process's own run, locked for as long as this value exists.
///
/// The lock belongs to the open file, not to the process: a copy of the host forked without exec
/// keeps it, and the run counts as live until that copy ends as well. An exec does not pass it on.
/// Dropping this value without [`RunDir::remove`] leaves the directory as a dead host would, for
/// the next start's sweep.
#[derive(Debug)]
pub struct RunDir {
    directory: Arc<PrivateDir>,
    app_dir: Arc<PrivateDir>,
    info: Mutex<RunInfo>,
    guardian_lock: Arc<OwnedFd>,
    _lock: RunLock,
}

/// A run's directory under its final name, and its locks.
struct Made {
    directory: PrivateDir,
    lock: RunLock,
    guardian_lock: RunLock,
}

impl RunDir {
    /// Creates the directory of a new run in its app's directory, which is created if necessary;
    /// both are accessible to this user only. Once the directory is visible under its final name,
    /// it is locked and described. Both are opened once and used through their descriptors, so that
    /// nothing of this run gets into what later stands at their paths.
    ///
    /// # Errors
    ///
    /// [`RunDirError::Io`] if the disk is full or not writable; [`RunDirError::LocksDontWork`].
    pub fn create(app_dir: &Path, info: RunInfo) -> Result<Self, RunDirError> {
        make_private(app_dir)?;
        let private = PrivateDir::open(app_dir)?;
        let deadline = Instant::now() + MAKE_LIMIT;
        while Instant::now() < deadline {
            match Self::create_once(&private, &info) {
                Ok(Some(made)) => {
                    return Ok(Self {
                        directory: Arc::new(made.directory),
                        app_dir: Arc::new(private),
                        info: Mutex::new(info),
                        guardian_lock: Arc::new(made.guardian_lock.descriptor()),
                        _lock: made.lock,
                    });
                }
                Ok(None) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    _ = fs::remove_dir_all(private.entry(&format!("{NEW_PREFIX}{}", info.run)));
                    return Err(error);
                }
            }
            std::thread::sleep(MAKE_PAUSE);
        }
        Err(RunDirError::Vanishes {
            path: app_dir.join(info.run.to_string()),
        })
    }

    /// One attempt. Returns `None` or a not-found error if a sweep mistook the directory for one of
    /// a dead process.
    fn create_once(app_dir: &PrivateDir, info: &RunInfo) -> Result<Option<Made>, RunDirError> {
        let name = info.run.to_string();
        let unfinished = format!("{NEW_PREFIX}{name}");
        let directory = app_dir.make_in(&unfinished)?;
        failpoint::reach(Point::RunMade);
        let Taken::Ours(lock) = RunLock::create(&directory, HOST_LOCK)? else {
            return Ok(None);
        };
        failpoint::reach(Point::RunLocked);
        let Taken::Ours(guardian_lock) = RunLock::create(&directory, GUARDIAN_LOCK)? else {
            return Ok(None);
        };
        info::write(&directory, info)?;
        failpoint::reach(Point::RunDescribed);
        fs::rename(app_dir.entry(&unfinished), app_dir.entry(&name))
            .map_err(RunDirError::io("rename to", &app_dir.shown(&name)))?;
        failpoint::reach(Point::RunNamed);
        Ok(Some(Made {
            directory: directory.renamed(app_dir.shown(&name)),
            lock,
            guardian_lock,
        }))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Where its table is.
    pub(crate) fn place(&self, engine: Engine) -> Place {
        Place {
            engine,
            run_dir: Arc::clone(&self.directory),
            app_dir: Arc::clone(&self.app_dir),
        }
    }

    /// The content of its `run.json`.
    pub fn info(&self) -> RunInfo {
        self.info.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The lock of the run's guardians and sitters. Each of them must hold a copy for as long as it
    /// lives, and no other process except the host. See [`DeadRun::await_guardians`].
    pub fn guardian_lock(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.guardian_lock)
    }

    /// Where unreadable stores are moved: next to the runs' directories, so that they outlive them.
    pub fn set_aside_dir(&self) -> PathBuf {
        self.app_dir.shown(SET_ASIDE)
    }

    /// Sets the guardian in `run.json`. A failure leaves the old file intact and can be ignored: a
    /// sweep that finds an older guardian still has the records and the marker.
    ///
    /// # Errors
    ///
    /// [`RunDirError::Io`].
    pub fn set_guardian(&self, guardian: Option<ProcessIdentity>) -> Result<(), RunDirError> {
        self.change(|info| info.guardian = guardian)
    }

    /// Sets the run's cgroup in `run.json`. As with [`RunDir::set_guardian`], a failure leaves the
    /// old file.
    ///
    /// # Errors
    ///
    /// [`RunDirError::Io`].
    pub fn set_cgroup(&self, cgroup: Option<String>) -> Result<(), RunDirError> {
        self.change(|info| info.cgroup = cgroup)
    }

    /// The value in memory is changed even if writing fails, and is written with the next change.
    fn change(&self, change: impl FnOnce(&mut RunInfo)) -> Result<(), RunDirError> {
        let mut info = self.info.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut info);
        info::write(&self.directory, &info)
    }

    /// Removes the directory, as the last act of a run. Close its table first. If it is gone,
    /// because something else has removed the state directory, there is nothing to do.
    ///
    /// # Errors
    ///
    /// [`RunDirError::Io`]. The next start's [`remove_leftovers`] finds what is left.
    /// [`RunDirError::Untrusted`] if another directory has taken its place, which is left alone.
    pub fn remove(self) -> Result<(), RunDirError> {
        match remove_locked(&self.app_dir, &self.directory, &self.info().run.to_string()) {
            Err(error) if error.is_not_found() => Ok(()),
            removed => removed,
        }
    }
}

fn make_private(path: &Path) -> Result<(), RunDirError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other.map_err(RunDirError::io("make", path)),
    }
}

/// Removes a run's directory whose lock this process holds: first renames it, then deletes the
/// content. The descriptor of the app's directory makes sure that it is this directory's, and the
/// run's own that nothing else has taken its name: only this user can write to the app's directory.
fn remove_locked(app_dir: &PrivateDir, directory: &PrivateDir, name: &str) -> Result<(), RunDirError> {
    let shown = app_dir.shown(name);
    if app_dir.open_in(name)?.identity() != directory.identity() {
        return Err(RunDirError::untrusted(&shown, Distrust::Replaced));
    }
    let run = name.trim_start_matches(NEW_PREFIX);
    // A unique name, because an earlier attempt for the same run may still be deleting.
    static REMOVALS: AtomicU64 = AtomicU64::new(0);
    let number = REMOVALS.fetch_add(1, Ordering::Relaxed);
    let gone = format!("{GONE_PREFIX}{run}.{}.{number}", std::process::id());
    fs::rename(app_dir.entry(name), app_dir.entry(&gone)).map_err(RunDirError::io("rename", &shown))?;
    failpoint::reach(Point::RunHidden);
    remove_gone(app_dir, &gone)
}

/// Deletes a directory renamed for removal. Its content is no longer needed, so no lock is
/// required, and another process doing the same at the same time is not an error.
fn remove_gone(app_dir: &PrivateDir, name: &str) -> Result<(), RunDirError> {
    match fs::remove_dir_all(app_dir.entry(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(RunDirError::io("remove", &app_dir.shown(name))(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
