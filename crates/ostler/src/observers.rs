//! Several observers as one.

use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use ostler_telemetry::{CallEnd, Clients, Event, Instance, Observer, Output, Part, SpanLink};

/// Passes everything on to each observer that was added, in that order.
#[derive(Debug, Default)]
pub(crate) struct Observers(RwLock<Vec<Arc<dyn Observer>>>);

impl Observers {
    pub(crate) fn add(&self, observer: Arc<dyn Observer>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(observer);
    }

    fn each(&self, pass: impl Fn(&dyn Observer)) {
        for observer in self.0.read().unwrap_or_else(PoisonError::into_inner).iter() {
            pass(observer.as_ref());
        }
    }
}

impl Observer for Observers {
    fn event(&self, event: &Arc<Event>, span: &SpanLink) {
        self.each(|observer| observer.event(event, span));
    }

    fn duration(&self, part: Part, app: &str, pool: &str, took: Duration) {
        self.each(|observer| observer.duration(part, app, pool, took));
    }

    fn output(&self, output: &Output<'_>) {
        self.each(|observer| observer.output(output));
    }

    fn output_dropped(&self, app: &str, pool: &str, lines: u64) {
        self.each(|observer| observer.output_dropped(app, pool, lines));
    }

    fn output_limited(&self, app: &str, pool: &str, records: u64) {
        self.each(|observer| observer.output_limited(app, pool, records));
    }

    fn disagreement(&self, app: &str, kind: &'static str) {
        self.each(|observer| observer.disagreement(app, kind));
    }

    fn watch(&self, instance: Weak<dyn Instance>) {
        self.each(|observer| observer.watch(Weak::clone(&instance)));
    }

    fn call(&self, call: &CallEnd<'_>) {
        self.each(|observer| observer.call(call));
    }

    fn watch_clients(&self, clients: Weak<dyn Clients>) {
        self.each(|observer| observer.watch_clients(Weak::clone(&clients)));
    }
}
