//! The location of a run's store, and of one that was set aside because it cannot be read.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::codec::{DecodeError, decode_record};
use crate::private::PrivateDir;
use crate::record::Record;

use super::{Change, Engine, Row, Store, StoreError};

/// The directory, beside those of the runs, for stores that are damaged or too new.
pub(crate) const SET_ASIDE: &str = "set-aside";

/// Where a run's store is, and where it is moved if it cannot be used.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) engine: Engine,
    /// The run's directory.
    pub(crate) run_dir: Arc<PrivateDir>,
    /// The app's directory.
    pub(crate) app_dir: Arc<PrivateDir>,
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
    /// The store's path, for people.
    pub(crate) fn path(&self) -> PathBuf {
        self.run_dir.shown(self.engine.file_name())
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
        let at = self.run_dir.entry(self.engine.file_name());
        let mut store = HeldStore {
            store: self.engine.open(&at).map_err(|error| error.shown_at(&path))?,
            path: path.clone(),
            _directory: Arc::clone(&self.run_dir),
        };
        let rows = store.scan()?;
        let records = rows
            .iter()
            .map(|(_, value)| decode_record(value))
            .collect::<Result<_, _>>()
            .map_err(|error| undecodable(&path, &error))?;
        Ok(Opened {
            store: Box::new(store),
            rows,
            records,
            set_aside: None,
        })
    }

    /// Moves the store out of the run's directory, so that it outlives the directory.
    pub(crate) fn set_aside(&self, why: WhyAside) -> Result<PathBuf, StoreError> {
        let file = self.engine.file_name();
        let run = self.run_dir.path().file_name().unwrap_or_default().to_string_lossy();
        let when = humantime::format_rfc3339_micros(SystemTime::now());
        let name = format!("{run}-{file}-{why}-{when}");
        let aside = self.app_dir.make_in(SET_ASIDE).map_err(io::Error::from);
        let moved = aside.and_then(|aside| {
            fs::rename(self.run_dir.entry(file), aside.entry(&name))?;
            Ok(aside.shown(&name))
        });
        moved.map_err(|error| StoreError::from_io(&self.path(), error))
    }
}

/// A store that was opened through a descriptor: its directory stays open as long as it, and its
/// errors have the path that people know.
struct HeldStore {
    store: Box<dyn Store>,
    path: PathBuf,
    /// Closed after the store.
    _directory: Arc<PrivateDir>,
}

impl Store for HeldStore {
    fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.store.apply(changes).map_err(|error| error.shown_at(&self.path))
    }

    fn scan(&mut self) -> Result<Vec<Row>, StoreError> {
        self.store.scan().map_err(|error| error.shown_at(&self.path))
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
    let opened = PrivateDir::open(run_dir).map_err(|refused| StoreError::from_io(run_dir, refused.into()));
    DeadStore::read(&opened?, engine)
}

impl DeadStore {
    /// See [`read_dead_store`].
    pub(crate) fn read(run_dir: &PrivateDir, engine: Engine) -> Result<Self, StoreError> {
        if !engine.is_compiled_in() {
            return Err(StoreError::EngineMissing {
                name: engine.name().to_owned(),
            });
        }
        let (file, path) = (engine.file_name(), run_dir.shown(engine.file_name()));
        if !run_dir.has(file).map_err(|error| StoreError::from_io(&path, error))? {
            return Ok(Self::default());
        }
        let rows = engine.read(&run_dir.entry(file));
        let mut found = Self::default();
        for (_, value) in rows.map_err(|error| error.shown_at(&path))? {
            match decode_record(&value) {
                Ok(record) => found.records.push(record),
                Err(error) => found.unreadable.push(error),
            }
        }
        Ok(found)
    }
}
