//! What a supervisor and its children are to be: OTP's supervisor flags and child specifications, with OTP's defaults.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Backoff;

/// The name of a child within its supervisor. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChildId(Arc<str>);

impl ChildId {
    /// The name as a string.
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

/// When a child that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Restart {
    /// Always, after a normal exit too. OTP's default.
    #[default]
    Permanent,
    /// Only when its exit [is abnormal](crate::exit::ExitReason::is_abnormal).
    Transient,
    /// Never, not through a sibling either; its specification goes when it ends.
    Temporary,
}

/// How a child is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shutdown {
    /// Killed at once, and waited for.
    BrutalKill,
    /// Asked to stop; killed when it hasn't ended after this time, which starts with the asking. Zero kills next.
    Timeout(Duration),
    /// Asked to stop, and waited for without end.
    Infinity,
}

impl Shutdown {
    /// OTP's default: 5 s for a worker, infinity for a supervisor (so that its own children get their time).
    pub fn default_of(kind: ChildKind) -> Self {
        match kind {
            ChildKind::Worker => Shutdown::Timeout(Duration::from_secs(5)),
            ChildKind::Supervisor => Shutdown::Infinity,
        }
    }
}

/// What a child is; it decides the default of [`Shutdown`] and is counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ChildKind {
    /// An actor that does work. The default.
    #[default]
    Worker,
    /// A supervisor of further actors.
    Supervisor,
}

/// One child, as data. `S` is what starts it: the policy only keeps it and hands it out.
#[derive(Debug, Clone)]
pub struct ChildSpec<S> {
    /// Its name, unique within a supervisor, except under [`Strategy::SimpleOneForOne`].
    pub id: ChildId,
    /// What starts it. Dropped after the first start of a [`Temporary`](Restart::Temporary) child, which needs it no more.
    pub start: S,
    /// When it is started again. Default: permanent.
    pub restart: Restart,
    /// How it is stopped. Default: [`Shutdown::default_of`] its kind.
    pub shutdown: Shutdown,
    /// Whether its end by itself can end the supervisor ([`AutoShutdown`]). Default: false.
    pub significant: bool,
    /// What it is. Default: worker.
    pub kind: ChildKind,
}

impl<S> ChildSpec<S> {
    /// A permanent worker with OTP's defaults.
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

    /// Refuses what OTP refuses.
    ///
    /// # Errors
    /// A significant child that is permanent, or whose supervisor never shuts itself down.
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

/// Who is restarted when one child is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Strategy {
    /// Only that child. The default.
    #[default]
    OneForOne,
    /// Every child: the others are stopped, right to left, then all are started, left to right.
    OneForAll,
    /// That child and those started after it.
    RestForOne,
    /// Only that child; all children are of one kind, come and go, need no name of their own, and are stopped in parallel.
    SimpleOneForOne,
}

impl Strategy {
    /// Whether a restart touches siblings, so that restarts and calls are taken one at a time.
    pub fn restarts_siblings(self) -> bool {
        match self {
            Strategy::OneForAll | Strategy::RestForOne => true,
            Strategy::OneForOne | Strategy::SimpleOneForOne => false,
        }
    }
}

/// Whether a supervisor ends, with `shutdown`, when significant children end by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AutoShutdown {
    /// No. The default.
    #[default]
    Never,
    /// When any significant child does.
    AnySignificant,
    /// When the last significant child that is there does.
    AllSignificant,
}

/// OTP's supervisor flags, and our backoff.
#[derive(Debug, Clone, PartialEq)]
pub struct SupervisorFlags {
    /// Who is restarted. Default: one_for_one.
    pub strategy: Strategy,
    /// More restarts than this within `period` end the supervisor. Default: 1. With 0 the first one does.
    pub intensity: u32,
    /// The window of `intensity`, its edge included. Default: 5 s. Zero is refused, as in OTP.
    pub period: Duration,
    /// Whether significant children end the supervisor. Default: never.
    pub auto_shutdown: AutoShutdown,
    /// Extension: delays restarts; absent, they follow at once, as in OTP. Default: none.
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
    /// Refuses what OTP refuses, and a backoff that makes no sense.
    ///
    /// # Errors
    /// A period of zero; a backoff whose first delay is over its greatest, or whose jitter is not within 0 to 1.
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

/// A specification that is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
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
    #[error("two children are called {0}: ids are unique within a supervisor")]
    DuplicateId(ChildId),
    /// OTP's `invalid_period`.
    #[error("the period is zero: restarts are counted within a time above zero")]
    ZeroPeriod,
    /// OTP's `bad_start_spec`: children of a dynamic supervisor are added, not listed.
    #[error("a simple_one_for_one supervisor starts with no child: add them with start_child")]
    InitialDynamicChildren,
    /// Extension.
    #[error("backoff: first ({first:?}) is over max ({max:?})")]
    BackoffFirstOverMax {
        /// The first delay.
        first: Duration,
        /// The greatest delay.
        max: Duration,
    },
    /// Extension.
    #[error("backoff: jitter is {0}, and must be between 0 and 1")]
    BackoffJitter(f64),
}
