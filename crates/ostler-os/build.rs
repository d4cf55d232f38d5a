//! Builds the programs that this crate embeds, each by one call of the compiler for the target of
//! the crate: the guardian (ADR 0003), and with the feature `testing` the fake worker.
//!
//! Neither has dependencies, so nothing but rustc and the linker that Rust programs need anyway is
//! used, also when cross-compiling.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const SOURCES: [&str; 3] = ["guardian", "src/protocol", "fake-worker"];

/// No start-up code, no libc, no loader, no relocation: the kernel maps the guardian and it runs.
const GUARDIAN: [&str; 8] = [
    "overflow-checks=on",
    "force-unwind-tables=no",
    "relocation-model=static",
    "target-feature=+crt-static",
    "link-arg=-nostartfiles",
    "link-arg=-nostdlib",
    "link-arg=-static",
    "link-arg=-Wl,--build-id=none,--gc-sections,-z,noexecstack",
];

fn main() -> ExitCode {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let os = required("CARGO_CFG_TARGET_OS");
    let arch = required("CARGO_CFG_TARGET_ARCH");
    if os != "linux" || !["x86_64", "aarch64"].contains(&arch.as_str()) {
        return Err(format!(
            "ostler-os needs Linux on x86_64 or aarch64; this target is {os} on {arch}"
        ));
    }
    let root = PathBuf::from(required("CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(required("OUT_DIR"));
    // The guardian includes this file from OUT_DIR, so that a packaged crate needs nothing outside
    // itself.
    std::fs::write(out.join("points.rs"), ostler_failpoint::SOURCE)
        .map_err(|error| format!("the list of failpoints can't be written to {}: {error}", out.display()))?;

    let mut guardian = compiler(&root.join("guardian/main.rs"), &out.join("ostler-guardian"));
    guardian
        .args(["--crate-name", "ostler_guardian", "--check-cfg", "cfg(failpoints)"])
        // Host and guardian each use one half of the shared protocol file.
        .args(["-A", "dead_code"])
        .args(GUARDIAN.iter().flat_map(|option| ["-C", option]));
    if env::var_os("CARGO_FEATURE_FAILPOINTS").is_some() {
        guardian.args(["--cfg", "failpoints"]);
    }
    run(&mut guardian, "guardian")?;

    if env::var_os("CARGO_FEATURE_TESTING").is_some() {
        let mut worker = compiler(&root.join("fake-worker/main.rs"), &out.join("fake-worker"));
        run(worker.args(["--crate-name", "fake_worker"]), "fake worker")?;
    }
    Ok(())
}

/// A compiler of one program, for the target of this crate.
fn compiler(source: &Path, program: &Path) -> Command {
    let mut rustc = Command::new(required("RUSTC"));
    rustc
        .arg(source)
        .args(["--crate-type", "bin", "--edition", "2024"])
        .args(["--target", &required("TARGET")])
        .arg("-o")
        .arg(program)
        .args(["-D", "warnings", "-C", "opt-level=2", "-C", "panic=abort"])
        .args(["-C", "codegen-units=1", "-C", "strip=symbols"]);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={linker}"));
    }
    rustc
}

fn run(rustc: &mut Command, program: &str) -> Result<(), String> {
    match rustc.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("the {program} did not compile ({status})")),
        Err(error) => Err(format!("rustc could not be run for the {program}: {error}")),
    }
}

fn required(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("cargo sets {name} for build scripts: {error}"))
}
