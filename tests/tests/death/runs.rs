//! Live and dead runs, and sweeps, in one state directory.

use nix::sys::signal::Signal;
use ostler_tests::leftovers::TestDirectory;
use ostler_tests::scene::wrapped;
use ostler_tests::sweep::{sweep, sweep_by, swept};
use ostler_tests::world::{await_count, rounds};
use ostler_tests::{SOON, Up, pid_of, pids, program, run_directories, stray, survivors, worker};

use crate::pool_ready_when_complete;

#[test]
fn next_start_sweeps_what_a_dead_run_left() {
    let mut dead = Up::start(|tag| format!("[pool.p]\ncommand = {}\nworkers = 2\n", worker("daemon+sleep", tag)));
    dead.wait_for_event("pool.ready");
    dead.signal(Signal::SIGKILL);
    // The lock is released once it has ended, not when it is signalled.
    dead.end(SOON);
    let state = dead.state();
    let mut next = in_state_of(&state);
    let swept = next.wait_for_event("sweep.done");
    assert!(
        swept["message"].as_str().unwrap().starts_with("1 dead run swept"),
        "{swept}"
    );
    assert_eq!(survivors(&dead.tag), []);
    next.wait_for_event("pool.ready");
    next.stop_cleanly();
    dead.assert_nothing_left();
}

/// A guardian gives its workers more time than a sweep has. The sweep kills it, its sitters end the
/// rest, including processes without a marker, and a process outside the run's tree is still found
/// by its marker.
#[test]
fn sweep_finds_markers_even_after_waiting_for_the_guardian() {
    let deaf = |tag: &str| {
        let worker = worker("ignore-term+daemon+daemon-naked+sleep", tag);
        format!("[pool.p]\ncommand = {worker}\nhost_death = {{ signal = \"TERM\", grace = \"1h\" }}\n")
    };
    let mut dead = Up::start(deaf);
    let spawned = dead.wait_for_event("worker.spawned");
    let mut stray = stray(pid_of(&spawned), &dead.tag);
    dead.signal(Signal::SIGKILL);
    dead.end(SOON);
    let report = sweep(&dead.state());
    stray.ended();
    await_count(&dead.tag, "no processes", |count| count == 0);
    dead.assert_nothing_left();
    assert!(report.contains(&stray.id().to_string()), "{report}");
}

/// However few descriptors a sweep has: as long as a process of a dead run is alive, its directory
/// is kept for the next sweep.
#[test]
fn sweep_without_descriptors_loses_no_process() {
    let mut dead = Up::start(|tag| format!("[pool.p]\ncommand = {}\n", worker("sleep", tag)));
    let spawned = dead.wait_for_event("worker.spawned");
    let mut stray = stray(pid_of(&spawned), &dead.tag);
    dead.signal(Signal::SIGKILL);
    dead.end(SOON);
    let mut failed = 0;
    for descriptors in 3..64 {
        let mut command = sweep_by(&program("ostler"), &dead.state());
        wrapped(&mut command, &["prlimit", &format!("--nofile={descriptors}")]);
        let outcome = swept(&mut command);
        if run_directories(&dead.state()).is_empty() {
            break;
        }
        assert!(!outcome.success || !stray.lives(), "{outcome:?}");
        failed += 1;
    }
    assert!(failed > 0, "the first sweep had enough descriptors");
    assert!(!stray.lives(), "still running, but no sweep knows about it any more");
    dead.assert_nothing_left();
}

/// A run of the same app with a state directory shared with another run.
fn in_state_of(state: &std::path::Path) -> Up {
    let pools = |tag: &str| pool_ready_when_complete("daemon+sleep", tag, "workers = 2");
    Up::start_in(state, pools, |_| {})
}

#[test]
fn instances_sharing_a_state_directory_do_not_affect_each_other() {
    let directory = TestDirectory::new();
    let mut random = fastrand::Rng::with_seed(20_261_121);
    let begin = || {
        let mut up = in_state_of(directory.path());
        up.wait_for_event("pool.ready");
        await_count(&up.tag, "all processes", |count| count == 4);
        up
    };
    let mut both = [begin(), begin()];
    for _ in 0..rounds(6, 50) {
        let chosen = random.usize(0..2);
        let other = pids(&both[1 - chosen].tag);
        if random.bool() {
            both[chosen].signal(Signal::SIGKILL);
        } else {
            both[chosen].stop_cleanly();
        }
        let ended = std::mem::replace(&mut both[chosen], begin());
        await_count(&ended.tag, "gone", |count| count == 0);
        assert_eq!(
            pids(&both[1 - chosen].tag),
            other,
            "the other's processes are untouched"
        );
    }
    for up in &mut both {
        up.stop_cleanly();
        assert_eq!(up.count("worker.failed"), 0, "{}", up.story());
        assert_eq!(up.count("guardian.lost"), 0);
    }
    assert_eq!(run_directories(directory.path()), Vec::<std::path::PathBuf>::new());
}

#[test]
fn sweep_leaves_live_runs_alone() {
    let mut up = Up::start(|tag| format!("[pool.p]\nworkers = 2\ncommand = {}\n", worker("sleep", tag)));
    let spawned = up.wait_for_event("worker.spawned");
    up.wait_for_event("pool.ready");
    await_count(&up.tag, "all processes", |count| count == 2);
    let before = survivors(&up.tag);
    sweep(&up.state());
    assert_eq!(survivors(&up.tag), before);
    assert!(
        before
            .iter()
            .any(|(pid, _)| u32::try_from(*pid) == Ok(pid_of(&spawned)))
    );
    up.stop_cleanly();
}
