//! The content of the process table.
//!
//! A record is written before its process exists and removed after everything that the process held
//! is free again. It identifies the process so that no other process can match it, and says where
//! its tree and its ports are found, for the sweep after a host's death.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ostler_core::ids::{Incarnation, RunId, WorkerId};
use ostler_core::process::ProcessIdentity;
use serde::{Deserialize, Serialize};

/// A point in wall-clock time, in nanoseconds since 1970 UTC. For display and logs; nothing is
/// decided by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UnixNanos(pub u64);

impl UnixNanos {
    /// The current wall-clock time, or 0 if the clock is before 1970.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// Whether the process of a record is known. A record only moves forward; it is removed when
/// everything that the process held is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordState {
    /// The spawn is intended. Only the guardian knows whether a process exists.
    Reserved,
    /// The process was spawned and its identity is recorded. It may have ended since.
    Active,
}

impl fmt::Display for RecordState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reserved => "reserved",
            Self::Active => "active",
        })
    }
}

/// What a record's process is. Future kinds (a systemd unit, a pod) add a variant here and a
/// version to the codec; nothing else in the table depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A process spawned by a guardian on this machine.
    LocalProcess(ProcessIdentity),
}

/// An address that the worker was given or reported, which must be free before the record is
/// removed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RecordedPort {
    /// The port's name in the specification; empty for the port of a worker with one port.
    pub name: String,
    /// The address that the port is bound on.
    pub address: IpAddr,
    /// The TCP port number; never 0.
    pub port: u16,
}

/// What contains the worker's process tree.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Containment {
    /// Nothing except the identity and the marker.
    None,
    /// A sitter, which is the subreaper and parent of the tree.
    Sitter,
    /// A sitter and the slot's cgroup v2, with its path below the root of the cgroup mount.
    Cgroup(String),
}

/// When a record reached each of its states.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Times {
    /// When the record was created.
    pub reserved: UnixNanos,
    /// When the process was recorded as spawned.
    pub active: Option<UnixNanos>,
}

/// The key of a record, unique in a run's table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The slot.
    pub worker: WorkerId,
    /// The incarnation of the slot.
    pub incarnation: Incarnation,
}

impl Key {
    /// Creates the key of an incarnation of a worker.
    pub fn new(worker: WorkerId, incarnation: Incarnation) -> Self {
        Self { worker, incarnation }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.worker, self.incarnation)
    }
}

/// One process of one worker, from its reservation to its release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The app's name.
    pub app: String,
    /// The instance of the app.
    pub instance: String,
    /// The run that owns the process.
    pub run: RunId,
    /// The slot: pool and index.
    pub worker: WorkerId,
    /// The incarnation of the slot.
    pub incarnation: Incarnation,
    /// The state.
    pub state: RecordState,
    /// What the process is; `None` until the record is active.
    pub identity: Option<Identity>,
    /// The sitter that is the process's parent, once the record is active.
    pub sitter: Option<ProcessIdentity>,
    /// The worker's ports.
    pub ports: Vec<RecordedPort>,
    /// What contains its process tree.
    pub containment: Containment,
    /// The environment variable of its processes, as `NAME=value`.
    pub marker: String,
    /// A hash of the specification it was started with, which identifies records of an older
    /// specification.
    pub spec_hash: u64,
    /// When the record reached its states.
    pub times: Times,
}

impl Record {
    /// Creates the record of a reservation, when nothing is known about the process yet: without
    /// identity, ports and containment, and with the marker of its run.
    pub fn reservation(owner: &Owner, key: Key, spec_hash: u64, now: UnixNanos) -> Self {
        let value = key.worker.marker_value(key.incarnation);
        Self {
            app: owner.app.clone(),
            instance: owner.instance.clone(),
            run: owner.run,
            marker: format!("{}={value}", owner.run.marker_name()),
            worker: key.worker,
            incarnation: key.incarnation,
            state: RecordState::Reserved,
            identity: None,
            sitter: None,
            ports: Vec::new(),
            containment: Containment::None,
            spec_hash,
            times: Times {
                reserved: now,
                active: None,
            },
        }
    }

    /// The record's key.
    pub fn key(&self) -> Key {
        Key::new(self.worker.clone(), self.incarnation)
    }
}

/// The owner of a table's records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The app's name.
    pub app: String,
    /// The instance of the app.
    pub instance: String,
    /// The run.
    pub run: RunId,
}

/// What a spawn adds to a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activation {
    /// What the process is.
    pub identity: Identity,
    /// The sitter that is its parent, if it has one.
    pub sitter: Option<ProcessIdentity>,
    /// The assigned ports. Ports that the worker reports later are added by an update.
    pub ports: Vec<RecordedPort>,
    /// What contains its process tree.
    pub containment: Containment,
    /// When the process was spawned.
    pub at: UnixNanos,
}
