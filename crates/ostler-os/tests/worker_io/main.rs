//! What stands between a worker and its host: output, notify socket, the choice of its program, limits; with real
//! processes, pipes and sockets.

mod common;
mod limits;
mod notify;
mod output;
mod program;
