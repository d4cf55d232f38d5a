//! OTP supervision as a pure value: events in, effects out, time passed in.
//!
//! [`Policy`] is the whole behaviour of one supervisor: who is started, stopped and restarted, in which order, when it gives up, and
//! what each request returns. It follows Erlang/OTP's `supervisor`; what goes beyond is marked *extension*. A driver feeds it what
//! happens ([`Event`]) and does what it says ([`Effect`]); the driver for ractor is `ostler::supervisor`.
//!
//! # Where it differs from OTP on purpose
//! OTP's supervisor blocks while a child starts or stops, and everything else waits in its mailbox. Here starting and stopping are states:
//! - queries are answered, and a stop is taken, at any time;
//! - under one_for_one and simple_one_for_one each child goes its own way; a request about a child that is starting or stopping waits for
//!   that child alone;
//! - under one_for_all and rest_for_one, whose restarts touch siblings, exits and requests wait until what is going on is done, in the order in
//!   which they came: what OTP's mailbox does;
//! - `terminate_child` of a child that is starting cancels the start instead of waiting for it.

mod backoff;
mod calls;
mod child;
mod intensity;
mod policy;
mod report;
mod spec;

pub use backoff::Backoff;
pub use calls::{
    CallId, ChildCounts, ChildInfo, ChildStart, ChildStatus, DeleteChildError, Reply, Request, RestartChildError,
    StartChildError, Target, TerminateChildError,
};
pub use policy::{Effect, End, Event, Policy};
pub use report::{ChildKey, ChildRef, Report};
pub use spec::{AutoShutdown, ChildId, ChildKind, ChildSpec, Restart, Shutdown, SpecError, Strategy, SupervisorFlags};
