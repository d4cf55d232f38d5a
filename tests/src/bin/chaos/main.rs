//! Chaos: random faults against a running set of pools, and an observer that believes nobody.
//!
//! `plan` (a seed gives it, pure) says what happens; `cast` to which workers; `host` is the program that embeds Ostler.
//! `run`, `deeds` and `ends` carry the plan out; `census`, `settle` and `records` look at /proc, at the host's word and at
//! the tables of the dead; `flat` and `tally` judge and count. See docs/testing.md and ADR 0014.

mod cast;
mod census;
mod deeds;
mod ends;
mod flat;
mod host;
mod plan;
mod records;
mod remote;
mod run;
mod settle;
mod tally;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use host::HostArguments;
use run::{Options, Run};

const HELP: &str = "\
cargo xtask chaos [--minutes N] [--seed S]
    Kills, stops and pauses workers, what they have started, sitters, guardian and host of a running set of pools,
    alone and together, restarts and stops them through the API meanwhile, and looks from outside whether every promise
    holds: after each fault full strength again, or the run ended as it must and the next start swept; at the end no
    process, no record, no run directory, no order without an answer, and memory and descriptors flat.
    --minutes N   how long; parts of a minute are fine. Default 1.
    --seed S      which faults, in which order: the same seed gives the same ones. Default: a new one, which is printed.
    What can't be found by promise is not provoked: sitters killed together with what is above them, where no cgroup
    holds a process that has emptied its environment.

Exit status: 0 when all of it held, 1 with the seed and the story when not.";

/// What a summary says of the one thing that is left out.
const UNPROMISED: &str = "sitters killed together with what is above them, where no cgroup holds a process that has \
emptied its environment";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--host", app, tag, state, rest @ ..] => host::run(&HostArguments {
            app: (*app).to_owned(),
            tag: (*tag).to_owned(),
            state: state.into(),
            cgroups: rest == ["--cgroups"],
        }),
        ["--help" | "-h"] => {
            println!("{HELP}");
            ExitCode::SUCCESS
        }
        words => match options(words) {
            Ok(options) => observe(&options),
            Err(what) => {
                eprintln!("chaos: {what}\n\n{HELP}");
                ExitCode::FAILURE
            }
        },
    }
}

fn options(words: &[&str]) -> Result<Options, String> {
    let mut options = Options {
        seed: fastrand::u64(..1_000_000_000),
        length: Duration::from_secs(60),
    };
    let (pairs, rest) = words.as_chunks::<2>();
    if let [word] = rest {
        return Err(format!("{word} is not known, or its value is missing"));
    }
    for [name, value] in pairs {
        let wrong = || format!("{name} {value}: a number is wanted");
        match *name {
            "--seed" => options.seed = value.parse().map_err(|_| wrong())?,
            "--minutes" => {
                let minutes: f64 = value.parse().map_err(|_| wrong())?;
                options.length = Duration::try_from_secs_f64(minutes * 60.0).map_err(|_| wrong())?;
            }
            _ => return Err(format!("{name} is not known")),
        }
    }
    Ok(options)
}

fn observe(options: &Options) -> ExitCode {
    let Options { seed, length } = options;
    println!("chaos with --seed {seed} for {length:?}");
    let begun = Instant::now();
    let outcome = Run::new().run(options);
    let took = begun.elapsed().as_secs();
    match outcome {
        Ok(tally) => {
            println!("chaos: everything held for {took} s with --seed {seed}\n{tally}");
            println!("  0 survivors, 0 records and 0 run directories left, 0 hung orders");
            println!("  not provoked, as nothing promises it: {UNPROMISED}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("chaos: FAILED after {took} s. The same faults again: --seed {seed}\n\n{failure}");
            ExitCode::FAILURE
        }
    }
}
