//! Live runs, dead ones and their sweeps, in one state directory.

use nix::sys::signal::Signal;
use ostler_tests::scene::wrapped;
use ostler_tests::sweep::{sweep, sweep_by, swept};
use ostler_tests::world::{await_count, rounds};
use ostler_tests::{SOON, Up, pid_of, pids, program, run_directories, stray, survivors, worker};

use crate::told_when_all_are_there;

#[test]
fn the_next_start_sweeps_what_the_dead_one_left() {
    let mut dead = Up::start(|tag| format!("[pool.p]\ncommand = {}\nworkers = 2\n", worker("daemon+sleep", tag)));
    dead.wait_for_event("pool.ready");
    dead.signal(Signal::SIGKILL);
    // Its lock is free when it has ended, not when it was signalled.
    dead.end(SOON);
    let state = dead.state();
    let mut next = in_state_of(&state);
    let swept = next.wait_for_event("sweep.done");
    assert!(
        swept["message"].as_str().unwrap().starts_with("1 dead runs swept"),
        "{swept}"
    );
    assert_eq!(survivors(&dead.tag), []);
    next.wait_for_event("pool.ready");
    next.stop_cleanly();
    dead.assert_nothing_left();
}

/// A guardian that gives its workers more time than a sweep has for it: it is killed, its sitters end what is left, the naked
/// ones too, and who is in no tree of the run is found by the marker all the same.
#[test]
fn a_sweep_that_has_waited_for_the_guardian_looks_for_markers_all_the_same() {
    let deaf = |tag: &str| {
        let worker = worker("ignore-term+daemon+daemon-naked+sleep", tag);
        format!("[pool.p]\ncommand = {worker}\nhost_death = {{ signal = \"TERM\", grace = \"1h\" }}\n")
    };
    let mut dead = Up::start(deaf);
    let spawned = dead.wait_for_event("worker.spawned");
    let mut stray = stray(pid_of(&spawned), &dead.tag);
    dead.signal(Signal::SIGKILL);
    dead.end(SOON);
    let told = sweep(&dead.state());
    stray.ended();
    await_count(&dead.tag, "all are gone", |count| count == 0);
    dead.assert_nothing_left();
    assert!(told.contains(&stray.id().to_string()), "{told}");
}

/// With however few descriptors a sweep has to do: as long as anybody of a dead run lives, its directory is there for the next
/// sweep.
#[test]
fn a_sweep_that_can_not_look_forgets_nobody() {
    let mut dead = Up::start(|tag| format!("[pool.p]\ncommand = {}\n", worker("sleep", tag)));
    let spawned = dead.wait_for_event("worker.spawned");
    let mut stray = stray(pid_of(&spawned), &dead.tag);
    dead.signal(Signal::SIGKILL);
    dead.end(SOON);
    let mut failed = 0;
    for descriptors in 3..64 {
        let mut command = sweep_by(&program("ostler"), &dead.state());
        wrapped(&mut command, &["prlimit", &format!("--nofile={descriptors}")]);
        let told = swept(&mut command);
        if run_directories(&dead.state()).is_empty() {
            break;
        }
        assert!(!told.success || !stray.lives(), "{told:?}");
        failed += 1;
    }
    assert!(failed > 0, "the first one had descriptors enough");
    assert!(!stray.lives(), "it lives, and no sweep knows of it any more");
    dead.assert_nothing_left();
}

/// A run of the same app in a state directory that another one has, too.
fn in_state_of(state: &std::path::Path) -> Up {
    let pools = |tag: &str| told_when_all_are_there("daemon+sleep", tag, "workers = 2");
    Up::start_in(state, pools, |_| {})
}

#[test]
fn two_instances_with_one_state_directory_never_touch_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(20_261_121);
    let begin = || {
        let mut up = in_state_of(directory.path());
        up.wait_for_event("pool.ready");
        await_count(&up.tag, "all there", |count| count == 4);
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
fn a_sweep_leaves_live_runs_alone() {
    let mut up = Up::start(|tag| format!("[pool.p]\nworkers = 2\ncommand = {}\n", worker("sleep", tag)));
    let spawned = up.wait_for_event("worker.spawned");
    up.wait_for_event("pool.ready");
    await_count(&up.tag, "all there", |count| count == 2);
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
