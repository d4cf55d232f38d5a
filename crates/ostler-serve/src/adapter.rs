//! How a request travels to a worker, and its answer back.

use std::future::Future;
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use crate::error::BoxError;
use crate::observe::Description;
use crate::pool::lock;
use crate::worker::Worker;

/// A protocol that a pool's workers speak.
///
/// Dispatch, queue, deadline, retries, circuit breaker and outcomes are the pool's; an adapter
/// connects, sends and reads. What it must get right is [`Attempt::sending`]: a call that fails
/// before it is marked counts as refused, and may go to another worker; one that fails afterwards
/// has an unknown outcome.
pub trait Adapter: Send + Sync + 'static {
    /// A connection to one worker, used by all its calls in flight (`concurrency`).
    type Connection: Send + Sync + 'static;
    /// What is sent.
    type Request: Send;
    /// What comes back.
    type Response: Send;

    /// Whether a worker can be connected to again when a connection was lost. If not, it is
    /// replaced.
    const RECONNECTS: bool = true;

    /// Connects to a worker that is ready. It is called again, with growing pauses, until it
    /// succeeds or the call's deadline comes; what it returns is kept for later calls. Dropped when
    /// the deadline comes: then nothing of the connection may be left.
    ///
    /// # Errors
    /// Why not, of any type.
    fn connect(&self, worker: &Arc<Worker>) -> impl Future<Output = Result<Self::Connection, BoxError>> + Send;

    /// Whether the connection can take another call. If not, another one is made. Default: it can.
    fn is_open(&self, connection: &Self::Connection) -> bool {
        let _ = connection;
        true
    }

    /// Whether a worker is connected to as soon as it is ready, rather than by its first call: for
    /// protocols with one connection for all calls, in which an idle one costs the worker nothing.
    /// Default: not, because a server that works on one connection at a time could then neither
    /// accept another one nor answer its probes.
    fn keeps_warm(&self) -> bool {
        false
    }

    /// Tells the connections of adapters of one type apart: adapters of equal names share their
    /// connections to a worker. An adapter whose fields decide where or how it connects names them.
    /// Default: all adapters of this type share one connection to each worker.
    fn connection_name(&self) -> &str {
        ""
    }

    /// Sends a request and reads the answer. Dropped when the caller gives up or the deadline
    /// comes: cancel then, if the protocol can.
    ///
    /// # Errors
    /// See [`Fault`].
    fn call(
        &self,
        connection: &Self::Connection,
        request: Self::Request,
        attempt: &Attempt,
    ) -> impl Future<Output = Result<Self::Response, Fault<Self::Request>>> + Send;

    /// What telemetry says about a request. Default: nothing but its pool.
    fn describe(&self, request: &Self::Request) -> Description {
        let _ = request;
        Description::default()
    }

    /// A copy of the request, for calls that are marked idempotent and may be sent again. Default:
    /// there is none.
    fn copy(&self, request: &Self::Request) -> Option<Self::Request> {
        let _ = request;
        None
    }
}

/// Why a call has no answer, as its adapter sees it. The error becomes the source of the
/// [`CallError`](crate::CallError): `Fault::Lost(error.into())`, or a text: `Fault::Lost("the
/// worker closed the connection".into())`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Fault<R> {
    /// Nothing was sent, and here is the request.
    NotSent {
        /// The request, for another worker.
        request: R,
        /// Why not.
        error: BoxError,
    },
    /// The request can't be sent to any worker. Nothing was sent.
    Invalid(BoxError),
    /// The connection was lost; counts as not sent if the attempt was not marked.
    Lost(BoxError),
    /// What came is no answer. The worker is replaced.
    BadAnswer(BoxError),
}

/// One attempt to have a request answered.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub(crate) sent: Sent,
    pub(crate) deadline: Option<Instant>,
    pub(crate) session: Option<Arc<str>>,
    pub(crate) trace: Option<(String, Option<String>)>,
}

impl Attempt {
    /// To be called before the first byte of the request may reach the worker.
    pub fn sending(&self) {
        self.sent.mark();
    }

    /// The request was handed back: nothing of it was sent.
    #[cfg(feature = "http")]
    pub(crate) fn handed_back(&self) {
        self.sent.unmark();
    }

    /// When the call has to be answered, to be passed on where the protocol can.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The call's place in its trace, to be passed on where the protocol can: W3C `traceparent` and
    /// `tracestate`. `None` outside a trace.
    pub fn trace(&self) -> Option<(&str, Option<&str>)> {
        let (parent, state) = self.trace.as_ref()?;
        Some((parent, state.as_deref()))
    }

    /// The session that the call belongs to.
    pub fn session(&self) -> Option<&str> {
        self.session.as_deref()
    }
}

/// Whether, and when, a request began to be sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sent(Arc<Mutex<Option<Instant>>>);

impl Sent {
    pub(crate) fn mark(&self) {
        // Only the first time counts.
        lock(&self.0).get_or_insert_with(Instant::now);
    }

    #[cfg(feature = "http")]
    fn unmark(&self) {
        *lock(&self.0) = None;
    }

    pub(crate) fn at(&self) -> Option<Instant> {
        *lock(&self.0)
    }
}
