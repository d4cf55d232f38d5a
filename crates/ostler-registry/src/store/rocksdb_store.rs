//! RocksDB, tuned for thousands of small, short-lived rows.
//!
//! A write goes to the write-ahead log with one `write` and into a small memtable; nothing is
//! flushed to disk. After a failed write RocksDB stays in an error state: the table drops it and
//! opens it again.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use rocksdb::{
    BlockBasedOptions, DB, DBCompressionType, DBRecoveryMode, ErrorKind, IteratorMode, LogLevel, Options, WriteBatch,
    WriteOptions,
};

use super::{Change, Row, Store, StoreError};
use crate::private::PrivateDir;

const KIB: usize = 1024;

/// The size of the rows kept in memory before they are written to a file. A thousand records take
/// about half of it.
const WRITE_BUFFER_BYTES: usize = 512 * KIB;

/// The table in one directory.
pub(super) struct RocksDbStore {
    database: DB,
    path: PathBuf,
    write: WriteOptions,
}

impl RocksDbStore {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        // RocksDB describes a directory that it cannot create only in words. Creating it ourselves
        // first gives us the errno.
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|error| StoreError::from_io(path, error))?;
        check_private(path)?;
        check_not_headless(path)?;
        let database = DB::open(&options(), path).map_err(|error| failed(path, &error))?;
        let mut write = WriteOptions::default();
        write.set_sync(false);
        write.disable_wal(false);
        Ok(Self {
            database,
            path: path.to_owned(),
            write,
        })
    }
}

impl Store for RocksDbStore {
    fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        for change in changes {
            match change {
                Change::Put { key, value } => batch.put(key, value),
                Change::Remove { key } => batch.delete(key),
            }
        }
        self.database
            .write_opt(batch, &self.write)
            .map_err(|error| failed(&self.path, &error))
    }

    fn scan(&mut self) -> Result<Vec<Row>, StoreError> {
        rows(&self.database, &self.path)
    }
}

/// Reads the rows of a store that no process has open. The log is replayed in memory only.
pub(super) fn read(path: &Path) -> Result<Vec<Row>, StoreError> {
    check_private(path)?;
    if !check_not_headless(path)? {
        return Ok(Vec::new());
    }
    let database = DB::open_for_read_only(&options(), path, false).map_err(|error| failed(path, &error))?;
    rows(&database, path)
}

/// Checks that it is a directory to which only this user can write, and no link: so the files in it
/// are ours. It can't be replaced afterwards, because the run's directory is ours alone, too.
fn check_private(path: &Path) -> Result<(), StoreError> {
    let opened = PrivateDir::open(path).map(drop);
    opened.map_err(|refused| StoreError::from_io(path, refused.into()))
}

/// Whether the directory contains a database. Without `CURRENT` there is none if there is no data
/// either, because RocksDB creates that file before any data. With data it is damaged, and RocksDB
/// would silently start an empty database in it.
fn check_not_headless(path: &Path) -> Result<bool, StoreError> {
    let mut has_data = false;
    for entry in fs::read_dir(path).map_err(|error| StoreError::from_io(path, error))? {
        let name = entry.map_err(|error| StoreError::from_io(path, error))?.file_name();
        if name == "CURRENT" {
            return Ok(true);
        }
        has_data |= Path::new(&name)
            .extension()
            .is_some_and(|extension| extension == "log" || extension == "sst");
    }
    match has_data {
        false => Ok(false),
        true => Err(StoreError::Corrupt {
            path: path.to_owned(),
            detail: "the file CURRENT is missing".to_owned(),
        }),
    }
}

fn rows(database: &DB, path: &Path) -> Result<Vec<Row>, StoreError> {
    database
        .iterator(IteratorMode::Start)
        .map(|row| row.map(|(key, value)| (key.into_vec(), value.into_vec())))
        .collect::<Result<_, _>>()
        .map_err(|error| failed(path, &error))
}

/// Options for little memory, few files, few threads and a small log. Figures in ADR 0007.
fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_compression_type(DBCompressionType::None);

    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_max_write_buffer_number(2);
    options.set_arena_block_size(32 * KIB);
    options.set_max_total_wal_size(2 * WRITE_BUFFER_BYTES as u64);
    let mut blocks = BlockBasedOptions::default();
    blocks.disable_cache();
    options.set_block_based_table_factory(&blocks);

    // A process killed during a write leaves half a log entry, which was never acknowledged.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_max_open_files(32);
    options.set_max_file_opening_threads(1);
    options.set_max_background_jobs(1);
    options.set_max_manifest_file_size(256 * KIB);
    options.set_manifest_preallocation_size(16 * KIB);

    options.set_log_level(LogLevel::Error);
    options.set_max_log_file_size(64 * KIB);
    options.set_keep_log_file_num(1);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_skip_stats_update_on_db_open(true);
    options
}

fn failed(path: &Path, error: &rocksdb::Error) -> StoreError {
    let detail = error.to_string();
    match error.kind() {
        ErrorKind::NotSupported => StoreError::TooNew {
            path: path.to_owned(),
            detail,
        },
        // "Invalid argument" is RocksDB's error for a table with foreign options or a foreign
        // comparator.
        ErrorKind::Corruption | ErrorKind::InvalidArgument => StoreError::Corrupt {
            path: path.to_owned(),
            detail,
        },
        _ => StoreError::from_io(path, io_error(&detail)),
    }
}

/// Finds the errno for a system error in RocksDB's text, which contains the text of `strerror`.
fn io_error(detail: &str) -> io::Error {
    const KNOWN: [Errno; 6] = [
        Errno::ENOSPC,
        Errno::EDQUOT,
        Errno::EFBIG,
        Errno::EROFS,
        Errno::EACCES,
        Errno::EPERM,
    ];
    match KNOWN.into_iter().find(|errno| detail.contains(errno.desc())) {
        Some(errno) => io::Error::from(errno),
        None => io::Error::other(detail.to_owned()),
    }
}
