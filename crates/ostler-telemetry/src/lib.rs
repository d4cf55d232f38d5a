//! The one list of the names that Ostler tells the world, and how what it tells reaches an OpenTelemetry receiver.
//!
//! [`event`] and [`names`] are the list. [`Observer`] is what Ostler tells, [`context`] the spans' place in their traces.
//! With the feature `otlp`, `otlp::Telemetry` sends all of it by OTLP.

pub mod context;
pub mod event;
pub mod names;
mod observe;
#[cfg(feature = "otlp")]
pub mod otlp;

pub use context::SpanLink;
pub use event::{Event, EventKind, Facts};
pub use observe::{Instance, Observer, Output, Part, PoolSnapshot, Snapshot, Usage};
