//! What an incarnation needs from its host, as narrow traits: orders to the guardian, records in
//! the table, checks on the machine. Tests script them.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use ostler_core::chain::chain;
use ostler_core::failure::{Failure, Reason};
use ostler_core::ids::{Incarnation, WorkerId};
use ostler_core::lifecycle::Rest;
use ostler_core::spec::{PoolSpec, StopSpec};
use ostler_os::cgroup::{Group, RunGroup};
use ostler_os::guardian::{OrderError, SpawnRequest};
use ostler_os::holders::describe_processes;
use ostler_os::oom::OomWatch;
use ostler_os::ports::{self, PortState};
use ostler_os::{tree, worker_socket};
use ostler_registry::{Activation, Key, Owner, Record, RecordedPort, Scratch, Table, TableError};
use tokio::sync::{Semaphore, watch};

use super::remnants::Remnants;
use crate::follow::Followers;
use crate::guard::{Link, LinkClosed, Route};
use crate::hub::Hub;
use crate::instance::services::{Services, StopLevel};
use crate::remains::ByMarker;
use crate::scratch;
use crate::shared_work::SharedWork;

/// How long looking up the names of processes may take: 1 s.
const NAMING_LIMIT: Duration = Duration::from_secs(1);

/// Shared by the incarnations of one pool.
pub(crate) struct Setup {
    pub(super) host: Host,
    pub(super) pool: Arc<PoolSpec>,
    /// The worker's specification in its records.
    pub(super) fingerprint: u64,
    /// Starts in flight in the pool (`max_starting`).
    pub(super) starting: Arc<Semaphore>,
}

impl Setup {
    pub(crate) fn new(host: Host, pool: Arc<PoolSpec>) -> Arc<Self> {
        let starting = Arc::new(Semaphore::new(pool.max_starting as usize));
        let fingerprint = pool.worker.fingerprint();
        Arc::new(Self {
            host,
            pool,
            fingerprint,
            starting,
        })
    }
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup")
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

/// What an instance offers to its incarnations.
pub(crate) struct Host {
    pub(super) owner: Owner,
    pub(super) hub: Arc<Hub>,
    /// Code that is called for every change of a worker.
    pub(super) followers: Arc<Followers>,
    pub(super) guard: Arc<dyn Guard>,
    pub(super) table: Arc<dyn Records>,
    pub(super) machine: Arc<dyn Machine>,
    /// The directory of sockets and ready files; see [`scratch::make`].
    pub(super) scratch: Arc<Scratch>,
    pub(super) stop_level: watch::Receiver<StopLevel>,
    /// The number of incarnations that are not yet released.
    pub(super) unreleased: watch::Sender<usize>,
    /// Incarnations that are not proven to have left nothing, each with the reason.
    pub(super) unseen: Arc<Mutex<Vec<String>>>,
}

impl Host {
    pub(crate) fn of(services: &Services, followers: Arc<Followers>) -> Self {
        Self {
            owner: services.owner.clone(),
            hub: Arc::clone(&services.hub),
            followers,
            guard: Arc::<Link>::clone(&services.link),
            table: Arc::new(services.table.clone()),
            machine: Arc::new(ThisMachine {
                cgroup: services.cgroup.clone(),
                by_marker: Arc::clone(&services.by_marker),
            }),
            scratch: Arc::clone(&services.scratch),
            stop_level: services.stop_level.subscribe(),
            unreleased: services.unreleased.clone(),
            unseen: Arc::clone(&services.unseen),
        }
    }

    /// The directory for sockets and ready files.
    ///
    /// # Errors
    /// When it can't be made.
    pub(super) fn scratch(&self) -> io::Result<PathBuf> {
        scratch::make(self.owner.run, &self.scratch)
    }

    pub(super) fn note_unseen(&self, what: String) {
        self.unseen.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

/// Why an order to spawn did not reach a guardian.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpawnRefused {
    #[error(transparent)]
    Closed(#[from] LinkClosed),
    #[error(transparent)]
    Order(#[from] OrderError),
}

/// Orders to the serving guardian.
pub(super) trait Guard: Send + Sync {
    /// Orders a spawn as soon as a guardian serves. From then on the incarnation's events are sent
    /// to `route`.
    fn spawn(&self, slot: u32, route: Route, request: SpawnRequest) -> BoxFuture<'_, Result<(), SpawnRefused>>;

    /// Orders the incarnation's sitter to end it.
    fn end(&self, slot: u32, incarnation: Incarnation, stop: StopSpec);

    /// The incarnation needs no further events.
    fn forget(&self, slot: u32, incarnation: Incarnation);
}

impl Guard for Link {
    fn spawn(&self, slot: u32, route: Route, request: SpawnRequest) -> BoxFuture<'_, Result<(), SpawnRefused>> {
        Box::pin(async move {
            let (guardian, generation) = self.guardian().await?;
            let incarnation = route.incarnation;
            self.bind(slot, generation, route);
            Ok(guardian.spawn(slot, incarnation.0, request)?)
        })
    }

    fn end(&self, slot: u32, incarnation: Incarnation, stop: StopSpec) {
        Link::end(self, slot, incarnation, stop);
    }

    fn forget(&self, slot: u32, incarnation: Incarnation) {
        Link::forget(self, slot, incarnation);
    }
}

/// The records of incarnations in the process table.
pub(super) trait Records: Send + Sync {
    fn reserve(&self, record: Record) -> BoxFuture<'_, Result<(), TableError>>;

    fn activate(&self, key: Key, activation: Activation) -> BoxFuture<'_, Result<(), TableError>>;

    /// Adds these ports to the record.
    fn set_ports(&self, key: Key, ports: Vec<RecordedPort>) -> BoxFuture<'_, Result<(), TableError>>;

    /// Removes the record. Succeeds if there is none.
    fn remove(&self, key: Key) -> BoxFuture<'_, Result<bool, TableError>>;
}

impl Records for Table {
    fn reserve(&self, record: Record) -> BoxFuture<'_, Result<(), TableError>> {
        Box::pin(Table::reserve(self, record))
    }

    fn activate(&self, key: Key, activation: Activation) -> BoxFuture<'_, Result<(), TableError>> {
        Box::pin(Table::activate(self, key, activation))
    }

    fn set_ports(&self, key: Key, ports: Vec<RecordedPort>) -> BoxFuture<'_, Result<(), TableError>> {
        Box::pin(async move {
            match self.record(&key) {
                Some(record) => self.update(Record { ports, ..record }).await,
                None => Ok(()),
            }
        })
    }

    fn remove(&self, key: Key) -> BoxFuture<'_, Result<bool, TableError>> {
        Box::pin(Table::remove(self, key))
    }
}

/// Checks and kills on this machine. All of them block, unless they return a future.
pub(super) trait Machine: Send + Sync {
    /// The cgroup for the worker's next process; `None` without cgroups. Those of the worker's
    /// incarnations up to `spent_until` can't be reused.
    fn cgroup(&self, worker: &WorkerId, spent_until: Option<Incarnation>) -> Option<io::Result<Group>>;

    /// Begins to watch for the out-of-memory kill of a process that is about to be spawned into
    /// this cgroup; `None` if nothing counts such kills.
    fn watch_oom(&self, cgroup: Option<&Group>) -> Option<OomWatch>;

    /// Which of the addresses can't be bound, or on which of the sockets a process listens, and who
    /// holds it; `None`: none. The paths of sockets that are not held are removed.
    fn held(&self, addresses: &[SocketAddr], sockets: &[PathBuf]) -> Option<String>;

    /// The names of the processes below `root`. No process is touched, so a bare pid is enough.
    fn name_tree(&self, root: i32) -> Vec<String>;

    /// Kills the processes below a sitter that takes no orders.
    fn kill_past_sitter(&self, remnants: &Remnants);

    /// Kills what is left of a tree without a sitter. `None` if the work was lost: it panicked, or
    /// the runtime is shutting down.
    fn end_without_sitter(&self, remnants: Remnants) -> BoxFuture<'static, Option<Rest>>;
}

/// Holds nothing else of the instance: blocking work may outlive the runtime, and if it held the
/// run's lock, the run would look alive.
struct ThisMachine {
    cgroup: Option<Arc<RunGroup>>,
    by_marker: Arc<SharedWork<Arc<ByMarker>>>,
}

impl Machine for ThisMachine {
    fn cgroup(&self, worker: &WorkerId, spent_until: Option<Incarnation>) -> Option<io::Result<Group>> {
        Some(self.cgroup.as_ref()?.slot(worker, spent_until))
    }

    fn watch_oom(&self, cgroup: Option<&Group>) -> Option<OomWatch> {
        OomWatch::begin(cgroup.map(Group::path))
    }

    fn held(&self, addresses: &[SocketAddr], sockets: &[PathBuf]) -> Option<String> {
        let socket = |path: &PathBuf| match worker_socket::clear(path) {
            Ok(None) => None,
            Ok(Some(holder)) => Some(format!("{} is held by {holder}", path.display())),
            Err(error) => Some(format!("{} can't be removed: {error}", path.display())),
        };
        let address = |address: &SocketAddr| match ports::check(*address) {
            Ok(PortState::Free) => None,
            Ok(PortState::Held(holders)) => {
                let names: Vec<String> = holders.iter().map(ToString::to_string).collect();
                Some(format!("{address} is held by {}", names.join(", ")))
            }
            Err(error) => Some(format!("{address} can't be checked: {error}")),
        };
        addresses
            .iter()
            .find_map(address)
            .or_else(|| sockets.iter().find_map(socket))
    }

    fn name_tree(&self, root: i32) -> Vec<String> {
        let below = tree::descendants(root).unwrap_or_default();
        describe_processes(&below, Instant::now() + NAMING_LIMIT)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    fn kill_past_sitter(&self, remnants: &Remnants) {
        remnants.kill_past_sitter();
    }

    fn end_without_sitter(&self, remnants: Remnants) -> BoxFuture<'static, Option<Rest>> {
        Box::pin(remnants.end(Arc::clone(&self.by_marker)))
    }
}

/// A failure of the process table.
pub(super) fn store_failed(error: &TableError) -> Failure {
    Failure::new(Reason::StoreFailed, chain(error)).with_suggestion(error.suggestion())
}
