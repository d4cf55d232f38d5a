//! `docs/api/`: everything that the crates for apps make public, and those whose items `ostler`
//! re-exports, so that a change of it shows in review.
//!
//! The listings are made by `xtask/api-listing`, a program outside the workspace, from rustdoc's
//! JSON, which only nightly writes.

use std::path::PathBuf;
use std::process::Command;

use crate::skips::Skips;
use crate::steps::{Outcome, cargo, output, root, target_directory, title};

/// Each crate with the features it is listed with: all that add items, with the light engine.
const CRATES: [(&str, &str); 5] = [
    ("ostler", "redb,config,otlp,probes,testing"),
    ("ostler-core", "config,probe-http,probe-grpc,ready-line"),
    ("ostler-serve", "redb,grpc,http,stdio"),
    ("ostler-supervisor", ""),
    ("ostler-telemetry", "otlp"),
];

const TOOL: &str = "xtask/api-listing/Cargo.toml";

/// Compares the listings with the code.
pub(super) fn check(skips: &mut Skips) -> Outcome {
    let name = "public API";
    let nightly = Command::new("rustc").args(["+nightly", "--version"]).output();
    if !nightly.is_ok_and(|output| output.status.success()) {
        skips.step(name, "no nightly toolchain");
        return Ok(());
    }
    if let Err(why) = output(cargo().args(["fetch", "--locked", "--manifest-path", TOOL])) {
        let why = why.lines().last().unwrap_or_default();
        skips.step(
            name,
            &format!("the dependencies of api-listing could not be fetched: {why}"),
        );
        return Ok(());
    }
    title(name);
    for (name, features) in CRATES {
        let expected = std::fs::read_to_string(path(name)).unwrap_or_default();
        let differences = differences(&expected, &listing(name, features)?);
        if !differences.is_empty() {
            return Err(format!(
                "{} does not match the code; `cargo xtask api` writes it again:\n{}",
                path(name).display(),
                differences.join("\n")
            ));
        }
    }
    Ok(())
}

/// Writes the listings.
pub(crate) fn write() -> Outcome {
    for (name, features) in CRATES {
        let path = path(name);
        let folder = path.parent().ok_or("a listing is in a folder")?;
        std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        std::fs::write(&path, listing(name, features)?).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

fn path(name: &str) -> PathBuf {
    root().join(format!("docs/api/{name}.txt"))
}

fn listing(name: &str, features: &str) -> Outcome<String> {
    let target = target_directory()?.join("api");
    let mut list = cargo();
    list.args(["run", "--quiet", "--locked", "--manifest-path", TOOL, "--target-dir"])
        .arg(&target)
        .arg("--")
        .arg(root().join(format!("crates/{name}/Cargo.toml")))
        .arg(&target)
        .arg(features);
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
