//! The events of a run: flat records, written as one JSON object per line. Names and fields are
//! stable (schema 1).

mod facts;

use std::time::{Duration, SystemTime};

use ostler_core::failure::{ExitStatus, Reason};
use ostler_core::ids::{Incarnation, RunId, WorkerId};
use ostler_core::lifecycle::Cause;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

pub use facts::{Containment, Facts};

/// The version of the event schema.
pub const SCHEMA: u32 = 1;

macro_rules! event_kinds {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)*) => {
        /// What happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum EventKind {
            $($(#[doc = $doc])+ $variant,)*
        }

        impl EventKind {
            /// All kinds, in the order of docs/events.md.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The kind's name, for example `worker.ready`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The name with the prefix `ostler.` that telemetry uses, for example
            /// `ostler.worker.ready`.
            pub const fn full_name(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!("ostler.", $name),)*
                }
            }

            /// What the event means, in one sentence.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim(),)*
                }
            }
        }
    };
}

event_kinds! {
    /// The instance has started and its sweep is done.
    RunStarted = "run.started",
    /// The instance has stopped; `count` workers were stopped.
    RunStopped = "run.stopped",
    /// The incarnation is recorded in the process table; nothing of it runs yet.
    WorkerReserved = "worker.reserved",
    /// exec succeeded.
    WorkerSpawned = "worker.spawned",
    /// The worker is ready.
    WorkerReady = "worker.ready",
    /// The worker gets no new calls and finishes those it has (`count`), before it is stopped or
    /// restarted; `cause` says why.
    WorkerDraining = "worker.draining",
    /// The worker failed its health probes or missed its heartbeat; it is stopped and restarted.
    WorkerUnhealthy = "worker.unhealthy",
    /// The worker is asked to stop; `cause` says why, `signal` how.
    WorkerStopping = "worker.stopping",
    /// The worker's process has exited; other processes of its tree may still run.
    WorkerExited = "worker.exited",
    /// The incarnation failed; see `reason`, `message` and `suggestion`.
    WorkerFailed = "worker.failed",
    /// The worker's process tree is gone, its ports are free and its record is removed.
    WorkerReleased = "worker.released",
    /// The next incarnation starts after `delay_ms`.
    WorkerRestarting = "worker.restarting",
    /// The worker exited normally and is not restarted.
    WorkerFinished = "worker.finished",
    /// The worker restarted more often than its intensity allows; its slot stays empty.
    WorkerGaveUp = "worker.gave_up",
    /// All workers of the pool are ready.
    PoolReady = "pool.ready",
    /// The pool serves with fewer workers than it should; `count` are ready.
    PoolDegraded = "pool.degraded",
    /// All slots of the pool have finished.
    PoolFinished = "pool.finished",
    /// Fewer slots than `min_workers` are left, or the first one gave up under `on_give_up =
    /// "pool"`.
    PoolGaveUp = "pool.gave_up",
    /// The pool has stopped and everything it held is released.
    PoolStopped = "pool.stopped",
    /// The pool's workers keep failing: calls are refused for `delay_ms`; see `message`.
    BreakerOpened = "breaker.opened",
    /// The pool's workers answer again: calls are no longer refused.
    BreakerClosed = "breaker.closed",
    /// The root supervisor gave up: the guardian or another part of it was lost too often. The
    /// instance ends.
    RunGaveUp = "run.gave_up",
    /// The guardian died; a new guardian and the workers are started.
    GuardianLost = "guardian.lost",
    /// The leftovers of this app's dead runs were cleaned up; `count` processes were killed.
    SweepDone = "sweep.done",
    /// Nothing was left at the stop; `count` is 0.
    CleanupSuccess = "cleanup.success",
    /// Processes were left at the stop: a bug in Ostler, or a foreign process that carries its
    /// marker.
    CleanupOrphansFound = "cleanup.orphans_found",
    /// The processes left at the stop were killed.
    CleanupEmergencyKill = "cleanup.emergency_kill",
    /// The reader was too slow; `count` events are missing before this one.
    EventsDropped = "events.dropped",
}

/// One event. Fields that do not apply are absent from the JSON.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Event {
    /// The event's number in its run, counted from 1 without gaps.
    pub seq: u64,
    /// The wall-clock time.
    pub time: SystemTime,
    /// What happened.
    pub kind: EventKind,
    /// The app's name.
    pub app: String,
    /// The run's id.
    pub run: RunId,
    /// The pool, also of a worker event; `None` for an event of the run.
    pub pool: Option<String>,
    /// The worker.
    pub worker: Option<WorkerId>,
    /// The worker's incarnation.
    pub incarnation: Option<Incarnation>,
    /// The remaining fields.
    pub facts: Facts,
}

impl Event {
    /// An event of the run with this number, at this time; its other fields are set afterwards.
    pub fn new(seq: u64, time: SystemTime, kind: EventKind, app: impl Into<String>, run: RunId) -> Self {
        Self {
            seq,
            time,
            kind,
            app: app.into(),
            run,
            pool: None,
            worker: None,
            incarnation: None,
            facts: Facts::default(),
        }
    }

    /// Creates the event that replaces `count` events missing before `next`; `why` says why. Its
    /// `seq` is that of the last missing event.
    pub fn dropped_before(next: &Self, count: u64, why: &str) -> Self {
        let facts = Facts::default()
            .with_count(count)
            .with_message(format!("{count} events are missing here: {why}"));
        Self {
            facts,
            ..Self::new(
                next.seq.saturating_sub(1),
                next.time,
                EventKind::EventsDropped,
                next.app.clone(),
                next.run,
            )
        }
    }

    /// Whether the event needs attention: a failure, something the cleaner found, or a sweep that
    /// had to kill.
    pub fn is_trouble(&self) -> bool {
        match self.kind {
            EventKind::WorkerFailed
            | EventKind::WorkerUnhealthy
            | EventKind::WorkerGaveUp
            | EventKind::BreakerOpened
            | EventKind::PoolGaveUp
            | EventKind::RunGaveUp
            | EventKind::GuardianLost
            | EventKind::CleanupOrphansFound
            | EventKind::CleanupEmergencyKill
            | EventKind::EventsDropped => true,
            EventKind::SweepDone => self.facts.count.is_some_and(|count| count > 0),
            EventKind::RunStarted
            | EventKind::RunStopped
            | EventKind::WorkerReserved
            | EventKind::WorkerSpawned
            | EventKind::WorkerReady
            | EventKind::WorkerDraining
            | EventKind::BreakerClosed
            | EventKind::WorkerStopping
            | EventKind::WorkerExited
            | EventKind::WorkerReleased
            | EventKind::WorkerRestarting
            | EventKind::WorkerFinished
            | EventKind::PoolReady
            | EventKind::PoolDegraded
            | EventKind::PoolFinished
            | EventKind::PoolStopped
            | EventKind::CleanupSuccess => false,
        }
    }

    /// The pool of the event, or of its worker.
    pub fn pool_name(&self) -> Option<&str> {
        self.pool
            .as_deref()
            .or(self.worker.as_ref().map(|worker| worker.pool.as_str()))
    }
}

struct Fields<M: SerializeMap>(M);

impl<M: SerializeMap> Fields<M> {
    fn always<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), M::Error> {
        self.0.serialize_entry(key, value)
    }

    fn some<T: Serialize>(&mut self, key: &'static str, value: Option<T>) -> Result<(), M::Error> {
        value.map_or(Ok(()), |value| self.0.serialize_entry(key, &value))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = Fields(serializer.serialize_map(None)?);
        out.always("schema", &SCHEMA)?;
        out.always("seq", &self.seq)?;
        out.always("time", &humantime::format_rfc3339_nanos(self.time).to_string())?;
        out.always("event", self.kind.name())?;
        out.always("app", &self.app)?;
        out.always("run", &self.run.to_string())?;
        out.some("pool", self.pool_name())?;
        out.some("worker", self.worker.as_ref().map(ToString::to_string))?;
        out.some("incarnation", self.incarnation)?;
        self.facts.serialize_into(&mut out)?;
        out.0.end()
    }
}

impl Facts {
    fn serialize_into<M: SerializeMap>(&self, out: &mut Fields<M>) -> Result<(), M::Error> {
        let status = self.exit.and_then(ExitStatus::code);
        let signal = self.exit.and_then(ExitStatus::signal).or(self.signal);
        out.some("pid", self.pid)?;
        out.some("port", self.port)?;
        out.some("ports", Some(&self.ports).filter(|ports| !ports.is_empty()))?;
        out.some("socket", self.socket.as_ref())?;
        out.some("sockets", Some(&self.sockets).filter(|sockets| !sockets.is_empty()))?;
        out.some("containment", self.containment.map(Containment::name))?;
        out.some("reason", self.reason.map(Reason::name))?;
        out.some("message", self.message.as_ref())?;
        out.some("suggestion", self.suggestion.as_ref())?;
        out.some("status", status)?;
        out.some("signal", signal.map(|signal| signal.name()))?;
        out.some("cause", self.cause.map(Cause::name))?;
        out.some("stderr_tail", Some(&self.stderr_tail).filter(|tail| !tail.is_empty()))?;
        out.some("holder", self.holder.as_ref())?;
        out.some("count", self.count)?;
        out.some("orphans", Some(&self.orphans).filter(|orphans| !orphans.is_empty()))?;
        out.some("attempt", self.attempt)?;
        out.some("delay_ms", self.delay.map(millis))?;
        out.some("elapsed_ms", self.elapsed.map(millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_core::failure::Failure;
    use ostler_core::signal::Signal;

    fn event(kind: EventKind, facts: Facts) -> Event {
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_500_000_001);
        Event {
            worker: Some(WorkerId::new("embed", 0)),
            incarnation: Some(Incarnation::FIRST),
            facts,
            ..Event::new(7, time, kind, "demo", RunId::from_u128(1))
        }
    }

    #[test]
    fn json_is_stable() {
        let facts = Facts::default()
            .with_exit(ExitStatus::Signal(Signal::KILL))
            .with_elapsed(Duration::from_millis(12));
        assert_eq!(
            serde_json::to_string(&event(EventKind::WorkerExited, facts)).unwrap(),
            r#"{"schema":1,"seq":7,"time":"1970-01-01T00:00:01.500000001Z","event":"worker.exited","app":"demo","run":"00000000000000000000000000000001","pool":"embed","worker":"embed/0","incarnation":1,"signal":"KILL","elapsed_ms":12}"#
        );
    }

    #[test]
    fn typed_fields_are_names_in_json() {
        let facts = Facts::default()
            .with_containment(Containment::Cgroup)
            .with_signal(Signal::TERM)
            .with_cause(Cause::PoolResize);
        let json = serde_json::to_value(event(EventKind::WorkerStopping, facts)).unwrap();
        let fields = [&json["containment"], &json["signal"], &json["cause"]];
        assert_eq!(fields, ["cgroup", "TERM", "pool_resize"]);
    }

    #[test]
    fn failure_fields_are_complete() {
        let failure = Failure::new(Reason::PortInUse, "port 80 is taken").with_holder("pid 1 (init)");
        let json = serde_json::to_value(event(EventKind::WorkerFailed, Facts::of_failure(&failure))).unwrap();
        assert_eq!(json["reason"], "port_in_use");
        assert_eq!(json["holder"], "pid 1 (init)");
        assert!(json["suggestion"].as_str().unwrap().contains("another port"));
        assert!(json.get("pid").is_none());
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::HashSet<_> = EventKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), EventKind::ALL.len());
    }
}
