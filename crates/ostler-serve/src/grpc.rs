//! Workers that are gRPC servers (feature `grpc`): `EmbedderClient::new(pool.grpc())`, for any
//! client that tonic generates.
//!
//! One HTTP/2 connection per worker carries all its calls: unary, client, server and bidirectional
//! streams, with the back-pressure of HTTP/2 in both directions. A call that is dropped is reset.
//! The worker is busy until the call's trailers have arrived.

#[cfg(feature = "stdio")]
pub(crate) mod methods;
#[cfg(feature = "stdio")]
mod rpc;
mod status;
mod stream;
mod timeout;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ::http::{Request, Response};
use hyper::body::{Body, Bytes, Incoming};
use tokio::time::Instant;
use tonic::Status;

use crate::adapter::{Adapter, Attempt, Fault};
use crate::call::CallOptions;
use crate::client::Client;
use crate::error::BoxError;
use crate::http::{self, Http, HttpConnection, RequestBody, Version};
use crate::lease::Lease;
use crate::observe::Description;
use crate::pool::ServingPool;
use crate::session::Session;
use crate::worker::Worker;

pub use status::{FAILURE, OUTCOME, REASON, STDERR, WORKER, status};
pub use stream::GrpcBody;

/// The adapter for gRPC: HTTP/2, with what is left of a request's `grpc-timeout` passed on.
#[derive(Debug, Clone)]
pub struct Grpc(Http);

impl Default for Grpc {
    /// At the worker's one port.
    fn default() -> Self {
        Self(Http::new(Version::Http2))
    }
}

impl Grpc {
    /// At the port of this name.
    #[must_use]
    pub fn port(self, name: impl Into<Arc<str>>) -> Self {
        Self(self.0.port(name))
    }
}

impl Adapter for Grpc {
    type Connection = HttpConnection;
    type Request = Request<RequestBody>;
    type Response = Response<Incoming>;

    async fn connect(&self, worker: &Arc<Worker>) -> Result<HttpConnection, BoxError> {
        self.0.connect(worker).await
    }

    fn is_open(&self, connection: &HttpConnection) -> bool {
        self.0.is_open(connection)
    }

    fn keeps_warm(&self) -> bool {
        self.0.keeps_warm()
    }

    fn connection_name(&self) -> &str {
        self.0.connection_name()
    }

    async fn call(
        &self,
        connection: &HttpConnection,
        mut request: Request<RequestBody>,
        attempt: &Attempt,
    ) -> Result<Response<Incoming>, Fault<Request<RequestBody>>> {
        // The worker gets the time that is left after the queue.
        timeout::pass_on(request.headers_mut(), attempt.deadline());
        self.0.call(connection, request, attempt).await
    }

    fn describe(&self, request: &Request<RequestBody>) -> Description {
        let method = request.uri().path().trim_start_matches('/');
        http::in_trace_of(request, Description::rpc("grpc", method))
    }
}

/// A `tower::Service` for the clients that tonic generates.
///
/// A call that has no answer is a `tonic::Status` with the facts in its metadata: [`OUTCOME`]
/// (`refused` or `unknown`), [`REASON`], [`WORKER`], [`FAILURE`] and [`STDERR`].
///
/// A request's `grpc-timeout` is the one deadline for queue, call and retries, and so is a deadline
/// in an extension of type [`CallOptions`], which sets further options, too: the earlier one
/// counts, and what is left of it is passed on to the worker. Without either, the pool's `timeout`
/// applies until the response begins, so a stream may last any time; the worker does not learn of
/// it.
#[derive(Debug, Clone)]
pub struct GrpcService {
    client: Client<Grpc>,
}

impl GrpcService {
    async fn send<B>(&self, request: Request<B>) -> Result<Response<GrpcBody>, Status>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let adjust = |options: &mut CallOptions, request: &mut Request<RequestBody>| {
            let due = timeout::of(request.headers()).and_then(|timeout| Instant::now().checked_add(timeout));
            options.deadline = options.own_deadline().into_iter().chain(due).min();
            timeout::announce(request.headers_mut(), options.deadline);
        };
        let response = http::send(&self.client, request, adjust).await;
        let response = response.map_err(|error| status(&error))?;
        // Trailers-only: the status is among the headers, and no trailers follow.
        let complete = response.headers().contains_key("grpc-status");
        Ok(response.map(|body| GrpcBody::new(body, complete)))
    }
}

impl<B> tower_service::Service<Request<B>> for GrpcService
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<GrpcBody>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    /// Always ready: the queue is the pool's.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { service.send(request).await })
    }
}

macro_rules! grpc_clients {
    ($($caller:ident: $whose:literal;)*) => {$(
        impl $caller {
            #[doc = concat!("What a generated client for ", $whose, " is made of: `EmbedderClient::new(….grpc())`.")]
            pub fn grpc(&self) -> GrpcService {
                self.grpc_with(Grpc::default())
            }

            /// The same, with this adapter.
            pub fn grpc_with(&self, grpc: Grpc) -> GrpcService {
                GrpcService {
                    client: self.client(grpc),
                }
            }
        }
    )*};
}

grpc_clients! {
    ServingPool: "the pool's workers";
    Session: "the session's worker";
    Lease: "the leased worker";
}
