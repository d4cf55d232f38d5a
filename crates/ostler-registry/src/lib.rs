//! The durable process table: a record of every process that Ostler owns.
//!
//! A process is recorded before it is spawned, and its record is removed once everything it held is
//! free again. Whatever dies first, the next start finds in the dead run's table what may still be
//! there.
//!
//! - [`Record`]: the content of a record, and [`codec`]: its versioned encoding;
//! - [`Table`]: the table of a live run, with rules and content in memory and rows in a storage
//!   engine on a separate thread;
//! - [`RunDir`]: a run's directory and lock; [`runs`]: the runs found at a start, and
//!   [`DeadRun::records`].
//!
//! Two engines can store the rows, RocksDB and redb. Each is a feature, and at least one must be
//! enabled.
//!
//! This crate does *not* decide when processes start or end, send signals, or read `/proc`.

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod codec;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod ledger;
mod private;
mod record;
mod run;
#[cfg(test)]
mod samples;
mod store;
mod table;

pub use ledger::Refusal;
pub use private::Distrust;
pub use record::{Activation, Containment, Identity, Key, Owner, Record, RecordState, RecordedPort, Times, UnixNanos};
pub use run::{
    DeadRun, FoundRun, LiveRun, RUN_FORMAT, RunDir, RunDirError, RunInfo, RunInfoError, Scratch, remove_leftovers,
    runs, try_out,
};
pub use store::{DeadStore, Engine, SetAside, StoreError, read_dead_store};
pub use table::{OnTableEvent, Table, TableError, TableEvent, TableOptions, TableStatus};
