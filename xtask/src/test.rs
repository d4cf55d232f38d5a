//! `cargo xtask test`: every test of the workspace.

use crate::steps::{Outcome, cargo, exists, step};
use crate::{native, steps};

/// What makes host, guardian and sitters kill themselves on demand: for tests, and for no release (ADR 0014).
const FAILPOINTS: &str = "ostler-tests/failpoints";

/// Runs `cargo test --workspace` with these further arguments.
pub(crate) fn run(arguments: &[&str]) -> Outcome {
    if !exists("python3") {
        return Err(
            "no python3 was found: many tests run their workers with it (Debian: apt-get install python3)".to_owned(),
        );
    }
    let environment = native::environment()?;
    for (name, value) in &environment {
        println!("{name}={value}");
    }
    native::announce_rocksdb()?;
    let started = std::time::Instant::now();
    let mut build = cargo();
    build
        .args(["test", "--workspace", "--no-run", "--features", FAILPOINTS])
        .args(before_dashes(arguments).iter().filter(|word| **word != "--no-run"));
    if before_dashes(arguments).contains(&"--no-run") {
        return step("building every test", build.envs(environment));
    }
    step("building every test", build.envs(environment.clone()))?;
    let mut test = cargo();
    test.args(["test", "--workspace", "--features", FAILPOINTS])
        .args(arguments);
    step("running every test", test.envs(environment))?;
    if let Some(reason) = crate::python::run()? {
        println!("skipped: the tests of the Python package: {reason}");
    }
    println!("All of it took {}.", steps::seconds(started.elapsed()));
    Ok(())
}

/// What is meant for cargo; what follows `--` is meant for the tests.
fn before_dashes<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    arguments
        .iter()
        .copied()
        .take_while(|argument| *argument != "--")
        .collect()
}
