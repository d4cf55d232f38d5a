//! The program from outside: statuses, messages, and what it does when nobody reads what it says.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SOON: Duration = Duration::from_secs(20);

fn ostler(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ostler"));
    command.args(arguments).stdin(Stdio::null());
    command
        .env_remove("RUNTIME_DIRECTORY")
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("OSTLER_LOG");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = ostler(arguments).output().unwrap();
    (status.code(), text(&stdout), text(&stderr))
}

/// A folder with an ostler.toml of these pools.
fn folder(pools: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ostler.toml");
    std::fs::write(&file, format!("[app]\nname = \"cli\"\nstate_dir = \"state\"\n{pools}")).unwrap();
    (folder, file)
}

fn utf8(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn check_prints_what_reads_back() {
    let (folder, file) = folder("[pool.a]\ncommand = [\"sleep\", \"1\"]\n");
    let (status, shown, said) = run(&["check", utf8(&file)]);
    assert_eq!((status, said.as_str()), (Some(0), ""));
    let again = folder.path().join("again.toml");
    std::fs::write(&again, &shown).unwrap();
    assert_eq!(run(&["check", utf8(&again)]), (Some(0), shown, String::new()));
}

#[test]
fn every_mistake_of_a_file_is_told_and_the_status_is_2() {
    let (_folder, file) = folder("[pool.a]\ncomand = [\"sleep\"]\nworkers = -1\n");
    for command in ["check", "up"] {
        let (status, shown, said) = run(&[command, utf8(&file)]);
        assert_eq!((status, shown.as_str()), (Some(2), ""));
        assert!(
            said.contains(":5:1: pool.a.comand: there is no such key; did you mean \"command\"?"),
            "{said}"
        );
        assert!(
            said.contains(":6:11: pool.a.workers: the integer -1 was found"),
            "{said}"
        );
    }
}

#[test]
fn a_wrong_command_line_is_2_and_a_machine_that_fails_us_is_3() {
    let (folder, file) = folder("[pool.a]\ncommand = [\"sleep\", \"100\"]\n");
    assert_eq!(run(&["up"]).0, Some(2));
    assert_eq!(run(&["up", utf8(&file), "--for", "soon"]).0, Some(2));
    assert_eq!(run(&["up", utf8(&file), "--log", "a=b=c"]).0, Some(2));
    let events = folder.path().join("no/such/folder");
    let (status, _, said) = run(&["up", utf8(&file), "--events", utf8(&events)]);
    assert_eq!(status, Some(3));
    assert!(said.contains("No such file or directory"), "{said}");
    std::fs::write(folder.path().join("state"), "a file where the state should be").unwrap();
    let (status, _, said) = run(&["up", utf8(&file), "--for", "1s"]);
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains("state"), "the path is named: {said}");
}

#[test]
fn a_sweep_of_nothing_finds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (status, said, _) = run(&["sweep", "--app", "nobody", "--state-dir", utf8(folder.path())]);
    assert_eq!(status, Some(0));
    assert!(
        said.starts_with("nobody: 0 dead runs removed, 0 processes killed"),
        "{said}"
    );
}

#[test]
fn a_sweep_of_no_apps_name_is_a_wrong_command_line() {
    let (status, _, said) = run(&["sweep", "--app", "a/b"]);
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("--app") && said.contains("a/b"), "{said}");
}

#[test]
fn what_is_hardly_meant_is_said_and_not_refused() {
    let (_folder, file) = folder("[pool.p]\ncommand = [\"true\", \"{port.htp}\"]\nport = 7001\n");
    let (status, shown, said) = run(&["check", utf8(&file)]);
    assert_eq!(status, Some(0), "{said}");
    assert!(shown.contains("port = 7001"), "{shown}");
    assert!(said.contains("pool.p.command: {port.htp} is no port"), "{said}");
    // With a port that whoever else is on this machine leaves to it.
    let (_folder, file) = folder("[pool.p]\ncommand = [\"true\", \"{port.htp}\"]\nport = \"any\"\n");
    let (status, _, said) = run(&["up", utf8(&file), "--for", "0s"]);
    assert_eq!(status, Some(0), "{said}");
    assert!(
        said.contains("WARN") && said.contains("{port.htp} is no port"),
        "{said}"
    );
}

#[test]
fn more_workers_than_ports_are_refused() {
    let (_folder, file) = folder("[pool.p]\ncommand = [\"true\"]\nworkers = 2\nport = 7001\n");
    let (status, _, said) = run(&["check", utf8(&file)]);
    assert_eq!(status, Some(2), "{said}");
    assert!(
        said.contains("2 workers need a port each, and 7001 is enough for 1"),
        "{said}"
    );
}

/// The lines of a stream, as they come.
fn lines(stream: impl std::io::Read + Send + 'static) -> Receiver<String> {
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
struct Running(Option<Child>);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(Some(command.spawn().unwrap()))
    }

    fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    fn signal(&mut self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child().id()).unwrap()), signal).unwrap();
    }

    /// Its status, when it has ended by itself.
    fn ended(mut self) -> Option<i32> {
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

#[test]
fn time_that_is_up_is_an_ordered_stop_with_a_summary() {
    let (_folder, file) = folder("[pool.a]\ncommand = [\"sleep\", \"1000\"]\nworkers = 2\n");
    let (status, events, said) = run(&["up", utf8(&file), "--for", "300ms", "--events", "-"]);
    assert_eq!(status, Some(0), "{said}");
    let names: Vec<String> = events
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["event"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(names.first().map(String::as_str), Some("run.started"));
    assert_eq!(names.last().map(String::as_str), Some("run.stopped"));
    assert_eq!(names.iter().filter(|name| *name == "worker.released").count(), 2);
    let summary = said.trim_end().rsplit("\n\n").next().unwrap();
    assert!(summary.starts_with("cli, run "), "{said}");
    assert!(
        summary.contains("released  2 of 2") && summary.contains("orphans   none"),
        "{said}"
    );
}

#[test]
fn readers_that_read_nothing_do_not_hinder_the_stop() {
    // Far more failures, with their texts, than two pipes hold.
    let (_folder, file) = folder(
        "[pool.a]\ncommand = [\"sh\", \"-c\", \"for i in 1 2 3 4 5 6 7 8 9; do echo $i some words of the worker on its stderr >&2; done; exit 1\"]\nworkers = 4\nintensity = 1000000\n",
    );
    let mut command = ostler(&["up", utf8(&file), "--for", "3s", "--events", "-"]);
    let mut up = Running::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    // Held open, never read.
    let (_stdout, _stderr) = (up.child().stdout.take(), up.child().stderr.take());
    assert_eq!(up.ended(), Some(0));
}

#[test]
fn readers_that_are_gone_do_not_hinder_the_run() {
    let (folder, file) = folder("[pool.a]\ncommand = [\"sleep\", \"0.2\"]\nintensity = 1000000\n");
    let mut command = ostler(&["up", utf8(&file), "--for", "2s", "--events", "-"]);
    let mut up = Running::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    drop((up.child().stdout.take(), up.child().stderr.take()));
    assert_eq!(up.ended(), Some(0));
    assert_eq!(run_directories(&folder.path().join("state")), 0);
}

fn run_directories(state: &Path) -> usize {
    std::fs::read_dir(state.join("cli")).map_or(0, |entries| {
        entries.flatten().filter(|entry| entry.path().is_dir()).count()
    })
}

#[test]
fn an_events_file_on_a_full_disk_is_told_once() {
    let (_folder, file) = folder("[pool.a]\ncommand = [\"sleep\", \"1000\"]\nworkers = 3\n");
    let (status, _, said) = run(&["up", utf8(&file), "--for", "500ms", "--events", "/dev/full"]);
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(said.matches("No space left on device").count(), 1, "{said}");
}

#[test]
fn signals_that_were_ignored_when_it_started_stay_ignored() {
    let (_folder, file) = folder("[pool.a]\ncommand = [\"sleep\", \"1000\"]\n");
    // As nohup(1) does it.
    let script = "trap '' HUP; exec \"$0\" up \"$1\" --events -";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_ostler"), utf8(&file)]);
    command
        .env_remove("XDG_RUNTIME_DIR")
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut up = Running::start(&mut command);
    let events = lines(up.child().stdout.take().unwrap());
    let wait_for = |name: &str| {
        let deadline = Instant::now() + SOON;
        loop {
            let line = events
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
                .unwrap();
            if line.contains(name) {
                break line;
            }
        }
    };
    wait_for("worker.ready");
    up.signal(Signal::SIGHUP);
    // Had HUP been taken, this would be the second signal, and the worker would end by KILL.
    up.signal(Signal::SIGTERM);
    let exited = wait_for("worker.exited");
    assert!(exited.contains("\"signal\":\"TERM\""), "{exited}");
    assert_eq!(up.ended(), Some(0));
}
