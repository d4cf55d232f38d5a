//! Workers that are called over their stdin and stdout (feature `stdio`), and the worker protocol,
//! which is the same over gRPC: [`ServingPool::method`](crate::ServingPool::method) chooses.
//!
//! Frames are those of the worker protocol, version 1 (`docs/worker-protocol.md`): length-prefixed
//! MessagePack, or JSON lines. Requests carry ids, so as many are in flight as the pool's
//! `concurrency` allows. The pool's workers need `stdin = "pipe"`; their stderr stays the log.
//!
//! | the handler | is called by |
//! |---|---|
//! | takes a value, returns one | [`StdioClient::call`] |
//! | is a generator | [`StdioClient::stream`] |
//! | reads a stream | [`StdioClient::send`] |
//! | both | [`StdioClient::exchange`] |
//!
//! Bytes and arrays of 1 MiB and more travel in shared memory when they are a [`Blob`] or an
//! [`Array`].

mod client;
mod connection;
pub(crate) mod exchange;
pub(crate) mod framing;
mod functions;
mod kind;
mod large;
pub(crate) mod message;
pub(crate) mod peer;
pub(crate) mod reading;
mod request;
mod result;
pub(crate) mod routes;
mod stream;

use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::adapter::{Adapter, Attempt, Fault};
use crate::connect::connection;
use crate::error::BoxError;
use crate::lease::Lease;
use crate::observe::Description;
use crate::pool::{Serving, ServingPool};
use crate::session::Session;
use crate::worker::Worker;

pub use crate::exception::{ExceptionClass, WorkerException};
pub use client::StdioClient;
pub(crate) use client::Via;
pub use connection::StdioConnection;
pub use framing::{Framing, JsonLines, MAX_FRAME, Packet};
pub(crate) use functions::Functions;
pub use functions::HostCall;
pub use large::{Array, ArrowStream, Blob, Element, SHARED_MIN};
pub use request::{StdioAnswer, StdioRequest};
pub use result::StdioError;
pub use stream::ResponseStream;

/// The adapter for frames of this kind. What it sends and receives is encoded already:
/// [`StdioClient`] is the typed client above it.
#[derive(Debug, Clone)]
pub struct Stdio<F> {
    functions: Functions,
    framing: PhantomData<fn() -> F>,
}

impl<F> Stdio<F> {
    fn of(serving: &Serving) -> Self {
        Self {
            functions: serving.functions.clone(),
            framing: PhantomData,
        }
    }
}

/// A worker's answer to a `ping` on its pipes.
pub(crate) async fn ping(serving: &Serving, worker: &Arc<Worker>) -> Result<Vec<u8>, BoxError> {
    let adapter = Stdio::<Packet>::of(serving);
    connection(&adapter, worker, None).await?.ping().await
}

impl<F: Framing> Adapter for Stdio<F> {
    type Connection = StdioConnection<F>;
    type Request = StdioRequest;
    type Response = StdioAnswer;

    /// There is one pair of pipes for the life of a process.
    const RECONNECTS: bool = false;

    async fn connect(&self, worker: &Arc<Worker>) -> Result<Self::Connection, BoxError> {
        StdioConnection::open(worker, &self.functions)
    }

    fn is_open(&self, connection: &Self::Connection) -> bool {
        connection.is_open()
    }

    async fn call(
        &self,
        connection: &Self::Connection,
        request: StdioRequest,
        attempt: &Attempt,
    ) -> Result<StdioAnswer, Fault<StdioRequest>> {
        connection.call(request, attempt).await
    }

    fn describe(&self, request: &StdioRequest) -> Description {
        request.description()
    }

    fn copy(&self, request: &StdioRequest) -> Option<StdioRequest> {
        request.copy()
    }
}

impl ServingPool {
    /// Offers a function to the handlers of workers, over stdio or gRPC: `ctx.host.lookup(key)` in
    /// Python.
    ///
    /// One positional argument is decoded as `A` itself, several as a tuple, named ones as a
    /// struct, none as `()`. An error is a `HostError` with the name of its type in the handler.
    /// The function's task ends with the handler's request. Workers learn of the functions that
    /// were offered before their first call.
    pub fn offer<A, R, E, Call, Answer>(&self, name: impl Into<String>, function: Call)
    where
        A: DeserializeOwned,
        R: Serialize,
        E: std::fmt::Display,
        Call: Fn(A, HostCall) -> Answer + Send + Sync + 'static,
        Answer: Future<Output = Result<R, E>> + Send + 'static,
    {
        self.serving().functions.add(name.into(), function);
    }
}

macro_rules! stdio_clients {
    ($($caller:ident: $whose:literal;)*) => {$(
        impl $caller {
            #[doc = concat!("A client of ", $whose, " over stdin and stdout, in length-prefixed MessagePack.")]
            pub fn stdio<Request: Serialize, Response: DeserializeOwned>(&self) -> StdioClient<Request, Response> {
                self.framed()
            }

            #[doc = concat!("A client of ", $whose, " over stdin and stdout, in JSON lines.")]
            pub fn json_lines<Request: Serialize, Response: DeserializeOwned>(
                &self,
            ) -> StdioClient<Request, Response, JsonLines> {
                self.framed()
            }

            pub(crate) fn framed<Request, Response: DeserializeOwned, F: Framing>(
                &self,
            ) -> StdioClient<Request, Response, F> {
                StdioClient::new(Via::Pipes(self.client(Stdio::of(self.serving()))))
            }
        }
    )*};
}

stdio_clients! {
    ServingPool: "the pool's workers";
    Session: "the session's worker";
    Lease: "the leased worker";
}
