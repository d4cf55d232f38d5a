//! What the tests share: processes that are proven gone at the end, waiting for a state, running as `nobody`.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ostler_core::signal::Signal;
use ostler_os::identity::{self, Attribution, ProcessHandle, ProcessIdentity, Verified};
use ostler_os::procfile;

/// No state that a test waits for takes longer on any machine that we know.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The user `nobody`.
pub(crate) const NOBODY: u32 = 65534;

pub(crate) fn soon() -> Instant {
    Instant::now() + PATIENCE
}

/// Waits until `state` holds; fails the test when it does not in time.
pub(crate) fn until(what: &str, mut state: impl FnMut() -> bool) {
    let deadline = soon();
    while !state() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::park_timeout(Duration::from_millis(1));
    }
}

pub(crate) fn test_attribution() -> Attribution {
    Attribution::new("test", "the test is over")
}

/// A process of a test with everything it starts, found by a variable in the environment that is this test's own.
/// Dropping it kills them all; [`Troupe::assert_none_left`] proves that none was left to kill.
pub(crate) struct Troupe {
    tag: String,
    children: Vec<Child>,
}

impl Troupe {
    pub(crate) fn new() -> Self {
        Self {
            tag: format!("OSTLER_TEST_{}", uuid::Uuid::now_v7().simple()),
            children: Vec::new(),
        }
    }

    /// A command that bears the tag.
    pub(crate) fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).env(&self.tag, "1").stdin(Stdio::null());
        command
    }

    /// Spawns; returns the pid.
    pub(crate) fn spawn(&mut self, mut command: Command) -> i32 {
        let child = command.spawn().expect("the test's child starts");
        let pid = child.id() as i32;
        self.children.push(child);
        pid
    }

    /// Spawns with a piped stdout and waits for its first line: the pid and the line, without its end.
    pub(crate) fn spawn_and_hear(&mut self, mut command: Command) -> (i32, String) {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the test's child starts");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("piped");
        // Unbuffered on purpose: what follows the first line stays in the pipe.
        BufReader::with_capacity(1, stdout.by_ref())
            .read_line(&mut line)
            .expect("readable");
        let pid = child.id() as i32;
        self.children.push(child);
        (pid, line.trim_end().to_owned())
    }

    /// `python3 -c script`, and its first line.
    pub(crate) fn python(&mut self, script: &str) -> (i32, String) {
        let command = self.command("python3", &["-u", "-c", script]);
        self.spawn_and_hear(command)
    }

    /// Reaps those of our own children that have ended.
    pub(crate) fn reap(&mut self) {
        self.children
            .retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
    }

    /// Living processes that bear the tag.
    pub(crate) fn living(&self) -> Vec<ProcessIdentity> {
        let bears_tag = |pid: &i32| {
            let tag = self.tag.as_bytes();
            fs::read(format!("/proc/{pid}/environ")).is_ok_and(|env| env.windows(tag.len()).any(|window| window == tag))
        };
        let pids = procfile::all_pids().expect("readable");
        pids.into_iter()
            .filter(bears_tag)
            .filter_map(|pid| identity::of(pid).expect("readable"))
            .collect()
    }

    /// Proves that nothing of the test lives on.
    pub(crate) fn assert_none_left(&mut self) {
        until("every process of the test is gone", || {
            self.reap();
            self.living().is_empty()
        });
    }
}

impl Drop for Troupe {
    fn drop(&mut self) {
        for identity in self.living() {
            if let Ok(Verified::Same(handle)) = identity::verify(&identity) {
                let _ = handle.signal(Signal::KILL, &test_attribution());
            }
        }
        for child in &mut self.children {
            // One that is in the middle of its exec shows no environment yet.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The handle of a living process.
pub(crate) fn handle_of(pid: i32) -> ProcessHandle {
    ProcessHandle::open(pid).expect("readable").expect("alive")
}

/// Whether we are root, as on machines where tests run in a container.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs one test of this binary again, as `nobody`, and fails when it fails. Needs root.
pub(crate) fn run_as_nobody(test: &str) {
    run_as_nobody_by(&["sh", "-c"], "true", test);
}

/// The same, with a line of shell before it that root runs in a mount namespace of its own.
pub(crate) fn run_as_nobody_after(line: &str, test: &str) {
    run_as_nobody_by(&["unshare", "--mount", "sh", "-c"], line, test);
}

fn run_as_nobody_by(shell: &[&str], line: &str, test: &str) {
    let dir = tempfile::Builder::new()
        .permissions(world_readable())
        .tempdir()
        .expect("a directory");
    let copy = dir.path().join("tests");
    fs::copy(std::env::current_exe().expect("we have a program"), &copy).expect("copied");
    fs::set_permissions(&copy, world_readable()).expect("permitted");
    let user = format!("setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups");
    let output = Command::new(shell[0])
        .args(&shell[1..])
        .arg(format!("{line} && exec {user} \"$0\" \"$@\""))
        .arg(&copy)
        .args(["--exact", test, "--nocapture"])
        .current_dir("/")
        .output()
        .expect("the tests run as nobody");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.status.success() && text.contains("1 passed"),
        "as nobody: {text}"
    );
}

fn world_readable() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o755)
}
