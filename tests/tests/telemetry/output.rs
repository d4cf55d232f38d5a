//! Workers' output as log records.

use ostler_telemetry::names::attribute;
use ostler_tests::SOON;
use ostler_tests::receiver::{Received, Receiver, attribute as of, text};

use crate::{pool, up};

/// The bodies of the records of this stream.
fn bodies(received: &Received, stream: &str) -> Vec<String> {
    let output = received.records.iter().filter(|record| record.event_name.is_empty());
    let of_stream = output.filter(|record| of(&record.attributes, attribute::STREAM) == stream);
    of_stream.filter_map(|record| record.body.as_ref().map(text)).collect()
}

#[test]
fn a_traceback_is_one_record_with_its_worker_and_stream() {
    let receiver = Receiver::grpc();
    let mut up = up(&receiver, |tag| pool("say-out+traceback+sleep", tag, ""));
    let received = receiver.wait_for("what the worker prints", SOON, |received| {
        bodies(received, "stderr").len() >= 3 && bodies(received, "stdout").len() == 1
    });
    up.stop_cleanly();
    let told = bodies(&received, "stderr");
    assert_eq!((told[0].as_str(), told[2].as_str()), ("before", "after"));
    assert!(
        told[1].starts_with("Traceback") && told[1].ends_with("ValueError: 1"),
        "{}",
        told[1]
    );
    assert_eq!(told[1].matches("Traceback").count(), 2);
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
fn a_flood_is_limited_and_counted_and_the_worker_never_waits() {
    let receiver = Receiver::grpc();
    // 1,000 lines of 64 KiB.
    let mut up = up(&receiver, |tag| {
        pool("flood=65536000+say-err+sleep", tag, "ready = { line = \"ready\" }")
    });
    up.wait_for_event("pool.ready");
    up.stop_cleanly();
    let received = receiver.received();
    let given = bodies(&received, "stdout").len() as u64;
    assert!(given >= 1, "the first ones are given");
    let limited: u64 = crate::metrics::sum(&received, ostler_telemetry::names::metric::OUTPUT_LIMITED);
    assert_eq!(given + limited, 1_000, "each is given or counted");
    assert!(limited >= 100, "{limited}");
    let dropped = crate::metrics::sum(&received, ostler_telemetry::names::metric::OUTPUT_DROPPED);
    assert!(dropped >= 900, "the ring keeps but the last: {dropped}");
}

#[test]
fn output_that_is_kept_out_of_the_log_is_not_recorded() {
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
