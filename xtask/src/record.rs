//! `cargo xtask record`: makes the recordings in the README again.

use std::process::Command;

use crate::demo::{Store, build};
use crate::native::python_package;
use crate::steps::{Outcome, programs, root, step};

/// The terminal emulator that turns what a program prints into pictures.
const PYTE: &str = "pyte==0.8.2";

/// Runs the live table and the demo in a pseudo terminal, and writes an SVG of each.
pub(crate) fn run() -> Outcome {
    let ostler = build(Store::Redb)?.join("ostler");
    let pyte = python_package(PYTE, "pyte", "", "pyte/screens.py")?;
    let folder = root().join("docs/recording");
    for (name, program) in [("table", ostler), ("demo", programs()?.join("xtask"))] {
        let mut record = Command::new("python3");
        record
            .arg(folder.join("record.py"))
            .arg(name)
            .arg(program)
            .arg(folder.join(format!("{name}.svg")))
            .env("PYTHONPATH", &pyte);
        step(&format!("recording {name}.svg"), &mut record)?;
    }
    Ok(())
}
