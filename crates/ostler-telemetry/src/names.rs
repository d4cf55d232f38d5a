//! The one list of the names that Ostler tells other systems: spans, metrics, attributes. Events are in
//! [`EventKind`](crate::EventKind); elsewhere than in the JSON their names begin with `ostler.` too.
//!
//! `docs/telemetry.md` is compared with this list, and the list with what a full run emits. Where OpenTelemetry's
//! semantic conventions (1.40) have a name, theirs is used.

/// A name, and what it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name {
    /// The name.
    pub name: &'static str,
    /// Its unit, by UCUM where there is one (`s`, `By`, `{restart}`); empty where it has none.
    pub unit: &'static str,
    /// What it means, in a sentence or two.
    pub meaning: &'static str,
}

macro_rules! names {
    ($($(#[doc = $meaning:literal])+ $constant:ident = $name:literal $(in $unit:literal)?;)*) => {
        $($(#[doc = $meaning])+ pub const $constant: &str = $name;)*

        /// All of them.
        pub const ALL: &[super::Name] = &[$(super::Name {
            name: $name,
            unit: concat!($($unit)?),
            meaning: concat!($($meaning),+).trim_ascii(),
        },)*];
    };
}

/// Spans. Those that stand for an event bear its name ([`EventKind::full_name`](crate::EventKind::full_name)).
pub mod span {
    names! {
        /// The start of one incarnation, from its turn to ready: a trace of its own. Linked to the stop that it follows.
        WORKER_START = "ostler.worker.start";
        /// Its ports are chosen, and its record is written.
        RESERVE = "ostler.worker.reserve";
        /// The order to the guardian until exec has succeeded.
        SPAWN = "ostler.worker.spawn";
        /// From exec until it is seen to be ready.
        READY = "ostler.worker.await_ready";
        /// Its record learns the process.
        ACTIVATE = "ostler.worker.activate";
        /// The end of one incarnation, from the order to stop, or its exit or failure, until all is released: a trace of its own.
        WORKER_STOP = "ostler.worker.stop";
        /// The order to end it, with its signal, is given: no length.
        TERM = "ostler.worker.term";
        /// From the order until its process has ended.
        WAIT = "ostler.worker.wait";
        /// From the kill of its whole tree until its process has ended.
        KILL = "ostler.worker.kill";
        /// From its exit until nothing of its tree is left.
        TREE_GONE = "ostler.worker.tree_gone";
        /// Until its ports can be bound again.
        PORT = "ostler.worker.port";
        /// Until its record is removed.
        RECORD = "ostler.worker.record";
    }
}

/// Metrics. Each point has `ostler.app`; what else it has is in its meaning.
pub mod metric {
    names! {
        /// Workers by `ostler.pool` and `ostler.state` (a state, or `finished`, `gave_up`, `waiting` for its turn).
        WORKERS = "ostler.workers" in "{worker}";
        /// Restarts by `ostler.pool` and `ostler.reason` (absent: nothing failed).
        RESTARTS = "ostler.worker.restarts" in "{restart}";
        /// Failures of incarnations by `ostler.pool` and `ostler.reason`.
        FAILURES = "ostler.worker.failures" in "{failure}";
        /// From the reservation to ready, by `ostler.pool`.
        START_DURATION = "ostler.worker.start.duration" in "s";
        /// From the order to stop until the process has ended, by `ostler.pool`.
        STOP_DURATION = "ostler.worker.stop.duration" in "s";
        /// From the exit until all that was held is released, by `ostler.pool`.
        RELEASE_DURATION = "ostler.worker.release.duration" in "s";
        /// CPU time that the worker's slot has used, its whole tree and all incarnations, by `ostler.pool` and `ostler.worker`.
        CPU_TIME = "ostler.worker.cpu.time" in "s";
        /// Resident memory of the worker's whole tree, by `ostler.pool` and `ostler.worker`; shared pages count for each process.
        MEMORY = "ostler.worker.memory.usage" in "By";
        /// Slots that gave up, by `ostler.pool`.
        GAVE_UP = "ostler.worker.gave_up" in "{worker}";
        /// The largest part of its intensity that a worker of the pool has used, by `ostler.pool`: at 1 the next restart is one too many.
        INTENSITY_USED = "ostler.pool.intensity.used" in "1";
        /// Starts that wait for their turn (`max_starting`, a release, the machine), by `ostler.pool`.
        STARTS_WAITING = "ostler.pool.starts.waiting" in "{start}";
        /// Lines that went from the kept output to make room, by `ostler.pool`; counted at the end of each incarnation.
        OUTPUT_DROPPED = "ostler.output.dropped" in "{line}";
        /// Log records of workers' output above the limit of a stream, by `ostler.pool`.
        OUTPUT_LIMITED = "ostler.output.limited" in "{record}";
        /// Records in the process table.
        TABLE_SIZE = "ostler.table.size" in "{record}";
        /// Guardians that were lost, each followed by another.
        GUARDIAN_RESTARTS = "ostler.guardian.restarts" in "{restart}";
        /// Stops after which nothing was left, by `ostler.run`.
        CLEANUP_SUCCESS = "ostler.cleanup.success" in "{stop}";
        /// Processes that a stop had left: a bug, always. By `ostler.run`.
        CLEANUP_ORPHANS = "ostler.cleanup.orphans_found" in "{process}";
        /// Those of them that the emergency cleaner killed, by `ostler.run`.
        CLEANUP_KILLS = "ostler.cleanup.emergency_kill" in "{process}";
        /// What the audit found to disagree, counted at each audit that finds it, by `ostler.disagreement`.
        DISAGREEMENTS = "ostler.audit.disagreements" in "{disagreement}";
        /// Events that a subscriber was too slow for.
        EVENTS_DROPPED = "ostler.events.dropped" in "{event}";
        /// Spans, points of metrics and log records that could not be delivered, by `ostler.telemetry.signal`.
        UNDELIVERED = "ostler.telemetry.undelivered" in "{item}";
    }
}

/// Attributes of spans, events, metrics and log records.
pub mod attribute {
    names! {
        /// The app's name.
        APP = "ostler.app";
        /// The run's id, 32 hexadecimal digits.
        RUN = "ostler.run";
        /// The number of the event in its run, from 1: what is missing shows.
        SEQ = "ostler.seq";
        /// The pool's name.
        POOL = "ostler.pool";
        /// The worker, such as `web/0`.
        WORKER = "ostler.worker";
        /// Which process of the worker, from 1.
        INCARNATION = "ostler.incarnation";
        /// The state of a worker.
        STATE = "ostler.state";
        /// The process (semantic conventions).
        PID = "process.pid";
        /// The program that a worker runs, without its arguments, which may hold secrets (semantic conventions).
        COMMAND = "process.command";
        /// The exit status (semantic conventions).
        EXIT_CODE = "process.exit.code";
        /// The stream that a record was written to, `stdout` or `stderr` (semantic conventions).
        STREAM = "log.iostream";
        /// The worker's one port.
        PORT = "ostler.port";
        /// The worker's named ports, each as `name=port`.
        PORTS = "ostler.ports";
        /// What holds the worker's tree: `sitter` or `cgroup`.
        CONTAINMENT = "ostler.containment";
        /// Why it failed; see failure-reasons.md.
        REASON = "ostler.reason";
        /// What happened, in a sentence.
        MESSAGE = "ostler.message";
        /// What to do about it.
        SUGGESTION = "ostler.suggestion";
        /// The name of the signal that ended it, or that was sent.
        SIGNAL = "ostler.signal";
        /// Who wanted it.
        CAUSE = "ostler.cause";
        /// The last lines of its stderr, oldest first.
        STDERR_TAIL = "ostler.stderr_tail";
        /// Who holds what could not be had, or is not released.
        HOLDER = "ostler.holder";
        /// How many.
        COUNT = "ostler.count";
        /// The processes that were found.
        ORPHANS = "ostler.orphans";
        /// Which restart within the window this is.
        ATTEMPT = "ostler.attempt";
        /// The pause before it.
        DELAY = "ostler.delay" in "s";
        /// The time since the previous state of the incarnation.
        ELAPSED = "ostler.elapsed" in "s";
        /// Log records of this stream that the limit has kept back before this one.
        LIMITED = "ostler.output.limited_before" in "{record}";
        /// What disagrees, such as `not_held`.
        DISAGREEMENT = "ostler.disagreement";
        /// What could not be delivered: `traces`, `metrics` or `logs`.
        TELEMETRY_SIGNAL = "ostler.telemetry.signal";
    }
}

/// Attributes of the resource, all of the semantic conventions: who sends.
pub mod resource {
    names! {
        /// The service: `OTEL_SERVICE_NAME`, else the setting, else `ostler`.
        SERVICE_NAME = "service.name";
        /// The version of the library.
        SERVICE_VERSION = "service.version";
        /// One start of the program; random.
        SERVICE_INSTANCE = "service.instance.id";
        /// The host process.
        PID = "process.pid";
        /// The name of the host's program.
        EXECUTABLE = "process.executable.name";
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_name_stands_for_two_things() {
        for list in [span::ALL, metric::ALL, attribute::ALL, resource::ALL] {
            let names: HashSet<_> = list.iter().map(|name| name.name).collect();
            assert_eq!(names.len(), list.len());
            assert!(list.iter().all(|name| name.meaning.ends_with(['.', ')'])), "{list:?}");
        }
    }

    #[test]
    fn every_metric_has_its_unit() {
        assert!(metric::ALL.iter().all(|metric| !metric.unit.is_empty()));
    }
}
