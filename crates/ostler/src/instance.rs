//! One instance: how it starts, what its actors share, and how it ends.
//!
//! - `builder`: from a name to a running instance; `disk`: its steps that a disk can delay
//! - `handle`: [`Ostler`](crate::Ostler), the handle that users hold
//! - `pool_builder`: makes its pools; `child`: an instance as a child of a supervisor
//! - `tree`: its root and its pools; `anchor`: its place under an actor of the app; `conclude`: its
//!   end, whatever caused it
//! - `services`: what its actors and drivers share
//! - `sweep`, `cleaner`, `audit`: search for processes that should not exist: of dead runs at the
//!   start, of this run at its end, and at an interval
//! - `process_table`: the table's place in the tree; `report`: the result of a stop; `snapshot`:
//!   what metrics read

mod anchor;
pub(crate) mod audit;
pub(crate) mod builder;
mod child;
pub(crate) mod cleaner;
mod conclude;
mod disk;
pub(crate) mod handle;
pub(crate) mod pool_builder;
mod process_table;
pub(crate) mod report;
mod runtime;
pub(crate) mod services;
mod snapshot;
pub mod sweep;
pub(crate) mod tree;
