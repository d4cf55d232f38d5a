//! The example's worker, a Python program whose own spans join the trace that started it.

use std::path::{Path, PathBuf};
use std::process::Command;

use ostler_telemetry::names::span;
use ostler_tests::receiver::Receiver;
use ostler_tests::{SOON, Up};

use crate::to;

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/jaeger")
}

/// A Python with OpenTelemetry: the example's own, or the machine's.
fn python() -> Option<PathBuf> {
    let candidates = [example().join(".venv/bin/python3"), PathBuf::from("python3")];
    candidates.into_iter().find(|python| {
        let import = "import opentelemetry.sdk, opentelemetry.exporter.otlp.proto.grpc";
        let tried = Command::new(python).args(["-c", import]).output();
        tried.is_ok_and(|output| output.status.success())
    })
}

#[test]
fn python_spans_join_the_trace_of_the_start() {
    let Some(python) = python() else {
        println!("skipped: no Python with OpenTelemetry; python3 examples/jaeger/run.py --prepare installs it");
        return;
    };
    let receiver = Receiver::grpc();
    let worker = example().join("worker.py");
    let mut up = Up::start_with(
        |tag| {
            format!(
                "[pool.p]\ncommand = [{:?}, {:?}, \"--port\", \"{{port}}\", \"--tag\", {tag:?}]\nport = \"any\"\n\
                 ready = {{ http = \"/healthz\" }}\nenv = {{ OTEL_SERVICE_NAME = \"embed\" }}\n",
                python.display().to_string(),
                worker.display().to_string()
            )
        },
        to(&receiver),
    );
    up.wait_for_event("pool.ready");
    let received = receiver.wait_for("both sides of the trace", SOON, |received| {
        received.spans_named("worker.load").next().is_some()
            && received.spans_named(span::WORKER_START).next().is_some()
    });
    up.stop_cleanly();
    let start = received.spans_named(span::WORKER_START).next().unwrap();
    let loaded = received.spans_named("worker.load").next().unwrap();
    assert_eq!(
        (&loaded.trace_id, &loaded.parent_span_id),
        (&start.trace_id, &start.span_id)
    );
    let inner = received.spans_named("load the model").next().unwrap();
    assert_eq!(
        (&inner.trace_id, &inner.parent_span_id),
        (&start.trace_id, &loaded.span_id)
    );
}
