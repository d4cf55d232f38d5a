//! `run.json`: what whoever comes after a dead host needs before it can read the table.

use std::fs;
use std::io;
use std::path::Path;

use ostler_core::ids::RunId;
use ostler_core::process::ProcessIdentity;
use ostler_failpoint::{self as failpoint, Point};
use serde::{Deserialize, Serialize};

use super::RunDirError;
use crate::codec::RECORD_VERSION;
use crate::record::{Owner, UnixNanos};
use crate::store::Engine;

const INFO_FILE: &str = "run.json";

/// The version of `run.json` that this build writes, and the newest that it reads.
pub const RUN_FORMAT: u32 = 1;

/// Who a run is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInfo {
    /// Version of this file's format.
    pub format: u32,
    /// The app's name.
    pub app: String,
    /// Which of the app's instances.
    pub instance: String,
    /// The run.
    pub run: RunId,
    /// The process that runs it.
    pub host: ProcessIdentity,
    /// Its guardian, once there is one.
    pub guardian: Option<ProcessIdentity>,
    /// Name of the engine that keeps its table; a later Ostler may know others.
    pub engine: String,
    /// Version of the records in the table.
    pub record_version: u16,
    /// When it started.
    pub started: UnixNanos,
    /// The cgroup v2 that holds its slots' cgroups, below the cgroup mount's root, if it has one.
    pub cgroup: Option<String>,
}

impl RunInfo {
    /// A run that starts now: no guardian and no cgroup yet.
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

/// Why a `run.json` says nothing. The run is swept by its marker all the same: its id is the directory's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunInfoError {
    /// There is none, or it can't be read.
    #[error("run.json can't be read: {detail}")]
    Unreadable {
        /// What the system said.
        detail: String,
    },
    /// A newer Ostler wrote it.
    #[error("run.json is of format {found}; this build knows formats up to {RUN_FORMAT}")]
    TooNew {
        /// The format that it claims.
        found: u32,
    },
    /// It is damaged.
    #[error("run.json is damaged: {detail}")]
    Corrupt {
        /// What is wrong with it.
        detail: String,
    },
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

/// Reads a run's `run.json`. The format is judged before anything else is looked at.
pub(super) fn read(dir: &Path) -> Result<RunInfo, RunInfoError> {
    let text = fs::read(dir.join(INFO_FILE)).map_err(|error| RunInfoError::Unreadable {
        detail: error.to_string(),
    })?;
    let corrupt = |error: serde_json::Error| RunInfoError::Corrupt {
        detail: error.to_string(),
    };
    let FormatOnly { format } = serde_json::from_slice(&text).map_err(corrupt)?;
    if format > RUN_FORMAT {
        return Err(RunInfoError::TooNew { found: format });
    }
    serde_json::from_slice(&text).map_err(corrupt)
}

/// Writes `run.json` beside itself and renames it, so that a reader sees the old file or the new one.
pub(super) fn write(dir: &Path, info: &RunInfo) -> Result<(), RunDirError> {
    let path = dir.join(INFO_FILE);
    let unfinished = dir.join(".run.json.new");
    let text = serde_json::to_vec_pretty(info)
        .map_err(io::Error::other)
        .map_err(RunDirError::io("write", &path))?;
    fs::write(&unfinished, text).map_err(RunDirError::io("write", &unfinished))?;
    failpoint::reach(Point::RunInfoWritten);
    fs::rename(&unfinished, &path).map_err(RunDirError::io("write", &path))
}
