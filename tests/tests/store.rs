//! A process table that is corrupt, from a newer version, unwritable or on a full disk: the result
//! is a clear error or a copy set aside, never a panic or a lost process.

#[path = "../../crates/ostler-registry/tests/common/stalled.rs"]
mod stalled;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ostler_tests::leftovers::TestDirectory;
use ostler_tests::{SOON, Up, pid_of, program, run_directories, send, survivors, worker};
use stalled::Stalled;

fn pool(tag: &str) -> String {
    format!(
        "[pool.p]\ncommand = {}\nworkers = 2\nintensity = 100\n",
        worker("sleep", tag)
    )
}

/// A killed run, and the directory of its table.
fn dead_run() -> (Up, PathBuf) {
    let mut up = Up::start(pool);
    up.wait_for_event("pool.ready");
    up.signal(Signal::SIGKILL);
    let deadline = Instant::now() + Duration::from_secs(5);
    while !survivors(&up.tag).is_empty() {
        assert!(Instant::now() < deadline, "left: {:?}", survivors(&up.tag));
        std::thread::yield_now();
    }
    let lock = run_directories(&up.directory.path().join("state"))
        .pop()
        .expect("directory of the dead run");
    let directory = lock.parent().expect("parent directory").to_owned();
    (up, directory)
}

/// Starts after a dead run, stops, and returns the events.
fn start_over(up: &Up) -> Vec<serde_json::Value> {
    let output = Command::new(program("ostler"))
        .arg("up")
        .arg(up.directory.path().join("ostler.toml"))
        .args(["--events", "-", "--for", "200ms"])
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("RUNTIME_DIRECTORY")
        .stdin(Stdio::null())
        .output()
        .expect("running ostler");
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

fn swept(events: &[serde_json::Value]) -> String {
    let done = events
        .iter()
        .find(|event| event["event"] == "sweep.done")
        .expect("sweep.done event");
    done["message"].as_str().expect("message of the event").to_owned()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("reading the directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[test]
fn corrupt_table_of_a_dead_run_is_set_aside_and_the_start_succeeds() {
    let (up, directory) = dead_run();
    for path in files(&directory) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name != "run.json" && name != "run.lock" {
            std::fs::write(&path, b"this is no store").unwrap();
        }
    }
    let message = swept(&start_over(&up));
    assert!(message.contains("can't be read"), "{message}");
    assert!(!directory.exists(), "the dead run's directory is removed");
    let state = up.directory.path().join("state");
    assert!(
        files(&state)
            .iter()
            .any(|path| std::fs::read(path).is_ok_and(|bytes| bytes == b"this is no store")),
        "the corrupt store is kept for inspection"
    );
}

#[test]
fn dead_run_of_a_newer_version_is_swept_by_marker() {
    let (up, directory) = dead_run();
    std::fs::write(directory.join("run.json"), br#"{"format": 99}"#).unwrap();
    let events = start_over(&up);
    assert!(events.iter().any(|event| event["event"] == "pool.ready"), "{events:?}");
    assert!(!directory.exists(), "{}", swept(&events));
}

#[test]
fn unwritable_state_directory_is_a_clear_error() {
    let directory = TestDirectory::new();
    let path = directory.path().join("ostler.toml");
    std::fs::write(
        &path,
        format!(
            "[app]\nname = \"t\"\nstate_dir = \"/proc/ostler\"\nstore = \"redb\"\n{}",
            pool("none")
        ),
    )
    .unwrap();
    let output = Command::new(program("ostler"))
        .arg("up")
        .arg(&path)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("/proc/ostler"), "the error names the path: {said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn disk_that_stalls_delays_the_start_and_is_named() {
    let (up, directory) = dead_run();
    let Some(stalled) = Stalled::new(&directory.join("run.lock")) else {
        return;
    };
    let mut next = Up::start_in(&up.directory.path().join("state"), pool, |_| ());
    let warning = next.wait_for_log("warning", SOON, |line| line.contains("the start waits for it"));
    assert!(
        warning.contains(&up.directory.path().display().to_string()),
        "{warning}"
    );
    assert_eq!(next.count("run.started"), 0);
    drop(stalled);
    next.wait_for_event("pool.ready");
    next.stop_cleanly();
}

type Harm = fn(&Path);

/// What may happen to a file of a live run.
const HARM: [(&str, Harm); 4] = [
    ("removed", |file| std::fs::remove_file(file).unwrap()),
    ("truncated", |file| {
        let open = std::fs::OpenOptions::new().write(true).open(file).unwrap();
        open.set_len(0).unwrap();
    }),
    ("replaced", |file| {
        std::fs::rename(file, file.with_extension("old")).unwrap();
        std::fs::write(file, "garbage").unwrap();
    }),
    ("overwritten", |file| {
        let size = std::fs::metadata(file).unwrap().len();
        let open = std::fs::OpenOptions::new().write(true).open(file).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&open, &vec![0xff; usize::try_from(size).unwrap()], 0).unwrap();
    }),
];

/// The run holds its files open and knows its workers: it restarts them, and stops in order.
#[test]
fn a_live_run_outlives_its_files() {
    for (what, harm) in HARM {
        let mut up = Up::start(pool);
        up.wait_for_event("pool.ready");
        for file in files(&up.state()) {
            harm(&file);
        }
        let victim = survivors(&up.tag)[0].0;
        send(u32::try_from(victim).unwrap(), Signal::SIGKILL);
        up.wait_for("the replacement", SOON, |event| {
            event["event"] == "worker.ready" && event["incarnation"] == 2
        });
        up.signal(Signal::SIGTERM);
        let (status, stderr) = up.end(SOON);
        assert_eq!(status.code(), Some(0), "{what}: {stderr}");
        assert_eq!(up.count("cleanup.success"), 1, "{what}");
        assert!(survivors(&up.tag).is_empty(), "{what}");
    }
}

/// Needs root and mount namespaces, for a small disk that can be filled.
#[test]
fn full_disk_does_not_prevent_a_restart() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can mount a small disk");
        return;
    }
    let on_small_disk = |command: &mut Command| {
        let script = "mkdir -p \"$STATE\" && mount -t tmpfs -o size=4m none \"$STATE\" && exec \"$0\" \"$@\"";
        let mut shell = Command::new("unshare");
        let file = PathBuf::from(command.get_args().nth(1).expect("configuration file"));
        shell
            .args(["-m", "sh", "-c", script])
            .arg(command.get_program())
            .args(command.get_args());
        shell.env("STATE", file.with_file_name("state"));
        shell.env_remove("XDG_RUNTIME_DIR").env_remove("RUNTIME_DIRECTORY");
        shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        *command = shell;
    };
    let mut up = Up::start_with(pool, on_small_disk);
    up.wait_for_event("pool.ready");
    // The path of the disk from outside the program's mount namespace.
    let seen = PathBuf::from(format!("/proc/{}/root", up.pid())).join(up.directory.path().strip_prefix("/").unwrap());
    let full = std::fs::write(seen.join("state/ballast"), vec![0; 8 << 20]);
    assert!(full.is_err(), "the disk must be full");
    for round in 0..5 {
        let victim = survivors(&up.tag)[0].0;
        send(u32::try_from(victim).unwrap(), Signal::SIGKILL);
        let ready = up.wait_for("the replacement", SOON, |event| event["event"] == "worker.ready");
        assert!(pid_of(&ready) > 0, "round {round}");
    }
    std::fs::remove_file(seen.join("state/ballast")).unwrap();
    up.signal(Signal::SIGTERM);
    let (status, stderr) = up.end(SOON);
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert_eq!(up.count("cleanup.success"), 1);
    assert!(survivors(&up.tag).is_empty());
}
