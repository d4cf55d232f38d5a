//! The thread that owns the store.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use ostler_failpoint::{self as failpoint, Point};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{OnTableEvent, Shared, TableEvent, TableOptions, TableStatus};
use crate::ledger::{Ledger, Refusal, Request};
use crate::record::UnixNanos;
use crate::store::{Change, Opened, Store, StoreError};

/// The maximum number of calls written together: enough to make a thousand starts cheap, few enough
/// to answer soon.
const BATCH: usize = 64;

/// The longest delay between two attempts to reopen the store: instants of the clock end somewhere.
const LONGEST_WAIT: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// Whether there was anything to change, or why it was refused.
pub(super) type Answer = Result<bool, Refusal>;

pub(super) type Opener = Box<dyn FnMut() -> Result<Opened, StoreError> + Send>;

#[derive(Debug)]
pub(super) enum Ask {
    Request(Box<Request>),
    /// Write the removals that are waiting.
    Removals,
    Close,
}

impl Ask {
    pub(super) fn change(request: Request) -> Self {
        Self::Request(Box::new(request))
    }
}

/// Where the answer goes. If the receiver is gone, the call was still carried out.
#[derive(Debug)]
pub(super) enum Reply {
    Task(oneshot::Sender<Answer>),
    Thread(mpsc::SyncSender<Answer>),
    None,
}

impl Reply {
    fn send(self, answer: Answer) {
        match self {
            Self::Task(reply) => _ = reply.send(answer),
            Self::Thread(reply) => _ = reply.send(answer),
            Self::None => {}
        }
    }
}

#[derive(Debug)]
pub(super) struct Call {
    pub(super) ask: Ask,
    pub(super) reply: Reply,
    /// The call's place in the bounded queue, released once the call is answered.
    pub(super) _place: Option<OwnedSemaphorePermit>,
}

/// A store that failed, and when to try it again.
struct Failed {
    since: Instant,
    next_wait: Duration,
    retry_at: Instant,
}

enum Condition {
    Healthy(Box<dyn Store>),
    Failed(Failed),
}

/// Closes the table for removals when dropped, even after a panic of the keeper, because no thread
/// would write them any more.
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::SeqCst);
    }
}

pub(super) struct Keeper {
    /// The first field, so that no removal is accepted while the rest is dropped.
    _closing: Closing,
    opener: Opener,
    shared: Arc<Shared>,
    on_event: OnTableEvent,
    condition: Condition,
    retry_first: Duration,
    retry_max: Duration,
}

impl Keeper {
    pub(super) fn open(
        mut opener: Opener,
        shared: Arc<Shared>,
        options: &TableOptions,
        on_event: OnTableEvent,
    ) -> Result<Self, StoreError> {
        let opened = opener()?;
        *shared.ledger.write().unwrap_or_else(PoisonError::into_inner) = Ledger::of(opened.records);
        if let Some(set_aside) = opened.set_aside {
            on_event(TableEvent::SetAside(set_aside));
        }
        let condition = Condition::Healthy(opened.store);
        let [retry_first, retry_max] = [options.retry_first, options.retry_max].map(|wait| wait.min(LONGEST_WAIT));
        Ok(Self {
            _closing: Closing(shared.clone()),
            opener,
            shared,
            on_event,
            condition,
            retry_first,
            retry_max,
        })
    }

    /// Serves calls until the table is closed or its last handle dropped.
    pub(super) fn run(mut self, calls: &Receiver<Call>) {
        while let Some(batch) = self.next_batch(calls) {
            let closers = self.serve(batch);
            self.reopen_if_due(Instant::now());
            if !closers.is_empty() {
                return self.close(closers);
            }
        }
    }

    /// The waiting calls, or none if something else is due first. `None` once all handles are gone.
    fn next_batch(&self, calls: &Receiver<Call>) -> Option<Vec<Call>> {
        let first = match self.next_due() {
            None => calls.recv().ok()?,
            Some(due) => match calls.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(call) => call,
                Err(RecvTimeoutError::Timeout) => return Some(Vec::new()),
                Err(RecvTimeoutError::Disconnected) => return None,
            },
        };
        Some(std::iter::once(first).chain(calls.try_iter().take(BATCH - 1)).collect())
    }

    fn next_due(&self) -> Option<Instant> {
        match &self.condition {
            Condition::Failed(failed) => Some(failed.retry_at),
            Condition::Healthy(_) => None,
        }
    }

    /// Carries out a batch and answers it. Returns the calls that asked to close the table.
    fn serve(&mut self, batch: Vec<Call>) -> Vec<Call> {
        let (mut closers, mut answers, mut written) = (Vec::new(), Vec::new(), Vec::new());
        let mut changes = Vec::with_capacity(batch.len());
        let mut removals = Vec::new();
        let mut writes = false;
        {
            let mut ledger = self.shared.ledger.write().unwrap_or_else(PoisonError::into_inner);
            for call in batch {
                let request = match call.ask {
                    Ask::Request(request) => request,
                    Ask::Removals => {
                        writes = true;
                        continue;
                    }
                    Ask::Close => {
                        closers.push(call);
                        continue;
                    }
                };
                written.extend(points(&request));
                let taken = ledger.take(*request);
                let answer = taken.as_ref().map(Option::is_some).map_err(Refusal::clone);
                answers.push((call.reply, answer, call._place));
                changes.extend(taken.ok().flatten());
            }
            if writes || !changes.is_empty() {
                removals = ledger.take_removals();
            }
        }
        if changes.is_empty() {
            // Of refused requests nothing is written.
            written.clear();
        }
        written.iter().for_each(|(writing, _)| failpoint::reach(*writing));
        self.write(removals, changes);
        written.iter().for_each(|(_, written)| failpoint::reach(*written));
        for (reply, answer, _place) in answers {
            reply.send(answer);
        }
        closers
    }

    fn write_removals(&mut self) {
        let mut ledger = self.shared.ledger.write().unwrap_or_else(PoisonError::into_inner);
        let removals = ledger.take_removals();
        drop(ledger);
        self.write(removals, Vec::new());
    }

    /// Writes the waiting removals and then these changes in one batch. A failed store gets all of
    /// them when it is reopened.
    fn write(&mut self, removals: Vec<Change>, changes: Vec<Change>) {
        let removes = !removals.is_empty();
        if removes {
            failpoint::reach(Point::RemoveWriting);
        }
        let mut all = removals;
        all.extend(changes);
        if let Condition::Healthy(store) = &mut self.condition
            && !all.is_empty()
            && let Err(error) = store.apply(&all)
        {
            self.degrade(error);
        }
        if removes {
            failpoint::reach(Point::RemoveWritten);
        }
    }

    /// Continues without the store and drops it, because an engine that failed once must not be
    /// used any further.
    fn degrade(&mut self, error: StoreError) {
        let now = Instant::now();
        self.condition = Condition::Failed(Failed {
            since: now,
            next_wait: (self.retry_first * 2).min(self.retry_max),
            retry_at: now + self.retry_first.min(self.retry_max),
        });
        self.set_status(TableStatus::Degraded {
            error: error.clone(),
            since: UnixNanos::now(),
        });
        (self.on_event)(TableEvent::Degraded { error });
    }

    fn reopen_if_due(&mut self, now: Instant) {
        let Condition::Failed(failed) = &self.condition else {
            return;
        };
        if now < failed.retry_at {
            return;
        }
        let (since, wait) = (failed.since, failed.next_wait);
        match self.reopen() {
            Ok((store, records)) => {
                self.condition = Condition::Healthy(store);
                self.set_status(TableStatus::Healthy);
                (self.on_event)(TableEvent::Recovered {
                    records,
                    after: since.elapsed(),
                });
            }
            Err(_) => {
                let next_wait = (wait * 2).min(self.retry_max);
                // The delay counts from the end of the attempt, so that a slow disk is not retried
                // without a pause.
                self.condition = Condition::Failed(Failed {
                    since,
                    next_wait,
                    retry_at: Instant::now() + wait,
                });
            }
        }
    }

    /// Reopens the store and makes it equal to the ledger.
    fn reopen(&mut self) -> Result<(Box<dyn Store>, usize), StoreError> {
        let mut opened = (self.opener)()?;
        if let Some(set_aside) = opened.set_aside.take() {
            (self.on_event)(TableEvent::SetAside(set_aside));
        }
        let stored: Vec<Vec<u8>> = opened.rows.into_iter().map(|(key, _)| key).collect();
        let (changes, records) = {
            let ledger = self.shared.ledger.read().unwrap_or_else(PoisonError::into_inner);
            (ledger.rewrite(&stored), ledger.len())
        };
        opened.store.apply(&changes)?;
        Ok((opened.store, records))
    }

    /// If the store has failed, makes a last attempt to write the records. Then closes it, before
    /// answering the callers.
    fn close(mut self, closers: Vec<Call>) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.write_removals();
        if let Condition::Failed(failed) = &self.condition {
            let due = failed.retry_at;
            self.reopen_if_due(due);
        }
        drop(self.condition);
        for closer in closers {
            closer.reply.send(Ok(true));
        }
    }

    fn set_status(&self, status: TableStatus) {
        *self.shared.status.write().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

/// The failpoints before and after writing this request. Removals are written later.
fn points(request: &Request) -> Option<(Point, Point)> {
    match request {
        Request::Reserve(_) => Some((Point::ReserveWriting, Point::ReserveWritten)),
        Request::Activate(..) => Some((Point::ActivateWriting, Point::ActivateWritten)),
        Request::Update(_) => Some((Point::UpdateWriting, Point::UpdateWritten)),
        Request::Remove(_) => None,
    }
}
