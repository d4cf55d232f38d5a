//! `docs/api/ostler.txt`: everything that the crate `ostler` makes public, so that a change of it
//! shows in review. cargo-public-api reads it from rustdoc's JSON, which only nightly writes.

use std::path::PathBuf;
use std::process::Command;

use crate::skips::Skips;
use crate::steps::{Outcome, cargo, exists, output, root, title};

const LISTING: &str = "docs/api/ostler.txt";

/// Compares the listing with the code.
pub(super) fn check(skips: &mut Skips) -> Outcome {
    let name = "public API";
    if !exists("cargo-public-api") {
        skips.step(name, "cargo-public-api is not installed");
        return Ok(());
    }
    let nightly = Command::new("rustc").args(["+nightly", "--version"]).output();
    if !nightly.is_ok_and(|output| output.status.success()) {
        skips.step(name, "cargo-public-api is not installed with a nightly toolchain");
        return Ok(());
    }
    title(name);
    let found = listing()?;
    let expected = std::fs::read_to_string(path()).unwrap_or_default();
    let differences = differences(&expected, &found);
    if differences.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{LISTING} does not match the code; `cargo xtask api` writes it anew:\n{}",
        differences.join("\n")
    ))
}

/// Writes the listing.
pub(crate) fn write() -> Outcome {
    let path = path();
    let folder = path.parent().ok_or("the listing is in a folder")?;
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    std::fs::write(&path, listing()?).map_err(|error| format!("{}: {error}", path.display()))
}

fn path() -> PathBuf {
    root().join(LISTING)
}

/// With the light engine, whose features have the same API as RocksDB's. Without implementations
/// that the compiler derives.
fn listing() -> Outcome<String> {
    let mut list = cargo();
    list.args(["public-api", "-sss", "--color", "never", "-p", "ostler"])
        .args(["--no-default-features", "--features", "redb,otlp"])
        // Ours is set by rustup for stable; the tool chooses nightly.
        .env_remove("RUSTUP_TOOLCHAIN");
    Ok(output(&mut list)? + "\n")
}

/// Lines that only one of the two has, with their sign.
fn differences(expected: &str, found: &str) -> Vec<String> {
    let gone = expected
        .lines()
        .filter(|line| !found.lines().any(|other| other == *line));
    let new = found
        .lines()
        .filter(|line| !expected.lines().any(|other| other == *line));
    gone.map(|line| format!("- {line}"))
        .chain(new.map(|line| format!("+ {line}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_item_shows_as_gone_and_new() {
        let found = differences("pub fn a()\npub fn b()\n", "pub fn a()\npub fn b(u8)\n");
        assert_eq!(found, ["- pub fn b()", "+ pub fn b(u8)"]);
        assert!(differences("x\n", "x\n").is_empty());
    }
}
