//! Records as bytes: a version, a checksum, and bincode.
//!
//! | bytes | content |
//! |---|---|
//! | 0..2 | version of the record's format, little endian |
//! | 2..6 | CRC-32 (IEEE) of the version's bytes and the payload, little endian |
//! | 6..  | payload: bincode 2 of that version's wire struct |
//!
//! The version comes first and is judged first, so that a reader older than the writer says *too new* and not
//! *corrupt*. The checksum is ours because an engine's own checks end where its interface begins, and bincode accepts
//! many a flipped bit. bincode's options are spelt out, each of them, because they are part of the format; the crate
//! is pinned, as its project has ended (ADR 0006). The wire structs are frozen once released: a change to the model
//! makes a new version beside the old one.

mod v1;
mod v2;

use crate::record::{Key, Record};

/// The version that this build writes, and the newest that it reads.
pub const RECORD_VERSION: u16 = 2;

/// The greatest size of an encoded record, in bytes. A record has a few hundred; what claims more is refused before
/// memory is set aside for it.
pub const MAX_RECORD_BYTES: usize = 64 * 1024;

const HEADER_BYTES: usize = 6;

/// Why bytes are no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A newer Ostler wrote it.
    #[error("the record is of version {found}; this build knows versions up to {RECORD_VERSION}")]
    TooNew {
        /// The version that it claims.
        found: u16,
    },
    /// The bytes are damaged, or were never a record.
    #[error("the record is damaged: {detail}")]
    Corrupt {
        /// What is wrong with them.
        detail: String,
    },
}

/// A record is larger than [`MAX_RECORD_BYTES`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a record of {bytes} bytes is larger than the {MAX_RECORD_BYTES} that the process table takes")]
pub struct RecordTooLarge {
    /// Its encoded size, or 0 where the encoder gave up on it.
    pub bytes: usize,
}

/// Little endian, variable-length integers, at most [`MAX_RECORD_BYTES`] read.
fn wire_config() -> impl bincode::config::Config {
    bincode::config::standard()
        .with_little_endian()
        .with_variable_int_encoding()
        .with_limit::<MAX_RECORD_BYTES>()
}

/// The bytes of a record, in the newest version.
///
/// # Errors
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

/// The record that these bytes hold.
///
/// # Errors
/// [`DecodeError::TooNew`] for a version above [`RECORD_VERSION`]; [`DecodeError::Corrupt`] for everything else that
/// is not exactly what a version's encoder writes, bytes left over included.
pub fn decode_record(bytes: &[u8]) -> Result<Record, DecodeError> {
    let corrupt = |detail: String| DecodeError::Corrupt { detail };
    if bytes.len() > MAX_RECORD_BYTES {
        return Err(corrupt(format!(
            "{} bytes are more than the {MAX_RECORD_BYTES} of the largest record",
            bytes.len()
        )));
    }
    let Some((&[v0, v1, c0, c1, c2, c3], payload)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(corrupt(format!(
            "{} bytes are fewer than a header's {HEADER_BYTES}",
            bytes.len()
        )));
    };
    let version = u16::from_le_bytes([v0, v1]);
    if version > RECORD_VERSION {
        return Err(DecodeError::TooNew { found: version });
    }
    if u32::from_le_bytes([c0, c1, c2, c3]) != checksum([v0, v1], payload) {
        return Err(corrupt("its checksum does not fit".to_owned()));
    }
    match version {
        1 => decode_exactly::<v1::RecordV1>(payload)?.into_model(),
        2 => decode_exactly::<v2::RecordV2>(payload)?.into_model(),
        other => Err(corrupt(format!("there never was a version {other}"))),
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

/// The bytes that a record is filed under: the pool's name, a zero, slot and incarnation in big endian. A pool's
/// records lie together, in order; a record says itself whose it is, so keys are never taken apart.
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
