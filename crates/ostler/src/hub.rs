//! All events of a run pass through here: each gets its number, is logged with `tracing`, and is
//! sent to the subscribers.
//!
//! Nothing here can block. A subscriber that does not keep up loses the oldest events, and is
//! notified how many.

use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use futures_util::stream::{Stream, StreamExt};
use ostler_core::failure::Reason;
use ostler_core::ids::{Incarnation, RunId, WorkerId};
use ostler_core::lifecycle::Cause;
use ostler_telemetry::{Event, EventKind, Facts, Observer, SpanLink, context};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tracing::Span;

use crate::observers::Observers;

/// How many events a subscriber may be behind before it loses the oldest: 16,384.
pub const EVENT_BUFFER: usize = 16_384;

/// The subject of an event.
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
            pool: Some(worker.pool.clone()),
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
    observers: Arc<Observers>,
    /// All observers combined into one, if there are any.
    observer: OnceLock<Arc<dyn Observer>>,
}

#[derive(Debug)]
struct Line {
    seq: u64,
    /// Dropped with `run.stopped`, the last event. A release that is still being retried then is in
    /// the report.
    sender: Option<broadcast::Sender<Arc<Event>>>,
}

impl Hub {
    pub(crate) fn new(app: String, run: RunId) -> Self {
        Self::with_buffer(app, run, EVENT_BUFFER)
    }

    fn with_buffer(app: String, run: RunId, buffer: usize) -> Self {
        let (sender, _) = broadcast::channel(buffer);
        Self {
            app,
            run,
            line: Mutex::new(Line {
                seq: 0,
                sender: Some(sender),
            }),
            observers: Arc::default(),
            observer: OnceLock::new(),
        }
    }

    /// The app's name.
    pub(crate) fn app(&self) -> &str {
        &self.app
    }

    /// Adds an observer that receives everything.
    pub(crate) fn add_observer(&self, observer: Arc<dyn Observer>) {
        self.observers.add(observer);
        let all = || Arc::clone(&self.observers) as Arc<dyn Observer>;
        self.observer.get_or_init(all);
    }

    pub(crate) fn observer(&self) -> Option<&Arc<dyn Observer>> {
        self.observer.get()
    }

    /// Emits an event that is not part of an incarnation's start or stop. It gets a span of its
    /// own.
    pub(crate) fn emit(&self, kind: EventKind, about: About, facts: Facts) {
        self.emit_below(&SpanLink::default(), kind, about, facts);
    }

    /// The same, with its span below one that caused the event and may have ended.
    pub(crate) fn emit_below(&self, parent: &SpanLink, kind: EventKind, about: About, facts: Facts) {
        let span = tracing::info_span!(target: "ostler", parent: None, "ostler.event", otel.name = kind.full_name());
        context::place_below(&span, parent);
        if let Some(event) = self.publish(kind, about, facts) {
            context::describe(&span, &event);
            self.observe(&event, || context::link_of(&span));
        }
    }

    /// Emits an event that is part of the work of this span, whose place in its trace is `link`.
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

    /// Numbers the event and sends it to all. Both happen in one step, so that every subscriber
    /// sees the events in the order of their numbers. `None`: the run is over.
    fn publish(&self, kind: EventKind, about: About, facts: Facts) -> Option<Arc<Event>> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = line.sender.clone()?;
        line.seq += 1;
        let mut event = Event::new(line.seq, SystemTime::now(), kind, self.app.as_str(), self.run);
        (event.pool, event.worker, event.incarnation) = (about.pool, about.worker, about.incarnation);
        event.facts = facts;
        let event = Arc::new(event);
        // Having no subscriber is not an error.
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
            // The sender is dropped immediately, because the run is over.
            None => broadcast::channel(1).1,
        };
        EventStream {
            events: BroadcastStream::new(receiver),
            waiting: None,
            lost: 0,
            observer: self.observer().cloned(),
            filter: Filter::default(),
        }
    }
}

/// Logs the event: what needs attention at level warn, what a run has come to at level info, and
/// the steps between at level debug. A crash is one line above debug.
fn trace(event: &Event) {
    let worker = event.worker.as_ref().map(ToString::to_string);
    let who = worker.as_deref().or(event.pool.as_deref()).unwrap_or("run");
    let incarnation = event.incarnation.map(|i| i.0);
    let facts = &event.facts;
    let cause = facts.cause.map(Cause::name);
    if event.is_trouble() {
        tracing::warn!(
            target: "ostler", event = event.kind.name(), who, incarnation, pid = facts.pid,
            reason = facts.reason.map(Reason::name), message = facts.message.as_deref(),
            suggestion = facts.suggestion.as_deref(), count = facts.count, cause
        );
    } else if is_step(event.kind) {
        tracing::debug!(target: "ostler", event = event.kind.name(), who, incarnation, pid = facts.pid, cause);
    } else {
        tracing::info!(
            target: "ostler", event = event.kind.name(), who, incarnation, pid = facts.pid, cause,
            count = facts.count
        );
    }
}

/// Whether it is a step from one state of a worker to another, and not what it comes to.
fn is_step(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::WorkerReserved
            | EventKind::WorkerSpawned
            | EventKind::WorkerDraining
            | EventKind::WorkerStopping
            | EventKind::WorkerExited
            | EventKind::WorkerReleased
            | EventKind::WorkerRestarting
    )
}

/// What a reader of events gets.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum EventItem {
    /// An event.
    Event(Arc<Event>),
    /// The reader was too slow, and has lost this many events.
    Lagged(u64),
}

impl EventItem {
    /// The event; `None` in the place of lost ones.
    pub fn event(self) -> Option<Arc<Event>> {
        match self {
            Self::Event(event) => Some(event),
            Self::Lagged(_) => None,
        }
    }
}

/// The events of a run from the time of the subscription on, in order. A [`Stream`], which can also
/// be read with [`EventStream::recv`].
///
/// A reader that falls more than [`EVENT_BUFFER`] events behind gets [`EventItem::Lagged`] in the
/// place of those that it has lost, whatever its filter is. It never slows the instance down.
///
/// ```no_run
/// # async fn example(ostler: ostler::Ostler) {
/// use ostler::{EventItem, EventKind};
///
/// let kinds = [EventKind::WorkerExited, EventKind::WorkerFailed];
/// let mut ends = ostler.subscribe().worker("web/0").kinds(kinds);
/// while let Some(item) = ends.recv().await {
///     match item {
///         EventItem::Event(event) => println!("{} {:?}", event.kind.name(), event.facts.message),
///         EventItem::Lagged(events) => println!("{events} events were missed"),
///         _ => {}
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct EventStream {
    events: BroadcastStream<Arc<Event>>,
    waiting: Option<Arc<Event>>,
    /// Lost events that are not reported yet.
    lost: u64,
    observer: Option<Arc<dyn Observer>>,
    filter: Filter,
}

/// Which events a reader sees. `None`: all.
#[derive(Debug, Default)]
struct Filter {
    pool: Option<String>,
    worker: Option<String>,
    kinds: Option<Vec<EventKind>>,
}

impl Filter {
    fn passes(&self, event: &Event) -> bool {
        let is_worker = |id: &String| event.worker.as_ref().is_some_and(|worker| worker.to_string() == *id);
        let is_pool = |name: &String| event.pool_name() == Some(name);
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&event.kind))
            && self.pool.as_ref().is_none_or(is_pool)
            && self.worker.as_ref().is_none_or(is_worker)
    }
}

impl EventStream {
    /// Only the events of this pool and of its workers, from now on.
    pub fn pool(mut self, name: impl Into<String>) -> Self {
        self.filter.pool = Some(name.into());
        self
    }

    /// Only the events of this worker, such as `web/0`, from now on.
    pub fn worker(mut self, id: impl Into<String>) -> Self {
        self.filter.worker = Some(id.into());
        self
    }

    /// Only events of these kinds, from now on.
    pub fn kinds(mut self, kinds: impl IntoIterator<Item = EventKind>) -> Self {
        self.filter.kinds = Some(kinds.into_iter().collect());
        self
    }

    /// The next event; `None` when the run is over and every event has been read. Cancel safe.
    pub async fn recv(&mut self) -> Option<EventItem> {
        self.next().await
    }

    /// The number of events that are missing before this one, which observers count as well.
    fn lost_before(&mut self, next: &Event) -> u64 {
        let count = std::mem::take(&mut self.lost);
        if let Some(observer) = &self.observer {
            let dropped = Event::dropped_before(next, count, "their reader was too slow");
            observer.event(&Arc::new(dropped), &SpanLink::default());
        }
        count
    }
}

impl Stream for EventStream {
    type Item = EventItem;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<EventItem>> {
        loop {
            if let Some(event) = self.waiting.take()
                && self.filter.passes(&event)
            {
                return Poll::Ready(Some(EventItem::Event(event)));
            }
            match ready!(Pin::new(&mut self.events).poll_next(context)) {
                Some(Ok(event)) if self.lost == 0 => self.waiting = Some(event),
                Some(Ok(event)) => {
                    let lost = self.lost_before(&event);
                    self.waiting = Some(event);
                    return Poll::Ready(Some(EventItem::Lagged(lost)));
                }
                // The oldest remaining events can be overwritten again before they are read.
                Some(Err(BroadcastStreamRecvError::Lagged(count))) => self.lost += count,
                None => return Poll::Ready(None),
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

    async fn next(stream: &mut EventStream) -> Option<Arc<Event>> {
        stream.recv().await.map(|item| item.event().expect("no lag"))
    }

    #[tokio::test]
    async fn subscribers_see_every_event_in_order() {
        let hub = hub();
        let mut stream = hub.subscribe();
        for _ in 0..3 {
            hub.emit(EventKind::SweepDone, About::run(), Facts::default());
        }
        for seq in 1..=3 {
            assert_eq!(next(&mut stream).await.map(|event| event.seq), Some(seq));
        }
        drop(hub);
        assert!(stream.recv().await.is_none());
    }

    #[tokio::test]
    async fn no_event_after_the_end_of_the_run() {
        let hub = hub();
        let mut stream = hub.subscribe();
        hub.emit(EventKind::RunStopped, About::run(), Facts::default());
        hub.emit(EventKind::WorkerFailed, About::run(), Facts::default());
        assert_eq!(
            next(&mut stream).await.map(|event| event.kind),
            Some(EventKind::RunStopped)
        );
        assert!(stream.recv().await.is_none());
        assert!(hub.subscribe().recv().await.is_none());
    }

    #[tokio::test]
    async fn slow_subscriber_learns_what_it_lost() {
        let hub = hub();
        let mut stream = hub.subscribe();
        let lost = 10;
        for _ in 0..EVENT_BUFFER + lost {
            hub.emit(EventKind::SweepDone, About::run(), Facts::default());
        }
        let first = stream.recv().await;
        assert!(
            matches!(first, Some(EventItem::Lagged(events)) if events == lost as u64),
            "{first:?}"
        );
        assert_eq!(next(&mut stream).await.unwrap().seq, lost as u64 + 1);
    }

    /// A reader that is overtaken repeatedly, even between the lag and the next event.
    #[tokio::test]
    async fn every_lag_is_reported() {
        const TOTAL: u64 = 200_000;
        let hub = Arc::new(Hub::with_buffer("test".into(), RunId::from_u128(1), 2));
        let mut stream = hub.subscribe();
        let writer = std::thread::spawn({
            let hub = Arc::clone(&hub);
            move || {
                for _ in 0..TOTAL {
                    hub.publish(EventKind::SweepDone, About::run(), Facts::default());
                }
                hub.publish(EventKind::RunStopped, About::run(), Facts::default());
            }
        });
        let (mut read, mut lost) = (0, 0);
        while let Some(item) = stream.recv().await {
            match item {
                EventItem::Lagged(events) => lost += events,
                EventItem::Event(event) => {
                    read += 1;
                    assert_eq!(event.seq, read + lost, "every missing event must be reported");
                }
            }
        }
        writer.join().unwrap();
        assert_eq!(read + lost, TOTAL + 1);
        assert!(lost > 0);
    }

    #[tokio::test]
    async fn filter_selects_matching_events() {
        let hub = hub();
        let worker = |index| About::worker(&WorkerId::new("web".to_owned(), index), Some(Incarnation(1)));
        let mut of_worker = hub.subscribe().worker("web/1").kinds([EventKind::WorkerReady]);
        let of_pool = hub.subscribe().pool("web");
        hub.emit(EventKind::WorkerReady, worker(0), Facts::default());
        hub.emit(EventKind::WorkerExited, worker(1), Facts::default());
        hub.emit(EventKind::WorkerReady, worker(1), Facts::default());
        hub.emit(EventKind::PoolReady, About::pool("web"), Facts::default());
        hub.emit(EventKind::PoolReady, About::pool("other"), Facts::default());
        drop(hub);
        let event = next(&mut of_worker).await.expect("an event of web/1");
        assert_eq!((event.seq, event.pool.as_deref()), (3, Some("web")));
        assert!(of_worker.next().await.is_none());
        let seqs: Vec<u64> = of_pool.map(|item| item.event().expect("no lag").seq).collect().await;
        assert_eq!(seqs, [1, 2, 3, 4]);
    }
}
