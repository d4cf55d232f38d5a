//! Ostler's pure core: specifications, the lifecycle of a worker, supervision policy, failures and
//! ids.
//!
//! Nothing in this crate reads a clock, runs on an async runtime or calls the operating system:
//! time is passed in, and effects are returned as data.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod alarm;
pub mod answer;
pub mod chain;
#[cfg(feature = "config")]
pub mod config;
pub mod exit;
pub mod failure;
pub mod ids;
pub mod lifecycle;
pub mod moment;
pub mod pool;
pub mod process;
pub mod signal;
pub mod spec;
pub mod supervision;
pub mod traceback;
