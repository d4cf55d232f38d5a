//! Processes of this program that measure one thing on their own and print numbers.

use std::process::{Command, Stdio};

/// Runs this program in a role. Returns the numbers that it prints, one a line.
pub(crate) fn numbers<T: std::str::FromStr>(role: &str, arguments: &[&str]) -> Vec<T> {
    let output = Command::new(std::env::current_exe().expect("path of this program"))
        .arg(role)
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .expect("running this program");
    assert!(output.status.success(), "{role} {arguments:?}: {}", output.status);
    let text = String::from_utf8(output.stdout).expect("numbers");
    let number = |line: &str| line.parse().unwrap_or_else(|_| panic!("{role}: no number: {line}"));
    text.lines().map(number).collect()
}

/// Prints the numbers of a role.
pub(crate) fn print<T: std::fmt::Display>(numbers: impl IntoIterator<Item = T>) {
    for number in numbers {
        println!("{number}");
    }
}
