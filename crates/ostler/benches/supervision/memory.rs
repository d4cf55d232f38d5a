//! The memory of the host, the guardian and the sitters, as the kernel counts it.

use std::fs;

use crate::ours::Ours;
use crate::report::{Bound, Measure, Report};
use crate::worker::Worker;
use crate::{Scale, children as processes};

/// The process that measures it: memory that one pool has freed is reused by the next, so each
/// figure needs a new host.
pub(crate) const ROLE: &str = "--memory";

/// The numbers of workers, and the most KiB that one may need.
const SIZES: &[(u32, Option<f64>)] = &[
    (1, None),
    (100, None),
    (200, Some(32.0)),
    (1_000, Some(24.0)),
    (5_000, None),
];

/// What is measured of each.
const PARTS: [&str; 5] = [
    "memory",
    "memory, host",
    "memory, guardian",
    "memory, sitter",
    "page tables",
];

pub(crate) fn run(scale: Scale, report: &mut Report) {
    let sizes = scale.pick(SIZES, &[(20, None)]);
    let mut measures = Vec::new();
    for (workers, most) in sizes {
        let mut parts = PARTS.map(|part| Measure::new(part, *workers).unit("KiB").baseline(""));
        parts[0].bound = most.map(Bound::Value);
        // It varies little.
        for _ in 0..scale.rounds.min(3) {
            let figures = processes::numbers(ROLE, &[&workers.to_string()]);
            parts
                .iter_mut()
                .zip(figures)
                .for_each(|(part, figure)| part.ours.push(figure));
        }
        measures.extend(parts);
    }
    report.take("memory", &measures);
}

/// Prints the KiB per worker, in the order of [`PARTS`].
pub(crate) fn role(arguments: &[String]) {
    let workers: u32 = arguments[0].parse().expect("a count");
    ostler::limits::raise_descriptors().expect("raising the soft limit on descriptors");
    let worker = Worker::build();
    let ours = Ours::start(&worker);
    let cost = ours.memory(workers);
    ours.end();
    let parts = [cost.host, cost.guardian, cost.sitters];
    let figures = [
        parts.iter().sum(),
        cost.host,
        cost.guardian,
        cost.sitters,
        cost.page_tables,
    ];
    processes::print(figures.map(|bytes| kibibytes(bytes) / f64::from(workers)));
}

/// Bytes by process. Shared pages are counted in proportion (PSS, proc_pid_smaps(5)).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Footprint {
    host: u64,
    guardian: u64,
    sitters: u64,
    /// The page tables of all three, which PSS does not include.
    page_tables: u64,
}

/// The difference between two footprints, in bytes.
pub(crate) type Cost = Footprint;

impl Footprint {
    /// The footprint of this process, its guardian, and the guardian's children.
    pub(crate) fn of(guardian: u32) -> Self {
        let host = std::process::id();
        let sitters = children(guardian, guardian);
        let all = [host, guardian].into_iter().chain(sitters.iter().copied());
        Self {
            host: pss(host),
            guardian: pss(guardian),
            sitters: sitters.iter().map(|pid| pss(*pid)).sum(),
            page_tables: all.map(page_tables).sum(),
        }
    }

    pub(crate) fn since(&self, before: &Self) -> Cost {
        Self {
            host: self.host.saturating_sub(before.host),
            guardian: self.guardian.saturating_sub(before.guardian),
            sitters: self.sitters.saturating_sub(before.sitters),
            page_tables: self.page_tables.saturating_sub(before.page_tables),
        }
    }
}

fn kibibytes(bytes: u64) -> f64 {
    // Far below 2^52, so nothing is lost.
    bytes as f64 / 1024.0
}

/// The children of one thread of a process.
pub(crate) fn children(pid: u32, thread: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{thread}/children");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn pss(pid: u32) -> u64 {
    field(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

fn page_tables(pid: u32) -> u64 {
    field(&format!("/proc/{pid}/status"), "VmPTE:")
}

/// The value of a line `NAME  123 kB` of a file in /proc, in bytes.
fn field(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    let kibibytes: u64 = value.and_then(|value| value.parse().ok()).expect("number of kB");
    kibibytes * 1024
}
