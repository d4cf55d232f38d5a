//! The start of an incarnation: its turn, its ports and record, its environment, its spawn.

mod environment;
mod ports;
mod refusal;
mod reserve;
mod spawn;
mod streams;
mod turn;

pub(super) use refusal::of_spawn;
pub(super) use reserve::reserve;
pub(super) use spawn::{learn_ports, order, prepare, spawned};
pub(super) use turn::{follow_predecessor, wait_turn};
