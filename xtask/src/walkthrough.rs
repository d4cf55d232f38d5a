//! The newcomer's walkthrough, `tests/walkthrough`: a crate outside the workspace, run as a copy in
//! the target folder, because cargo writes a lock file beside its manifest.
//!
//! It shares target folder, profile and lock file with the workspace, and has the light store: most
//! of what it needs is compiled already.

use std::fs;
use std::path::Path;

use crate::steps::{Outcome, cargo, root, step, target_directory};

const TEST: &str = "tests/walkthrough.rs";
const FILES: [&str; 3] = ["Cargo.toml", "src/lib.rs", TEST];

/// The most lines of the walkthrough: an API that needs more for it has grown too large.
const LINES: usize = 120;

pub(crate) fn run() -> Outcome {
    let (source, target) = (root().join("tests/walkthrough"), target_directory()?);
    let length = fs::read_to_string(source.join(TEST)).map_or(0, |text| text.lines().count());
    if length > LINES {
        return Err(format!(
            "the walkthrough has {length} lines, and should read in {LINES}"
        ));
    }
    let copy = target.join("walkthrough");
    for file in FILES {
        put(&source.join(file), &copy.join(file), |text| {
            text.replace("path = \"../..", &format!("path = \"{}", root().display()))
        })?;
    }
    put(&root().join("Cargo.lock"), &copy.join("Cargo.lock"), |text| text)?;
    let mut test = cargo();
    test.args(["test", "--offline"])
        .current_dir(&copy)
        .env("CARGO_TARGET_DIR", &target);
    step("the walkthrough, a crate outside the workspace", &mut test)
}

/// Copies a text file. One that is the same already stays untouched, so that cargo compiles nothing
/// again.
fn put(from: &Path, to: &Path, change: impl FnOnce(String) -> String) -> Outcome {
    let text = fs::read_to_string(from).map_err(|error| format!("{}: {error}", from.display()))?;
    let text = change(text);
    if fs::read_to_string(to).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let folder = to.parent().unwrap_or(to);
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(to, text))
        .map_err(|error| format!("{}: {error}", to.display()))
}
