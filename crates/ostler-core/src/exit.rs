//! Typed exit reasons of actors, following Erlang/OTP.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// Why an actor exited, or why starting it failed.
///
/// ractor reports exit reasons as strings, so a user's `stop(Some("killed"))` would be
/// indistinguishable from a kill. This type keeps them apart.
#[derive(Debug, Clone, PartialEq)]
pub enum ExitReason {
    /// Finished its work (OTP's `normal`).
    Normal,
    /// Stopped on request, or chose to shut down. `None` is OTP's `shutdown`, `Some(why)` is its
    /// `{shutdown, Why}`.
    Shutdown(Option<String>),
    /// Killed (OTP's `killed`). Abnormal.
    Killed,
    /// Failed with an error or a panic. Abnormal.
    Failed(Failure),
}

impl ExitReason {
    /// OTP's plain `shutdown`.
    pub const SHUTDOWN: ExitReason = ExitReason::Shutdown(None);

    /// Creates a `Failed` reason from a message.
    pub fn failed(message: impl Into<String>) -> Self {
        ExitReason::Failed(Failure::message(message))
    }

    /// Whether a transient child that exits with this reason is restarted. Every reason except
    /// [`Normal`](Self::Normal) and [`Shutdown`](Self::Shutdown) is abnormal (OTP's `supervisor`,
    /// "Child specification").
    pub fn is_abnormal(&self) -> bool {
        match self {
            ExitReason::Normal | ExitReason::Shutdown(_) => false,
            ExitReason::Killed | ExitReason::Failed(_) => true,
        }
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitReason::Normal => f.write_str("normal"),
            ExitReason::Shutdown(None) => f.write_str("shutdown"),
            ExitReason::Shutdown(Some(why)) => write!(f, "shutdown: {why}"),
            ExitReason::Killed => f.write_str("killed"),
            ExitReason::Failed(failure) => write!(f, "failed: {failure}"),
        }
    }
}

/// The text of a failure is part of the reason's own, so the source is what caused that failure.
impl Error for ExitReason {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            ExitReason::Failed(failure) => failure.source(),
            ExitReason::Normal | ExitReason::Shutdown(_) | ExitReason::Killed => None,
        }
    }
}

/// The error that an actor failed with. Cheap to clone; the original error can be recovered with
/// [`downcast_ref`](Self::downcast_ref).
#[derive(Clone)]
pub struct Failure(Arc<dyn Error + Send + Sync>);

impl Failure {
    /// Wraps an error.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Failure(Arc::from(error.into()))
    }

    /// Creates a failure from a message.
    pub fn message(message: impl Into<String>) -> Self {
        Failure::new(message.into())
    }

    /// Returns the wrapped error if it is a `T`.
    pub fn downcast_ref<T: Error + 'static>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }

    /// The wrapped error.
    pub fn error(&self) -> &(dyn Error + Send + Sync + 'static) {
        self.0.as_ref()
    }
}

/// The wrapped error's source.
impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// Failures are equal if their messages are.
impl PartialEq for Failure {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_string() == other.0.to_string()
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn killed_and_failed_are_abnormal() {
        assert!(ExitReason::Killed.is_abnormal());
        assert!(ExitReason::failed("boom").is_abnormal());
        assert!(!ExitReason::Normal.is_abnormal());
        assert!(!ExitReason::SHUTDOWN.is_abnormal());
        assert!(!ExitReason::Shutdown(Some("killed".into())).is_abnormal());
    }

    #[test]
    fn failure_downcasts_to_its_error() {
        let failure = Failure::new(std::io::Error::other("disk"));
        assert_eq!(failure.downcast_ref::<std::io::Error>().unwrap().to_string(), "disk");
        assert_eq!(failure, Failure::message("disk"));
    }
}
