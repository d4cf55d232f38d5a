//! The corpus of `fuzz/` on stable Rust: every file, and every beginning of it, goes through the
//! parser of its target. Fuzzing itself needs nightly: `cargo +nightly fuzz run TARGET`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Longer files are cut at so many places only.
const CUTS: usize = 256;

fn replay(target: &str, parse: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files = 0;
    for entry in entries {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let step = bytes.len().div_ceil(CUTS).max(1);
        for end in (0..bytes.len()).step_by(step).chain([bytes.len()]) {
            let outcome = catch_unwind(AssertUnwindSafe(|| parse(&bytes[..end])));
            assert!(outcome.is_ok(), "{}, its first {end} bytes", path.display());
        }
        files += 1;
    }
    assert!(files > 2, "{} has {files} files", folder.display());
}

#[test]
fn codec() {
    replay("codec", ostler_registry::fuzzing::codec);
}

#[test]
fn notify() {
    replay("notify", ostler_os::fuzzing::notify);
}

#[test]
fn proc_lines() {
    replay("proc_lines", ostler_os::fuzzing::proc_lines);
}

#[test]
fn protocol() {
    replay("protocol", ostler_os::fuzzing::protocol);
}

#[test]
fn ready_file() {
    replay("ready_file", ostler::fuzzing::ready_file);
}

#[test]
fn sock_diag() {
    replay("sock_diag", ostler_os::fuzzing::sock_diag);
}

#[test]
fn toml() {
    replay("toml", ostler_cli::fuzzing::toml);
}
