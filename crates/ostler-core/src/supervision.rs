//! OTP supervision as a pure state machine: events go in, effects come out, and time is passed in.
//!
//! [`Policy`] holds the complete behaviour of one supervisor: which children it starts, stops and
//! restarts, in which order, when it gives up, and what each request returns. It follows
//! Erlang/OTP's `supervisor`; additions are marked *extension*. A driver feeds it what happens
//! ([`Event`]) and carries out what it returns ([`Effect`]). The driver for ractor is
//! `ostler::supervisor`.
//!
//! # Deliberate differences from OTP
//!
//! OTP's supervisor blocks while a child starts or stops, and everything else waits in its mailbox.
//! Here, starting and stopping are states:
//!
//! - Queries are answered, and a stop is accepted, at any time.
//! - Under one_for_one and simple_one_for_one, children are independent. A request about a child
//!   that is starting or stopping waits for that child only.
//! - Under one_for_all and rest_for_one, where restarts affect siblings, exits and requests wait in
//!   order of arrival until the current operation is done, as in OTP's mailbox.
//! - `terminate_child` on a child that is starting cancels the start instead of waiting for it.

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
pub use intensity::Intensity;
pub use policy::{Effect, End, Event, Policy};
pub use report::{ChildKey, ChildRef, Report};
pub use spec::{AutoShutdown, ChildId, ChildKind, ChildSpec, Restart, Shutdown, SpecError, Strategy, SupervisorFlags};
