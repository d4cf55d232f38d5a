//! Telemetry as a receiver sees it, over gRPC and HTTP: traces, metrics, log records, and failing
//! receivers.

mod failing;
mod history;
mod jaeger;
mod metrics;
mod output;
mod python;
mod traces;

use std::process::Command;

use ostler_tests::receiver::Receiver;
use ostler_tests::{Up, worker};

/// A pool `p` of test workers with these modes and additional keys.
fn pool(modes: &str, tag: &str, keys: &str) -> String {
    format!("[pool.p]\ncommand = {}\n{keys}\n", worker(modes, tag))
}

/// Makes the command send everything to this receiver without delay.
fn to(receiver: &Receiver) -> impl FnOnce(&mut Command) {
    let endpoint = receiver.endpoint();
    move |command| {
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
        command.env("OTEL_BSP_SCHEDULE_DELAY", "100");
        command.env("OTEL_BLRP_SCHEDULE_DELAY", "100");
        command.env("OTEL_METRIC_EXPORT_INTERVAL", "300");
    }
}

/// Starts a run with these pools that sends everything to this receiver.
fn up(receiver: &Receiver, pools: impl FnOnce(&str) -> String) -> Up {
    Up::start_with(pools, to(receiver))
}
