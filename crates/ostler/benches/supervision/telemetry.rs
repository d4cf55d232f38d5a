//! What telemetry costs: the same restarts and starts without it, with a receiver that accepts
//! everything, and with one that hangs.
//!
//! Needs the feature `otlp`. Each measurement runs in its own process, because a `tracing`
//! subscriber cannot be replaced. The three variants take turns within a round.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ostler::otlp::{Protocol, Settings, Telemetry};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::ours::Ours;
use crate::pools::{median, milliseconds};
use crate::report::{Bound, Measure, Report};
use crate::worker::Worker;
use crate::{Scale, children};

/// The argument of a process that takes a single measurement, followed by the numbers of workers
/// and restarts, and optionally by the receiver's address.
pub(crate) const MEASURE: &str = "--telemetry-measure";
/// The argument of the receiver's process, followed by whether it answers.
pub(crate) const RECEIVE: &str = "--telemetry-receive";

/// Restarts per measurement.
const RESTARTS: u32 = 200;
/// The number of workers started and stopped at a time.
const WORKERS: u32 = 1_000;
/// The maximum cost of telemetry: 10 %.
const BOUND: f64 = 1.1;

/// What a measurement prints, in milliseconds, for each receiver.
const WHAT: [[&str; 3]; 2] = [
    [
        "restart, receiver works",
        "start, receiver works",
        "stop, receiver works",
    ],
    [
        "restart, receiver hangs",
        "start, receiver hangs",
        "stop, receiver hangs",
    ],
];

pub(crate) fn run(scale: Scale, report: &mut Report) {
    let (workers, restarts) = scale.pick((WORKERS, RESTARTS), (20, 2));
    let receivers = ["answer", "hang"].map(Receiver::start);
    let measure = |what| {
        Measure::new(what, workers)
            .baseline("without")
            .bound(Bound::Ratio(BOUND))
    };
    let mut measures = WHAT.map(|what| what.map(measure));
    for _ in 0..scale.rounds {
        let without = measured(workers, restarts, None);
        for (receiver, measures) in receivers.iter().zip(&mut measures) {
            let with = measured(workers, restarts, Some(&receiver.address));
            for ((measure, without), with) in measures.iter_mut().zip(&without).zip(with) {
                measure.add(*without, with);
            }
        }
    }
    report.take("telemetry", measures.as_flattened());
}

/// Takes one measurement in a separate process: milliseconds of a restart, of the start and of the
/// stop.
fn measured(workers: u32, restarts: u32, receiver: Option<&str>) -> Vec<f64> {
    let (workers, restarts) = (workers.to_string(), restarts.to_string());
    let mut arguments = vec![workers.as_str(), &restarts];
    arguments.extend(receiver);
    children::numbers(MEASURE, &arguments)
}

/// A single measurement.
pub(crate) fn measure(arguments: &[String]) {
    let [workers, restarts, receiver @ ..] = arguments else {
        panic!("WORKERS RESTARTS [RECEIVER]");
    };
    let count = |text: &String| text.parse().expect("a count");
    ostler::limits::raise_descriptors().expect("raising the soft limit on descriptors");
    let telemetry = receiver.first().map(|address| start(address));
    let worker = Worker::build();
    let ours = Ours::start_with(&worker, |builder| match &telemetry {
        Some(telemetry) => builder.observer(telemetry.clone()),
        None => builder,
    });
    // Warms up, so that one-time allocations are not measured.
    ours.measure(count(workers) / 10, 0);
    let restart = median(&ours.measure(1, count(restarts)).restarts);
    let times = ours.measure(count(workers), 0);
    children::print([restart, milliseconds(times.start), milliseconds(times.stop.released)]);
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
