//! What supervision costs a child, in time and memory, beside ractor's bare `spawn_linked`, and that it grows linearly.
//!
//! `cargo bench -p ostler-supervisor --bench supervisors`. Each figure is measured in a process of its own,
//! so that no run pays for the one before.

use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use ostler_supervisor::{ChildSpec, DynamicSupervisor, Supervisor, SupervisorOptions};
use ractor::{Actor, ActorProcessingErr, ActorRef};

/// Bare `spawn_linked`; the first children of a supervisor; children added one after the other, each awaited; and added all at once.
const KINDS: [&str; 4] = ["bare", "supervisor", "dynamic", "dynamic, all"];
const COUNTS: [usize; 3] = [1_000, 10_000, 100_000];
/// The best of so many counts: what is added by other work on the machine is no cost of ours.
const ROUNDS: usize = 3;

/// The child: as little as can be.
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

/// A figure a child.
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
        return measure(kind, count.parse().expect("a count"));
    }
    println!(
        "{:<12}{:>9}{:>12}{:>12}{:>12}{:>24}",
        "", "children", "start µs", "stop µs", "bytes", "× bare: start stop bytes"
    );
    for count in COUNTS {
        let costs = KINDS.map(|kind| best(kind, count));
        let bare = costs[0];
        for (kind, cost) in KINDS.into_iter().zip(costs) {
            let ratios = [cost.start / bare.start, cost.stop / bare.stop, cost.bytes / bare.bytes];
            let [start, stop, bytes] = ratios.map(|ratio| format!("{ratio:.2}"));
            println!(
                "{kind:<12}{count:>9}{:>12.2}{:>12.2}{:>12.0}{start:>14} {stop} {bytes}",
                cost.start, cost.stop, cost.bytes
            );
        }
    }
}

fn best(kind: &str, count: usize) -> Cost {
    let rounds = (0..ROUNDS).map(|_| in_a_process_of_its_own(kind, count));
    let least = |one: Cost, other: Cost| Cost {
        start: one.start.min(other.start),
        stop: one.stop.min(other.stop),
        bytes: one.bytes.min(other.bytes),
    };
    rounds.reduce(least).expect("there is a round")
}

fn in_a_process_of_its_own(kind: &str, count: usize) -> Cost {
    let program = std::env::current_exe().expect("we are a program");
    let output = Command::new(program)
        .args(["--measure", kind, &count.to_string()])
        .output()
        .expect("it runs");
    let text = String::from_utf8(output.stdout).expect("it prints figures");
    let figures: Vec<f64> = text
        .split_whitespace()
        .map(|figure| figure.parse().expect("a figure"))
        .collect();
    let [start, stop, bytes] = figures[..] else {
        panic!("three figures, not {text:?}")
    };
    Cost { start, stop, bytes }
}

fn measure(kind: &str, count: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let kind = kind.to_owned();
    // On a worker of the runtime, where actors live: its main thread would have to be woken for each reply.
    let measured = runtime.spawn(async move {
        // Once before, so that what is set up once isn't counted.
        run(&kind, 100).await;
        run(&kind, count).await
    });
    let (start, stop, bytes) = runtime.block_on(measured).expect("it doesn't panic");
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
    let (parent, _) = Actor::spawn(None, Idle, ()).await.expect("it starts");
    let (memory, before) = (resident(), Instant::now());
    for _ in 0..count {
        Actor::spawn_linked(None, Idle, (), parent.get_cell())
            .await
            .expect("it starts");
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
        .expect("it starts");
    let (start, bytes) = (before.elapsed(), resident() - memory);
    let before = Instant::now();
    supervisor.stop().await;
    (start, before.elapsed(), bytes)
}

async fn dynamic(count: usize, at_once: usize) -> (Duration, Duration, f64) {
    let supervisor = DynamicSupervisor::spawn(None, SupervisorOptions::new())
        .await
        .expect("it starts");
    let template = child();
    let (memory, before) = (resident(), Instant::now());
    let starts = futures_util::stream::iter(0..count).map(|_| supervisor.start_child(template.clone()));
    starts
        .buffer_unordered(at_once)
        .for_each(|started| async { drop(started.expect("it starts")) })
        .await;
    let (start, bytes) = (before.elapsed(), resident() - memory);
    let before = Instant::now();
    supervisor.stop().await;
    (start, before.elapsed(), bytes)
}

/// Memory of this process, in bytes.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("it has memory");
    let kib: f64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse().ok())
        .expect("in KiB");
    kib * 1024.0
}
