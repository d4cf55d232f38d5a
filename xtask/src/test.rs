//! `cargo xtask test`: every test of the workspace.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::listen::Listener;
use crate::native;
use crate::python;
use crate::skips::Skips;
use crate::steps::{Outcome, cargo, exists, finished, seconds, step, title};
use crate::walkthrough;

/// Lets host, guardian and sitters kill themselves on demand (ADR 0014), and opens the parsers that
/// `fuzz/` calls: for tests, and for no release.
pub(crate) const FEATURES: &str = "ostler-tests/failpoints,ostler-tests/fuzzing,ostler-serve/stdio";

/// How long the tests' stdout may stay open after cargo has ended, and how often that is looked at.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_secs(1);

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
    let started = Instant::now();
    let (for_cargo, for_tests) = split(arguments);
    let mut build = cargo();
    build
        .args(["test", "--workspace", "--no-run", "--features", FEATURES])
        .args(for_cargo.iter().filter(|word| **word != "--no-run"));
    step("building every test", build.envs(environment.clone()))?;
    let chosen = chooses(arguments);
    if chosen {
        // Cargo builds the programs with the tests of their packages. Without this, a test that was
        // chosen would run programs from before the last change.
        let mut programs = cargo();
        programs.args(["build", "--workspace", "--bins", "--features", FEATURES]);
        step("building the programs", programs.envs(environment.clone()))?;
    }
    if for_cargo.contains(&"--no-run") {
        return Ok(());
    }
    let mut test = cargo();
    test.args(["test", "--workspace", "--features", FEATURES])
        .args(for_cargo)
        .arg("--")
        .args(for_tests);
    if !for_tests.contains(&"--nocapture") {
        test.arg("--show-output");
    }
    let mut skips = Skips::default();
    let outcome = listened(&mut skips, test.envs(environment)).and_then(|()| {
        if chosen {
            return Ok(());
        }
        walkthrough::run()?;
        python::run(&mut skips)
    });
    println!("All of it took {}.", seconds(started.elapsed()));
    let concluded = skips.conclude();
    outcome.and(concluded)
}

/// Runs the tests, forwards what they print, and collects those that skipped themselves.
fn listened(skips: &mut Skips, command: &mut Command) -> Outcome {
    let name = "running every test";
    let started = title(name);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cargo can't be run: {error}"))?;
    let stdout = child.stdout.take().ok_or("cargo's stdout is piped")?;
    let lines = lines(stdout);
    let mut listener = Listener::default();
    let mut patience = PATIENCE;
    while !patience.is_zero() {
        match lines.recv_timeout(PAUSE) {
            Ok(line) if listener.line(&line, skips) => println!("{line}"),
            Ok(_) => {}
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                if has_ended(&mut child)? {
                    patience = patience.saturating_sub(PAUSE);
                }
            }
        }
    }
    if patience.is_zero() {
        println!("── {name}: a process that a test has started is alive, and holds the tests' stdout");
    }
    let status = child.wait().map_err(|error| format!("waiting for cargo: {error}"))?;
    finished(name, "cargo", status, started)
}

/// `cargo xtask python`.
pub(crate) fn python_alone() -> Outcome {
    let mut skips = Skips::default();
    let outcome = python::run(&mut skips);
    outcome.and(skips.conclude())
}

/// The lines of the tests' stdout, as they come.
fn lines(stdout: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    receiver
}

fn has_ended(child: &mut Child) -> Outcome<bool> {
    let status = child
        .try_wait()
        .map_err(|error| format!("waiting for cargo: {error}"))?;
    Ok(status.is_some())
}

/// Whether the arguments choose some tests of all.
fn chooses(arguments: &[&str]) -> bool {
    arguments.iter().any(|argument| *argument != "--no-fail-fast")
}

/// The arguments for cargo, and those for the tests, which follow `--`.
fn split<'a, 'b>(arguments: &'b [&'a str]) -> (&'b [&'a str], &'b [&'a str]) {
    match arguments.iter().position(|word| *word == "--") {
        Some(at) => (&arguments[..at], &arguments[at + 1..]),
        None => (arguments, &[]),
    }
}
