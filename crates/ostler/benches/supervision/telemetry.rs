//! What telemetry costs: the same restarts and starts without it, with a receiver that accepts
//! everything, and with one that hangs.
//!
//! `cargo bench -p ostler --no-default-features --features redb,otlp --bench supervision --
//! telemetry [ROUNDS]`. Each measurement runs in its own process, because a `tracing` subscriber
//! cannot be replaced. The three variants take turns within a round.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ostler::otlp::{Protocol, Settings, Telemetry};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::figures::{Measure, median_ms, milliseconds, print_head_of};
use crate::machine;
use crate::ours::Ours;
use crate::worker::Worker;

/// The argument that selects this benchmark.
pub(crate) const ARGUMENT: &str = "telemetry";
/// The argument of a process that takes a single measurement, optionally followed by the receiver's
/// address.
pub(crate) const MEASURE: &str = "--telemetry-measure";
/// The argument of the receiver's process, followed by whether it answers.
pub(crate) const RECEIVE: &str = "--telemetry-receive";

/// Restarts per measurement.
const RESTARTS: u32 = 200;
/// The number of workers started and stopped at a time.
const WORKERS: u32 = 1_000;
/// The maximum cost of telemetry: 10 %.
const BOUND: f64 = 1.1;

/// The result of a measurement: milliseconds of a restart, of the start and of the stop.
type Times = [f64; 3];

pub(crate) fn compare(rounds: usize) {
    machine::print_facts();
    machine::print_load("before");
    let receivers = [Receiver::start("answer"), Receiver::start("hang")];
    let names = ["a working receiver", "a receiver that hangs"];
    let what = ["restart", "start 1000", "stop 1000"];
    let measure = |name| what.map(|what| Measure::new(format!("{what}, {name}"), Some(BOUND)));
    let mut measures = names.map(measure);
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        let without = measured(None);
        for (receiver, measures) in receivers.iter().zip(&mut measures) {
            let with = measured(Some(&receiver.address));
            for ((measure, without), with) in measures.iter_mut().zip(without).zip(with) {
                measure.add(without, with);
            }
        }
    }
    println!("{rounds} rounds, {RESTARTS} restarts each; medians (lowest–highest)\n");
    print_head_of("without, ms", "with, ms", "times");
    for measure in measures.iter().flatten() {
        measure.print();
    }
    machine::print_load("after");
}

/// Takes one measurement in a separate process.
fn measured(receiver: Option<&str>) -> Times {
    let mut command = Command::new(std::env::current_exe().expect("path of this program"));
    let output = command.arg(MEASURE).args(receiver).stderr(Stdio::inherit()).output();
    let output = output.expect("running this program");
    assert!(output.status.success(), "measurement failed");
    let text = String::from_utf8(output.stdout).expect("numbers");
    let times: Vec<f64> = text
        .split_whitespace()
        .map(|field| field.parse().expect("number"))
        .collect();
    times.try_into().expect("three numbers")
}

/// A single measurement.
pub(crate) fn measure(arguments: &[String]) {
    ostler::limits::raise_descriptors().expect("raising the soft limit on descriptors");
    let telemetry = arguments.first().map(|address| start(address));
    let worker = Worker::build();
    let ours = Ours::start_with(&worker, |builder| match &telemetry {
        Some(telemetry) => builder.observer(telemetry.clone()),
        None => builder,
    });
    // Warms up, so that one-time allocations are not measured.
    ours.start_and_stop(100);
    let restart = median_ms(&ours.restarts(RESTARTS));
    let times = ours.start_and_stop(WORKERS);
    println!(
        "{restart} {} {}",
        milliseconds(times.started),
        milliseconds(times.stop.released)
    );
    ours.end();
    if let Some(telemetry) = telemetry {
        eprintln!("undelivered: {}", telemetry.shutdown(Duration::from_secs(1)));
    }
}

fn start(address: &str) -> Telemetry {
    let settings = Settings {
        endpoint: Some(format!("http://{address}")),
        protocol: Protocol::Http,
        ..Settings::default()
    };
    let telemetry = Telemetry::start(&settings).expect("valid settings");
    let telemetry = telemetry.expect("telemetry is not disabled");
    tracing_subscriber::registry().with(telemetry.layer()).init();
    telemetry
}

/// A receiving process, separate like a collector.
struct Receiver {
    child: Child,
    address: String,
}

impl Receiver {
    fn start(how: &str) -> Self {
        let program = std::env::current_exe().expect("path of this program");
        let mut command = Command::new(program);
        let mut child = command
            .args([RECEIVE, how])
            .stdout(Stdio::piped())
            .spawn()
            .expect("running this program");
        let mut address = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped stdout"));
        stdout.read_line(&mut address).expect("reading the address");
        Self {
            child,
            address: address.trim().to_owned(),
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Answers every HTTP request with success, or never answers.
pub(crate) fn receive(arguments: &[String]) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("free port");
    println!("{}", listener.local_addr().expect("local address"));
    let mut held = Vec::new();
    for stream in listener.incoming().flatten() {
        if arguments.first().is_some_and(|how| how == "answer") {
            std::thread::spawn(move || answer(stream));
        } else {
            held.push(stream);
        }
    }
}

/// Handles requests until the connection ends.
fn answer(stream: TcpStream) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if !matches!(reader.read_line(&mut line), Ok(1..)) {
                return;
            }
            let line = line.trim().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().expect("content length");
            }
            if line.is_empty() {
                break;
            }
        }
        let taken = std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink());
        let said = reader
            .get_mut()
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        if taken.is_err() || said.is_err() {
            return;
        }
    }
}
