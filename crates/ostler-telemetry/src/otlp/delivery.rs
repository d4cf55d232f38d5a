//! What is counted on the way to the receiver: what waits, what is under way, what is lost.
//!
//! The SDK's processors drop what their queues can't take, and tell nobody how much. So each is wrapped at both ends:
//! before the queue what does not fit is dropped and counted here, behind it what the exporter could not deliver.

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

/// What was not delivered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Undelivered {
    /// Spans.
    pub spans: u64,
    /// Metrics: each one that an export could not deliver. The next export has their newer values.
    pub metrics: u64,
    /// Log records, events among them.
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

/// The counters of one kind of telemetry.
#[derive(Debug)]
pub(super) struct Tally {
    what: &'static str,
    waiting: AtomicU64,
    under_way: AtomicU64,
    lost: AtomicU64,
    failing: AtomicBool,
}

impl Tally {
    fn new(what: &'static str) -> Arc<Self> {
        Arc::new(Self {
            what,
            waiting: AtomicU64::new(0),
            under_way: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            failing: AtomicBool::new(false),
        })
    }

    /// Takes room for one in a queue of `room`; without it, the one is lost.
    fn admit(&self, room: u64) -> bool {
        if self.waiting.fetch_add(1, Ordering::Relaxed) < room {
            return true;
        }
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.lost.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// So many left the queue.
    fn begin(&self, count: u64) {
        self.under_way.fetch_add(count, Ordering::Relaxed);
        self.waiting.fetch_sub(count, Ordering::Relaxed);
    }

    /// They are delivered, or lost. Told once when it begins to fail, and once when it works again.
    fn end(&self, count: u64, result: &OTelSdkResult) {
        if let Err(error) = result {
            self.lost.fetch_add(count, Ordering::Relaxed);
            if !self.failing.swap(true, Ordering::Relaxed) {
                tracing::warn!(target: "ostler::telemetry", %error, "{} can't be delivered; what is lost is counted", self.what);
            }
        } else if self.failing.swap(false, Ordering::Relaxed) {
            tracing::info!(target: "ostler::telemetry", "{} are delivered again", self.what);
        }
        self.under_way.fetch_sub(count, Ordering::Relaxed);
    }

    /// So many were lost before they came to the queue.
    pub(super) fn lose(&self, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// With what nobody will send any more.
    fn lost_for_good(&self) -> u64 {
        self.lost() + self.waiting.load(Ordering::Relaxed) + self.under_way.load(Ordering::Relaxed)
    }
}

/// The counters of everything.
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

    pub(super) fn lost_for_good(&self) -> Undelivered {
        self.of(Tally::lost_for_good)
    }

    fn of(&self, count: impl Fn(&Tally) -> u64) -> Undelivered {
        Undelivered {
            spans: count(&self.spans),
            metrics: count(&self.metrics),
            records: count(&self.records),
        }
    }
}

/// What the SDK's traits have in common, and nothing is counted in: passed on to this field.
macro_rules! passed_on {
    ($to:ident: $($what:ident),+) => {
        $(passed_on!(@ $what $to);)+
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

/// A processor whose queue has this much room.
#[derive(Debug)]
pub(super) struct Bounded<P> {
    pub(super) next: P,
    pub(super) tally: Arc<Tally>,
    pub(super) room: u64,
}

impl<P: SpanProcessor> SpanProcessor for Bounded<P> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.next.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.tally.admit(self.room) {
            self.next.on_end(span);
        }
    }

    passed_on!(next: force_flush, shutdown_with_timeout, set_resource);
}

impl<P: LogProcessor> LogProcessor for Bounded<P> {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        if self.tally.admit(self.room) {
            self.next.emit(record, scope);
        }
    }

    passed_on!(next: force_flush, shutdown_with_timeout, set_resource);
}

/// An exporter of which it is counted what it delivers.
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

    passed_on!(exporter: force_flush, shutdown_with_timeout, set_resource);
}

impl<E: LogExporter> LogExporter for Counted<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let count = batch.iter().count() as u64;
        self.tally.begin(count);
        let result = self.exporter.export(batch).await;
        self.tally.end(count, &result);
        result
    }

    passed_on!(exporter: shutdown_with_timeout, set_resource);
}

impl<E: PushMetricExporter> PushMetricExporter for Counted<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let count = metrics
            .scope_metrics()
            .map(|scope| scope.metrics().count() as u64)
            .sum();
        // Metrics wait in no queue.
        self.tally.under_way.fetch_add(count, Ordering::Relaxed);
        let result = self.exporter.export(metrics).await;
        self.tally.end(count, &result);
        result
    }

    passed_on!(exporter: force_flush, shutdown_with_timeout);

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::error::OTelSdkError;

    use super::*;

    #[test]
    fn what_does_not_fit_and_what_fails_is_lost_and_what_waits_is_lost_in_the_end() {
        let tally = Tally::new("things");
        let admitted = (0..5).filter(|_| tally.admit(3)).count();
        assert_eq!((admitted, tally.lost()), (3, 2));
        tally.begin(2);
        tally.end(2, &Err(OTelSdkError::InternalFailure("no".into())));
        assert_eq!((tally.lost(), tally.lost_for_good()), (4, 5));
        tally.begin(1);
        assert_eq!(tally.lost_for_good(), 5, "it is under way");
        tally.end(1, &Ok(()));
        assert_eq!(tally.lost_for_good(), 4);
    }
}
