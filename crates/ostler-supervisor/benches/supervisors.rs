//! What supervision costs per child in time and memory, compared with ractor's bare `spawn_linked`,
//! and that it grows linearly.
//!
//! `cargo bench -p ostler-supervisor --bench supervisors`. Each figure is measured in its own
//! process, so that no run is affected by the one before. Without `--bench`, which `cargo bench`
//! passes, everything runs once at a small size and nothing is timed: a check for CI.

use std::fs::File;
use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use ostler_supervisor::{ChildSpec, DynamicSupervisor, Supervisor, SupervisorOptions};
use ractor::{Actor, ActorProcessingErr, ActorRef};

/// Bare `spawn_linked`; the initial children of a supervisor; children added one after another,
/// each awaited; children added all at once.
const KINDS: [&str; 4] = ["bare", "supervisor", "dynamic", "dynamic, all"];
const COUNTS: [usize; 3] = [1_000, 10_000, 100_000];
/// The kinds take turns in each of this many rounds; the median of the ratios counts.
const ROUNDS: usize = 5;
/// The number of children in a check, and in a measurement's warm-up.
const FEW: usize = 100;
/// The most that starting and stopping one of this many children may cost, as times a bare one.
const BOUND: (usize, f64) = (100_000, 2.0);

/// A minimal child.
struct Idle;

struct Nothing;

#[cfg(feature = "cluster")]
impl ractor::Message for Nothing {}

impl Actor for Idle {
    type Msg = Nothing;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Nothing>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Nothing>,
        _: ractor::SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

/// Costs per child.
#[derive(Clone, Copy)]
struct Cost {
    start: f64,
    stop: f64,
    bytes: f64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, flag, kind, count] = arguments.as_slice()
        && flag == "--measure"
    {
        return measure(kind, count.parse().expect("number of children"));
    }
    if !arguments.iter().any(|argument| argument == "--bench") {
        for kind in KINDS {
            let cost = measure_in_own_process(kind, FEW);
            assert!(cost.start > 0.0 && cost.stop > 0.0, "{kind} took no time");
        }
        return println!("supervisors: works");
    }
    let results = arguments.iter().position(|argument| argument == "--results");
    let mut results = results.map(|at| File::create(&arguments[at + 1]).expect("creating the file for the results"));
    println!(
        "{:<12}{:>9}{:>12}{:>12}{:>12}{:>24}",
        "", "children", "start µs", "stop µs", "bytes", "× bare: start stop bytes"
    );
    for count in COUNTS {
        let rounds: Vec<[Cost; KINDS.len()]> = (0..ROUNDS)
            .map(|_| KINDS.map(|kind| measure_in_own_process(kind, count)))
            .collect();
        for (at, kind) in KINDS.into_iter().enumerate() {
            let measured = Measured {
                kind,
                count,
                bare: rounds.iter().map(|round| round[0]).collect(),
                ours: rounds.iter().map(|round| round[at]).collect(),
            };
            println!("{}", measured.line());
            if let Some(file) = results.as_mut().filter(|_| at > 0) {
                write!(file, "{}", measured.json()).expect("writing the results");
            }
        }
    }
}

/// One of the costs.
type Part = fn(&Cost) -> f64;

const PARTS: [(&str, &str, Part); 3] = [
    ("start", "µs", |cost| cost.start),
    ("stop", "µs", |cost| cost.stop),
    ("memory", "bytes", |cost| cost.bytes),
];

/// What one kind costs at one size, beside the bare one of the same round.
struct Measured {
    kind: &'static str,
    count: usize,
    bare: Vec<Cost>,
    ours: Vec<Cost>,
}

impl Measured {
    fn line(&self) -> String {
        let parts = PARTS.map(|(_, _, part)| part);
        let [start, stop, bytes] = parts.map(|part| median(self.ours.iter().map(part)));
        let rounds = || self.ours.iter().zip(&self.bare);
        let ratio = |part: Part| median(rounds().map(|(ours, bare)| part(ours) / part(bare)));
        let [of_start, of_stop, of_bytes] = parts.map(ratio);
        format!(
            "{:<12}{:>9}{start:>12.2}{stop:>12.2}{bytes:>12.0}{of_start:>14.2} {of_stop:.2} {of_bytes:.2}",
            self.kind, self.count
        )
    }

    /// The lines for `cargo xtask bench`.
    fn json(&self) -> String {
        let Self { kind, count, .. } = self;
        let line = |(what, unit, part): (&str, &str, Part)| {
            let bound = match *count == BOUND.0 && unit == "µs" {
                true => format!(",\"most_ratio\":{}", BOUND.1),
                false => String::new(),
            };
            let values = |costs: &[Cost]| costs.iter().map(part).collect::<Vec<f64>>();
            let (base, ours) = (values(&self.bare), values(&self.ours));
            format!(
                "{{\"subject\":\"supervisors\",\"what\":\"{kind}: {what}\",\"workers\":{count},\"unit\":\"{unit}\",\"baseline\":\"spawn_linked\",\"base\":{base:?},\"ours\":{ours:?}{bound}}}\n"
            )
        };
        PARTS.map(line).concat()
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn measure_in_own_process(kind: &str, count: usize) -> Cost {
    let program = std::env::current_exe().expect("path of this program");
    let output = Command::new(program)
        .args(["--measure", kind, &count.to_string()])
        .output()
        .expect("running this program");
    let text = String::from_utf8(output.stdout).expect("UTF-8 output");
    let figures: Vec<f64> = text
        .split_whitespace()
        .map(|figure| figure.parse().expect("number"))
        .collect();
    let [start, stop, bytes] = figures[..] else {
        panic!("expected three figures, got {text:?}")
    };
    Cost { start, stop, bytes }
}

fn measure(kind: &str, count: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("tokio runtime");
    let kind = kind.to_owned();
    // On a worker thread of the runtime, where actors run; the main thread would have to be woken
    // for each reply.
    let measured = runtime.spawn(async move {
        // Warms up, so that one-time setup is not measured.
        run(&kind, FEW).await;
        run(&kind, count).await
    });
    let (start, stop, bytes) = runtime.block_on(measured).expect("measuring task");
    let each = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
    println!("{} {} {}", each(start), each(stop), bytes / count as f64);
}

async fn run(kind: &str, count: usize) -> (Duration, Duration, f64) {
    match kind {
        "bare" => bare(count).await,
        "supervisor" => supervisor(count).await,
        "dynamic" => dynamic(count, 1).await,
        _ => dynamic(count, count).await,
    }
}

async fn bare(count: usize) -> (Duration, Duration, f64) {
    let (parent, _) = Actor::spawn(None, Idle, ()).await.expect("spawning the parent");
    let (memory, before) = (resident(), Instant::now());
    for _ in 0..count {
        Actor::spawn_linked(None, Idle, (), parent.get_cell())
            .await
            .expect("spawning a child");
    }
    let (start, bytes) = (before.elapsed(), resident() - memory);
    let before = Instant::now();
    parent.stop_children_and_wait(None, None).await;
    (start, before.elapsed(), bytes)
}

fn child() -> ChildSpec {
    ChildSpec::actor("child", || (Idle, ()))
}

async fn supervisor(count: usize) -> (Duration, Duration, f64) {
    let (memory, before) = (resident(), Instant::now());
    let children = (0..count).map(|n| child().with_id(format!("child{n}"))).collect();
    let supervisor = Supervisor::spawn(None, SupervisorOptions::new(), children)
        .await
        .expect("starting the supervisor");
    let (start, bytes) = (before.elapsed(), resident() - memory);
    let before = Instant::now();
    supervisor.stop().await;
    (start, before.elapsed(), bytes)
}

async fn dynamic(count: usize, at_once: usize) -> (Duration, Duration, f64) {
    let supervisor = DynamicSupervisor::spawn(None, SupervisorOptions::new())
        .await
        .expect("starting the supervisor");
    let template = child();
    let (memory, before) = (resident(), Instant::now());
    let starts = futures_util::stream::iter(0..count).map(|_| supervisor.start_child(template.clone()));
    starts
        .buffer_unordered(at_once)
        .for_each(|started| async { drop(started.expect("starting a child")) })
        .await;
    let (start, bytes) = (before.elapsed(), resident() - memory);
    let before = Instant::now();
    supervisor.stop().await;
    (start, before.elapsed(), bytes)
}

/// The resident memory of this process, in bytes.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("reading VmRSS");
    let kib: f64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse().ok())
        .expect("number of KiB");
    kib * 1024.0
}
