//! Events on their way to becoming log records. That takes longer than it takes to tell them, and a restart does not wait
//! for it: a thread of its own does it, a few at a time.

use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::delivery::Tally;
use super::records::Records;
use crate::context::SpanLink;
use crate::event::Event;

/// How often the thread looks: 50 ms. Waking it for each event would cost more than the event.
const LOOK: Duration = Duration::from_millis(50);

/// How many events wait for the thread before the next is dropped, and counted as an undelivered record: 16,384.
const ROOM: usize = 16_384;

/// See the module's documentation.
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
    /// The thread is making records of what it took.
    busy: bool,
    closed: bool,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backlog {
    /// Begins.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn start(records: Arc<Records>, tally: Arc<Tally>) -> std::io::Result<Self> {
        let waiting = Arc::<Waiting>::default();
        let seen = Arc::downgrade(&waiting);
        thread::Builder::new()
            .name("ostler-records".to_owned())
            .spawn(move || work(&seen, &records))?;
        Ok(Self { waiting, tally })
    }

    /// Takes an event in. Never waits.
    pub(super) fn push(&self, event: &Arc<Event>, span: &SpanLink) {
        let mut state = self.waiting.lock();
        if state.events.len() >= ROOM || state.closed {
            self.tally.lose(1);
            return;
        }
        state.events.push((Arc::clone(event), span.clone()));
    }

    /// Has everything made into records by then; what is not is lost, and so is what comes later.
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

/// Until the backlog is closed and empty, or gone.
fn work(waiting: &Weak<Waiting>, records: &Records) {
    while let Some(waiting) = waiting.upgrade() {
        let mut state = waiting.lock();
        if !state.closed {
            let waited = waiting.changed.wait_timeout(state, LOOK);
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
