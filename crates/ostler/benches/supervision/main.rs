//! Compares Ostler with the floor in one run: what the kernel takes for the same work, with
//! `posix_spawn` and `waitpid` of the same program. `tokio::process` is measured beside it.
//!
//! `cargo xtask bench`, or `cargo bench -p ostler --no-default-features --features redb,benchmarks
//! [-- SUBJECT… --rounds N]`; see docs/performance.md. Without `--bench`, which `cargo bench`
//! passes, every subject runs once at a small size and nothing is timed: a check for CI (`cargo
//! test --bench supervision`).

mod children;
mod deaths;
mod events;
mod floor;
mod large_host;
mod machine;
mod memory;
mod ours;
mod output;
mod pools;
mod report;
mod table;
#[cfg(feature = "otlp")]
mod telemetry;
#[cfg(feature = "benchmarks")]
mod tokio_floor;
mod worker;

use report::Report;

/// The default number of rounds.
const ROUNDS: usize = 7;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    pub(crate) rounds: usize,
    /// Whether this is a check that everything works, at a small size.
    pub(crate) check: bool,
}

impl Scale {
    /// The first in a measurement, the second in a check.
    pub(crate) fn pick<T>(self, measured: T, checked: T) -> T {
        if self.check { checked } else { measured }
    }
}

/// A part of the benchmark.
type Subject = fn(Scale, &mut Report);

const SUBJECTS: &[(&str, Subject)] = &[
    ("memory", memory::run),
    ("pools", pools::run),
    ("large_host", large_host::run),
    ("deaths", deaths::run),
    ("table", table::run),
    ("events", events::run),
    ("output", output::run),
    #[cfg(feature = "otlp")]
    ("telemetry", telemetry::run),
];

/// What a process does that this program starts to measure one thing on its own: its first argument
/// names it.
type Role = fn(&[String]);

const ROLES: &[(&str, Role)] = &[
    (floor::ROLE, floor::role),
    #[cfg(feature = "benchmarks")]
    (tokio_floor::ROLE, tokio_floor::role),
    (memory::ROLE, memory::role),
    (large_host::ROLE, large_host::role),
    (table::ROLE, table::role),
    (output::ROLE, output::role),
    (output::READER, output::reader),
    #[cfg(feature = "otlp")]
    (telemetry::MEASURE, telemetry::measure),
    #[cfg(feature = "otlp")]
    (telemetry::RECEIVE, telemetry::receive),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((name, rest)) = arguments.split_first()
        && let Some((_, role)) = ROLES.iter().find(|(role, _)| role == name)
    {
        return role(rest);
    }
    ostler::limits::raise_descriptors().expect("raising the soft limit on descriptors");
    let after = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1).map(String::as_str)
    };
    let rounds = after("--rounds").map(|rounds| rounds.parse().expect("--rounds needs a number"));
    let check = !arguments.iter().any(|argument| argument == "--bench");
    let scale = Scale {
        rounds: if check { 1 } else { rounds.unwrap_or(ROUNDS) },
        check,
    };
    let named: Vec<&(&str, Subject)> = SUBJECTS
        .iter()
        .filter(|(name, _)| arguments.iter().any(|argument| argument == name))
        .collect();
    let chosen = if named.is_empty() {
        SUBJECTS.iter().collect()
    } else {
        named
    };
    let mut report = Report::new(after("--results"), !check);
    let about = format!(
        "{}; store {}; {} rounds; load before {}",
        machine::facts(),
        ostler::Engine::DEFAULT.name(),
        scale.rounds,
        machine::load()
    );
    report.head(&about);
    for (name, subject) in chosen {
        eprintln!("measuring: {name}");
        subject(scale, &mut report);
    }
    eprintln!("load after: {}", machine::load());
}
