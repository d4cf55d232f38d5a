//! The interface between Ostler and an exporter. Ostler only calls this trait, so it depends on no
//! exporter, and an app without one pays nothing.

use std::fmt::Debug;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use ostler_core::ids::{Incarnation, WorkerId};
use ostler_core::lifecycle::State;

use crate::context::SpanLink;
use crate::event::Event;

/// Receives everything that Ostler emits. Methods are called synchronously where things happen, so
/// they must neither block nor panic.
pub trait Observer: Debug + Send + Sync {
    /// An event, and the span it belongs to.
    fn event(&self, event: &Arc<Event>, span: &SpanLink);

    /// The duration of one part of an incarnation's life.
    fn duration(&self, part: Part, app: &str, pool: &str, took: Duration);

    /// One log record of a worker's output.
    fn output(&self, output: &Output<'_>);

    /// Lines of a pool's workers dropped from the retained output.
    fn output_dropped(&self, app: &str, pool: &str, lines: u64);

    /// Records of a pool's workers dropped by the rate limit.
    fn output_limited(&self, app: &str, pool: &str, records: u64);

    /// The audit of an instance found a disagreement of this kind.
    fn disagreement(&self, app: &str, kind: &'static str);

    /// Observes the instance until it is dropped: takes snapshots of what is measured rather than
    /// counted.
    fn watch(&self, instance: Weak<dyn Instance>);

    /// A call to a pool's workers has ended. Default: ignored.
    fn call(&self, call: &CallEnd<'_>) {
        let _ = call;
    }

    /// Observes the clients of a pool until they are dropped. Default: they are not observed.
    fn watch_clients(&self, clients: Weak<dyn Clients>) {
        let _ = clients;
    }
}

/// The end of a call to a pool's workers.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct CallEnd<'a> {
    /// The app.
    pub app: &'a str,
    /// The pool.
    pub pool: &'a str,
    /// `answered`; `refused`: it was certainly not sent; `unknown`: it was sent and has no answer;
    /// `cancelled`: its caller gave up.
    pub outcome: &'static str,
    /// Why it was refused, or has no answer; for example `saturated` or `worker_lost`.
    pub reason: Option<&'static str>,
    /// The time that it waited for workers.
    pub waited: Duration,
    /// From its beginning to its end, with the time that it waited.
    pub took: Duration,
}

impl<'a> CallEnd<'a> {
    /// A call that took `took` in all, `waited` of it for workers, with an outcome that needs no
    /// reason.
    pub fn new(app: &'a str, pool: &'a str, outcome: &'static str, waited: Duration, took: Duration) -> Self {
        Self {
            app,
            pool,
            outcome,
            reason: None,
            waited,
            took,
        }
    }
}

/// The clients of a pool, which can be observed.
pub trait Clients: Send + Sync {
    /// Takes a snapshot. Does not block.
    fn snapshot(&self) -> ClientsSnapshot;
}

/// The clients of a pool at one point in time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientsSnapshot {
    /// The app.
    pub app: String,
    /// The pool.
    pub pool: String,
    /// Calls in flight.
    pub in_flight: u64,
    /// Calls that wait for a worker.
    pub queued: u64,
    /// Sessions that are bound to a worker.
    pub sessions: u64,
    /// The circuit breaker: 0 is closed, 1 half-open, 2 open.
    pub breaker: u64,
}

impl ClientsSnapshot {
    /// Clients without a call or a session.
    pub fn new(app: impl Into<String>, pool: impl Into<String>) -> Self {
        Self {
            app: app.into(),
            pool: pool.into(),
            ..Self::default()
        }
    }
}

/// A measured part of an incarnation's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// From the reservation until ready.
    Start,
    /// From the stop request until the process has exited.
    Stop,
    /// From the exit until everything is released.
    Release,
}

/// A line of a worker's output, or several that belong together, such as a traceback.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Output<'a> {
    /// The app.
    pub app: &'a str,
    /// The worker.
    pub worker: &'a WorkerId,
    /// The worker's incarnation.
    pub incarnation: Incarnation,
    /// `stdout` or `stderr`.
    pub stream: &'static str,
    /// When the first line was read.
    pub time: SystemTime,
    /// The text, without the final newline.
    pub text: &'a str,
    /// The number of records of this stream that the rate limit dropped before this one.
    pub limited: u64,
}

impl<'a> Output<'a> {
    /// This text of a worker's `stdout` or `stderr`, read at `time`; no record was dropped before
    /// it.
    pub fn new(
        app: &'a str,
        worker: &'a WorkerId,
        incarnation: Incarnation,
        stream: &'static str,
        time: SystemTime,
        text: &'a str,
    ) -> Self {
        Self {
            app,
            worker,
            incarnation,
            stream,
            time,
            text,
            limited: 0,
        }
    }
}

/// An instance that can be observed.
pub trait Instance: Send + Sync {
    /// Takes a snapshot. Reads `/proc` for each worker until `deadline`; workers not reached by
    /// then have no usage. Blocks, so it must not be called from an async task.
    fn snapshot(&self, deadline: Instant) -> Snapshot;
}

/// An instance at one point in time.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The app.
    pub app: String,
    /// The number of records in the process table.
    pub records: u64,
    /// The pools, without those that have stopped.
    pub pools: Vec<PoolSnapshot>,
}

impl Snapshot {
    /// An instance with so many records, without pools.
    pub fn new(app: impl Into<String>, records: u64) -> Self {
        Self {
            app: app.into(),
            records,
            pools: Vec::new(),
        }
    }
}

/// What a worker is counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WorkerStanding {
    /// Its current incarnation is in this state.
    Lives(State),
    /// It has no incarnation, and gets the next one when its turn or its time comes.
    Waiting,
    /// It has finished, and is not restarted.
    Finished,
    /// It gave up.
    GaveUp,
}

impl WorkerStanding {
    /// Every standing.
    pub fn all() -> impl Iterator<Item = Self> {
        let others = [Self::Waiting, Self::Finished, Self::GaveUp];
        State::ALL.into_iter().map(Self::Lives).chain(others)
    }

    /// The name in metrics: that of the state, or `waiting`, `finished`, `gave_up`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lives(state) => state.name(),
            Self::Waiting => "waiting",
            Self::Finished => "finished",
            Self::GaveUp => "gave_up",
        }
    }
}

/// A pool at one point in time.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct PoolSnapshot {
    /// The pool.
    pub pool: String,
    /// The number of workers in each standing, including those without workers.
    pub states: Vec<(WorkerStanding, u64)>,
    /// Starts that are queued.
    pub waiting: u64,
    /// Workers that it lacks while it is degraded.
    pub missing: u64,
    /// The largest share of its intensity used by any worker.
    pub intensity_used: f64,
    /// The resource usage of each worker.
    pub usage: Vec<Usage>,
}

impl PoolSnapshot {
    /// A pool without workers.
    pub fn new(pool: impl Into<String>) -> Self {
        Self {
            pool: pool.into(),
            ..Self::default()
        }
    }
}

/// The resource usage of a worker's process tree.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Usage {
    /// The worker.
    pub worker: WorkerId,
    /// CPU time of the slot so far, over all incarnations.
    pub cpu: Duration,
    /// Resident memory, in bytes.
    pub resident: u64,
}

impl Usage {
    /// This much CPU time, and so many resident bytes.
    pub fn new(worker: WorkerId, cpu: Duration, resident: u64) -> Self {
        Self { worker, cpu, resident }
    }
}
