//! Ostler as a library, with real processes: whatever dies first, nothing is left.

mod cleaner;
mod guardian;
mod handle;
mod instances;
mod linked;
mod scene;
