//! The start of an incarnation: its turn, its ports and record, its environment, the spawn.

mod environment;
mod prepare;
mod refusal;
mod streams;
mod turn;

pub(super) use prepare::{Prepared, Resources};
pub(super) use refusal::of_spawn;
pub(super) use turn::{stand_for, wait_turn};
