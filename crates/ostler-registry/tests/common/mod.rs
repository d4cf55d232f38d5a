//! Helpers for tests with real processes: a child is this test binary, run again for one test, with
//! its task in an environment variable.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use ostler_core::ids::{Incarnation, RunId, WorkerId};
use ostler_core::process::ProcessIdentity;
use ostler_registry::{Engine, Key, OnTableEvent, Owner, Record, RunDir, RunInfo, Table, TableOptions, UnixNanos};
use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;

const DIR: &str = "OSTLER_TEST_DIR";
const ENGINE: &str = "OSTLER_TEST_ENGINE";
const MARK: &str = "@ostler ";

/// The engines of this build.
pub(crate) fn engines() -> impl Iterator<Item = Engine> {
    Engine::ALL.into_iter().filter(|engine| engine.is_compiled_in())
}

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

pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("runtime")
}

pub(crate) fn owner() -> Owner {
    Owner {
        app: "demo".to_owned(),
        instance: "main".to_owned(),
        run: RunId::from_parts(1, [3; 10]),
    }
}

pub(crate) fn process(pid: i32) -> ProcessIdentity {
    ProcessIdentity {
        boot_id: Uuid::from_u128(7),
        pid_namespace: 4_026_531_836,
        pid,
        start_time: 99,
        pidfd_inode: 2_025_430,
    }
}

pub(crate) fn make_run(app_dir: &Path, engine: Engine) -> RunDir {
    RunDir::create(app_dir, RunInfo::new(&owner(), process(1), engine, UnixNanos(1))).expect("run directory")
}

pub(crate) async fn open(run: &RunDir, engine: Engine, on_event: OnTableEvent) -> Table {
    let options = TableOptions {
        engine,
        retry_first: std::time::Duration::from_millis(5),
        ..TableOptions::default()
    };
    Table::open(run, options, on_event).await.expect("table")
}

pub(crate) fn key(index: u32, incarnation: u64) -> Key {
    Key::new(WorkerId::new("embed", index), Incarnation(incarnation))
}

pub(crate) fn reservation(index: u32, incarnation: u64) -> Record {
    Record::reservation(&owner(), key(index, incarnation), 5, UnixNanos(2))
}
