//! Clients of an Ostler pool: dispatch, queue, leases, sessions, circuit breaker, retries and
//! recycling.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod adapter;
mod call;
mod client;
mod connect;
mod dispatcher;
mod error;
#[cfg(feature = "stdio")]
mod exception;
#[cfg(feature = "stdio")]
mod figures;
mod flight;
#[cfg(feature = "grpc")]
pub mod grpc;
#[cfg(feature = "http")]
pub mod http;
mod lease;
#[cfg(feature = "stdio")]
mod method;
mod observe;
mod outcome;
mod policy;
mod pool;
mod renew;
mod roster;
mod session;
#[cfg(feature = "stdio")]
pub mod stdio;
mod warm;
mod worker;

pub use adapter::{Adapter, Attempt, Fault};
pub use call::CallOptions;
pub use client::Client;
pub use error::{BoxError, SharedError};
#[cfg(feature = "stdio")]
pub use figures::{FiguresError, GpuMemory, WorkerFigures};
pub use lease::{Exchange, Lease};
pub use observe::Description;
pub use outcome::{CallError, Lost, Refused, SessionLost, Unknown, WorkerRef};
pub use policy::breaker::BreakerState;
pub use policy::recycle::RecycleReason;
pub use pool::{ServingPool, ServingState};
pub use session::Session;
pub use worker::Worker;

pub use ostler::Endpoint;
pub use ostler_core::spec::{
    Affinity, Breaker, Codel, FailureRate, OnCancel, QueueOrder, QueueSpec, Recycle, ServeSpec, Sessions,
};
