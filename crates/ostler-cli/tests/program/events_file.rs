//! `--events FILE` while others rotate, truncate, remove and fill it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Up, eventually, folder, ostler, utf8};

const SLEEP: &str = "[pool.a]\ncommand = [\"sleep\", \"1000\"]\nintensity = 1000\n";

struct Events {
    up: Up,
    path: PathBuf,
    folder: tempfile::TempDir,
}

impl Events {
    fn start() -> Self {
        let (folder, file) = folder(SLEEP);
        fs::create_dir(folder.path().join("logs")).unwrap();
        let path = folder.path().join("logs/events");
        let up = Up::start(ostler(&["up", utf8(&file), "--events", utf8(&path)]));
        let events = Self { up, path, folder };
        events.wait_for(&events.path, "worker.ready");
        events
    }

    fn wait_for(&self, path: &Path, part: &str) -> String {
        let mut text = String::new();
        eventually(part, || {
            text = fs::read_to_string(path).unwrap_or_default();
            text.contains(part) && text.ends_with('\n')
        });
        text
    }

    /// Has a worker restart, which makes events.
    fn restart(&self, last: &str) {
        let ready = last.lines().rfind(|line| line.contains("worker.ready")).unwrap();
        let pid = serde_json::from_str::<serde_json::Value>(ready).unwrap()["pid"]
            .as_i64()
            .unwrap();
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
    }

    /// Stops the run in order; the folder is kept.
    fn stop(mut self) -> tempfile::TempDir {
        self.up.running.signal(Signal::SIGTERM);
        assert_eq!(self.up.running.ended(), Some(0));
        self.folder
    }
}

#[test]
fn a_truncated_file_has_no_hole() {
    let events = Events::start();
    let before = fs::read_to_string(&events.path).unwrap();
    fs::File::options()
        .write(true)
        .open(&events.path)
        .unwrap()
        .set_len(0)
        .unwrap();
    events.restart(&before);
    let after = events.wait_for(&events.path, "worker.ready");
    assert!(after.starts_with('{'), "{after:?}");
    events.stop();
}

#[test]
fn a_removed_or_replaced_file_is_created_again() {
    let events = Events::start();
    let before = fs::read_to_string(&events.path).unwrap();
    fs::remove_file(&events.path).unwrap();
    events.restart(&before);
    let second = events.wait_for(&events.path, "worker.ready");
    fs::rename(&events.path, events.path.with_extension("1")).unwrap();
    fs::write(&events.path, "").unwrap();
    events.restart(&second);
    let third = events.wait_for(&events.path, "worker.ready");
    let seq = |line: Option<&str>| serde_json::from_str::<serde_json::Value>(line.unwrap()).unwrap()["seq"].as_u64();
    let [last, first] = [second.lines().last(), third.lines().next()].map(seq);
    assert!(last < first, "{last:?} {first:?}");
    events.stop();
}

#[test]
fn usr1_opens_it_again_at_once() {
    let mut events = Events::start();
    let old = events.path.with_extension("1");
    fs::rename(&events.path, &old).unwrap();
    events.up.running.signal(Signal::SIGUSR1);
    eventually("it is not created", || events.path.exists());
    let before = fs::read_to_string(&old).unwrap();
    events.restart(&before);
    events.wait_for(&events.path, "worker.ready");
    assert_eq!(fs::read_to_string(&old).unwrap(), before);
    events.stop();
}

#[test]
fn a_directory_that_is_gone_and_comes_back_costs_counted_events_only() {
    let events = Events::start();
    let before = fs::read_to_string(&events.path).unwrap();
    let logs = events.path.parent().unwrap();
    fs::remove_dir_all(logs).unwrap();
    events.restart(&before);
    let dropped = events
        .up
        .said
        .iter()
        .find(|line| line.contains("events are dropped and counted"));
    assert!(dropped.unwrap().contains("No such file or directory"));
    fs::create_dir(logs).unwrap();
    let path = events.path.clone();
    let _folder = events.stop();
    let after = fs::read_to_string(path).unwrap();
    assert!(after.lines().next().unwrap().contains("\"events.dropped\""), "{after}");
    assert!(after.lines().last().unwrap().contains("\"run.stopped\""), "{after}");
}

#[test]
fn a_fifo_is_not_waited_for_and_its_reader_gets_every_event() {
    let (folder, file) = folder(
        "[pool.a]\ncommand = [\"touch\", \"ran\"]\nrestart = \"temporary\"\n[pool.b]\ncommand = [\"sleep\", \"1000\"]\n",
    );
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut up = Up::start(ostler(&["up", utf8(&file), "--events", utf8(&fifo)]));
    eventually("the worker did not run", || folder.path().join("ran").exists());
    let note = up.said.iter().find(|line| line.contains("nothing reads this FIFO yet"));
    assert!(note.is_some());
    let mut lines = BufReader::new(fs::File::open(&fifo).unwrap())
        .lines()
        .map(Result::unwrap);
    let first = lines.next().unwrap();
    assert!(first.contains("\"run.started\""), "{first}");
    assert!(lines.any(|line| line.contains("\"worker.ready\"")));
    up.running.signal(Signal::SIGTERM);
    assert!(lines.any(|line| line.contains("\"run.stopped\"")));
    assert_eq!(up.running.ended(), Some(0));
}

#[test]
fn a_fifo_that_is_never_read_holds_up_nothing() {
    let (folder, file) = folder(SLEEP);
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut up = Up::start(ostler(&["up", utf8(&file), "--events", utf8(&fifo)]));
    assert!(up.said.iter().any(|line| line.contains("is ready")));
    up.running.signal(Signal::SIGTERM);
    assert_eq!(up.running.ended(), Some(0));
}
