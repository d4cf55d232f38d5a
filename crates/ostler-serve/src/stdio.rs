//! Workers that are called over their stdin and stdout (feature `stdio`).
//!
//! Frames are those of the worker protocol, version 1 (`docs/worker-protocol.md`): length-prefixed
//! MessagePack, or JSON lines. Requests carry ids, so as many are in flight as the pool's
//! `concurrency` allows. The pool's workers need `stdin = "pipe"`; their stderr stays the log.

mod connection;
mod framing;
mod message;

use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::adapter::{Adapter, Attempt, Fault};
use crate::call::CallOptions;
use crate::client::Client;
use crate::lease::Lease;
use crate::observe::Description;
use crate::outcome::{CallError, Refused};
use crate::pool::ServingPool;
use crate::session::Session;
use crate::worker::Worker;

pub use connection::StdioConnection;
pub use framing::{Framing, JsonLines, MAX_FRAME, Packet};
pub use message::WorkerException;

/// The adapter for frames of this kind. What it sends and receives is encoded already:
/// [`StdioClient`] is the typed client above it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stdio<F>(PhantomData<fn() -> F>);

/// A request as [`Stdio`] sends it.
#[derive(Debug, Clone)]
pub struct StdioRequest {
    /// Which method; `None`: the worker's only one.
    pub method: Option<Arc<str>>,
    /// Its argument, encoded by the framing.
    pub body: Vec<u8>,
}

impl<F: Framing> Adapter for Stdio<F> {
    type Connection = StdioConnection<F>;
    type Request = StdioRequest;
    /// The frame of the response.
    type Response = Vec<u8>;

    /// There is one pair of pipes for the life of a process.
    const RECONNECTS: bool = false;

    async fn connect(&self, worker: &Arc<Worker>) -> Result<Self::Connection, String> {
        StdioConnection::open(worker)
    }

    fn is_open(&self, connection: &Self::Connection) -> bool {
        connection.is_open()
    }

    async fn call(
        &self,
        connection: &Self::Connection,
        request: StdioRequest,
        attempt: &Attempt,
    ) -> Result<Vec<u8>, Fault<StdioRequest>> {
        connection.call(request, attempt).await
    }

    fn describe(&self, request: &StdioRequest) -> Description {
        Description::rpc("ostler", request.method.as_deref().unwrap_or_default())
    }

    fn copy(&self, request: &StdioRequest) -> Option<StdioRequest> {
        Some(request.clone())
    }
}

/// Why a call over stdio has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StdioError {
    /// It was refused, or its outcome is unknown.
    #[error(transparent)]
    Call(#[from] CallError),
    /// It was answered, with an error.
    #[error("{0}")]
    Worker(Box<WorkerException>),
    /// It was answered, with a result that is not of the expected type.
    #[error("the result has another type than expected: {0}")]
    Result(String),
}

/// A typed client of workers that speak over stdin and stdout.
#[derive(Debug)]
pub struct StdioClient<Request, Response, F = Packet> {
    client: Client<Stdio<F>>,
    method: Option<Arc<str>>,
    types: PhantomData<fn(Request) -> Response>,
}

impl<Request, Response, F> Clone for StdioClient<Request, Response, F> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            method: self.method.clone(),
            types: PhantomData,
        }
    }
}

impl<Request: Serialize, Response: DeserializeOwned, F: Framing> StdioClient<Request, Response, F> {
    fn new(client: Client<Stdio<F>>) -> Self {
        Self {
            client,
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

    /// Makes a call. Dropped, it leaves the queue or is cancelled; see [`Client::call`].
    ///
    /// # Errors
    /// The call was refused, its outcome is unknown, or the answer is an error: [`StdioError`].
    pub async fn call(&self, request: &Request) -> Result<Response, StdioError> {
        self.call_with(request, &CallOptions::new()).await
    }

    /// The same, with a deadline or a mark of its own.
    ///
    /// # Errors
    /// As [`StdioClient::call`].
    pub async fn call_with(&self, request: &Request, options: &CallOptions) -> Result<Response, StdioError> {
        let body = F::encode(request).map_err(|why| CallError::from(Refused::Invalid { why }))?;
        let request = StdioRequest {
            method: self.method.clone(),
            body,
        };
        let frame = self.client.call_with(request, options).await?;
        let response: message::Response<Response> = F::decode(&frame).map_err(StdioError::Result)?;
        match (response.ok, response.error) {
            (Some(result), _) => Ok(result),
            (None, Some(error)) => Err(StdioError::Worker(Box::new(error))),
            (None, None) => Err(StdioError::Result("it has neither `ok` nor `error`".into())),
        }
    }
}

macro_rules! stdio_clients {
    ($($caller:ident: $whose:literal;)*) => {$(
        impl $caller {
            #[doc = concat!("A client of ", $whose, " over stdin and stdout, in length-prefixed MessagePack.")]
            pub fn stdio<Request: Serialize, Response: DeserializeOwned>(&self) -> StdioClient<Request, Response> {
                StdioClient::new(self.client(Stdio::default()))
            }

            #[doc = concat!("A client of ", $whose, " over stdin and stdout, in JSON lines.")]
            pub fn json_lines<Request: Serialize, Response: DeserializeOwned>(
                &self,
            ) -> StdioClient<Request, Response, JsonLines> {
                StdioClient::new(self.client(Stdio::default()))
            }
        }
    )*};
}

stdio_clients! {
    ServingPool: "the pool's workers";
    Session: "the session's worker";
    Lease: "the leased worker";
}
