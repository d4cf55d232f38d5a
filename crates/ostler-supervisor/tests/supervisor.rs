//! Supervisors on ractor: the conformance suite (the applicable cases of OTP's `supervisor_SUITE`
//! under their own names), pitfalls of ractor, and extensions. `docs/supervision.md` lists the
//! cases that do not apply.

#[path = "supervisor/support.rs"]
mod support;

#[path = "supervisor/api.rs"]
mod api;
#[path = "supervisor/cancel.rs"]
mod cancel;
#[path = "supervisor/embedded.rs"]
mod embedded;
#[path = "supervisor/extensions.rs"]
mod extensions;
#[path = "supervisor/linked.rs"]
mod linked;
#[path = "supervisor/misc.rs"]
mod misc;
#[path = "supervisor/nested.rs"]
mod nested;
#[path = "supervisor/restart_types.rs"]
mod restart_types;
#[path = "supervisor/significant.rs"]
mod significant;
#[path = "supervisor/start.rs"]
mod start;
#[path = "supervisor/stop.rs"]
mod stop;
#[path = "supervisor/storm.rs"]
mod storm;
#[path = "supervisor/strategies.rs"]
mod strategies;
#[path = "supervisor/traps.rs"]
mod traps;
