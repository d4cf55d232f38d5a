//! `cargo xtask bench`: runs the benchmarks, prints each figure beside the floor of the same run,
//! reports what got worse beyond the noise, and refreshes the figures of docs/performance.md.
//!
//! The figures are kept in `docs/performance/STORE.json`, which is what the next run is compared
//! with. Subjects that a run leaves out keep their figures.

mod figures;
mod page;
mod plot;

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::native;
use crate::steps::{Outcome, cargo, output, root, step, target_directory};
use figures::Figures;

const HELP: &str = "\
cargo xtask bench [--store redb|rocksdb|both] [--rounds N] [SUBJECT …]
cargo xtask bench --page

  --page     measures nothing: writes docs/performance.md again from the figures that are kept
  --store    the engine of the process table; rocksdb compiles RocksDB first if need be. Default: redb
  --rounds   rounds per subject; their median counts. Default: 7
  SUBJECT    memory, pools, large_host, deaths, table, events, output, telemetry, supervisors. Default: all

Use a machine that does nothing else. Memory, pools, deaths and table take 104 s with three rounds on two processors.
The figures are kept in docs/performance/, and shown by docs/performance.md.";

/// The subject that is measured by a benchmark of its own.
const SUPERVISORS: &str = "supervisors";
const SUBJECTS: [&str; 9] = [
    "memory",
    "pools",
    "large_host",
    "deaths",
    "table",
    "events",
    "output",
    "telemetry",
    SUPERVISORS,
];

/// What is asked for.
struct Wish<'a> {
    stores: Vec<&'a str>,
    rounds: &'a str,
    subjects: Vec<&'a str>,
}

pub(crate) fn run(arguments: &[&str]) -> Outcome {
    if arguments.contains(&"--help") {
        println!("{HELP}");
        return Ok(());
    }
    if arguments == ["--page"] {
        return page::refresh();
    }
    let wish = parse(arguments)?;
    let mut worse = Vec::new();
    for store in &wish.stores {
        worse.extend(measure(store, &wish)?);
    }
    page::refresh()?;
    println!("\nThe figures are in docs/performance/, and docs/performance.md shows them.");
    if worse.is_empty() {
        println!("Nothing got worse beyond the noise.");
    } else {
        println!("Worse beyond the noise, compared with the figures kept before:");
        worse.iter().for_each(|line| println!("  {line}"));
    }
    Ok(())
}

fn parse<'a>(arguments: &[&'a str]) -> Outcome<Wish<'a>> {
    let mut wish = Wish {
        stores: vec!["redb"],
        rounds: "7",
        subjects: Vec::new(),
    };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match *argument {
            "--store" => {
                wish.stores = match arguments.next().copied() {
                    Some("both") => vec!["redb", "rocksdb"],
                    Some(store @ ("redb" | "rocksdb")) => vec![store],
                    _ => return Err(format!("--store is redb, rocksdb or both\n\n{HELP}")),
                }
            }
            "--rounds" => {
                let rounds = arguments.next().copied().unwrap_or_default();
                let valid = rounds.parse::<u32>().is_ok_and(|rounds| rounds > 0);
                wish.rounds = valid
                    .then_some(rounds)
                    .ok_or_else(|| format!("--rounds needs a number above zero\n\n{HELP}"))?;
            }
            subject if SUBJECTS.contains(&subject) => wish.subjects.push(subject),
            other => return Err(format!("unknown subject {other}\n\n{HELP}")),
        }
    }
    if wish.subjects.is_empty() {
        wish.subjects = SUBJECTS.to_vec();
    }
    Ok(wish)
}

/// Measures with one store, and keeps the figures. Returns what got worse.
fn measure(store: &str, wish: &Wish<'_>) -> Outcome<Vec<String>> {
    let features = [
        format!("ostler-cli/{store}"),
        format!("ostler/{store},ostler/otlp,ostler/benchmarks"),
    ]
    .join(",");
    // One set of features for all, so that everything is compiled once.
    let build = |verb: &str| {
        let mut command = cargo();
        command.args([
            verb,
            "-p",
            "ostler",
            "-p",
            "ostler-cli",
            "--no-default-features",
            "--features",
        ]);
        command.arg(&features);
        command
    };
    let environment = if store == "rocksdb" {
        native::environment()?
    } else {
        Vec::new()
    };
    step(
        &format!("build the program and the benchmark, {store}"),
        build("build")
            .args(["--release", "--bin", "ostler", "--bench", "supervision"])
            .envs(environment.clone()),
    )?;
    let folder = target_directory()?.join("bench");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut measured = Figures::default();
    let (supervisors, rest): (Vec<&str>, Vec<&str>) =
        wish.subjects.iter().partition(|subject| **subject == SUPERVISORS);
    if !rest.is_empty() {
        let results = folder.join(format!("{store}.jsonl"));
        let mut bench = build("bench");
        bench.args(["--bench", "supervision", "--", "--rounds", wish.rounds, "--results"]);
        step(
            &format!("measure, {store}"),
            bench.arg(&results).args(rest).envs(environment.clone()),
        )?;
        measured = Figures::of_run(&results)?;
    }
    if !supervisors.is_empty() {
        let results = folder.join("supervisors.jsonl");
        let mut bench = cargo();
        bench.args([
            "bench",
            "-p",
            "ostler-supervisor",
            "--bench",
            "supervisors",
            "--",
            "--results",
        ]);
        step("measure supervisors", bench.arg(&results))?;
        measured.measures.extend(Figures::of_run(&results)?.measures);
    }
    measured.date = output(Command::new("date").args(["-u", "+%-d %B %Y"]))?;
    let file = kept(store);
    let before = Figures::read(&file)?;
    let worse = worse(&measured, &before);
    measured.complete(before);
    measured.write(&file)?;
    Ok(worse.into_iter().map(|line| format!("{store}: {line}")).collect())
}

/// Where a store's figures are kept.
fn kept(store: &str) -> PathBuf {
    root().join(format!("docs/performance/{store}.json"))
}

/// What got worse beyond the spread of both runs.
fn worse(measured: &Figures, before: &Figures) -> Vec<String> {
    let mut seen = HashSet::new();
    let compared = measured.measures.iter().filter(|measure| seen.insert(measure.key()));
    compared
        .filter_map(|now| Some((now, before.find(&now.key())?)))
        .filter(|(now, before)| now.is_worse_than(before))
        .map(|(now, before)| {
            format!(
                "{}: {}, before {}",
                now.title(),
                now.show_result(),
                before.show_result()
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::figures::Measure;
    use super::*;

    #[test]
    fn subjects_and_options_are_checked() {
        let wish = parse(&["--store", "both", "pools", "--rounds", "3"]).unwrap();
        assert_eq!(
            (wish.stores, wish.rounds, wish.subjects),
            (vec!["redb", "rocksdb"], "3", vec!["pools"])
        );
        assert_eq!(parse(&[]).unwrap().subjects, SUBJECTS);
        for invalid in [&["--rounds", "0"][..], &["--rounds"], &["--store", "sled"], &["pool"]] {
            assert!(parse(invalid).is_err(), "{invalid:?}");
        }
    }

    #[test]
    fn only_what_exceeds_both_spreads_is_worse() {
        let figures = |ours: &[f64]| Figures {
            measures: vec![Measure::of_test("restart", &[1.0; 3], ours)],
            ..Figures::default()
        };
        let before = figures(&[2.0, 2.1, 2.2]);
        assert!(
            worse(&figures(&[2.0, 2.2, 2.3]), &before).is_empty(),
            "within the noise"
        );
        assert!(worse(&figures(&[1.0, 1.1, 1.2]), &before).is_empty(), "better");
        assert_eq!(
            worse(&figures(&[2.4, 2.5, 2.6]), &before),
            ["restart: 2.50 × (2.40–2.60), before 2.10 × (2.00–2.20)"]
        );
    }
}
