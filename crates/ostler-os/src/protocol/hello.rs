//! The host's first message.

use super::{MAGIC, put, u32_at, u64_at};

/// The host's first message. Two or three descriptors come with it: the writing end of the events
/// socket, a pidfd of the host, and one that guardian and sitters keep open for as long as they
/// live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// The sender's [`VERSION`](super::VERSION).
    pub version: u32,
    /// Whether guardian and sitters stay dumpable (`PR_SET_DUMPABLE`). They must where `/proc` is
    /// mounted with `hidepid`, or else the host could not see its sitters there.
    pub dumpable: bool,
    /// The soft `RLIMIT_NOFILE` of workers. The guardian raises its own.
    pub nofile_soft: u64,
    /// The hard `RLIMIT_NOFILE` of workers.
    pub nofile_hard: u64,
}

impl Hello {
    /// The size of an encoded hello, in bytes.
    pub const SIZE: usize = 32;

    /// The message's bytes.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        put(&mut out, 0, &MAGIC.to_ne_bytes());
        put(&mut out, 4, &self.version.to_ne_bytes());
        put(&mut out, 8, &self.nofile_soft.to_ne_bytes());
        put(&mut out, 16, &self.nofile_hard.to_ne_bytes());
        put(&mut out, 24, &u32::from(self.dumpable).to_ne_bytes());
        out
    }

    /// `None` if the bytes are not a hello. A hello of another version is decoded, but only its
    /// `version` has a meaning.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < 8 || u32_at(bytes, 0) != MAGIC {
            return None;
        }
        let mut whole = [0; Self::SIZE];
        put(&mut whole, 0, bytes);
        Some(Self {
            version: u32_at(&whole, 4),
            nofile_soft: u64_at(&whole, 8),
            nofile_hard: u64_at(&whole, 16),
            dumpable: u32_at(&whole, 24) != 0,
        })
    }
}
