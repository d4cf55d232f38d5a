//! How long the guardian has not reported anything although it has orders.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Shared by the orders, which begin a silence, and the events, which end it.
#[derive(Debug, Clone, Default)]
pub(super) struct Silence(Arc<Mutex<Option<Instant>>>);

impl Silence {
    /// An order is sent.
    pub(super) fn ordered(&self) {
        self.lock().get_or_insert_with(Instant::now);
    }

    /// An event has arrived.
    pub(super) fn heard(&self) {
        *self.lock() = None;
    }

    /// How long ago the first order since the last event was sent.
    pub(super) fn length(&self) -> Option<Duration> {
        self.lock().map(|since| since.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
