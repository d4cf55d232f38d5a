//! Support code for the end-to-end tests: running the program, reading its events, counting
//! surviving processes.
//!
//! Nothing here sleeps to synchronise: tests wait for an event, with a deadline.

pub mod cancel;
#[path = "../../crates/ostler-os/tests/shared/executable.rs"]
mod executable;
pub mod greeter;
pub mod helloworld;
pub mod leftovers;
pub mod receiver;
pub mod route_guide;
pub mod scene;
pub mod sweep;
pub mod tracer;
pub mod world;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use leftovers::TestDirectory;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// How long a test waits for something that should happen promptly, on a machine that is busy with
/// other tests.
pub const SOON: Duration = Duration::from_secs(20);

/// The path of a program next to the running test; `cargo test --workspace` builds both.
///
/// # Panics
///
/// If the program has not been built.
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

/// The command line of a test worker with these modes, as a TOML array.
pub fn worker(modes: &str, tag: &str) -> String {
    let path = program("ostler-test-worker");
    format!("[{:?}, {modes:?}, \"{{port}}\", {tag:?}]", path.display().to_string())
}

/// Starts a process outside the run's process tree that carries the marker of the worker `of` and
/// ignores TERM, INT and HUP.
///
/// # Panics
///
/// If the worker is not running.
pub fn stray(of: u32, tag: &str) -> Stray {
    let worker = i32::try_from(of)
        .ok()
        .and_then(|pid| procfs::process::Process::new(pid).ok());
    let environment = worker
        .and_then(|worker| worker.environ().ok())
        .expect("worker is running");
    let marker = environment
        .into_iter()
        .find(|(name, _)| name.to_string_lossy().starts_with("OSTLER_RUN_"));
    let (name, value) = marker.expect("worker carries its run's marker");
    let mut command = Command::new(program("ostler-test-worker"));
    command.args(["ignore-term+sleep", "0", tag]).env(name, value);
    let child = scene::killed_with_the_test(&command).stdout(Stdio::null()).spawn();
    Stray(child.expect("stray process starts"))
}

/// A process started by [`stray`]. Killed on drop, so that a failing test leaves nothing behind.
#[derive(Debug)]
pub struct Stray(Child);

impl Stray {
    /// The process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether the process is running.
    ///
    /// # Panics
    ///
    /// If its status cannot be read.
    pub fn lives(&mut self) -> bool {
        self.0.try_wait().expect("child of the test").is_none()
    }

    /// Waits for the process to end.
    ///
    /// # Panics
    ///
    /// If it does not end soon.
    pub fn ended(&mut self) {
        let deadline = Instant::now() + SOON;
        while self.lives() {
            assert!(Instant::now() < deadline, "stray process is still running");
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
    /// All events read so far.
    pub seen: Vec<Value>,
    /// The directory of the configuration file and of the state. Its drop ends what is left of the
    /// run.
    pub directory: TestDirectory,
    /// A text in the command line of every process of this run, and of no other process.
    pub tag: String,
}

/// Creates a directory for one run. Its name is the run's unique tag. On drop, all processes of the
/// run are killed and the directory is removed.
///
/// # Panics
///
/// If the directory cannot be created.
pub fn tagged_directory() -> (TestDirectory, String) {
    let directory = TestDirectory::new();
    let tag = directory.name();
    (directory, tag)
}

/// Writes a configuration file with these pools; the state is kept in `directory`.
pub fn config(directory: &Path, pools: &str) -> PathBuf {
    let path = directory.join("ostler.toml");
    let text = format!(
        "[app]\nname = \"test\"\nstate_dir = \"state\"\n{}\n{pools}",
        engine_line()
    );
    std::fs::write(&path, text).expect("writing the configuration");
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
    /// Starts a run. `pools` receives the run's tag and returns the pools.
    pub fn start(pools: impl FnOnce(&str) -> String) -> Self {
        Self::start_with(pools, |_| {})
    }

    /// Like [`Up::start`]; `change` may change the command before it runs.
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
        let stdout = BufReader::new(child.stdout.take().expect("piped stdout"));
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

    /// Like [`Up::start_with`], with a state directory shared with other runs of the same app.
    pub fn start_in(state: &Path, pools: impl FnOnce(&str) -> String, change: impl FnOnce(&mut Command)) -> Self {
        Self::start_with(pools, |command| {
            let file = command.get_args().nth(1).expect("configuration file").to_owned();
            let text = std::fs::read_to_string(&file).expect("reading the configuration");
            let shared = format!("state_dir = {:?}", state.display().to_string());
            std::fs::write(&file, text.replace("state_dir = \"state\"", &shared)).expect("rewriting the configuration");
            change(command);
        })
    }

    /// Whether the program has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// The program's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The state directory.
    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// Reads events until one matches.
    ///
    /// # Panics
    ///
    /// If none matches within the time.
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

    /// Reads events until one has this name.
    pub fn wait_for_event(&mut self, name: &str) -> Value {
        self.wait_for(name, SOON, |event| event["event"] == name)
    }

    /// Reads stderr until a line matches.
    ///
    /// # Panics
    ///
    /// If none matches within the time.
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

    /// Reads events for at most this time. Returns the first one that matches.
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

    /// The number of workers that are ready and have not ended since, according to the events read
    /// so far.
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

    /// Reads all events until the program ends. Returns its exit status and its stderr.
    ///
    /// # Panics
    ///
    /// If it does not end within the time.
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
        let status = self.child.wait().expect("waiting for ostler");
        let stderr = self
            .stderr
            .take()
            .map(|thread| thread.join().expect("reading stderr"))
            .unwrap_or_default();
        (status, stderr)
    }

    /// Sends a signal to the program.
    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Sends a signal until the program ends: what comes together with the first is no second one.
    /// Returns what [`Up::end`] does.
    ///
    /// # Panics
    ///
    /// If it does not end within the time.
    pub fn insist(&mut self, signal: Signal, within: Duration) -> (ExitStatus, String) {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            self.signal(signal);
            self.read_until(Instant::now() + Duration::from_millis(50));
        }
        self.end(deadline.saturating_duration_since(Instant::now()))
    }

    /// Sends TERM, waits for the end and asserts that nothing is left. Most tests end with this.
    /// Returns stderr.
    pub fn stop_cleanly(&mut self) -> String {
        self.signal(Signal::SIGTERM);
        let (status, stderr) = self.end(SOON);
        assert_eq!(status.code(), Some(0), "exit status; {stderr}");
        assert_eq!(self.count("cleanup.success"), 1, "{}", self.story());
        self.assert_nothing_left();
        stderr
    }

    /// The number of events with this name read so far.
    pub fn count(&self, name: &str) -> usize {
        self.seen.iter().filter(|event| event["event"] == name).count()
    }

    /// The events with this name read so far.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Value> {
        self.seen.iter().filter(move |event| event["event"] == name)
    }

    /// All events read so far, one per line.
    pub fn story(&self) -> String {
        self.seen.iter().map(|event| format!("\n  {event}")).collect()
    }

    /// # Panics
    ///
    /// If a process or a record of this run is left.
    pub fn assert_nothing_left(&self) {
        let left = survivors(&self.tag);
        assert!(left.is_empty(), "processes are left: {left:?}");
        let runs: Vec<_> = run_directories(&self.state());
        assert!(runs.is_empty(), "run directories are left: {runs:?}");
    }
}

impl Drop for Up {
    /// A failing test leaves nothing behind either: the directory's drop ends the rest of the run.
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// Returns the command with the default actions for INT and HUP, as in a terminal. Tests may run as
/// a background job of a shell, which ignores INT; the program would inherit and respect that.
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

/// Reads stderr to its end and sends each line to the receiver, if there still is one.
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

/// All `run.lock` files below the state directory.
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

/// Sends a signal to a process started by the test.
pub fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("valid pid"));
    // A process that has just ended is as good as killed.
    let _ = kill(pid, signal);
}

/// Stops a process, and waits until none of its threads runs: a stop takes effect when a thread
/// next enters user mode, and until then a thread finishes its system call.
///
/// # Panics
///
/// If it isn't stopped [`SOON`].
pub fn halt(pid: u32) {
    send(pid, Signal::SIGSTOP);
    let process = procfs::process::Process::new(pid.cast_signed()).expect("a process");
    let deadline = Instant::now() + SOON;
    loop {
        let mut tasks = process.tasks().expect("a process").flatten();
        if tasks.all(|task| task.stat().is_ok_and(|stat| stat.state == 'T')) {
            return;
        }
        assert!(Instant::now() < deadline, "{pid} is not stopped");
        std::thread::yield_now();
    }
}

/// The pid in an event.
pub fn pid_of(event: &Value) -> u32 {
    event["pid"]
        .as_u64()
        .and_then(|pid| u32::try_from(pid).ok())
        .unwrap_or_else(|| panic!("no pid in {event}"))
}

/// The pids of the surviving processes. Unlike the command line, the pid does not change during an
/// exec.
pub fn pids(tag: &str) -> BTreeSet<i32> {
    survivors(tag).into_iter().map(|(pid, _)| pid).collect()
}

/// Whether nothing of the process runs any more. After the end of its main thread it is in state Z
/// while other threads run.
pub fn has_ended(stat: &procfs::process::Stat) -> bool {
    stat.state == 'Z' && stat.num_threads <= 1
}

/// The directories in `/proc` that show a process: its own and, in case that its main thread has
/// ended and shows nothing, those of its threads.
pub fn shown_in(pid: i32) -> Vec<PathBuf> {
    let own = PathBuf::from(format!("/proc/{pid}"));
    let mut directories = vec![own.clone()];
    if std::fs::read(own.join("cmdline")).is_ok_and(|line| line.is_empty()) {
        let threads = std::fs::read_dir(own.join("task")).into_iter().flatten().flatten();
        directories.extend(threads.map(|thread| thread.path()));
    }
    directories
}

/// The arguments of a process, its program's name first.
fn arguments(pid: i32) -> Vec<String> {
    let line = |directory: PathBuf| std::fs::read(directory.join("cmdline")).unwrap_or_default();
    let line = shown_in(pid).into_iter().map(line).find(|line| !line.is_empty());
    let line = String::from_utf8_lossy(&line.unwrap_or_default()).into_owned();
    line.split_terminator('\0').map(str::to_owned).collect()
}

/// The processes, except those that have ended, with the tag as an argument in their command line.
pub fn survivors(tag: &str) -> Vec<(i32, String)> {
    let Ok(processes) = procfs::process::all_processes() else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter_map(|process| {
            let line = arguments(process.pid);
            let alive = process.stat().is_ok_and(|stat| !has_ended(&stat));
            (alive && line.iter().any(|argument| argument == tag)).then(|| (process.pid, line.join(" ")))
        })
        .collect()
}
