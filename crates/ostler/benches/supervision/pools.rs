//! Restart, start and stop in pools from 1 to 5,000 workers: what one costs, and how it grows.

use nix::sys::signal::Signal;

use crate::ours::{Ours, PoolTimes};
use crate::report::{Bound, Measure, Report, Spread};
use crate::worker::{Nanos, Worker};
use crate::{Scale, floor};

const SIZES: &[u32] = &[1, 100, 200, 1_000, 5_000];
/// The bounds hold for a single worker's restart and for this many workers' start and stop.
const BOUNDED: u32 = 1_000;
const RESTART_BOUND: f64 = 1.6;
const START_BOUND: f64 = 1.6;
const GONE_BOUND: f64 = 2.0;
const RELEASED_BOUND: f64 = 2.5;
/// Restarts per round and side.
const RESTARTS: u32 = 50;

pub(crate) fn run(scale: Scale, report: &mut Report) {
    let worker = Worker::build();
    let ours = Ours::start(&worker);
    let sizes = scale.pick(SIZES, &[1, 20]);
    let restarts = scale.pick(RESTARTS, 2);
    let mut measures: Vec<Sizes> = sizes.iter().map(|workers| Sizes::new(*workers)).collect();
    for round in 0..scale.rounds {
        eprintln!("pools: round {} of {}", round + 1, scale.rounds);
        for size in &mut measures {
            let measure = |role| floor::measure(role, &worker, size.workers, restarts, Signal::SIGTERM);
            let floor = measure(floor::ROLE);
            #[cfg(feature = "benchmarks")]
            size.add_tokio(&measure(crate::tokio_floor::ROLE));
            size.add(&floor, &ours.measure(size.workers, restarts));
        }
    }
    ours.end();
    let measures: Vec<Measure> = measures
        .into_iter()
        .flat_map(|size| [size.restart, size.start, size.gone, size.released, size.sitters_gone])
        .collect();
    report.take("pools", &measures);
}

/// The measures of pools of one size.
struct Sizes {
    workers: u32,
    restart: Measure,
    start: Measure,
    gone: Measure,
    released: Measure,
    sitters_gone: Measure,
}

impl Sizes {
    fn new(workers: u32) -> Self {
        let bound = |most| (workers == BOUNDED).then_some(Bound::Ratio(most));
        let restart = (workers == 1).then_some(Bound::Ratio(RESTART_BOUND));
        let measure = |what| Measure::new(what, workers);
        Self {
            workers,
            restart: measure("restart").bound(restart),
            start: measure("start").bound(bound(START_BOUND)),
            gone: measure("stop, workers gone").bound(bound(GONE_BOUND)),
            released: measure("stop, release confirmed").bound(bound(RELEASED_BOUND)),
            sitters_gone: measure("stop, sitters gone"),
        }
    }

    fn add(&mut self, floor: &floor::Times, ours: &PoolTimes) {
        self.restart.add(median(&floor.restarts), median(&ours.restarts));
        self.start.add(milliseconds(floor.start), milliseconds(ours.start));
        let stops = [
            (&mut self.gone, ours.stop.workers_gone),
            (&mut self.released, ours.stop.released),
            (&mut self.sitters_gone, ours.stop.sitters_gone),
        ];
        for (measure, time) in stops {
            measure.add(milliseconds(floor.stop), milliseconds(time));
        }
    }

    #[cfg(feature = "benchmarks")]
    fn add_tokio(&mut self, tokio: &floor::Times) {
        self.restart.tokio.push(median(&tokio.restarts));
        self.start.tokio.push(milliseconds(tokio.start));
        for stop in [&mut self.gone, &mut self.released, &mut self.sitters_gone] {
            stop.tokio.push(milliseconds(tokio.stop));
        }
    }
}

/// The median in milliseconds.
pub(crate) fn median(times: &[Nanos]) -> f64 {
    let times: Vec<f64> = times.iter().map(|time| milliseconds(*time)).collect();
    Spread::of(&times).median
}

pub(crate) fn milliseconds(time: Nanos) -> f64 {
    // Far below 2^52, so nothing is lost.
    time as f64 / 1e6
}
