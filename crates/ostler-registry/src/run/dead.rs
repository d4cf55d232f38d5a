//! The runs of an app that are found at a start, and what is done with the dead ones.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ostler_core::ids::RunId;

use super::lock::{GUARDIAN_LOCK, HOST_LOCK, RunLock, Taken};
use super::{
    GONE_PREFIX, NEW_PREFIX, RunDirError, RunInfo, RunInfoError, info, remove_gone, remove_locked, set_aside_dir,
};
use crate::store::{DeadStore, Engine, Place, SetAside, StoreError, WhyAside, read_dead_store};

/// Between two looks at a lock that is waited for: 5 ms.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// A run's directory, and what its lock says of its host.
#[derive(Debug)]
pub enum FoundRun {
    /// Its lock is held: by its host, by a forked copy of it, or by another's sweep. Not to be touched.
    Live(LiveRun),
    /// Its host is dead, and its lock is ours now.
    Dead(DeadRun),
    /// Nothing can be said of its host. Not to be touched; to be reported.
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// Why nothing can be said.
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
    /// What it says of itself.
    pub info: Result<RunInfo, RunInfoError>,
}

/// A run whose host is dead. While this value lives nobody else sweeps it.
#[derive(Debug)]
pub struct DeadRun {
    path: PathBuf,
    run: RunId,
    info: Result<RunInfo, RunInfoError>,
    _lock: RunLock,
}

impl DeadRun {
    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its id, by which its processes are marked. Known also when nothing else is.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// What it said of itself.
    ///
    /// # Errors
    /// Why its `run.json` says nothing.
    pub fn info(&self) -> Result<&RunInfo, &RunInfoError> {
        self.info.as_ref()
    }

    /// Waits until every guardian of the run and every sitter has ended, at most until the deadline; whether they have. No pid
    /// is involved: in whichever PID namespace they live, they hold the lock. Blocks.
    ///
    /// A sitter ends when its tree has ended, unless it is killed; so what lives of the run after this had its sitter killed.
    ///
    /// # Errors
    /// When that can't be known: [`RunDirError::NoLock`], [`RunDirError::Io`].
    pub fn await_guardians(&self, deadline: Instant) -> Result<bool, RunDirError> {
        loop {
            match RunLock::try_take(&self.path, GUARDIAN_LOCK)? {
                Taken::Ours(_) => return Ok(true),
                Taken::Absent => {
                    return Err(RunDirError::NoLock {
                        path: self.path.clone(),
                        lock: GUARDIAN_LOCK,
                    });
                }
                Taken::Held if Instant::now() >= deadline => return Ok(false),
                // A timer, not a synchronisation: a lock that is let go is announced to nobody who could do with a deadline.
                Taken::Held => std::thread::sleep(LOCK_PAUSE),
            }
        }
    }

    /// Its records, read without changing anything. Blocks on the disk.
    ///
    /// # Errors
    /// [`StoreError::EngineMissing`] if this build lacks the engine that kept them; otherwise as
    /// [`read_dead_store`]. The run is then to be swept by its guardian and its marker.
    pub fn records(&self) -> Result<DeadStore, StoreError> {
        match self.engine()? {
            Some(engine) => read_dead_store(&self.path, engine),
            None => Ok(DeadStore::default()),
        }
    }

    /// Moves the store out of the directory, to be kept for people, if the error says that it is damaged or too new.
    ///
    /// # Errors
    /// What the system said.
    pub fn set_aside(&self, why: StoreError) -> Result<Option<SetAside>, StoreError> {
        let (Some(word), Some(engine)) = (WhyAside::of(&why), self.engine()?) else {
            return Ok(None);
        };
        let place = Place {
            engine,
            run_dir: self.path.clone(),
            set_aside_dir: set_aside_dir(&self.path),
        };
        place.set_aside(word).map(|path| Some(SetAside { path, why }))
    }

    /// Removes the directory, after the sweep.
    ///
    /// # Errors
    /// [`RunDirError::Io`]; what is left is found by the next [`remove_leftovers`].
    pub fn remove(self) -> Result<(), RunDirError> {
        remove_locked(&self.path)
    }

    /// The engine by `run.json`, or where that says nothing by what lies there. `None`: no store was made.
    fn engine(&self) -> Result<Option<Engine>, StoreError> {
        match &self.info {
            Ok(info) => Engine::from_name(&info.engine)
                .map(Some)
                .ok_or_else(|| StoreError::EngineMissing {
                    name: info.engine.clone(),
                }),
            Err(_) => Ok(Engine::ALL
                .into_iter()
                .find(|engine| self.path.join(engine.file_name()).exists())),
        }
    }
}

/// The runs in an app's directory, oldest first. The locks of the dead ones are taken. An app's directory that is not
/// there has none.
///
/// # Errors
/// [`RunDirError::Io`] if the app's directory can't be listed; what is wrong with one run is said in its place.
pub fn runs(app_dir: &Path) -> Result<Vec<FoundRun>, RunDirError> {
    let mut ids: Vec<RunId> = names(app_dir)?.iter().filter_map(|name| name.parse().ok()).collect();
    ids.sort();
    Ok(ids
        .into_iter()
        .filter_map(|run| find(app_dir.join(run.to_string()), run))
        .collect())
}

/// One run; `None` if it went away meanwhile.
fn find(path: PathBuf, run: RunId) -> Option<FoundRun> {
    match RunLock::try_take(&path, HOST_LOCK) {
        Ok(Taken::Ours(lock)) => Some(FoundRun::Dead(DeadRun {
            info: info::read(&path),
            path,
            run,
            _lock: lock,
        })),
        Ok(Taken::Held) => Some(FoundRun::Live(LiveRun {
            info: info::read(&path),
            path,
            run,
        })),
        Ok(Taken::Absent) if path.exists() => Some(FoundRun::Unreadable {
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

/// Removes what died while it was made or removed: directories without a run. Returns how many there were.
///
/// # Errors
/// The first failure; the others are tried all the same.
pub fn remove_leftovers(app_dir: &Path) -> Result<usize, RunDirError> {
    let mut removed = 0;
    let mut failure = None;
    for name in names(app_dir)? {
        let path = app_dir.join(&name);
        let result = if name.starts_with(GONE_PREFIX) {
            remove_gone(&path).map(|()| true)
        } else if name.starts_with(NEW_PREFIX) {
            remove_half_made(&path)
        } else {
            Ok(false)
        };
        match result {
            Ok(was_one) => removed += usize::from(was_one),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map_or(Ok(removed), Err)
}

/// Removes a half-made directory if its maker is dead. A maker that has not taken its lock yet may lose its directory
/// here, notices, and makes another.
fn remove_half_made(path: &Path) -> Result<bool, RunDirError> {
    match RunLock::try_take(path, HOST_LOCK)? {
        Taken::Held => Ok(false),
        Taken::Ours(_lock) => remove_locked(path).map(|()| true),
        // Only an empty one goes: a maker that makes its lock just now is not disturbed.
        Taken::Absent => match fs::remove_dir(path) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
                Ok(false)
            }
            Err(error) => Err(RunDirError::io("remove", path)(error)),
        },
    }
}

fn names(app_dir: &Path) -> Result<Vec<String>, RunDirError> {
    let entries = match fs::read_dir(app_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(RunDirError::io("list", app_dir)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(RunDirError::io("list", app_dir))?.file_name();
        names.extend(name.into_string().ok());
    }
    Ok(names)
}
