//! redb, for builds without C++.
//!
//! redb has two durability levels: `None` is lost with the process, `Immediate` flushes the disk at
//! each commit. The table needs a level in between: each commit is written to the kernel but never
//! flushed. A storage backend over a plain file whose sync does nothing provides exactly that: redb
//! overwrites no page of the previous commit, the page cache has every write for later readers, and
//! checksums reveal an incomplete commit, so that the previous one is used.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ostler_core::chain::chain;
use redb::backends::InMemoryBackend;
use redb::{Builder, Database, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};

use super::{Change, Row, Store, StoreError};
use crate::private::{create_file, open_file};

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("processes");

/// The page cache of the database, in bytes. A thousand rows take a third of it.
const CACHE_BYTES: usize = 1024 * 1024;

/// The largest file that is read into memory; tables have a few hundred KiB.
const MAX_READ_BYTES: u64 = 256 * 1024 * 1024;

/// A file that is never flushed: what was written survives the process, which is all that is
/// required.
#[derive(Debug)]
struct UnsyncedFile(File);

impl StorageBackend for UnsyncedFile {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.0.write_all_at(data, offset)
    }
}

/// The table in one file.
pub(super) struct RedbStore {
    /// `None` only during drop.
    database: Option<Database>,
    /// A read transaction on the state before the last commit. It keeps the pages freed by a commit
    /// in use until that commit ends. Otherwise redb frees them right away with another pass over
    /// its bookkeeping, which takes a quarter of a commit's time. The next commit frees them along
    /// the way.
    reader: Option<ReadTransaction>,
    path: PathBuf,
}

impl Drop for RedbStore {
    /// redb writes its allocator state when it closes, and may panic while doing so on a damaged
    /// file. Nothing is lost: a store that was not closed is repaired when it is opened.
    fn drop(&mut self) {
        let (reader, database) = (self.reader.take(), self.database.take());
        let closed = without_panic(&self.path, || {
            drop(reader);
            drop(database);
            Ok(())
        });
        if let Err(error) = closed {
            tracing::debug!(error = %chain(&error), "closing the process table");
        }
    }
}

impl RedbStore {
    /// Opens the table. A new one is created under another name and then renamed, so that a host
    /// that dies meanwhile leaves no incomplete file.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let io_failed = |error| StoreError::from_io(path, error);
        match open_file(path, OpenOptions::new().read(true).write(true)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return Self::existing(UnsyncedFile(opened.map_err(io_failed)?), path),
        }
        let unfinished = path.with_extension("redb-new");
        let file = create_file(&unfinished).map_err(io_failed)?;
        let mut store = Self::on(UnsyncedFile(file), path)?;
        // The first commit creates the table itself, so that it is always there for reading.
        store.apply(&[])?;
        fs::rename(&unfinished, path).map_err(io_failed)?;
        Ok(store)
    }

    /// Opens an existing table and verifies its checksums. redb does so itself only after an
    /// unclean shutdown, and otherwise trusts a damaged file.
    fn existing(backend: impl StorageBackend, path: &Path) -> Result<Self, StoreError> {
        let mut store = Self::on(backend, path)?;
        if let Some(database) = &mut store.database {
            without_panic(path, || {
                database.check_integrity().map_err(|error| failed(path, error.into()))
            })?;
        }
        Ok(store)
    }

    fn on(backend: impl StorageBackend, path: &Path) -> Result<Self, StoreError> {
        let database = without_panic(path, || {
            Builder::new()
                .set_cache_size(CACHE_BYTES)
                .create_with_backend(backend)
                .map_err(|error| failed(path, error.into()))
        })?;
        Ok(Self {
            database: Some(database),
            reader: None,
            path: path.to_owned(),
        })
    }

    fn with<T>(&self, action: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let Some(database) = &self.database else {
            return Err(failed(&self.path, redb::Error::DatabaseClosed));
        };
        without_panic(&self.path, || {
            action(database).map_err(|error| failed(&self.path, error))
        })
    }

    fn commit(database: &Database, changes: &[Change]) -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for change in changes {
                match change {
                    Change::Put { key, value } => drop(table.insert(key.as_slice(), value.as_slice())?),
                    Change::Remove { key } => drop(table.remove(key.as_slice())?),
                }
            }
        }
        Ok(transaction.commit()?)
    }

    fn rows(database: &Database) -> Result<Vec<Row>, redb::Error> {
        let transaction = database.begin_read()?;
        let table = transaction.open_table(TABLE)?;
        let mut rows = Vec::new();
        for row in table.iter()? {
            let (key, value) = row?;
            rows.push((key.value().to_vec(), value.value().to_vec()));
        }
        Ok(rows)
    }
}

impl Store for RedbStore {
    fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.reader = Some(self.with(|database| Ok(database.begin_read()?))?);
        self.with(|database| Self::commit(database, changes))
    }

    fn scan(&mut self) -> Result<Vec<Row>, StoreError> {
        self.with(Self::rows)
    }
}

/// Reads the rows of a store that no process has open. A dead host did not close it, so redb
/// repairs it first; that happens in a copy in memory, because the disk may be full and a damaged
/// file is evidence.
pub(super) fn read(path: &Path) -> Result<Vec<Row>, StoreError> {
    let io_failed = |error| StoreError::from_io(path, error);
    let mut file = open_file(path, OpenOptions::new().read(true)).map_err(io_failed)?;
    let length = file.metadata().map_err(io_failed)?.len();
    if length > MAX_READ_BYTES {
        let detail = format!("its {length} bytes exceed a process table's maximum of {MAX_READ_BYTES}");
        return Err(StoreError::Corrupt {
            path: path.to_owned(),
            detail,
        });
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(io_failed)?;
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let copy = InMemoryBackend::new();
    copy.set_len(bytes.len() as u64).map_err(io_failed)?;
    copy.write(0, &bytes).map_err(io_failed)?;
    drop(bytes);
    RedbStore::existing(copy, path)?.scan()
}

/// redb asserts some of its invariants, which fail as panics on a damaged file.
fn without_panic<T>(path: &Path, action: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(action)).unwrap_or_else(|panic| {
        let said = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or(panic.downcast_ref::<&str>().copied());
        let detail = format!("redb panicked: {}", said.unwrap_or("no reason given"));
        Err(StoreError::Corrupt {
            path: path.to_owned(),
            detail,
        })
    })
}

fn failed(path: &Path, error: redb::Error) -> StoreError {
    match error {
        redb::Error::Io(error) => StoreError::from_io(path, error),
        redb::Error::Corrupted(detail) if detail.starts_with("Expected file format version") => StoreError::TooNew {
            path: path.to_owned(),
            detail,
        },
        redb::Error::UpgradeRequired(version) => StoreError::Corrupt {
            path: path.to_owned(),
            detail: format!("redb's file format {version} is older than any written by Ostler"),
        },
        redb::Error::Corrupted(detail) => StoreError::Corrupt {
            path: path.to_owned(),
            detail,
        },
        redb::Error::TableTypeMismatch { .. } | redb::Error::TypeDefinitionChanged { .. } => StoreError::Corrupt {
            path: path.to_owned(),
            detail: error.to_string(),
        },
        other => StoreError::Io {
            path: path.to_owned(),
            source: Arc::new(io::Error::other(other)),
        },
    }
}

#[cfg(test)]
mod tests;
