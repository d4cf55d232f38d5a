//! OTP's supervisor flags and child specifications, with OTP's defaults.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Backoff;

/// The id of a child within its supervisor. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChildId(Arc<str>);

impl ChildId {
    /// The id as a string.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<T: AsRef<str>> From<T> for ChildId {
    fn from(id: T) -> Self {
        ChildId(Arc::from(id.as_ref()))
    }
}

impl fmt::Display for ChildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// When a child that exited is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Restart {
    /// Always, even after a normal exit. OTP's default.
    #[default]
    Permanent,
    /// Only if the exit [is abnormal](crate::exit::ExitReason::is_abnormal).
    Transient,
    /// Never, not even with its siblings. The specification is removed when the child ends.
    Temporary,
}

/// How a child is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shutdown {
    /// Killed immediately.
    BrutalKill,
    /// Asked to stop, and killed if it has not ended after this time. Zero kills right after
    /// asking. Extension: noticed late, it is [extended](crate::lifecycle::extension) once.
    Timeout(Duration),
    /// Asked to stop, and waited for without limit.
    Infinity,
}

impl Shutdown {
    /// OTP's default: 5 s for a worker, infinity for a supervisor, which needs time to stop its own
    /// children.
    pub fn default_of(kind: ChildKind) -> Self {
        match kind {
            ChildKind::Worker => Shutdown::Timeout(Duration::from_secs(5)),
            ChildKind::Supervisor => Shutdown::Infinity,
        }
    }
}

/// Worker or supervisor. Decides the default [`Shutdown`]; the two are counted separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ChildKind {
    /// An actor that does work. The default.
    #[default]
    Worker,
    /// A supervisor of further actors.
    Supervisor,
}

/// The specification of one child. `S` is the driver's value that starts it; the policy only stores
/// it and passes it on.
#[derive(Debug, Clone)]
pub struct ChildSpec<S> {
    /// The id, unique within a supervisor except under [`Strategy::SimpleOneForOne`].
    pub id: ChildId,
    /// What starts the child. Dropped after the first start of a [`Temporary`](Restart::Temporary)
    /// child.
    pub start: S,
    /// When the child is restarted. Default: permanent.
    pub restart: Restart,
    /// How the child is stopped. Default: [`Shutdown::default_of`] its kind.
    pub shutdown: Shutdown,
    /// Whether the child's exit can shut down the supervisor (see [`AutoShutdown`]). Default:
    /// false.
    pub significant: bool,
    /// Worker or supervisor. Default: worker.
    pub kind: ChildKind,
}

impl<S> ChildSpec<S> {
    /// Creates the specification of a permanent worker with OTP's defaults.
    pub fn new(id: impl Into<ChildId>, start: S) -> Self {
        ChildSpec {
            id: id.into(),
            start,
            restart: Restart::Permanent,
            shutdown: Shutdown::default_of(ChildKind::Worker),
            significant: false,
            kind: ChildKind::Worker,
        }
    }

    /// Checks the specification as OTP does.
    ///
    /// # Errors
    ///
    /// If the child is significant and either permanent or under a supervisor with
    /// [`AutoShutdown::Never`].
    pub fn validate(&self, auto_shutdown: AutoShutdown) -> Result<(), SpecError> {
        if self.significant && auto_shutdown == AutoShutdown::Never {
            return Err(SpecError::SignificantUnderNever(self.id.clone()));
        }
        if self.significant && self.restart == Restart::Permanent {
            return Err(SpecError::SignificantPermanent(self.id.clone()));
        }
        Ok(())
    }
}

/// Which children are restarted when one child is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Strategy {
    /// Only that child. The default.
    #[default]
    OneForOne,
    /// All children: the others are stopped right to left, then all are started left to right.
    OneForAll,
    /// That child and those started after it.
    RestForOne,
    /// Only that child. All children are of one kind, are added and removed at run time, need no
    /// unique id, and are stopped in parallel.
    SimpleOneForOne,
}

impl Strategy {
    /// Whether a restart affects siblings, so that restarts and requests are handled one at a time.
    pub fn restarts_siblings(self) -> bool {
        match self {
            Strategy::OneForAll | Strategy::RestForOne => true,
            Strategy::OneForOne | Strategy::SimpleOneForOne => false,
        }
    }
}

/// Whether a supervisor shuts down, with reason `shutdown`, when significant children exit on their
/// own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AutoShutdown {
    /// Never. The default.
    #[default]
    Never,
    /// When any significant child exits.
    AnySignificant,
    /// When the last running significant child exits.
    AllSignificant,
}

/// OTP's supervisor flags, plus a backoff.
#[derive(Debug, Clone, PartialEq)]
pub struct SupervisorFlags {
    /// Which children are restarted. Default: one_for_one.
    pub strategy: Strategy,
    /// How many restarts are allowed within `period`; one more and the supervisor gives up.
    /// Default: 1. Zero: the first restart already ends the supervisor.
    pub intensity: u32,
    /// The time window of `intensity`, inclusive. Default: 5 s. Zero is invalid, as in OTP.
    pub period: Duration,
    /// Whether significant children shut down the supervisor. Default: never.
    pub auto_shutdown: AutoShutdown,
    /// Extension: delays restarts. Default: `None`, restart immediately, as in OTP.
    pub backoff: Option<Backoff>,
}

impl Default for SupervisorFlags {
    fn default() -> Self {
        SupervisorFlags {
            strategy: Strategy::OneForOne,
            intensity: 1,
            period: Duration::from_secs(5),
            auto_shutdown: AutoShutdown::Never,
            backoff: None,
        }
    }
}

impl SupervisorFlags {
    /// Checks the flags as OTP does, and the backoff.
    ///
    /// # Errors
    ///
    /// If the period is zero, or if the backoff's `first` is greater than its `max` or its jitter
    /// is outside 0 to 1.
    pub fn validate(&self) -> Result<(), SpecError> {
        if self.period.is_zero() {
            return Err(SpecError::ZeroPeriod);
        }
        match &self.backoff {
            Some(backoff) => backoff.validate(),
            None => Ok(()),
        }
    }
}

/// Why a specification is invalid.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// OTP's `bad_combination`.
    #[error(
        "child {0} is significant, but its supervisor never shuts itself down: set auto_shutdown, or make it not significant"
    )]
    SignificantUnderNever(ChildId),
    /// OTP's `bad_combination`.
    #[error(
        "child {0} is significant and permanent: a permanent child never ends by itself, make it transient or temporary"
    )]
    SignificantPermanent(ChildId),
    /// OTP's `duplicate_child_name`.
    #[error("duplicate child id {0}: ids must be unique within a supervisor")]
    DuplicateId(ChildId),
    /// OTP's `invalid_period`.
    #[error("the period must be greater than zero")]
    ZeroPeriod,
    /// OTP's `bad_start_spec`: children of a dynamic supervisor are added at run time, not listed.
    #[error("a simple_one_for_one supervisor starts without children: add them with start_child")]
    InitialDynamicChildren,
    /// Extension.
    #[error("backoff: first ({first:?}) is greater than max ({max:?})")]
    BackoffFirstOverMax {
        /// The first delay.
        first: Duration,
        /// The maximum delay.
        max: Duration,
    },
    /// Extension.
    #[error("backoff: jitter must be between 0 and 1, got {0}")]
    BackoffJitter(f64),
}
