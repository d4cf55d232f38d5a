//! What the link needs of a guardian.

use ostler_core::ids::Incarnation;
use ostler_core::spec::StopSpec;
use ostler_os::guardian::{Guardian, OrderError};

/// What the link needs of a guardian. Tests script it.
pub(crate) trait Orders: Clone + Send + Sync + 'static {
    /// Has the slot's sitter end this incarnation.
    fn end(&self, slot: u32, incarnation: Incarnation, stop: StopSpec) -> Result<(), OrderError>;

    /// Has the slot's sitter end itself.
    fn close(&self, slot: u32) -> Result<(), OrderError>;

    /// Asks what the guardian still has.
    fn census(&self) -> Result<(), OrderError>;

    /// Closes the line: the guardian ends everything that it has.
    fn abandon(&self);
}

impl Orders for Guardian {
    fn end(&self, slot: u32, incarnation: Incarnation, stop: StopSpec) -> Result<(), OrderError> {
        Guardian::end(self, slot, incarnation.0, stop.signal, stop.grace)
    }

    fn close(&self, slot: u32) -> Result<(), OrderError> {
        Guardian::close(self, slot)
    }

    fn census(&self) -> Result<(), OrderError> {
        Guardian::census(self)
    }

    fn abandon(&self) {
        Guardian::abandon(self);
    }
}
