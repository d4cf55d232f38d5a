//! An OTLP receiver in the test's process, over gRPC and HTTP, that keeps what it receives.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

pub use opentelemetry_proto::tonic::metrics::v1::{metric, number_data_point};
pub use opentelemetry_proto::tonic::trace::v1::{Span, status::StatusCode};

/// Everything received so far.
#[derive(Debug, Default, Clone)]
pub struct Received {
    /// The resource of each request.
    pub resources: Vec<Resource>,
    /// All spans.
    pub spans: Vec<Span>,
    /// All metrics of all exports.
    pub metrics: Vec<Metric>,
    /// All log records.
    pub records: Vec<LogRecord>,
    /// The headers of the requests, as name and value.
    pub headers: Vec<(String, String)>,
}

#[derive(Debug, Default)]
struct Inbox {
    received: Mutex<Received>,
    news: Condvar,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, change: impl FnOnce(&mut Received)) {
        change(&mut self.lock());
        self.news.notify_all();
    }

    fn traces(&self, request: ExportTraceServiceRequest) {
        self.take(|received| {
            for of_resource in request.resource_spans {
                received.resources.extend(of_resource.resource);
                received
                    .spans
                    .extend(of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        });
    }

    fn metrics(&self, request: ExportMetricsServiceRequest) {
        self.take(|received| {
            for of_resource in request.resource_metrics {
                received.resources.extend(of_resource.resource);
                received
                    .metrics
                    .extend(of_resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics));
            }
        });
    }

    fn logs(&self, request: ExportLogsServiceRequest) {
        self.take(|received| {
            for of_resource in request.resource_logs {
                received.resources.extend(of_resource.resource);
                received
                    .records
                    .extend(of_resource.scope_logs.into_iter().flat_map(|scope| scope.log_records));
            }
        });
    }

    fn headers(&self, headers: &hyper::HeaderMap) {
        let text = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
            (name.to_string(), value.to_str().unwrap_or_default().to_owned())
        };
        let all: Vec<_> = headers.iter().map(text).collect();
        self.take(|received| received.headers.extend(all));
    }
}

/// A receiver. It stops when dropped.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    inbox: Arc<Inbox>,
    _runtime: tokio::runtime::Runtime,
}

impl Receiver {
    /// Starts a gRPC receiver.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn grpc() -> Self {
        Self::start(|listener, inbox| async move {
            let connections = futures_util::stream::unfold(listener, |listener| async move {
                let accepted = listener.accept().await.map(|(stream, _)| stream);
                Some((accepted, listener))
            });
            let service = Service(inbox);
            let serving = tonic::transport::Server::builder()
                .add_service(TraceServiceServer::new(service.clone()))
                .add_service(MetricsServiceServer::new(service.clone()))
                .add_service(LogsServiceServer::new(service))
                .serve_with_incoming(connections);
            serving.await.expect("serving gRPC");
        })
    }

    /// Starts an HTTP receiver.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn http() -> Self {
        Self::start(|listener, inbox| async move {
            while let Ok((stream, _)) = listener.accept().await {
                let inbox = Arc::clone(&inbox);
                let answer = service_fn(move |request| answer(request, Arc::clone(&inbox)));
                let connection = hyper::server::conn::http1::Builder::new();
                // A client that disconnects is not an error.
                tokio::spawn(async move { drop(connection.serve_connection(TokioIo::new(stream), answer).await) });
            }
        })
    }

    /// Starts a receiver that accepts every connection and never answers.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn hanging() -> Self {
        Self::start(|listener, _| async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                held.push(stream);
            }
        })
    }

    fn start<S, F>(serve: S) -> Self
    where
        S: FnOnce(TcpListener, Arc<Inbox>) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("tokio runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("free port");
        let address = listener.local_addr().expect("local address");
        let inbox = Arc::<Inbox>::default();
        runtime.spawn(serve(listener, Arc::clone(&inbox)));
        Self {
            address,
            inbox,
            _runtime: runtime,
        }
    }

    /// The receiver's address, as a value for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Everything received so far.
    pub fn received(&self) -> Received {
        self.inbox.lock().clone()
    }

    /// Waits until enough has been received.
    ///
    /// # Panics
    ///
    /// If that takes longer than `within`.
    pub fn wait_for(&self, what: &str, within: Duration, enough: impl Fn(&Received) -> bool) -> Received {
        let deadline = Instant::now() + within;
        let mut received = self.inbox.lock();
        while !enough(&received) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "{what} was not received within {within:?}: {} spans, {} metrics, {} records",
                received.spans.len(),
                received.metrics.len(),
                received.records.len()
            );
            let waited = self.inbox.news.wait_timeout(received, left);
            received = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        received.clone()
    }
}

async fn answer(
    request: hyper::Request<Incoming>,
    inbox: Arc<Inbox>,
) -> Result<hyper::Response<Full<Bytes>>, hyper::Error> {
    inbox.headers(request.headers());
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let known = match path.as_str() {
        "/v1/traces" => ExportTraceServiceRequest::decode(body)
            .map(|request| inbox.traces(request))
            .is_ok(),
        "/v1/metrics" => ExportMetricsServiceRequest::decode(body)
            .map(|request| inbox.metrics(request))
            .is_ok(),
        "/v1/logs" => ExportLogsServiceRequest::decode(body)
            .map(|request| inbox.logs(request))
            .is_ok(),
        _ => false,
    };
    let mut response = hyper::Response::new(Full::default());
    if !known {
        *response.status_mut() = hyper::StatusCode::BAD_REQUEST;
    }
    Ok(response)
}

#[derive(Debug, Clone)]
struct Service(Arc<Inbox>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.headers(&request.metadata().clone().into_headers());
        self.0.traces(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Service {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.0.metrics(request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Service {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.0.logs(request.into_inner());
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

/// The value of an attribute as text, with list items separated by commas. Empty if there is no
/// such attribute.
pub fn attribute(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|pair| pair.key == key);
    found.and_then(|pair| pair.value.as_ref()).map(text).unwrap_or_default()
}

/// Any value as text.
pub fn text(value: &AnyValue) -> String {
    match &value.value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(Value::BoolValue(boolean)) => boolean.to_string(),
        Some(Value::ArrayValue(list)) => list.values.iter().map(text).collect::<Vec<_>>().join(","),
        _ => String::new(),
    }
}

impl Received {
    /// The spans with this name.
    pub fn spans_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Span> {
        self.spans.iter().filter(move |span| span.name == name)
    }

    /// The direct children of this span, in the order of their starts.
    pub fn children(&self, parent: &Span) -> Vec<&Span> {
        let mut children: Vec<&Span> = self
            .spans
            .iter()
            .filter(|span| span.parent_span_id == parent.span_id && span.trace_id == parent.trace_id)
            .collect();
        children.sort_by_key(|span| (span.start_time_unix_nano, span.end_time_unix_nano));
        children
    }

    /// The log records of the event with this name.
    pub fn events_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a LogRecord> {
        self.records.iter().filter(move |record| record.event_name == name)
    }
}
