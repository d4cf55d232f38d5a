//! What an instance needs of the tokio runtime that it is started on.

use std::panic::catch_unwind;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

/// Whether there is a runtime, with timers and I/O. tokio offers no question for these: it panics,
/// with a message that says what is missing.
pub(super) fn is_complete() -> bool {
    let has_drivers = || {
        catch_unwind(|| {
            drop(tokio::time::sleep(Duration::ZERO));
            drop(tokio::net::UnixDatagram::unbound());
        })
    };
    Handle::try_current().is_ok() && has_drivers().is_ok()
}

/// tokio's clock and the real one at the same moment.
pub(super) struct Clock {
    tokio: tokio::time::Instant,
    real: Instant,
}

impl Clock {
    pub(super) fn read() -> Self {
        Self {
            tokio: tokio::time::Instant::now(),
            real: Instant::now(),
        }
    }

    /// Whether tokio's clock has stood still since, while real time went on. To be asked after work
    /// on a blocking thread: tokio does not advance a paused clock meanwhile.
    pub(super) fn is_paused(&self) -> bool {
        !self.real.elapsed().is_zero() && self.tokio.elapsed().is_zero()
    }
}
