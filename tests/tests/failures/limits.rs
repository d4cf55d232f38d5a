//! Limits of the machine: not a fault of the worker, retried with delays, never counted.

use std::time::Duration;

use nix::sys::signal::Signal;
use ostler_tests::scene::{limit, moment, parent, pool, pool_of, unprivileged, wrapped};
use ostler_tests::{SOON, Up, pid_of, send};
use serde_json::Value;

use crate::{assert_message, assert_on_stderr, resident};

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
        let environment = procfs::process::Process::new(i32::try_from(pid_of(&first)).unwrap())
            .and_then(|process| process.environ())
            .unwrap();
        let path = ["NOTIFY_SOCKET", "OSTLER_READY_FILE"]
            .iter()
            .find_map(|name| environment.get(std::ffi::OsStr::new(name)))
            .map(std::path::PathBuf::from)
            .unwrap();
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
        send(pid_of(&first), Signal::SIGKILL);
        let second = up.wait_for_event("worker.ready");
        assert_eq!(second["incarnation"], 2, "{}", up.story());
        up.stop_cleanly();
        assert_eq!(up.count("worker.gave_up"), 0);
    }
}
