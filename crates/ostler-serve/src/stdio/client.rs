//! The typed client of the methods of workers.

use std::marker::PhantomData;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Stdio;
use super::framing::{Framing, Packet};
use super::large::receiving;
use super::request::{Encoded, StdioAnswer, StdioRequest};
use super::result::{StdioError, decoded};
use super::stream::ResponseStream;
use crate::call::CallOptions;
use crate::client::Client;
use crate::flight::Flight;
#[cfg(feature = "grpc")]
use crate::grpc::methods::GrpcMethods;
use crate::outcome::CallError;

/// What carries a client's calls.
#[derive(Debug)]
pub(crate) enum Via<F> {
    /// The workers' stdin and stdout.
    Pipes(Client<Stdio<F>>),
    /// The service `ostler.worker.v1.Worker`.
    #[cfg(feature = "grpc")]
    Grpc(Client<GrpcMethods>),
}

impl<F> Clone for Via<F> {
    fn clone(&self) -> Self {
        match self {
            Self::Pipes(client) => Self::Pipes(client.clone()),
            #[cfg(feature = "grpc")]
            Self::Grpc(client) => Self::Grpc(client.clone()),
        }
    }
}

impl<F: Framing> Via<F> {
    async fn call(&self, request: StdioRequest, options: &CallOptions) -> Result<StdioAnswer, CallError> {
        match self {
            Self::Pipes(client) => client.call_with(request, options).await,
            #[cfg(feature = "grpc")]
            Self::Grpc(client) => client.call_with(request, options).await,
        }
    }

    async fn begin(&self, request: StdioRequest, options: &CallOptions) -> Result<(StdioAnswer, Flight), CallError> {
        match self {
            Self::Pipes(client) => client.begin(request, options).await,
            #[cfg(feature = "grpc")]
            Self::Grpc(client) => client.begin(request, options).await,
        }
    }
}

/// A typed client of the methods of workers: over their stdin and stdout, or over gRPC
/// ([`ServingPool::method`](crate::ServingPool::method)).
#[derive(Debug)]
pub struct StdioClient<Request, Response, F = Packet> {
    via: Via<F>,
    method: Option<Arc<str>>,
    types: PhantomData<fn(Request) -> Response>,
}

impl<Request, Response, F> Clone for StdioClient<Request, Response, F> {
    fn clone(&self) -> Self {
        Self {
            via: self.via.clone(),
            method: self.method.clone(),
            types: PhantomData,
        }
    }
}

impl<Request, Response: DeserializeOwned, F: Framing> StdioClient<Request, Response, F> {
    pub(crate) fn new(via: Via<F>) -> Self {
        Self {
            via,
            method: None,
            types: PhantomData,
        }
    }

    /// Calls this method. Default: the worker's only one.
    #[must_use]
    pub fn method(mut self, name: impl Into<Arc<str>>) -> Self {
        self.method = Some(name.into());
        self
    }

    /// A call whose request is of any type.
    pub(crate) async fn call_any<T: Serialize + ?Sized>(
        &self,
        request: &T,
        options: &CallOptions,
    ) -> Result<Response, StdioError> {
        let body = Encoded::new::<F, _>(request).map_err(StdioError::invalid)?;
        let request = StdioRequest::of(self.method.clone(), body);
        result::<F, _>(self.via.call(request, options).await?)
    }
}

impl<Request: Serialize, Response: DeserializeOwned, F: Framing> StdioClient<Request, Response, F> {
    /// Makes a call. Cancel safe: dropped, it leaves the queue or is cancelled; see
    /// [`Client::call`].
    ///
    /// # Errors
    /// The call was refused, its outcome is unknown, or the answer is an error: [`StdioError`].
    pub async fn call(&self, request: &Request) -> Result<Response, StdioError> {
        self.call_with(request, &CallOptions::new()).await
    }

    /// The same, with a deadline or a mark of its own. Cancel safe in the same way.
    ///
    /// # Errors
    /// As [`StdioClient::call`].
    pub async fn call_with(&self, request: &Request, options: &CallOptions) -> Result<Response, StdioError> {
        self.call_any(request, options).await
    }

    /// Calls a method that is a generator, and returns its items as they come.
    ///
    /// The pool's `timeout` is for the first item; the stream may last as long as it likes. Cancel
    /// safe: dropped, as a call; the [`ResponseStream`] is cancelled when that is dropped.
    ///
    /// # Errors
    /// As [`StdioClient::call`], up to the first item; later ones are those of
    /// [`ResponseStream::next`].
    pub async fn stream(&self, request: &Request) -> Result<ResponseStream<Response, F>, StdioError> {
        self.stream_with(request, &CallOptions::new()).await
    }

    /// The same; a deadline in the options is for the whole stream. Cancel safe in the same way.
    ///
    /// # Errors
    /// As [`StdioClient::stream`].
    pub async fn stream_with(
        &self,
        request: &Request,
        options: &CallOptions,
    ) -> Result<ResponseStream<Response, F>, StdioError> {
        self.begin_stream(self.request(request)?, options).await
    }

    fn request(&self, request: &Request) -> Result<StdioRequest, StdioError> {
        let body = Encoded::new::<F, _>(request).map_err(StdioError::invalid)?;
        Ok(StdioRequest::of(self.method.clone(), body))
    }
}

impl<Request: Serialize + 'static, Response: DeserializeOwned, F: Framing> StdioClient<Request, Response, F> {
    /// Calls a method whose first parameter is a stream, with these items, and returns its one
    /// result. At most 16 items are on their way: the next one is taken from `items` when the
    /// handler has read one.
    ///
    /// A call with a stream is tried once. Cancel safe: dropped, the call is cancelled, and the
    /// handler's stream ends in an error.
    ///
    /// # Errors
    /// As [`StdioClient::call`].
    pub async fn send<S>(&self, items: S, options: &CallOptions) -> Result<Response, StdioError>
    where
        S: Stream<Item = Request> + Send + 'static,
    {
        let request = self.request_of(items);
        result::<F, _>(self.via.call(request, options).await?)
    }

    /// Calls a method whose first parameter is a stream, and that is a generator itself. Cancel
    /// safe, as [`StdioClient::stream`] is.
    ///
    /// # Errors
    /// As [`StdioClient::stream`].
    pub async fn exchange<S>(&self, items: S, options: &CallOptions) -> Result<ResponseStream<Response, F>, StdioError>
    where
        S: Stream<Item = Request> + Send + 'static,
    {
        self.begin_stream(self.request_of(items), options).await
    }

    fn request_of<S>(&self, items: S) -> StdioRequest
    where
        S: Stream<Item = Request> + Send + 'static,
    {
        let mut request = StdioRequest::of(self.method.clone(), Encoded::default());
        request.input = Some(Box::pin(items.map(|item| Encoded::new::<F, _>(&item))));
        request
    }
}

impl<Request, Response: DeserializeOwned, F: Framing> StdioClient<Request, Response, F> {
    async fn begin_stream(
        &self,
        mut request: StdioRequest,
        options: &CallOptions,
    ) -> Result<ResponseStream<Response, F>, StdioError> {
        let deadline = options.own_deadline();
        request.streams = true;
        request.deadline = deadline;
        let (answer, flight) = self.via.begin(request, options).await?;
        Ok(ResponseStream::new(answer, flight, deadline))
    }
}

/// The result in an answer.
fn result<F: Framing, T: DeserializeOwned>(answer: StdioAnswer) -> Result<T, StdioError> {
    let received = answer.first;
    match received.head.kind.as_deref() {
        Some("item" | "end") => Err(StdioError::Result(
            "the method answers with a stream: use `stream`".into(),
        )),
        _ => receiving(received.segments, || decoded::<F, T>(&received.frame)),
    }
}
