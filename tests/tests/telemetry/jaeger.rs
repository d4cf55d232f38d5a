//! Runs against a real Jaeger and queries its API for the traces of a run.
//!
//! `OSTLER_JAEGER` is its host, for example `OSTLER_JAEGER=127.0.0.1` (OTLP on 4317, queries on
//! 16686). Without it, the test starts the program `jaeger` (2.x) or `jaeger-all-in-one` (1.x) from
//! the PATH, or is skipped with a message if there is neither.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ostler_telemetry::names::span;
use ostler_tests::{Up, pid_of, send};
use serde_json::Value;

use crate::pool;

/// Jaeger takes a while to start.
const STARTUP: Duration = Duration::from_secs(60);

struct Jaeger {
    host: String,
    _child: Option<KillOnDrop>,
}

/// A process that is killed on drop.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A running Jaeger, or one that can be started.
fn jaeger() -> Option<Jaeger> {
    if let Ok(host) = std::env::var("OSTLER_JAEGER") {
        return Some(Jaeger { host, _child: None });
    }
    let start = |program: &str| {
        let mut command = Command::new(program);
        command.env("COLLECTOR_OTLP_ENABLED", "true");
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
    };
    let child = start("jaeger").or_else(|| start("jaeger-all-in-one"))?;
    Some(Jaeger {
        host: "127.0.0.1".to_owned(),
        _child: Some(KillOnDrop(child)),
    })
}

impl Jaeger {
    fn get(&self, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect((self.host.as_str(), 16686)).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.host).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    /// Queries until the answer matches.
    fn ask(&self, what: &str, path: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + STARTUP;
        loop {
            if let Some(answer) = self.get(path).filter(&fits) {
                return answer;
            }
            assert!(Instant::now() < deadline, "no {what} from Jaeger at {}", self.host);
            std::thread::yield_now();
        }
    }
}

fn spans(answer: &Value) -> impl Iterator<Item = &Value> {
    let traces = answer["data"].as_array().into_iter().flatten();
    traces.flat_map(|trace| trace["spans"].as_array().into_iter().flatten())
}

#[test]
fn jaeger_shows_a_restart_that_references_the_exit() {
    let Some(jaeger) = jaeger() else {
        println!("skipped: no Jaeger; set OSTLER_JAEGER to its host, or put jaeger or jaeger-all-in-one on the PATH");
        return;
    };
    jaeger.ask("list of services", "/api/services", |answer| {
        answer["data"].is_array() || answer["data"].is_null()
    });
    let service = format!("ostler-test-{}", std::process::id());
    let mut up = Up::start_with(
        |tag| pool("sleep", tag, ""),
        |command| {
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}:4317", jaeger.host));
            command.env("OTEL_SERVICE_NAME", &service);
            // Jaeger only accepts traces.
            command
                .env("OTEL_METRICS_EXPORTER", "none")
                .env("OTEL_LOGS_EXPORTER", "none");
        },
    );
    let first = up.wait_for_event("worker.ready");
    send(pid_of(&first), Signal::SIGKILL);
    up.wait_for_event("worker.ready");
    up.stop_cleanly();
    let path = format!("/api/traces?service={service}&limit=100");
    let answer = jaeger.ask("two starts and two stops", &path, |answer| {
        let of = |name| spans(answer).filter(|span| span["operationName"] == name).count();
        of(span::WORKER_START) == 2 && of(span::WORKER_STOP) == 2
    });
    let named = |name: &'static str| spans(&answer).filter(move |span| span["operationName"] == name);
    let exits: Vec<&Value> = named(span::WORKER_STOP).map(|span| &span["spanID"]).collect();
    let references = named(span::WORKER_START).flat_map(|span| span["references"].as_array().into_iter().flatten());
    let follows: Vec<&Value> = references
        .filter(|reference| reference["refType"] == "FOLLOWS_FROM")
        .collect();
    assert_eq!(follows.len(), 1, "the restart references the exit: {answer}");
    assert!(exits.contains(&&follows[0]["spanID"]));
    assert!(named(span::RECORD).count() == 2 && named(span::SPAWN).count() == 2);
}
