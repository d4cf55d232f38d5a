//! Converts events to log records on a separate thread, in small batches. Converting takes longer
//! than emitting an event, and a restart must not wait for it.

use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::delivery::Tally;
use super::records::Records;
use crate::context::SpanLink;
use crate::event::Event;

/// How often the thread polls: every 50 ms. Waking it for each event would cost more than the event
/// itself.
const POLL: Duration = Duration::from_millis(50);

/// The queue's capacity: 16,384 events. Further events are dropped and counted as undelivered
/// records.
const CAPACITY: usize = 16_384;

/// A queue of events in front of the log records' own queue. See the module documentation.
#[derive(Debug)]
pub(super) struct Backlog {
    waiting: Arc<Waiting>,
    tally: Arc<Tally>,
}

#[derive(Debug, Default)]
struct Waiting {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    events: Vec<(Arc<Event>, SpanLink)>,
    /// Whether the thread is converting a batch that it has taken from the queue.
    busy: bool,
    closed: bool,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backlog {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub(super) fn start(records: Arc<Records>, tally: Arc<Tally>) -> std::io::Result<Self> {
        let waiting = Arc::<Waiting>::default();
        let seen = Arc::downgrade(&waiting);
        thread::Builder::new()
            .name("ostler-records".to_owned())
            .spawn(move || work(&seen, &records))?;
        Ok(Self { waiting, tally })
    }

    /// Queues an event. Never blocks.
    pub(super) fn push(&self, event: &Arc<Event>, span: &SpanLink) {
        let mut state = self.waiting.lock();
        if state.events.len() >= CAPACITY || state.closed {
            self.tally.lose(1);
            return;
        }
        state.events.push((Arc::clone(event), span.clone()));
    }

    /// Waits until `deadline` for the queue to be converted. What is left then is lost, and so are
    /// later events.
    pub(super) fn finish(&self, deadline: Instant) {
        let mut state = self.waiting.lock();
        state.closed = true;
        self.waiting.changed.notify_all();
        while state.busy || !state.events.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.tally.lose(mem::take(&mut state.events).len() as u64);
                return;
            }
            let waited = self.waiting.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Runs until the backlog is closed and empty, or dropped.
fn work(waiting: &Weak<Waiting>, records: &Records) {
    while let Some(waiting) = waiting.upgrade() {
        let mut state = waiting.lock();
        if !state.closed {
            let waited = waiting.changed.wait_timeout(state, POLL);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let (events, closed) = (mem::take(&mut state.events), state.closed);
        state.busy = !events.is_empty();
        drop(state);
        for (event, span) in &events {
            records.event(event, span);
        }
        waiting.lock().busy = false;
        waiting.changed.notify_all();
        if closed && events.is_empty() {
            return;
        }
    }
}
