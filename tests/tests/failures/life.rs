//! Failures of processes that were started.

use std::time::Duration;

use nix::sys::signal::Signal;
use ostler_tests::scene::{pool, pool_of, python};
use ostler_tests::{Up, pid_of, send};

use crate::{assert_message, gives_up, text};

#[test]
fn exited_before_ready_has_status_and_stderr() {
    let keys = "intensity = 0\nready = { notify = true }";
    let mut up = Up::start(|tag| pool("stderr+exit=3", tag, keys));
    let (failure, stderr) = gives_up(&mut up, "exited_before_ready");
    assert_eq!(failure["status"], 3);
    let words = "ModuleNotFoundError: No module named 'nonesuch'";
    assert_eq!(failure["stderr_tail"], serde_json::json!([words]));
    assert_message(&failure, &["exit status 3", words]);
    assert!(stderr.contains(&format!("│ {words}")), "{stderr}");
}

#[test]
fn exited_before_ready_of_python_names_the_exception_and_the_package() {
    let program = "import atexit, sys\natexit.register(print, 'bye', file=sys.stderr)\nimport skimage.nonesuch";
    let keys = "intensity = 0\nport = \"any\"\nready = { notify = true }";
    let mut up = Up::start(|tag| pool_of(&python(program, tag), keys));
    let (failure, _) = gives_up(&mut up, "exited_before_ready");
    assert_eq!(failure["stderr_tail"].as_array().unwrap().last().unwrap(), "bye");
    assert_message(
        &failure,
        &["its last exception: ModuleNotFoundError: No module named 'skimage'"],
    );
    assert_eq!(
        text(&failure, "suggestion"),
        "install it where this interpreter finds it: python3 -m pip install scikit-image"
    );
}

#[test]
fn exited_before_ready_by_a_signal_names_it() {
    let keys = "intensity = 0\nready = { notify = true }";
    let mut up = Up::start(|tag| pool("abort", tag, keys));
    let (failure, _) = gives_up(&mut up, "exited_before_ready");
    assert_eq!(failure["signal"], "ABRT");
    assert_message(&failure, &["ABRT"]);
}

#[test]
fn exited_early_with_any_status() {
    let mut up = Up::start(|tag| pool("exit=0", tag, "intensity = 0\nmin_uptime = \"1m\""));
    let (failure, _) = gives_up(&mut up, "exited_early");
    assert_eq!(failure["status"], 0);
    assert_message(&failure, &["exit status 0", "min_uptime (60.000 s)"]);
}

#[test]
fn exited_has_the_status() {
    let mut up = Up::start(|tag| pool("stderr+exit=7", tag, "intensity = 0"));
    let (failure, _) = gives_up(&mut up, "exited");
    assert_eq!(failure["status"], 7);
    assert_message(&failure, &["exit status 7"]);
    assert!(
        failure["stderr_tail"][0]
            .as_str()
            .unwrap()
            .contains("ModuleNotFoundError"),
        "{failure}"
    );
}

#[test]
fn killed_names_the_signal_that_ostler_did_not_send() {
    let mut up = Up::start(|tag| pool("child+sleep", tag, "intensity = 0"));
    let ready = up.wait_for_event("worker.ready");
    send(pid_of(&ready), Signal::SIGKILL);
    let (failure, _) = gives_up(&mut up, "killed");
    assert_eq!(failure["signal"], "KILL");
    assert_eq!(failure["pid"], ready["pid"]);
    assert_message(&failure, &["KILL", "which Ostler did not send"]);
}

/// The message has the probe's last answer, for each kind of readiness.
#[test]
fn ready_timeout_has_the_last_answer() {
    let kinds = [
        ("refuse", "port = \"any\"\nready = { http = \"/\" }", "503"),
        (
            "sleep",
            "port = \"any\"\nready = { tcp = true }",
            "no process listens on 127.0.0.1:",
        ),
        ("sleep", "ready = { notify = true }", "no READY=1 came"),
        ("notify-status+sleep", "ready = { notify = true }", "warming up"),
        ("sleep", "ready = { line = \"^ready\" }", "no line matched"),
        ("file-empty+sleep", "ready = { file = true }", "is not there or empty"),
    ];
    for (modes, keys, answer) in kinds {
        let keys = format!("intensity = 0\nstart_timeout = \"700ms\"\n{keys}");
        let mut up = Up::start(|tag| pool(modes, tag, &keys));
        let (failure, _) = gives_up(&mut up, "ready_timeout");
        assert_message(&failure, &["start_timeout (700ms)", answer]);
        let stopping = up.named("worker.stopping").next().unwrap();
        assert_eq!(
            (text(stopping, "cause"), text(stopping, "signal")),
            ("start_timeout", "TERM")
        );
    }
}

/// A worker that serves, but where nothing asks.
#[test]
fn ready_timeout_names_the_sockets_that_the_worker_has() {
    const ELSEWHERE: &str = "import socket, time\ns = socket.create_server(('127.0.0.1', 0))\n\
        print(s.getsockname()[1], file=open('port', 'w'), flush=True)\ntime.sleep(1000)";
    let keys = "port = \"any\"\nready = { http = \"/\" }\nintensity = 0\nstart_timeout = \"2s\"";
    let mut up = Up::start(|tag| pool_of(&python(ELSEWHERE, tag), keys));
    let (failure, _) = gives_up(&mut up, "ready_timeout");
    let own = std::fs::read_to_string(up.directory.path().join("port")).unwrap();
    let elsewhere = format!("; the worker listens on 127.0.0.1:{} instead", own.trim());
    assert_message(&failure, &["no process listens on 127.0.0.1:", &elsewhere]);

    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return eprintln!("skipped: no IPv6");
    }
    let mut up = Up::start(|tag| pool("http6", tag, keys));
    let (failure, _) = gives_up(&mut up, "ready_timeout");
    let port = &failure["port"];
    let loopback = format!("no process listens on 127.0.0.1:{port}; the worker listens on [::1]:{port} instead");
    assert_message(&failure, &[&loopback]);
}

/// As a program does that turns itself into a daemon: it forks twice, and its first process exits.
#[test]
fn worker_that_goes_into_the_background_is_advised_to_stay_in_the_foreground() {
    const DAEMON: &str = "import os, time\nif os.fork(): os._exit(0)\nos.setsid()\n\
        if os.fork(): os._exit(0)\ntime.sleep(1000)";
    const WORDS: &str = "it went into the background: its process ended with 0 while its child lived";
    for (keys, reason) in [
        ("ready = { notify = true }", "exited_before_ready"),
        ("min_uptime = \"1m\"", "exited_early"),
    ] {
        let keys = format!("intensity = 0\n{keys}");
        let mut up = Up::start(|tag| pool_of(&python(DAEMON, tag), &keys));
        let (failure, _) = gives_up(&mut up, reason);
        assert_message(&failure, &["exit status 0", WORDS]);
        assert!(text(&failure, "suggestion").contains("foreground"), "{failure}");
    }
    // Without a sign of readiness, that is no failure.
    let mut up = Up::start(|tag| pool_of(&python(DAEMON, tag), "restart = \"transient\""));
    let (status, stderr) = up.end(ostler_tests::SOON);
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(stderr.contains(WORDS) && stderr.contains("foreground"), "{stderr}");
    up.assert_nothing_left();
    // A worker that leaves nothing behind has just ended.
    let mut up = Up::start(|tag| pool("exit=0", tag, "intensity = 0\nready = { notify = true }"));
    let (failure, _) = gives_up(&mut up, "exited_before_ready");
    assert!(!text(&failure, "message").contains("background"), "{failure}");
}

#[test]
fn worker_not_ready_in_time_that_ignores_term_is_killed_with_its_tree() {
    let keys = "intensity = 0\nstart_timeout = \"200ms\"\nready = { notify = true }\nstop = { signal = \"TERM\", grace = \"100ms\" }";
    let mut up = Up::start(|tag| pool("daemon+ignore-term+sleep", tag, keys));
    gives_up(&mut up, "ready_timeout");
    assert_eq!(up.named("worker.exited").next().unwrap()["signal"], "KILL");
}

#[test]
fn health_check_failed_has_the_last_answer() {
    let keys = "intensity = 0\nport = \"any\"\nready = { http = \"/\" }\n\
        health = { http = \"/\", every = \"20ms\", timeout = \"1s\", misses = 3 }";
    let mut up = Up::start(|tag| pool("http=2", tag, keys));
    let (failure, _) = gives_up(&mut up, "health_check_failed");
    assert_message(&failure, &["3 health probes in a row failed", "503"]);
    let unhealthy = up.named("worker.unhealthy").next().unwrap();
    assert_eq!(unhealthy["reason"], "health_check_failed");
    assert_eq!(up.count("worker.ready"), 1);
}

#[test]
fn heartbeat_lost_when_a_worker_falls_silent() {
    let keys = "intensity = 0\nready = { notify = true }\nwatchdog = \"300ms\"";
    let mut up = Up::start(|tag| pool("notify+sleep", tag, keys));
    let (failure, _) = gives_up(&mut up, "heartbeat_lost");
    assert_message(&failure, &["WATCHDOG=1", "300ms"]);
    assert_eq!(up.named("worker.unhealthy").next().unwrap()["reason"], "heartbeat_lost");
}

#[test]
fn worker_that_sends_heartbeats_is_left_alone() {
    let keys = "ready = { notify = true }\nwatchdog = \"600ms\"";
    let mut up = Up::start(|tag| pool("notify+beat", tag, keys));
    up.wait_for_event("worker.ready");
    let trouble = up.poll(Duration::from_secs(2), |event| event["event"] != "pool.ready");
    assert_eq!(trouble, None);
    up.stop_cleanly();
}

/// An exit after a requested stop is a stop, with any status.
#[test]
fn stop_by_signal_is_not_a_failure() {
    let mut up = Up::start(|tag| pool("sleep", tag, "workers = 2"));
    up.wait_for_event("pool.ready");
    up.stop_cleanly();
    assert_eq!(up.count("worker.failed"), 0);
    assert!(
        up.named("worker.exited").all(|event| event["signal"] == "TERM"),
        "{}",
        up.story()
    );
    assert_eq!(up.count("worker.exited"), 2);
}
