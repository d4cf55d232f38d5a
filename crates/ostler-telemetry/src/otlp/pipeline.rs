//! The SDK's providers with their queues and threads, and their shutdown within a deadline.

use std::fmt;
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::logs::LoggerProvider as _;
use opentelemetry::metrics::{Meter, MeterProvider as _};
use opentelemetry_otlp::tonic_types::metadata::MetadataMap;
use opentelemetry_otlp::{
    LogExporter, MetricExporter, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{self, BatchLogProcessor, SdkLogger, SdkLoggerProvider};
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{self, BatchSpanProcessor, Sampler, SdkTracerProvider};
use tokio::runtime::Runtime;

use super::delivery::{Bounded, Counted, Tallies, Undelivered};
use super::http::Http;
use super::settings::{Protocol, Route, Settings, SettingsError, Signal, variable};
use crate::names::resource;

/// The default queue size for spans and for records: 8,192 each. Further items are dropped.
/// `OTEL_BSP_MAX_QUEUE_SIZE` and `OTEL_BLRP_MAX_QUEUE_SIZE` override it. For scale: starting a
/// thousand workers creates five thousand spans.
const QUEUE: usize = 8_192;

/// The default batch sizes of spans and of records; `OTEL_BSP_MAX_EXPORT_BATCH_SIZE` and
/// `OTEL_BLRP_MAX_EXPORT_BATCH_SIZE` override them. Even with the longest output and stderr, a
/// batch normally stays below the 4 MiB that receivers accept.
const SPANS_PER_REQUEST: usize = 256;
const RECORDS_A_REQUEST: usize = 128;

/// The default timeout of a request: 10 s, as in OpenTelemetry. `OTEL_EXPORTER_OTLP_TIMEOUT`
/// overrides it.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// The instrumentation scope.
const SCOPE: &str = "ostler";

pub(super) struct Pipeline {
    tracers: SdkTracerProvider,
    meters: SdkMeterProvider,
    loggers: SdkLoggerProvider,
    tallies: Tallies,
    /// The connections' own runtime, so that no runtime of the host is blocked or waited for.
    runtime: Mutex<Option<Runtime>>,
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline")
            .field("tallies", &self.tallies)
            .finish_non_exhaustive()
    }
}

impl Pipeline {
    pub(super) fn start(settings: &Settings) -> Result<Self, SettingsError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("ostler-otlp")
            .enable_all()
            .build()
            .map_err(|error| SettingsError::new("telemetry", error))?;
        // The gRPC channel uses the runtime that it is created in.
        let entered = runtime.enter();
        let http = Http::new(runtime.handle().clone(), request_limit()?);
        let (resource, tallies) = (resource(settings), Tallies::new());
        let tracers = tracers(settings, &http, &resource, &tallies)?;
        let meters = meters(settings, &http, &resource, &tallies)?;
        let loggers = loggers(settings, &http, &resource, &tallies)?;
        drop(entered);
        Ok(Self {
            tracers,
            meters,
            loggers,
            tallies,
            runtime: Mutex::new(Some(runtime)),
        })
    }

    pub(super) fn tracers(&self) -> &SdkTracerProvider {
        &self.tracers
    }

    pub(super) fn meter(&self) -> Meter {
        self.meters.meter(SCOPE)
    }

    pub(super) fn logger(&self) -> SdkLogger {
        self.loggers.logger(SCOPE)
    }

    pub(super) fn tallies(&self) -> &Tallies {
        &self.tallies
    }

    /// Shuts each provider down on its own thread, so that one that waits for its receiver does not
    /// use up the others' time.
    pub(super) fn shutdown(&self, limit: Duration) -> Undelivered {
        let deadline = Instant::now() + limit;
        let (ended, all_ended) = channel::<()>();
        let (tracers, loggers, meters) = (self.tracers.clone(), self.loggers.clone(), self.meters.clone());
        let ends: [Box<dyn FnOnce() + Send>; 3] = [
            // The tallies have what could not be delivered; a second shutdown has nothing to do and
            // is not an error.
            Box::new(move || drop(tracers.shutdown_with_timeout(limit))),
            Box::new(move || drop(loggers.shutdown_with_timeout(limit))),
            Box::new(move || drop(meters.shutdown_with_timeout(limit))),
        ];
        for end in ends {
            let ended = ended.clone();
            // Without a thread its queue is not flushed, but counted as lost.
            drop(
                thread::Builder::new()
                    .name("ostler-otlp-end".to_owned())
                    .spawn(move || {
                        end();
                        drop(ended);
                    }),
            );
        }
        drop(ended);
        // No message is ever sent: this returns when the last sender is dropped, or at the
        // deadline.
        let _ = all_ended.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        self.tallies.lost_at_exit()
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Dropping the runtime would panic in an async task, and elsewhere wait for a receiver that
        // hangs.
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
    }
}

fn request_limit() -> Result<Duration, SettingsError> {
    const NAME: &str = "OTEL_EXPORTER_OTLP_TIMEOUT";
    let Some(text) = variable(NAME) else {
        return Ok(REQUEST_LIMIT);
    };
    let millis = text
        .parse()
        .map_err(|_| SettingsError::new(NAME, format!("expected a number of milliseconds, got {text:?}")))?;
    Ok(Duration::from_millis(millis))
}

fn resource(settings: &Settings) -> Resource {
    let executable = std::env::current_exe().ok();
    let executable = executable
        .as_ref()
        .and_then(|path| path.file_name())
        .map(|name| KeyValue::new(resource::EXECUTABLE, name.to_string_lossy().into_owned()));
    let service = settings.service_name.as_deref().unwrap_or("ostler").to_owned();
    let attributes = [
        KeyValue::new(resource::SERVICE_NAME, service),
        KeyValue::new(resource::SERVICE_VERSION, env!("CARGO_PKG_VERSION")),
        KeyValue::new(resource::SERVICE_INSTANCE, uuid::Uuid::new_v4().to_string()),
        KeyValue::new(resource::PID, i64::from(std::process::id())),
    ];
    // Attributes from the variables (OTEL_RESOURCE_ATTRIBUTES, then OTEL_SERVICE_NAME) come last
    // and take precedence.
    let base = Resource::builder_empty()
        .with_attributes(attributes)
        .with_attributes(executable)
        .build();
    let detected = Resource::builder_empty()
        .with_detectors(&[
            Box::new(opentelemetry_sdk::resource::TelemetryResourceDetector),
            Box::new(opentelemetry_sdk::resource::EnvResourceDetector::new()),
        ])
        .build();
    let named = variable("OTEL_SERVICE_NAME").map(|name| KeyValue::new(resource::SERVICE_NAME, name));
    let pairs = |from: &Resource| {
        from.iter()
            .map(|(key, value)| KeyValue::new(key.clone(), value.clone()))
            .collect::<Vec<_>>()
    };
    Resource::builder_empty()
        .with_attributes(pairs(&base))
        .with_attributes(pairs(&detected))
        .with_attributes(named)
        .build()
}

/// Reads a size from a variable, with a default.
fn size(name: &str, default: usize) -> Result<usize, SettingsError> {
    let Some(text) = variable(name) else { return Ok(default) };
    text.parse()
        .ok()
        .filter(|size| *size > 0)
        .ok_or_else(|| SettingsError::new(name, format!("expected a number from 1, got {text:?}")))
}

/// Builds one exporter for its route. The three signals have different builders with the same
/// methods.
macro_rules! exporter {
    ($exporter:ident, $route:expr, $http:expr) => {{
        let Route {
            protocol,
            endpoint,
            headers,
        } = $route;
        let built = match protocol {
            Protocol::Grpc => {
                let mut builder = $exporter::builder().with_tonic().with_metadata(metadata(&headers)?);
                if let Some(endpoint) = endpoint {
                    builder = builder.with_endpoint(endpoint);
                }
                builder.build()
            }
            Protocol::Http => {
                let mut builder = $exporter::builder()
                    .with_http()
                    .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
                    .with_http_client($http.clone())
                    .with_headers(headers.into_iter().collect());
                if let Some(endpoint) = endpoint {
                    builder = builder.with_endpoint(endpoint);
                }
                builder.build()
            }
        };
        built.map_err(|error| SettingsError::new("telemetry", error))?
    }};
}

fn metadata(headers: &std::collections::BTreeMap<String, String>) -> Result<MetadataMap, SettingsError> {
    let mut map = ::http::HeaderMap::new();
    for (name, value) in headers {
        let wrong = |error: &dyn fmt::Display| SettingsError::new(format!("the header {name}"), error);
        let key = ::http::HeaderName::try_from(name).map_err(|error| wrong(&error))?;
        map.insert(
            key,
            ::http::HeaderValue::try_from(value).map_err(|error| wrong(&error))?,
        );
    }
    Ok(MetadataMap::from_headers(map))
}

fn tracers(
    settings: &Settings,
    http: &Http,
    resource: &Resource,
    tallies: &Tallies,
) -> Result<SdkTracerProvider, SettingsError> {
    let mut builder = SdkTracerProvider::builder().with_resource(resource.clone());
    if variable("OTEL_TRACES_SAMPLER").is_none()
        && let Some(part) = settings.sampling
    {
        builder = builder.with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(part))));
    }
    let Some(route) = settings.route(Signal::Traces)? else {
        return Ok(builder.with_sampler(Sampler::AlwaysOff).build());
    };
    let tally = tallies.spans.clone();
    let exporter = Counted {
        exporter: exporter!(SpanExporter, route, http),
        tally: tally.clone(),
    };
    let capacity = size("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE)?;
    let config = trace::BatchConfigBuilder::default()
        .with_max_queue_size(capacity)
        .with_max_export_batch_size(size("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", SPANS_PER_REQUEST)?)
        .build();
    let next = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
    let capacity = capacity as u64;
    Ok(builder.with_span_processor(Bounded { next, tally, capacity }).build())
}

fn loggers(
    settings: &Settings,
    http: &Http,
    resource: &Resource,
    tallies: &Tallies,
) -> Result<SdkLoggerProvider, SettingsError> {
    let builder = SdkLoggerProvider::builder().with_resource(resource.clone());
    let Some(route) = settings.route(Signal::Logs)? else {
        return Ok(builder.build());
    };
    let tally = tallies.records.clone();
    let exporter = Counted {
        exporter: exporter!(LogExporter, route, http),
        tally: tally.clone(),
    };
    let capacity = size("OTEL_BLRP_MAX_QUEUE_SIZE", QUEUE)?;
    let config = logs::BatchConfigBuilder::default()
        .with_max_queue_size(capacity)
        .with_max_export_batch_size(size("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", RECORDS_A_REQUEST)?)
        .build();
    let next = BatchLogProcessor::builder(exporter).with_batch_config(config).build();
    let capacity = capacity as u64;
    Ok(builder.with_log_processor(Bounded { next, tally, capacity }).build())
}

fn meters(
    settings: &Settings,
    http: &Http,
    resource: &Resource,
    tallies: &Tallies,
) -> Result<SdkMeterProvider, SettingsError> {
    let builder = SdkMeterProvider::builder().with_resource(resource.clone());
    let Some(route) = settings.route(Signal::Metrics)? else {
        return Ok(builder.build());
    };
    let exporter = Counted {
        exporter: exporter!(MetricExporter, route, http),
        tally: tallies.metrics.clone(),
    };
    let mut reader = PeriodicReader::builder(exporter);
    if variable("OTEL_METRIC_EXPORT_INTERVAL").is_none()
        && let Some(interval) = settings.metric_interval
    {
        reader = reader.with_interval(interval);
    }
    Ok(builder.with_reader(reader.build()).build())
}
