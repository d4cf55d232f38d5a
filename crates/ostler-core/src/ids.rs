//! Names of things: a run, a pool's worker, an incarnation of that worker.
//!
//! A run id is a UUID of version 7 (RFC 9562): 48 bits of milliseconds and 74 random bits, so ids sort by their
//! time and do not wrap or collide, also at thousands a second. The clock and the dice are passed in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One run of one Ostler instance: from its start to its stop or its host's death. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RunId(Uuid);

impl RunId {
    /// The id of a run started `unix_millis` after 1970, made unique by ten random bytes.
    pub fn from_parts(unix_millis: u64, random: [u8; 10]) -> Self {
        Self(uuid::Builder::from_unix_timestamp_millis(unix_millis, &random).into_uuid())
    }

    /// The id as a number, as records store it.
    pub const fn as_u128(self) -> u128 {
        self.0.as_u128()
    }

    /// The inverse of [`RunId::as_u128`].
    pub const fn from_u128(value: u128) -> Self {
        Self(Uuid::from_u128(value))
    }

    /// Milliseconds since 1970 at which the run was started.
    pub fn unix_millis(self) -> u64 {
        (self.as_u128() >> 80) as u64
    }

    /// A short form for people: the last eight of the id's random digits, such as `9f3a-07c4`. Not unique for ever;
    /// what machines compare is the whole id.
    pub fn short(self) -> String {
        let digits = self.to_string();
        format!("{}-{}", &digits[24..28], &digits[28..32])
    }

    /// The name of the environment variable that marks the processes of this run. The *name* holds the id, so that an
    /// Ostler inside a worker of another adds its own marker beside the outer one.
    pub fn marker_name(self) -> String {
        format!("{MARKER_PREFIX}{self}")
    }

    /// The run that a marker variable of this name stands for, if it is one.
    pub fn from_marker_name(name: &str) -> Option<Self> {
        name.strip_prefix(MARKER_PREFIX)?.parse().ok()
    }
}

/// What the name of every marker variable begins with.
pub const MARKER_PREFIX: &str = "OSTLER_RUN_";

impl fmt::Display for RunId {
    /// 32 hexadecimal digits, no hyphens: fit for a file name and for a variable's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.as_simple())
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunId({self})")
    }
}

/// The text is not an id of 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a run id: 32 hexadecimal digits are wanted")]
pub struct BadRunId {
    text: String,
}

impl FromStr for RunId {
    type Err = BadRunId;

    fn from_str(text: &str) -> Result<Self, BadRunId> {
        let bad = || BadRunId { text: text.to_owned() };
        if text.len() != 32 {
            return Err(bad());
        }
        Uuid::try_parse(text).map(Self).map_err(|_| bad())
    }
}

/// A slot of a pool: its worker's name, whichever incarnation fills it. Shown as `embed/0`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerId {
    /// The pool's name.
    pub pool: String,
    /// The slot's number in the pool, from 0.
    pub index: u32,
}

impl WorkerId {
    /// The worker `index` of `pool`.
    pub fn new(pool: impl Into<String>, index: u32) -> Self {
        Self {
            pool: pool.into(),
            index,
        }
    }

    /// The value of the marker variable in this worker's processes: `embed/0#3`.
    pub fn marker_value(&self, incarnation: Incarnation) -> String {
        format!("{self}#{incarnation}")
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.index)
    }
}

/// Which process of a worker, counted from 1. Everything about a process is keyed by it, so that a late word of an
/// old process is never taken for one of its successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// The first process of a worker.
    pub const FIRST: Self = Self(1);

    /// The one after this.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_their_time() {
        let early = RunId::from_parts(1_000, [0xff; 10]);
        let late = RunId::from_parts(1_001, [0; 10]);
        assert!(early < late);
        assert!(early.to_string() < late.to_string());
        assert_eq!(late.unix_millis(), 1_001);
    }

    #[test]
    fn an_id_survives_text_number_and_marker() {
        let id = RunId::from_parts(1_700_000_000_000, *b"0123456789");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(RunId::from_u128(id.as_u128()), id);
        assert_eq!(RunId::from_marker_name(&id.marker_name()), Some(id));
        assert_eq!(RunId::from_marker_name("OSTLER_RUN_nonsense"), None);
        assert_eq!(id.short().len(), 9);
    }

    #[test]
    fn ids_of_one_millisecond_differ_by_their_random_part() {
        let mut seen = std::collections::HashSet::new();
        for n in 0..1_000_u64 {
            let mut random = [0; 10];
            random[2..].copy_from_slice(&n.to_be_bytes());
            assert!(seen.insert(RunId::from_parts(5, random)));
        }
    }

    #[test]
    fn a_hyphenated_uuid_is_not_a_run_id() {
        assert!("018f0000-0000-7000-8000-000000000000".parse::<RunId>().is_err());
    }
}
