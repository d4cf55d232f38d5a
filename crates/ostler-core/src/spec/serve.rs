//! How a pool's workers are used by its clients: data, with every default. `ostler-serve` acts on it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How calls to a pool are dispatched, queued, refused, tried again and given up.
#[derive(Debug, Clone, PartialEq)]
pub struct ServeSpec {
    /// Calls in flight per worker. Default 1; zero is refused.
    pub concurrency: u32,
    /// Calls that wait for a worker.
    pub queue: QueueSpec,
    /// The one deadline of a call that brings none: for its time in the queue, its attempts and the beginning of its
    /// answer. Default 30 s; zero: none.
    pub timeout: Duration,
    /// Sessions.
    pub sessions: Sessions,
    /// When a worker is replaced by a fresh one. Default: never.
    pub recycle: Recycle,
    /// How long a worker that gets no new calls may take to finish those it has, before it is stopped anyway.
    /// Default 30 s; zero: not at all.
    pub drain_timeout: Duration,
    /// When calls are refused because the workers fail.
    pub breaker: Breaker,
    /// Retries as a share of calls. Default 0.1; zero: none.
    pub retry_budget: f64,
    /// What becomes of a worker whose caller gave up in the middle of a call. Default: it is replaced.
    pub on_cancel: OnCancel,
    /// A request on which so many workers crashed is refused. Default 2; zero: never.
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

/// Calls that wait for a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueSpec {
    /// How many may wait. Default 1,000; zero: a call that finds no free worker is refused at once.
    pub max: usize,
    /// Who goes first. Default first in, first out.
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

/// Which waiting call goes first.
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
pub struct Codel {
    /// The wait that is acceptable. Default 50 ms.
    pub target: Duration,
    /// How long every call has to wait longer before some are refused. Default 2 s; zero is refused.
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
pub struct Sessions {
    /// How strictly. Default: a hint.
    pub affinity: Affinity,
    /// A session that is not used for so long is forgotten. Default 1 h; zero is refused.
    pub ttl: Duration,
    /// How many may be bound to workers at a time. Default 10,000; zero is refused.
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
pub struct Recycle {
    /// So long after it became ready. Default: never.
    pub age: Option<Duration>,
    /// After so many calls. Default: never.
    pub requests: Option<u64>,
    /// When the resident memory of its whole tree exceeds so many bytes. Default: never.
    pub memory: Option<u64>,
    /// Each worker's limits are smaller than these by a random share of up to `jitter`. Default 0.2.
    pub jitter: f64,
}

impl Default for Recycle {
    fn default() -> Self {
        Self {
            age: None,
            requests: None,
            memory: None,
            jitter: 0.2,
        }
    }
}

/// When calls are refused because the workers fail. A failure is a call that was sent and had no answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Breaker {
    /// Failures in a row that open it. Default 5; zero: this does not open it.
    pub failures: u32,
    /// A share of failures that opens it. Default: none does.
    pub rate: Option<FailureRate>,
    /// How long it stays open before one call is let through. Default 30 s; zero is refused.
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
pub struct FailureRate {
    /// The share, above 0 and up to 1. Default 0.5.
    pub share: f64,
    /// The window. Default 10 s; zero is refused.
    pub window: Duration,
    /// It counts only with at least so many calls in the window. Default 20.
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

/// What becomes of a worker whose caller gave up in the middle of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnCancel {
    /// It is replaced: it may be in the middle of anything.
    #[default]
    Replace,
    /// It is used on: it can cancel a call, or finish one that is not waited for.
    Reuse,
}
