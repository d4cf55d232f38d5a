//! Ostler's telemetry: the names of everything it emits, and the export to an OpenTelemetry
//! receiver.
//!
//! [`event`] and [`names`] define the names. An [`Observer`] receives what Ostler emits, and
//! [`context`] places spans in their traces. With the feature `otlp`, `otlp::Telemetry` exports
//! everything by OTLP.

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod context;
pub mod event;
pub mod names;
mod observe;
#[cfg(feature = "otlp")]
pub mod otlp;

pub use context::SpanLink;
pub use event::{Containment, Event, EventKind, Facts};
pub use observe::{
    CallEnd, Clients, ClientsSnapshot, Instance, Observer, Output, Part, PoolSnapshot, Snapshot, Usage, WorkerStanding,
};
