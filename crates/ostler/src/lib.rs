//! ostler.

pub mod supervisor;
