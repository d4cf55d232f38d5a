//! The process table: a handle for many tasks, and an engine on a separate thread.
//!
//! ```text
//! handles ──(bounded queue)──▶ keeper thread ──▶ ledger (in memory, read by all handles)
//!                                            └──▶ store  (follows the ledger)
//! ```
//! A call is answered once the store has written it, so what was answered survives a SIGKILL of
//! this process. Calls that wait at the same time are written together. A removal is done in the
//! ledger immediately, by its caller, and written with the next change or after 2 ms at the latest.
//! A record that reappears because of a death in between describes a process that is gone.
//!
//! **A full disk does not prevent a restart.** When the store fails, the keeper reports it once,
//! closes it, and answers from the ledger. It reopens the store with a backoff and, once that
//! succeeds, writes the ledger to it. Nothing is lost while this process lives. If it dies
//! meanwhile, the next start has the store as it was, the guardian and the marker.

mod keeper;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use ostler_core::ids::{Incarnation, WorkerId};
use ostler_core::lifecycle::extension;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use crate::ledger::{Ledger, Refusal, Request};
use crate::record::{Activation, Key, Record, UnixNanos};
use crate::run::RunDir;
use crate::store::{Engine, SetAside, StoreError};
use keeper::{Answer, Ask, Call, Keeper, Opener, Reply};

/// The options of a table.
#[derive(Debug, Clone)]
pub struct TableOptions {
    /// The engine that stores the rows. Default: [`Engine::DEFAULT`].
    pub engine: Engine,
    /// How long a call waits for its answer. Default: 5 s, which only a hanging disk exceeds. Zero
    /// makes every call fail immediately. [`Table::open`] waits however long it takes, and reports
    /// that as often.
    pub call_timeout: Duration,
    /// How many asynchronous calls may wait at the same time; further calls wait for a place,
    /// within their timeout. Default: 1,024. 0 counts as 1.
    pub queue: usize,
    /// The delay before the first attempt to reopen a failed store; it doubles with each further
    /// attempt. Default: 100 ms; at most a year.
    pub retry_first: Duration,
    /// The maximum delay between two attempts. Default: 10 s; at most a year.
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

/// An event of a table's store.
#[derive(Debug, Clone)]
pub enum TableEvent {
    /// The store was damaged or too new. It was moved away and replaced by a new one.
    SetAside(SetAside),
    /// The store stalls while it is opened, which waits on. Sent again after each further
    /// [`TableOptions::call_timeout`].
    OpensSlowly {
        /// The store.
        path: PathBuf,
        /// How long that has taken.
        waited: Duration,
    },
    /// The store failed, and the table continues without it. Sent once, however long that lasts.
    Degraded {
        /// Why.
        error: StoreError,
    },
    /// The store works again and has every record.
    Recovered {
        /// The number of records written to it.
        records: usize,
        /// How long the table was without it.
        after: Duration,
    },
}

/// Called with each event, on the table's thread or in the task that opens it. It must not block or
/// wait for the table.
pub type OnTableEvent = Arc<dyn Fn(TableEvent) + Send + Sync>;

/// Whether the records would survive the death of this process.
#[derive(Debug, Clone)]
pub enum TableStatus {
    /// They would.
    Healthy,
    /// Records changed since the store failed would not.
    Degraded {
        /// Why the store failed.
        error: StoreError,
        /// When it failed.
        since: UnixNanos,
    },
}

/// Why a call to the table failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The table refused the request; nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store could not be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No answer within the timeout, because the disk hangs. The call may still be carried out. To
    /// undo a reservation, remove it: the removal is carried out after it.
    #[error("the process table did not answer within {waited:?}")]
    Slow {
        /// How long the call waited.
        waited: Duration,
    },
    /// The table is closed.
    #[error("the process table is closed")]
    Closed,
    /// The table's thread could not be started.
    #[error("the process table's thread can't be started")]
    NoThread {
        /// The system's error.
        source: Arc<std::io::Error>,
    },
}

impl TableError {
    /// What the user can do about it.
    pub fn suggestion(&self) -> String {
        match self {
            Self::Refused(_) => "release what the worker's last process held before reserving the next".to_owned(),
            Self::Store(error) => error.suggestion(),
            Self::Slow { .. } => "check the file system that holds the process table".to_owned(),
            Self::Closed => "start another instance".to_owned(),
            Self::NoThread { .. } => "raise this user's limit on processes and threads (ulimit -u)".to_owned(),
        }
    }
}

/// The state shared by keeper and handles.
#[derive(Debug)]
struct Shared {
    ledger: RwLock<Ledger>,
    status: RwLock<TableStatus>,
    /// Set when no more removals are accepted: before the last one is written, and whenever the
    /// keeper ends.
    closed: AtomicBool,
}

/// The process table of one run. Clones are handles to the same table.
///
/// Asynchronous calls need a tokio runtime with timers. A call whose future is dropped may still be
/// carried out.
///
/// Dropping the last handle closes the store and waits for that, for one second at most: in a host
/// that returns from `main` in the meantime, RocksDB's static destructors would run while the store
/// is in use, and abort. Prefer [`Table::close`].
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

/// How long a removal may wait to be written together with another change: 2 ms. A record that
/// stays on disk for longer than necessary describes a process that is gone, which a sweep
/// verifies, so it does no harm. A saved write is a third of what a restart costs the table.
const LINGER: Duration = Duration::from_millis(2);

/// The shortest time after which it is reported that the store stalls while it is opened: 50 ms.
const SHORTEST_REPORT: Duration = Duration::from_millis(50);

/// How long dropping an open table waits for its store to close; a few milliseconds are usual.
const DROP_TIMEOUT: Duration = Duration::from_secs(1);

impl Drop for Handle {
    fn drop(&mut self) {
        // Already closed, or the disk hangs: there is nothing left to wait for.
        _ = self.call_blocking(Ask::Close, DROP_TIMEOUT);
    }
}

impl Table {
    /// Opens the table of a run on a separate thread. Existing records are kept. A store that is
    /// damaged or too new is moved away, reported, and replaced. One that stalls is waited for and
    /// reported ([`TableEvent::OpensSlowly`]): a stall only delays, as it does a reservation. If
    /// the future is dropped, the thread ends once the store answers.
    ///
    /// # Errors
    ///
    /// [`TableError::Store`] if the store can be neither opened nor moved away, because the disk is
    /// full or read-only or this build lacks the engine.
    pub async fn open(run: &RunDir, options: TableOptions, on_event: OnTableEvent) -> Result<Self, TableError> {
        let place = run.place(options.engine);
        let path = place.path();
        Self::open_with(Box::new(move || place.open()), path, options, on_event).await
    }

    async fn open_with(
        opener: Opener,
        path: PathBuf,
        options: TableOptions,
        on_event: OnTableEvent,
    ) -> Result<Self, TableError> {
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
        let on_stall = Arc::clone(&on_event);
        std::thread::Builder::new()
            .name("ostler-table".to_owned())
            .spawn(move || match Keeper::open(opener, shared, &options, on_event) {
                Ok(keeper) => {
                    // If the caller has given up waiting, the queue is closed as well.
                    _ = opened.send(Ok(()));
                    keeper.run(&queue);
                }
                Err(error) => _ = opened.send(Err(error)),
            })
            .map_err(|error| TableError::NoThread {
                source: Arc::new(error),
            })?;
        let report = |waited| {
            let path = path.clone();
            on_stall(TableEvent::OpensSlowly { path, waited });
        };
        until_open(is_open, call_timeout.max(SHORTEST_REPORT), report).await?;
        Ok(Self {
            handle: Arc::new(handle),
        })
    }

    /// Records an incarnation before it is spawned. Once this returns, the record survives the
    /// host's death.
    ///
    /// # Errors
    ///
    /// [`Refusal::StillHeld`] while the worker has a record; [`Refusal::NotNewer`] for an
    /// incarnation that was already reserved. For other errors, here and below, see [`TableError`].
    pub async fn reserve(&self, record: Record) -> Result<(), TableError> {
        self.handle.call(Ask::change(Request::Reserve(record))).await.map(drop)
    }

    /// Records the spawned process: the reservation becomes active.
    ///
    /// # Errors
    ///
    /// [`Refusal::Unknown`] without a reservation.
    pub async fn activate(&self, key: Key, activation: Activation) -> Result<(), TableError> {
        self.handle
            .call(Ask::change(Request::Activate(key, activation)))
            .await
            .map(drop)
    }

    /// Replaces a record by another one with the same key, for example with ports that the worker
    /// reported.
    ///
    /// # Errors
    ///
    /// [`Refusal::Unknown`]; [`Refusal::StateBackwards`].
    pub async fn update(&self, record: Record) -> Result<(), TableError> {
        self.handle.call(Ask::change(Request::Update(record))).await.map(drop)
    }

    /// Removes a record, the last step of a release. Returns false if there is none with this key,
    /// for example after an earlier removal. No later reservation is written before it. If the
    /// record exists, this returns without waiting for the store.
    ///
    /// # Errors
    ///
    /// [`TableError::Slow`] while a reservation whose caller gave up may still be carried out;
    /// [`TableError::Closed`].
    pub async fn remove(&self, key: Key) -> Result<bool, TableError> {
        match self.handle.remove_now(&key)? {
            Some(is_first) => {
                if is_first {
                    let shared = Arc::downgrade(&self.handle.shared);
                    tokio::spawn(write_removals_later(shared, self.handle.calls.clone()));
                }
                Ok(true)
            }
            None => self.handle.call(Ask::change(Request::Remove(key))).await,
        }
    }

    /// Closes the store after all calls made before. Later calls return [`TableError::Closed`].
    ///
    /// # Errors
    ///
    /// [`TableError::Closed`] if it was already closed; [`TableError::Slow`].
    pub async fn close(&self) -> Result<(), TableError> {
        self.handle.call(Ask::Close).await.map(drop)
    }

    /// All records, ordered by worker. Never waits for the store.
    pub fn records(&self) -> Vec<Record> {
        self.handle
            .shared
            .ledger
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .records()
    }

    /// The record with this key, if there is one. Never waits for the store.
    pub fn record(&self, key: &Key) -> Option<Record> {
        self.handle
            .shared
            .ledger
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .find(key)
    }

    /// The next incarnation of a worker that may be reserved: one more than the last in this run,
    /// even if its pool was stopped and started again since. Never waits for the store.
    pub fn next_incarnation(&self, worker: &WorkerId) -> Incarnation {
        self.handle
            .shared
            .ledger
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .next_incarnation(worker)
    }

    /// The number of records. Never waits for the store.
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

    /// Whether the records would survive the death of this process.
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
    /// Removes the record. Returns `None` if there is none, otherwise whether no other removal is
    /// waiting to be written.
    fn remove_now(&self, key: &Key) -> Result<Option<bool>, TableError> {
        let mut ledger = self.shared.ledger.write().unwrap_or_else(PoisonError::into_inner);
        if self.shared.closed.load(Ordering::SeqCst) {
            return Err(TableError::Closed);
        }
        Ok(ledger.remove_now(key))
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
        in_time(self.call_timeout, answered).await?
    }

    /// A thread has one call in flight, so blocking calls need no place in the queue: the number of
    /// threads bounds them.
    fn call_blocking(&self, ask: Ask, limit: Duration) -> Result<bool, TableError> {
        let (reply, answer) = mpsc::sync_channel::<Answer>(1);
        self.send(Call {
            ask,
            reply: Reply::Thread(reply),
            _place: None,
        })?;
        let begun = Instant::now();
        let mut answered = answer.recv_timeout(limit);
        if answered == Err(RecvTimeoutError::Timeout)
            && let Some(more) = extension(limit, begun.elapsed().saturating_sub(limit))
        {
            answered = answer.recv_timeout(more);
        }
        match answered {
            Ok(result) => result.map_err(TableError::Refused),
            Err(RecvTimeoutError::Timeout) => Err(TableError::Slow { waited: limit }),
            Err(RecvTimeoutError::Disconnected) => Err(TableError::Closed),
        }
    }

    fn send(&self, call: Call) -> Result<(), TableError> {
        self.calls.send(call).map_err(|_| TableError::Closed)
    }
}

/// Waits until the store is open, and reports each time that another `every` has passed.
async fn until_open(
    mut is_open: oneshot::Receiver<Result<(), StoreError>>,
    every: Duration,
    report: impl Fn(Duration),
) -> Result<(), TableError> {
    let begun = Instant::now();
    loop {
        match tokio::time::timeout(every, &mut is_open).await {
            Ok(Ok(result)) => return result.map_err(TableError::Store),
            Ok(Err(_)) => return Err(TableError::Closed),
            Err(_) => report(begun.elapsed()),
        }
    }
}

/// What comes within this limit, which a host that could not run does not use up: one that is
/// noticed late is extended once.
async fn in_time<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, TableError> {
    let (begun, mut work) = (Instant::now(), std::pin::pin!(work));
    let mut done = tokio::time::timeout(limit, &mut work).await;
    if done.is_err()
        && let Some(more) = extension(limit, begun.elapsed().saturating_sub(limit))
    {
        done = tokio::time::timeout(more, &mut work).await;
    }
    done.map_err(|_| TableError::Slow { waited: limit })
}

/// Has removals written that no other change has taken along: a restart reserves the next
/// incarnation sooner than that, and saves the keeper a wake-up.
async fn write_removals_later(shared: Weak<Shared>, calls: mpsc::Sender<Call>) {
    tokio::time::sleep(LINGER).await;
    let waiting = shared.upgrade().is_some_and(|shared| {
        let ledger = shared.ledger.read().unwrap_or_else(PoisonError::into_inner);
        ledger.has_removals()
    });
    if waiting {
        // A table that is closed has written them.
        _ = calls.send(Call {
            ask: Ask::Removals,
            reply: Reply::None,
            _place: None,
        });
    }
}

#[cfg(test)]
mod tests;
