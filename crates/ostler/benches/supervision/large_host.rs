//! Spawning from a host with much memory in use. A fork of the host would copy its page tables;
//! Ostler's guardian is a small process of its own.

use crate::ours::Ours;
use crate::pools::median;
use crate::report::{Bound, Measure, Report};
use crate::worker::Worker;
use crate::{Scale, children};

/// The process that measures it.
pub(crate) const ROLE: &str = "--large-host";

/// The memory in use, in MiB: 4 GiB.
const BALLAST: u32 = 4_096;
const RESTARTS: u32 = 50;
const START: u32 = 100;
const BOUND: f64 = 1.1;

pub(crate) fn run(scale: Scale, report: &mut Report) {
    let (ballast, restarts) = scale.pick((BALLAST, RESTARTS), (16, 2));
    let measure = |what, workers| {
        Measure::new(what, workers)
            .baseline("small host")
            .bound(Bound::Ratio(BOUND))
    };
    let mut measures = [
        measure("restart, host with 4 GiB", 0),
        measure("start, host with 4 GiB", START),
    ];
    for _ in 0..scale.rounds {
        let [small, large] = [0, ballast].map(|ballast| {
            let arguments = [ballast.to_string(), restarts.to_string()];
            children::numbers::<f64>(ROLE, &[&arguments[0], &arguments[1]])
        });
        for ((measure, small), large) in measures.iter_mut().zip(small).zip(large) {
            measure.add(small, large);
        }
    }
    report.take("large_host", &measures);
}

/// Prints the milliseconds of a restart and of the start of a pool.
pub(crate) fn role(arguments: &[String]) {
    let [ballast, restarts] = [0, 1].map(|at| arguments[at].parse::<u32>().expect("a number"));
    // Every page is written to, so that it is in use.
    let ballast = vec![1_u8; ballast as usize * 1024 * 1024];
    let worker = Worker::build();
    let ours = Ours::start(&worker);
    let restart = median(&ours.measure(1, restarts).restarts);
    let start = median(&[ours.measure(START, 0).start]);
    ours.end();
    drop(std::hint::black_box(ballast));
    children::print([restart, start]);
}
