//! A worker's process, owned outside any actor.
//!
//! A [`Slot`] is a worker's place in its pool. [`begin`] begins an incarnation: a task of its own
//! (the driver) takes it from its reservation to its release. The worker's actor holds a
//! [`Process`], a handle: however the actor ends, the handle drops, and the driver ends and
//! releases the process.
//!
//! | file | what it holds |
//! |---|---|
//! | `protocol` | every message |
//! | `slot` | what outlives an incarnation |
//! | `incarnation` | what one incarnation is; `resources`: what it holds; `place`: paths that it depends on |
//! | `host` | what an incarnation needs of its host, as narrow traits |
//! | `driver` | one incarnation: from inputs to effects, by the pure lifecycle |
//! | `start/` | its turn, its ports and record, its environment, its spawn |
//! | `plan`, `watch/` | readiness, probes and heartbeats; `exec`: the process of a probe |
//! | `release`, `remnants` | the ports and the record; a tree without its sitter |
//! | `announce`, `spans`, `output`, `tap` | what the outside sees |

mod announce;
mod driver;
mod exec;
mod host;
mod incarnation;
mod output;
mod place;
mod plan;
mod protocol;
mod release;
mod remnants;
mod resources;
#[cfg(test)]
mod script;
mod slot;
mod spans;
mod start;
mod tap;
mod watch;

pub(crate) use driver::begin;
pub(crate) use exec::ProbePlace;
pub(crate) use host::{Host, Setup};
pub use output::{RECORDS_A_SECOND, RECORDS_AT_ONCE};
pub(crate) use protocol::Notice;
pub(crate) use slot::{Process, Slot};
pub use tap::{OUTPUT_BUFFER, OutputItem, OutputLine, WorkerOutput};
#[cfg(feature = "fuzzing")]
pub use watch::ready_file;
