//! The names of Ostler's spans, metrics and attributes. Event names are in
//! [`EventKind`](crate::EventKind); in telemetry they start with `ostler.` too.
//!
//! Tests compare `docs/telemetry.md` with these lists, and the lists with what a full run emits.
//! Names from OpenTelemetry's semantic conventions (1.40) are used where they exist.

/// A name and its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name {
    /// The name.
    pub name: &'static str,
    /// The unit, in UCUM notation where it has one (`s`, `By`, `{restart}`); empty if it has none.
    pub unit: &'static str,
    /// The meaning, in a sentence or two.
    pub meaning: &'static str,
}

macro_rules! names {
    ($($(#[doc = $meaning:literal])+ $constant:ident = $name:literal $(in $unit:literal)?;)*) => {
        $($(#[doc = $meaning])+ pub const $constant: &str = $name;)*

        /// All names of this list.
        pub const ALL: &[super::Name] = &[$(super::Name {
            name: $name,
            unit: concat!($($unit)?),
            meaning: concat!($($meaning),+).trim_ascii(),
        },)*];
    };
}

/// Spans. A span that represents an event has the event's name
/// ([`EventKind::full_name`](crate::EventKind::full_name)).
pub mod span {
    names! {
        /// The start of one incarnation until it is ready, as a trace of its own. Linked to the
        /// stop that it follows.
        WORKER_START = "ostler.worker.start";
        /// Choosing the ports and writing the record.
        RESERVE = "ostler.worker.reserve";
        /// From the spawn request to the guardian until exec succeeds.
        SPAWN = "ostler.worker.spawn";
        /// From exec until the worker is ready.
        READY = "ostler.worker.await_ready";
        /// Adding the process to the record.
        ACTIVATE = "ostler.worker.activate";
        /// The end of one incarnation, from the stop request, exit or failure until everything is
        /// released, as a trace of its own.
        WORKER_STOP = "ostler.worker.stop";
        /// Sending the stop signal; a span without duration.
        TERM = "ostler.worker.term";
        /// From the stop request until the process has exited.
        WAIT = "ostler.worker.wait";
        /// From killing the process tree until the process has exited.
        KILL = "ostler.worker.kill";
        /// From the process's exit until its tree is gone.
        TREE_GONE = "ostler.worker.tree_gone";
        /// Until its ports are free.
        PORT = "ostler.worker.port";
        /// Until its record is removed.
        RECORD = "ostler.worker.record";
        /// A call to a pool's workers, of kind client. One over gRPC has the name of its method
        /// instead, and one over HTTP that of its HTTP method (semantic conventions).
        CALL = "ostler.call";
    }
}

/// Span events that are not events of the run.
pub mod span_event {
    names! {
        /// A call has got a worker, or was refused one; see `ostler.queue.wait`.
        QUEUED = "ostler.call.queued";
    }
}

/// Metrics. Every point has `ostler.app`; its other attributes are listed in its meaning.
pub mod metric {
    names! {
        /// Workers by `ostler.pool` and `ostler.state` (a lifecycle state, or `finished`,
        /// `gave_up`, `waiting`).
        WORKERS = "ostler.workers" in "{worker}";
        /// Restarts by `ostler.pool` and `ostler.reason` (absent if nothing failed).
        RESTARTS = "ostler.worker.restarts" in "{restart}";
        /// Failures of incarnations by `ostler.pool` and `ostler.reason`.
        FAILURES = "ostler.worker.failures" in "{failure}";
        /// Time from the reservation until ready, by `ostler.pool`.
        START_DURATION = "ostler.worker.start.duration" in "s";
        /// Time from the stop request until the process has exited, by `ostler.pool`.
        STOP_DURATION = "ostler.worker.stop.duration" in "s";
        /// Time from the exit until everything is released, by `ostler.pool`.
        RELEASE_DURATION = "ostler.worker.release.duration" in "s";
        /// CPU time used by the worker's slot, over all incarnations and their process trees, by
        /// `ostler.pool` and `ostler.worker`.
        CPU_TIME = "ostler.worker.cpu.time" in "s";
        /// Resident memory of the worker's process tree, by `ostler.pool` and `ostler.worker`;
        /// shared pages count once per process.
        MEMORY = "ostler.worker.memory.usage" in "By";
        /// Slots that gave up, by `ostler.pool`.
        GAVE_UP = "ostler.worker.gave_up" in "{worker}";
        /// The largest share of its intensity used by any worker of the pool, by `ostler.pool`; at
        /// 1, the next restart exceeds it.
        INTENSITY_USED = "ostler.pool.intensity.used" in "1";
        /// Workers that a degraded pool lacks, by `ostler.pool`; 0 while the pool is ready, and
        /// while it starts.
        MISSING = "ostler.pool.missing" in "{worker}";
        /// Starts that are queued (for `max_starting`, a release or a machine limit), by
        /// `ostler.pool`.
        STARTS_WAITING = "ostler.pool.starts.waiting" in "{start}";
        /// Lines dropped from the retained output to make room, by `ostler.pool`; counted at the
        /// end of each incarnation.
        OUTPUT_DROPPED = "ostler.output.dropped" in "{line}";
        /// Log records of worker output dropped by the rate limit of a stream, by `ostler.pool`.
        OUTPUT_LIMITED = "ostler.output.limited" in "{record}";
        /// Calls to workers, by `ostler.pool`, `ostler.outcome` and `ostler.reason` (absent if it
        /// was answered or cancelled).
        CALLS = "ostler.calls" in "{call}";
        /// Time from the beginning of a call to the end of its answer, by `ostler.pool` and
        /// `ostler.outcome`.
        CALL_DURATION = "ostler.call.duration" in "s";
        /// Time that a call waited for a worker, by `ostler.pool`.
        QUEUE_WAIT = "ostler.call.queue.wait" in "s";
        /// Calls in flight on workers, by `ostler.pool`.
        CALLS_IN_FLIGHT = "ostler.calls.in_flight" in "{call}";
        /// Calls that wait for a worker, by `ostler.pool`.
        CALLS_QUEUED = "ostler.calls.queued" in "{call}";
        /// Sessions that are bound to a worker, by `ostler.pool`.
        SESSIONS = "ostler.sessions" in "{session}";
        /// The circuit breaker, by `ostler.pool`: 0 is closed, 1 half-open, 2 open.
        BREAKER_STATE = "ostler.breaker.state" in "1";
        /// Records in the process table.
        TABLE_SIZE = "ostler.table.size" in "{record}";
        /// Guardians lost and replaced.
        GUARDIAN_RESTARTS = "ostler.guardian.restarts" in "{restart}";
        /// Stops that left nothing behind, by `ostler.run`.
        CLEANUP_SUCCESS = "ostler.cleanup.success" in "{stop}";
        /// Processes left behind by a stop, by `ostler.run`. Above zero it is a bug.
        CLEANUP_ORPHANS = "ostler.cleanup.orphans_found" in "{process}";
        /// Processes left behind by a stop and killed by the emergency cleaner, by `ostler.run`.
        CLEANUP_KILLS = "ostler.cleanup.emergency_kill" in "{process}";
        /// Disagreements found by audits, by `ostler.disagreement`; counted again in each audit
        /// that finds them.
        DISAGREEMENTS = "ostler.audit.disagreements" in "{disagreement}";
        /// Events dropped because a subscriber was too slow.
        EVENTS_DROPPED = "ostler.events.dropped" in "{event}";
        /// Spans, metric points and log records that could not be delivered, by
        /// `ostler.telemetry.signal`.
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
        /// The number of the event in its run, from 1, so that gaps are visible.
        SEQ = "ostler.seq";
        /// The pool's name.
        POOL = "ostler.pool";
        /// The worker, for example `web/0`.
        WORKER = "ostler.worker";
        /// The incarnation of the worker, from 1.
        INCARNATION = "ostler.incarnation";
        /// The state of a worker.
        STATE = "ostler.state";
        /// The process id (semantic conventions).
        PID = "process.pid";
        /// The worker's program, without its arguments, which may hold secrets (semantic
        /// conventions).
        COMMAND = "process.command";
        /// The exit status (semantic conventions).
        EXIT_CODE = "process.exit.code";
        /// The stream that a record was written to, `stdout` or `stderr` (semantic conventions).
        STREAM = "log.iostream";
        /// The port of a worker with one port.
        PORT = "ostler.port";
        /// The ports of a worker with named ports, each as `name=port`.
        PORTS = "ostler.ports";
        /// The path of the Unix socket of a worker with one.
        SOCKET = "ostler.socket";
        /// The paths of the Unix sockets of a worker with named ones, each as `name=path`.
        SOCKETS = "ostler.sockets";
        /// What contains the worker's process tree: `sitter` or `cgroup`.
        CONTAINMENT = "ostler.containment";
        /// Why the incarnation failed (see failure-reasons.md), or why a call was refused or has no
        /// answer (see serving.md).
        REASON = "ostler.reason";
        /// What happened, in one sentence.
        MESSAGE = "ostler.message";
        /// What to do about it.
        SUGGESTION = "ostler.suggestion";
        /// The signal that ended the process, or that was sent to it.
        SIGNAL = "ostler.signal";
        /// What caused it.
        CAUSE = "ostler.cause";
        /// The last lines of stderr, oldest first.
        STDERR_TAIL = "ostler.stderr_tail";
        /// The process that holds a resource that is not available or not released.
        HOLDER = "ostler.holder";
        /// A count; its meaning depends on the event.
        COUNT = "ostler.count";
        /// The processes found.
        ORPHANS = "ostler.orphans";
        /// The number of this consecutive restart.
        ATTEMPT = "ostler.attempt";
        /// The delay before the restart.
        DELAY = "ostler.delay" in "s";
        /// The time since the incarnation's previous state.
        ELAPSED = "ostler.elapsed" in "s";
        /// Log records of this stream dropped by the rate limit before this one.
        LIMITED = "ostler.output.limited_before" in "{record}";
        /// The kind of disagreement, for example `not_held`.
        DISAGREEMENT = "ostler.disagreement";
        /// What became of a call: `answered`, `refused`, `unknown` or `cancelled`.
        OUTCOME = "ostler.outcome";
        /// The time that a call waited for a worker.
        WAIT = "ostler.queue.wait" in "s";
        /// The system of a remote procedure call, for example `grpc` (semantic conventions).
        RPC_SYSTEM = "rpc.system.name";
        /// The full name of the called method (semantic conventions).
        RPC_METHOD = "rpc.method";
        /// The status of a gRPC response, for example `NOT_FOUND` (semantic conventions).
        RPC_STATUS = "rpc.response.status_code";
        /// The method of an HTTP request, or `_OTHER` for one that the conventions do not list
        /// (semantic conventions).
        HTTP_METHOD = "http.request.method";
        /// The method of an HTTP request that is `_OTHER` (semantic conventions).
        HTTP_METHOD_ORIGINAL = "http.request.method_original";
        /// The status of an HTTP response (semantic conventions).
        HTTP_STATUS = "http.response.status_code";
        /// The path of an HTTP request (semantic conventions).
        URL_PATH = "url.path";
        /// The address of an HTTP request, without its query (semantic conventions).
        URL_FULL = "url.full";
        /// The address of the worker that was called, or the path of its Unix socket (semantic
        /// conventions).
        SERVER_ADDRESS = "server.address";
        /// The port of the worker that was called (semantic conventions).
        SERVER_PORT = "server.port";
        /// Why a call failed: a status, or a reason such as `worker_lost` (semantic conventions).
        ERROR_TYPE = "error.type";
        /// What could not be delivered: `traces`, `metrics` or `logs`.
        TELEMETRY_SIGNAL = "ostler.telemetry.signal";
    }
}

/// Resource attributes, all from the semantic conventions.
pub mod resource {
    names! {
        /// The service: `OTEL_SERVICE_NAME`, or the setting, or `ostler`.
        SERVICE_NAME = "service.name";
        /// The version of Ostler.
        SERVICE_VERSION = "service.version";
        /// Identifies one start of the program; random.
        SERVICE_INSTANCE = "service.instance.id";
        /// The host process.
        PID = "process.pid";
        /// The name of the host's executable.
        EXECUTABLE = "process.executable.name";
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_meanings_are_sentences() {
        for list in [span::ALL, span_event::ALL, metric::ALL, attribute::ALL, resource::ALL] {
            let names: HashSet<_> = list.iter().map(|name| name.name).collect();
            assert_eq!(names.len(), list.len());
            assert!(list.iter().all(|name| name.meaning.ends_with(['.', ')'])), "{list:?}");
        }
    }

    /// Every name that is not ours is one of OpenTelemetry's, as its own crate has it.
    #[test]
    fn other_names_are_those_of_the_semantic_conventions() {
        use opentelemetry_semantic_conventions::attribute as theirs;
        let known = HashSet::from([
            theirs::ERROR_TYPE,
            theirs::HTTP_REQUEST_METHOD,
            theirs::HTTP_REQUEST_METHOD_ORIGINAL,
            theirs::HTTP_RESPONSE_STATUS_CODE,
            theirs::LOG_IOSTREAM,
            theirs::PROCESS_COMMAND,
            theirs::PROCESS_EXECUTABLE_NAME,
            theirs::PROCESS_EXIT_CODE,
            theirs::PROCESS_PID,
            theirs::RPC_METHOD,
            theirs::RPC_RESPONSE_STATUS_CODE,
            theirs::RPC_SYSTEM_NAME,
            theirs::SERVER_ADDRESS,
            theirs::SERVER_PORT,
            theirs::SERVICE_INSTANCE_ID,
            theirs::SERVICE_NAME,
            theirs::SERVICE_VERSION,
            theirs::URL_FULL,
            theirs::URL_PATH,
        ]);
        let names = attribute::ALL.iter().chain(resource::ALL).map(|name| name.name);
        let others: HashSet<_> = names.filter(|name| !name.starts_with("ostler.")).collect();
        assert_eq!(others, known);
    }

    #[test]
    fn every_metric_has_a_unit() {
        assert!(metric::ALL.iter().all(|metric| !metric.unit.is_empty()));
    }
}
