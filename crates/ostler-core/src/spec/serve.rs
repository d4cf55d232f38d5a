//! How a pool's workers are used by its clients: data, with every default. `ostler-serve` acts on
//! it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::problems::Problems;

/// How calls to a pool are dispatched, queued, refused, tried again and given up.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ServeSpec {
    /// Calls in flight per worker. Default 1; zero is invalid.
    pub concurrency: u32,
    /// Calls that wait for a worker.
    pub queue: QueueSpec,
    /// The one deadline of a call that brings none: for its time in the queue, its attempts and the
    /// beginning of its answer. Default 30 s; zero: none.
    pub timeout: Duration,
    /// Sessions.
    pub sessions: Sessions,
    /// When a worker is replaced by a fresh one. Default: never.
    pub recycle: Recycle,
    /// How long a worker that gets no new calls may take to finish those it has, before it is
    /// stopped anyway. Default 30 s; zero: not at all.
    pub drain_timeout: Duration,
    /// When calls are refused because the workers fail.
    pub breaker: Breaker,
    /// Retries as a share of calls. Default 0.1; zero: none.
    pub retry_budget: f64,
    /// What happens to a worker whose caller gave up in the middle of a call. Default: it is
    /// replaced.
    pub on_cancel: OnCancel,
    /// A request is refused after this many workers crashed on it. Default 2; zero: never.
    pub poison: u32,
}

impl Default for ServeSpec {
    fn default() -> Self {
        Self {
            concurrency: 1,
            queue: QueueSpec::default(),
            timeout: Duration::from_secs(30),
            sessions: Sessions::default(),
            recycle: Recycle::default(),
            drain_timeout: Duration::from_secs(30),
            breaker: Breaker::default(),
            retry_budget: 0.1,
            on_cancel: OnCancel::Replace,
            poison: 2,
        }
    }
}

impl ServeSpec {
    /// Everything that is invalid, by the keys of the TOML file.
    pub(super) fn problems_into(&self, found: &mut Problems) {
        found.require(self.concurrency > 0, "concurrency", || {
            "0 would never serve a call; use at least 1".into()
        });
        if let Some(codel) = self.queue.codel {
            found.duration("queue.codel.target", codel.target);
            found.positive("queue.codel.interval", codel.interval, "zero would refuse every call");
        }
        found.duration("call_timeout", self.timeout);
        found.duration("drain_timeout", self.drain_timeout);
        found.positive("sessions.ttl", self.sessions.ttl, "zero would forget every session");
        found.require(self.sessions.max > 0, "sessions.max", || {
            "0 would refuse every session; use at least 1".into()
        });
        found.fraction("retry.budget", self.retry_budget);
        self.recycle.problems_into(found);
        self.breaker.problems_into(found);
    }
}

impl Recycle {
    fn problems_into(&self, found: &mut Problems) {
        const NEVER: &str = "zero would replace workers without end; leave it out to switch it off";
        if let Some(age) = self.age {
            found.duration("recycle.age", age);
            found.require(!age.is_zero(), "recycle.age", || NEVER.into());
        }
        found.require(self.requests != Some(0), "recycle.requests", || NEVER.into());
        found.require(self.memory != Some(0), "recycle.memory", || NEVER.into());
        found.fraction("recycle.jitter", self.jitter);
        found.require(self.surge <= 1, "recycle.surge", || {
            format!("{} is more than 1: workers are replaced one at a time", self.surge)
        });
    }
}

impl Breaker {
    fn problems_into(&self, found: &mut Problems) {
        found.positive("breaker.open", self.open, "zero would never refuse a call");
        let Some(rate) = self.rate else { return };
        let valid = rate.share > 0.0 && rate.share <= 1.0;
        found.require(valid, "breaker.rate.share", || {
            format!("{} is not above 0 and at most 1", rate.share)
        });
        found.positive("breaker.rate.window", rate.window, "zero would count no call");
        found.require(rate.calls > 0, "breaker.rate.calls", || {
            "0 would open it without a call; use at least 1".into()
        });
    }
}

/// Calls that wait for a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueSpec {
    /// How many may wait. Default 1,000; zero: a call that finds no free worker is refused at once.
    pub max: usize,
    /// The order of waiting calls. Default first in, first out.
    pub order: QueueOrder,
    /// Shortens a queue that stays long. Default: not.
    pub codel: Option<Codel>,
}

impl Default for QueueSpec {
    fn default() -> Self {
        Self {
            max: 1_000,
            order: QueueOrder::Fifo,
            codel: None,
        }
    }
}

/// The order of waiting calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueOrder {
    /// The oldest, with turns between sessions.
    #[default]
    Fifo,
    /// The newest, which under overload is the one whose caller still waits.
    Lifo,
}

/// Controlled delay (RFC 8289).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Codel {
    /// The wait that is acceptable. Default 50 ms.
    pub target: Duration,
    /// How long every call has to wait longer before some are refused. Default 2 s; zero is
    /// invalid.
    pub interval: Duration,
}

impl Default for Codel {
    fn default() -> Self {
        Self {
            target: Duration::from_millis(50),
            interval: Duration::from_secs(2),
        }
    }
}

/// Sessions: calls that belong together and go to the same worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sessions {
    /// How strictly. Default: a hint.
    pub affinity: Affinity,
    /// A session that is unused for this long is forgotten. Default 1 h; zero is invalid.
    pub ttl: Duration,
    /// The largest number of sessions that are bound to workers. Default 10,000; zero is invalid.
    pub max: usize,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            affinity: Affinity::Hint,
            ttl: Duration::from_secs(3600),
            max: 10_000,
        }
    }
}

/// How strictly a session keeps to its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Affinity {
    /// Its worker if that is free, else another one.
    #[default]
    Hint,
    /// Its worker alone: it waits for it.
    StrictQueue,
    /// Its worker alone: it is refused when that is busy.
    StrictFailFast,
}

/// When a worker is replaced by a fresh one.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Recycle {
    /// This long after it became ready. Default: never.
    pub age: Option<Duration>,
    /// After this many calls. Default: never.
    pub requests: Option<u64>,
    /// When the resident memory of its whole tree exceeds this many bytes. Default: never.
    pub memory: Option<u64>,
    /// Each worker's limits are smaller than these by a random share of up to `jitter`. Default
    /// 0.2.
    pub jitter: f64,
    /// Workers that are started beside the pool's before one drains: 1, so that at no moment fewer
    /// are ready; or 0, where memory forbids it. Default 1.
    pub surge: u32,
}

impl Default for Recycle {
    fn default() -> Self {
        Self {
            age: None,
            requests: None,
            memory: None,
            jitter: 0.2,
            surge: 1,
        }
    }
}

/// When calls are refused because the workers fail. A failure is a call that was sent and had no
/// answer.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Breaker {
    /// Failures in a row that open it. Default 5; zero: this does not open it.
    pub failures: u32,
    /// A share of failures that opens it. Default: none does.
    pub rate: Option<FailureRate>,
    /// How long it stays open before one call is let through. Default 30 s; zero is invalid.
    pub open: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failures: 5,
            rate: None,
            open: Duration::from_secs(30),
        }
    }
}

/// A share of failures within a window.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct FailureRate {
    /// The share, above 0 and up to 1. Default 0.5.
    pub share: f64,
    /// The window. Default 10 s; zero is invalid.
    pub window: Duration,
    /// Counts only with at least this many calls in the window. Default 20.
    pub calls: u32,
}

impl Default for FailureRate {
    fn default() -> Self {
        Self {
            share: 0.5,
            window: Duration::from_secs(10),
            calls: 20,
        }
    }
}

/// What happens to a worker whose caller gave up in the middle of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnCancel {
    /// It is replaced: it may be in the middle of anything.
    #[default]
    Replace,
    /// It is used on: it can cancel a call, or finish one that is not waited for.
    Reuse,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{LONGEST, PoolSpec};

    type Spoil = fn(&mut ServeSpec);

    #[test]
    fn each_mistake_is_named_by_its_key() {
        let spoilt: [(&str, Spoil); 17] = [
            ("concurrency", |serve| serve.concurrency = 0),
            ("queue.codel.interval", |serve| {
                serve.queue.codel = Some(Codel {
                    interval: Duration::ZERO,
                    ..Codel::default()
                });
            }),
            ("call_timeout", |serve| serve.timeout = LONGEST * 2),
            ("drain_timeout", |serve| serve.drain_timeout = LONGEST * 2),
            ("sessions.ttl", |serve| serve.sessions.ttl = Duration::ZERO),
            ("sessions.max", |serve| serve.sessions.max = 0),
            ("retry.budget", |serve| serve.retry_budget = f64::NAN),
            ("retry.budget", |serve| serve.retry_budget = -0.1),
            ("recycle.age", |serve| serve.recycle.age = Some(Duration::ZERO)),
            ("recycle.requests", |serve| serve.recycle.requests = Some(0)),
            ("recycle.memory", |serve| serve.recycle.memory = Some(0)),
            ("recycle.jitter", |serve| serve.recycle.jitter = 1.5),
            ("recycle.surge", |serve| serve.recycle.surge = 2),
            ("breaker.open", |serve| serve.breaker.open = Duration::ZERO),
            ("breaker.rate.share", |serve| {
                serve.breaker.rate = Some(FailureRate {
                    share: 0.0,
                    ..FailureRate::default()
                });
            }),
            ("breaker.rate.window", |serve| {
                serve.breaker.rate = Some(FailureRate {
                    window: Duration::ZERO,
                    ..FailureRate::default()
                });
            }),
            ("breaker.rate.calls", |serve| {
                serve.breaker.rate = Some(FailureRate {
                    calls: 0,
                    ..FailureRate::default()
                });
            }),
        ];
        for (key, spoil) in spoilt {
            let mut pool = PoolSpec::new("web", ["x"]);
            assert_eq!(pool.problems(), []);
            spoil(&mut pool.serve);
            let keys: Vec<_> = pool.problems().into_iter().map(|problem| problem.key).collect();
            assert_eq!(keys, [key]);
        }
    }
}
