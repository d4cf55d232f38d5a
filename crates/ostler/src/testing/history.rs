//! Everything that happened in the instances of a test bed, in order.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use ostler_core::ids::{Incarnation, RunId, WorkerId};
use ostler_telemetry::{Event, EventKind, Facts, Instance, Observer, Output, Part, SpanLink};
use tokio::sync::watch;

/// The most lines of output that are kept, so that a flooding worker does not fill the memory.
const OUTPUT_LINES: usize = 2_000;

/// The subject of an instance's own events.
pub(super) const RUN: &str = "run";

/// Filled by an observer, read by the test.
#[derive(Debug)]
pub(super) struct History {
    began: Instant,
    entries: Mutex<Entries>,
    /// How many events there are.
    pub(super) events: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Entries {
    events: Vec<Arc<Event>>,
    /// Lines for people, with the time since the beginning.
    lines: Vec<(Duration, String)>,
    output_lines: usize,
    disagreements: BTreeSet<&'static str>,
}

impl History {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            entries: Mutex::default(),
            events: watch::Sender::new(0),
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first event from `start` on that fits, with its place.
    pub(super) fn find(&self, start: usize, fits: impl Fn(usize, &Event) -> bool) -> Option<(usize, Arc<Event>)> {
        let entries = self.entries();
        let mut events = entries.events.iter().enumerate().skip(start);
        let found = events.find(|(place, event)| fits(*place, event));
        found.map(|(place, event)| (place, Arc::clone(event)))
    }

    /// The runs that were started.
    pub(super) fn runs(&self) -> BTreeSet<RunId> {
        self.entries().events.iter().map(|event| event.run).collect()
    }

    /// The runs that were started and have not stopped.
    pub(super) fn living(&self) -> BTreeSet<RunId> {
        let entries = self.entries();
        let ended = |event: &&Arc<Event>| event.kind == EventKind::RunStopped;
        let stopped: BTreeSet<RunId> = entries.events.iter().filter(ended).map(|event| event.run).collect();
        let all: BTreeSet<RunId> = entries.events.iter().map(|event| event.run).collect();
        &all - &stopped
    }

    /// What should not have happened, one line each. Failures of `allowed` subjects may.
    pub(super) fn complaints(&self, allowed: &BTreeSet<String>) -> Vec<String> {
        let entries = self.entries();
        let trouble = |event: &&Arc<Event>| event.is_trouble() && !is_allowed(event, allowed);
        let unexpected = entries.events.iter().filter(trouble);
        let mut complaints: Vec<String> = unexpected
            .map(|event| format!("unexpected: {}", describe(event)))
            .collect();
        let disagreements = entries.disagreements.iter();
        complaints.extend(disagreements.map(|kind| format!("the audit found a disagreement: {kind}")));
        complaints.extend(unreleased(&entries.events));
        complaints
    }

    /// The whole history, one line an entry.
    pub(super) fn story(&self) -> String {
        let mut story = String::new();
        for (at, line) in &self.entries().lines {
            // A String takes everything.
            let _ = writeln!(story, "  {:>8.3}s {line}", at.as_secs_f64());
        }
        story
    }

    fn note(&self, entries: &mut Entries, line: String) {
        entries.lines.push((self.began.elapsed(), line));
    }
}

/// The incarnations that were reserved and not released.
fn unreleased(events: &[Arc<Event>]) -> impl Iterator<Item = String> {
    let mut held: BTreeSet<(RunId, WorkerId, Incarnation)> = BTreeSet::new();
    for event in events {
        let (Some(worker), Some(incarnation)) = (&event.worker, event.incarnation) else {
            continue;
        };
        let key = (event.run, worker.clone(), incarnation);
        match event.kind {
            EventKind::WorkerReserved => _ = held.insert(key),
            EventKind::WorkerReleased => _ = held.remove(&key),
            _ => {}
        }
    }
    held.into_iter()
        .map(|(_, worker, incarnation)| format!("not released: {worker}#{}", incarnation.0))
}

/// Whether the event's worker, its pool, or the run for an event of neither is among the subjects.
fn is_allowed(event: &Event, allowed: &BTreeSet<String>) -> bool {
    allowed.contains(&subject(event)) || event.pool_name().is_some_and(|pool| allowed.contains(pool))
}

/// `web/0`, `web`, or `run`.
pub(super) fn subject(event: &Event) -> String {
    match (&event.worker, &event.pool) {
        (Some(worker), _) => worker.to_string(),
        (None, Some(pool)) => pool.clone(),
        (None, None) => RUN.to_owned(),
    }
}

fn describe(event: &Event) -> String {
    let incarnation = event.incarnation.map(|incarnation| format!("#{}", incarnation.0));
    let mut text = format!(
        "{}{} {}",
        subject(event),
        incarnation.unwrap_or_default(),
        event.kind.name()
    );
    let Facts {
        pid,
        port,
        cause,
        reason,
        ..
    } = &event.facts;
    let facts = [
        pid.map(|pid| format!("pid {pid}")),
        port.map(|port| format!("port {port}")),
        event.facts.exit.map(|exit| exit.to_string()),
        cause.as_ref().map(|cause| format!("cause {cause}")),
        reason.map(|reason| reason.name().to_owned()),
        event.facts.message.clone(),
    ];
    for fact in facts.into_iter().flatten() {
        text.push_str(", ");
        text.push_str(&fact);
    }
    text
}

/// Fills a history. One for each instance, so that a test's own observers stay possible.
#[derive(Debug)]
pub(super) struct Recorder(pub(super) Arc<History>);

impl Observer for Recorder {
    fn event(&self, event: &Arc<Event>, _: &SpanLink) {
        // It is about one slow reader, which gets it itself.
        if event.kind == EventKind::EventsDropped {
            return;
        }
        let history = &self.0;
        let mut entries = history.entries();
        entries.events.push(Arc::clone(event));
        history.note(&mut entries, describe(event));
        history.events.send_replace(entries.events.len());
    }

    fn output(&self, output: &Output<'_>) {
        let mut entries = self.0.entries();
        entries.output_lines += 1;
        if entries.output_lines > OUTPUT_LINES {
            return;
        }
        let Output {
            worker,
            incarnation,
            stream,
            text,
            ..
        } = output;
        self.0
            .note(&mut entries, format!("{worker}#{} {stream}: {text}", incarnation.0));
    }

    fn disagreement(&self, _: &str, kind: &'static str) {
        self.0.entries().disagreements.insert(kind);
    }

    fn duration(&self, _: Part, _: &str, _: &str, _: Duration) {}

    fn output_dropped(&self, _: &str, _: &str, _: u64) {}

    fn output_limited(&self, _: &str, _: &str, _: u64) {}

    fn watch(&self, _: Weak<dyn Instance>) {}
}
