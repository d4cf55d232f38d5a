//! A short run of `cargo xtask chaos` with three seeds in parallel.

use std::process::{Command, Stdio};

use ostler_tests::program;

/// Add seeds as you like, but keep those that once found a bug.
const SEEDS: [u32; 3] = [1, 2, 3];

#[test]
fn short_run_passes() {
    let start = |seed: u32| {
        Command::new(program("ostler-chaos"))
            .args(["--minutes", "0.35", "--seed", &seed.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("starting chaos")
    };
    for chaos in SEEDS.map(start) {
        let output = chaos.wait_with_output().expect("waiting for chaos");
        let report = String::from_utf8_lossy(&output.stdout);
        println!("{report}");
        assert!(output.status.success(), "{report}");
        assert!(report.contains("all checks passed"), "{report}");
    }
}

#[test]
fn invalid_option_is_reported() {
    for wrong in [&["--seed", "x"][..], &["--minutes"], &["--hours", "1"]] {
        let output = Command::new(program("ostler-chaos"))
            .args(wrong)
            .output()
            .expect("running chaos");
        assert_eq!(output.status.code(), Some(1));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            stderr.contains(wrong[0]) && stderr.contains("cargo xtask chaos"),
            "{stderr}"
        );
    }
}
