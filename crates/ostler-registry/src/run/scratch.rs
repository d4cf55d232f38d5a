//! Where a run keeps its workers' sockets and ready files: in its own directory, for as long as
//! that exists.
//!
//! The state directory can disappear while the run lives: logind removes the runtime directory at
//! the last logout. A directory made again under the run's name would have no lock, so the next
//! start could not tell whether its host is alive. A *spare* directory is made instead. It looks
//! like a directory that is half created, and holds a lock of its own: it is removed at the run's
//! end, or by the next start if the host has died.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::lock::{HOST_LOCK, RunLock, Taken};
use super::{NEW_PREFIX, RunDirError, make_private, remove_locked};
use crate::private::{Distrust, PrivateDir};

/// The directory for a run's sockets and ready files.
#[derive(Debug)]
pub struct Scratch {
    run_dir: PathBuf,
    /// Which directory that was; `None` if it was already gone.
    identity: Option<(u64, u64)>,
    spare: Mutex<Option<Spare>>,
}

#[derive(Debug)]
struct Spare {
    app_dir: PrivateDir,
    directory: PrivateDir,
    _lock: RunLock,
}

impl Scratch {
    /// The scratch directory of the run with this directory, which exists and stays open in the
    /// run's [`RunDir`](super::RunDir).
    pub fn of(run_dir: &Path) -> Self {
        let own = PrivateDir::open(run_dir).ok();
        Self {
            run_dir: run_dir.to_owned(),
            identity: own.map(|own| own.identity()),
            spare: Mutex::default(),
        }
    }

    /// Where the spare directory of the run with this directory is, if there is one.
    pub fn spare_of(run_dir: &Path) -> PathBuf {
        let run = run_dir.file_name().unwrap_or_default().to_string_lossy();
        run_dir.with_file_name(format!("{NEW_PREFIX}{run}"))
    }

    /// Returns the directory, and makes a spare one if the run's own is gone.
    ///
    /// # Errors
    ///
    /// [`RunDirError::Untrusted`] if another user could write to the directory, or another one has
    /// taken its place;
    /// [`RunDirError::Io`] if no spare one can be made, as in a runtime directory that only root
    /// can make again; [`RunDirError::Vanishes`] if it is removed at the same time.
    pub fn directory(&self) -> Result<PathBuf, RunDirError> {
        match PrivateDir::open(&self.run_dir).map_err(RunDirError::from) {
            Ok(found) if self.identity.is_none_or(|own| own == found.identity()) => return Ok(self.run_dir.clone()),
            Ok(_) => return Err(RunDirError::untrusted(&self.run_dir, Distrust::Replaced)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(spare) = spare.as_ref().filter(|spare| spare.is_there()) {
            return Ok(spare.directory.path().to_owned());
        }
        let made = self.make_spare()?;
        let path = made.directory.path().to_owned();
        *spare = Some(made);
        Ok(path)
    }

    fn make_spare(&self) -> Result<Spare, RunDirError> {
        let app_dir = self.run_dir.parent().unwrap_or(&self.run_dir);
        let path = Self::spare_of(&self.run_dir);
        make_private(app_dir)?;
        let app_dir = PrivateDir::open(app_dir)?;
        let directory = app_dir.make_in(&path.file_name().unwrap_or_default().to_string_lossy())?;
        match RunLock::create(&directory, HOST_LOCK)? {
            Taken::Ours(lock) => Ok(Spare {
                app_dir,
                directory,
                _lock: lock,
            }),
            Taken::Held | Taken::Absent => Err(RunDirError::Vanishes { path }),
        }
    }

    /// Removes the spare directory, if there is one. The workers that use it must have ended.
    ///
    /// # Errors
    ///
    /// [`RunDirError::Io`]. The next start finds what is left.
    pub fn remove_spare(&self) -> Result<(), RunDirError> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Spare { app_dir, directory, .. }) = spare else {
            return Ok(());
        };
        let name = directory.path().file_name().unwrap_or_default().to_string_lossy();
        match remove_locked(&app_dir, &directory, &name) {
            Err(error) if error.is_not_found() => Ok(()),
            removed => removed,
        }
    }
}

impl Spare {
    fn is_there(&self) -> bool {
        PrivateDir::open(self.directory.path()).is_ok_and(|found| found.identity() == self.directory.identity())
    }
}
