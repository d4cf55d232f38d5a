//! A receiver that hangs and one that does not exist: the run is not affected, and what is lost is
//! reported.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ostler_tests::receiver::Receiver;
use ostler_tests::scene::free_port;
use ostler_tests::{SOON, Up, pid_of, send};

use crate::{pool, to};

/// The limit of the final flush (`FLUSH_LIMIT`). Nothing else waits for the receiver.
const FLUSH: Duration = Duration::from_secs(3);

/// A run with a kill. Returns stderr, and how long the end took.
fn run(change: impl FnOnce(&mut std::process::Command)) -> (String, Duration) {
    let mut up = Up::start_with(|tag| pool("sleep", tag, "workers = 3"), change);
    up.wait_for_event("pool.ready");
    let victim = up.named("worker.ready").next().unwrap().clone();
    send(pid_of(&victim), Signal::SIGKILL);
    up.wait_for("the replacement", SOON, |event| {
        event["event"] == "worker.ready" && event["incarnation"] == 2
    });
    let asked = Instant::now();
    let stderr = up.stop_cleanly();
    (stderr, asked.elapsed())
}

#[test]
fn hanging_receiver_blocks_nothing_and_the_end_is_bounded() {
    let receiver = Receiver::hanging();
    let (stderr, took) = run(to(&receiver));
    assert!(stderr.contains("telemetry that was not delivered"), "{stderr}");
    assert!(took >= FLUSH, "the flush waits for its limit: {took:?}");
    assert!(took < FLUSH + Duration::from_secs(10), "{took:?}");
}

#[test]
fn missing_receiver_blocks_nothing() {
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let (stderr, took) = run(|command| {
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
    });
    assert!(stderr.contains("telemetry that was not delivered"), "{stderr}");
    assert!(took < FLUSH + Duration::from_secs(10), "{took:?}");
}

#[test]
fn second_signal_ends_the_run_in_time_despite_a_hanging_receiver() {
    let receiver = Receiver::hanging();
    let keys = "stop = { grace = \"1h\" }\nready = { line = \"ready\" }";
    let mut up = Up::start_with(|tag| pool("ignore-term+say-out+sleep", tag, keys), to(&receiver));
    up.wait_for_event("pool.ready");
    up.signal(Signal::SIGINT);
    up.wait_for_event("worker.stopping");
    let asked = Instant::now();
    let (status, stderr) = up.insist(Signal::SIGINT, SOON);
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(
        asked.elapsed() < FLUSH + Duration::from_secs(10),
        "{:?}",
        asked.elapsed()
    );
    up.assert_nothing_left();
}

#[test]
fn items_that_exceed_a_queue_are_counted() {
    let receiver = Receiver::hanging();
    let (stderr, _) = run(|command| {
        to(&receiver)(command);
        command.env("OTEL_BSP_MAX_QUEUE_SIZE", "4");
        command.env("OTEL_BSP_SCHEDULE_DELAY", "3600000");
    });
    let spans = stderr
        .split("not delivered: ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .and_then(|number| number.parse::<u32>().ok());
    // Four incarnations with at least eight spans each.
    assert!(spans >= Some(32), "{spans:?} {stderr}");
}

#[test]
fn invalid_variable_is_reported_before_anything_runs() {
    let mut up = Up::start_with(
        |tag| pool("sleep", tag, ""),
        |command| {
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "https://example.invalid:4317");
        },
    );
    let (status, stderr) = up.end(SOON);
    assert_eq!(status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("TLS is not supported"), "{stderr}");
    assert!(up.seen.is_empty());
}
