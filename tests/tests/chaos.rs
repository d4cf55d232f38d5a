//! A short run of `cargo xtask chaos` with three seeds in parallel.

use std::process::{Command, Stdio};

use ostler_tests::program;
use ostler_tests::scene::killed_with_the_test;

/// Add seeds as you like, but keep those that once found a bug.
const SEEDS: [u32; 3] = [1, 2, 3];

/// Every kind of fault occurs, however short the run.
const FAULTS: [&str; 11] = [
    "Strikes",
    "Restarts",
    "Cycle",
    "Quitters",
    "HostStopped",
    "GuardianStopped",
    "SitterStopped",
    "StoreStalled",
    "NotifyFlood",
    "Strays",
    "DirectoryRemoved",
];

#[test]
fn short_run_passes() {
    let start = |seed: u32| {
        let mut command = Command::new(program("ostler-chaos"));
        command.args(["--minutes", "0.35", "--seed", &seed.to_string()]);
        let mut command = killed_with_the_test(&command);
        command.stdout(Stdio::piped()).spawn().expect("starting chaos")
    };
    for chaos in SEEDS.map(start) {
        let output = chaos.wait_with_output().expect("waiting for chaos");
        let report = String::from_utf8_lossy(&output.stdout);
        println!("{report}");
        assert!(output.status.success(), "{report}");
        assert!(report.contains("all checks passed"), "{report}");
        for fault in FAULTS {
            assert!(report.contains(&format!("{fault} ")), "{fault}: {report}");
        }
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
