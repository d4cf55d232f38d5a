//! A short run of `cargo xtask chaos`: three seeds at the same time, each with other faults.

use std::process::{Command, Stdio};

use ostler_tests::program;

/// New ones may be put here; those that once found something stay.
const SEEDS: [u32; 3] = [1, 2, 3];

#[test]
fn a_short_run_holds() {
    let start = |seed: u32| {
        Command::new(program("ostler-chaos"))
            .args(["--minutes", "0.35", "--seed", &seed.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("chaos starts")
    };
    for chaos in SEEDS.map(start) {
        let output = chaos.wait_with_output().expect("chaos is waited for");
        let story = String::from_utf8_lossy(&output.stdout);
        println!("{story}");
        assert!(output.status.success(), "{story}");
        assert!(story.contains("everything held"), "{story}");
    }
}

#[test]
fn a_wrong_option_is_told() {
    for wrong in [&["--seed", "x"][..], &["--minutes"], &["--hours", "1"]] {
        let output = Command::new(program("ostler-chaos"))
            .args(wrong)
            .output()
            .expect("it runs");
        assert_eq!(output.status.code(), Some(1));
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains(wrong[0]) && told.contains("cargo xtask chaos"), "{told}");
    }
}
