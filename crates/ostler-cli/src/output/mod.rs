//! What people and programs see of a run: the text on stderr, and the events file.

pub(crate) mod board;
pub(crate) mod events_file;
pub(crate) mod journal;
pub(crate) mod lines;
pub(crate) mod log;
pub(crate) mod outlet;
pub(crate) mod screen;
pub(crate) mod summary;
pub(crate) mod table;
pub(crate) mod text;
