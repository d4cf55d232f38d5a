//! The locks that say that a host lives, and that guardians and sitters do.
//!
//! Each is an open-file-description lock (`F_OFD_SETLK`, fcntl(2)): the kernel drops it with the last copy of the descriptor,
//! however the process ends; a second one in the same process conflicts, unlike a classic `fcntl` lock, and closing
//! another descriptor of the file does not drop it. The descriptor is close-on-exec, so no worker keeps it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::RunDirError;

/// Held by the host.
pub(super) const HOST_LOCK: &str = "run.lock";
/// Held by the host, its guardians, and their sitters, all by one description of the open file.
pub(super) const GUARDIAN_LOCK: &str = "guardian.lock";

/// A lock held until this is dropped.
#[derive(Debug)]
pub(super) struct RunLock {
    file: File,
}

/// What became of an attempt to take a lock.
#[derive(Debug)]
pub(super) enum Taken {
    Ours(RunLock),
    /// Somebody alive holds it.
    Held,
    /// The directory has no lock's file; or it had, and somebody removed it meanwhile.
    Absent,
}

impl RunLock {
    /// Makes the lock's file in a new directory, takes the lock, and makes sure that it keeps others out. `Held` if a
    /// sweeper of half-made directories was faster.
    pub(super) fn create(dir: &Path, name: &str) -> Result<Taken, RunDirError> {
        let path = dir.join(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(RunDirError::io("make", &path))?;
        let taken = take(file, &path)?;
        if let Taken::Ours(_) = &taken {
            check_exclusive(&path)?;
        }
        Ok(taken)
    }

    /// Takes the lock of a directory that is there already, if it is free.
    pub(super) fn try_take(dir: &Path, name: &str) -> Result<Taken, RunDirError> {
        let path = dir.join(name);
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => take(file, &path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Taken::Absent),
            Err(error) => Err(RunDirError::io("open", &path)(error)),
        }
    }

    /// What the lock is held by: whoever has a copy of it holds the lock, too.
    pub(super) fn descriptor(self) -> OwnedFd {
        self.file.into()
    }
}

fn take(file: File, path: &Path) -> Result<Taken, RunDirError> {
    match set_lock(&file) {
        Ok(()) if is_still_at(&file, path)? => Ok(Taken::Ours(RunLock { file })),
        Ok(()) => Ok(Taken::Absent),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(Taken::Held),
        Err(errno) => Err(dont_work(path, format!("the system says {}", errno.desc()))),
    }
}

/// A lock may be granted on a file that its last holder removed between our open and our lock: it is no lock then.
fn is_still_at(file: &File, path: &Path) -> Result<bool, RunDirError> {
    let ours = file.metadata().map_err(RunDirError::io("inspect", path))?;
    match fs::metadata(path) {
        Ok(there) => Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(RunDirError::io("inspect", path)(error)),
    }
}

/// Some network and overlay file systems grant every lock: a second descriptor must be refused.
fn check_exclusive(path: &Path) -> Result<(), RunDirError> {
    let second = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(RunDirError::io("open", path))?;
    match set_lock(&second) {
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(()),
        Ok(()) => Err(dont_work(path, "a second lock was granted beside the first".to_owned())),
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

    /// The second of two sweepers: it opens the file, the first removes the run, and only then it locks.
    #[test]
    fn a_lock_on_a_file_that_was_removed_meanwhile_is_none() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join(HOST_LOCK);
        let opened_before = File::create_new(&path).expect("made");
        fs::remove_file(&path).expect("removed");
        assert!(matches!(
            take(opened_before.try_clone().expect("cloned"), &path),
            Ok(Taken::Absent)
        ));
        let Ok(Taken::Ours(_another)) = RunLock::create(dir.path(), HOST_LOCK) else {
            panic!("another is made")
        };
        assert!(matches!(take(opened_before, &path), Ok(Taken::Absent)));
    }

    #[test]
    fn a_file_system_without_locks_is_refused_by_name() {
        // /proc's files take no lock of the kind: the kernel says so, or there is nothing to write to.
        let file = File::open("/proc/self/stat").expect("opens");
        let refused = take(file, Path::new("/proc/self/stat"));
        assert!(matches!(refused, Err(RunDirError::LocksDontWork { .. })), "{refused:?}");
    }
}
