//! Reads what `cargo test -- --show-output` prints: forwards it, and collects the tests that
//! skipped themselves.
//!
//! A test says so with a line `skipped: WHY`, which libtest captures. `--show-output` prints what
//! passing tests have captured, below a line `successes:`; that part is read and not forwarded.

use crate::skips::Skips;

const SKIPPED: &str = "skipped: ";

/// The state of the reading, line by line.
#[derive(Default)]
pub(crate) struct Listener {
    in_successes: bool,
    test: String,
}

impl Listener {
    /// Takes one line; returns whether it should be forwarded.
    pub(crate) fn line(&mut self, line: &str, skips: &mut Skips) -> bool {
        if line == "successes:" {
            self.in_successes = true;
            return false;
        }
        if line == "failures:" || line.starts_with("test result:") {
            self.in_successes = false;
        }
        if let Some(test) = output_of(line) {
            test.clone_into(&mut self.test);
        }
        // Without capturing, libtest's own "test NAME ... " can stand before it on the line.
        if let Some((_, why)) = line.split_once(SKIPPED).filter(|(before, _)| is_start(before)) {
            skips.test(&self.test, why.trim());
        }
        !self.in_successes
    }
}

/// The test whose captured output begins with this line.
fn output_of(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

fn is_start(before: &str) -> bool {
    before.is_empty() || before.ends_with("... ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_are_found_and_the_output_of_passing_tests_is_not_forwarded() {
        let printed = "\
running 2 tests
test a ... ok
test b ... ok

successes:

---- a stdout ----
skipped: no cgroup

successes:
    a
    b

test result: ok. 2 passed
running 1 test
test c ... skipped: takes root
ok";
        let (mut listener, mut skips) = (Listener::default(), Skips::default());
        let forwarded: Vec<&str> = printed.lines().filter(|line| listener.line(line, &mut skips)).collect();
        assert_eq!(forwarded.len(), 8, "{forwarded:?}");
        assert_eq!(skips.named(), ["a: no cgroup", "a: takes root"]);
    }
}
