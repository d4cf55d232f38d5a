//! The table's rules and its content in memory, without clock, thread or disk.
//!
//! The ledger is authoritative while the host is alive: the store follows it, and is rewritten from
//! it after a failure. Reads do not need the engine.
//!
//! Invariants:
//!
//! - A worker has at most one record, so an incarnation is reserved only after the previous one was
//!   removed.
//! - An incarnation is reserved once; later ones have greater numbers.
//! - A record's state never moves backwards.
//! - An active record has an identity.

use std::collections::{BTreeMap, HashMap, HashSet};

use ostler_core::ids::{Incarnation, WorkerId};

use crate::codec::{RecordTooLarge, encode_key, encode_record};
use crate::record::{Activation, Key, Record, RecordState};
use crate::store::Change;

/// A request to change the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Reserve(Record),
    Activate(Key, Activation),
    Update(Record),
    Remove(Key),
}

/// Why the table refused a request. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The worker still has a record: what its process held is not released yet.
    #[error("{requested} can't be reserved while {held} is {state}")]
    StillHeld {
        /// The requested reservation.
        requested: Key,
        /// The worker's current record.
        held: Key,
        /// The state of that record.
        state: RecordState,
    },
    /// The incarnation, or a later one, was reserved before.
    #[error("{requested} can't be reserved after incarnation {last} of the same worker")]
    NotNewer {
        /// The requested reservation.
        requested: Key,
        /// The last reserved incarnation.
        last: Incarnation,
    },
    /// The table has no such record.
    #[error("the process table has no record of {key}")]
    Unknown {
        /// The requested record.
        key: Key,
    },
    /// The record is already past the requested state.
    #[error("{key} is {state} and can't become {requested}")]
    StateBackwards {
        /// The record.
        key: Key,
        /// Its state.
        state: RecordState,
        /// The requested state.
        requested: RecordState,
    },
    /// Only an activated record can be active.
    #[error("{key} can't be {state} without an identity")]
    WithoutIdentity {
        /// The record.
        key: Key,
        /// The state that needs an identity.
        state: RecordState,
    },
    /// The record does not fit into a row.
    #[error(transparent)]
    TooLarge(#[from] RecordTooLarge),
}

/// The records of one run.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Boxed, because a B-tree node has room for eleven, and is half full if they come in order.
    records: BTreeMap<WorkerId, Box<Record>>,
    last_reserved: HashMap<WorkerId, Incarnation>,
    /// Removals that were already answered but not yet written to the store, oldest first.
    removals: Vec<Change>,
}

impl Ledger {
    /// Creates a ledger from the content of a store.
    pub(crate) fn of(records: Vec<Record>) -> Self {
        let mut ledger = Self::default();
        for record in records {
            ledger.last_reserved.insert(record.worker.clone(), record.incarnation);
            ledger.records.insert(record.worker.clone(), Box::new(record));
        }
        ledger
    }

    /// Handles a request. Returns the change for the store, or `None` if there was nothing to
    /// remove.
    pub(crate) fn take(&mut self, request: Request) -> Result<Option<Change>, Refusal> {
        match request {
            Request::Reserve(record) => self.reserve(record).map(Some),
            Request::Activate(key, activation) => self.activate(&key, activation).map(Some),
            Request::Update(record) => self.update(record).map(Some),
            Request::Remove(key) => Ok(self.remove(&key)),
        }
    }

    fn reserve(&mut self, record: Record) -> Result<Change, Refusal> {
        let requested = record.key();
        if record.state != RecordState::Reserved {
            return Err(Refusal::StateBackwards {
                key: requested,
                state: record.state,
                requested: RecordState::Reserved,
            });
        }
        if let Some(held) = self.records.get(&record.worker) {
            return Err(Refusal::StillHeld {
                requested,
                held: held.key(),
                state: held.state,
            });
        }
        match self.last_reserved.get(&record.worker) {
            Some(&last) if record.incarnation <= last => return Err(Refusal::NotNewer { requested, last }),
            _ => {}
        }
        let last = (record.worker.clone(), record.incarnation);
        let change = self.put(record)?;
        self.last_reserved.insert(last.0, last.1);
        Ok(change)
    }

    fn activate(&mut self, key: &Key, activation: Activation) -> Result<Change, Refusal> {
        let mut record = self.get(key)?.clone();
        record.state = RecordState::Active;
        record.times.active.get_or_insert(activation.at);
        record.identity = Some(activation.identity);
        record.sitter = activation.sitter;
        record.ports = activation.ports;
        record.containment = activation.containment;
        self.put(record)
    }

    fn update(&mut self, record: Record) -> Result<Change, Refusal> {
        let key = record.key();
        let state = self.get(&key)?.state;
        if record.state < state {
            return Err(Refusal::StateBackwards {
                key,
                state,
                requested: record.state,
            });
        }
        if record.state == RecordState::Active && record.identity.is_none() {
            return Err(Refusal::WithoutIdentity {
                key,
                state: record.state,
            });
        }
        self.put(record)
    }

    /// Removes a record. The store follows with its next write, or once the removal has waited long
    /// enough. Returns `None` without such a record, whose reservation may still be queued;
    /// otherwise whether no other removal is waiting.
    pub(crate) fn remove_now(&mut self, key: &Key) -> Option<bool> {
        let removal = self.remove(key)?;
        self.removals.push(removal);
        Some(self.removals.len() == 1)
    }

    /// Whether any removal waits to be written.
    pub(crate) fn has_removals(&self) -> bool {
        !self.removals.is_empty()
    }

    /// Takes the removals, which the store must write before anything requested from now on.
    pub(crate) fn take_removals(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.removals)
    }

    fn remove(&mut self, key: &Key) -> Option<Change> {
        self.get(key).ok()?;
        self.records.remove(&key.worker);
        Some(Change::Remove { key: encode_key(key) })
    }

    fn put(&mut self, record: Record) -> Result<Change, Refusal> {
        let change = put_change(&record)?;
        self.records.insert(record.worker.clone(), Box::new(record));
        Ok(change)
    }

    fn get(&self, key: &Key) -> Result<&Record, Refusal> {
        self.records
            .get(&key.worker)
            .map(AsRef::as_ref)
            .filter(|record: &&Record| record.incarnation == key.incarnation)
            .ok_or_else(|| Refusal::Unknown { key: key.clone() })
    }

    /// All records, ordered by worker.
    pub(crate) fn records(&self) -> Vec<Record> {
        self.records.values().map(|record| Record::clone(record)).collect()
    }

    /// The record with this key, if there is one.
    pub(crate) fn find(&self, key: &Key) -> Option<Record> {
        self.get(key).ok().cloned()
    }

    /// The next incarnation of a worker that may be reserved.
    pub(crate) fn next_incarnation(&self, worker: &WorkerId) -> Incarnation {
        self.last_reserved
            .get(worker)
            .map_or(Incarnation::FIRST, |last| last.next())
    }

    /// The number of records.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// The changes that make a store with rows under the `stored` keys equal to this ledger.
    pub(crate) fn rewrite(&self, stored: &[Vec<u8>]) -> Vec<Change> {
        let kept: HashSet<Vec<u8>> = self.records.values().map(|record| encode_key(&record.key())).collect();
        let stale = stored.iter().filter(|key| !kept.contains(*key));
        stale
            .map(|key| Change::Remove { key: key.clone() })
            // Every record here has been encoded before, so none is left out.
            .chain(self.records.values().flat_map(|record| put_change(record)))
            .collect()
    }
}

fn put_change(record: &Record) -> Result<Change, RecordTooLarge> {
    Ok(Change::Put {
        key: encode_key(&record.key()),
        value: encode_record(record)?,
    })
}

#[cfg(test)]
mod tests;
