//! The project's own commands, as plain Rust: `cargo xtask help` lists them.

mod bench;
mod chaos;
mod ci;
mod demo;
mod listen;
mod native;
mod python;
mod record;
mod skips;
mod steps;
mod story;
mod test;
mod text;
mod walkthrough;

use std::io::Write as _;
use std::process::ExitCode;

const HELP: &str = "\
cargo xtask demo [--store redb|rocksdb]
    Builds ostler, runs the web servers of examples/web as a pool, kills one of them, and shows what happens. About
    three minutes on two cores the first time, seconds after that. --store rocksdb keeps the process table in RocksDB
    instead of redb, and compiles it first if need be (about 18 minutes).

cargo xtask test [ARGUMENTS OF cargo test]
    Fetches what the build needs (libclang, from PyPI, into the cache folder) and runs every test. The first time it
    compiles RocksDB: about 18 minutes on two cores.

cargo xtask python
    The tests of the Python package alone: mypy and pytest, in a virtual environment below the cache folder.

cargo xtask walkthrough
    The app outside the workspace alone, tests/walkthrough.

cargo xtask chaos [--minutes N] [--seed S]
    Random faults of all kinds against a running set of pools, under an observer from outside (docs/testing.md). Builds with
    the light store. Its --help has more.

cargo xtask bench [--store redb|rocksdb|both] [--rounds N] [SUBJECT …]
    Measures what Ostler costs beside the floor of the same run, reports what got worse beyond the noise, and refreshes the
    figures of docs/performance.md. Its --help has more.

cargo xtask ci [CHECK …]
    What is checked besides the tests, or some of it: format, text, deny, guardian, clippy, features, targets, docs, api,
    benches, packages. What was skipped is listed at the end; in CI (CI=true) it must be in .ci/expected-skips.

cargo xtask api
    Writes docs/api/*.txt again: the public API of ostler and of the crates beside it. Needs a nightly toolchain.

cargo xtask record
    Makes the recordings in docs/recording again: the live table and the demo.

cargo xtask text [--fix]
    The rules of docs/style.md that a program can check. --fix repairs wrapping.

Exit status: 0 when everything succeeded, 1 otherwise.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["demo"] | ["demo", "--store", "redb"] => demo::run(demo::Store::Redb),
        ["demo", "--store", "rocksdb"] => demo::run(demo::Store::RocksDb),
        ["test", rest @ ..] => test::run(rest),
        ["python"] => test::python_alone(),
        ["walkthrough"] => walkthrough::run(),
        ["bench", rest @ ..] => bench::run(rest),
        ["chaos", rest @ ..] => chaos::run(rest),
        ["ci", checks @ ..] => ci::run(checks),
        ["api"] => ci::api::write(),
        ["record"] => record::run(),
        ["text"] => text::run(text::Mode::Check),
        ["text", "--fix"] => text::run(text::Mode::Fix),
        ["help" | "--help" | "-h"] => {
            // A reader such as `head` may close the pipe early: not an error.
            drop(writeln!(std::io::stdout(), "{HELP}"));
            return ExitCode::SUCCESS;
        }
        _ => Err(format!("unknown command\n\n{HELP}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("\nxtask: {message}");
            ExitCode::FAILURE
        }
    }
}
