//! What telemetry is told, and what it asks. Ostler calls it through this trait, so that it knows no exporter, and an
//! app without one pays for none.

use std::fmt::Debug;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use ostler_core::ids::{Incarnation, WorkerId};

use crate::context::SpanLink;
use crate::event::Event;

/// Hears of everything. It is called in place, by whoever did what it hears of: it must neither block nor panic.
pub trait Observer: Debug + Send + Sync {
    /// An event, and the span that it belongs to.
    fn event(&self, event: &Arc<Event>, span: &SpanLink);

    /// How long one incarnation took for a part of its life.
    fn duration(&self, part: Part, app: &str, pool: &str, took: Duration);

    /// A piece of a worker's output that belongs together.
    fn output(&self, output: &Output<'_>);

    /// Lines of a pool's workers that are no longer kept.
    fn output_dropped(&self, app: &str, pool: &str, lines: u64);

    /// Records of a pool's workers that the limit has kept back.
    fn output_limited(&self, app: &str, pool: &str, records: u64);

    /// The audit of an instance has found a disagreement of this kind.
    fn disagreement(&self, app: &str, kind: &'static str);

    /// Asks this instance, from now on and as long as it lives, for what can only be looked at.
    fn watch(&self, instance: Weak<dyn Instance>);
}

/// A part of an incarnation's life that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// From the reservation to ready.
    Start,
    /// From the order to stop until the process has ended.
    Stop,
    /// From the exit until all is released.
    Release,
}

/// A line of a worker, or several that belong together, such as a traceback.
#[derive(Debug, Clone, Copy)]
pub struct Output<'a> {
    /// The app.
    pub app: &'a str,
    /// The worker.
    pub worker: &'a WorkerId,
    /// Which of its processes.
    pub incarnation: Incarnation,
    /// `stdout` or `stderr`.
    pub stream: &'static str,
    /// When its first line was read.
    pub time: SystemTime,
    /// The text, without the last line's end.
    pub text: &'a str,
    /// How many records of this stream were kept back before this one.
    pub limited: u64,
}

/// An instance that can be looked at.
pub trait Instance: Send + Sync {
    /// How it is now. Reads `/proc` for each worker, until `deadline`; who was not reached has no usage. It may block,
    /// and is not called from a task.
    fn snapshot(&self, deadline: Instant) -> Snapshot;
}

/// An instance at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// The app.
    pub app: String,
    /// How many records the process table holds.
    pub records: u64,
    /// Its pools, but for those that have stopped.
    pub pools: Vec<PoolSnapshot>,
}

/// A pool at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PoolSnapshot {
    /// The pool.
    pub pool: String,
    /// How many workers are in each state; states with none are there too.
    pub states: Vec<(&'static str, u64)>,
    /// Starts that wait for their turn.
    pub waiting: u64,
    /// The largest part of its intensity that one of its workers has used.
    pub intensity_used: f64,
    /// What each worker uses.
    pub usage: Vec<Usage>,
}

/// What one worker's whole tree uses.
#[derive(Debug, Clone, PartialEq)]
pub struct Usage {
    /// The worker.
    pub worker: WorkerId,
    /// CPU time of its slot so far, all incarnations.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub resident: u64,
}
