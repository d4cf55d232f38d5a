//! Where every event of a run passes through: it gets its number, is told to `tracing`, and reaches the subscribers.
//!
//! Nothing here can block: a subscriber that does not keep up loses the oldest events, and is told how many.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use ostler_core::ids::{Incarnation, RunId, WorkerId};
use ostler_telemetry::{Event, EventKind, Facts, Observer, SpanLink, context};
use tokio::sync::broadcast;
use tracing::Span;

/// How many events a subscriber may be behind before it loses the oldest: 16,384.
pub const EVENT_BUFFER: usize = 16_384;

/// Whom an event is about.
#[derive(Debug, Clone, Default)]
pub(crate) struct About {
    pub(crate) pool: Option<String>,
    pub(crate) worker: Option<WorkerId>,
    pub(crate) incarnation: Option<Incarnation>,
}

impl About {
    pub(crate) fn run() -> Self {
        Self::default()
    }

    pub(crate) fn pool(name: &str) -> Self {
        Self {
            pool: Some(name.to_owned()),
            ..Self::default()
        }
    }

    pub(crate) fn worker(worker: &WorkerId, incarnation: Option<Incarnation>) -> Self {
        Self {
            pool: None,
            worker: Some(worker.clone()),
            incarnation,
        }
    }
}

/// The events of one run.
#[derive(Debug)]
pub(crate) struct Hub {
    app: String,
    run: RunId,
    line: Mutex<Line>,
    observer: OnceLock<Arc<dyn Observer>>,
}

#[derive(Debug)]
struct Line {
    seq: u64,
    /// Gone with `run.stopped`, the last event: a release that is still being tried has been told of in the report.
    sender: Option<broadcast::Sender<Arc<Event>>>,
}

impl Hub {
    pub(crate) fn new(app: String, run: RunId) -> Self {
        let (sender, _) = broadcast::channel(EVENT_BUFFER);
        Self {
            app,
            run,
            line: Mutex::new(Line {
                seq: 0,
                sender: Some(sender),
            }),
            observer: OnceLock::new(),
        }
    }

    /// The app's name.
    pub(crate) fn app(&self) -> &str {
        &self.app
    }

    /// Everything is told to this observer, too; the first one stays.
    pub(crate) fn set_observer(&self, observer: Arc<dyn Observer>) {
        // The builder sets it, before anything is told.
        let _ = self.observer.set(observer);
    }

    pub(crate) fn observer(&self) -> Option<&Arc<dyn Observer>> {
        self.observer.get()
    }

    /// Tells an event that is no part of an incarnation's start or stop: it has a span of its own.
    pub(crate) fn emit(&self, kind: EventKind, about: About, facts: Facts) {
        self.emit_below(&SpanLink::default(), kind, about, facts);
    }

    /// The same, with its span below one that may have ended: what the event follows from.
    pub(crate) fn emit_below(&self, parent: &SpanLink, kind: EventKind, about: About, facts: Facts) {
        let span = tracing::info_span!(target: "ostler", parent: None, "ostler.event", otel.name = kind.full_name());
        context::place_below(&span, parent);
        if let Some(event) = self.publish(kind, about, facts) {
            context::describe(&span, &event);
            self.observe(&event, || context::link_of(&span));
        }
    }

    /// Tells an event that is a part of the work of this span, whose place in its trace is `link`.
    pub(crate) fn emit_in(&self, span: &Span, link: &SpanLink, kind: EventKind, about: About, facts: Facts) {
        if let Some(event) = self.publish(kind, about, facts) {
            context::note(span, &event);
            self.observe(&event, || link.clone());
        }
    }

    fn observe(&self, event: &Arc<Event>, link: impl FnOnce() -> SpanLink) {
        if let Some(observer) = self.observer() {
            observer.event(event, &link());
        }
    }

    /// Numbers the event, and tells it to all. Numbering and sending are one step, so that every subscriber sees the
    /// events in the order of their numbers. `None`: the run is over.
    fn publish(&self, kind: EventKind, about: About, facts: Facts) -> Option<Arc<Event>> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = line.sender.clone()?;
        line.seq += 1;
        let event = Arc::new(Event {
            seq: line.seq,
            time: SystemTime::now(),
            kind,
            app: self.app.clone(),
            run: self.run,
            pool: about.pool,
            worker: about.worker,
            incarnation: about.incarnation,
            facts,
        });
        // No subscriber is no error.
        let _ = sender.send(Arc::clone(&event));
        if kind == EventKind::RunStopped {
            line.sender = None;
        }
        drop(line);
        trace(&event);
        Some(event)
    }

    pub(crate) fn subscribe(&self) -> EventStream {
        let line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = match &line.sender {
            Some(sender) => sender.subscribe(),
            // Of a sender that is dropped at once: the run is over.
            None => broadcast::channel(1).1,
        };
        EventStream {
            receiver,
            waiting: None,
            observer: self.observer().cloned(),
        }
    }
}

/// To whoever keeps a log.
fn trace(event: &Event) {
    let worker = event.worker.as_ref().map(ToString::to_string);
    let who = worker.as_deref().or(event.pool.as_deref()).unwrap_or("run");
    let incarnation = event.incarnation.map(|i| i.0);
    let facts = &event.facts;
    if event.is_trouble() {
        tracing::warn!(
            target: "ostler", event = event.kind.name(), who, incarnation, pid = facts.pid,
            reason = facts.reason.map(|reason| reason.name()), message = facts.message.as_deref(),
            suggestion = facts.suggestion.as_deref(), count = facts.count
        );
    } else {
        tracing::info!(
            target: "ostler", event = event.kind.name(), who, incarnation, pid = facts.pid,
            cause = facts.cause.as_deref(), count = facts.count
        );
    }
}

/// A subscriber's view of the events: each from the moment of the subscription on, in order.
#[derive(Debug)]
pub struct EventStream {
    receiver: broadcast::Receiver<Arc<Event>>,
    waiting: Option<Arc<Event>>,
    observer: Option<Arc<dyn Observer>>,
}

impl EventStream {
    /// The next event; `None` when the run is over and every event has been read.
    ///
    /// A subscriber that fell more than [`EVENT_BUFFER`] events behind gets `events.dropped` with their count where
    /// they are missing. Cancel safe.
    pub async fn recv(&mut self) -> Option<Arc<Event>> {
        if let Some(event) = self.waiting.take() {
            return Some(event);
        }
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Closed) => None,
            Err(broadcast::error::RecvError::Lagged(count)) => {
                let next = self.receiver.recv().await.ok()?;
                let dropped = Arc::new(Event::dropped_before(&next, count, "their reader was too slow"));
                if let Some(observer) = &self.observer {
                    observer.event(&dropped, &SpanLink::default());
                }
                self.waiting = Some(next);
                Some(dropped)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub() -> Hub {
        Hub::new("test".into(), RunId::from_u128(1))
    }

    #[tokio::test]
    async fn subscribers_see_every_event_in_order() {
        let hub = hub();
        let mut stream = hub.subscribe();
        for _ in 0..3 {
            hub.emit(EventKind::SweepDone, About::run(), Facts::default());
        }
        for seq in 1..=3 {
            assert_eq!(stream.recv().await.map(|event| event.seq), Some(seq));
        }
        drop(hub);
        assert!(stream.recv().await.is_none());
    }

    #[tokio::test]
    async fn nothing_comes_after_the_end_of_the_run() {
        let hub = hub();
        let mut stream = hub.subscribe();
        hub.emit(EventKind::RunStopped, About::run(), Facts::default());
        hub.emit(EventKind::WorkerFailed, About::run(), Facts::default());
        assert_eq!(stream.recv().await.map(|event| event.kind), Some(EventKind::RunStopped));
        assert!(stream.recv().await.is_none());
        assert!(hub.subscribe().recv().await.is_none());
    }

    #[tokio::test]
    async fn a_slow_subscriber_is_told_what_it_lost() {
        let hub = hub();
        let mut stream = hub.subscribe();
        let lost = 10;
        for _ in 0..EVENT_BUFFER + lost {
            hub.emit(EventKind::SweepDone, About::run(), Facts::default());
        }
        let first = stream.recv().await.unwrap();
        assert_eq!(first.kind, EventKind::EventsDropped);
        assert_eq!(first.facts.count, Some(lost as u64));
        assert_eq!(stream.recv().await.unwrap().seq, lost as u64 + 1);
    }
}
