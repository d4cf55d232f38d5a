//! Directories and files that only this user can have written.
//!
//! A sweep kills what a dead run's files name, and removes directories. So it must not believe
//! files that another user could have planted, as in a shared state directory, or below the
//! `XDG_RUNTIME_DIR` of another user. A directory is opened once, checked, and then used through
//! its descriptor, so that it can't be exchanged after the check. A live run's is used in the same
//! way. Links are not followed, neither to directories nor to files.
//!
//! What takes only a path, as the engines do, gets `/proc/self/fd/N/NAME`, which leads through the
//! descriptor: a process may always follow its own, even if it is not dumpable, or `/proc` is
//! mounted with `hidepid` (proc(5)).

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::Uid;

/// Why a directory or a file is not trusted.
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
    /// Another directory has taken its place since it was opened.
    Replaced,
}

impl Distrust {
    /// Checks owner and mode.
    fn of(uid: u32, mode: u32) -> Option<Self> {
        if uid != Uid::effective().as_raw() {
            return Some(Self::ForeignOwner { uid });
        }
        (mode & 0o022 != 0).then_some(Self::Writable { mode: mode & 0o7777 })
    }
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotADirectory => f.write_str("it is a link, or not a directory"),
            Self::ForeignOwner { uid } => write!(f, "it belongs to user {uid}"),
            Self::Writable { mode } => write!(f, "its mode {mode:o} lets other users write to it"),
            Self::Replaced => f.write_str("another directory has taken its place"),
        }
    }
}

/// Why a directory can't be used.
#[derive(Debug)]
pub(crate) enum Refused {
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    Untrusted {
        path: PathBuf,
        why: Distrust,
    },
}

impl Refused {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Io { source, .. } => source,
            Refused::Untrusted { why, .. } => not_trusted(why),
        }
    }
}

/// A directory that belongs to this user, and that no other user may write to.
#[derive(Debug)]
pub(crate) struct PrivateDir {
    descriptor: OwnedFd,
    /// Device and inode.
    identity: (u64, u64),
    path: PathBuf,
}

impl PrivateDir {
    /// Opens and checks a directory.
    pub(crate) fn open(path: &Path) -> Result<Self, Refused> {
        Self::open_at(AT_FDCWD, path, path)
    }

    /// Opens and checks a directory in this one.
    pub(crate) fn open_in(&self, name: &str) -> Result<Self, Refused> {
        Self::open_at(self.descriptor.as_fd(), Path::new(name), &self.shown(name))
    }

    /// Makes a directory in this one if there is none, and opens and checks it.
    pub(crate) fn make_in(&self, name: &str) -> Result<Self, Refused> {
        match mkdirat(&self.descriptor, name, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => self.open_in(name),
            Err(errno) => Err(Refused::io("make", &self.shown(name))(errno.into())),
        }
    }

    fn open_at(directory: BorrowedFd<'_>, path: &Path, shown: &Path) -> Result<Self, Refused> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let untrusted = |why| Refused::Untrusted {
            path: shown.to_owned(),
            why,
        };
        let descriptor = match openat(directory, path, flags, Mode::empty()) {
            Ok(descriptor) => descriptor,
            Err(Errno::ELOOP | Errno::ENOTDIR) => return Err(untrusted(Distrust::NotADirectory)),
            Err(errno) => return Err(Refused::io("open", shown)(errno.into())),
        };
        let stat = fstat(&descriptor).map_err(|errno| Refused::io("inspect", shown)(errno.into()))?;
        match Distrust::of(stat.st_uid, stat.st_mode) {
            Some(why) => Err(untrusted(why)),
            None => Ok(Self {
                descriptor,
                identity: (stat.st_dev, stat.st_ino),
                path: shown.to_owned(),
            }),
        }
    }

    /// Its path, for people.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The same directory under another path.
    pub(crate) fn renamed(self, path: PathBuf) -> Self {
        Self { path, ..self }
    }

    /// Device and inode: no other directory has them while this one is open.
    pub(crate) fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// A path that leads to it through the descriptor, and to no other directory.
    fn by_descriptor(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.descriptor.as_raw_fd()))
    }

    /// The path of an entry, through the descriptor.
    pub(crate) fn entry(&self, name: &str) -> PathBuf {
        self.by_descriptor().join(name)
    }

    /// The path of an entry, for people.
    pub(crate) fn shown(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether there is an entry of this name, even if it is a link that leads nowhere.
    pub(crate) fn has(&self, name: &str) -> io::Result<bool> {
        match fs::symlink_metadata(self.entry(name)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The names in it.
    pub(crate) fn names(&self) -> Result<Vec<String>, Refused> {
        let failed = |error: io::Error| Refused::io("list", &self.path)(error);
        let mut names = Vec::new();
        for entry in fs::read_dir(self.by_descriptor()).map_err(failed)? {
            names.extend(entry.map_err(failed)?.file_name().into_string().ok());
        }
        Ok(names)
    }

    /// Reads a file in it.
    pub(crate) fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        open_file(&self.entry(name), OpenOptions::new().read(true))?.read_to_end(&mut content)?;
        Ok(content)
    }

    /// Writes a new file in place of what has its name.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        create_file(&self.entry(name))?.write_all(content)
    }
}

/// Opens a file, which must be one that only this user can have written; one that it makes is
/// accessible to this user only.
pub(crate) fn open_file(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
    let file = match options.open(path) {
        Err(error) if error.raw_os_error() == Some(Errno::ELOOP as i32) => return Err(no_file()),
        opened => opened?,
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(no_file());
    }
    match Distrust::of(meta.uid(), meta.mode()) {
        Some(why) => Err(not_trusted(why)),
        None => Ok(file),
    }
}

/// Makes a file in place of what is at the path, for reading and writing.
pub(crate) fn create_file(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    open_file(path, OpenOptions::new().read(true).write(true).create_new(true))
}

fn not_trusted(why: Distrust) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, format!("not trusted: {why}"))
}

fn no_file() -> io::Error {
    io::Error::new(
        io::ErrorKind::PermissionDenied,
        "not trusted: it is a link, or not a regular file",
    )
}
