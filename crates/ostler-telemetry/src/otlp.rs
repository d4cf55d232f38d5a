//! Exports spans, metrics and log records by OTLP, over gRPC or HTTP (ADR 0013).
//!
//! Nothing global is installed: the host adds [`Telemetry::layer`] to its own `tracing` subscriber
//! and passes a clone of the [`Telemetry`] to the builder of its instance. The host is never slowed
//! down: data goes through bounded queues to dedicated threads, and what does not fit or cannot be
//! delivered is dropped and counted.

pub(crate) mod attributes;
mod backlog;
mod calls;
mod delivery;
mod http;
mod instruments;
mod pipeline;
mod records;
mod settings;

use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use opentelemetry::trace::TracerProvider as _;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use crate::context::SpanLink;
use crate::event::Event;
use crate::observe::{CallEnd, Clients, Instance, Observer, Output, Part};
use backlog::Backlog;
use instruments::Instruments;
use pipeline::Pipeline;
use records::Records;

pub use delivery::Undelivered;
pub use settings::{Protocol, Settings, SettingsError, check_endpoint};

/// The default limit of the final flush: 3 s.
pub const FLUSH_LIMIT: Duration = Duration::from_secs(3);

/// A longer limit of the final flush is as good as none: a year. An instant can't lie further ahead
/// than the clock counts.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// By how much the nice value of telemetry's threads is higher than the host's.
const NICE: i32 = 5;

/// The `tracing` target of Ostler's spans.
const TARGET: &str = "ostler";

/// A running exporter. Clones are handles to the same exporter. If the last one is dropped without
/// [`Telemetry::shutdown`], queued data is lost.
#[derive(Debug, Clone)]
pub struct Telemetry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    instruments: Instruments,
    records: Arc<Records>,
    backlog: Backlog,
    pipeline: Pipeline,
}

impl Inner {
    fn start(settings: &Settings) -> Result<Self, SettingsError> {
        let pipeline = Pipeline::start(settings)?;
        let records = Arc::new(Records::new(pipeline.logger()));
        let tally = Arc::clone(&pipeline.tallies().records);
        let backlog =
            Backlog::start(Arc::clone(&records), tally).map_err(|error| SettingsError::new("telemetry", error))?;
        Ok(Self {
            instruments: Instruments::new(&pipeline.meter(), pipeline.tallies()),
            records,
            backlog,
            pipeline,
        })
    }
}

/// Lets everything else on the machine go first, from this thread and those that it starts: a pool
/// that starts or stops keeps every processor busy, and telemetry can wait for that. A share of the
/// processors remains, by which the queues are emptied (setpriority(2), sched(7)).
fn yield_to_others() {
    // This thread only (sched(7)). It needs no permission, and does not fail for an increment.
    let _ = rustix::process::nice(NICE);
}

impl Telemetry {
    /// Starts the export threads. Returns `None` if `OTEL_SDK_DISABLED` switches telemetry off.
    /// Does not check whether the receiver is reachable, because it may start later.
    ///
    /// # Errors
    ///
    /// Returns [`SettingsError`] if a setting or an `OTEL_*` variable is invalid.
    pub fn start(settings: &Settings) -> Result<Option<Self>, SettingsError> {
        if settings::is_disabled() {
            return Ok(None);
        }
        // Its threads have the priority of the thread that starts them.
        let inner = thread::scope(|scope| {
            let starting = thread::Builder::new().name("ostler-otlp-start".to_owned());
            let started = starting.spawn_scoped(scope, || {
                yield_to_others();
                Inner::start(settings)
            });
            let started = started.map_err(|error| SettingsError::new("telemetry", error))?;
            started.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        Ok(Some(Self { inner: Arc::new(inner) }))
    }

    /// A layer for the host's `tracing` subscriber. It records Ostler's spans only.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.inner.pipeline.tracers().tracer(TARGET))
            .with_location(false)
            .with_threads(false)
            .with_level(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(|metadata| metadata.is_span() && metadata.target() == TARGET))
    }

    /// What could not be delivered so far.
    pub fn undelivered(&self) -> Undelivered {
        self.inner.pipeline.tallies().lost()
    }

    /// Flushes the queues for at most `limit` and stops the exporter. Returns everything that was
    /// not delivered; later spans, metrics and records are discarded.
    ///
    /// Blocks: in async code, call it with `spawn_blocking`.
    pub fn shutdown(&self, limit: Duration) -> Undelivered {
        let deadline = Instant::now() + limit.min(LONGEST);
        self.inner.backlog.finish(deadline);
        self.inner
            .pipeline
            .shutdown(deadline.saturating_duration_since(Instant::now()))
    }
}

impl Observer for Telemetry {
    fn event(&self, event: &Arc<Event>, span: &SpanLink) {
        self.inner.instruments.event(event);
        self.inner.backlog.push(event, span);
    }

    fn duration(&self, part: Part, app: &str, pool: &str, took: Duration) {
        self.inner.instruments.duration(part, app, pool, took);
    }

    fn output(&self, output: &Output<'_>) {
        self.inner.records.output(output);
    }

    fn output_dropped(&self, app: &str, pool: &str, lines: u64) {
        self.inner.instruments.output_dropped(app, pool, lines);
    }

    fn output_limited(&self, app: &str, pool: &str, records: u64) {
        self.inner.instruments.output_limited(app, pool, records);
    }

    fn disagreement(&self, app: &str, kind: &'static str) {
        self.inner.instruments.disagreement(app, kind);
    }

    fn watch(&self, instance: Weak<dyn Instance>) {
        self.inner.instruments.watch(instance);
    }

    fn call(&self, call: &CallEnd<'_>) {
        self.inner.instruments.calls().ended(call);
    }

    fn watch_clients(&self, clients: Weak<dyn Clients>) {
        self.inner.instruments.calls().watch(clients);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_limit_of_a_flush_is_no_panic() {
        let settings = Settings {
            endpoint: Some("http://127.0.0.1:9".to_owned()),
            ..Settings::default()
        };
        let telemetry = Telemetry::start(&settings).unwrap().expect("it is not disabled");
        telemetry.shutdown(Duration::MAX);
    }
}
