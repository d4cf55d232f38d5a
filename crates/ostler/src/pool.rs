//! Pools: a number of workers of one kind, with a starter for each slot that keeps it filled.
//!
//! - `handle`: [`Pool`], the handle of a pool; `worker_handle`: [`Worker`], that of one worker
//! - `phase`: the phases of a pool, and its ends; `error`: its errors
//! - `shared`: the state shared by handle, supervisor, starters and workers
//! - `slots`: its slots; `resize`: changes their number, and restarts workers in turn
//! - `starter`: pool supervisor and starter, as children; `worker`: the actor of one incarnation

mod error;
mod handle;
mod phase;
mod resize;
pub(crate) mod shared;
mod slots;
pub(crate) mod starter;
mod worker;
mod worker_handle;

pub use error::{NotRestartable, NotSignalled, PoolError};
pub use handle::Pool;
pub use phase::{PoolEnd, PoolPhase};
#[cfg(test)]
pub(crate) use worker::WorkerMessage;
pub use worker_handle::Worker;
