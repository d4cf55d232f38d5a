//! The location of a run's store, and of one that was set aside because it cannot be read.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::codec::{DecodeError, decode_record};
use crate::record::Record;

use super::{Engine, Row, Store, StoreError};

/// Where a run's store is, and where it is moved if it cannot be used.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) engine: Engine,
    /// The run's directory.
    pub(crate) run_dir: PathBuf,
    /// The directory for stores that are damaged or too new.
    pub(crate) set_aside_dir: PathBuf,
}

/// Why a store is set aside. Part of the copy's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhyAside {
    Corrupt,
    TooNew,
}

impl fmt::Display for WhyAside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Corrupt => "corrupt",
            Self::TooNew => "too-new",
        })
    }
}

impl WhyAside {
    pub(crate) fn of(error: &StoreError) -> Option<Self> {
        match error {
            StoreError::Corrupt { .. } => Some(Self::Corrupt),
            StoreError::TooNew { .. } => Some(Self::TooNew),
            _ => None,
        }
    }
}

/// A store that could not be read was moved, completely, and replaced by a new one.
#[derive(Debug, Clone)]
pub struct SetAside {
    /// The new path. Its name contains the run, the reason and the time (UTC).
    pub path: PathBuf,
    /// What was wrong with the store.
    pub why: StoreError,
}

/// A store that was just opened.
pub(crate) struct Opened {
    pub(crate) store: Box<dyn Store>,
    pub(crate) rows: Vec<Row>,
    pub(crate) records: Vec<Record>,
    pub(crate) set_aside: Option<SetAside>,
}

impl Place {
    pub(crate) fn path(&self) -> PathBuf {
        self.run_dir.join(self.engine.file_name())
    }

    /// Opens the store. One that is damaged or too new is set aside and replaced by a new one.
    pub(crate) fn open(&self) -> Result<Opened, StoreError> {
        match self.open_as_it_is() {
            Ok(opened) => Ok(opened),
            Err(why) => {
                let Some(reason) = WhyAside::of(&why) else {
                    return Err(why);
                };
                let path = self.set_aside(reason)?;
                let opened = self.open_as_it_is()?;
                Ok(Opened {
                    set_aside: Some(SetAside { path, why }),
                    ..opened
                })
            }
        }
    }

    fn open_as_it_is(&self) -> Result<Opened, StoreError> {
        let path = self.path();
        let mut store = self.engine.open(&path)?;
        let rows = store.scan()?;
        let records = rows
            .iter()
            .map(|(_, value)| decode_record(value))
            .collect::<Result<_, _>>()
            .map_err(|error| undecodable(&path, &error))?;
        Ok(Opened {
            store,
            rows,
            records,
            set_aside: None,
        })
    }

    /// Moves the store out of the run's directory, so that it outlives the directory.
    pub(crate) fn set_aside(&self, why: WhyAside) -> Result<PathBuf, StoreError> {
        let from = self.path();
        let run = self.run_dir.file_name().unwrap_or_default().to_string_lossy();
        let when = humantime::format_rfc3339_micros(SystemTime::now());
        let to = self
            .set_aside_dir
            .join(format!("{run}-{}-{why}-{when}", self.engine.file_name()));
        fs::create_dir_all(&self.set_aside_dir)
            .and_then(|()| fs::rename(&from, &to))
            .map_err(|error| StoreError::from_io(&from, error))?;
        Ok(to)
    }
}

fn undecodable(path: &Path, error: &DecodeError) -> StoreError {
    let (path, detail) = (path.to_owned(), error.to_string());
    match error {
        DecodeError::TooNew { .. } => StoreError::TooNew { path, detail },
        DecodeError::Corrupt { .. } => StoreError::Corrupt { path, detail },
    }
}

/// The content of a dead run's store.
#[derive(Debug, Clone, Default)]
pub struct DeadStore {
    /// The readable records.
    pub records: Vec<Record>,
    /// The unreadable rows. They do not invalidate the others, because every identity is verified
    /// before it is acted on.
    pub unreadable: Vec<DecodeError>,
}

/// Reads the store of a run whose host is dead, for its sweep. The caller must hold the run's lock.
/// Writes nothing, so it works on a full or read-only disk. A missing store is treated as empty,
/// because a host may die before its first record.
///
/// # Errors
///
/// [`StoreError::EngineMissing`] if this build lacks the engine; [`StoreError::Corrupt`] and
/// [`StoreError::TooNew`] if the engine cannot read the store; otherwise the system's error.
pub fn read_dead_store(run_dir: &Path, engine: Engine) -> Result<DeadStore, StoreError> {
    if !engine.is_compiled_in() {
        return Err(StoreError::EngineMissing {
            name: engine.name().to_owned(),
        });
    }
    let path = run_dir.join(engine.file_name());
    if !path.try_exists().map_err(|error| StoreError::from_io(&path, error))? {
        return Ok(DeadStore::default());
    }
    let mut found = DeadStore::default();
    for (_, value) in engine.read(&path)? {
        match decode_record(&value) {
            Ok(record) => found.records.push(record),
            Err(error) => found.unreadable.push(error),
        }
    }
    Ok(found)
}
