//! What an answer holds: a result, or why there is none.

use serde::de::{DeserializeOwned, IgnoredAny};

use super::framing::Framing;
use super::message;
use crate::error::BoxError;
use crate::exception::WorkerException;
use crate::outcome::{CallError, Refused};

/// Why a call of a method has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StdioError {
    /// It was refused, or its outcome is unknown.
    #[error(transparent)]
    Call(#[from] CallError),
    /// It was answered, with an error.
    #[error(transparent)]
    Worker(Box<WorkerException>),
    /// It was answered, with a result that is not of the expected type.
    #[error("the result has another type than expected")]
    Result(#[source] BoxError),
}

impl StdioError {
    /// What the worker's handler raised, if that is what happened.
    pub fn exception(&self) -> Option<&WorkerException> {
        match self {
            Self::Worker(exception) => Some(exception),
            _ => None,
        }
    }

    pub(crate) fn invalid(error: impl Into<BoxError>) -> Self {
        Self::Call(Refused::invalid(error).into())
    }
}

/// The result in a response, or its error.
pub(super) fn decoded<F: Framing, T: DeserializeOwned>(frame: &[u8]) -> Result<T, StdioError> {
    let response: message::Response<T> = F::decode(frame).map_err(StdioError::Result)?;
    match (response.ok, response.error) {
        (Some(result), _) => Ok(result),
        (None, Some(error)) => Err(StdioError::Worker(Box::new(error))),
        (None, None) => Err(StdioError::Result("it has neither `ok` nor `error`".into())),
    }
}

/// The error in a response, if there is one.
pub(super) fn exception<F: Framing>(frame: &[u8]) -> Option<StdioError> {
    let response: message::Response<IgnoredAny> = F::decode(frame).ok()?;
    Some(StdioError::Worker(Box::new(response.error?)))
}
