//! Runs the example: its front end, its three pools, its callers and its chaos.

use std::process::Command;

/// How many calls a path's part of the last line counts as answered:
/// `words 712/s (2138 answered, 0 refused, 4 unknown)`.
fn answered(path: &str) -> u64 {
    let counts = path.split_once('(').map(|(_, counts)| counts);
    let answered = counts.and_then(|counts| counts.split_once(" answered"));
    let count = answered.and_then(|(count, _)| count.parse().ok());
    count.unwrap_or_else(|| panic!("no count in {path:?}"))
}

#[test]
fn every_path_is_answered_while_workers_are_killed() {
    let output = Command::new(env!("CARGO_BIN_EXE_serve"))
        .args(["--chaos", "--seconds", "3", "--callers", "2"])
        .output()
        .expect("the example runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    let all = text.lines().find_map(|line| line.strip_prefix("in all: "));
    let paths: Vec<_> = all.expect("the last counts").split("; ").collect();
    assert_eq!(paths.len(), 3, "{text}");
    assert!(paths.iter().all(|path| answered(path) > 0), "{text}");
    // The report of the stop goes on with whatever is left.
    let report = text.lines().last().expect("the report of the stop");
    assert!(
        report.starts_with("8 workers, ") && report.ends_with(" restarts"),
        "{text}"
    );
}
