//! `cargo xtask ci`: what is checked besides `cargo xtask test`.
//!
//! The steps share one target folder and, where they can, one set of features: RocksDB is compiled
//! once.

pub(crate) mod api;
mod features;
mod guardian;
mod packages;
mod targets;

use std::time::Instant;

use crate::skips::Skips;
use crate::steps::{Outcome, cargo, exists, output, seconds, step, title};
use crate::test::FEATURES;
use crate::{native, text};

/// Something to check; may note that it was skipped.
type Check = fn(&mut Skips) -> Outcome;

/// The checks by name. Those that need no compiler come first.
const CHECKS: [(&str, Check); 11] = [
    ("format", format),
    ("text", text),
    ("deny", deny),
    ("guardian", |_| guardian::clippy()),
    ("clippy", clippy),
    ("features", |_| features::check(&native::environment()?)),
    ("targets", targets::check),
    ("docs", docs),
    ("api", api::check),
    ("benches", benches),
    ("packages", |_| packages::build_an_app_from_them()),
];

/// Runs all checks, or those that are named. The first failure ends the run.
pub(crate) fn run(names: &[&str]) -> Outcome {
    if let Some(unknown) = names
        .iter()
        .find(|name| !CHECKS.iter().any(|(known, _)| known == *name))
    {
        let known: Vec<&str> = CHECKS.iter().map(|(name, _)| *name).collect();
        return Err(format!("there is no check {unknown}; there are {}", known.join(", ")));
    }
    let started = Instant::now();
    let mut skips = Skips::default();
    let mut chosen = CHECKS
        .iter()
        .filter(|(name, _)| names.is_empty() || names.contains(name));
    let outcome = chosen.try_for_each(|(_, check)| check(&mut skips));
    println!("All of it took {}.", seconds(started.elapsed()));
    let concluded = skips.conclude();
    outcome.and(concluded)
}

fn format(_: &mut Skips) -> Outcome {
    step("formatting", cargo().args(["fmt", "--all", "--check"]))?;
    guardian::formatting()
}

fn text(_: &mut Skips) -> Outcome {
    title("text (docs/style.md)");
    text::run(text::Mode::Check)
}

fn clippy(_: &mut Skips) -> Outcome {
    native::announce_rocksdb()?;
    let mut clippy = cargo();
    clippy.args(["clippy", "--workspace", "--all-targets", "--features", FEATURES]);
    step(
        "clippy",
        clippy.args(["--", "-D", "warnings"]).envs(native::environment()?),
    )
}

fn docs(_: &mut Skips) -> Outcome {
    let mut doc = cargo();
    doc.args(["doc", "--workspace", "--no-deps", "--document-private-items"])
        .env("RUSTDOCFLAGS", "-D warnings");
    step("documentation", doc.envs(native::environment()?))
}

/// The benchmarks that run once at a small size, untimed, when cargo does not say `--bench`.
const CHECKED_BENCHES: [&str; 3] = ["supervision", "supervisors", "checkout"];

/// All benchmarks compile, and those that can check themselves work; with the tests' features, so
/// that only the benchmarks are compiled here. One of them measures the program.
fn benches(_: &mut Skips) -> Outcome {
    let environment = native::environment()?;
    let command = |rest: &[&str]| {
        let mut command = cargo();
        command.args(rest).args(["--workspace", "--features", FEATURES]);
        command.envs(environment.clone());
        command
    };
    step("the program for the benchmarks", &mut command(&["build", "--bins"]))?;
    step(
        "benchmarks compile",
        &mut command(&["test", "--no-run", "--bench", "*"]),
    )?;
    let mut benches = command(&["test"]);
    for name in CHECKED_BENCHES {
        benches.args(["--bench", name]);
    }
    step("benchmarks work", &mut benches)
}

/// cargo-deny, where it is installed. Its licence and source rules need no network; its advisories
/// do.
fn deny(skips: &mut Skips) -> Outcome {
    if !exists("cargo-deny") {
        skips.step("licences and advisories", "cargo-deny is not installed");
        return Ok(());
    }
    step(
        "licences and sources",
        cargo().args(["deny", "check", "bans", "licenses", "sources"]),
    )?;
    if let Err(why) = output(cargo().args(["deny", "fetch"])) {
        let why = why.lines().last().unwrap_or_default();
        skips.step("advisories", &format!("their data could not be fetched: {why}"));
        return Ok(());
    }
    step(
        "advisories",
        cargo().args(["deny", "check", "--disable-fetch", "advisories"]),
    )
}
