//! A worker's process, owned outside any actor.
//!
//! A [`Slot`] is a worker's place in its pool. [`Slot::start`] begins an incarnation: a task of its own (the driver)
//! takes it from its reservation to its release. The worker's actor holds a [`Process`], a handle: when the actor ends
//! in whatever way, the handle drops, and the driver ends and releases the process.
//!
//! | file | what it holds |
//! |---|---|
//! | `protocol` | every message |
//! | `slot` | what outlives an incarnation |
//! | `driver` | one incarnation: from inputs to effects, by the pure lifecycle |
//! | `start/` | turn, ports, record, environment, spawn |
//! | `watch/` | readiness probes and health |
//! | `release` | the tree, the ports, the record |
//! | `announce`, `spans`, `output` | what the outside sees |

mod announce;
mod driver;
mod output;
mod protocol;
mod release;
mod slot;
mod spans;
mod start;
mod watch;

pub use output::{RECORDS_A_SECOND, RECORDS_AT_ONCE};
pub(crate) use protocol::{Message, Told};
pub(crate) use slot::{Process, Slot};
#[cfg(feature = "fuzzing")]
pub use watch::ready_file;
