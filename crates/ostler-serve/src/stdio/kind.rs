//! How values are written in the messages of a worker.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::BoxError;

/// A format of values.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// MessagePack.
    Packet,
    /// JSON.
    Json,
}

impl Kind {
    pub(super) fn encode<T: Serialize + ?Sized>(self, value: &T) -> Result<Vec<u8>, BoxError> {
        match self {
            Self::Packet => rmp_serde::to_vec_named(value).map_err(Into::into),
            Self::Json => serde_json::to_vec(value).map_err(Into::into),
        }
    }

    pub(super) fn decode<T: DeserializeOwned>(self, frame: &[u8]) -> Result<T, BoxError> {
        match self {
            Self::Packet => rmp_serde::from_slice(frame).map_err(Into::into),
            Self::Json => serde_json::from_slice(frame).map_err(Into::into),
        }
    }
}
