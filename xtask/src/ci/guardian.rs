//! The programs that the build script of ostler-os compiles, the guardian and the fake worker:
//! cargo's own fmt and clippy skip them.

use std::path::Path;
use std::process::Command;

use crate::steps::{Outcome, output, root, step};

const GUARDIAN: &str = "crates/ostler-os/guardian/main.rs";
const FAKE_WORKER: &str = "crates/ostler-os/fake-worker/main.rs";
const POINTS: &str = "crates/ostler-failpoint/src/points.rs";

pub(super) fn formatting() -> Outcome {
    let mut rustfmt = Command::new("rustfmt");
    rustfmt
        .args(["--check", "--edition", "2024", GUARDIAN, FAKE_WORKER])
        .current_dir(root());
    step("formatting of guardian and fake worker", &mut rustfmt)
}

/// Under the lints of ostler-os; the guardian with and without failpoints.
pub(super) fn clippy() -> Outcome {
    let directory = std::env::temp_dir().join(format!("ostler-guardian-{}", std::process::id()));
    std::fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let outcome = lint(&directory);
    drop(std::fs::remove_dir_all(&directory));
    outcome
}

fn lint(directory: &Path) -> Outcome {
    // The build script puts the list of failpoints there.
    std::fs::copy(root().join(POINTS), directory.join("points.rs")).map_err(|error| format!("{POINTS}: {error}"))?;
    for cfg in [&[][..], &["--cfg", "failpoints"]] {
        let mut clippy = driver(GUARDIAN, directory)?;
        clippy
            .args(["--crate-name", "ostler_guardian", "--check-cfg", "cfg(failpoints)"])
            // Host and guardian each use one half of the protocol file that they share.
            .args(["-A", "dead_code"])
            .args(cfg);
        step(&format!("clippy of the guardian {}", cfg.join(" ")), &mut clippy)?;
    }
    let mut clippy = driver(FAKE_WORKER, directory)?;
    step(
        "clippy of the fake worker",
        clippy.args(["--crate-name", "fake_worker"]),
    )
}

/// clippy's own compiler, outside cargo, for one program. It needs the sysroot, which rustup's
/// proxies pass otherwise.
fn driver(source: &str, directory: &Path) -> Outcome<Command> {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(root()))?;
    let mut driver = Command::new("clippy-driver");
    driver
        .args(["--sysroot", &sysroot])
        .current_dir(root())
        .args([source, "--crate-type", "bin", "--edition", "2024"])
        .args(["--emit", "metadata", "-C", "panic=abort", "-o"])
        // Not /dev/null: rustc renames its output into place, which as root replaces the device by
        // a regular file for the whole machine.
        .arg(directory.join("linted.rmeta"))
        .env("OUT_DIR", directory)
        .args(["-D", "warnings", "-D", "clippy::all"])
        .args(["-D", "clippy::undocumented_unsafe_blocks"])
        .args(["-D", "unsafe_op_in_unsafe_fn"]);
    Ok(driver)
}
