//! Ostler as a library, with real processes: whatever dies first, nothing is left.

mod callbacks;
mod cancel;
mod cleaner;
mod guardian;
mod handle;
mod instances;
mod linked;
mod logs;
mod pools;
mod resize;
mod scene;
mod specs;
mod supervised;
mod unresponsive;
mod worker;
