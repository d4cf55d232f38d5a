//! What people and programs are told of a run. Nothing here can hold up the tree: whatever is written goes through an
//! [`Outlet`](outlet::Outlet), which drops and counts what its reader does not take.

pub(crate) mod board;
pub(crate) mod journal;
pub(crate) mod lines;
pub(crate) mod log;
pub(crate) mod outlet;
pub(crate) mod screen;
pub(crate) mod summary;
pub(crate) mod table;
