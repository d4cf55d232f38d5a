//! Storage of the rows: one small trait, two engines.
//!
//! A row must survive the death of the host's process at any instruction, but not that of the
//! machine: the processes that the rows describe do not survive the kernel either. A write that
//! reached the kernel is therefore sufficient, and no engine here flushes the disk (ADR 0005).

mod place;
#[cfg(feature = "redb")]
mod redb_store;
#[cfg(feature = "rocksdb")]
mod rocksdb_store;

#[cfg(not(any(feature = "redb", feature = "rocksdb")))]
compile_error!("ostler-registry needs an engine for its process table: enable the feature `rocksdb` or `redb`");

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

pub use place::{DeadStore, SetAside, read_dead_store};
pub(crate) use place::{Opened, Place, SET_ASIDE, WhyAside};

/// One change to a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Put { key: Vec<u8>, value: Vec<u8> },
    Remove { key: Vec<u8> },
}

/// A key and its value.
pub(crate) type Row = (Vec<u8>, Vec<u8>);

/// An open engine. After an error it is not used again, but dropped and opened again.
pub(crate) trait Store: Send {
    /// Applies all changes in order, or none. When it returns, they survive a SIGKILL of this
    /// process.
    fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError>;

    /// All rows, ordered by key.
    fn scan(&mut self) -> Result<Vec<Row>, StoreError>;
}

/// The supported engines, whether or not they are compiled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// RocksDB, the default.
    RocksDb,
    /// redb: no C++ in the build.
    Redb,
}

impl Engine {
    /// The default engine: RocksDB, or redb in a build without it.
    pub const DEFAULT: Self = if cfg!(feature = "rocksdb") {
        Self::RocksDb
    } else {
        Self::Redb
    };

    /// All engines.
    pub const ALL: [Self; 2] = [Self::RocksDb, Self::Redb];

    /// The engine's name in files: `rocksdb` or `redb`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RocksDb => "rocksdb",
            Self::Redb => "redb",
        }
    }

    /// The engine with this name, compiled in or not.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|engine| engine.name() == name)
    }

    /// Whether this build contains the engine.
    pub const fn is_compiled_in(self) -> bool {
        match self {
            Self::RocksDb => cfg!(feature = "rocksdb"),
            Self::Redb => cfg!(feature = "redb"),
        }
    }

    /// The name of the file or directory that contains the table, inside the run's directory.
    pub(crate) const fn file_name(self) -> &'static str {
        match self {
            Self::RocksDb => "table.rocksdb",
            Self::Redb => "table.redb",
        }
    }

    /// Opens the store at `path`, creating it if necessary.
    pub(crate) fn open(self, path: &Path) -> Result<Box<dyn Store>, StoreError> {
        match self {
            #[cfg(feature = "rocksdb")]
            Self::RocksDb => Ok(Box::new(rocksdb_store::RocksDbStore::open(path)?)),
            #[cfg(feature = "redb")]
            Self::Redb => Ok(Box::new(redb_store::RedbStore::open(path)?)),
            #[cfg(not(all(feature = "rocksdb", feature = "redb")))]
            missing => Err(StoreError::EngineMissing {
                name: missing.name().to_owned(),
            }),
        }
    }

    /// Reads the rows of a store that no process has open. Writes nothing, so it works on a full
    /// disk and leaves a damaged store unchanged.
    pub(crate) fn read(self, path: &Path) -> Result<Vec<Row>, StoreError> {
        match self {
            #[cfg(feature = "rocksdb")]
            Self::RocksDb => rocksdb_store::read(path),
            #[cfg(feature = "redb")]
            Self::Redb => redb_store::read(path),
            #[cfg(not(all(feature = "rocksdb", feature = "redb")))]
            missing => Err(StoreError::EngineMissing {
                name: missing.name().to_owned(),
            }),
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a store could not be opened, read or written. Causes the failure reason `store_failed` of a
/// worker or a run.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The disk, the quota or the maximum file size is exhausted (ENOSPC, EDQUOT, EFBIG).
    #[error("no space for the process table at {}", path.display())]
    Full {
        /// The store.
        path: PathBuf,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// The file system or its permissions do not allow writing (EROFS, EACCES, EPERM).
    #[error("the process table at {} can't be written", path.display())]
    NotWritable {
        /// The store.
        path: PathBuf,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// Any other failure to read or write.
    #[error("the process table at {} can't be used", path.display())]
    Io {
        /// The store.
        path: PathBuf,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// The files are damaged, or are not a store.
    #[error("the process table at {} is damaged: {detail}", path.display())]
    Corrupt {
        /// The store.
        path: PathBuf,
        /// What is wrong with them.
        detail: String,
    },
    /// The store was written by a newer Ostler or a newer engine.
    #[error("the process table at {} is newer than this build: {detail}", path.display())]
    TooNew {
        /// The store.
        path: PathBuf,
        /// The version found and the versions supported.
        detail: String,
    },
    /// This build lacks the engine.
    #[error("this build has no engine {name:?} for the process table")]
    EngineMissing {
        /// The engine's name in `run.json`.
        name: String,
    },
}

impl StoreError {
    /// Classifies an error of the operating system by what can be done about it.
    pub(crate) fn from_io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        if matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) {
            return Self::Corrupt {
                path,
                detail: source.to_string(),
            };
        }
        let errno = source.raw_os_error().map(Errno::from_raw);
        let source = Arc::new(source);
        match errno {
            Some(Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG) => Self::Full { path, source },
            Some(Errno::EROFS | Errno::EACCES | Errno::EPERM) => Self::NotWritable { path, source },
            _ => Self::Io { path, source },
        }
    }

    /// The same error with the path by which people know the store.
    fn shown_at(mut self, shown: &Path) -> Self {
        match &mut self {
            Self::Full { path, .. }
            | Self::NotWritable { path, .. }
            | Self::Io { path, .. }
            | Self::Corrupt { path, .. }
            | Self::TooNew { path, .. } => shown.clone_into(path),
            Self::EngineMissing { .. } => {}
        }
        self
    }

    /// What the user can do about it.
    pub fn suggestion(&self) -> String {
        match self {
            Self::Full { path, .. } => format!(
                "free space on the file system of {}, or choose another state directory; running workers are not affected",
                path.display()
            ),
            Self::NotWritable { path, .. } => format!(
                "make {} writable for this user, or choose another state directory",
                path.parent().unwrap_or(path).display()
            ),
            Self::Io { path, .. } => format!("check the file system that holds {}", path.display()),
            Self::Corrupt { .. } => {
                "the store was set aside and a new one created; keep the copy for a bug report, or remove it".to_owned()
            }
            Self::TooNew { .. } => {
                "run the newer Ostler that wrote it, or remove the copy that was set aside".to_owned()
            }
            Self::EngineMissing { name } => {
                format!("build Ostler with the feature {name:?}, or set `store` to an engine that this build has")
            }
        }
    }
}

#[cfg(test)]
mod conformance;
