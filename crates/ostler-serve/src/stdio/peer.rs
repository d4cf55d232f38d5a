//! What a worker has said about itself in its `hello`, and so what may be sent to it.

use std::time::Duration;

use tokio::time::Instant;

use super::framing::{Framing, MAX_FRAME};
use super::functions::Functions;
use super::large::SHARED_MIN;
use super::message::{Field, Head};
use super::request::{Encoded, Lending, StdioRequest};
use crate::adapter::Attempt;
use crate::error::BoxError;

/// The version of the protocol that is spoken here.
const PROTOCOL: u64 = 1;

/// Items of one stream that may be on their way to their reader.
pub(crate) const WINDOW: u64 = 16;

/// A worker that enforces deadlines itself is given this share less, at most
/// [`LONGEST_HEAD_START`], so that its own error arrives before the call is given up and the worker
/// with it.
const HEAD_START: u32 = 10;
const LONGEST_HEAD_START: Duration = Duration::from_millis(50);

/// The other side of a connection. The default is a worker that has said no hello.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    shares_memory: bool,
    pub(super) gives_credit: bool,
    pub(super) answers_pings: bool,
    enforces_deadlines: bool,
    lends_if_asked: bool,
    max_frame: usize,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            shares_memory: false,
            gives_credit: false,
            answers_pings: false,
            enforces_deadlines: false,
            lends_if_asked: false,
            max_frame: MAX_FRAME,
        }
    }
}

impl Peer {
    /// A worker that has said this hello.
    ///
    /// # Errors
    /// It speaks another version of the protocol.
    pub(crate) fn of<F: Framing>(hello: &Head) -> Result<Self, BoxError> {
        if let Some(other) = hello.protocol.filter(|version| *version != PROTOCOL) {
            return Err(format!(
                "the worker speaks version {other} of the protocol, and this is version {PROTOCOL}; upgrade the older side"
            )
            .into());
        }
        let can = |feature: &str| hello.features.iter().any(|name| name == feature);
        Ok(Self {
            shares_memory: can("shm") && F::LENDING == Lending::SharedMemory,
            gives_credit: can("credit"),
            answers_pings: can("ping"),
            enforces_deadlines: true,
            lends_if_asked: false,
            max_frame: hello.max_frame.unwrap_or(MAX_FRAME),
        })
    }

    /// The worker on a connection where it lends only what a request asks it to: one that has no
    /// room for a `release`.
    #[cfg(feature = "grpc")]
    pub(crate) fn asked_to_lend(self) -> Self {
        let lends_if_asked = self.shares_memory;
        Self { lends_if_asked, ..self }
    }

    /// The frame of a request.
    ///
    /// # Errors
    /// This worker can't read it.
    pub(crate) fn request<F: Framing>(
        self,
        id: u64,
        request: &StdioRequest,
        attempt: &Attempt,
    ) -> Result<Vec<u8>, BoxError> {
        let mut fields = vec![("type", Field::Text("request")), ("id", Field::Number(id))];
        if let Some(method) = &request.method {
            fields.push(("method", Field::Text(method)));
        }
        // A stream may last longer than the pool's timeout, which is for its beginning.
        let deadline = if request.streams {
            request.deadline
        } else {
            attempt.deadline()
        };
        if let Some(deadline) = deadline {
            fields.push(("deadline_ms", Field::Number(self.time_left(deadline))));
        }
        if let Some(session) = attempt.session() {
            fields.push(("session", Field::Text(session)));
        }
        if let Some((parent, state)) = attempt.trace() {
            fields.push(("traceparent", Field::Text(parent)));
            fields.extend(state.map(|state| ("tracestate", Field::Text(state))));
        }
        if request.input.is_some() {
            fields.push(("stream", Field::Truth(true)));
        }
        if self.lends_if_asked {
            fields.push(("lend", Field::Truth(true)));
        }
        let arguments = if request.input.is_some() { "args" } else { "body" };
        self.encoded(&mut fields, arguments, &request.body)?;
        self.whole(F::frame(&fields))
    }

    /// The frame of an item of a request.
    ///
    /// # Errors
    /// This worker can't read it.
    pub(super) fn item<F: Framing>(self, id: u64, item: &Encoded) -> Result<Vec<u8>, BoxError> {
        let mut fields = vec![("type", Field::Text("item")), ("id", Field::Number(id))];
        self.encoded(&mut fields, "value", item)?;
        self.whole(F::frame(&fields))
    }

    /// The frame of the answer to this worker's hello.
    pub(super) fn greeting<F: Framing>(self, functions: &Functions) -> Vec<u8> {
        hello::<F>(functions, self.shares_memory)
    }

    fn time_left(self, deadline: Instant) -> u64 {
        let left = deadline.saturating_duration_since(Instant::now());
        let head_start = match self.enforces_deadlines {
            true => (left / HEAD_START).min(LONGEST_HEAD_START),
            false => Duration::ZERO,
        };
        u64::try_from((left - head_start).as_millis()).unwrap_or(u64::MAX)
    }

    /// Adds a value, if the worker can read what it lends.
    fn encoded<'a>(
        self,
        fields: &mut Vec<(&'a str, Field<'a>)>,
        name: &'a str,
        value: &'a Encoded,
    ) -> Result<(), BoxError> {
        if !value.lent.is_empty() && !self.shares_memory {
            return Err("it has large data in shared memory, which this worker has not said that it can read".into());
        }
        if !value.bytes.is_empty() {
            fields.push((name, Field::Encoded(&value.bytes)));
        }
        Ok(())
    }

    /// The frame, if it is not too long for the worker.
    fn whole(self, frame: Vec<u8>) -> Result<Vec<u8>, BoxError> {
        let (size, longest) = (frame.len(), self.max_frame);
        if size > longest {
            return Err(format!(
                "it takes {size} bytes, and a message has at most {longest}: send bytes as Blob, arrays as Array"
            )
            .into());
        }
        Ok(frame)
    }
}

/// The frame of this side's own hello.
pub(crate) fn hello<F: Framing>(functions: &Functions, shares_memory: bool) -> Vec<u8> {
    let features: &[&str] = if shares_memory { &["shm"] } else { &[] };
    // Lists of strings can be encoded.
    let features = F::encode(&features).unwrap_or_default();
    let functions = F::encode(&functions.names()).unwrap_or_default();
    F::frame(&[
        ("type", Field::Text("hello")),
        ("protocol", Field::Number(PROTOCOL)),
        ("host", Field::Text(concat!("ostler ", env!("CARGO_PKG_VERSION")))),
        ("features", Field::Encoded(&features)),
        ("shm_min", Field::Number(SHARED_MIN as u64)),
        ("functions", Field::Encoded(&functions)),
        ("max_frame", Field::Number(MAX_FRAME as u64)),
        ("window", Field::Number(WINDOW)),
    ])
}
