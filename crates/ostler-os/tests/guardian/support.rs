//! A launched guardian, requests for small workers, and waiting with a deadline.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use ostler_core::signal::Signal;
use ostler_os::guardian::{
    EndPolicy, Events, Guardian, GuardianEvent, GuardianOptions, SpawnRequest, SpawnStep, TreeKill,
};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};

use crate::executable::install;

/// The limit of every wait in these tests.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A guardian under test.
pub(crate) struct Bench {
    pub(crate) guardian: Guardian,
    pub(crate) events: Events,
}

impl Bench {
    pub(crate) async fn launch() -> Self {
        Self::launch_with(GuardianOptions::default()).await
    }

    pub(crate) async fn launch_with(options: GuardianOptions) -> Self {
        let (guardian, events) = Guardian::launch(options).await.expect("launching the guardian");
        Self { guardian, events }
    }

    pub(crate) async fn next(&mut self) -> GuardianEvent {
        let next = tokio::time::timeout(DEADLINE, self.events.recv()).await;
        next.expect("timeout waiting for an event").expect("event stream ended")
    }

    /// The first event for which `select` returns a value. Earlier events are dropped.
    pub(crate) async fn until<T>(&mut self, select: impl Fn(&GuardianEvent) -> Option<T>) -> T {
        loop {
            let event = self.next().await;
            if let Some(found) = select(&event) {
                return found;
            }
        }
    }

    /// Starts an incarnation and waits until it runs.
    pub(crate) async fn start(&mut self, slot: u32, incarnation: u64, request: SpawnRequest) -> u32 {
        self.guardian
            .spawn(slot, incarnation, request)
            .expect("queuing the request");
        self.until(|event| match event {
            GuardianEvent::Spawned {
                slot: s,
                incarnation: i,
                worker,
                ..
            } if (*s, *i) == (slot, incarnation) => Some(worker.pid),
            GuardianEvent::SpawnFailed { step, errno, .. } => panic!("not started: {step:?}, errno {errno}"),
            _ => None,
        })
        .await
    }

    /// Starts an incarnation whose start must fail.
    pub(crate) async fn fail(&mut self, slot: u32, request: SpawnRequest) -> (SpawnStep, i32) {
        self.guardian.spawn(slot, 1, request).expect("queuing the request");
        match self.next().await {
            GuardianEvent::SpawnFailed {
                slot: s,
                incarnation: 1,
                step,
                errno,
            } if s == slot => (step, errno),
            other => panic!("{other:?}"),
        }
    }

    /// Waits for the end of an incarnation. Returns how the worker ended, how many other processes
    /// were killed, and how.
    pub(crate) async fn gone(&mut self, slot: u32, incarnation: u64) -> (ExitStatus, u32, TreeKill) {
        let mut exit = None;
        loop {
            match self.next().await {
                GuardianEvent::Exited {
                    slot: s,
                    incarnation: i,
                    status,
                    ..
                } if (s, i) == (slot, incarnation) => {
                    assert_eq!(exit.replace(status), None, "an exit is reported only once");
                }
                GuardianEvent::TreeGone {
                    slot: s,
                    incarnation: i,
                    killed,
                    how,
                } if (s, i) == (slot, incarnation) => {
                    return (
                        exit.expect("the exit is reported before the end of the tree"),
                        killed,
                        how,
                    );
                }
                GuardianEvent::SitterLost { .. } | GuardianEvent::SpawnFailed { .. } => panic!("a sitter was lost"),
                _ => {}
            }
        }
    }

    pub(crate) fn kill(&self, slot: u32, incarnation: u64) {
        self.guardian
            .end(slot, incarnation, Signal::KILL, Duration::ZERO)
            .expect("queuing the request");
    }

    pub(crate) fn term(&self, slot: u32, incarnation: u64, grace: Duration) {
        self.guardian
            .end(slot, incarnation, Signal::TERM, grace)
            .expect("queuing the request");
    }

    /// A clean end: the guardian has nothing left, and the last event is `Ended`.
    pub(crate) async fn quit(mut self) {
        let pid = self.guardian.pid();
        self.guardian.quit(DEADLINE).await.expect("guardian has nothing left");
        loop {
            match self.next().await {
                GuardianEvent::Ended => break,
                GuardianEvent::Lost { .. } => panic!("a clean end must not be a loss"),
                _ => {}
            }
        }
        assert_eq!(self.events.recv().await, None);
        assert!(
            !Path::new(&format!("/proc/{pid}")).exists(),
            "the guardian must be reaped"
        );
    }
}

/// /dev/null, as a descriptor.
pub(crate) fn null() -> OwnedFd {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .expect("opening /dev/null")
        .into()
}

/// A worker without output and with a small environment.
pub(crate) fn request(program: &str, args: &[&str]) -> SpawnRequest {
    let argv = std::iter::once(program)
        .chain(args.iter().copied())
        .map(OsString::from)
        .collect();
    SpawnRequest {
        program: program.into(),
        argv,
        env: vec![("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())],
        cwd: None,
        stdin: None,
        stdout: null(),
        stderr: null(),
        cgroup: None,
        listen: Vec::new(),
        host_death: EndPolicy::default(),
    }
}

pub(crate) fn shell(script: &str) -> SpawnRequest {
    request("/bin/sh", &["-c", script])
}

pub(crate) fn python(script: &str) -> SpawnRequest {
    request("/usr/bin/env", &["python3", "-c", script])
}

/// Gives the request a pipe as its standard output, and returns the reading end.
pub(crate) fn with_output(request: &mut SpawnRequest) -> BufReader<File> {
    let (reader, writer) = std::io::pipe().expect("creating a pipe");
    request.stdout = writer.into();
    BufReader::new(File::from(OwnedFd::from(reader)))
}

/// Reads the next line without blocking the runtime.
pub(crate) async fn line(mut output: BufReader<File>) -> (String, BufReader<File>) {
    let read = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        output.read_line(&mut line).expect("reading the output");
        (line.trim_end().to_owned(), output)
    });
    tokio::time::timeout(DEADLINE, read)
        .await
        .expect("timeout waiting for a line")
        .expect("reading thread")
}

/// Reads until every writer is closed.
pub(crate) async fn rest(mut output: BufReader<File>) -> String {
    let read = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        output.read_to_string(&mut text).expect("reading the output");
        text
    });
    tokio::time::timeout(DEADLINE, read)
        .await
        .expect("timeout waiting for the writers")
        .expect("reading thread")
}

/// Parses pids separated by white space.
pub(crate) fn pids(text: &str) -> Vec<i32> {
    text.split_whitespace()
        .map(|word| word.parse().expect("valid pid"))
        .collect()
}

/// Waits until the process has ended, with a pidfd. It may have ended long ago.
pub(crate) fn assert_gone(pid: i32) {
    assert!(
        ends_within(pid, DEADLINE),
        "process {pid} is running: {}",
        command_line(pid)
    );
}

pub(crate) fn ends_within(pid: i32, time: Duration) -> bool {
    let Ok(pidfd) = rustix::process::pidfd_open(Pid::from_raw(pid).expect("valid pid"), PidfdFlags::empty()) else {
        return true;
    };
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}

pub(crate) fn alive(pid: i32) -> bool {
    !ends_within(pid, Duration::ZERO)
}

fn command_line(pid: i32) -> String {
    fs::read(format!("/proc/{pid}/cmdline"))
        .map(|raw| String::from_utf8_lossy(&raw).replace('\0', " "))
        .unwrap_or_default()
}

pub(crate) fn send(pid: i32, signal: rustix::process::Signal) {
    rustix::process::kill_process(Pid::from_raw(pid).expect("valid pid"), signal).expect("sending the signal");
}

/// The fields of /proc/PID/stat after the name: state, parent, group, session, …
pub(crate) fn stat(pid: i32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("process is running");
    let (_, fields) = text.rsplit_once(") ").expect("name in parentheses");
    fields.split_whitespace().map(str::to_owned).collect()
}

pub(crate) fn parent(pid: i32) -> i32 {
    stat(pid)[1].parse().expect("valid pid")
}

/// The processes with this parent.
pub(crate) fn children(of: i32) -> Vec<i32> {
    fs::read_dir("/proc")
        .expect("listing /proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| parent_if_any(*pid) == Some(of))
        .collect()
}

fn parent_if_any(pid: i32) -> Option<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.split_whitespace().nth(1)?.parse().ok()
}

/// A command that runs one test of this program as another process, which finds `role` in
/// `OSTLER_TEST_ROLE` and plays it.
pub(crate) fn role_process(test: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("path of this program"));
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("OSTLER_TEST_ROLE", role);
    command
}

/// Writes a script that can be executed at once.
pub(crate) fn write_script(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    fs::write(&draft, text).expect("written");
    install(&draft, path, 0o755);
    fs::remove_file(draft).expect("removed");
}

/// The same role as an unprivileged user without capabilities, from a copy of this program in
/// `directory`, started by `by` (such as unshare(1)). Needs root.
pub(crate) fn unprivileged(by: &[&str], role: &Command, directory: &Path) -> Command {
    let copy = directory.join("test");
    install(role.get_program(), &copy, 0o755);
    fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    let setpriv = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--no-new-privs",
    ];
    let mut words = by.iter().chain(&setpriv);
    let mut command = Command::new(words.next().expect("wrapper program"));
    command.args(words).arg(&copy).args(role.get_args());
    for (name, value) in role.get_envs() {
        command.env(name, value.expect("variable of the role"));
    }
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin").current_dir("/");
    command
}

/// The role that this process was started for. A role ends with the test that started it, even if
/// the test program is killed.
pub(crate) fn role() -> Option<String> {
    let role = std::env::var("OSTLER_TEST_ROLE").ok()?;
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).expect("setting the signal");
    Some(role)
}

/// A child process, killed on drop.
pub(crate) struct Role(pub(crate) Child);

impl Role {
    pub(crate) fn start(mut command: Command) -> (Self, BufReader<File>) {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("starting the role");
        let output = OwnedFd::from(child.stdout.take().expect("piped stdout"));
        (Self(child), BufReader::new(File::from(output)))
    }

    pub(crate) fn kill(&mut self) {
        self.0.kill().expect("killing the role");
        self.0.wait().expect("reaping the role");
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // It may already have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn at_end(output: &mut BufReader<File>) -> bool {
    output.fill_buf().expect("reading the output").is_empty()
}

/// Reads up to the next line that starts with `key`. The test harness prints lines of its own.
pub(crate) async fn line_with(mut output: BufReader<File>, key: &str) -> (String, BufReader<File>) {
    loop {
        let (text, rest) = line(output).await;
        output = rest;
        assert!(!text.is_empty() || !at_end(&mut output), "the role ended without {key}");
        if let Some(value) = text
            .split_once(key)
            .filter(|(before, _)| !before.contains(' ') || before.starts_with("test "))
        {
            return (value.1.trim().to_owned(), output);
        }
    }
}

/// Waits until the process is in this state (`T`: stopped).
pub(crate) async fn until_state(pid: i32, state: &str) {
    let end = Instant::now() + DEADLINE;
    while stat(pid)[0] != state {
        assert!(Instant::now() < end, "process {pid} is in state {}", stat(pid)[0]);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
