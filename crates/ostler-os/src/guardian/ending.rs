//! Whether the host has ordered the guardian's end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Shared by the handle, which orders the end, and the events, which tell an ordered end from a
/// loss.
#[derive(Debug, Clone, Default)]
pub(super) struct Ending(Arc<AtomicBool>);

impl Ending {
    pub(super) fn order(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_ordered(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
