//! Reconstructs a run with twenty workers, a hundred kills and a pool that gives up from what the
//! receiver got.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nix::sys::signal::Signal;
use ostler_telemetry::names::{attribute, span};
use ostler_tests::receiver::{Received, Receiver, attribute as of};
use ostler_tests::{pid_of, send, worker};
use serde_json::Value;

use crate::up;

const WORKERS: usize = 20;
const KILLS: usize = 100;
const LONG: Duration = Duration::from_secs(120);

/// One transition: its number, name, subject and reason.
type Line = (u64, String, String, String, String);

fn of_file(event: &Value) -> Line {
    let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
    let about = if text("worker").is_empty() {
        text("pool")
    } else {
        text("worker")
    };
    let incarnation = event["incarnation"]
        .as_u64()
        .map(|number| number.to_string())
        .unwrap_or_default();
    (
        event["seq"].as_u64().unwrap(),
        format!("ostler.{}", text("event")),
        about,
        incarnation,
        text("reason"),
    )
}

fn of_records(received: &Received) -> Vec<Line> {
    let events = received.records.iter().filter(|record| !record.event_name.is_empty());
    let line = |record: &opentelemetry_proto::tonic::logs::v1::LogRecord| {
        let text = |key| of(&record.attributes, key);
        let about = if text(attribute::WORKER).is_empty() {
            text(attribute::POOL)
        } else {
            text(attribute::WORKER)
        };
        (
            text(attribute::SEQ).parse().unwrap(),
            record.event_name.clone(),
            about,
            text(attribute::INCARNATION),
            text(attribute::REASON),
        )
    };
    let mut lines: Vec<Line> = events.map(line).collect();
    lines.sort();
    lines
}

/// The same from the spans alone: the span events of starts and stops, and the spans that represent
/// events.
fn of_spans(received: &Received) -> BTreeSet<(u64, String)> {
    let mut lines = BTreeSet::new();
    for span in &received.spans {
        let mut add = |name: &str, attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue]| {
            if let Ok(seq) = of(attributes, attribute::SEQ).parse() {
                lines.insert((seq, name.to_owned()));
            }
        };
        add(&span.name, &span.attributes);
        for event in &span.events {
            add(&event.name, &event.attributes);
        }
    }
    lines
}

#[test]
fn every_transition_reaches_the_receiver() {
    let receiver = Receiver::grpc();
    let mut up = up(&receiver, |tag| {
        format!(
            "[pool.p]\ncommand = {}\nworkers = {WORKERS}\nintensity = 1000\n[pool.q]\ncommand = {}\nport = \"any\"\nready = {{ http = \"/\" }}\nintensity = 3\n",
            worker("sleep", tag),
            worker("stderr+exit=1", tag)
        )
    });
    let mut pids: BTreeMap<String, u32> = BTreeMap::new();
    let mut killed = 0;
    let mut gave_up = false;
    while killed < KILLS || pids.len() < WORKERS || !gave_up {
        let event = up.wait_for("the next worker", LONG, |event| {
            (event["event"] == "worker.ready" && event["pool"] == "p") || event["event"] == "pool.gave_up"
        });
        if event["event"] == "pool.gave_up" {
            gave_up = true;
            continue;
        }
        pids.insert(event["worker"].as_str().unwrap().to_owned(), pid_of(&event));
        if killed < KILLS {
            pids.remove(event["worker"].as_str().unwrap());
            send(pid_of(&event), Signal::SIGKILL);
            killed += 1;
        }
    }
    up.signal(Signal::SIGTERM);
    let (status, stderr) = up.end(LONG);
    assert_eq!(status.code(), Some(1), "a pool gave up: {stderr}");
    assert!(!stderr.contains("not delivered"), "{stderr}");
    up.assert_nothing_left();

    let received = receiver.received();
    let lines: Vec<Line> = up.seen.iter().map(of_file).collect();
    assert_eq!(of_records(&received), lines, "from the log records alone");
    let spans: BTreeSet<(u64, String)> = lines.iter().map(|(seq, name, ..)| (*seq, name.clone())).collect();
    assert_eq!(of_spans(&received), spans, "from the spans alone");
    let links = received
        .spans_named(span::WORKER_START)
        .filter(|span| !span.links.is_empty())
        .count();
    assert_eq!(
        links,
        KILLS + 3,
        "each restart links to an exit: the kills, and three of the pool that gave up"
    );
    let stops: BTreeSet<_> = received
        .spans_named(span::WORKER_STOP)
        .map(|span| span.span_id.clone())
        .collect();
    for start in received.spans_named(span::WORKER_START) {
        assert!(
            start.links.iter().all(|link| stops.contains(&link.span_id)),
            "{start:#?}"
        );
    }
}
