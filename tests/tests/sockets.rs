//! Unix sockets (`port = "unix"`), from a client's view: each worker serves at a path of its own,
//! which is private, short, and gone when the worker is.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use ostler_tests::scene::pool;
use ostler_tests::sweep::sweep;
use ostler_tests::{Up, pid_of, send};
use serde_json::Value;

const HTTP: &str = "port = \"unix\"\nready = { http = \"/\" }";

fn socket_of(event: &Value) -> PathBuf {
    PathBuf::from(
        event["socket"]
            .as_str()
            .unwrap_or_else(|| panic!("no socket in {event}")),
    )
}

/// Asserts that the worker of the event answers at the socket of the event.
fn assert_answers(ready: &Value) {
    let mut stream = UnixStream::connect(socket_of(ready)).expect("it listens");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    assert!(answer.ends_with(&format!("\r\n{}", pid_of(ready))), "{answer}");
}

/// Asserts that only this user can reach the socket, and that its path fits into an address.
fn assert_private_and_short(socket: &Path) {
    let directory = socket.parent().expect("a directory");
    let mode = directory.metadata().expect("it exists").permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "{}", directory.display());
    assert!(socket.as_os_str().len() < 108, "{}", socket.display());
}

/// Starts runs whose state directory is so deep that no socket fits into it.
fn deep(keys: &str) -> Up {
    Up::start_with(
        |tag| pool("http-unix", tag, &format!("{HTTP}\n{keys}")),
        |command| {
            let file = command.get_args().nth(1).expect("configuration file").to_owned();
            let text = std::fs::read_to_string(&file).expect("reading the configuration");
            let deep = format!("state_dir = \"state/{}\"", "deep/".repeat(30));
            std::fs::write(&file, text.replace("state_dir = \"state\"", &deep)).expect("rewriting the configuration");
        },
    )
}

#[test]
fn each_worker_serves_at_a_path_of_its_own_and_its_replacement_too() {
    let mut up = Up::start(|tag| pool("http-unix", tag, &format!("workers = 3\n{HTTP}")));
    up.wait_for_event("pool.ready");
    let ready: Vec<Value> = up.named("worker.ready").cloned().collect();
    let mut paths: Vec<PathBuf> = ready.iter().map(socket_of).collect();
    ready.iter().for_each(assert_answers);
    paths.iter().for_each(|path| assert_private_and_short(path));
    // A killed server leaves its path; the next one could not bind if the release did.
    send(pid_of(&ready[0]), Signal::SIGKILL);
    let replaced = up.wait_for_event("worker.ready");
    assert_eq!(
        (&replaced["worker"], &replaced["incarnation"]),
        (&ready[0]["worker"], &2.into())
    );
    assert_eq!(socket_of(&replaced), paths[0]);
    assert_answers(&replaced);
    up.stop_cleanly();
    assert!(paths.iter().all(|path| !path.exists()));
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), 3);
}

#[test]
fn command_and_environment_have_the_path() {
    let script = "[ -n \"$OSTLER_SOCKET_A\" ] && [ \"$0\" = \"x$OSTLER_SOCKET_A\" ] && [ \"$1\" = '{socket}' ] && exec sleep 3600";
    let keys = "ports = { a = \"unix\" }\nready = { after = \"200ms\" }";
    let command = |tag: &str| format!("[\"sh\", \"-c\", {script:?}, \"x{{socket.a}}\", \"{{socket}}\", {tag:?}]");
    let mut up = Up::start(|tag| ostler_tests::scene::pool_of(&command(tag), keys));
    let ready = up.wait_for_event("worker.ready");
    assert!(
        ready["sockets"]["a"].is_string() && ready.get("socket").is_none(),
        "{ready}"
    );
    up.stop_cleanly();
}

#[test]
fn a_path_is_short_however_deep_the_state_directory_is() {
    let mut up = deep("workers = 2");
    up.wait_for_event("pool.ready");
    let ready: Vec<Value> = up.named("worker.ready").cloned().collect();
    for ready in &ready {
        assert_private_and_short(&socket_of(ready));
        assert_answers(ready);
    }
    let directory = socket_of(&ready[0]).parent().expect("a directory").to_owned();
    assert!(!directory.starts_with(up.directory.path()), "{}", directory.display());
    up.stop_cleanly();
    assert!(!directory.exists(), "{} is left", directory.display());
}

#[test]
fn a_sweep_removes_what_the_sockets_of_a_dead_run_left() {
    let mut up = deep("");
    let socket = socket_of(&up.wait_for_event("worker.ready"));
    up.signal(Signal::SIGKILL);
    up.end(ostler_tests::SOON);
    assert!(socket.exists(), "nothing has removed it yet");
    let state = up.directory.path().join("state").join("deep/".repeat(30));
    sweep(&state);
    assert!(!socket.exists() && !socket.parent().expect("a directory").exists());
}

/// Readiness: the process that listens is not the worker.
#[test]
fn a_listener_outside_the_tree_does_not_count_and_is_named() {
    let keys = "port = \"unix\"\nready = { tcp = true }\nintensity = 0";
    let mut up = Up::start(|tag| pool("sleep", tag, keys));
    let socket = socket_of(&up.wait_for_event("worker.spawned"));
    let _foreign = UnixListener::bind(&socket).expect("the path is free");
    let failed = up.wait_for_event("worker.failed");
    assert_eq!(failed["reason"], "port_in_use", "{failed}");
    let holder = failed["holder"].as_str().expect("a holder");
    assert!(holder.contains(&format!("pid {}", std::process::id())), "{holder}");
    drop(_foreign);
    let (status, _) = up.end(ostler_tests::SOON);
    assert_eq!(status.code(), Some(1));
    up.assert_nothing_left();
}

/// Release: a process that listens at the path holds it, whatever became of the worker.
#[test]
fn a_path_on_which_a_process_listens_is_not_released() {
    let keys = format!("{HTTP}\nrelease_timeout = \"500ms\"\nintensity = 100");
    let mut up = Up::start(|tag| pool("http-unix", tag, &keys));
    let ready = up.wait_for_event("worker.ready");
    let socket = socket_of(&ready);
    std::fs::remove_file(&socket).expect("it is there");
    let foreign = UnixListener::bind(&socket).expect("the path is free");
    send(pid_of(&ready), Signal::SIGKILL);
    let overdue = up.wait_for("the overdue release", ostler_tests::SOON, |event| {
        event["reason"] == "release_timeout"
    });
    let message = overdue["message"].as_str().unwrap_or_default();
    assert!(
        message.contains(&format!("pid {}", std::process::id())) && message.contains(&*socket.to_string_lossy()),
        "{overdue}"
    );
    assert_eq!(up.count("worker.ready"), 1, "nothing takes its place before");
    drop(foreign);
    let replaced = up.wait_for_event("worker.ready");
    assert_answers(&replaced);
    up.stop_cleanly();
}
