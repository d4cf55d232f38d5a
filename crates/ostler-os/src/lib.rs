//! Ostler's Linux layer: process identity and verified signals, process trees, containment, ports,
//! output, notify sockets, and the guardian that contains every worker's tree.
//!
//! All `unsafe` of the project is in this crate, each block with its reason. This crate knows
//! nothing about actors or pools. Calls block unless they are `async`; each documents what bounds
//! it. No external program is ever run to find something out: no ps, pgrep, kill or lsof.

pub mod cgroup;
pub mod dispositions;
#[cfg(feature = "testing")]
pub mod fake_worker;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod guardian;
pub mod holders;
pub mod identity;
pub mod kill;
pub mod limits;
pub mod machine;
pub mod marker;
pub mod notify;
pub mod oom;
pub mod output;
pub mod patience;
pub mod port_choice;
pub mod ports;
pub mod private;
pub mod process_ends;
pub mod procfile;
pub mod program;
pub mod protocol;
pub mod python_env;
pub mod shared;
mod slow_read;
pub mod socket_path;
pub mod sockets;
pub mod start_error;
pub mod tree;
pub mod worker_socket;
