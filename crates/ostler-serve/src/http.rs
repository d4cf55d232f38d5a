//! Workers that are called over HTTP/1.1 or HTTP/2 (feature `http`).
//!
//! [`HttpService`] is a `tower::Service` for `http::Request`, for `hyper`, `tower` layers, and, on
//! top of it, gRPC clients.

mod answer;
mod body;
mod connection;
mod problem;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Bytes, Incoming};

use crate::adapter::{Adapter, Attempt, Fault};
use crate::call::CallOptions;
use crate::client::Client;
use crate::error::BoxError;
use crate::lease::Lease;
use crate::observe::Description;
use crate::outcome::CallError;
use crate::pool::ServingPool;
use crate::session::Session;
use crate::worker::Worker;

pub use answer::Answer;
use body::WorkerBody;

pub use body::CutOff;
pub use connection::HttpConnection;
pub use problem::ProblemBody;

/// The body of a request on its way to a worker.
pub type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// A version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// HTTP/1.1: a connection for each call in flight, kept alive.
    #[default]
    Http1,
    /// HTTP/2 without TLS: one connection for all calls of a worker.
    Http2,
}

/// The adapter for HTTP.
#[derive(Debug, Clone)]
pub struct Http {
    version: Version,
    port: Option<Arc<str>>,
    /// Of the connection: both of the above.
    name: Arc<str>,
}

impl Default for Http {
    fn default() -> Self {
        Self::new(Version::default())
    }
}

impl Http {
    /// This version, at the worker's one port.
    pub fn new(version: Version) -> Self {
        Self::to(version, None)
    }

    /// At the port of this name.
    #[must_use]
    pub fn port(self, name: impl Into<Arc<str>>) -> Self {
        Self::to(self.version, Some(name.into()))
    }

    fn to(version: Version, port: Option<Arc<str>>) -> Self {
        let name = format!("{version:?} {port:?}").into();
        Self { version, port, name }
    }
}

impl Adapter for Http {
    type Connection = HttpConnection;
    type Request = Request<RequestBody>;
    type Response = Response<Incoming>;

    async fn connect(&self, worker: &Arc<Worker>) -> Result<HttpConnection, BoxError> {
        let endpoint = worker
            .endpoint(self.port.as_deref())
            .ok_or("the pool's workers have no such port; set port, or name one of ports")?;
        HttpConnection::open(self.version, endpoint.clone()).await
    }

    fn is_open(&self, connection: &HttpConnection) -> bool {
        connection.is_open()
    }

    fn keeps_warm(&self) -> bool {
        self.version == Version::Http2
    }

    fn connection_name(&self) -> &str {
        &self.name
    }

    async fn call(
        &self,
        connection: &HttpConnection,
        request: Request<RequestBody>,
        attempt: &Attempt,
    ) -> Result<Response<Incoming>, Fault<Request<RequestBody>>> {
        connection.send(request, attempt).await
    }

    fn describe(&self, request: &Request<RequestBody>) -> Description {
        let description = Description::http(request.method().as_str(), request.uri().path());
        in_trace_of(request, description)
    }

    /// A request without a body can be sent again; one whose body is read as it goes can't.
    fn copy(&self, request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
        if !request.body().is_end_stream() {
            return None;
        }
        let mut copy = Request::new(empty());
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.headers_mut() = request.headers().clone();
        *copy.extensions_mut() = request.extensions().clone();
        Some(copy)
    }
}

/// The description with the place in a trace that the request's own headers name.
pub(crate) fn in_trace_of(request: &Request<RequestBody>, description: Description) -> Description {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    match header(TRACE_PARENT) {
        Some(parent) => description.parent(parent, header(TRACE_STATE)),
        None => description,
    }
}

/// Sends a request, and returns the response with its flight. `adjust` sets options that the
/// request itself brings.
pub(crate) async fn send<A, B>(
    client: &Client<A>,
    request: Request<B>,
    adjust: impl FnOnce(&mut CallOptions, &mut Request<RequestBody>),
) -> Result<Response<Answer>, CallError>
where
    A: Adapter<Request = Request<RequestBody>, Response = Response<Incoming>>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let mut request = request.map(|body| body.map_err(Into::into).boxed_unsync());
    let mut options = request.extensions().get::<CallOptions>().cloned().unwrap_or_default();
    adjust(&mut options, &mut request);
    options.deadline = options.own_deadline();
    let (response, flight) = client.begin(request, &options).await?;
    if let Some(observed) = flight.observed() {
        match response
            .headers()
            .get(GRPC_STATUS)
            .and_then(|status| status.to_str().ok())
        {
            Some(status) => observed.grpc_status(status),
            None => observed.http_status(response.status().as_u16()),
        }
    }
    let mut response = response;
    let in_use = response.extensions_mut().remove();
    Ok(response.map(|body| Answer::worker(WorkerBody::new(body, flight, in_use, options.deadline))))
}

const TRACE_PARENT: &str = "traceparent";
const TRACE_STATE: &str = "tracestate";
const GRPC_STATUS: &str = "grpc-status";

fn empty() -> RequestBody {
    http_body_util::Empty::new()
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A `tower::Service` for `http::Request`: each request goes to a worker of the pool.
///
/// Its requests are always answered: one that was refused by 503, one whose outcome is unknown by
/// 502, or by 504 at its deadline, each with an `application/problem+json` body.
/// [`HttpService::send`] returns the outcome as a type instead.
///
/// The worker is busy until the response's body has been read to its end or is dropped. An
/// extension of type [`CallOptions`] in the request sets its deadline, which is for the body, too,
/// or marks it idempotent; the pool's `timeout` is for the beginning of the response. GET,
/// HEAD, PUT, DELETE and OPTIONS requests without a body are idempotent by RFC 9110.
#[derive(Debug, Clone)]
pub struct HttpService {
    client: Client<Http>,
}

impl HttpService {
    fn new(client: Client<Http>) -> Self {
        Self { client }
    }

    /// Sends a request. Cancel safe: dropped, it is cancelled; see [`Client::call`].
    ///
    /// # Errors
    /// The call was refused, or its outcome is unknown: [`CallError`].
    pub async fn send<B>(&self, request: Request<B>) -> Result<Response<Answer>, CallError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let adjust = |options: &mut CallOptions, request: &mut Request<RequestBody>| {
            options.idempotent |= request.method().is_idempotent();
        };
        send(&self.client, request, adjust).await
    }
}

impl<B> tower_service::Service<Request<B>> for HttpService
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    /// Always ready: the queue is the pool's.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            Ok(service
                .send(request)
                .await
                .unwrap_or_else(|error| problem::response(&error)))
        })
    }
}

macro_rules! http_clients {
    ($($caller:ident: $whose:literal;)*) => {$(
        impl $caller {
            #[doc = concat!("HTTP/1.1 to the one port of ", $whose, ".")]
            pub fn http(&self) -> HttpService {
                self.http_with(Http::default())
            }

            #[doc = concat!("HTTP by this adapter to ", $whose, ".")]
            pub fn http_with(&self, http: Http) -> HttpService {
                HttpService::new(self.client(http))
            }
        }
    )*};
}

http_clients! {
    ServingPool: "the workers";
    Session: "the session's worker";
    Lease: "the leased worker";
}
