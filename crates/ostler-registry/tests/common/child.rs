//! Tests with real processes: a child is this test binary, run again for one test, with its task in
//! environment variables.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use ostler_registry::Engine;

const DIR: &str = "OSTLER_TEST_DIR";
const ENGINE: &str = "OSTLER_TEST_ENGINE";
const MARK: &str = "@ostler ";

/// The task of a child: directory and engine. `None` in the parent.
pub(crate) fn child_task() -> Option<(PathBuf, Engine)> {
    let dir = std::env::var_os(DIR)?;
    let engine = std::env::var(ENGINE)
        .ok()
        .and_then(|name| Engine::from_name(&name))
        .expect("name of an engine");
    Some((dir.into(), engine))
}

/// Prints a line for the parent. The test harness prints its own lines in between.
pub(crate) fn report(line: &str) {
    println!("\n{MARK}{line}");
}

/// A running child, killed and waited for on drop.
pub(crate) struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// Runs the test `name` of this binary as a child, which gets its task from [`child_task`].
    pub(crate) fn start(name: &str, dir: &Path, engine: Engine) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("path of this program"))
            .args([name, "--exact", "--nocapture", "--test-threads=1"])
            .env(DIR, dir)
            .env(ENGINE, engine.name())
            .stdout(Stdio::piped())
            .spawn()
            .expect("child");
        let lines = BufReader::new(child.stdout.take().expect("piped stdout")).lines();
        Self { child, lines }
    }

    /// Sends SIGKILL.
    pub(crate) fn kill(&mut self) {
        // Only a reaped child cannot be killed, which is fine.
        _ = self.child.kill();
    }

    /// Whether the child exited successfully. Call this after its last line.
    pub(crate) fn ended_well(&mut self) -> bool {
        self.child.wait().expect("waiting for the child").success()
    }
}

impl Iterator for Running {
    type Item = String;

    /// The next line printed by the child; `None` once it has ended.
    fn next(&mut self) -> Option<String> {
        self.lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix(MARK).map(str::to_owned))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        self.child.wait().expect("waiting for the child");
    }
}
