//! The messages of the worker protocol, as far as this client uses them.

use std::fmt;

use serde::{Deserialize, Deserializer};

/// A field of a message that is sent.
#[derive(Debug)]
pub enum Field<'a> {
    /// An unsigned number.
    Number(u64),
    /// A string.
    Text(&'a str),
    /// A value that is encoded already.
    Encoded(&'a [u8]),
}

/// What every message is recognised by.
#[derive(Debug, Deserialize)]
pub struct Head {
    /// Its type; may be left out of a response.
    #[serde(rename = "type", default)]
    pub kind: Option<String>,
    /// The request that it is about.
    #[serde(default)]
    pub id: Option<u64>,
    /// The version, in `hello`.
    #[serde(default)]
    pub protocol: Option<u64>,
    /// The error, in a response.
    #[serde(default)]
    pub error: Option<ErrorHead>,
}

/// What matters of an error before it reaches the caller.
#[derive(Debug, Deserialize)]
pub struct ErrorHead {
    /// See docs/worker-protocol.md.
    #[serde(default)]
    pub code: String,
    /// For people.
    #[serde(default)]
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

/// An error that a worker answered with: an exception in its handler, as a rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct WorkerException {
    /// Such as `exception`, `method_not_found`; see docs/worker-protocol.md.
    pub code: String,
    /// The exception's class.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its text.
    pub message: String,
    /// Where it was raised.
    pub traceback: String,
    /// Its class and the classes that it derives from, nearest first.
    pub bases: Vec<String>,
    /// The module of its class.
    pub module: String,
    /// Whether the handler ran; false: it certainly did not.
    pub executed: bool,
}

impl WorkerException {
    /// Whether it is of this class or derives from it, such as `ValueError`.
    pub fn is_a(&self, class: &str) -> bool {
        self.kind == class || self.bases.iter().any(|base| base == class)
    }
}

impl fmt::Display for WorkerException {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.kind.as_str(), self.message.as_str()) {
            ("", message) => write!(f, "{}: {message}", self.code),
            (kind, message) => write!(f, "{kind}: {message}"),
        }
    }
}
