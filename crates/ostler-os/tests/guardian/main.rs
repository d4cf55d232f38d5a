//! The guardian from outside: real processes, that do their worst.

mod cgroup;
mod death;
mod end;
mod faults;
mod handshake;
mod hidden;
mod hygiene;
mod load;
mod pure;
mod spawn;
mod support;

// What the pure files of the guardian program name as `crate::protocol`.
use ostler_os::protocol;
