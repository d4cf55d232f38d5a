//! `cargo xtask ci`: what has to hold of the code beside `cargo xtask test`.

use std::process::Command;

use crate::native;
use crate::steps::{Outcome, cargo, exists, output, step};

/// Formatting, clippy, supervision with another ractor, documentation, licences and advisories.
pub(crate) fn run() -> Outcome {
    let environment = native::environment()?;
    step("formatting", cargo().args(["fmt", "--all", "--check"]))?;
    println!("── text (docs/style.md)");
    crate::text::run(crate::text::Mode::Check)?;
    // Cargo does not know the guardian's program: the build script of ostler-os compiles it.
    let guardian = "crates/ostler-os/guardian/main.rs";
    let mut rustfmt = Command::new("rustfmt");
    step(
        "formatting of the guardian",
        rustfmt.args(["--check", "--edition", "2024", guardian]),
    )?;
    native::announce_rocksdb()?;
    let mut clippy = cargo();
    clippy.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    step("clippy", clippy.envs(environment.clone()))?;
    // Features of ractor are the whole build's: with this one its messages want more, and its actors behave as before.
    let mut cluster = cargo();
    cluster.args(["test", "--package", "ostler-supervisor", "--test", "supervisor"]);
    cluster.args(["--features", "cluster"]);
    step("supervision with ractor's cluster feature", &mut cluster)?;
    let mut doc = cargo();
    doc.args(["doc", "--workspace", "--no-deps"])
        .env("RUSTDOCFLAGS", "-D warnings");
    step("documentation", doc.envs(environment))?;
    deny()
}

/// cargo-deny, where it is installed. Its licence and source rules need no network; its advisories do.
fn deny() -> Outcome {
    if !exists("cargo-deny") {
        println!("── licences and advisories: skipped, cargo-deny is not installed");
        return Ok(());
    }
    step(
        "licences and sources",
        cargo().args(["deny", "check", "bans", "licenses", "sources"]),
    )?;
    if let Err(why) = output(cargo().args(["deny", "fetch"])) {
        let why = why.lines().last().unwrap_or_default();
        println!("── advisories: skipped, their data can't be had: {why}");
        return Ok(());
    }
    step(
        "advisories",
        cargo().args(["deny", "check", "--disable-fetch", "advisories"]),
    )
}
