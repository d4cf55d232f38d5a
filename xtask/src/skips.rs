//! What a run skipped: counted and named at its end. In CI (`CI=true`) a skip fails the run unless
//! `.ci/expected-skips` lists it with a reason; otherwise a check could be lost for months without
//! a sign.

use std::fmt;

use crate::steps::{Outcome, root};

/// One line for each skip that CI accepts: a part of its message, ` = `, and why that is
/// acceptable.
const EXPECTED: &str = ".ci/expected-skips";

/// Everything that was skipped so far.
#[derive(Default)]
pub(crate) struct Skips(Vec<Skip>);

struct Skip {
    /// The step, or the test.
    what: String,
    why: String,
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

impl Skips {
    /// Notes that this was skipped, and prints it.
    pub(crate) fn step(&mut self, what: &str, why: &str) {
        println!("── {what}: skipped, {why}");
        self.test(what, why);
    }

    /// Notes it without printing.
    pub(crate) fn test(&mut self, what: &str, why: &str) {
        self.0.push(Skip {
            what: what.to_owned(),
            why: why.to_owned(),
        });
    }

    /// Prints the list. In CI, fails if there is a skip that is not expected.
    pub(crate) fn conclude(self) -> Outcome {
        let expected =
            std::fs::read_to_string(root().join(EXPECTED)).map_err(|error| format!("{EXPECTED}: {error}"))?;
        println!("── skipped: {}", self.0.len());
        self.named().iter().for_each(|skip| println!("   {skip}"));
        let unexpected = self.unexpected(&expected);
        if unexpected.is_empty() || !in_ci() {
            return Ok(());
        }
        Err(format!(
            "skipped in CI without being listed with a reason in {EXPECTED}:\n{}",
            unexpected.join("\n")
        ))
    }

    /// Each skip with its reason.
    pub(crate) fn named(&self) -> Vec<String> {
        self.0.iter().map(Skip::to_string).collect()
    }

    fn unexpected(&self, expected: &str) -> Vec<String> {
        let listed: Vec<&str> = expected
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once(" = "))
            .map(|(message, _)| message.trim())
            .collect();
        let is_unlisted = |skip: &&Skip| !listed.iter().any(|message| skip.why.contains(message));
        self.0.iter().filter(is_unlisted).map(Skip::to_string).collect()
    }
}

fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| !value.is_empty() && value != "false" && value != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_unlisted_with_a_reason_may_be_skipped() {
        let mut skips = Skips::default();
        skips.test("kill::traced", "this machine forbids ptrace");
        skips.test("advisories", "cargo-deny is not installed");
        let list = "# a comment = not a line\ncargo-deny is not = a job of its own\nthis machine\n";
        assert_eq!(skips.unexpected(list), ["kill::traced: this machine forbids ptrace"]);
        assert!(skips.unexpected("this machine = x\ncargo-deny = y\n").is_empty());
    }
}
