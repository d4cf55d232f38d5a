//! Workers' output as log records.

use ostler_telemetry::names::attribute;
use ostler_tests::SOON;
use ostler_tests::receiver::{Received, Receiver, attribute as of, text};
use ostler_tests::scene::pool_of;

use crate::{pool, up};

/// The bodies of this stream's records.
fn bodies(received: &Received, stream: &str) -> Vec<String> {
    let output = received.records.iter().filter(|record| record.event_name.is_empty());
    let of_stream = output.filter(|record| of(&record.attributes, attribute::STREAM) == stream);
    of_stream.filter_map(|record| record.body.as_ref().map(text)).collect()
}

#[test]
fn traceback_is_one_record_with_worker_and_stream() {
    let receiver = Receiver::grpc();
    let mut up = up(&receiver, |tag| pool("say-out+traceback+sleep", tag, ""));
    let received = receiver.wait_for("the worker's output", SOON, |received| {
        bodies(received, "stderr").len() >= 3 && bodies(received, "stdout").len() == 1
    });
    up.stop_cleanly();
    let records = bodies(&received, "stderr");
    assert_eq!((records[0].as_str(), records[2].as_str()), ("before", "after"));
    assert!(
        records[1].starts_with("Traceback") && records[1].ends_with("ValueError: 1"),
        "{}",
        records[1]
    );
    assert_eq!(records[1].matches("Traceback").count(), 2);
    assert_eq!(bodies(&received, "stdout"), ["ready to serve"]);
    let record = received
        .records
        .iter()
        .find(|record| record.event_name.is_empty())
        .unwrap();
    for (key, value) in [
        (attribute::APP, "test"),
        (attribute::POOL, "p"),
        (attribute::WORKER, "p/0"),
        (attribute::INCARNATION, "1"),
    ] {
        assert_eq!(of(&record.attributes, key), value);
    }
}

#[test]
fn flood_is_rate_limited_and_counted_without_blocking_the_worker() {
    let receiver = Receiver::grpc();
    // Written in some milliseconds, so that even a busy machine can't send most of them in time.
    const LINES: u64 = 100_000;
    let script = format!("seq 1 {LINES}; echo ready >&2; while :; do sleep 3600; done");
    let mut up = up(&receiver, |tag| {
        let command = format!("[\"sh\", \"-c\", {script:?}, \"sh\", {tag:?}]");
        pool_of(&command, "ready = { line = \"ready\" }")
    });
    up.wait_for_event("pool.ready");
    up.stop_cleanly();
    let received = receiver.received();
    let given = bodies(&received, "stdout").len() as u64;
    assert!(given >= 1, "the first lines are sent");
    let limited: u64 = crate::metrics::sum(&received, ostler_telemetry::names::metric::OUTPUT_LIMITED);
    assert_eq!(given + limited, LINES, "each line is sent or counted");
    assert!(limited >= LINES / 2, "{limited}");
    let dropped = crate::metrics::sum(&received, ostler_telemetry::names::metric::OUTPUT_DROPPED);
    assert!(dropped >= LINES / 2, "the ring keeps the last lines only: {dropped}");
}

#[test]
fn output_excluded_from_the_log_is_not_sent() {
    let receiver = Receiver::grpc();
    let mut up = up(&receiver, |tag| {
        pool(
            "say-out+sleep",
            tag,
            "ready = { line = \"ready\" }\noutput = { log = false }",
        )
    });
    up.wait_for_event("pool.ready");
    up.stop_cleanly();
    assert_eq!(bodies(&receiver.received(), "stdout"), [""; 0]);
}
