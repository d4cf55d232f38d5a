//! The connections between a worker and its host: output, notify socket, program lookup and limits,
//! with real processes, pipes and sockets.

mod common;
mod limits;
mod notify;
mod output;
mod program;
