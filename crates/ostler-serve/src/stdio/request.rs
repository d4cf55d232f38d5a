//! What is sent to a worker, and what comes back.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use ostler_os::shared::Segment;
use serde::Serialize;
use tokio::time::Instant;

use super::framing::Framing;
use super::large::lending;
use super::routes::Received;
use super::stream::Items;
use crate::error::BoxError;
use crate::observe::Description;

/// Whether large data can travel beside the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lending {
    /// In shared memory.
    SharedMemory,
    /// Not at all.
    Never,
}

/// A value as it is written in a message, and what it refers to.
#[derive(Debug, Clone, Default)]
pub(super) struct Encoded {
    pub(super) bytes: Vec<u8>,
    pub(super) lent: Arc<Vec<Segment>>,
}

impl Encoded {
    pub(super) fn new<F: Framing, T: Serialize + ?Sized>(value: &T) -> Result<Self, BoxError> {
        let (bytes, lent) = match F::LENDING {
            Lending::SharedMemory => lending(|| F::encode(value)),
            Lending::Never => (F::encode(value), Vec::new()),
        };
        Ok(Self {
            bytes: bytes?,
            lent: Arc::new(lent),
        })
    }
}

/// The items of a request, each encoded as it is sent.
pub(super) type Input = Pin<Box<dyn Stream<Item = Result<Encoded, BoxError>> + Send>>;

/// A request as [`Stdio`](super::Stdio) sends it.
pub struct StdioRequest {
    /// Which method; `None`: the worker's only one.
    pub(crate) method: Option<Arc<str>>,
    /// Its argument; with `input`, the arguments after the stream.
    pub(super) body: Encoded,
    /// The items that follow the request.
    pub(super) input: Option<Input>,
    /// The answer is a stream of items.
    pub(super) streams: bool,
    /// When a stream must have ended.
    pub(super) deadline: Option<Instant>,
}

impl StdioRequest {
    /// A request with one argument, which the framing has encoded, and one answer. Without a
    /// method, it goes to the worker's only one.
    pub fn new(method: Option<Arc<str>>, body: Vec<u8>) -> Self {
        let lent = Arc::default();
        Self::of(method, Encoded { bytes: body, lent })
    }

    pub(super) fn of(method: Option<Arc<str>>, body: Encoded) -> Self {
        Self {
            method,
            body,
            input: None,
            streams: false,
            deadline: None,
        }
    }

    /// All of it is one message, and so is its answer, as far as its caller knows.
    #[cfg(feature = "grpc")]
    pub(crate) fn is_one_message(&self) -> bool {
        !self.streams && self.input.is_none() && self.body.lent.is_empty()
    }

    /// What telemetry says about it.
    pub(crate) fn description(&self) -> Description {
        Description::rpc("ostler", self.method.as_deref().unwrap_or_default())
    }

    /// A copy, for another attempt; `None`: its items can be sent once.
    pub(crate) fn copy(&self) -> Option<Self> {
        self.input.is_none().then(|| Self {
            method: self.method.clone(),
            body: self.body.clone(),
            input: None,
            ..*self
        })
    }
}

impl fmt::Debug for StdioRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StdioRequest")
            .field("method", &self.method)
            .field("body", &self.body)
            .field("streams", &self.streams)
            .finish_non_exhaustive()
    }
}

/// The answer of a worker: one message, or the first of several.
#[derive(Debug)]
pub struct StdioAnswer {
    pub(super) first: Received,
    pub(super) rest: Option<Items>,
}

impl StdioAnswer {
    pub(super) fn whole(first: Received) -> Self {
        Self { first, rest: None }
    }

    pub(super) fn stream(first: Received, rest: Items) -> Self {
        let rest = Some(rest);
        Self { first, rest }
    }

    /// The message, as it was written by the worker; of a stream, the first one.
    pub fn frame(&self) -> &[u8] {
        &self.first.frame
    }
}
