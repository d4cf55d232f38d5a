//! The Linux edge against real processes, sockets and files.

mod cgroup;
mod common;
mod errors;
#[path = "../shared/executable.rs"]
mod executable;
mod identity;
mod kill;
mod marker;
mod port_choice;
mod ports;
mod worker_socket;
