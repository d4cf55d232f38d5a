//! The durable record of every process that Ostler owns.
//!
//! A process is recorded before it is spawned, and its record is removed when all that it held is free again. Whatever
//! dies first, whoever comes after finds in the table of the dead run what may still be there.
//!
//! - [`Record`]: what is recorded, and [`codec`]: its bytes, with a version in front;
//! - [`Table`]: the table of a live run: rules and content in memory, rows in an engine on a thread of its own;
//! - [`RunDir`]: a run's directory and lock; [`runs`]: those that a start finds, and [`DeadRun::records`].
//!
//! Two engines keep the rows, RocksDB and redb, each a feature; at least one must be compiled in.
//!
//! What is *not* here: who decides when a process starts or ends, signals, and any look at `/proc`.

pub mod codec;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod ledger;
mod record;
mod run;
#[cfg(test)]
mod samples;
mod store;
mod table;

pub use ledger::Refusal;
pub use record::{
    Activation, Containment, Identity, Key, Lease, Owner, Record, RecordState, RecordedPort, Times, UnixNanos,
};
pub use run::{
    AppDirError, DeadRun, DirEnv, FoundRun, LiveRun, RUN_FORMAT, RunDir, RunDirError, RunInfo, RunInfoError, app_dir,
    check_app_name, remove_leftovers, runs, try_out,
};
pub use store::{DeadStore, Engine, SetAside, StoreError, read_dead_store};
pub use table::{OnTableEvent, Table, TableError, TableEvent, TableOptions, TableStatus};
