//! Tests of the instance that need its internals: real processes, and actors that are killed or
//! panic.

mod deaths;
mod scene;
mod stops;
