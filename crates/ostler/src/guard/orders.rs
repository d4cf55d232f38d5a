//! What the link needs of a guardian.

use ostler_core::ids::Incarnation;
use ostler_core::spec::StopSpec;
use ostler_os::guardian::{Guardian, OrderError};

/// What the link needs of a guardian. Tests script it.
pub(crate) trait Orders: Clone + Send + Sync + 'static {
    /// Orders the slot's sitter to end this incarnation.
    fn end(&self, slot: u32, incarnation: Incarnation, stop: StopSpec) -> Result<(), OrderError>;

    /// Orders the slots' sitters to end themselves.
    fn close(&self, slots: &[u32]) -> Result<(), OrderError>;

    /// Asks which processes the guardian still has.
    fn census(&self) -> Result<(), OrderError>;

    /// Closes the connection; the guardian then ends all its workers.
    fn abandon(&self);
}

impl Orders for Guardian {
    fn end(&self, slot: u32, incarnation: Incarnation, stop: StopSpec) -> Result<(), OrderError> {
        Guardian::end(self, slot, incarnation.0, stop.signal, stop.grace)
    }

    fn close(&self, slots: &[u32]) -> Result<(), OrderError> {
        Guardian::close(self, slots)
    }

    fn census(&self) -> Result<(), OrderError> {
        Guardian::census(self)
    }

    fn abandon(&self) {
        Guardian::abandon(self);
    }
}
