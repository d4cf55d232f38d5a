//! The options of a supervisor.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ostler_core::supervision::{AutoShutdown, Backoff, Report, Strategy, SupervisorFlags};

pub(crate) type Reporter = Arc<dyn Fn(Report) + Send + Sync>;

/// OTP's supervisor flags, and a receiver for reports.
#[derive(Clone, Default)]
pub struct SupervisorOptions {
    pub(crate) flags: SupervisorFlags,
    pub(crate) reporter: Option<Reporter>,
    /// Reports are not logged.
    pub(crate) quiet: bool,
}

impl fmt::Debug for SupervisorOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SupervisorOptions")
            .field("flags", &self.flags)
            .field("reporter", &self.reporter.is_some())
            .field("quiet", &self.quiet)
            .finish()
    }
}

impl From<SupervisorFlags> for SupervisorOptions {
    fn from(flags: SupervisorFlags) -> Self {
        SupervisorOptions {
            flags,
            ..SupervisorOptions::default()
        }
    }
}

impl SupervisorOptions {
    /// OTP's defaults: one_for_one, one restart allowed within 5 s, no automatic shutdown. No
    /// backoff.
    pub fn new() -> Self {
        SupervisorOptions::default()
    }

    /// Sets which children are restarted when one is. Default: one_for_one.
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.flags.strategy = strategy;
        self
    }

    /// Sets the restart intensity: more than `restarts` within `period` (inclusive) end the
    /// supervisor. Defaults: 1, 5 s. With 0 restarts, the first one ends it. A period of zero is
    /// invalid.
    pub fn intensity(mut self, restarts: u32, period: Duration) -> Self {
        self.flags.intensity = restarts;
        self.flags.period = period;
        self
    }

    /// Sets whether significant children that exit on their own shut down the supervisor. Default:
    /// never.
    pub fn auto_shutdown(mut self, auto_shutdown: AutoShutdown) -> Self {
        self.flags.auto_shutdown = auto_shutdown;
        self
    }

    /// Extension: the least time between two starts of a child. Default: no pause.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.flags.backoff = Some(backoff);
        self
    }

    /// Sets a function that is called with each report. It is called from within the supervisor and
    /// must not block. Reports are also emitted as tracing events, unless [`quiet`](Self::quiet)
    /// is set.
    pub fn reporter(mut self, reporter: impl Fn(Report) + Send + Sync + 'static) -> Self {
        self.reporter = Some(Arc::new(reporter));
        self
    }

    /// Emits no tracing events for reports, because the app logs what they mean itself. Default:
    /// they are emitted.
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }
}
