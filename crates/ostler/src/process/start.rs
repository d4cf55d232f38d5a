//! The start of an incarnation: its turn, its ports and record, its environment, its spawn; and
//! what a command that probes it is given.

mod environment;
mod ports;
mod probe;
mod refusal;
mod reserve;
mod spawn;
mod streams;
mod turn;

pub(super) use probe::Beside;
pub(super) use refusal::of_spawn;
pub(super) use reserve::reserve;
pub(super) use spawn::{learn_ports, order, prepare, spawned};
pub(super) use turn::{follow_predecessor, wait_turn};
