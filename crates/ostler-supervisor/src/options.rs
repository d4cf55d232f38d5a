//! How a supervisor is set up.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ostler_core::supervision::{AutoShutdown, Backoff, Report, Strategy, SupervisorFlags};

type Reporter = Arc<dyn Fn(Report) + Send + Sync>;

/// OTP's supervisor flags, and where the reports go.
#[derive(Clone, Default)]
pub struct SupervisorOptions {
    pub(crate) flags: SupervisorFlags,
    pub(crate) reporter: Option<Reporter>,
}

impl fmt::Debug for SupervisorOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SupervisorOptions")
            .field("flags", &self.flags)
            .field("reporter", &self.reporter.is_some())
            .finish()
    }
}

impl From<SupervisorFlags> for SupervisorOptions {
    fn from(flags: SupervisorFlags) -> Self {
        SupervisorOptions { flags, reporter: None }
    }
}

impl SupervisorOptions {
    /// OTP's defaults: one_for_one, more than 1 restart within 5 s ends it, no automatic shutdown; no backoff.
    pub fn new() -> Self {
        SupervisorOptions::default()
    }

    /// Who is restarted when one child is. Default: one_for_one.
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.flags.strategy = strategy;
        self
    }

    /// More than `restarts` within `period` (its edge included) end the supervisor. Defaults: 1, 5 s. With 0 restarts the first one does;
    /// a period of zero is refused.
    pub fn intensity(mut self, restarts: u32, period: Duration) -> Self {
        self.flags.intensity = restarts;
        self.flags.period = period;
        self
    }

    /// Whether significant children that end by themselves end the supervisor. Default: never.
    pub fn auto_shutdown(mut self, auto_shutdown: AutoShutdown) -> Self {
        self.flags.auto_shutdown = auto_shutdown;
        self
    }

    /// Extension: restarts wait. Default: they don't.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.flags.backoff = Some(backoff);
        self
    }

    /// Called with each report, from within the supervisor: it must not block. Reports are tracing events in any case.
    pub fn reporter(mut self, reporter: impl Fn(Report) + Send + Sync + 'static) -> Self {
        self.reporter = Some(Arc::new(reporter));
        self
    }
}
