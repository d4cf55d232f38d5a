//! What a worker looks like from outside, at one moment.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use ostler_core::failure::Failure;
use ostler_core::ids::Incarnation;
use ostler_core::lifecycle::State;

/// The ports of a worker by name; the one without a name has the empty name.
pub(crate) type PortMap = BTreeMap<String, u16>;

/// The Unix sockets of a worker by the names of its ports.
pub(crate) type SocketMap = BTreeMap<String, PathBuf>;

/// One worker at one moment, as [`Pool::workers`](crate::Pool::workers) shows it.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct WorkerState {
    /// The state of its latest incarnation; `None` before the first is reserved.
    pub state: Option<State>,
    /// Its latest incarnation, from 1; `None` before the first is reserved.
    pub incarnation: Option<Incarnation>,
    /// Its process, while it has one.
    pub pid: Option<u32>,
    /// Its ports by name; a single one has the empty name.
    pub ports: PortMap,
    /// Its Unix sockets (`port = "unix"`) by name; a single one has the empty name.
    pub sockets: SocketMap,
    /// When the latest incarnation's process was spawned.
    pub since: Option<Instant>,
    /// Incarnations after the first.
    pub restarts: u64,
    /// The latest failure of any of its incarnations.
    pub last_failure: Option<Failure>,
    /// Whether its slot gave up.
    pub gave_up: bool,
    /// Whether it ended normally and is not restarted.
    pub finished: bool,
    /// Whether [`Worker::stop`](crate::Worker::stop) keeps its slot empty.
    pub stopped: bool,
    /// Whether its slot is gone: the pool was made smaller. Nothing is started in it any more; a
    /// pool that grows again has another slot with the same index.
    pub removed: bool,
}

impl WorkerState {
    /// Whether this incarnation's process has ended, as far as is known.
    pub(crate) fn has_ended(&self, incarnation: Incarnation) -> bool {
        let ended = matches!(self.state, Some(State::Exited | State::Releasing | State::Released));
        ended && self.incarnation == Some(incarnation)
    }

    /// Whether nothing is started in its slot any more: it has finished, given up, or was removed.
    pub fn is_over(&self) -> bool {
        self.finished || self.gave_up || self.removed
    }
}
