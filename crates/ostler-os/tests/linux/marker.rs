//! Finding processes by the marker of their run.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use ostler_core::ids::{Incarnation, RunId, WorkerId};
use ostler_os::identity;
use ostler_os::kill::kill_all;
use ostler_os::marker::scan;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::common::{
    END_OF_MAIN_THREAD, Troupe, UNPRIVILEGED, handle_of, is_root, run_unprivileged, soon, test_attribution,
    until_main_thread_ended,
};

fn some_run() -> RunId {
    RunId::from_u128(uuid::Uuid::now_v7().as_u128())
}

#[test]
fn marked_processes_and_their_children_are_found_and_others_are_not() {
    let mut troupe = Troupe::new();
    let (outer, inner, other) = (some_run(), some_run(), some_run());
    let value = WorkerId::new("embed", 0).marker_value(Incarnation(3));
    let mut command = troupe.command("sh", &["-c", "sleep 600 & setsid sleep 600 & echo up; wait"]);
    command.env(outer.marker_name(), &value);
    let (root, _) = troupe.spawn_and_read_line(command);
    let mut nested = troupe.command("sleep", &["600"]);
    nested
        .env(outer.marker_name(), &value)
        .env(inner.marker_name(), "web/1#1");
    let nested = troupe.spawn(nested);
    let mut unmarked = troupe.command("sleep", &["600"]);
    unmarked
        .env(other.marker_name(), "x/0#1")
        .env("NOTE", outer.marker_name());
    let unmarked = troupe.spawn(unmarked);

    crate::common::until("all programs are running", || {
        scan(&[outer], soon()).expect("readable").found.len() == 4
    });
    let found = scan(&[outer], soon()).expect("readable").found;
    assert!(found.iter().any(|marked| marked.identity.pid == root));
    assert!(found.iter().all(|marked| marked.identity.pid != unmarked));
    assert!(
        found
            .iter()
            .all(|marked| marked.markers.contains(&(outer, value.clone())))
    );
    let both = found
        .iter()
        .find(|marked| marked.identity.pid == nested)
        .expect("found");
    assert_eq!(both.markers.len(), 2);
    assert_eq!(both.command, "sleep 600");

    assert_eq!(scan(&[some_run()], soon()).expect("readable").found, vec![]);
}

/// Regression: the environment of a main thread that has exited only shows at the other threads;
/// its own is empty for root, and refused to others.
#[test]
fn marked_process_whose_main_thread_has_exited_is_found() {
    if is_root() {
        run_unprivileged("marker::marked_process_whose_main_thread_has_exited_is_found");
    }
    let mut troupe = Troupe::new();
    let (run, other) = (some_run(), some_run());
    let script = format!("said = 'up'\n{END_OF_MAIN_THREAD}");
    let mut start = |run: RunId| {
        let mut command = troupe.command("python3", &["-u", "-c", &script]);
        command.env(run.marker_name(), "embed/0#3");
        let (pid, _) = troupe.spawn_and_read_line(command);
        until_main_thread_ended(pid);
        pid
    };
    let pid = start(run);
    start(other);

    let found = scan(&[run], soon()).expect("readable").found;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].identity, handle_of(pid).identity());
    assert_eq!(found[0].markers, vec![(run, "embed/0#3".to_owned())]);
    assert!(found[0].command.contains("pthread_exit"), "{}", found[0].command);
    let killed = kill_all(&[found[0].identity], &test_attribution(), soon());
    assert!(killed.is_clean(), "{killed:?}");
    assert_eq!(scan(&[run], soon()).expect("readable").found, vec![]);
}

#[test]
fn scan_is_bounded_and_reports_its_cost() {
    let past = scan(&[some_run()], Instant::now()).expect("readable");
    assert!(!past.unread.is_empty(), "unread processes must be reported");
    let scan = scan(&[some_run()], soon()).expect("readable");
    assert!(scan.read > 0 && scan.unread.is_empty());
    println!("{} processes read in {:?}", scan.read, scan.elapsed);
    assert!(scan.elapsed < Duration::from_secs(5), "{:?}", scan.elapsed);
}

/// One descriptor suffices to list /proc but not to read a process. Run in its own process, because
/// the limit is per process.
#[test]
fn role_without_descriptors() {
    if std::env::var_os("OSTLER_TEST_ROLE").is_none() {
        return;
    }
    // What identities need is read once and cached.
    let us = identity::of(std::process::id() as i32)
        .expect("readable")
        .expect("alive");
    let one = File::open("/dev/null").expect("opening /dev/null").as_raw_fd() as u64;
    let all = getrlimit(Resource::Nofile);
    let few = Rlimit {
        current: Some(one + 1),
        ..all
    };
    setrlimit(Resource::Nofile, few).expect("set");
    let few = scan(&[some_run()], soon()).expect("listing /proc");
    setrlimit(Resource::Nofile, all).expect("set");
    assert!(
        few.unread.contains(&1),
        "init was not read, and is not reported: {few:?}"
    );
    assert!(few.missed(None).is_some_and(|words| words.contains("pid 1")));
    let mut later = us;
    later.start_time += 100_000_000;
    assert_eq!(few.missed(Some(&later)), None, "no process is that young");
    later.boot_id = uuid::Uuid::nil();
    assert!(
        few.missed(Some(&later)).is_some(),
        "start times of another boot are not comparable"
    );
}

#[test]
fn process_that_could_not_be_read_does_not_count_as_unmarked() {
    let output = Command::new(std::env::current_exe().expect("path of this program"))
        .args(["--exact", "marker::role_without_descriptors", "--test-threads=1"])
        .env("OSTLER_TEST_ROLE", "1")
        .output()
        .expect("running this program");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn processes_of_other_users_are_counted_as_unreadable() {
    if is_root() {
        run_unprivileged("marker::processes_of_other_users_are_counted_as_unreadable");
        return;
    }
    let scan = scan(&[some_run()], soon()).expect("readable");
    assert!(scan.unreadable > 0, "init belongs to root");
}

#[test]
fn root_reads_the_markers_of_others() {
    if !is_root() {
        println!("skipped: needs root");
        return;
    }
    let mut troupe = Troupe::new();
    let run = some_run();
    let mut command = troupe.command("sleep", &["600"]);
    command
        .uid(UNPRIVILEGED)
        .gid(UNPRIVILEGED)
        .env(run.marker_name(), "embed/0#1");
    troupe.spawn(command);
    crate::common::until("the process is found", || {
        scan(&[run], soon()).expect("readable").found.len() == 1
    });
}
