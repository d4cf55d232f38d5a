//! Builds the guardian's program (ADR 0003): one call of the compiler, for the target that this crate is built for.
//!
//! The program is `no_std` and has no dependency, so nothing but rustc and the linker that Rust programs need anyway is
//! used, cross-compiling included.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const SOURCES: [&str; 2] = ["guardian", "src/protocol"];

fn main() -> ExitCode {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let os = required("CARGO_CFG_TARGET_OS");
    let arch = required("CARGO_CFG_TARGET_ARCH");
    if os != "linux" || !["x86_64", "aarch64"].contains(&arch.as_str()) {
        println!("cargo::error=ostler-os needs Linux on x86_64 or aarch64; this target is {os} on {arch}");
        return ExitCode::FAILURE;
    }
    let root = PathBuf::from(required("CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(required("OUT_DIR"));
    let program = out.join("ostler-guardian");
    // The guardian includes this file from OUT_DIR, so that a packaged crate needs nothing outside itself.
    if let Err(error) = std::fs::write(out.join("points.rs"), ostler_failpoint::SOURCE) {
        println!(
            "cargo::error=the list of failpoints can't be written to {}: {error}",
            out.display()
        );
        return ExitCode::FAILURE;
    }

    let mut rustc = Command::new(required("RUSTC"));
    rustc
        .arg(root.join("guardian").join("main.rs"))
        .args([
            "--crate-name",
            "ostler_guardian",
            "--crate-type",
            "bin",
            "--edition",
            "2024",
        ])
        .args(["--target", &required("TARGET")])
        .arg("-o")
        .arg(&program)
        .args(["--check-cfg", "cfg(failpoints)"])
        // Host and guardian each use one half of the shared protocol file.
        .args(["-D", "warnings", "-A", "dead_code"])
        .args([
            "-C",
            "opt-level=2",
            "-C",
            "panic=abort",
            "-C",
            "codegen-units=1",
            "-C",
            "strip=symbols",
        ])
        .args(["-C", "overflow-checks=on", "-C", "force-unwind-tables=no"])
        // No start-up code, no libc, no loader, no relocation: the kernel maps it and it runs.
        .args(["-C", "relocation-model=static", "-C", "target-feature=+crt-static"])
        .args([
            "-C",
            "link-arg=-nostartfiles",
            "-C",
            "link-arg=-nostdlib",
            "-C",
            "link-arg=-static",
        ])
        .args(["-C", "link-arg=-Wl,--build-id=none,--gc-sections,-z,noexecstack"]);
    if env::var_os("CARGO_FEATURE_FAILPOINTS").is_some() {
        rustc.args(["--cfg", "failpoints"]);
    }
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={linker}"));
    }
    match rustc.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(status) => {
            println!("cargo::error=the guardian's program did not compile ({status})");
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("cargo::error=rustc could not be run for the guardian's program: {error}");
            ExitCode::FAILURE
        }
    }
}

fn required(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("cargo sets {name} for build scripts: {error}"))
}
