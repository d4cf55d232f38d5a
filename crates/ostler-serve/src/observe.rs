//! A call as telemetry sees it: one client span with OpenTelemetry's names, its place in the trace
//! for the worker, and its outcome.

use std::sync::Arc;
use std::time::Duration;

use ostler::{Clients, ClientsSnapshot, Endpoint, Pool};
use ostler_core::failure::Failure;
use ostler_telemetry::names::span_event;
use ostler_telemetry::{CallEnd, SpanLink, context};
use tokio::time::Instant;
use tracing::Span;
use tracing::field::Empty;

use crate::outcome::{CallError, Lost};
use crate::policy::breaker::BreakerState;
use crate::pool::Serving;
use crate::worker::Worker;

/// The methods of HTTP by RFC 9110 and RFC 5789: those that OpenTelemetry's conventions know.
const HTTP_METHODS: [&str; 9] = [
    "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE",
];

/// What telemetry says about a request, in OpenTelemetry's terms.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Description {
    name: Option<String>,
    system: Option<&'static str>,
    method: Option<String>,
    http_method: Option<String>,
    /// One that is `_OTHER`.
    original_method: Option<String>,
    path: Option<String>,
    parent: SpanLink,
}

impl Description {
    /// A remote procedure call: its system, such as `grpc`, and the full name of its method.
    pub fn rpc(system: &'static str, method: impl Into<String>) -> Self {
        let method = method.into();
        Self {
            name: (!method.is_empty()).then(|| method.clone()),
            system: Some(system),
            method: (!method.is_empty()).then_some(method),
            ..Self::default()
        }
    }

    /// An HTTP request. The query of its address, which may hold secrets, is left out.
    ///
    /// A method that OpenTelemetry's conventions do not list is `_OTHER`, so that a client cannot
    /// invent names without end; the span is then called `HTTP`.
    pub fn http(method: impl Into<String>, path: impl Into<String>) -> Self {
        let method = method.into();
        let described = Self {
            path: Some(path.into()),
            ..Self::default()
        };
        if HTTP_METHODS.contains(&&*method) {
            return Self {
                name: Some(method.clone()),
                http_method: Some(method),
                ..described
            };
        }
        Self {
            name: Some("HTTP".to_owned()),
            http_method: Some("_OTHER".to_owned()),
            original_method: Some(method),
            ..described
        }
    }

    /// The call belongs to this place in a trace (W3C `traceparent` and `tracestate`), unless a
    /// span of the caller is entered.
    pub fn parent(mut self, traceparent: &str, tracestate: Option<&str>) -> Self {
        self.parent = SpanLink::from_headers(traceparent, tracestate);
        self
    }
}

/// A call under way. Dropped before its end is known, its caller has given up.
#[derive(Debug)]
pub(crate) struct Observed {
    pool: Pool,
    span: Span,
    /// Of an HTTP request.
    path: Option<String>,
    begun: Instant,
    waited: Duration,
    ended: bool,
}

impl Observed {
    /// A call begins. Its description is only made if a span needs it.
    pub(crate) fn begin(serving: &Serving, describe: impl FnOnce() -> Description) -> Self {
        let (span, path) = if tracing::span_enabled!(target: "ostler", tracing::Level::INFO) {
            let what = describe();
            (span(serving.pool(), &what), what.path)
        } else {
            (Span::none(), None)
        };
        Self {
            pool: serving.pool().clone(),
            span,
            path,
            begun: Instant::now(),
            waited: Duration::ZERO,
            ended: false,
        }
    }

    /// It has waited for a worker.
    pub(crate) fn waited(&mut self, waited: Duration) {
        self.waited += waited;
        context::note_duration(&self.span, span_event::QUEUED, waited);
    }

    /// How long it has waited for workers.
    pub(crate) fn has_waited(&self) -> Duration {
        self.waited
    }

    /// It is about to be sent to this worker. Returns the call's place in its trace, for the
    /// worker.
    pub(crate) fn sending_to(&self, worker: &Worker) -> Option<(String, Option<String>)> {
        if self.span.is_disabled() {
            return None;
        }
        self.span.record("ostler.worker", worker.who().id.to_string());
        self.span.record("ostler.incarnation", worker.who().incarnation.0);
        match worker.endpoint(None) {
            Some(Endpoint::Tcp(address)) => {
                self.span.record("server.address", address.ip().to_string());
                self.span.record("server.port", address.port());
                self.address(&address.to_string());
            }
            Some(Endpoint::Unix(path)) => {
                self.span.record("server.address", path.display().to_string());
                self.address("localhost");
            }
            _ => {}
        }
        context::link_of(&self.span).headers()
    }

    /// The address of an HTTP request, without its query.
    fn address(&self, authority: &str) {
        if let Some(path) = &self.path {
            self.span.record("url.full", format!("http://{authority}{path}"));
        }
    }

    /// The status of an HTTP response.
    #[cfg(feature = "http")]
    pub(crate) fn http_status(&self, status: u16) {
        self.span.record("http.response.status_code", status);
        if status >= 500 {
            self.span.record("otel.status_code", "ERROR");
            self.span.record("error.type", status.to_string());
        }
    }

    /// The status of a gRPC response, as its header or trailer has it.
    #[cfg(feature = "http")]
    pub(crate) fn grpc_status(&self, code: &str) {
        let name = grpc_name(code);
        self.span.record("rpc.response.status_code", name);
        if name != "OK" {
            self.span.record("otel.status_code", "ERROR");
            self.span.record("error.type", name);
        }
    }

    /// The answer is complete.
    pub(crate) fn answered(mut self) {
        self.end("answered", None);
    }

    /// It has no answer.
    pub(crate) fn failed(mut self, error: &CallError) {
        self.note(error);
    }

    /// The same, where the call goes on being read.
    pub(crate) fn note(&mut self, error: &CallError) {
        let (outcome, reason) = match error {
            CallError::Refused(refused) => ("refused", refused.name()),
            CallError::Unknown(unknown) => {
                if let (Lost::Worker, Some(failure)) = (&unknown.cause, &unknown.failure) {
                    self.failure(failure);
                }
                ("unknown", unknown.name())
            }
        };
        self.span.record("otel.status_code", "ERROR");
        self.span.record("error.type", reason);
        self.end(outcome, Some(reason));
    }

    fn failure(&self, failure: &Arc<Failure>) {
        context::fail(&self.span, failure);
    }

    fn end(&mut self, outcome: &'static str, reason: Option<&'static str>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.span.record("ostler.outcome", outcome);
        if let Some(observer) = self.pool.observer() {
            let (app, pool) = (self.pool.app(), self.pool.name());
            let mut end = CallEnd::new(app, pool, outcome, self.waited, self.begun.elapsed());
            end.reason = reason;
            observer.call(&end);
        }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.end("cancelled", None);
    }
}

fn span(pool: &Pool, what: &Description) -> Span {
    let name = what.name.as_deref().unwrap_or(ostler_telemetry::names::span::CALL);
    let span = tracing::info_span!(
        target: "ostler", "ostler.call",
        otel.name = name, otel.kind = "client", otel.status_code = Empty, error.type = Empty,
        ostler.app = pool.app(), ostler.pool = pool.name(), ostler.worker = Empty, ostler.incarnation = Empty,
        ostler.outcome = Empty,
        rpc.system.name = what.system, rpc.method = what.method.as_deref(), rpc.response.status_code = Empty,
        http.request.method = what.http_method.as_deref(),
        http.request.method_original = what.original_method.as_deref(), url.path = what.path.as_deref(), url.full = Empty,
        http.response.status_code = Empty, server.address = Empty, server.port = Empty,
    );
    if Span::current().is_none() {
        context::place_below(&span, &what.parent);
    }
    span
}

/// The name of a gRPC status code.
#[cfg(feature = "http")]
fn grpc_name(code: &str) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let code = code.parse().ok().and_then(|code: usize| NAMES.get(code));
    code.copied().unwrap_or("UNKNOWN")
}

impl Clients for Serving {
    fn snapshot(&self) -> ClientsSnapshot {
        let state = self.state();
        let mut snapshot = ClientsSnapshot::new(self.pool().app(), self.pool().name());
        snapshot.in_flight = state.in_flight;
        snapshot.queued = state.queued as u64;
        snapshot.sessions = state.sessions as u64;
        snapshot.breaker = match state.breaker {
            BreakerState::Closed => 0,
            BreakerState::HalfOpen => 1,
            BreakerState::Open => 2,
        };
        snapshot
    }
}
