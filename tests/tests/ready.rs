//! All ways in which a worker becomes ready, and a stop or a kill at each step of a start.

use std::collections::HashSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::libc::EACCES;
use nix::sys::signal::Signal;
use ostler_tests::scene::{moment, pool, pool_of, python, unprivileged};
use ostler_tests::{SOON, Up, pid_of, send};
use serde_json::Value;

/// Checks that a worker becomes ready this way, is replaced when killed, and becomes ready again.
/// Returns the events.
fn becomes_ready(modes: &str, keys: &str) -> Vec<Value> {
    let mut up = Up::start(|tag| pool(modes, tag, keys));
    let first = up.wait_for_event("worker.ready");
    send(pid_of(&first), Signal::SIGKILL);
    let second = up.wait_for_event("worker.ready");
    assert_eq!(second["incarnation"], 2);
    assert_ne!(second["pid"], first["pid"]);
    up.stop_cleanly();
    up.seen.clone()
}

/// The time from before the first worker's spawn until ready, by the events' own times, which do
/// not depend on when the test reads them.
fn start_time(events: &[Value]) -> Duration {
    let first = |name: &str| moment(events.iter().find(|event| event["event"] == name).unwrap());
    first("worker.ready").duration_since(first("worker.reserved")).unwrap()
}

#[test]
fn http_waits_for_the_server() {
    let events = becomes_ready("pause=300+http", "port = \"any\"\nready = { http = \"/\" }");
    assert!(start_time(&events) >= Duration::from_millis(300));
}

#[test]
fn tcp_waits_for_the_listener() {
    let events = becomes_ready("pause=300+tcp", "port = \"any\"\nready = { tcp = true }");
    assert!(start_time(&events) >= Duration::from_millis(300));
}

#[test]
fn notify() {
    let events = becomes_ready("pause=300+notify+sleep", "ready = { notify = true }");
    assert!(start_time(&events) >= Duration::from_millis(300));
}

/// The socket holds eleven unread messages by default: a worker that no one listens to blocks in
/// the twelfth.
#[test]
fn messages_are_read_while_a_worker_starts_by_another_sign() {
    let keys = "port = \"any\"\nready = { http = \"/\" }\nwatchdog = \"1h\"\nstart_timeout = \"10s\"";
    becomes_ready("report=600+http", keys);
}

#[test]
fn messages_are_read_while_a_worker_stops() {
    let keys = "ready = { notify = true }\nstop = { grace = \"30s\" }";
    let mut up = Up::start(|tag| pool("report-on-term=600", tag, keys));
    up.wait_for_event("worker.ready");
    up.stop_cleanly();
    let exited = up.named("worker.exited").next().unwrap();
    assert_eq!(exited["status"], 0, "it ended by itself: {}", up.story());
}

#[test]
fn notify_from_a_child_of_the_worker() {
    becomes_ready("notify-child+sleep", "ready = { notify = true }");
}

/// The path of the worker's notify socket, from its environment.
fn notify_socket(worker: u32) -> PathBuf {
    let process = procfs::process::Process::new(worker.cast_signed()).unwrap();
    let environment = process.environ().unwrap();
    environment[std::ffi::OsStr::new("NOTIFY_SOCKET")].clone().into()
}

/// Whether this process has a socket with an abstract name, which every local user can reach
/// (unix(7)).
fn has_abstract_socket(pid: u32) -> bool {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let links: HashSet<PathBuf> = links.collect();
    let sockets = procfs::net::unix().unwrap();
    let mut own = sockets
        .into_iter()
        .filter(|socket| links.contains(Path::new(&format!("socket:[{}]", socket.inode))));
    own.any(|socket| socket.path.is_some_and(|path| path.to_string_lossy().starts_with('@')))
}

/// Sends READY=1 to this path as another user. Returns 0 when it was sent, or the errno.
fn forge_ready(user: u32, socket: &Path) -> Option<i32> {
    const FORGE: &str = "import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
try: s.sendto(b'READY=1', sys.argv[1])
except OSError as error: sys.exit(error.errno)";
    let mut command = Command::new("python3");
    command
        .args(["-c", FORGE])
        .arg(socket)
        .uid(user)
        .gid(user)
        .current_dir("/");
    command.status().unwrap().code()
}

fn reach(paths: &[&Path], mode: u32) {
    for path in paths {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
}

/// Wherever the run's directory is: in a place of its own where the path would be too long.
#[test]
fn another_user_can_not_make_a_worker_ready() {
    const OTHER: u32 = 65_534;
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: changing the user takes root");
    }
    for state in ["state".to_owned(), format!("state/{}", "deep/".repeat(30))] {
        let keys = "ready = { notify = true }\nstart_timeout = \"1h\"";
        let mut up = Up::start_with(
            |tag| pool("sleep", tag, keys),
            |command| {
                let file = command.get_args().nth(1).unwrap().to_owned();
                let text = std::fs::read_to_string(&file).unwrap();
                let state = format!("state_dir = {state:?}");
                std::fs::write(&file, text.replace("state_dir = \"state\"", &state)).unwrap();
                unprivileged(command, 64_150);
            },
        );
        let socket = notify_socket(pid_of(&up.wait_for_event("worker.spawned")));
        assert!(!has_abstract_socket(up.pid()));
        assert_eq!(forge_ready(OTHER, &socket), Some(EACCES), "{}", socket.display());
        // One that reaches it anyway is not heard.
        let own = |path: &&Path| path.metadata().unwrap().uid() == 64_150;
        let places: Vec<&Path> = socket.ancestors().skip(1).filter(own).collect();
        reach(&places, 0o711);
        reach(&[&socket], 0o777);
        assert_eq!(forge_ready(OTHER, &socket), Some(0), "{}", socket.display());
        up.wait_for_log("a warning", SOON, |line| line.contains("from another user"));
        reach(&places, 0o700);
        up.stop_cleanly();
        assert_eq!(up.count("worker.ready"), 0, "{}", up.story());
    }
}

#[test]
fn a_line_on_either_stream() {
    for modes in ["say-out+sleep", "say-err+sleep"] {
        becomes_ready(modes, "ready = { line = \"^ready to\" }");
    }
}

/// A program that believes that it writes to a terminal.
#[test]
fn anchored_pattern_matches_a_line_with_colours_and_carriage_returns() {
    for line in ["\\033[1;32mready\\033[0m to serve", "loading 90 %%\\rready to serve\\r"] {
        let script = format!("printf '{line}\\n'; while :; do sleep 1000; done");
        let command = |tag: &str| format!("[\"sh\", \"-c\", '''{script}''', \"sh\", {tag:?}]");
        let mut up = Up::start(|tag| pool_of(&command(tag), "ready = { line = \"^ready to serve$\" }"));
        up.wait_for_event("worker.ready");
        up.stop_cleanly();
    }
}

/// What Ostler does not act on, it names, once for each incarnation.
#[test]
fn messages_that_are_ignored_are_named() {
    const REPORTS: &str = "import os, socket, time\n\
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.connect(os.environ['NOTIFY_SOCKET'])\n\
        for _ in range(3): s.send(b'EXTEND_TIMEOUT_USEC=5000000\\nRELOADING=1\\nERRNO=2\\nMAINPID=%d' % os.getpid())\n\
        s.send(b'STATUS=serving\\nREADY=1'); s.send(b'STOPPING=1'); time.sleep(1000)";
    let mut up = Up::start(|tag| pool_of(&python(REPORTS, tag), "ready = { notify = true }"));
    up.wait_for_event("worker.ready");
    let stderr = up.stop_cleanly();
    for variable in ["EXTEND_TIMEOUT_USEC", "RELOADING", "ERRNO", "MAINPID"] {
        let named = format!("variable=\"{variable}\"");
        assert_eq!(stderr.matches(&named).count(), 1, "{variable}: {stderr}");
    }
}

#[test]
fn non_matching_line_does_not_make_a_worker_ready() {
    let keys = "ready = { line = \"^to serve\" }\nstart_timeout = \"500ms\"\nintensity = 0";
    let mut up = Up::start(|tag| pool("say-out+sleep", tag, keys));
    let (status, _) = up.end(SOON);
    assert_eq!(status.code(), Some(1));
    assert_eq!(up.named("worker.failed").next().unwrap()["reason"], "ready_timeout");
    assert_eq!(up.count("worker.ready"), 0);
    up.assert_nothing_left();
}

#[test]
fn ready_file_counts_once_it_is_not_empty() {
    let events = becomes_ready("file-empty+pause=300+file+sleep", "ready = { file = true }");
    assert!(
        start_time(&events) >= Duration::from_millis(300),
        "an empty one is not ready"
    );
}

#[test]
fn after_a_time() {
    let events = becomes_ready("sleep", "ready = { after = \"300ms\" }");
    assert!(start_time(&events) >= Duration::from_millis(300));
}

#[test]
fn without_ready_a_worker_is_ready_once_it_has_lived_for_a_moment() {
    let events = becomes_ready("sleep", "");
    assert!(start_time(&events) >= Duration::from_millis(100));
}

#[test]
fn after_no_time_a_worker_is_ready_with_its_spawn() {
    becomes_ready("sleep", "ready = { after = \"0s\" }");
}

/// For each kind of readiness: a stop ends the start immediately, as a stop and not as a failure.
#[test]
fn stop_while_waiting_for_ready_is_clean() {
    let kinds = [
        ("http", "port = \"any\"\nready = { http = \"/nonesuch\" }", "refuse"),
        ("tcp", "port = \"any\"\nready = { tcp = true }", "sleep"),
        ("notify", "ready = { notify = true }", "sleep"),
        ("line", "ready = { line = \"^ready\" }", "sleep"),
        ("file", "ready = { file = true }", "sleep"),
        ("after", "ready = { after = \"1h\" }\nstart_timeout = \"0s\"", "sleep"),
    ];
    for (kind, keys, modes) in kinds {
        let mut up = Up::start(|tag| pool(modes, tag, &format!("workers = 2\n{keys}")));
        up.wait_for_event("worker.spawned");
        up.stop_cleanly();
        assert_eq!(up.count("worker.ready"), 0, "{kind}");
        assert_eq!(up.count("worker.failed"), 0, "{kind}: {}", up.story());
        assert_eq!(up.count("worker.reserved"), up.count("worker.released"), "{kind}");
    }
}

/// A stop at various steps: before the first event, between reservation and spawn, while other
/// workers wait.
#[test]
fn stop_at_any_step_of_a_start_is_clean() {
    for step in ["run.started", "worker.reserved", "worker.spawned", "worker.ready"] {
        let keys = "workers = 20\nmax_starting = 4\nready = { after = \"20ms\" }";
        let mut up = Up::start(|tag| pool("sleep", tag, keys));
        up.wait_for_event(step);
        up.stop_cleanly();
        assert_eq!(up.count("worker.failed"), 0, "{step}: {}", up.story());
        assert_eq!(up.count("worker.reserved"), up.count("worker.released"), "{step}");
        assert_eq!(up.count("worker.exited"), up.count("worker.spawned"), "{step}");
    }
}

/// A stop between two incarnations, during a backoff.
#[test]
fn stop_during_a_backoff_is_clean() {
    let keys = "intensity = 5\nbackoff = { first = \"1h\", max = \"1h\" }";
    let mut up = Up::start(|tag| pool("exit=1", tag, keys));
    up.wait_for_event("worker.restarting");
    up.stop_cleanly();
    assert_eq!(up.count("worker.reserved"), 1);
}

/// A second signal kills workers that take too long to stop, even during their start.
#[test]
fn second_signal_kills_a_starting_worker_that_ignores_the_first() {
    let keys = "ready = { line = \"^ready$\" }\nstop = { signal = \"TERM\", grace = \"1h\" }";
    let mut up = Up::start(|tag| pool("ignore-term+sleep", tag, keys));
    up.wait_for_event("worker.spawned");
    up.signal(Signal::SIGTERM);
    up.wait_for_event("worker.stopping");
    let (status, stderr) = up.insist(Signal::SIGTERM, SOON);
    assert_eq!(status.code(), Some(0), "{stderr}");
    up.assert_nothing_left();
}

#[test]
fn never_more_than_max_starting_are_in_flight() {
    let keys = "workers = 12\nmax_starting = 3\nready = { after = \"50ms\" }\nintensity = 100";
    let mut up = Up::start(|tag| pool("sleep", tag, keys));
    up.wait_for_event("pool.ready");
    assert_eq!(most_in_flight(&up.seen), 3, "{}", up.story());
    // Restarts are starts too.
    let victims: Vec<u32> = up.named("worker.ready").map(pid_of).collect();
    victims.into_iter().for_each(|pid| send(pid, Signal::SIGKILL));
    while up.count("worker.ready") < 24 {
        up.wait_for_event("worker.ready");
    }
    assert_eq!(most_in_flight(&up.seen), 3, "{}", up.story());
    up.stop_cleanly();
}

/// The maximum number of workers that were reserved or spawned and not yet ready, according to the
/// events.
fn most_in_flight(events: &[Value]) -> usize {
    let (mut starting, mut most) = (HashSet::new(), 0);
    for event in events {
        let Some(worker) = event["worker"].as_str() else {
            continue;
        };
        match event["event"].as_str() {
            Some("worker.reserved") => _ = starting.insert(worker),
            Some("worker.ready" | "worker.failed" | "worker.stopping" | "worker.exited") => _ = starting.remove(worker),
            _ => {}
        }
        most = most.max(starting.len());
    }
    most
}
