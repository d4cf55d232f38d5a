//! The table's rules and its content in memory; no clock, no thread, no disk.
//!
//! The ledger is the truth while the host lives: the store follows it, and is written anew from it after a failure.
//! Reads need no engine.
//!
//! Invariants:
//! - a worker has at most one record, so an incarnation is reserved only after the one before it was removed;
//! - an incarnation is reserved once: its successor has a greater number;
//! - a record's state never moves back;
//! - a record beyond its reservation has an identity, unless its spawn failed.

use std::collections::{BTreeMap, HashMap, HashSet};

use ostler_core::ids::{Incarnation, WorkerId};

use crate::codec::{RecordTooLarge, encode_key, encode_record};
use crate::record::{Activation, Key, Record, RecordState, UnixNanos};
use crate::store::Change;

/// What a caller wants of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Reserve(Record),
    Activate(Key, Activation),
    SetState(Key, RecordState, UnixNanos),
    Update(Record),
    Remove(Key),
}

/// A request that the table does not take as things stand. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The worker still has a record: what its process held is not released yet.
    #[error("{wanted} can't be reserved while {held} is {state}")]
    StillHeld {
        /// What was to be reserved.
        wanted: Key,
        /// The record that the worker has.
        held: Key,
        /// How far that one is.
        state: RecordState,
    },
    /// The incarnation, or a later one, was reserved before.
    #[error("{wanted} can't be reserved after incarnation {last} of the same worker")]
    NotNewer {
        /// What was to be reserved.
        wanted: Key,
        /// The last incarnation that was reserved.
        last: Incarnation,
    },
    /// The table has no such record.
    #[error("the process table has no record of {key}")]
    Unknown {
        /// What was asked for.
        key: Key,
    },
    /// The record is past the state that it was to be put in.
    #[error("{key} is {state} and can't become {wanted}")]
    StateBackwards {
        /// Whose record.
        key: Key,
        /// Its state.
        state: RecordState,
        /// The earlier state that was asked for.
        wanted: RecordState,
    },
    /// A reservation must be in state `Reserved`, and active only what was activated.
    #[error("{key} can't be {state} without an identity")]
    WithoutIdentity {
        /// Whose record.
        key: Key,
        /// The state that wants one.
        state: RecordState,
    },
    /// The record does not fit into a row.
    #[error(transparent)]
    TooLarge(#[from] RecordTooLarge),
}

/// The records of one run.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    records: BTreeMap<WorkerId, Record>,
    last_reserved: HashMap<WorkerId, Incarnation>,
    /// Removals that were answered and that the store has still to follow, oldest first.
    removals: Vec<Change>,
}

impl Ledger {
    /// A ledger of what a store held.
    pub(crate) fn of(records: Vec<Record>) -> Self {
        let mut ledger = Self::default();
        for record in records {
            ledger.last_reserved.insert(record.worker.clone(), record.incarnation);
            ledger.records.insert(record.worker.clone(), record);
        }
        ledger
    }

    /// Takes a request; the change is what the store must do to follow. `None`: there was nothing to remove.
    pub(crate) fn take(&mut self, request: Request) -> Result<Option<Change>, Refusal> {
        match request {
            Request::Reserve(record) => self.reserve(record).map(Some),
            Request::Activate(key, activation) => self.activate(&key, activation).map(Some),
            Request::SetState(key, state, at) => self.set_state(&key, state, at).map(Some),
            Request::Update(record) => self.update(record).map(Some),
            Request::Remove(key) => Ok(self.remove(&key)),
        }
    }

    fn reserve(&mut self, record: Record) -> Result<Change, Refusal> {
        let wanted = record.key();
        if record.state != RecordState::Reserved {
            return Err(Refusal::StateBackwards {
                key: wanted,
                state: record.state,
                wanted: RecordState::Reserved,
            });
        }
        if let Some(held) = self.records.get(&record.worker) {
            return Err(Refusal::StillHeld {
                wanted,
                held: held.key(),
                state: held.state,
            });
        }
        match self.last_reserved.get(&record.worker) {
            Some(&last) if record.incarnation <= last => return Err(Refusal::NotNewer { wanted, last }),
            _ => {}
        }
        let last = (record.worker.clone(), record.incarnation);
        let change = self.put(record)?;
        self.last_reserved.insert(last.0, last.1);
        Ok(change)
    }

    fn activate(&mut self, key: &Key, activation: Activation) -> Result<Change, Refusal> {
        let mut record = self.get(key)?.clone();
        advance(&mut record, RecordState::Active, activation.at)?;
        record.identity = Some(activation.identity);
        record.sitter = activation.sitter;
        record.ports = activation.ports;
        record.containment = activation.containment;
        self.put(record)
    }

    fn set_state(&mut self, key: &Key, state: RecordState, at: UnixNanos) -> Result<Change, Refusal> {
        let mut record = self.get(key)?.clone();
        if state == RecordState::Active && record.identity.is_none() {
            return Err(Refusal::WithoutIdentity {
                key: key.clone(),
                state,
            });
        }
        advance(&mut record, state, at)?;
        self.put(record)
    }

    fn update(&mut self, record: Record) -> Result<Change, Refusal> {
        let key = record.key();
        let state = self.get(&key)?.state;
        if record.state < state {
            return Err(Refusal::StateBackwards {
                key,
                state,
                wanted: record.state,
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

    /// Removes a record; the store is to follow with what it does next, or when the removals have waited for long enough.
    /// `None` without such a record: its reservation may be on its way still. True if no other removal waits.
    pub(crate) fn remove_now(&mut self, key: &Key) -> Option<bool> {
        let removal = self.remove(key)?;
        self.removals.push(removal);
        Some(self.removals.len() == 1)
    }

    /// Has the store follow these removals later, too. Whether any wait.
    pub(crate) fn defer(&mut self, removals: Vec<Change>) -> bool {
        self.removals.extend(removals);
        !self.removals.is_empty()
    }

    /// What the store has to do before anything that is taken from now on.
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
        self.records.insert(record.worker.clone(), record);
        Ok(change)
    }

    fn get(&self, key: &Key) -> Result<&Record, Refusal> {
        self.records
            .get(&key.worker)
            .filter(|record| record.incarnation == key.incarnation)
            .ok_or_else(|| Refusal::Unknown { key: key.clone() })
    }

    /// All records, in the order of their workers.
    pub(crate) fn records(&self) -> Vec<Record> {
        self.records.values().cloned().collect()
    }

    /// The record of this key, if there is one.
    pub(crate) fn find(&self, key: &Key) -> Option<Record> {
        self.get(key).ok().cloned()
    }

    /// The incarnation of a worker that may be reserved next.
    pub(crate) fn next_incarnation(&self, worker: &WorkerId) -> Incarnation {
        self.last_reserved
            .get(worker)
            .map_or(Incarnation::FIRST, |last| last.next())
    }

    /// How many records there are.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// The changes that make a store hold exactly this ledger, when it holds rows under `stored` keys.
    pub(crate) fn rewrite(&self, stored: &[Vec<u8>]) -> Vec<Change> {
        let kept: HashSet<Vec<u8>> = self.records.values().map(|record| encode_key(&record.key())).collect();
        let stale = stored.iter().filter(|key| !kept.contains(*key));
        stale
            .map(|key| Change::Remove { key: key.clone() })
            // No record got here without having been encoded once, so none is left out.
            .chain(self.records.values().flat_map(put_change))
            .collect()
    }
}

fn put_change(record: &Record) -> Result<Change, RecordTooLarge> {
    Ok(Change::Put {
        key: encode_key(&record.key()),
        value: encode_record(record)?,
    })
}

/// Moves a record to a state, with the time at which it got there first.
fn advance(record: &mut Record, state: RecordState, at: UnixNanos) -> Result<(), Refusal> {
    if state < record.state {
        return Err(Refusal::StateBackwards {
            key: record.key(),
            state: record.state,
            wanted: state,
        });
    }
    record.state = state;
    match state {
        RecordState::Reserved => {}
        RecordState::Active => _ = record.times.active.get_or_insert(at),
        RecordState::Ending => _ = record.times.ending.get_or_insert(at),
        RecordState::Releasing => _ = record.times.releasing.get_or_insert(at),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
