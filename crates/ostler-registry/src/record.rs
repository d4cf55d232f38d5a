//! What the process table says of one process.
//!
//! A record is written before its process exists and removed after everything that the process held is free again. It
//! names the process in a way that no other process can ever match, and says where its tree and its ports are to be
//! found, for whoever comes after a host that died.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ostler_core::ids::{Incarnation, RunId, WorkerId};
use ostler_core::process::ProcessIdentity;
use serde::{Deserialize, Serialize};

/// A moment of the wall clock: nanoseconds since 1970, UTC. For people and for logs; nothing is decided by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UnixNanos(pub u64);

impl UnixNanos {
    /// The wall clock's time now; 0 if the clock stands before 1970.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    /// The same moment as the standard library's type.
    pub fn as_system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.0)
    }
}

/// How far the process of a record is on its way from intention to release.
///
/// A record only moves forward, and may skip a state: a spawn that failed goes from `Reserved` to `Releasing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordState {
    /// The spawn is intended; whether a process exists is known to the guardian only.
    Reserved,
    /// The process is spawned and its identity recorded.
    Active,
    /// It is being stopped, or has ended by itself.
    Ending,
    /// The process is gone; its tree, its ports or its registration are still being released.
    Releasing,
}

impl fmt::Display for RecordState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reserved => "reserved",
            Self::Active => "active",
            Self::Ending => "ending",
            Self::Releasing => "releasing",
        })
    }
}

/// What a record's process is, whatever driver started it. Drivers to come (a systemd unit, a pod) add a variant here
/// and a version to the codec; nothing else in the table knows what a process is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A process that a guardian of this machine spawned.
    LocalProcess(ProcessIdentity),
}

/// An address that the worker was given or reported, to be bindable again before the record goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RecordedPort {
    /// The port's name in the spec; empty for the only port of a worker.
    pub name: String,
    /// The address that it is bound on.
    pub address: IpAddr,
    /// The TCP port's number; never 0.
    pub port: u16,
}

/// What holds the worker's whole tree together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Containment {
    /// Nothing but the identity and the marker.
    None,
    /// A sitter is subreaper and parent of the tree.
    Sitter,
    /// A sitter, and a cgroup v2 of the slot's own at this path below the cgroup mount's root.
    Cgroup(String),
}

/// A permission to outlive the host. Only independent workers hold one; `None` in a record means coupled.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lease {
    /// Until when the process may live without a host that renews the lease.
    pub until: UnixNanos,
}

/// When a record reached each of its states.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Times {
    /// When the record was made.
    pub reserved: UnixNanos,
    /// When the process was recorded as spawned.
    pub active: Option<UnixNanos>,
    /// When its end was asked for or seen.
    pub ending: Option<UnixNanos>,
    /// When it was seen to be gone.
    pub releasing: Option<UnixNanos>,
}

/// Which process a record is about: unique in a run's table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The slot.
    pub worker: WorkerId,
    /// Which process of the slot.
    pub incarnation: Incarnation,
}

impl Key {
    /// The key of one incarnation of one worker.
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
    /// Which of the app's instances.
    pub instance: String,
    /// The run that owns the process.
    pub run: RunId,
    /// The slot: its pool and its number.
    pub worker: WorkerId,
    /// Which process of the slot.
    pub incarnation: Incarnation,
    /// How far it is.
    pub state: RecordState,
    /// What the process is; unknown until it is active.
    pub identity: Option<Identity>,
    /// The sitter that is its parent, once it is active.
    pub sitter: Option<ProcessIdentity>,
    /// The ports that belong to it.
    pub ports: Vec<RecordedPort>,
    /// What holds its tree.
    pub containment: Containment,
    /// Its permission to outlive the host, if it has one.
    pub lease: Option<Lease>,
    /// The environment variable that its processes carry, as `NAME=value`.
    pub marker: String,
    /// A hash of the spec that it was started by, to tell a record of an older spec.
    pub spec_hash: u64,
    /// When it reached its states.
    pub times: Times,
}

impl Record {
    /// The reservation of an incarnation, before anything is known of its process: no identity, no ports, no
    /// containment, no lease, and the marker of its run.
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
            lease: None,
            spec_hash,
            times: Times {
                reserved: now,
                active: None,
                ending: None,
                releasing: None,
            },
        }
    }

    /// What the record is found by.
    pub fn key(&self) -> Key {
        Key::new(self.worker.clone(), self.incarnation)
    }
}

/// Who the records of one table belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The app's name.
    pub app: String,
    /// Which of the app's instances.
    pub instance: String,
    /// The run.
    pub run: RunId,
}

/// What becomes known of a process by spawning it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activation {
    /// What the process is.
    pub identity: Identity,
    /// The sitter that is its parent, if it has one.
    pub sitter: Option<ProcessIdentity>,
    /// The ports that it was given; those that it reports later come by an update.
    pub ports: Vec<RecordedPort>,
    /// What holds its tree.
    pub containment: Containment,
    /// When it was spawned.
    pub at: UnixNanos,
}
