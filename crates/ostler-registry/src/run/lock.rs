//! The locks that show whether a host, and whether guardians and sitters are alive.
//!
//! Each is an open-file-description lock (`F_OFD_SETLK`, fcntl(2)). The kernel releases it with the
//! last copy of the descriptor, however the process ends. Unlike with a classic `fcntl` lock, a
//! second lock in the same process conflicts, and closing another descriptor of the file does not
//! release it. The descriptor is close-on-exec, so no worker keeps it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::RunDirError;
use crate::private::{PrivateDir, open_file};

/// Held by the host.
pub(super) const HOST_LOCK: &str = "run.lock";
/// Held by the host, its guardians and their sitters, all through the same open file description.
pub(super) const GUARDIAN_LOCK: &str = "guardian.lock";

/// A lock that is held until this value is dropped.
#[derive(Debug)]
pub(super) struct RunLock {
    file: File,
}

/// The outcome of an attempt to take a lock.
#[derive(Debug)]
pub(super) enum Taken {
    Ours(RunLock),
    /// A live process holds it.
    Held,
    /// The directory has no lock file, or it was removed in the meantime.
    Absent,
}

/// A lock file: where it is, and how it is shown.
struct Place {
    at: PathBuf,
    shown: PathBuf,
}

impl Place {
    fn new(dir: &PrivateDir, name: &str) -> Self {
        Self {
            at: dir.entry(name),
            shown: dir.shown(name),
        }
    }
}

impl RunLock {
    /// Creates the lock file in a new directory, takes the lock, and checks that it excludes
    /// others. Returns `Held` if a sweep of half-created directories was faster.
    pub(super) fn create(dir: &PrivateDir, name: &str) -> Result<Taken, RunDirError> {
        let place = Place::new(dir, name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = open_file(&place.at, &mut options).map_err(RunDirError::io("make", &place.shown))?;
        let taken = take(file, &place)?;
        if let Taken::Ours(_) = &taken {
            check_exclusive(&place)?;
        }
        Ok(taken)
    }

    /// Takes the lock of an existing directory if it is free.
    pub(super) fn try_take(dir: &PrivateDir, name: &str) -> Result<Taken, RunDirError> {
        let place = Place::new(dir, name);
        match existing(&place) {
            Ok(file) => take(file, &place),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Taken::Absent),
            Err(error) => Err(RunDirError::io("open", &place.shown)(error)),
        }
    }

    /// The descriptor of the lock. Every process with a copy of it holds the lock.
    pub(super) fn descriptor(self) -> OwnedFd {
        self.file.into()
    }
}

fn existing(place: &Place) -> io::Result<File> {
    open_file(&place.at, OpenOptions::new().read(true).write(true))
}

fn take(file: File, place: &Place) -> Result<Taken, RunDirError> {
    match set_lock(&file) {
        Ok(()) if is_still_at(&file, place)? => Ok(Taken::Ours(RunLock { file })),
        Ok(()) => Ok(Taken::Absent),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(Taken::Held),
        Err(errno) => Err(dont_work(&place.shown, format!("the system says {}", errno.desc()))),
    }
}

/// Whether the lock file still exists. A lock may be granted on a file that its last holder removed
/// between our open and our lock; such a lock is worthless.
fn is_still_at(file: &File, place: &Place) -> Result<bool, RunDirError> {
    let path = &place.shown;
    let ours = file.metadata().map_err(RunDirError::io("inspect", path))?;
    match fs::symlink_metadata(&place.at) {
        Ok(there) => Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(RunDirError::io("inspect", path)(error)),
    }
}

/// Checks that a second descriptor is refused the lock, because some network and overlay file
/// systems grant every lock.
fn check_exclusive(place: &Place) -> Result<(), RunDirError> {
    let path = &place.shown;
    let second = existing(place).map_err(RunDirError::io("open", path))?;
    match set_lock(&second) {
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(()),
        Ok(()) => Err(dont_work(
            path,
            "a second lock was granted in addition to the first".to_owned(),
        )),
        Err(errno) => Err(dont_work(path, format!("the system says {}", errno.desc()))),
    }
}

fn set_lock(file: &File) -> Result<(), Errno> {
    let whole_file = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file)).map(drop)
}

fn dont_work(path: &Path, detail: String) -> RunDirError {
    RunDirError::LocksDontWork {
        path: PathBuf::from(path),
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second of two sweeps: it opens the file, the first one removes the run, and only then
    /// the second takes the lock.
    #[test]
    fn lock_on_a_removed_file_does_not_count() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let dir = PrivateDir::open(dir.path()).expect("private");
        let place = Place::new(&dir, HOST_LOCK);
        let opened_before = File::create_new(&place.at).expect("made");
        fs::remove_file(&place.at).expect("removed");
        assert!(matches!(
            take(opened_before.try_clone().expect("cloned"), &place),
            Ok(Taken::Absent)
        ));
        let Ok(Taken::Ours(_another)) = RunLock::create(&dir, HOST_LOCK) else {
            panic!("a new lock must be created")
        };
        assert!(matches!(take(opened_before, &place), Ok(Taken::Absent)));
    }

    #[test]
    fn file_system_without_locks_is_refused_by_name() {
        // Files in /proc do not support such locks: the kernel returns an error, or the file is not
        // writable.
        let path = PathBuf::from("/proc/self/stat");
        let file = File::open(&path).expect("opening the file");
        let place = Place {
            at: path.clone(),
            shown: path,
        };
        let refused = take(file, &place);
        assert!(matches!(refused, Err(RunDirError::LocksDontWork { .. })), "{refused:?}");
    }
}
