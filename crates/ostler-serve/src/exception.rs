//! Exceptions of workers, as Rust sees them.

use std::fmt;

use serde::Deserialize;

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

/// What kind of exception it is, by its class or the nearest base class that is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExceptionClass {
    /// `ValueError`, and `UnicodeError` with it.
    Value,
    /// `TypeError`.
    Type,
    /// `KeyError`, `IndexError` and other kinds of `LookupError`.
    Lookup,
    /// `AttributeError` or `NameError`.
    Attribute,
    /// `ArithmeticError`: `ZeroDivisionError`, `OverflowError`, …
    Arithmetic,
    /// `AssertionError`.
    Assertion,
    /// `ImportError`: a module is missing.
    Import,
    /// `NotImplementedError`.
    NotImplemented,
    /// `TimeoutError`, the deadline of the request among them.
    Timeout,
    /// `MemoryError`.
    Memory,
    /// `RecursionError`.
    Recursion,
    /// `FileNotFoundError`.
    FileNotFound,
    /// `PermissionError`.
    Permission,
    /// `ConnectionError`.
    Connection,
    /// Any other `OSError`.
    Os,
    /// `asyncio.CancelledError`: the request was cancelled.
    Cancelled,
    /// `SystemExit`: the handler called `sys.exit`. The worker goes on serving.
    Exit,
    /// `KeyboardInterrupt`.
    Interrupt,
    /// None of these.
    Other,
}

impl ExceptionClass {
    fn of(class: &str) -> Option<Self> {
        Some(match class {
            "ValueError" => Self::Value,
            "TypeError" => Self::Type,
            "LookupError" => Self::Lookup,
            "AttributeError" | "NameError" => Self::Attribute,
            "ArithmeticError" => Self::Arithmetic,
            "AssertionError" => Self::Assertion,
            "ImportError" => Self::Import,
            "NotImplementedError" => Self::NotImplemented,
            "TimeoutError" => Self::Timeout,
            "MemoryError" => Self::Memory,
            "RecursionError" => Self::Recursion,
            "FileNotFoundError" => Self::FileNotFound,
            "PermissionError" => Self::Permission,
            "ConnectionError" => Self::Connection,
            "OSError" => Self::Os,
            "CancelledError" => Self::Cancelled,
            "SystemExit" => Self::Exit,
            "KeyboardInterrupt" => Self::Interrupt,
            _ => return None,
        })
    }
}

/// Whether a worker answers with this code when the handler did not run and another worker may take
/// the request (docs/worker-protocol.md).
pub(crate) fn is_refusal(code: &str) -> bool {
    matches!(code, "draining" | "busy")
}

impl WorkerException {
    /// Whether it is of this class or derives from it, such as `ValueError`.
    pub fn is_a(&self, class: &str) -> bool {
        self.kind == class || self.bases.iter().any(|base| base == class)
    }

    /// What kind of exception it is, for a `match`. A class of the worker's own counts as the
    /// nearest known class that it derives from.
    pub fn class(&self) -> ExceptionClass {
        let names = std::iter::once(&self.kind).chain(&self.bases);
        names
            .map(String::as_str)
            .find_map(ExceptionClass::of)
            .unwrap_or(ExceptionClass::Other)
    }

    /// What a generated servicer raised, from the status of its gRPC call (the metadata
    /// `ostler-error-bin`). `None`: the status is not that of an exception in a worker.
    #[cfg(all(feature = "grpc", feature = "stdio"))]
    pub fn of(status: &tonic::Status) -> Option<Self> {
        let value = status.metadata().get_bin("ostler-error-bin")?;
        rmp_serde::from_slice(&value.to_bytes().ok()?).ok()
    }
}

impl fmt::Display for WorkerException {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.kind.as_str(), self.message.as_str()) {
            ("", message) => write!(f, "{}: {message}", self.code),
            (kind, "") => f.write_str(kind),
            (kind, message) => write!(f, "{kind}: {message}"),
        }
    }
}

impl std::error::Error for WorkerException {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_of_the_workers_own_counts_as_the_nearest_known_one() {
        let exception = |bases: &[&str]| WorkerException {
            kind: bases[0].to_owned(),
            bases: bases.iter().map(ToString::to_string).collect(),
            ..WorkerException::default()
        };
        for (bases, class) in [
            (&["ValueError", "Exception", "BaseException"][..], ExceptionClass::Value),
            (&["EmptyText", "ValueError", "Exception"], ExceptionClass::Value),
            (&["KeyError", "LookupError", "Exception"], ExceptionClass::Lookup),
            (
                &["DeadlineExceeded", "TimeoutError", "OSError"],
                ExceptionClass::Timeout,
            ),
            (
                &["BrokenPipeError", "ConnectionError", "OSError"],
                ExceptionClass::Connection,
            ),
            (&["MemoryError", "Exception"], ExceptionClass::Memory),
            (&["SystemExit", "BaseException"], ExceptionClass::Exit),
            (&["Odd", "Exception"], ExceptionClass::Other),
        ] {
            assert_eq!(exception(bases).class(), class, "{bases:?}");
        }
    }
}
