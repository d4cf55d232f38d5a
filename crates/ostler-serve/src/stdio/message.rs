//! The messages of the worker protocol, as far as this client uses them.

use ostler_os::shared::Reference;
use serde::{Deserialize, Deserializer};

use crate::exception::{WorkerException, is_refusal};

/// A field of a message that is sent.
#[derive(Debug, Clone, Copy)]
pub enum Field<'a> {
    /// An unsigned number.
    Number(u64),
    /// True or false.
    Truth(bool),
    /// A string.
    Text(&'a str),
    /// A value that is encoded already.
    Encoded(&'a [u8]),
}

/// What a message is about: every field but its values.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Head {
    /// Its type; may be left out of a response.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The request that it is about.
    pub id: Option<u64>,
    /// The version, in `hello`.
    pub protocol: Option<u64>,
    /// What the worker can do, in `hello`.
    pub features: Vec<String>,
    /// The longest frame that it accepts, in `hello`.
    pub max_frame: Option<usize>,
    /// The error, in a response.
    pub error: Option<ErrorHead>,
    /// How many items were consumed, in `credit`.
    pub n: Option<u32>,
    /// The shared memory that the message refers to.
    pub segments: Vec<Reference>,
    /// The function of the host, in `call`.
    pub function: Option<String>,
    /// The request on whose behalf it is called.
    pub request: Option<u64>,
    /// The time that is left for it.
    pub deadline_ms: Option<u64>,
    /// Its place in a trace.
    pub traceparent: Option<String>,
}

impl Head {
    /// Why the handler did not run, if another worker may take the request.
    pub(crate) fn refusal(&self) -> Option<String> {
        let error = self.error.as_ref().filter(|error| is_refusal(&error.code))?;
        Some(format!("{}: {}", error.code, error.message))
    }
}

/// What matters of an error before it reaches the caller.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ErrorHead {
    /// See docs/worker-protocol.md.
    pub code: String,
    /// For people.
    pub message: String,
}

/// A response as its caller reads it.
#[derive(Debug, Deserialize)]
#[serde(bound = "T: Deserialize<'de>")]
pub(super) struct Response<T> {
    #[serde(default = "none", deserialize_with = "some")]
    pub(super) ok: Option<T>,
    #[serde(default)]
    pub(super) error: Option<WorkerException>,
}

fn none<T>() -> Option<T> {
    None
}

/// A result that is there, even if it is null.
fn some<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// One item of a stream.
#[derive(Debug, Deserialize)]
#[serde(bound = "T: Deserialize<'de>")]
pub(super) struct Item<T> {
    pub(super) value: T,
}
