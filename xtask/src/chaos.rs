//! `cargo xtask chaos`: builds the chaos of the tests with the light store, and starts it. Its own
//! help says what it does.

use crate::steps::{Outcome, cargo, programs, step};

/// Builds and runs it with these arguments.
pub(crate) fn run(arguments: &[&str]) -> Outcome {
    let mut build = cargo();
    build.args(["build", "--package", "ostler-tests", "--bins"]);
    build.args(["--no-default-features", "--features", "redb"]);
    step("building chaos", &mut build)?;
    let mut chaos = std::process::Command::new(programs()?.join("ostler-chaos"));
    let status = chaos.args(arguments).status();
    match status.map_err(|error| format!("chaos can't be run: {error}"))? {
        status if status.success() => Ok(()),
        status => Err(format!("chaos ended with {status}")),
    }
}
