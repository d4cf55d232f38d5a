//! Counts what is queued, in flight and lost on the way to the receiver.
//!
//! The SDK's processors drop what does not fit in their queues without reporting how much. Each is
//! therefore wrapped at both ends: in front of the queue, data that does not fit is dropped and
//! counted here; behind it, data that the exporter could not deliver is counted.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::{Context, InstrumentationScope};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogBatch, LogExporter, LogProcessor, SdkLogRecord};
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter, SpanProcessor};

/// The amount of telemetry that was not delivered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Undelivered {
    /// Spans.
    pub spans: u64,
    /// Metrics in failed exports. The next export contains their newer values.
    pub metrics: u64,
    /// Log records, including events.
    pub records: u64,
}

impl Undelivered {
    /// Whether everything was delivered.
    pub const fn is_empty(&self) -> bool {
        self.spans == 0 && self.metrics == 0 && self.records == 0
    }
}

impl fmt::Display for Undelivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            spans,
            metrics,
            records,
        } = self;
        write!(f, "{spans} spans, {metrics} metrics, {records} log records")
    }
}

/// The counters of one signal.
#[derive(Debug)]
pub(super) struct Tally {
    what: &'static str,
    waiting: AtomicU64,
    in_flight: AtomicU64,
    lost: AtomicU64,
    failing: AtomicBool,
}

impl Tally {
    fn new(what: &'static str) -> Arc<Self> {
        Arc::new(Self {
            what,
            waiting: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            failing: AtomicBool::new(false),
        })
    }

    /// Reserves a place in a queue of size `capacity`. If the queue is full, counts the item as
    /// lost.
    fn admit(&self, capacity: u64) -> bool {
        if self.waiting.fetch_add(1, Ordering::Relaxed) < capacity {
            return true;
        }
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.lost.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// `count` items left the queue.
    fn begin(&self, count: u64) {
        self.in_flight.fetch_add(count, Ordering::Relaxed);
        self.waiting.fetch_sub(count, Ordering::Relaxed);
    }

    /// `count` items were delivered or lost. Logs once when delivery starts to fail, and once when
    /// it works again.
    fn end(&self, count: u64, result: &OTelSdkResult) {
        if let Err(error) = result {
            self.lost.fetch_add(count, Ordering::Relaxed);
            if !self.failing.swap(true, Ordering::Relaxed) {
                tracing::warn!(target: "ostler::telemetry", %error, "cannot deliver {}; lost items are counted", self.what);
            }
        } else if self.failing.swap(false, Ordering::Relaxed) {
            tracing::info!(target: "ostler::telemetry", "delivering {} again", self.what);
        }
        self.in_flight.fetch_sub(count, Ordering::Relaxed);
    }

    /// `count` items were lost before they reached the queue.
    pub(super) fn lose(&self, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Items lost, including those that are queued or in flight and that no thread will send any
    /// more.
    fn lost_at_exit(&self) -> u64 {
        self.lost() + self.waiting.load(Ordering::Relaxed) + self.in_flight.load(Ordering::Relaxed)
    }
}

/// The counters of all signals.
#[derive(Debug, Clone)]
pub(super) struct Tallies {
    pub(super) spans: Arc<Tally>,
    pub(super) metrics: Arc<Tally>,
    pub(super) records: Arc<Tally>,
}

impl Tallies {
    pub(super) fn new() -> Self {
        Self {
            spans: Tally::new("spans"),
            metrics: Tally::new("metrics"),
            records: Tally::new("log records"),
        }
    }

    pub(super) fn lost(&self) -> Undelivered {
        self.of(Tally::lost)
    }

    pub(super) fn lost_at_exit(&self) -> Undelivered {
        self.of(Tally::lost_at_exit)
    }

    fn of(&self, count: impl Fn(&Tally) -> u64) -> Undelivered {
        Undelivered {
            spans: count(&self.spans),
            metrics: count(&self.metrics),
            records: count(&self.records),
        }
    }
}

/// Forwards methods of the SDK's traits that need no counting to the given field.
macro_rules! forward {
    ($to:ident: $($what:ident),+) => {
        $(forward!(@ $what $to);)+
    };
    (@ force_flush $to:ident) => {
        fn force_flush(&self) -> OTelSdkResult {
            self.$to.force_flush()
        }
    };
    (@ shutdown_with_timeout $to:ident) => {
        fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
            self.$to.shutdown_with_timeout(timeout)
        }
    };
    (@ set_resource $to:ident) => {
        fn set_resource(&mut self, resource: &Resource) {
            self.$to.set_resource(resource);
        }
    };
}

/// A processor with a bounded queue of this size.
#[derive(Debug)]
pub(super) struct Bounded<P> {
    pub(super) next: P,
    pub(super) tally: Arc<Tally>,
    pub(super) capacity: u64,
}

impl<P: SpanProcessor> SpanProcessor for Bounded<P> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.next.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.tally.admit(self.capacity) {
            self.next.on_end(span);
        }
    }

    forward!(next: force_flush, shutdown_with_timeout, set_resource);
}

impl<P: LogProcessor> LogProcessor for Bounded<P> {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        if self.tally.admit(self.capacity) {
            self.next.emit(record, scope);
        }
    }

    forward!(next: force_flush, shutdown_with_timeout, set_resource);
}

/// An exporter that counts what it delivers.
#[derive(Debug)]
pub(super) struct Counted<E> {
    pub(super) exporter: E,
    pub(super) tally: Arc<Tally>,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        self.tally.begin(count);
        let result = self.exporter.export(batch).await;
        self.tally.end(count, &result);
        result
    }

    forward!(exporter: force_flush, shutdown_with_timeout, set_resource);
}

impl<E: LogExporter> LogExporter for Counted<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let count = batch.iter().count() as u64;
        self.tally.begin(count);
        let result = self.exporter.export(batch).await;
        self.tally.end(count, &result);
        result
    }

    forward!(exporter: shutdown_with_timeout, set_resource);
}

impl<E: PushMetricExporter> PushMetricExporter for Counted<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let count = metrics
            .scope_metrics()
            .map(|scope| scope.metrics().count() as u64)
            .sum();
        // Metrics are not queued.
        self.tally.in_flight.fetch_add(count, Ordering::Relaxed);
        let result = self.exporter.export(metrics).await;
        self.tally.end(count, &result);
        result
    }

    forward!(exporter: force_flush, shutdown_with_timeout);

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::error::OTelSdkError;

    use super::*;

    #[test]
    fn rejected_failed_and_finally_queued_items_count_as_lost() {
        let tally = Tally::new("things");
        let admitted = (0..5).filter(|_| tally.admit(3)).count();
        assert_eq!((admitted, tally.lost()), (3, 2));
        tally.begin(2);
        tally.end(2, &Err(OTelSdkError::InternalFailure("no".into())));
        assert_eq!((tally.lost(), tally.lost_at_exit()), (4, 5));
        tally.begin(1);
        assert_eq!(tally.lost_at_exit(), 5, "still in flight");
        tally.end(1, &Ok(()));
        assert_eq!(tally.lost_at_exit(), 4);
    }
}
