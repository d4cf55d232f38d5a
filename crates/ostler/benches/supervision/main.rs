//! Compares Ostler with the floor in one run: restart, start and stop of many workers, memory per
//! worker.
//!
//! `cargo bench -p ostler --no-default-features --features redb [-- ROUNDS]` (see
//! docs/performance.md). The floor is what the kernel takes for the same work: `posix_spawn` and
//! `waitpid` of the same program. Both take turns within a round. The output has medians over the
//! rounds with their extremes, and whether the bounds are met.

mod figures;
mod floor;
mod machine;
mod memory;
mod ours;
#[cfg(feature = "otlp")]
mod telemetry;
mod worker;

use figures::{Measure, median_ms, milliseconds, verdict};
use ours::Ours;
use worker::Worker;

/// The default number of rounds.
const ROUNDS: usize = 7;
/// Restarts per round, of each side.
const RESTARTS: u32 = 50;
/// How many workers are started and stopped at a time.
const SIZES: [u32; 2] = [200, 1_000];
/// The number of workers in the memory measurement.
const MEMORY_WORKERS: u32 = 1_000;

/// Bounds: ratios to the floor, and KiB per worker.
const RESTART_BOUND: f64 = 2.5;
const START_STOP_BOUND: f64 = 3.0;
const MEMORY_BOUND: f64 = 40.0;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((first, rest)) if first == floor::ARGUMENT => floor::run(rest),
        #[cfg(feature = "otlp")]
        Some((first, rest)) if first == telemetry::MEASURE => telemetry::measure(rest),
        #[cfg(feature = "otlp")]
        Some((first, rest)) if first == telemetry::RECEIVE => telemetry::receive(rest),
        #[cfg(feature = "otlp")]
        Some(_) if arguments.iter().any(|argument| argument == telemetry::ARGUMENT) => {
            telemetry::compare(rounds(&arguments))
        }
        _ => compare(rounds(&arguments)),
    }
}

/// The number of rounds from the command line. `cargo bench` itself passes `--bench`.
fn rounds(arguments: &[String]) -> usize {
    let number = arguments.iter().find_map(|argument| argument.parse().ok());
    number.unwrap_or(ROUNDS)
}

fn compare(rounds: usize) {
    ostler::limits::raise_descriptors().expect("raising the soft limit on descriptors");
    machine::print_facts();
    machine::print_load("before");
    let worker = Worker::build();
    let ours = Ours::start(&worker);

    // Memory first, while the host is small.
    let memory = ours.memory(MEMORY_WORKERS);

    let mut restart = Measure::new("restart", Some(RESTART_BOUND));
    let mut pools = SIZES.map(PoolMeasures::new);
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        restart.add(
            median_ms(&floor::restarts(&worker, RESTARTS)),
            median_ms(&ours.restarts(RESTARTS)),
        );
        for pool in &mut pools {
            pool.round(&worker, &ours);
        }
    }
    ours.end();

    println!("{rounds} rounds, {RESTARTS} restarts each; medians (lowest–highest)\n");
    figures::print_head();
    restart.print();
    for pool in &pools {
        pool.print();
    }
    let each = memory::kibibytes(memory.total()) / f64::from(MEMORY_WORKERS);
    println!(
        "\nmemory per worker, of {MEMORY_WORKERS}: {each:.1} KiB PSS; {}",
        verdict(each, Some(MEMORY_BOUND))
    );
    println!("  {}", memory.describe(MEMORY_WORKERS));
    machine::print_load("after");
}

/// The measures of starting and stopping a pool of one size.
struct PoolMeasures {
    workers: u32,
    start: Measure,
    gone: Measure,
    stop: Measure,
    both: Measure,
    sitters_gone: Measure,
}

impl PoolMeasures {
    fn new(workers: u32) -> Self {
        let bound = (workers == 1_000).then_some(START_STOP_BOUND);
        Self {
            workers,
            start: Measure::new(format!("start {workers}"), bound),
            gone: Measure::new(format!("stop {workers}, workers gone"), bound),
            stop: Measure::new(format!("stop {workers}, release confirmed"), None),
            both: Measure::new(format!("start and stop {workers}"), bound),
            sitters_gone: Measure::new(format!("stop {workers}, sitters gone"), None),
        }
    }

    fn round(&mut self, worker: &Worker, ours: &Ours<'_>) {
        let (floor_start, floor_stop) = floor::start_and_stop(worker, self.workers);
        let (floor_start, floor_stop) = (milliseconds(floor_start), milliseconds(floor_stop));
        let times = ours.start_and_stop(self.workers);
        let (start, stop) = (milliseconds(times.started), milliseconds(times.stop.released));
        self.start.add(floor_start, start);
        self.gone.add(floor_stop, milliseconds(times.stop.workers_gone));
        self.stop.add(floor_stop, stop);
        self.both.add(floor_start + floor_stop, start + stop);
        self.sitters_gone.add(floor_stop, milliseconds(times.stop.sitters_gone));
    }

    fn print(&self) {
        for measure in [&self.start, &self.gone, &self.stop, &self.both, &self.sitters_gone] {
            measure.print();
        }
    }
}
