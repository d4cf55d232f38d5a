//! Runs the program from outside.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A program that the kernel kills when the test's thread ends, even if the test program is killed.
pub(crate) fn with_the_test(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);
    command
}

/// The program, as a terminal starts it: nohup(1) and a shell without job control leave signals
/// ignored, which the program respects, and the tests may be run by either.
pub(crate) fn ostler(arguments: &[&str]) -> Command {
    let mut command = with_the_test("env");
    command.args(["--default-signal", env!("CARGO_BIN_EXE_ostler")]);
    command.args(arguments).stdin(Stdio::null());
    command
        .env_remove("TERM")
        .env_remove("RUNTIME_DIRECTORY")
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("OSTLER_LOG");
    command
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    run_with(arguments, &[])
}

/// The same with variables beside the inherited ones.
pub(crate) fn run_with(arguments: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = ostler(arguments);
    command.envs(env.iter().copied());
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), text(&stdout), text(&stderr))
}

/// A folder with an ostler.toml of these pools.
pub(crate) fn folder(pools: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ostler.toml");
    std::fs::write(&file, format!("[app]\nname = \"cli\"\nstate_dir = \"state\"\n{pools}")).unwrap();
    (folder, file)
}

pub(crate) fn utf8(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The lines of a stream, as they come.
pub(crate) fn lines(stream: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// A program that runs; dropped in the middle of a test that fails, it is killed.
pub(crate) struct Running(Option<Child>);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(Some(command.spawn().unwrap()))
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child().id()).unwrap()), signal).unwrap();
    }

    /// Its status, when it has ended by itself.
    pub(crate) fn ended(mut self) -> Option<i32> {
        let mut child = self.0.take().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let (sender, end) = channel();
        std::thread::spawn(move || sender.send(child.wait()));
        let Ok(status) = end.recv_timeout(SOON) else {
            kill(pid, Signal::SIGKILL).unwrap();
            panic!("it did not end by itself");
        };
        status.unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// A run with its events on stdout, which are read as they come.
pub(crate) struct Up {
    pub(crate) running: Running,
    events: Receiver<String>,
    pub(crate) said: Receiver<String>,
}

impl Up {
    /// Starts the command, which has `--events -`.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut running = Running::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        let (stdout, stderr) = (running.child().stdout.take(), running.child().stderr.take());
        Self {
            running,
            events: lines(stdout.unwrap()),
            said: lines(stderr.unwrap()),
        }
    }

    /// A run of this file.
    pub(crate) fn of(file: &Path) -> Self {
        Self::start(ostler(&["up", utf8(file), "--events", "-"]))
    }

    /// The next event of this name.
    pub(crate) fn event(&self, name: &str) -> serde_json::Value {
        let deadline = Instant::now() + SOON;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self
                .events
                .recv_timeout(left)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            if event["event"] == name {
                return event;
            }
        }
    }

    /// A field of its /proc/PID/status.
    pub(crate) fn status(&mut self, field: &str) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.running.child().id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap().trim().to_owned()
    }
}

/// Waits until it is so.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
