//! The runs of an app found at a start, and operations on the dead ones.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ostler_core::ids::RunId;

use super::lock::{GUARDIAN_LOCK, HOST_LOCK, RunLock, Taken};
use super::{GONE_PREFIX, NEW_PREFIX, RunDirError, RunInfo, RunInfoError, info, remove_gone, remove_locked};
use crate::private::PrivateDir;
use crate::store::{DeadStore, Engine, Place, SetAside, StoreError, WhyAside};

/// The pause between two attempts to take a lock: 5 ms.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// A run's directory, and what its lock says about its host.
#[derive(Debug)]
pub enum FoundRun {
    /// The lock is held by the host, a forked copy of it, or another sweep. Must not be touched.
    Live(LiveRun),
    /// The host is dead, and this process now holds the lock.
    Dead(DeadRun),
    /// The state of the host is unknown. Must not be touched, and should be reported.
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// Why the state is unknown.
        reason: RunDirError,
    },
}

/// A run whose lock is held.
#[derive(Debug)]
pub struct LiveRun {
    /// Its directory.
    pub path: PathBuf,
    /// Its id.
    pub run: RunId,
    /// The content of its `run.json`.
    pub info: Result<RunInfo, RunInfoError>,
}

/// A run whose host is dead. While this value exists, no other process sweeps it.
#[derive(Debug)]
pub struct DeadRun {
    directory: Arc<PrivateDir>,
    app_dir: Arc<PrivateDir>,
    run: RunId,
    info: Result<RunInfo, RunInfoError>,
    _lock: RunLock,
}

impl DeadRun {
    /// Its directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Its id, which marks its processes. Known even if nothing else is.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// The content of its `run.json`.
    ///
    /// # Errors
    ///
    /// Why its `run.json` could not be read.
    pub fn info(&self) -> Result<&RunInfo, &RunInfoError> {
        self.info.as_ref()
    }

    /// Waits until all guardians and sitters of the run have ended, or until the deadline. Returns
    /// whether they have. This works without pids, in any PID namespace, because they hold the
    /// lock. Blocks.
    ///
    /// A sitter ends once its tree has ended, unless it is killed. Processes of the run that are
    /// still alive afterwards therefore had their sitter killed.
    ///
    /// # Errors
    ///
    /// If this cannot be determined: [`RunDirError::NoLock`], [`RunDirError::Io`].
    pub fn await_guardians(&self, deadline: Instant) -> Result<bool, RunDirError> {
        loop {
            match RunLock::try_take(&self.directory, GUARDIAN_LOCK)? {
                Taken::Ours(_) => return Ok(true),
                Taken::Absent => {
                    return Err(RunDirError::NoLock {
                        path: self.path().to_owned(),
                        lock: GUARDIAN_LOCK,
                    });
                }
                Taken::Held if Instant::now() >= deadline => return Ok(false),
                // Polling, because the kernel offers no notification of a released lock that can be
                // combined with a deadline.
                Taken::Held => std::thread::sleep(LOCK_PAUSE),
            }
        }
    }

    /// Reads its records without changing anything. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// [`StoreError::EngineMissing`] if this build lacks the run's engine; otherwise the same as
    /// [`read_dead_store`](crate::read_dead_store). The run can then still be swept with its
    /// guardian and its marker.
    pub fn records(&self) -> Result<DeadStore, StoreError> {
        match self.engine()? {
            Some(engine) => DeadStore::read(&self.directory, engine),
            None => Ok(DeadStore::default()),
        }
    }

    /// If `why` says that the store is damaged or too new, moves it out of the directory and keeps
    /// it for inspection.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn set_aside(&self, why: StoreError) -> Result<Option<SetAside>, StoreError> {
        let (Some(reason), Some(engine)) = (WhyAside::of(&why), self.engine()?) else {
            return Ok(None);
        };
        let place = Place {
            engine,
            run_dir: Arc::clone(&self.directory),
            app_dir: Arc::clone(&self.app_dir),
        };
        place.set_aside(reason).map(|path| Some(SetAside { path, why }))
    }

    /// Removes the directory, after the sweep.
    ///
    /// # Errors
    ///
    /// [`RunDirError::Io`]. The next [`remove_leftovers`] finds what is left.
    pub fn remove(self) -> Result<(), RunDirError> {
        remove_locked(&self.app_dir, &self.directory, &self.run.to_string())
    }

    /// The engine according to `run.json`, or else according to the files present. `None` if no
    /// store was created.
    fn engine(&self) -> Result<Option<Engine>, StoreError> {
        match &self.info {
            Ok(info) => Engine::from_name(&info.engine)
                .map(Some)
                .ok_or_else(|| StoreError::EngineMissing {
                    name: info.engine.clone(),
                }),
            Err(_) => Ok(Engine::ALL
                .into_iter()
                .find(|engine| self.directory.has(engine.file_name()).unwrap_or(false))),
        }
    }
}

/// Finds the runs in an app's directory, oldest first, and takes the locks of the dead ones. An app
/// directory that does not exist contains none.
///
/// # Errors
///
/// [`RunDirError::Io`] if the app's directory cannot be listed. Problems with a single run are
/// returned in its place.
pub fn runs(app_dir: &Path) -> Result<Vec<FoundRun>, RunDirError> {
    let Some(app_dir) = open_if_there(app_dir)? else {
        return Ok(Vec::new());
    };
    let app_dir = Arc::new(app_dir);
    let mut ids: Vec<RunId> = app_dir.names()?.iter().filter_map(|name| name.parse().ok()).collect();
    ids.sort();
    Ok(ids.into_iter().filter_map(|run| find(&app_dir, run)).collect())
}

/// The app's directory, opened and checked; `None` if it does not exist.
fn open_if_there(app_dir: &Path) -> Result<Option<PrivateDir>, RunDirError> {
    match PrivateDir::open(app_dir).map_err(RunDirError::from) {
        Ok(app_dir) => Ok(Some(app_dir)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Finds one run; `None` if it has disappeared in the meantime.
fn find(app_dir: &Arc<PrivateDir>, run: RunId) -> Option<FoundRun> {
    let name = run.to_string();
    let path = app_dir.shown(&name);
    let directory = match app_dir.open_in(&name).map_err(RunDirError::from) {
        Ok(directory) => directory,
        Err(error) if error.is_not_found() => return None,
        Err(reason) => return Some(FoundRun::Unreadable { path, reason }),
    };
    match RunLock::try_take(&directory, HOST_LOCK) {
        Ok(Taken::Ours(lock)) => Some(FoundRun::Dead(DeadRun {
            info: info::read(&directory),
            directory: Arc::new(directory),
            app_dir: Arc::clone(app_dir),
            run,
            _lock: lock,
        })),
        Ok(Taken::Held) => Some(FoundRun::Live(LiveRun {
            info: info::read(&directory),
            path,
            run,
        })),
        Ok(Taken::Absent) if app_dir.has(&name).unwrap_or(true) => Some(FoundRun::Unreadable {
            reason: RunDirError::NoLock {
                path: path.clone(),
                lock: HOST_LOCK,
            },
            path,
        }),
        Ok(Taken::Absent) => None,
        Err(reason) => Some(FoundRun::Unreadable { path, reason }),
    }
}

/// Removes directories that were left half created or half removed. Returns how many there were.
///
/// # Errors
///
/// The first failure; the other directories are still tried.
pub fn remove_leftovers(app_dir: &Path) -> Result<usize, RunDirError> {
    let Some(app_dir) = open_if_there(app_dir)? else {
        return Ok(0);
    };
    let mut removed = 0;
    let mut failure = None;
    for name in app_dir.names()? {
        match remove_leftover(&app_dir, &name) {
            Ok(was_one) => removed += usize::from(was_one),
            Err(error) if error.is_not_found() => {}
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map_or(Ok(removed), Err)
}

fn remove_leftover(app_dir: &PrivateDir, name: &str) -> Result<bool, RunDirError> {
    if name.starts_with(GONE_PREFIX) {
        app_dir.open_in(name)?;
        remove_gone(app_dir, name).map(|()| true)
    } else if name.starts_with(NEW_PREFIX) {
        remove_half_made(app_dir, name)
    } else {
        Ok(false)
    }
}

/// Removes a half-created directory if its creator is dead. A live creator that has not taken its
/// lock yet may lose its directory; it notices, and creates another one.
fn remove_half_made(app_dir: &PrivateDir, name: &str) -> Result<bool, RunDirError> {
    let directory = app_dir.open_in(name)?;
    match RunLock::try_take(&directory, HOST_LOCK)? {
        Taken::Held => Ok(false),
        Taken::Ours(_lock) => remove_locked(app_dir, &directory, name).map(|()| true),
        // Removes an empty directory only, so a process that is just creating its lock file is not
        // affected.
        Taken::Absent => match fs::remove_dir(app_dir.entry(name)) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
                Ok(false)
            }
            Err(error) => Err(RunDirError::io("remove", directory.path())(error)),
        },
    }
}
