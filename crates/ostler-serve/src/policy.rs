//! The decisions of a serving pool, as values: who serves a call, who waits, who is refused.
//!
//! Nothing here reads a clock, knows a runtime or sends a byte: the time is an argument, and what a
//! decision leads to is returned. So each rule can be tested by itself, and a lock around it is
//! never held across an await.

pub(crate) mod breaker;
pub(crate) mod budget;
pub(crate) mod codel;
pub(crate) mod dispatch;
pub(crate) mod poison;
pub(crate) mod queue;
pub(crate) mod recycle;
pub(crate) mod sessions;
pub(crate) mod workers;
