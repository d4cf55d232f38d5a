//! Ids: of a run, of a worker in a pool, and of an incarnation of that worker.
//!
//! A run id is a version 7 UUID (RFC 9562): 48 bits of milliseconds and 74 random bits, so ids sort
//! by time and do not collide even at thousands per second. The time and the random bits are passed
//! in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One run of one Ostler instance, from its start to its stop or the death of its host. Never
/// reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RunId(Uuid);

impl RunId {
    /// Creates the id of a run that started at `unix_millis` since the Unix epoch, from ten random
    /// bytes.
    pub fn from_parts(unix_millis: u64, random: [u8; 10]) -> Self {
        Self(uuid::Builder::from_unix_timestamp_millis(unix_millis, &random).into_uuid())
    }

    /// The id as a number, the form in which records store it.
    pub const fn as_u128(self) -> u128 {
        self.0.as_u128()
    }

    /// Converts back from [`RunId::as_u128`].
    pub const fn from_u128(value: u128) -> Self {
        Self(Uuid::from_u128(value))
    }

    /// When the run started, in milliseconds since the Unix epoch.
    pub fn unix_millis(self) -> u64 {
        (self.as_u128() >> 80) as u64
    }

    /// A short form for display: the last eight random digits of the id, for example `9f3a-07c4`.
    /// It may collide; use the full id for comparisons.
    pub fn short(self) -> String {
        let digits = self.to_string();
        format!("{}-{}", &digits[24..28], &digits[28..32])
    }

    /// The name of the environment variable that marks the processes of this run. The id is part of
    /// the *name*, so that an Ostler inside a worker of another Ostler adds its marker next to the
    /// outer one.
    pub fn marker_name(self) -> String {
        format!("{MARKER_PREFIX}{self}")
    }

    /// Parses the name of a marker variable. Returns `None` if the name is something else.
    pub fn from_marker_name(name: &str) -> Option<Self> {
        name.strip_prefix(MARKER_PREFIX)?.parse().ok()
    }
}

/// The prefix of every marker variable's name.
pub const MARKER_PREFIX: &str = "OSTLER_RUN_";

impl fmt::Display for RunId {
    /// 32 hexadecimal digits without hyphens, valid in file names and in variable names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.as_simple())
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunId({self})")
    }
}

/// The error returned when a text is not a run id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid run id {text:?}: expected 32 hexadecimal digits")]
pub struct InvalidRunId {
    text: String,
}

impl FromStr for RunId {
    type Err = InvalidRunId;

    fn from_str(text: &str) -> Result<Self, InvalidRunId> {
        let bad = || InvalidRunId { text: text.to_owned() };
        if text.len() != 32 {
            return Err(bad());
        }
        Uuid::try_parse(text).map(Self).map_err(|_| bad())
    }
}

/// What distinguishes the marker of a probe's process from that of its worker.
const PROBE: &str = "+probe";

/// A slot of a pool, which names its worker in every incarnation. Displayed as `embed/0`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerId {
    /// The pool's name.
    pub pool: String,
    /// The slot's index in the pool, from 0.
    pub index: u32,
}

impl WorkerId {
    /// Creates the id of worker `index` of `pool`.
    pub fn new(pool: impl Into<String>, index: u32) -> Self {
        Self {
            pool: pool.into(),
            index,
        }
    }

    /// The value of the marker variable in this worker's processes, for example `embed/0#3`.
    pub fn marker_value(&self, incarnation: Incarnation) -> String {
        format!("{self}#{incarnation}")
    }

    /// The same in the processes of its `exec` probes, for example `embed/0#3+probe`.
    pub fn probe_marker_value(&self, incarnation: Incarnation) -> String {
        format!("{self}#{incarnation}{PROBE}")
    }

    /// The worker's own value for a marker's value: of a probe, that of the worker that it
    /// examines.
    pub fn examined(marker_value: &str) -> &str {
        marker_value.strip_suffix(PROBE).unwrap_or(marker_value)
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.index)
    }
}

/// Counts the processes of a worker, from 1. Everything about a process is keyed by it, so that a
/// late message about an old process is never attributed to its successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// The first process of a worker.
    pub const FIRST: Self = Self(1);

    /// The next incarnation.
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
    fn ids_sort_by_time() {
        let early = RunId::from_parts(1_000, [0xff; 10]);
        let late = RunId::from_parts(1_001, [0; 10]);
        assert!(early < late);
        assert!(early.to_string() < late.to_string());
        assert_eq!(late.unix_millis(), 1_001);
    }

    #[test]
    fn id_round_trips_through_text_number_and_marker() {
        let id = RunId::from_parts(1_700_000_000_000, *b"0123456789");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(RunId::from_u128(id.as_u128()), id);
        assert_eq!(RunId::from_marker_name(&id.marker_name()), Some(id));
        assert_eq!(RunId::from_marker_name("OSTLER_RUN_nonsense"), None);
        assert_eq!(id.short().len(), 9);
    }

    #[test]
    fn ids_of_one_millisecond_are_unique() {
        let mut seen = std::collections::HashSet::new();
        for n in 0..1_000_u64 {
            let mut random = [0; 10];
            random[2..].copy_from_slice(&n.to_be_bytes());
            assert!(seen.insert(RunId::from_parts(5, random)));
        }
    }

    #[test]
    fn hyphenated_uuid_is_not_a_run_id() {
        assert!("018f0000-0000-7000-8000-000000000000".parse::<RunId>().is_err());
    }
}
