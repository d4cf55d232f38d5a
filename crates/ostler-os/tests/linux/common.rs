//! Helpers: processes that must be gone at the end of a test, waiting for a state, running as an
//! unprivileged user.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ostler_core::signal::Signal;
use ostler_os::identity::{self, Attribution, ProcessHandle, ProcessIdentity, Verified};
use ostler_os::procfile;

use crate::executable::install;

/// The limit for every wait.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// The id of an unprivileged user.
pub(crate) const UNPRIVILEGED: u32 = 65534;

pub(crate) fn soon() -> Instant {
    Instant::now() + TIMEOUT
}

/// Waits until `state` holds. Panics if that takes too long.
pub(crate) fn until(what: &str, mut state: impl FnMut() -> bool) {
    let deadline = soon();
    while !state() {
        assert!(Instant::now() < deadline, "timeout: {what}");
        thread::park_timeout(Duration::from_millis(1));
    }
}

pub(crate) fn test_attribution() -> Attribution {
    Attribution::new("test", "the test is over")
}

/// The end of a Python program: prints `said`, and ends the main thread while another one lives.
pub(crate) const END_OF_MAIN_THREAD: &str = "
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
print(said)
ctypes.CDLL(None).pthread_exit(None)
";

/// Waits for the end of a main thread. `procfile::stat` shows another thread after it.
pub(crate) fn until_main_thread_ended(pid: i32) {
    until("the main thread has ended", || {
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
    });
}

/// The processes of a test with their descendants, identified by an environment variable unique to
/// the test. Dropping it kills them all; [`Troupe::assert_none_left`] asserts that none is left.
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

    /// A command with the tag.
    pub(crate) fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).env(&self.tag, "1").stdin(Stdio::null());
        command
    }

    /// Starts a process and returns its pid.
    pub(crate) fn spawn(&mut self, mut command: Command) -> i32 {
        let child = command.spawn().expect("starting a process");
        let pid = child.id() as i32;
        self.children.push(child);
        pid
    }

    /// Starts a process with a piped stdout, and returns its pid and its first line without the
    /// newline.
    pub(crate) fn spawn_and_read_line(&mut self, mut command: Command) -> (i32, String) {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("starting a process");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("piped");
        // Unbuffered, so that what follows the first line stays in the pipe.
        BufReader::with_capacity(1, stdout.by_ref())
            .read_line(&mut line)
            .expect("readable");
        let pid = child.id() as i32;
        self.children.push(child);
        (pid, line.trim_end().to_owned())
    }

    /// Runs `python3 -c script` and reads its first line.
    pub(crate) fn python(&mut self, script: &str) -> (i32, String) {
        let command = self.command("python3", &["-u", "-c", script]);
        self.spawn_and_read_line(command)
    }

    /// Reaps children that have ended.
    pub(crate) fn reap(&mut self) {
        self.children
            .retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
    }

    /// The living processes with the tag.
    pub(crate) fn living(&self) -> Vec<ProcessIdentity> {
        let shows_tag = |directory: PathBuf| {
            let tag = self.tag.as_bytes();
            fs::read(directory.join("environ")).is_ok_and(|env| env.windows(tag.len()).any(|window| window == tag))
        };
        // A main thread that has ended shows no environment.
        let bears_tag = |pid: &i32| {
            let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
            threads.flatten().any(|thread| shows_tag(thread.path()))
        };
        let pids = procfile::all_pids().expect("readable");
        pids.into_iter()
            .filter(bears_tag)
            .filter_map(|pid| identity::of(pid).expect("readable"))
            .collect()
    }

    /// Kills every process of the test.
    pub(crate) fn kill_all(&self) {
        for identity in self.living() {
            if let Ok(Verified::Same(handle)) = identity::verify(&identity) {
                let _ = handle.signal(Signal::KILL, &test_attribution());
            }
        }
    }

    /// Asserts that no process of the test is left.
    pub(crate) fn assert_none_left(&mut self) {
        until("every process of the test is gone", || {
            self.reap();
            self.living().is_empty()
        });
    }
}

impl Drop for Troupe {
    fn drop(&mut self) {
        self.kill_all();
        for child in &mut self.children {
            // A process in the middle of an exec has no visible environment yet.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A handle to a running process.
pub(crate) fn handle_of(pid: i32) -> ProcessHandle {
    ProcessHandle::open(pid).expect("readable").expect("alive")
}

/// Whether the tests run as root, as they usually do in a container.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs one test of this program again as an unprivileged user. Panics if it fails. Needs root.
pub(crate) fn run_unprivileged(test: &str) {
    run_unprivileged_by(&["sh", "-c"], "true", test);
}

/// The same, after a line of shell that root runs in a new mount namespace.
pub(crate) fn run_unprivileged_after(line: &str, test: &str) {
    run_unprivileged_by(&["unshare", "--mount", "sh", "-c"], line, test);
}

fn run_unprivileged_by(shell: &[&str], line: &str, test: &str) {
    let dir = tempfile::Builder::new()
        .permissions(world_readable())
        .tempdir()
        .expect("temporary directory");
    let copy = dir.path().join("tests");
    install(std::env::current_exe().expect("path of this program"), &copy, 0o755);
    let user = format!("setpriv --reuid={UNPRIVILEGED} --regid={UNPRIVILEGED} --clear-groups");
    let output = Command::new(shell[0])
        .args(&shell[1..])
        .arg(format!("{line} && exec {user} \"$0\" \"$@\""))
        .arg(&copy)
        .args(["--exact", test, "--nocapture"])
        .current_dir("/")
        .output()
        .expect("running the test unprivileged");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.status.success() && text.contains("1 passed"),
        "unprivileged: {text}"
    );
}

fn world_readable() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o755)
}
