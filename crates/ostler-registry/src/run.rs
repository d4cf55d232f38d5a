//! The directory of a run: where its process table lies, and who may touch it.
//!
//! ```text
//! <app directory>/
//!   <run id>/            made as `.new-<run id>`, locked, described, then renamed
//!     run.lock           held by the host for as long as it lives
//!     guardian.lock      held as long as a guardian or a sitter of the run lives, and by the host
//!     run.json           who the host and the guardian are, and which engine keeps the table
//!     table.redb         or table.rocksdb/
//!   set-aside/           stores that could not be read, kept for people
//! ```
//! **A lock that is free means a dead host**, with no pid involved; the guardian's lock says the same of guardians and sitters.
//! Whoever finds the host's free takes it before looking further, so that two sweepers never share a run; a directory whose lock is held is not touched. Its removal begins
//! with a rename to `.gone-<run id>.<pid>.<number>`, so a run's directory is never seen half there.

mod app_dir;
mod dead;
mod info;
mod lock;

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

pub use app_dir::{AppDirError, DirEnv, app_dir, check_app_name};
pub use dead::{DeadRun, FoundRun, LiveRun, remove_leftovers, runs};
pub use info::{RUN_FORMAT, RunInfo, RunInfoError};

const NEW_PREFIX: &str = ".new-";
const GONE_PREFIX: &str = ".gone-";
const SET_ASIDE: &str = "set-aside";

/// How long a directory that a sweeper takes for a dead maker's is made anew: 2 s. A sweeper looks once, but it may be held up
/// between its look and its removal.
const MAKE_LIMIT: Duration = Duration::from_secs(2);
/// Between two tries: 1 ms.
const MAKE_PAUSE: Duration = Duration::from_millis(1);

/// Why a run's directory can't be made, locked, listed or removed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RunDirError {
    /// The system refused.
    #[error("can't {action} {}: {source}", path.display())]
    Io {
        /// What was to be done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The file system grants a lock twice, or none at all: whether a host lives could not be told there.
    #[error("locks do not work on the file system of {}: {detail}", path.display())]
    LocksDontWork {
        /// The lock's file.
        path: PathBuf,
        /// What was seen.
        detail: String,
    },
    /// The directory was removed again and again while it was made.
    #[error("{} is removed by somebody while it is made", path.display())]
    Vanishes {
        /// The directory.
        path: PathBuf,
    },
    /// A directory that looks like a run's lacks a lock: nothing can be said of those who should hold it.
    #[error("{} has no {lock}, so whether anybody of its run lives is unknown", path.display())]
    NoLock {
        /// The directory.
        path: PathBuf,
        /// Which lock.
        lock: &'static str,
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

    /// Whether the error says that something is not there.
    fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// What a person can do about it.
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
        }
    }
}

/// Tries out whether runs could live in `dir`, and which directory that was tried in: `dir`, or the nearest directory above
/// it that is there. What a run does first is done in it, in a directory of its own that is removed again: a lock is
/// taken, and a second one has to be refused.
///
/// # Errors
/// [`RunDirError::Io`] where nothing can be written; [`RunDirError::LocksDontWork`].
pub fn try_out(dir: &Path) -> Result<PathBuf, RunDirError> {
    let place = dir.ancestors().find(|path| path.is_dir()).unwrap_or(dir);
    let trial = place.join(format!(".ostler-trial-{}", std::process::id()));
    make_private(&trial, false)?;
    let taken = RunLock::create(&trial, HOST_LOCK);
    let removed = fs::remove_dir_all(&trial).map_err(RunDirError::io("remove", &trial));
    match taken? {
        Taken::Ours(_) => removed.map(|()| place.to_owned()),
        Taken::Held | Taken::Absent => Err(RunDirError::Vanishes { path: trial }),
    }
}

/// The directory of a run of ours, locked for as long as this value lives.
///
/// The lock belongs to the open file, not to the process: a copy of the host made by fork without exec keeps it, and
/// then the run counts as live until that copy ends, too. An exec does not pass it on. Dropping this without
/// [`RunDir::remove`] leaves the directory as a dead host would, for the next start's sweep.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    info: Mutex<RunInfo>,
    guardian_lock: Arc<OwnedFd>,
    _lock: RunLock,
}

impl RunDir {
    /// Makes the directory of a new run in its app's directory, which is made if it is not there; both for this user
    /// alone. When the directory is seen under its name it is locked and described.
    ///
    /// # Errors
    /// [`RunDirError::Io`] on a disk that is full or can't be written; [`RunDirError::LocksDontWork`].
    pub fn create(app_dir: &Path, info: RunInfo) -> Result<Self, RunDirError> {
        make_private(app_dir, true)?;
        let deadline = Instant::now() + MAKE_LIMIT;
        while Instant::now() < deadline {
            match Self::create_once(app_dir, &info) {
                Ok(Some((lock, guardian_lock))) => {
                    return Ok(Self {
                        path: app_dir.join(info.run.to_string()),
                        info: Mutex::new(info),
                        guardian_lock: Arc::new(guardian_lock.descriptor()),
                        _lock: lock,
                    });
                }
                Ok(None) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    _ = fs::remove_dir_all(app_dir.join(format!("{NEW_PREFIX}{}", info.run)));
                    return Err(error);
                }
            }
            std::thread::sleep(MAKE_PAUSE);
        }
        Err(RunDirError::Vanishes {
            path: app_dir.join(info.run.to_string()),
        })
    }

    /// One attempt. `None`, or an error that something is not there, when a sweeper took it for a dead maker's.
    fn create_once(app_dir: &Path, info: &RunInfo) -> Result<Option<(RunLock, RunLock)>, RunDirError> {
        let unfinished = app_dir.join(format!("{NEW_PREFIX}{}", info.run));
        let finished = app_dir.join(info.run.to_string());
        make_private(&unfinished, false)?;
        failpoint::reach(Point::RunMade);
        let Taken::Ours(lock) = RunLock::create(&unfinished, HOST_LOCK)? else {
            return Ok(None);
        };
        failpoint::reach(Point::RunLocked);
        let Taken::Ours(guardian_lock) = RunLock::create(&unfinished, GUARDIAN_LOCK)? else {
            return Ok(None);
        };
        info::write(&unfinished, info)?;
        failpoint::reach(Point::RunDescribed);
        fs::rename(&unfinished, &finished).map_err(RunDirError::io("rename to", &finished))?;
        failpoint::reach(Point::RunNamed);
        Ok(Some((lock, guardian_lock)))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What its `run.json` says.
    pub fn info(&self) -> RunInfo {
        self.info.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The lock of the run's guardians and sitters: each of them is to hold a copy of this for as long as it lives, and nobody
    /// else but the host. See [`DeadRun::await_guardians`].
    pub fn guardian_lock(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.guardian_lock)
    }

    /// Where stores go that can't be read: beside the runs' directories, to outlive them.
    pub fn set_aside_dir(&self) -> PathBuf {
        set_aside_dir(&self.path)
    }

    /// Names another guardian in `run.json`. A failure leaves the old file whole, and is no reason not to go on: a
    /// sweep that finds an older guardian still has the records and the marker.
    ///
    /// # Errors
    /// [`RunDirError::Io`].
    pub fn set_guardian(&self, guardian: Option<ProcessIdentity>) -> Result<(), RunDirError> {
        self.change(|info| info.guardian = guardian)
    }

    /// Names the run's cgroup in `run.json`. As with [`RunDir::set_guardian`], a failure leaves the old file.
    ///
    /// # Errors
    /// [`RunDirError::Io`].
    pub fn set_cgroup(&self, cgroup: Option<String>) -> Result<(), RunDirError> {
        self.change(|info| info.cgroup = cgroup)
    }

    /// What is known in memory is right also when it could not be written, and goes with the next write.
    fn change(&self, change: impl FnOnce(&mut RunInfo)) -> Result<(), RunDirError> {
        let mut info = self.info.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut info);
        info::write(&self.path, &info)
    }

    /// Removes the directory, the last act of a run. Close its table before.
    ///
    /// # Errors
    /// [`RunDirError::Io`]; what is left is found by the next start's [`remove_leftovers`].
    pub fn remove(self) -> Result<(), RunDirError> {
        remove_locked(&self.path)
    }
}

fn set_aside_dir(run_dir: &Path) -> PathBuf {
    run_dir.with_file_name(SET_ASIDE)
}

fn make_private(path: &Path, with_parents: bool) -> Result<(), RunDirError> {
    let made = fs::DirBuilder::new().recursive(with_parents).mode(0o700).create(path);
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other.map_err(RunDirError::io("make", path)),
    }
}

/// Removes a run's directory whose lock we hold: out of sight first, then in pieces.
fn remove_locked(path: &Path) -> Result<(), RunDirError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.trim_start_matches(NEW_PREFIX);
    // A name that nobody else empties just now: an earlier attempt of the same run may be on its way out, too.
    static REMOVALS: AtomicU64 = AtomicU64::new(0);
    let number = REMOVALS.fetch_add(1, Ordering::Relaxed);
    let gone = path.with_file_name(format!("{GONE_PREFIX}{name}.{}.{number}", std::process::id()));
    fs::rename(path, &gone).map_err(RunDirError::io("rename", path))?;
    failpoint::reach(Point::RunHidden);
    remove_gone(&gone)
}

/// Removes what was renamed for removal. Its content is of no use to anybody, so no lock is asked for; another who
/// does the same at the same time is no failure.
fn remove_gone(path: &Path) -> Result<(), RunDirError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(RunDirError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
