//! The process table: a handle for many tasks, an engine on a thread of its own.
//!
//! ```text
//! handles ──(bounded queue)──▶ keeper thread ──▶ ledger (in memory, read by all handles)
//!                                            └──▶ store  (follows the ledger)
//! ```
//! A call is answered when the store has done it, so what was answered survives a SIGKILL of this process. Calls that
//! wait together are written together. A removal alone is done in the ledger at once, by its caller: it is written with
//! the next change, at the latest after 2 ms, and a record that comes back by a death in between names a process that is
//! gone.
//!
//! **A full disk does not stop a restart.** When the store fails, the keeper says so once, closes it, and answers from
//! the ledger; it opens the store anew with backoff and, when that succeeds, writes the ledger out. Nothing is lost
//! while this process lives. If it dies meanwhile, the next start has the store as it was, the guardian and the marker.

mod keeper;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ostler_core::ids::{Incarnation, WorkerId};
use tokio::sync::{Semaphore, oneshot};

use crate::ledger::{Ledger, Refusal, Request};
use crate::record::{Activation, Key, Record, RecordState, UnixNanos};
use crate::run::RunDir;
use crate::store::{Engine, Place, SetAside, StoreError};
use keeper::{Answer, Ask, Call, Keeper, Opener, Reply};

/// How a table works.
#[derive(Debug, Clone)]
pub struct TableOptions {
    /// The engine that keeps the rows. Default [`Engine::DEFAULT`].
    pub engine: Engine,
    /// How long a call waits for its answer, from the call on. Default 5 s. It ends only on a disk that hangs. Zero
    /// makes every call fail at once.
    pub call_timeout: Duration,
    /// How many asynchronous calls may wait at a time; the next one waits for a place, within its time. Default 1,024;
    /// 0 counts as 1.
    pub queue: usize,
    /// Wait before the first attempt to open a failed store anew; doubled for each further one. Default 100 ms.
    pub retry_first: Duration,
    /// The longest wait between two attempts. Default 10 s.
    pub retry_max: Duration,
}

impl Default for TableOptions {
    fn default() -> Self {
        Self {
            engine: Engine::DEFAULT,
            call_timeout: Duration::from_secs(5),
            queue: 1024,
            retry_first: Duration::from_millis(100),
            retry_max: Duration::from_secs(10),
        }
    }
}

/// What befalls a table's store.
#[derive(Debug, Clone)]
pub enum TableEvent {
    /// The store was damaged or too new; it was moved away and a new one begun.
    SetAside(SetAside),
    /// The store fails, and the table goes on without it. Said once, however long that lasts.
    Degraded {
        /// Why.
        error: StoreError,
    },
    /// The store works again, and has every record.
    Recovered {
        /// How many records were written to it.
        records: usize,
        /// How long the table was without it.
        after: Duration,
    },
}

/// Called with each event, on the table's thread: it must not block, nor wait for the table.
pub type OnTableEvent = Arc<dyn Fn(TableEvent) + Send + Sync>;

/// Whether the records would survive this process.
#[derive(Debug, Clone)]
pub enum TableStatus {
    /// They would.
    Healthy,
    /// Those since the store failed would not.
    Degraded {
        /// Why the store failed.
        error: StoreError,
        /// When it did.
        since: UnixNanos,
    },
}

/// Why a call on the table did not do what it should.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TableError {
    /// The table does not take the request as things stand; nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store can't be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No answer within the time: the disk hangs. The call may still be carried out; undo a reservation by removing
    /// it, which is carried out after it.
    #[error("the process table did not answer within {waited:?}")]
    Slow {
        /// How long the call waited.
        waited: Duration,
    },
    /// The table was closed.
    #[error("the process table is closed")]
    Closed,
    /// The table's thread could not be started.
    #[error("the process table's thread can't be started: {source}")]
    NoThread {
        /// What the system said.
        source: Arc<std::io::Error>,
    },
}

impl TableError {
    /// What a person can do about it.
    pub fn suggestion(&self) -> String {
        match self {
            Self::Refused(_) => "release what the worker's last process held before the next is reserved".to_owned(),
            Self::Store(error) => error.suggestion(),
            Self::Slow { .. } => "check the file system that holds the process table".to_owned(),
            Self::Closed => "start another instance".to_owned(),
            Self::NoThread { .. } => "raise the limit of processes and threads of this user (ulimit -u)".to_owned(),
        }
    }
}

/// What keeper and handles share.
#[derive(Debug)]
struct Shared {
    ledger: RwLock<Ledger>,
    status: RwLock<TableStatus>,
    /// No removal is taken any more; set before the last one is written, and whenever the keeper ends.
    closed: AtomicBool,
}

/// The process table of one run. Clones are handles of the same table.
///
/// Asynchronous calls want a tokio runtime with its timer. A call whose future is dropped may still be carried out.
///
/// The drop of the last handle closes the store, and waits for that for at most a second: a host that returned from
/// `main` meanwhile would run RocksDB's static destructors under its feet, which aborts. Rather call [`Table::close`].
#[derive(Debug, Clone)]
pub struct Table {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    calls: mpsc::Sender<Call>,
    places: Arc<Semaphore>,
    shared: Arc<Shared>,
    call_timeout: Duration,
}

/// How long the drop of a table that was not closed waits for its store to close; a few milliseconds are usual.
const DROP_TIMEOUT: Duration = Duration::from_secs(1);

impl Drop for Handle {
    fn drop(&mut self) {
        // Closed before, or a disk that hangs: nothing is left to wait for.
        _ = self.call_blocking(Ask::Close, DROP_TIMEOUT);
    }
}

impl Table {
    /// Opens the table of a run, on a thread of its own. Records that are there already are kept. A store that is
    /// damaged or too new is moved away, reported, and begun anew.
    ///
    /// # Errors
    /// [`TableError::Store`] if the store can be neither opened nor moved away: a full or read-only disk, an engine
    /// that this build has not.
    pub async fn open(run: &RunDir, options: TableOptions, on_event: OnTableEvent) -> Result<Self, TableError> {
        let place = Place {
            engine: options.engine,
            run_dir: run.path().to_owned(),
            set_aside_dir: run.set_aside_dir(),
        };
        Self::open_with(Box::new(move || place.open()), options, on_event).await
    }

    async fn open_with(opener: Opener, options: TableOptions, on_event: OnTableEvent) -> Result<Self, TableError> {
        let shared = Arc::new(Shared {
            ledger: RwLock::default(),
            status: RwLock::new(TableStatus::Healthy),
            closed: AtomicBool::new(false),
        });
        let (calls, queue) = mpsc::channel();
        let call_timeout = options.call_timeout;
        let handle = Handle {
            calls,
            places: Arc::new(Semaphore::new(options.queue.clamp(1, Semaphore::MAX_PERMITS))),
            shared: shared.clone(),
            call_timeout,
        };
        let (opened, is_open) = oneshot::channel();
        std::thread::Builder::new()
            .name("ostler-table".to_owned())
            .spawn(move || match Keeper::open(opener, shared, &options, on_event) {
                Ok(keeper) => {
                    // Whoever opened the table has given up waiting if nobody listens; the queue is closed then too.
                    _ = opened.send(Ok(()));
                    keeper.run(&queue);
                }
                Err(error) => _ = opened.send(Err(error)),
            })
            .map_err(|error| TableError::NoThread {
                source: Arc::new(error),
            })?;
        match tokio::time::timeout(call_timeout, is_open).await {
            Ok(Ok(result)) => result
                .map(|()| Self {
                    handle: Arc::new(handle),
                })
                .map_err(TableError::Store),
            Ok(Err(_)) => Err(TableError::Closed),
            Err(_) => Err(TableError::Slow { waited: call_timeout }),
        }
    }

    /// Records an incarnation before it is spawned. When this returns, no death of the host makes it unknown.
    ///
    /// # Errors
    /// [`Refusal::StillHeld`] while the worker has a record, [`Refusal::NotNewer`] for a number that was reserved
    /// before; see [`TableError`] for the rest, here and below.
    pub async fn reserve(&self, record: Record) -> Result<(), TableError> {
        self.handle.call(Ask::change(Request::Reserve(record))).await.map(drop)
    }

    /// Records what was spawned: the reservation becomes active.
    ///
    /// # Errors
    /// [`Refusal::Unknown`] without a reservation; [`Refusal::StateBackwards`] if it is ending already.
    pub async fn activate(&self, key: Key, activation: Activation) -> Result<(), TableError> {
        self.handle
            .call(Ask::change(Request::Activate(key, activation)))
            .await
            .map(drop)
    }

    /// Moves a record forward. The time is kept for the first time that the record reaches the state.
    ///
    /// # Errors
    /// [`Refusal::Unknown`]; [`Refusal::StateBackwards`].
    pub async fn set_state(&self, key: Key, state: RecordState, at: UnixNanos) -> Result<(), TableError> {
        self.handle
            .call(Ask::change(Request::SetState(key, state, at)))
            .await
            .map(drop)
    }

    /// Replaces a record by another of the same key: ports that the worker reported, a lease that was renewed.
    ///
    /// # Errors
    /// [`Refusal::Unknown`]; [`Refusal::StateBackwards`].
    pub async fn update(&self, record: Record) -> Result<(), TableError> {
        self.handle.call(Ask::change(Request::Update(record))).await.map(drop)
    }

    /// Removes a record, the last step of a release. False if there is none of this key, as after an earlier removal.
    /// No reservation is written before it. Waits for nothing if the record is there: the store follows later.
    ///
    /// # Errors
    /// [`TableError::Slow`], while a reservation that was given up may still be carried out; [`TableError::Closed`].
    pub async fn remove(&self, key: Key) -> Result<bool, TableError> {
        match self.handle.remove_now(&key)? {
            true => Ok(true),
            false => self.handle.call(Ask::change(Request::Remove(key))).await,
        }
    }

    /// Closes the store after all calls that were made before. Calls made later answer [`TableError::Closed`].
    ///
    /// # Errors
    /// [`TableError::Closed`] if it was closed before; [`TableError::Slow`].
    pub async fn close(&self) -> Result<(), TableError> {
        self.handle.call(Ask::Close).await.map(drop)
    }

    /// All records, in the order of their workers. Never waits for the store.
    pub fn records(&self) -> Vec<Record> {
        self.handle
            .shared
            .ledger
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .records()
    }

    /// The record of this key, if there is one. Never waits for the store.
    pub fn record(&self, key: &Key) -> Option<Record> {
        self.handle
            .shared
            .ledger
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .find(key)
    }

    /// The incarnation of a worker that may be reserved next: one more than the last in this run, also when its pool was
    /// stopped and started again since. Never waits for the store.
    pub fn next_incarnation(&self, worker: &WorkerId) -> Incarnation {
        self.handle
            .shared
            .ledger
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .next_incarnation(worker)
    }

    /// How many records there are. Never waits for the store.
    pub fn len(&self) -> usize {
        self.handle
            .shared
            .ledger
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Whether there are no records. Never waits for the store.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the records would survive this process.
    pub fn status(&self) -> TableStatus {
        self.handle
            .shared
            .status
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Handle {
    /// Removes the record if it is there. The keeper is told of the first removal that waits, and finds the others with it.
    fn remove_now(&self, key: &Key) -> Result<bool, TableError> {
        let mut ledger = self.shared.ledger.write().unwrap_or_else(PoisonError::into_inner);
        if self.shared.closed.load(Ordering::SeqCst) {
            return Err(TableError::Closed);
        }
        let removed = ledger.remove_now(key);
        drop(ledger);
        if removed == Some(true) {
            self.send(Call {
                ask: Ask::Removal,
                reply: Reply::Nobody,
                _place: None,
            })?;
        }
        Ok(removed.is_some())
    }

    async fn call(&self, ask: Ask) -> Result<bool, TableError> {
        let answered = async {
            let place = self
                .places
                .clone()
                .acquire_owned()
                .await
                .map_err(|_| TableError::Closed)?;
            let (reply, answer) = oneshot::channel();
            self.send(Call {
                ask,
                reply: Reply::Task(reply),
                _place: Some(place),
            })?;
            answer
                .await
                .map_err(|_| TableError::Closed)?
                .map_err(TableError::Refused)
        };
        match tokio::time::timeout(self.call_timeout, answered).await {
            Ok(result) => result,
            Err(_) => Err(TableError::Slow {
                waited: self.call_timeout,
            }),
        }
    }

    /// A thread has one call in flight, so blocking calls need no place in the queue: its bound is that of threads.
    fn call_blocking(&self, ask: Ask, limit: Duration) -> Result<bool, TableError> {
        let (reply, answer) = mpsc::sync_channel::<Answer>(1);
        self.send(Call {
            ask,
            reply: Reply::Thread(reply),
            _place: None,
        })?;
        match answer.recv_timeout(limit) {
            Ok(result) => result.map_err(TableError::Refused),
            Err(RecvTimeoutError::Timeout) => Err(TableError::Slow { waited: limit }),
            Err(RecvTimeoutError::Disconnected) => Err(TableError::Closed),
        }
    }

    fn send(&self, call: Call) -> Result<(), TableError> {
        self.calls.send(call).map_err(|_| TableError::Closed)
    }
}

#[cfg(test)]
mod tests;
