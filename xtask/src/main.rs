//! The project's own commands, as plain Rust: `cargo xtask demo`, `test`, `chaos`, `ci`.

mod chaos;
mod ci;
mod demo;
mod native;
mod python;
mod steps;
mod story;
mod test;
mod text;

use std::io::Write as _;
use std::process::ExitCode;

const HELP: &str = "\
cargo xtask demo [--store redb|rocksdb]
    Builds ostler, runs the web servers of examples/web as a pool, kills one of them under your eyes, and tells what
    happens. One to four minutes from an empty target folder on two cores, seconds after that. --store rocksdb keeps the process table in
    RocksDB instead of redb, and compiles it first if need be (about 18 minutes).

cargo xtask test [ARGUMENTS OF cargo test]
    Fetches what the build needs (libclang, from PyPI, into the cache folder) and runs every test. The first time it
    compiles RocksDB: about 18 minutes on two cores.

cargo xtask python
    The tests of the Python package alone: mypy and pytest, in a virtual environment below the cache folder.

cargo xtask chaos [--minutes N] [--seed S]
    Random faults of all kinds against a running set of pools, under an observer from outside (docs/testing.md). Builds with
    the light store. --help tells more.

cargo xtask ci
    Formatting, text, clippy, documentation, licences and advisories.

cargo xtask text [--fix]
    The rules of docs/style.md that a program can check. --fix repairs wrapping.

Exit status: 0 when everything that was promised happened, 1 when not.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["demo"] | ["demo", "--store", "redb"] => demo::run(demo::Store::Redb),
        ["demo", "--store", "rocksdb"] => demo::run(demo::Store::RocksDb),
        ["test", rest @ ..] => test::run(rest),
        ["python"] => {
            python::run().map(|skipped| println!("── Python: {}", skipped.unwrap_or_else(|| "done".to_owned())))
        }
        ["chaos", rest @ ..] => chaos::run(rest),
        ["ci"] => ci::run(),
        ["text"] => text::run(text::Mode::Check),
        ["text", "--fix"] => text::run(text::Mode::Fix),
        ["help" | "--help" | "-h"] => {
            // Whoever reads only the first lines of it has read what was wanted.
            drop(writeln!(std::io::stdout(), "{HELP}"));
            return ExitCode::SUCCESS;
        }
        _ => Err(format!("there is no such command.\n\n{HELP}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("\nxtask: {message}");
            ExitCode::FAILURE
        }
    }
}
