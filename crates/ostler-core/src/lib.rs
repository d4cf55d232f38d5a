//! Ostler's pure core: what pools and workers are to be, a worker's life, supervision policy, failures, names.
//!
//! Nothing here knows a clock, an async runtime or an operating system: time is passed in, effects are data.

pub mod exit;
pub mod failure;
pub mod ids;
pub mod lifecycle;
pub mod moment;
pub mod pool;
pub mod signal;
pub mod spec;
pub mod supervision;
