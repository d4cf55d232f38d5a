//! The metrics of a run: counted, measured and sampled.

use nix::sys::signal::Signal;
use ostler_telemetry::names::{attribute, metric};
use ostler_tests::receiver::{Received, Receiver, attribute as of, metric::Data, number_data_point::Value};
use ostler_tests::scene::audited;
use ostler_tests::{SOON, Up, pid_of, send};

use crate::{pool, to, up};

/// The points of the last export of this metric: the value of the attribute `key`, and the point's
/// value.
pub(crate) fn points(received: &Received, name: &str, key: &str) -> Vec<(String, f64)> {
    let Some(last) = received.metrics.iter().rev().find(|metric| metric.name == name) else {
        return Vec::new();
    };
    let numbers = match last.data.as_ref() {
        Some(Data::Gauge(gauge)) => &gauge.data_points,
        Some(Data::Sum(sum)) => &sum.data_points,
        Some(Data::Histogram(histogram)) => {
            let count = |point: &opentelemetry_proto::tonic::metrics::v1::HistogramDataPoint| {
                (of(&point.attributes, key), point.count as f64)
            };
            return histogram.data_points.iter().map(count).collect();
        }
        other => panic!("{name} is {other:?}"),
    };
    let point = |point: &opentelemetry_proto::tonic::metrics::v1::NumberDataPoint| {
        let value = match point.value {
            Some(Value::AsInt(number)) => number as f64,
            Some(Value::AsDouble(number)) => number,
            None => f64::NAN,
        };
        (of(&point.attributes, key), value)
    };
    numbers.iter().map(point).collect()
}

/// The sum of all points of the last export.
pub(crate) fn sum(received: &Received, name: &str) -> u64 {
    points(received, name, "").iter().map(|(_, value)| *value as u64).sum()
}

fn at(received: &Received, name: &str, key: &str, of: &str) -> f64 {
    let found = points(received, name, key).into_iter().find(|(value, _)| value == of);
    found.map_or(f64::NAN, |(_, value)| value)
}

#[test]
fn counters_durations_and_samples_are_correct() {
    let receiver = Receiver::grpc();
    let keys = "workers = 3\nintensity = 4\nperiod = \"1h\"\nready = { line = \"ready\" }";
    let mut up = up(&receiver, |tag| pool("child+burn=300+say-out+sleep", tag, keys));
    up.wait_for_event("pool.ready");
    for incarnation in 1..=2 {
        let victim = up
            .named("worker.ready")
            .find(|event| event["worker"] == "p/1" && event["incarnation"] == incarnation)
            .unwrap()
            .clone();
        send(pid_of(&victim), Signal::SIGKILL);
        up.wait_for("the replacement", SOON, |event| {
            event["event"] == "worker.ready" && event["incarnation"] == incarnation + 1
        });
    }
    let cpu = |received: &Received| points(received, metric::CPU_TIME, attribute::WORKER);
    let received = receiver.wait_for("a complete export", SOON, |received| {
        at(received, metric::WORKERS, attribute::STATE, "ready") == 3.0
            && sum(received, metric::RESTARTS) == 2
            && cpu(received).len() == 3
            // Three incarnations, two of them dead, used 300 ms each.
            && at(received, metric::CPU_TIME, attribute::WORKER, "p/1") >= 0.8
    });
    assert_eq!(at(&received, metric::RESTARTS, attribute::REASON, "killed"), 2.0);
    assert_eq!(sum(&received, metric::FAILURES), 2);
    assert_eq!(sum(&received, metric::TABLE_SIZE), 3);
    assert_eq!(
        at(&received, metric::INTENSITY_USED, attribute::POOL, "p"),
        0.5,
        "two of four"
    );
    assert_eq!(sum(&received, metric::STARTS_WAITING), 0);
    assert_eq!(sum(&received, metric::START_DURATION), 5, "as many starts became ready");
    assert_eq!(sum(&received, metric::RELEASE_DURATION), 2);
    for (worker, bytes) in points(&received, metric::MEMORY, attribute::WORKER) {
        // Two processes per worker.
        assert!(bytes > 200_000.0, "{worker} {bytes}");
    }
    up.stop_cleanly();
    let received = receiver.received();
    assert_eq!(sum(&received, metric::STOP_DURATION), 3);
    assert_eq!(sum(&received, metric::RELEASE_DURATION), 5);
    assert_eq!(sum(&received, metric::CLEANUP_SUCCESS), 1);
}

#[test]
fn queued_starts_are_counted() {
    let receiver = Receiver::grpc();
    let keys = "workers = 5\nmax_starting = 2\nready = { after = \"1h\" }\nstart_timeout = \"0s\"";
    let mut up = up(&receiver, |tag| pool("sleep", tag, keys));
    receiver.wait_for("three queued starts", SOON, |received| {
        at(received, metric::STARTS_WAITING, attribute::POOL, "p") == 3.0
            && at(received, metric::WORKERS, attribute::STATE, "waiting") == 3.0
            && at(received, metric::WORKERS, attribute::STATE, "spawned") == 2.0
    });
    up.stop_cleanly();
}

#[test]
fn lost_guardian_is_counted() {
    let receiver = Receiver::grpc();
    let mut up = up(&receiver, |tag| pool("sleep", tag, ""));
    let ready = up.wait_for_event("worker.ready");
    let sitter = ostler_tests::scene::parent(pid_of(&ready));
    send(ostler_tests::scene::parent(sitter), Signal::SIGKILL);
    up.wait_for("the replacement", SOON, |event| {
        event["event"] == "worker.ready" && event["incarnation"].as_u64() >= Some(2)
    });
    up.stop_cleanly();
    assert_eq!(sum(&receiver.received(), metric::GUARDIAN_RESTARTS), 1);
}

#[test]
fn audit_findings_are_counted_by_kind() {
    let receiver = Receiver::grpc();
    let mut up = Up::start_with(
        |tag| pool("sleep", tag, ""),
        |command| {
            audited(command);
            to(&receiver)(command);
        },
    );
    let ready = up.wait_for_event("worker.ready");
    let guardian = ostler_tests::scene::parent(ostler_tests::scene::parent(pid_of(&ready)));
    let Some(tracer) = ostler_tests::tracer::Tracer::of(guardian.cast_signed()) else {
        return eprintln!("skipped: ptrace is not permitted");
    };
    let found = |received: &Received, kind| at(received, metric::DISAGREEMENTS, attribute::DISAGREEMENT, kind);
    // On a busy machine the audit may find others as well.
    receiver.wait_for("a finding", SOON, |received| found(received, "guardian_silent") >= 1.0);
    drop(tracer);
    up.stop_cleanly();
}
