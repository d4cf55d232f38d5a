//! The report of a stop.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ostler_core::chain::chain;
use ostler_core::failure::{Failure, Reason};
use ostler_core::ids::WorkerId;

use crate::pool::PoolEnd;
use crate::pool::shared::PoolShared;
use crate::supervisor::{End, ExitReason};

/// The root supervisor of an instance gave up: a part of it (mainly the guardian) was lost more
/// often than [`ROOT_INTENSITY`](crate::ROOT_INTENSITY) allows. The parent of a linked instance
/// sees this as the error of its child.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{part} was lost too often")]
#[non_exhaustive]
pub struct RunGaveUp {
    /// The part, such as `guardian`.
    pub part: String,
    /// Why it was lost the last time.
    #[source]
    pub reason: ExitReason,
}

impl RunGaveUp {
    /// This part was lost too often, the last time for this reason.
    pub fn new(part: impl Into<String>, reason: ExitReason) -> Self {
        Self {
            part: part.into(),
            reason,
        }
    }

    pub(super) fn of(end: End) -> Option<Self> {
        match end {
            End::MaxIntensity { child, reason } => Some(Self::new(child.id.to_string(), reason)),
            End::Stopped | End::AutoShutdown | End::StartFailed { .. } => None,
        }
    }
}

/// What was stopped, released and found when an instance ended.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct StopReport {
    /// How many workers the pools had.
    pub workers: u64,
    /// The total number of restarts.
    pub restarts: u64,
    /// The pools that gave up.
    pub gave_up: Vec<String>,
    /// The pools that finished.
    pub finished: Vec<String>,
    /// How many workers had this reason as that of their last failure.
    pub failures: BTreeMap<Reason, u64>,
    /// Workers that still hold something.
    pub unreleased: Vec<Unreleased>,
    /// Processes that the emergency cleaner found. Empty in a healthy run.
    pub orphans: Vec<String>,
    /// How many of them it killed.
    pub killed: u64,
    /// Those that it could not kill, with the reason.
    pub survivors: Vec<String>,
    /// What could not be inspected, so that something may be left there. Empty in a healthy run.
    pub unseen: Vec<String>,
    /// Why the root supervisor gave up, if it did.
    pub root_gave_up: Option<RunGaveUp>,
}

/// A worker that still holds something: a process, a port or its record.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Unreleased {
    /// The worker.
    pub worker: WorkerId,
    /// Its last failure, which names what is held and by what.
    pub failure: Option<Failure>,
}

impl Unreleased {
    /// This worker, with its last failure.
    pub fn new(worker: WorkerId, failure: Option<Failure>) -> Self {
        Self { worker, failure }
    }
}

impl fmt::Display for Unreleased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.failure {
            Some(failure) => write!(f, "{}: {}", self.worker, failure.message),
            None => write!(f, "{}", self.worker),
        }
    }
}

impl StopReport {
    pub(crate) fn of_pools(pools: &[Arc<PoolShared>]) -> Self {
        let mut report = Self::default();
        for pool in pools {
            report.add(pool);
        }
        report
    }

    fn add(&mut self, pool: &PoolShared) {
        let name = &pool.spec.name;
        match pool.phase().end() {
            Some(PoolEnd::GaveUp(_)) => self.gave_up.push(name.clone()),
            Some(PoolEnd::Finished) => self.finished.push(name.clone()),
            Some(PoolEnd::Stopped | PoolEnd::Removed | PoolEnd::Degraded { .. }) | None => {}
        }
        self.restarts += pool.slots.restarts_of_removed();
        for slot in pool.slots.held() {
            let state = slot.state();
            self.workers += 1;
            self.restarts += state.restarts;
            if let Some(failure) = &state.last_failure {
                *self.failures.entry(failure.reason).or_default() += 1;
            }
            if !slot.is_released() {
                let worker = slot.worker.clone();
                self.unreleased.push(Unreleased::new(worker, state.last_failure));
            }
        }
    }

    /// Nothing is left: every worker is released, no orphan is alive, and everything could be
    /// inspected.
    pub fn is_clean(&self) -> bool {
        self.unreleased.is_empty() && self.survivors.is_empty() && self.unseen.is_empty()
    }

    /// Nothing is left, nothing had to be cleaned up, and nothing gave up.
    pub fn is_success(&self) -> bool {
        self.is_clean() && self.orphans.is_empty() && self.gave_up.is_empty() && self.root_gave_up.is_none()
    }
}

impl fmt::Display for StopReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} workers, {} restarts", self.workers, self.restarts)?;
        let unreleased: Vec<String> = self.unreleased.iter().map(ToString::to_string).collect();
        for (what, names) in [
            ("gave up", &self.gave_up),
            ("finished", &self.finished),
            ("not released", &unreleased),
            ("orphans", &self.orphans),
            ("left alive", &self.survivors),
            ("not looked at", &self.unseen),
        ] {
            if !names.is_empty() {
                write!(f, "; {what}: {}", names.join(", "))?;
            }
        }
        if let Some(why) = &self.root_gave_up {
            write!(f, "; the instance gave up: {}", chain(why))?;
        }
        Ok(())
    }
}

/// Something of the instance could not be ended or released. The run's directory is kept, and the
/// next start sweeps it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("not everything could be released: {report}; the next start of the app sweeps it")]
#[non_exhaustive]
pub struct StopError {
    /// What was stopped and released, and what is left.
    pub report: StopReport,
}
