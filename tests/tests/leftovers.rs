//! Whatever happens to a test, its processes end: the test fails in the middle of a fault that it
//! causes, or the test program is killed.

use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::signal::Signal;
use ostler_tests::scene::{killed_with_the_test, pool};
use ostler_tests::world::{Anatomy, await_count, is_alive, kill_at_once};
use ostler_tests::{SOON, TestDirectory, Up, send};

/// Set when this program runs itself as the test program that is watched: how that one ends.
const END: &str = "OSTLER_TEST_END";
/// Where it writes the tag and the processes of its run.
const NOTES: &str = "OSTLER_TEST_NOTES";

/// The worst moment to end: guardian and sitters are killed, and the host, which could end the
/// rest, is stopped.
fn unguarded_run() -> (Up, Anatomy) {
    let ready = "workers = 2\nready = { line = \"ready to serve\" }";
    let modes = "ignore-term+daemon-naked+daemon+child+say-out+sleep";
    let mut up = Up::start(|tag| pool(modes, tag, ready));
    up.wait_for_event("pool.ready");
    await_count(&up.tag, "all processes", |count| count == 8);
    let anatomy = Anatomy::of(up.pid());
    up.signal(Signal::SIGSTOP);
    kill_at_once(&anatomy.all()[1..]);
    (up, anatomy)
}

/// Not a test of its own: `ended` runs it in another process.
#[test]
fn run_that_is_cut_short() {
    let (Ok(end), Some(notes)) = (std::env::var(END), std::env::var_os(NOTES)) else {
        return;
    };
    let (up, anatomy) = unguarded_run();
    let pids: Vec<String> = anatomy.all().iter().map(ToString::to_string).collect();
    let text = format!("{}\n{}", up.tag, pids.join(" "));
    let draft = std::path::PathBuf::from(&notes).with_extension("draft");
    std::fs::write(&draft, text).unwrap();
    std::fs::rename(&draft, &notes).unwrap();
    match end.as_str() {
        "panic" => panic!("as planned"),
        _ => std::thread::sleep(SOON * 10),
    }
}

/// Set for the test program between: it runs the one that is cut short, in a directory of its own.
const BETWEEN: &str = "OSTLER_TEST_BETWEEN";

/// Not a test of its own, either: `leaves_nothing` runs it in another process.
#[test]
fn run_of_a_run_that_is_cut_short() {
    if std::env::var_os(BETWEEN).is_none() {
        return;
    }
    let directory = TestDirectory::new();
    let mut command = cut_short("run_that_is_cut_short");
    // The directory is in the environment of the other program, and of its janitor.
    command.env("OSTLER_TEST_OUTER", directory.path());
    killed_with_the_test(&command).status().unwrap();
}

/// This program, to run one of the tests above.
fn cut_short(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Runs one of these tests in another process, ends it like this, and checks that nothing is left.
fn leaves_nothing(test: &str, end: &str) {
    let directory = TestDirectory::new();
    let notes = directory.path().join("notes");
    let mut command = cut_short(test);
    command.env(END, end).env(NOTES, &notes).env(BETWEEN, "1");
    let mut child = killed_with_the_test(&command).spawn().unwrap();
    let deadline = Instant::now() + SOON;
    let text = loop {
        match std::fs::read_to_string(&notes) {
            Ok(text) => break text,
            Err(_) => assert!(Instant::now() < deadline, "the other test program wrote no notes"),
        }
        std::thread::yield_now();
    };
    let (tag, pids) = text.split_once('\n').unwrap();
    if end == "kill" {
        send(child.id(), Signal::SIGKILL);
    }
    child.wait().unwrap();
    await_count(tag, "no processes", |count| count == 0);
    for pid in pids.split(' ').map(|pid| pid.parse().unwrap()) {
        while is_alive(pid) {
            assert!(Instant::now() < deadline + SOON, "pid {pid} of {text} is running");
            std::thread::yield_now();
        }
    }
    let left = std::env::temp_dir().join(tag);
    while left.exists() {
        assert!(Instant::now() < deadline + SOON, "{} is left", left.display());
        std::thread::yield_now();
    }
}

#[test]
fn test_that_fails_leaves_nothing() {
    leaves_nothing("run_that_is_cut_short", "panic");
}

#[test]
fn test_program_that_is_killed_leaves_nothing() {
    leaves_nothing("run_that_is_cut_short", "kill");
}

/// The janitors of both have work to do: the one does not end the other.
#[test]
fn test_program_that_is_killed_while_it_runs_another_leaves_nothing() {
    leaves_nothing("run_of_a_run_that_is_cut_short", "kill");
}
