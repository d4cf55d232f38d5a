//! `run.json`: what a sweep must know before it can read the table of a dead run.

use std::fs;
use std::io;

use ostler_core::ids::RunId;
use ostler_core::process::ProcessIdentity;
use ostler_failpoint::{self as failpoint, Point};
use serde::{Deserialize, Serialize};

use super::RunDirError;
use crate::codec::RECORD_VERSION;
use crate::private::PrivateDir;
use crate::record::{Owner, UnixNanos};
use crate::store::Engine;

const INFO_FILE: &str = "run.json";
/// What is about to become [`INFO_FILE`].
const UNFINISHED: &str = ".run.json.new";

/// The format version that this build writes, and the newest that it reads.
pub const RUN_FORMAT: u32 = 1;

/// A description of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInfo {
    /// The version of the file format.
    pub format: u32,
    /// The app's name.
    pub app: String,
    /// The instance of the app.
    pub instance: String,
    /// The run.
    pub run: RunId,
    /// The host process.
    pub host: ProcessIdentity,
    /// The guardian, once there is one.
    pub guardian: Option<ProcessIdentity>,
    /// The name of the engine that stores the table. A later Ostler may have others.
    pub engine: String,
    /// The version of the records in the table.
    pub record_version: u16,
    /// When the run started.
    pub started: UnixNanos,
    /// The cgroup v2 that contains the slots' cgroups, relative to the root of the cgroup mount, if
    /// there is one.
    pub cgroup: Option<String>,
}

impl RunInfo {
    /// Describes a run that starts now, without guardian and cgroup.
    pub fn new(owner: &Owner, host: ProcessIdentity, engine: Engine, started: UnixNanos) -> Self {
        Self {
            format: RUN_FORMAT,
            app: owner.app.clone(),
            instance: owner.instance.clone(),
            run: owner.run,
            host,
            guardian: None,
            engine: engine.name().to_owned(),
            record_version: RECORD_VERSION,
            started,
            cgroup: None,
        }
    }
}

/// Why a `run.json` could not be read. The run can still be swept by its marker, because its id is
/// the directory's name.
#[derive(Debug, thiserror::Error)]
pub enum RunInfoError {
    /// The file does not exist, cannot be read, or is not trusted: it is a link, or another user
    /// could have written it.
    #[error("run.json can't be read")]
    Unreadable {
        /// The system's error.
        source: io::Error,
    },
    /// The file was written by a newer Ostler.
    #[error("run.json has format {found}; this build supports formats up to {RUN_FORMAT}")]
    TooNew {
        /// The format found.
        found: u32,
    },
    /// The file is damaged.
    #[error("run.json is damaged")]
    Corrupt {
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

/// Reads a run's `run.json`. The format is checked before everything else.
pub(super) fn read(dir: &PrivateDir) -> Result<RunInfo, RunInfoError> {
    let text = dir
        .read(INFO_FILE)
        .map_err(|source| RunInfoError::Unreadable { source })?;
    let corrupt = |source| RunInfoError::Corrupt { source };
    let FormatOnly { format } = serde_json::from_slice(&text).map_err(corrupt)?;
    if format > RUN_FORMAT {
        return Err(RunInfoError::TooNew { found: format });
    }
    serde_json::from_slice(&text).map_err(corrupt)
}

/// Writes `run.json` to a temporary file and renames it, so that readers see either the old or the
/// new file.
pub(super) fn write(dir: &PrivateDir, info: &RunInfo) -> Result<(), RunDirError> {
    let path = dir.shown(INFO_FILE);
    let text = serde_json::to_vec_pretty(info)
        .map_err(io::Error::other)
        .map_err(RunDirError::io("write", &path))?;
    dir.write(UNFINISHED, &text)
        .map_err(RunDirError::io("write", &dir.shown(UNFINISHED)))?;
    failpoint::reach(Point::RunInfoWritten);
    fs::rename(dir.entry(UNFINISHED), dir.entry(INFO_FILE)).map_err(RunDirError::io("write", &path))
}
