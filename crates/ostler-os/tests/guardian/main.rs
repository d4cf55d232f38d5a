//! The guardian with real processes, including the worst.

mod cgroup;
mod death;
mod end;
#[path = "../shared/executable.rs"]
mod executable;
mod faults;
mod handshake;
mod hidden;
mod hygiene;
mod load;
mod pure;
mod spawn;
mod strays;
mod support;

// Lets the guardian program's pure files, compiled here, use `crate::protocol`.
use ostler_os::protocol;
