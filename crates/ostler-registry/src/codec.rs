//! The encoding of records: a version, a checksum, and bincode.
//!
//! | bytes | content |
//! |---|---|
//! | 0..2 | version of the record's format, little endian |
//! | 2..6 | CRC-32 (IEEE) of the version's bytes and the payload, little endian |
//! | 6..  | payload: bincode 2 of that version's wire struct |
//!
//! The version comes first and is checked first, so that a reader older than the writer reports
//! *too new* instead of *corrupt*. We have our own checksum because an engine's checks end at its
//! interface, and bincode accepts many flipped bits. All bincode options are explicit, because they
//! are part of the format; the crate is pinned, because its project has ended (ADR 0006). Wire
//! structs are frozen once released: a change of the model adds a new version next to the old one.

mod v1;
mod v2;

use crate::record::{Key, Record};

/// The version that this build writes, and the newest that it reads.
pub const RECORD_VERSION: u16 = 2;

/// The maximum size of an encoded record, in bytes. Records have a few hundred; a larger claimed
/// size is refused before memory is allocated for it.
pub const MAX_RECORD_BYTES: usize = 64 * 1024;

const HEADER_BYTES: usize = 6;

/// Why bytes could not be decoded as a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The record was written by a newer Ostler.
    #[error("the record has version {found}; this build supports versions up to {RECORD_VERSION}")]
    TooNew {
        /// The version found.
        found: u16,
    },
    /// The bytes are damaged, or are not a record.
    #[error("the record is damaged: {detail}")]
    Corrupt {
        /// What is wrong with them.
        detail: String,
    },
}

/// The error returned for a record larger than [`MAX_RECORD_BYTES`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a record of {bytes} bytes exceeds the process table's maximum of {MAX_RECORD_BYTES}")]
pub struct RecordTooLarge {
    /// The encoded size, or 0 if the encoder gave up.
    pub bytes: usize,
}

/// Little endian, variable-length integers, reading at most [`MAX_RECORD_BYTES`].
fn wire_config() -> impl bincode::config::Config {
    bincode::config::standard()
        .with_little_endian()
        .with_variable_int_encoding()
        .with_limit::<MAX_RECORD_BYTES>()
}

/// Encodes a record in the newest version.
///
/// # Errors
///
/// [`RecordTooLarge`] above [`MAX_RECORD_BYTES`].
pub fn encode_record(record: &Record) -> Result<Vec<u8>, RecordTooLarge> {
    let payload =
        bincode::encode_to_vec(v2::RecordV2::from(record), wire_config()).map_err(|_| RecordTooLarge { bytes: 0 })?;
    if HEADER_BYTES + payload.len() > MAX_RECORD_BYTES {
        return Err(RecordTooLarge {
            bytes: HEADER_BYTES + payload.len(),
        });
    }
    let version = RECORD_VERSION.to_le_bytes();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&version);
    bytes.extend_from_slice(&checksum(version, &payload).to_le_bytes());
    bytes.extend_from_slice(&payload);
    Ok(bytes)
}

/// Decodes a record.
///
/// # Errors
///
/// [`DecodeError::TooNew`] for a version above [`RECORD_VERSION`]. [`DecodeError::Corrupt`] for
/// anything else that is not exactly what the encoder of a version writes, including trailing
/// bytes.
pub fn decode_record(bytes: &[u8]) -> Result<Record, DecodeError> {
    let corrupt = |detail: String| DecodeError::Corrupt { detail };
    if bytes.len() > MAX_RECORD_BYTES {
        return Err(corrupt(format!(
            "{} bytes exceed the maximum of {MAX_RECORD_BYTES}",
            bytes.len()
        )));
    }
    let Some((&[v0, v1, c0, c1, c2, c3], payload)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(corrupt(format!(
            "{} bytes are too few for the header of {HEADER_BYTES}",
            bytes.len()
        )));
    };
    let version = u16::from_le_bytes([v0, v1]);
    if version > RECORD_VERSION {
        return Err(DecodeError::TooNew { found: version });
    }
    if u32::from_le_bytes([c0, c1, c2, c3]) != checksum([v0, v1], payload) {
        return Err(corrupt("checksum mismatch".to_owned()));
    }
    match version {
        1 => decode_exactly::<v1::RecordV1>(payload)?.into_model(),
        2 => decode_exactly::<v2::RecordV2>(payload)?.into_model(),
        other => Err(corrupt(format!("unknown version {other}"))),
    }
}

fn decode_exactly<T: bincode::Decode<()>>(payload: &[u8]) -> Result<T, DecodeError> {
    let corrupt = |detail: String| DecodeError::Corrupt { detail };
    let (value, used) =
        bincode::decode_from_slice(payload, wire_config()).map_err(|error| corrupt(error.to_string()))?;
    match payload.len() - used {
        0 => Ok(value),
        left => Err(corrupt(format!("{left} bytes follow its end"))),
    }
}

pub(crate) fn checksum(version: [u8; 2], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&version);
    hasher.update(payload);
    hasher.finalize()
}

/// Encodes the key of a record: the pool's name, a zero, then slot and incarnation in big endian.
/// The records of a pool are adjacent and in order. Keys are never decoded, because a record
/// contains its own key.
pub fn encode_key(key: &Key) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(key.worker.pool.len() + 13);
    bytes.extend_from_slice(key.worker.pool.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(&key.worker.index.to_be_bytes());
    bytes.extend_from_slice(&key.incarnation.0.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests;
