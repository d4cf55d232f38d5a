//! Directories that only this user can have filled.
//!
//! A sweep kills what a dead run's files name, and removes directories. So it must not believe
//! files that another user could have planted, as in a shared state directory, or below the
//! `XDG_RUNTIME_DIR` of another user. A directory is opened once, checked, and then used through
//! its descriptor, so that it can't be exchanged after the check.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::Uid;

use super::RunDirError;

/// Why a directory is not trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distrust {
    /// It is a link, or not a directory.
    NotADirectory,
    /// Another user owns it.
    ForeignOwner {
        /// The owner's uid.
        uid: u32,
    },
    /// Its group or others may write to it.
    Writable {
        /// Its mode, such as 0o777.
        mode: u32,
    },
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotADirectory => f.write_str("it is a link, or not a directory"),
            Self::ForeignOwner { uid } => write!(f, "it belongs to user {uid}"),
            Self::Writable { mode } => write!(f, "its mode {mode:o} lets other users write to it"),
        }
    }
}

/// A directory that belongs to this user, and that no other user may write to.
#[derive(Debug)]
pub(super) struct PrivateDir {
    descriptor: OwnedFd,
    path: PathBuf,
}

impl PrivateDir {
    /// Opens and checks a directory.
    pub(super) fn open(path: &Path) -> Result<Self, RunDirError> {
        Self::open_at(AT_FDCWD, path, path)
    }

    /// Opens and checks a directory in this one.
    pub(super) fn open_in(&self, name: &str) -> Result<Self, RunDirError> {
        Self::open_at(self.descriptor.as_fd(), Path::new(name), &self.path.join(name))
    }

    fn open_at(directory: BorrowedFd<'_>, path: &Path, shown: &Path) -> Result<Self, RunDirError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let untrusted = |why| RunDirError::Untrusted {
            path: shown.to_owned(),
            why,
        };
        let descriptor = match openat(directory, path, flags, Mode::empty()) {
            Ok(descriptor) => descriptor,
            Err(Errno::ELOOP | Errno::ENOTDIR) => return Err(untrusted(Distrust::NotADirectory)),
            Err(errno) => return Err(RunDirError::io("open", shown)(errno.into())),
        };
        let stat = fstat(&descriptor).map_err(|errno| RunDirError::io("inspect", shown)(errno.into()))?;
        if stat.st_uid != Uid::effective().as_raw() {
            return Err(untrusted(Distrust::ForeignOwner { uid: stat.st_uid }));
        }
        if stat.st_mode & 0o022 != 0 {
            let mode = stat.st_mode & 0o7777;
            return Err(untrusted(Distrust::Writable { mode }));
        }
        Ok(Self {
            descriptor,
            path: shown.to_owned(),
        })
    }

    /// Its path, for people.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A path that leads to it through the descriptor, and to no other directory.
    pub(super) fn by_descriptor(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.descriptor.as_raw_fd()))
    }

    /// The names in it.
    pub(super) fn names(&self) -> Result<Vec<String>, RunDirError> {
        let failed = |error: io::Error| RunDirError::io("list", &self.path)(error);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.by_descriptor()).map_err(failed)? {
            names.extend(entry.map_err(failed)?.file_name().into_string().ok());
        }
        Ok(names)
    }
}
