//! Pools: so many workers of one kind, each slot kept filled by a starter of its own.
//!
//! - `handle`: [`Pool`], what people hold of a pool; `worker_handle`: [`Worker`], of one of its
//!   workers
//! - `phase`: how far a pool is, and how it ends; `error`: what it refuses
//! - `shared`: what handle, supervisor, starters and workers have in common
//! - `slots`: its slots, whose number changes; `resize`: changes it, and restarts workers in turn
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
