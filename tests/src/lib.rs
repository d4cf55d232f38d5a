//! What the tests of Ostler from outside have in common: running the program, reading its events, counting survivors.
//!
//! Nothing here sleeps to synchronise: a test waits for an event, with a deadline.

pub mod receiver;
pub mod scene;
pub mod sweep;
pub mod world;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// How long a test waits for what should happen at once, on a machine that is busy with other tests.
pub const SOON: Duration = Duration::from_secs(20);

/// The program beside the running test: `cargo test --workspace` builds both.
///
/// # Panics
/// When it was not built.
pub fn program(name: &str) -> PathBuf {
    let mut directory = std::env::current_exe().expect("the test knows its own path");
    directory.pop();
    if directory.ends_with("deps") {
        directory.pop();
    }
    let path = directory.join(name);
    assert!(
        path.exists(),
        "{} is missing: build it with `cargo build --workspace --bins`",
        path.display()
    );
    path
}

/// The command line of a test worker in these modes, as a TOML array.
pub fn worker(modes: &str, tag: &str) -> String {
    let path = program("ostler-test-worker");
    format!("[{:?}, {modes:?}, \"{{port}}\", {tag:?}]", path.display().to_string())
}

/// A process of the caller's with the marker of that worker, in no tree of its run; deaf to polite signals.
///
/// # Panics
/// When the worker does not live.
pub fn stray(of: u32, tag: &str) -> Stray {
    let worker = i32::try_from(of)
        .ok()
        .and_then(|pid| procfs::process::Process::new(pid).ok());
    let environment = worker
        .and_then(|worker| worker.environ().ok())
        .expect("the worker lives");
    let marker = environment
        .into_iter()
        .find(|(name, _)| name.to_string_lossy().starts_with("OSTLER_RUN_"));
    let (name, value) = marker.expect("a worker bears its run's marker");
    let mut command = Command::new(program("ostler-test-worker"));
    command.args(["ignore-term+sleep", "0", tag]).env(name, value);
    let child = scene::dying_with_us(&command).stdout(Stdio::null()).spawn();
    Stray(child.expect("it starts"))
}

/// What [`stray`] has started. It is killed at the end, however the test ends.
#[derive(Debug)]
pub struct Stray(Child);

impl Stray {
    /// Its pid.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether it lives.
    ///
    /// # Panics
    /// When it can't be asked.
    pub fn lives(&mut self) -> bool {
        self.0.try_wait().expect("it is our child").is_none()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end soon.
    pub fn ended(&mut self) {
        let deadline = Instant::now() + SOON;
        while self.lives() {
            assert!(Instant::now() < deadline, "the stray lives on");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A run of `ostler up`.
#[derive(Debug)]
pub struct Up {
    child: Child,
    lines: Receiver<Value>,
    log: Receiver<String>,
    stderr: Option<JoinHandle<String>>,
    /// Every event read so far.
    pub seen: Vec<Value>,
    /// The directory of the file and of the state; removed at the end.
    pub directory: tempfile::TempDir,
    /// What the command lines of this run's processes hold, and nobody else's.
    pub tag: String,
}

/// A directory of this run's own, removed at the end, and its name: a tag that no other run has.
///
/// # Panics
/// When it can't be made.
pub fn tagged_directory() -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let tag = directory
        .path()
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    (directory, tag)
}

/// A file of one app with its state in `directory`, and the given pools.
pub fn config(directory: &Path, pools: &str) -> PathBuf {
    let path = directory.join("ostler.toml");
    let text = format!(
        "[app]\nname = \"test\"\nstate_dir = \"state\"\n{}\n{pools}",
        engine_line()
    );
    std::fs::write(&path, text).expect("the file is written");
    path
}

fn engine_line() -> &'static str {
    if cfg!(feature = "rocksdb") {
        ""
    } else {
        "store = \"redb\""
    }
}

impl Up {
    /// Runs pools; `pools` is told the tag of this run.
    pub fn start(pools: impl FnOnce(&str) -> String) -> Self {
        Self::start_with(pools, |_| {})
    }

    /// The same, with a last word on the command.
    pub fn start_with(pools: impl FnOnce(&str) -> String, change: impl FnOnce(&mut Command)) -> Self {
        let (directory, tag) = tagged_directory();
        let path = config(directory.path(), &pools(&tag));
        let mut command = Command::new(program("ostler"));
        command.arg("up").arg(path).args(["--events", "-"]);
        command.env_remove("XDG_RUNTIME_DIR").env_remove("RUNTIME_DIRECTORY");
        change(&mut command);
        let mut command = with_default_signals(&command);
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .stdin(Stdio::null());
        let mut child = command.spawn().expect("ostler starts");
        let stdout = BufReader::new(child.stdout.take().expect("its stdout"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"));
                if sender.send(value).is_err() {
                    return;
                }
            }
        });
        let (said, log) = channel();
        let stderr = child
            .stderr
            .take()
            .map(|stderr| std::thread::spawn(move || read_all(stderr, &said)));
        Self {
            child,
            lines,
            log,
            stderr,
            seen: Vec::new(),
            directory,
            tag,
        }
    }

    /// A run of the same app in a state directory that other runs have, too.
    pub fn start_in(state: &Path, pools: impl FnOnce(&str) -> String, change: impl FnOnce(&mut Command)) -> Self {
        Self::start_with(pools, |command| {
            let file = command.get_args().nth(1).expect("its file").to_owned();
            let text = std::fs::read_to_string(&file).expect("the file was written");
            let shared = format!("state_dir = {:?}", state.display().to_string());
            std::fs::write(&file, text.replace("state_dir = \"state\"", &shared)).expect("it is written again");
            change(command);
        })
    }

    /// Whether the program has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// The pid of the program.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its runs are recorded.
    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// Reads on to the first event that fits.
    ///
    /// # Panics
    /// When none comes within the time.
    pub fn wait_for(&mut self, what: &str, within: Duration, fits: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(event) => {
                    self.seen.push(event.clone());
                    if fits(&event) {
                        return event;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no {what} within {within:?}; seen: {}", self.story()),
                Err(RecvTimeoutError::Disconnected) => panic!("ostler ended without {what}; seen: {}", self.story()),
            }
        }
    }

    /// Reads on to the first event of this name.
    pub fn wait_for_event(&mut self, name: &str) -> Value {
        self.wait_for(name, SOON, |event| event["event"] == name)
    }

    /// Reads on, in what is written for people, to the first line that fits.
    ///
    /// # Panics
    /// When none comes within the time.
    pub fn wait_for_log(&self, what: &str, within: Duration, fits: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + within;
        let mut log = String::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.log.recv_timeout(left);
            let line = line.unwrap_or_else(|error| panic!("no {what} ({error}) in:\n{log}"));
            if fits(&line) {
                return line;
            }
            log.push_str(&line);
        }
    }

    /// Reads what comes within the time; gives the first event that fits.
    pub fn poll(&mut self, within: Duration, fits: impl Fn(&Value) -> bool) -> Option<Value> {
        let deadline = Instant::now() + within;
        while let Ok(event) = self
            .lines
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            self.seen.push(event.clone());
            if fits(&event) {
                return Some(event);
            }
        }
        None
    }

    /// Reads events until this moment.
    pub fn read_until(&mut self, moment: Instant) {
        self.poll(moment.saturating_duration_since(Instant::now()), |_| false);
    }

    /// How many workers are ready and have not ended since, by the events read so far.
    pub fn alive_workers(&self) -> usize {
        let mut ready = std::collections::HashSet::new();
        for event in &self.seen {
            let Some(worker) = event["worker"].as_str() else {
                continue;
            };
            match event["event"].as_str() {
                Some("worker.ready") => _ = ready.insert(worker.to_owned()),
                Some("worker.exited" | "worker.stopping" | "worker.unhealthy") => _ = ready.remove(worker),
                _ => {}
            }
        }
        ready.len()
    }

    /// Reads every event up to the program's end, and gives its exit status and what it wrote for people.
    ///
    /// # Panics
    /// When it does not end within the time.
    pub fn end(&mut self, within: Duration) -> (ExitStatus, String) {
        let deadline = Instant::now() + within;
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(event) => self.seen.push(event),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("ostler did not end within {within:?}; seen: {}", self.story())
                }
            }
        }
        let status = self.child.wait().expect("ostler is waited for");
        let stderr = self
            .stderr
            .take()
            .map(|thread| thread.join().expect("stderr is read"))
            .unwrap_or_default();
        (status, stderr)
    }

    /// Sends the program a signal.
    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// TERM, the end, and nothing left: what most tests close with. Gives what was written for people.
    pub fn stop_cleanly(&mut self) -> String {
        self.signal(Signal::SIGTERM);
        let (status, stderr) = self.end(SOON);
        assert_eq!(status.code(), Some(0), "exit status; {stderr}");
        assert_eq!(self.count("cleanup.success"), 1, "{}", self.story());
        self.assert_nothing_left();
        stderr
    }

    /// How many events of this name were seen.
    pub fn count(&self, name: &str) -> usize {
        self.seen.iter().filter(|event| event["event"] == name).count()
    }

    /// The seen events of this name.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Value> {
        self.seen.iter().filter(move |event| event["event"] == name)
    }

    /// Every seen event as a line.
    pub fn story(&self) -> String {
        self.seen.iter().map(|event| format!("\n  {event}")).collect()
    }

    /// # Panics
    /// When a process of this run lives, or a record of it is left.
    pub fn assert_nothing_left(&self) {
        let left = survivors(&self.tag);
        assert!(left.is_empty(), "processes are left: {left:?}");
        let runs: Vec<_> = run_directories(&self.state());
        assert!(runs.is_empty(), "run directories are left: {runs:?}");
    }
}

impl Drop for Up {
    /// A test that failed leaves nothing behind either.
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// The same command with INT and HUP as a terminal has them: a shell's background job, as tests may be one, has INT ignored,
/// which the program would inherit and respect.
fn with_default_signals(command: &Command) -> Command {
    let mut env = Command::new("env");
    env.arg("--default-signal=INT,HUP")
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => env.env(name, value),
            None => env.env_remove(name),
        };
    }
    env
}

/// Reads to the end; each line is told as it comes, to whoever still listens.
fn read_all(stderr: ChildStderr, said: &Sender<String>) -> String {
    let mut text = String::new();
    let mut lines = BufReader::new(stderr);
    let mut bytes = Vec::new();
    while lines.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
        let line = String::from_utf8_lossy(&bytes).into_owned();
        text.push_str(&line);
        drop(said.send(line));
        bytes.clear();
    }
    text
}

/// Every `run.lock` below the state directory.
pub fn run_directories(state: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(state) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(run_directories(&path));
        } else if path.ends_with("run.lock") {
            found.push(path);
        }
    }
    found
}

/// Sends a signal to a process of the test's own.
pub fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid"));
    // One that has just ended is as good as killed.
    let _ = kill(pid, signal);
}

/// The pid in an event.
pub fn pid_of(event: &Value) -> u32 {
    event["pid"]
        .as_u64()
        .and_then(|pid| u32::try_from(pid).ok())
        .unwrap_or_else(|| panic!("no pid in {event}"))
}

/// The pids of the survivors: a process in the middle of an exec has its old command line, and its pid.
pub fn pids(tag: &str) -> BTreeSet<i32> {
    survivors(tag).into_iter().map(|(pid, _)| pid).collect()
}

/// Processes, zombies not counted, whose command line holds the tag as an argument of its own.
pub fn survivors(tag: &str) -> Vec<(i32, String)> {
    let Ok(processes) = procfs::process::all_processes() else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter_map(|process| {
            let line = process.cmdline().ok()?;
            let alive = process.stat().is_ok_and(|stat| stat.state != 'Z');
            (alive && line.iter().any(|argument| argument == tag)).then(|| (process.pid, line.join(" ")))
        })
        .collect()
}
