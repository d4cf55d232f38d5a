//! A worker's resource that is not free: no replacement starts, the failure names the holder, and
//! the worker restarts once the resource is free.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use ostler_tests::scene::{free_port, killed_with_the_test, pool_of, python};
use ostler_tests::tracer::Tracer;
use ostler_tests::{SOON, Up, pid_of, run_directories, send, survivors, worker};
use serde_json::Value;

use crate::{assert_message, assert_on_stderr, text};

/// Shares its port with other SO_REUSEPORT sockets, so that another process can hold the port
/// between the worker's exit and its release.
const SHARER: &str = "
import socket, sys, time
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
s.bind((\"127.0.0.1\", int(sys.argv[1])))
s.listen()
print(\"ready\", flush=True)
time.sleep(3600)
";

struct Bystander(Child);

impl Bystander {
    fn on(port: u16) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", SHARER, &port.to_string()]);
        let mut command = killed_with_the_test(&command);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A run whose worker was killed while an unrelated process held its port, with the failure that
/// names that process.
fn held() -> (Up, Bystander, Value) {
    let port = free_port();
    let keys = format!("port = {port}\nready = {{ line = \"^ready\" }}\nrelease_timeout = \"300ms\"\nintensity = 100");
    let mut up = Up::start(|tag| pool_of(&python(SHARER, tag), &keys));
    let ready = up.wait_for_event("worker.ready");
    let holder_process = Bystander::on(port);
    send(pid_of(&ready), Signal::SIGKILL);
    let overdue = up.wait_for("an overdue release", SOON, |event| event["reason"] == "release_timeout");
    assert_message(&overdue, &["release_timeout 300ms", &format!("127.0.0.1:{port}")]);
    let holder = text(&overdue, "holder");
    assert!(
        holder.contains(&holder_process.0.id().to_string()) && holder.contains("python3"),
        "{holder}"
    );
    (up, holder_process, overdue)
}

#[test]
fn release_timeout_names_the_holder_and_the_worker_returns_once_it_is_free() {
    let (mut up, holder_process, overdue) = held();
    // Replacements that were not started supersede each other; no process is involved.
    up.wait_for("a third replacement", SOON, |event| event["attempt"] == 3);
    assert_eq!(up.count("worker.released"), 0, "{}", up.story());
    assert_eq!(
        up.count("worker.reserved"),
        1,
        "no replacement may start: {}",
        up.story()
    );
    drop(holder_process);
    up.wait_for_event("worker.released");
    let second = up.wait_for_event("worker.ready");
    assert_eq!(second["port"], overdue["port"]);
    let stderr = up.stop_cleanly();
    assert_on_stderr(&overdue, &stderr);
    assert_eq!(up.count("worker.released"), 2, "{}", up.story());
}

#[test]
fn stop_while_a_port_is_held_reports_it_and_fails() {
    let (mut up, _holder_process, overdue) = held();
    up.wait_for_event("worker.restarting");
    up.signal(Signal::SIGTERM);
    let (status, stderr) = up.end(SOON);
    assert_eq!(status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("not released: p/0"), "{stderr}");
    assert_on_stderr(&overdue, &stderr);
    assert!(survivors(&up.tag).is_empty());
    let last = up.seen.last().unwrap();
    assert_eq!(last["event"], "run.stopped", "{}", up.story());
    let state = up.directory.path().join("state");
    assert_eq!(
        run_directories(&state).len(),
        1,
        "the record is kept for the next start"
    );
}

/// A debugger that has stopped waiting for what it traces keeps it after its end.
#[test]
fn a_tracer_that_keeps_an_ended_worker_is_named() {
    let keys = "ready = { line = \"^ready\" }\nrelease_timeout = \"300ms\"";
    let mut up = Up::start(|tag| pool_of(&worker("say-out+sleep", tag), keys));
    let pid = pid_of(&up.wait_for_event("worker.ready"));
    let Some(tracer) = Tracer::of(pid.cast_signed()) else {
        return eprintln!("skipped: ptrace is not permitted");
    };
    up.signal(Signal::SIGTERM);
    let overdue = up.wait_for("an overdue release", SOON, |event| event["reason"] == "release_timeout");
    assert_message(&overdue, &[&format!("pid {pid}"), "traced by pid"]);
    drop(tracer);
    up.end(SOON);
    // The stop may have ended before the tracer: then the record is left for the next start.
    assert_eq!(survivors(&up.tag), []);
}
