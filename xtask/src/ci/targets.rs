//! The other targets: type-checked with the light engine where their standard library is installed.

use std::path::Path;
use std::process::Command;

use crate::skips::Skips;
use crate::steps::{Outcome, cargo, exists, output, root, step};

/// Each target, and the linker for the guardian's program.
const TARGETS: [(&str, &str); 3] = [
    ("aarch64-unknown-linux-gnu", "aarch64-linux-gnu-gcc"),
    ("x86_64-unknown-linux-musl", "cc"),
    ("aarch64-unknown-linux-musl", "aarch64-linux-gnu-gcc"),
];

pub(super) fn check(skips: &mut Skips) -> Outcome {
    for (target, linker) in TARGETS {
        let name = format!("check for {target}");
        let mut rustc = Command::new("rustc");
        rustc
            .args(["--print", "target-libdir", "--target", target])
            .current_dir(root());
        if !Path::new(&output(&mut rustc)?).is_dir() {
            skips.step(&name, "the target is not installed");
            continue;
        }
        if !exists(linker) {
            skips.step(&name, &format!("the linker {linker} is not installed"));
            continue;
        }
        let mut check = cargo();
        check
            .args(["check", "-p", "ostler", "-p", "ostler-cli", "--target", target])
            .args(["--no-default-features", "--features", "redb"])
            .env("RUSTC_LINKER", linker);
        step(&name, &mut check)?;
    }
    Ok(())
}
