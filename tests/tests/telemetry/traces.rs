//! The shape of the traces of a start, a stop and a restart, and the attributes of a failure.

use nix::sys::signal::Signal;
use ostler_telemetry::names::{attribute, resource, span};
use ostler_tests::receiver::{Received, Receiver, Span, StatusCode, attribute as of};
use ostler_tests::{SOON, pid_of, send};

use crate::{pool, to, up};

fn is_error(span: &Span) -> bool {
    span.status
        .as_ref()
        .is_some_and(|status| status.code == StatusCode::Error as i32)
}

/// The trace with this name about this incarnation of `p/0`.
fn trace<'a>(received: &'a Received, name: &'a str, incarnation: &str) -> &'a Span {
    let mut fitting = received.spans_named(name).filter(|span| {
        of(&span.attributes, attribute::WORKER) == "p/0" && of(&span.attributes, attribute::INCARNATION) == incarnation
    });
    let found = fitting.next().unwrap_or_else(|| panic!("no {name} of {incarnation}"));
    assert_eq!(fitting.next(), None, "{name} of {incarnation} exists twice");
    assert!(found.parent_span_id.is_empty(), "{name} must be a root span");
    found
}

fn names(spans: &[&Span]) -> Vec<String> {
    spans.iter().map(|span| span.name.clone()).collect()
}

/// A kill, a restart and a stop, sent to this receiver.
fn life(receiver: &Receiver, protocol: &str) -> Received {
    let keys = "port = \"any\"\nready = { http = \"/\" }";
    let mut up = ostler_tests::Up::start_with(
        |tag| pool("http", tag, keys),
        |command| {
            to(receiver)(command);
            command.env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol);
            command.env("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret");
            command.env("OTEL_SERVICE_NAME", "named");
        },
    );
    let first = up.wait_for_event("worker.ready");
    send(pid_of(&first), Signal::SIGKILL);
    let second = up.wait_for("the replacement", SOON, |event| {
        event["event"] == "worker.ready" && event["incarnation"] == 2
    });
    up.stop_cleanly();
    let received = receiver.received();
    let start = trace(&received, span::WORKER_START, "2");
    assert_eq!(of(&start.attributes, attribute::PID), pid_of(&second).to_string());
    received
}

fn assert_shape(received: &Received) {
    let start = trace(received, span::WORKER_START, "1");
    let steps = received.children(start);
    let mut step_names = names(&steps);
    step_names.sort();
    assert_eq!(
        step_names,
        [span::ACTIVATE, span::READY, span::RESERVE, span::SPAWN],
        "{steps:#?}"
    );
    assert_eq!(step_names.len(), 4);
    assert_eq!(names(&steps)[..2], [span::RESERVE, span::SPAWN], "in this order");
    for step in &steps {
        assert!(step.start_time_unix_nano >= start.start_time_unix_nano, "{}", step.name);
        assert!(step.end_time_unix_nano <= start.end_time_unix_nano, "{}", step.name);
    }
    assert!(!is_error(start) && start.links.is_empty());
    let names_of_events: Vec<_> = start.events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(
        names_of_events,
        ["ostler.worker.reserved", "ostler.worker.spawned", "ostler.worker.ready"]
    );

    let exit = trace(received, span::WORKER_STOP, "1");
    assert_eq!(
        names(&received.children(exit))[..3],
        [span::TREE_GONE, span::PORT, span::RECORD]
    );
    assert!(is_error(exit));
    assert_eq!(of(&exit.attributes, attribute::REASON), "killed");
    assert!(of(&exit.attributes, attribute::SUGGESTION).len() > 5);

    let restart = trace(received, span::WORKER_START, "2");
    assert_eq!(restart.links.len(), 1, "the restart links to the exit");
    assert_eq!(restart.links[0].trace_id, exit.trace_id);
    assert_eq!(restart.links[0].span_id, exit.span_id);
    assert_ne!(restart.trace_id, exit.trace_id);
    let restarting = received.spans_named("ostler.worker.restarting").next().unwrap();
    assert_eq!(
        restarting.parent_span_id, exit.span_id,
        "it is part of the exit's trace"
    );

    let stop = trace(received, span::WORKER_STOP, "2");
    assert_eq!(
        names(&received.children(stop)),
        [span::TERM, span::WAIT, span::TREE_GONE, span::PORT, span::RECORD]
    );
    assert!(!is_error(stop));
}

fn assert_resource(received: &Received) {
    assert!(!received.resources.is_empty());
    for from in &received.resources {
        assert_eq!(of(&from.attributes, resource::SERVICE_NAME), "named");
        assert!(!of(&from.attributes, resource::SERVICE_INSTANCE).is_empty());
        assert_eq!(of(&from.attributes, resource::EXECUTABLE), "ostler");
    }
    assert!(received.headers.contains(&("x-key".to_owned(), "secret".to_owned())));
}

#[test]
fn start_exit_restart_and_stop_have_the_expected_shape_over_grpc() {
    let received = life(&Receiver::grpc(), "grpc");
    assert_shape(&received);
    assert_resource(&received);
    assert!(!received.metrics.is_empty() && !received.records.is_empty());
}

#[test]
fn start_exit_restart_and_stop_have_the_expected_shape_over_http() {
    let received = life(&Receiver::http(), "http/protobuf");
    assert_shape(&received);
    assert_resource(&received);
    assert!(!received.metrics.is_empty() && !received.records.is_empty());
}

#[test]
fn stop_that_must_kill_has_a_kill_span() {
    let receiver = Receiver::grpc();
    let keys = "stop = { grace = \"100ms\" }";
    let mut up = up(&receiver, |tag| {
        pool(
            "ignore-term+say-out+sleep",
            tag,
            &format!("{keys}\nready = {{ line = \"ready\" }}"),
        )
    });
    up.wait_for_event("pool.ready");
    up.stop_cleanly();
    let received = receiver.received();
    let stop = trace(&received, span::WORKER_STOP, "1");
    assert_eq!(
        names(&received.children(stop)),
        [span::TERM, span::WAIT, span::KILL, span::TREE_GONE, span::RECORD]
    );
    let grace = received
        .children(stop)
        .iter()
        .find(|step| step.name == span::WAIT)
        .map(|step| step.end_time_unix_nano - step.start_time_unix_nano);
    assert!(
        grace >= Some(90_000_000),
        "the wait lasts as long as the grace: {grace:?}"
    );
}

#[test]
fn failed_start_has_reason_message_suggestion_and_stderr() {
    let receiver = Receiver::grpc();
    let keys = "intensity = 0\nport = \"any\"\nready = { http = \"/\" }";
    let mut up = up(&receiver, |tag| pool("stderr+exit=3", tag, keys));
    let (status, _) = up.end(SOON);
    assert_eq!(status.code(), Some(1));
    let received = receiver.received();
    for name in [span::WORKER_START, span::WORKER_STOP] {
        let failed = trace(&received, name, "1");
        assert!(is_error(failed), "{failed:#?}");
        assert_eq!(of(&failed.attributes, attribute::REASON), "exited_before_ready");
        assert!(of(&failed.attributes, attribute::MESSAGE).contains("exit status 3"));
        assert!(!of(&failed.attributes, attribute::SUGGESTION).is_empty());
        assert!(of(&failed.attributes, attribute::STDERR_TAIL).contains("ModuleNotFoundError"));
    }
    for name in ["ostler.worker.gave_up", "ostler.pool.gave_up"] {
        let gave_up = received.spans_named(name).next().unwrap_or_else(|| panic!("no {name}"));
        assert!(is_error(gave_up));
        assert_eq!(of(&gave_up.attributes, attribute::REASON), "exited_before_ready");
    }
}

#[test]
fn missing_program_fails_in_the_spawn_span() {
    let receiver = Receiver::grpc();
    let mut up = up(&receiver, |_| {
        "[pool.p]\ncommand = [\"nonesuch-program\"]\nintensity = 0\n".to_owned()
    });
    up.end(SOON);
    let received = receiver.received();
    let start = trace(&received, span::WORKER_START, "1");
    assert_eq!(of(&start.attributes, attribute::REASON), "command_not_found");
    assert_eq!(names(&received.children(start)), [span::RESERVE, span::SPAWN]);
}

#[test]
fn worker_gets_the_trace_of_its_start_and_not_the_hosts() {
    let receiver = Receiver::grpc();
    let host = "00-11111111111111111111111111111111-2222222222222222-01";
    let mut up = ostler_tests::Up::start_with(
        |tag| pool("trace-parent+sleep", tag, ""),
        |command| {
            to(&receiver)(command);
            command.env("TRACEPARENT", host).env("TRACESTATE", "host=1");
        },
    );
    up.wait_for_event("worker.ready");
    let received = receiver.wait_for("the worker's output", SOON, |received| {
        stdout_of(received).is_some() && received.spans_named(span::WORKER_START).next().is_some()
    });
    up.stop_cleanly();
    let start = trace(&received, span::WORKER_START, "1");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let expected = format!("00-{}-{}-01 ", hex(&start.trace_id), hex(&start.span_id));
    assert_eq!(stdout_of(&received), Some(expected), "TRACEPARENT, and no TRACESTATE");
}

/// The worker's output.
fn stdout_of(received: &Received) -> Option<String> {
    let output = |record: &&opentelemetry_proto::tonic::logs::v1::LogRecord| record.event_name.is_empty();
    let body = received.records.iter().find(output)?.body.as_ref()?;
    Some(ostler_tests::receiver::text(body))
}

#[test]
fn worker_gets_its_trace_even_if_it_is_not_sampled() {
    let receiver = Receiver::grpc();
    let mut up = ostler_tests::Up::start_with(
        |tag| pool("trace-parent+sleep", tag, ""),
        |command| {
            to(&receiver)(command);
            command.env("OTEL_TRACES_SAMPLER", "always_off");
        },
    );
    up.wait_for_event("worker.ready");
    let received = receiver.wait_for("the worker's output", SOON, |received| stdout_of(received).is_some());
    up.stop_cleanly();
    assert!(
        stdout_of(&received).unwrap().ends_with("-00 "),
        "the sampled flag is not set: {:?}",
        stdout_of(&received)
    );
    assert!(receiver.received().spans.is_empty());
}

#[test]
fn disabled_telemetry_sends_nothing() {
    let receiver = Receiver::grpc();
    let mut up = ostler_tests::Up::start_with(
        |tag| pool("sleep", tag, ""),
        |command| {
            to(&receiver)(command);
            command.env("OTEL_SDK_DISABLED", "true");
        },
    );
    up.wait_for_event("pool.ready");
    up.stop_cleanly();
    assert!(receiver.received().resources.is_empty());
}

#[test]
fn variables_override_the_file() {
    let (receiver, other) = (Receiver::http(), Receiver::grpc());
    let section = format!(
        "[telemetry]\notlp = {:?}\nprotocol = \"http/protobuf\"\nheaders = {{ x-file = \"yes\" }}\n",
        receiver.endpoint()
    );
    let mut up = ostler_tests::Up::start(|tag| format!("{section}{}", pool("sleep", tag, "")));
    up.wait_for_event("pool.ready");
    up.stop_cleanly();
    let received = receiver.received();
    trace(&received, span::WORKER_START, "1");
    assert_eq!(
        of(&received.resources[0].attributes, resource::SERVICE_NAME),
        "test",
        "the app's name"
    );
    assert!(received.headers.contains(&("x-file".to_owned(), "yes".to_owned())));

    let mut up = ostler_tests::Up::start_with(
        |tag| format!("{section}{}", pool("sleep", tag, "")),
        |command| {
            to(&other)(command);
            command.env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        },
    );
    up.wait_for_event("pool.ready");
    up.stop_cleanly();
    trace(&other.received(), span::WORKER_START, "1");
    assert_eq!(
        receiver.received().spans.len(),
        received.spans.len(),
        "nothing else arrives here"
    );
}
