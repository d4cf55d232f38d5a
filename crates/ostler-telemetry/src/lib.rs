//! The one list of the names that Ostler tells the world: events, and what each carries.

pub mod event;

pub use event::{Event, EventKind, Facts};
