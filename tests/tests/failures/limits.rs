//! Limits of the machine: not a fault of the worker, retried with delays, never counted.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use ostler_tests::scene::{limit, moment, parent, pool, pool_of, unprivileged, wrapped};
use ostler_tests::{SOON, Up, pid_of, send};
use serde_json::Value;

use crate::{assert_message, assert_on_stderr, gives_up, resident};

/// Allows for the kill that starts the scenario. Another counted restart would end the run.
pub(crate) const ONE_RESTART: &str = "intensity = 1\nperiod = \"1h\"";

fn is_failure(reason: &'static str) -> impl Fn(&Value) -> bool {
    move |event| event["event"] == "worker.failed" && event["reason"] == reason
}

/// Waits for three failures by a limit with increasing delays. Returns the first.
pub(crate) fn three_failures(up: &mut Up, reason: &'static str) -> Value {
    let failures: Vec<Value> = (0..3).map(|_| up.wait_for(reason, SOON, is_failure(reason))).collect();
    let pause = |n: usize| moment(&failures[n + 1]).duration_since(moment(&failures[n])).unwrap();
    assert!(pause(0) >= Duration::from_millis(100), "{:?}", pause(0));
    assert!(pause(1) >= Duration::from_millis(200), "{:?}", pause(1));
    failures[0].clone()
}

#[test]
fn process_limit_is_retried() {
    let mut up = Up::start_with(
        |tag| pool_of(&resident(tag), ONE_RESTART),
        |command| unprivileged(command, 64_101),
    );
    let ready = up.wait_for_event("worker.ready");
    let sitter = parent(pid_of(&ready));
    limit(sitter, "--nproc=1:");
    send(pid_of(&ready), Signal::SIGKILL);
    let failure = three_failures(&mut up, "process_limit");
    assert_message(&failure, &["\"sh\"", "Resource temporarily unavailable"]);
    limit(sitter, "--nproc=1000:");
    up.wait_for_event("worker.ready");
    let stderr = up.stop_cleanly();
    assert_on_stderr(&failure, &stderr);
    assert_eq!(up.count("worker.gave_up"), 0);
}

#[test]
fn descriptor_limit_of_the_host_is_retried() {
    let mut up = Up::start(|tag| pool("sleep", tag, ONE_RESTART));
    let ready = up.wait_for_event("worker.ready");
    // Open descriptors stay open, but no more can be opened.
    limit(up.pid(), "--nofile=3:");
    send(pid_of(&ready), Signal::SIGKILL);
    let failure = three_failures(&mut up, "descriptor_limit");
    assert_message(&failure, &["Too many open files"]);
    limit(up.pid(), "--nofile=1000:");
    up.wait_for_event("worker.ready");
    let stderr = up.stop_cleanly();
    assert_on_stderr(&failure, &stderr);
    assert_eq!(up.count("worker.gave_up"), 0);
}

/// Sixty workers need about 300 descriptors.
#[test]
fn with_few_descriptors_some_workers_run_and_none_gives_up() {
    let tiny = ["sh", "-c", "ulimit -n 64; exec \"$0\" \"$@\""];
    let keys = "workers = 60\nintensity = 0\nmax_starting = 60";
    let mut up = Up::start_with(|tag| pool("sleep", tag, keys), |command| wrapped(command, &tiny));
    for _ in 0..3 {
        up.wait_for("a failure", SOON, is_failure("descriptor_limit"));
    }
    if up.alive_workers() == 0 {
        up.wait_for_event("worker.ready");
    }
    let stderr = up.stop_cleanly();
    assert_eq!(up.count("worker.gave_up"), 0, "{stderr}");
    assert!(
        up.named("worker.failed")
            .all(|event| event["reason"] == "descriptor_limit"),
        "{}",
        up.story()
    );
}

/// logind removes the runtime directory at the last logout.
#[test]
fn runtime_directory_that_disappears_is_made_again() {
    for (modes, ready) in [("notify+sleep", "notify"), ("file+sleep", "file")] {
        let keys = format!("{ONE_RESTART}\nready = {{ {ready} = true }}");
        let mut up = Up::start(|tag| pool(modes, tag, &keys));
        let first = up.wait_for_event("worker.ready");
        remove_runtime_directory(&first);
        send(pid_of(&first), Signal::SIGKILL);
        let second = up.wait_for_event("worker.ready");
        assert_eq!(second["incarnation"], 2, "{}", up.story());
        up.stop_cleanly();
        assert_eq!(up.count("worker.gave_up"), 0);
    }
}

/// Removes the directory of the paths by which this worker reports and serves. Returns it.
fn remove_runtime_directory(of: &Value) -> PathBuf {
    let environment = procfs::process::Process::new(i32::try_from(pid_of(of)).unwrap())
        .and_then(|process| process.environ())
        .unwrap();
    let path = ["NOTIFY_SOCKET", "OSTLER_READY_FILE", "OSTLER_SOCKET"]
        .iter()
        .find_map(|name| environment.get(OsStr::new(name)))
        .map(PathBuf::from)
        .unwrap();
    let directory = path.parent().unwrap();
    std::fs::remove_dir_all(directory).unwrap();
    directory.to_owned()
}

/// The directory goes after the first incarnation's `event`. It fails, which no one counts, and the
/// second has another path.
fn lost_path_is_not_counted(modes: &str, keys: &str, event: &str) {
    let mut up = Up::start(|tag| pool(modes, tag, &format!("{keys}\nintensity = 0")));
    let directory = remove_runtime_directory(&up.wait_for_event(event));
    let failed = up.wait_for_event("worker.failed");
    assert_eq!(failed["reason"], "store_failed", "{}", up.story());
    assert_message(&failed, &[&directory.display().to_string(), "was removed while it ran"]);
    let second = up.wait_for("the second", SOON, |event| {
        event["event"] == "worker.ready" && event["incarnation"] == 2
    });
    let stderr = up.stop_cleanly();
    assert_on_stderr(&failed, &stderr);
    assert_eq!(up.count("worker.gave_up"), 0, "after {second}: {}", up.story());
    assert_eq!(up.count("worker.failed"), 1, "{}", up.story());
}

/// Its heartbeats are sent by path: they don't arrive any more, or it ends at the error.
#[test]
fn heartbeat_that_is_lost_with_the_runtime_directory_is_not_counted() {
    let keys = "ready = { notify = true }\nwatchdog = \"2s\"";
    lost_path_is_not_counted("notify+beat", keys, "worker.ready");
    lost_path_is_not_counted("notify+beat-anyway", keys, "worker.ready");
}

#[test]
fn unix_socket_that_is_lost_with_the_runtime_directory_is_not_counted() {
    let keys = "port = \"unix\"\nready = { http = \"/\" }\nhealth = { http = \"/\", every = \"100ms\", misses = 2 }";
    lost_path_is_not_counted("http-unix", keys, "worker.ready");
}

/// It can't report that it is ready: it ends at the error, or its time runs out.
#[test]
fn start_that_fails_for_lack_of_the_runtime_directory_is_not_counted() {
    for (modes, ready) in [
        ("await-loss+notify+sleep", "notify"),
        ("await-loss+file+sleep", "file"),
        ("await-loss+notify-anyway+sleep", "notify"),
    ] {
        let keys = format!("ready = {{ {ready} = true }}\nstart_timeout = \"5s\"");
        lost_path_is_not_counted(modes, &keys, "worker.spawned");
    }
}

/// A path that is lost is no excuse for a signal from outside.
#[test]
fn kill_after_the_runtime_directory_is_gone_is_counted() {
    let mut up = Up::start(|tag| pool("notify+sleep", tag, "ready = { notify = true }\nintensity = 0"));
    let ready = up.wait_for_event("worker.ready");
    remove_runtime_directory(&ready);
    send(pid_of(&ready), Signal::SIGKILL);
    gives_up(&mut up, "killed");
}
