//! The spans of an incarnation: its start is one trace, its stop another, and no span is open
//! between the two.
//!
//! ```text
//! ostler.worker.start   reserve → spawn → await_ready, activate
//! ostler.worker.stop    term → wait → kill → tree_gone → port → record
//! ```
//! The next start is linked to the stop that it follows. Without a subscriber all of this costs
//! almost nothing.

use std::time::Instant;

use ostler_core::lifecycle::Transition;
use ostler_core::signal::Signal;
use ostler_telemetry::names::span;
use ostler_telemetry::{Part, SpanLink, context};
use tracing::Span;

use super::incarnation::Incarnation;
use crate::hub::Hub;

/// The open spans of an incarnation, and its measured times.
#[derive(Debug)]
pub(crate) struct Spans {
    start: Span,
    stop: Span,
    /// Links other spans to the latest of these.
    link: SpanLink,
    /// The open child of that span.
    step: Span,
    step_name: &'static str,
    part: Option<(Part, Instant)>,
}

/// A part of the trace of `parent`; none if there is no trace.
macro_rules! step {
    ($parent:expr, $name:expr) => {
        match $parent.id() {
            Some(parent) => tracing::info_span!(target: "ostler", parent: parent, $name),
            None => Span::none(),
        }
    };
}

/// A trace of its own about an incarnation.
macro_rules! trace {
    ($name:expr, $incarnation:expr, $hub:expr) => {
        tracing::info_span!(
            target: "ostler", parent: None, $name,
            ostler.app = $hub.app(), ostler.run = %$incarnation.run,
            ostler.pool = $incarnation.worker.pool, ostler.worker = %$incarnation.worker,
            ostler.incarnation = $incarnation.number.0,
            process.command = $incarnation.spec().command.first(), process.pid = tracing::field::Empty,
        )
    };
}

impl Spans {
    /// The incarnation's turn has come.
    pub(super) fn begin(incarnation: &Incarnation, hub: &Hub, last_stop: &SpanLink) -> Self {
        let start = trace!(span::WORKER_START, incarnation, hub);
        context::follow(&start, last_stop);
        Self {
            step: step!(start, span::RESERVE),
            step_name: span::RESERVE,
            stop: Span::none(),
            link: context::link_of(&start),
            start,
            part: Some((Part::Start, Instant::now())),
        }
    }

    /// The start's place in its trace, for the environment of the process.
    pub(super) fn start(&self) -> &SpanLink {
        &self.link
    }

    /// The trace of the stop, once it has begun.
    pub(super) fn stop(&self) -> (&Span, &SpanLink) {
        (&self.stop, &self.link)
    }

    /// The process is added to the record, in parallel to the steps.
    pub(super) fn activating(&self, pid: u32) -> Span {
        self.start.record("process.pid", pid);
        step!(self.start, span::ACTIVATE)
    }

    /// The span that a transition belongs to, and its place. The first transition of a stop begins
    /// its trace; later ones belong to it.
    pub(super) fn enter(
        &mut self,
        incarnation: &Incarnation,
        hub: &Hub,
        pid: Option<u32>,
        what: &Transition,
    ) -> (&Span, &SpanLink) {
        let of_start = matches!(what, Transition::Reserved | Transition::Spawned | Transition::Ready);
        if !of_start && self.stop.is_none() {
            self.stop = trace!(span::WORKER_STOP, incarnation, hub);
            self.stop.record("process.pid", pid);
            self.link = context::link_of(&self.stop);
        }
        let span = if self.stop.is_none() { &self.start } else { &self.stop };
        (span, &self.link)
    }

    /// The transition has been announced: closes the span that it ended and opens the one that it
    /// begins.
    pub(super) fn leave(&mut self, pool: &str, hub: &Hub, what: &Transition) {
        match what {
            Transition::Reserved => self.close_step(),
            Transition::Spawned => self.step(step!(self.start, span::READY), span::READY),
            Transition::Ready => {
                self.close_step();
                self.start = Span::none();
                self.measure(pool, hub, Part::Start, None);
            }
            Transition::Unhealthy(failure) => context::fail(&self.stop, failure),
            Transition::Stopping { stop, .. } => {
                self.signal(stop.signal);
                if !matches!(self.part, Some((Part::Stop, _))) {
                    self.part = Some((Part::Stop, Instant::now()));
                }
            }
            Transition::Exited(_) => {
                self.step(step!(self.stop, span::TREE_GONE), span::TREE_GONE);
                self.measure(pool, hub, Part::Stop, Some(Part::Release));
            }
            Transition::Failed(failure) => {
                context::fail(&self.stop, failure);
                context::fail(&self.start, failure);
                if [span::RESERVE, span::SPAWN, span::READY].contains(&self.step_name) {
                    self.close_step();
                }
                self.start = Span::none();
            }
            Transition::Released | Transition::Unseen(_) => {
                self.close_step();
                self.start = Span::none();
                self.stop = Span::none();
                self.measure(pool, hub, Part::Release, None);
            }
        }
    }

    /// The rest of the tree is being killed.
    pub(super) fn killed(&mut self) {
        self.step(step!(self.stop, span::KILL), span::KILL);
    }

    /// The spawn is being prepared.
    pub(super) fn spawning(&mut self) {
        self.step(step!(self.start, span::SPAWN), span::SPAWN);
    }

    /// The ports are being checked, for the first time or again.
    pub(super) fn checking_ports(&mut self) {
        if self.step_name != span::PORT {
            self.step(step!(self.stop, span::PORT), span::PORT);
        }
    }

    /// The record is being removed, for the first time or again.
    pub(super) fn unrecording(&mut self) {
        if self.step_name != span::RECORD {
            self.step(step!(self.stop, span::RECORD), span::RECORD);
        }
    }

    /// The place of the stop's trace, to which the next start is linked.
    pub(super) fn last(&self) -> SpanLink {
        self.link.clone()
    }

    fn signal(&mut self, signal: Signal) {
        if signal == Signal::KILL {
            self.killed();
        } else {
            // The order is given in the same step; only the end shows that it was carried out.
            drop(step!(self.stop, span::TERM));
            self.step(step!(self.stop, span::WAIT), span::WAIT);
        }
    }

    fn step(&mut self, span: Span, name: &'static str) {
        self.step = span;
        self.step_name = name;
    }

    fn close_step(&mut self) {
        self.step(Span::none(), "");
    }

    /// Ends the measurement of a part, if it is this one.
    fn measure(&mut self, pool: &str, hub: &Hub, part: Part, next: Option<Part>) {
        if let Some((now, since)) = self.part.take()
            && now == part
            && let Some(observer) = hub.observer()
        {
            observer.duration(part, hub.app(), pool, since.elapsed());
        }
        self.part = next.map(|next| (next, Instant::now()));
    }
}
