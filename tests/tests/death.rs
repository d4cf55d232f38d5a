//! The host is killed with the worst of workers, and everything is gone; the next start sweeps, and touches nobody else.

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ostler_tests::{SOON, Up, pid_of, program, run_directories, survivors, worker};

/// The kinds of workers, eight of each: plain, deaf to polite signals, with daemons in sessions of their own, with a
/// daemon in an empty environment, with a child in a process group of its own that ignores signals too.
const KINDS: [&str; 5] = [
    "sleep",
    "ignore-term+child+sleep",
    "daemon+daemon+child+sleep",
    "ignore-term+daemon-naked+daemon-naked+daemon+child+sleep",
    "setsid+ignore-term+child+child+daemon+daemon-naked+sleep",
];
/// Their processes: one and those that it leaves.
const PROCESSES: usize = 8 * (1 + 2 + 4 + 5 + 5);

fn pools(tag: &str) -> String {
    let pool = |(index, modes): (usize, &&str)| {
        format!(
            "[pool.k{index}]\ncommand = {}\nworkers = 8\nmax_starting = 8\n",
            worker(modes, tag)
        )
    };
    KINDS.iter().enumerate().map(pool).collect()
}

fn await_count(tag: &str, count: usize) {
    let deadline = Instant::now() + SOON;
    while survivors(tag).len() != count {
        assert!(
            Instant::now() < deadline,
            "{} of {count} processes: {:?}",
            survivors(tag).len(),
            survivors(tag)
        );
        std::thread::yield_now();
    }
}

fn sweep(up: &Up) -> String {
    let swept = Command::new(program("ostler"))
        .args(["sweep", "--app", "test", "--state-dir"])
        .arg(up.directory.path().join("state"))
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("RUNTIME_DIRECTORY")
        .output()
        .unwrap();
    assert!(swept.status.success(), "{swept:?}");
    format!(
        "{}{}",
        String::from_utf8_lossy(&swept.stdout),
        String::from_utf8_lossy(&swept.stderr)
    )
}

#[test]
fn forty_of_the_worst_are_gone_within_a_second() {
    let mut times: Vec<Duration> = (0..5).map(|_| one_death()).collect();
    times.sort();
    println!("SIGKILL of the host to the last of {PROCESSES} processes gone: {times:?}");
    assert!(times[2] < Duration::from_secs(1), "the median of {times:?}");
}

fn one_death() -> Duration {
    let mut up = Up::start(pools);
    for _ in KINDS {
        up.wait_for_event("pool.ready");
    }
    await_count(&up.tag, PROCESSES);
    let begun = Instant::now();
    up.signal(Signal::SIGKILL);
    await_count(&up.tag, 0);
    let time = begun.elapsed();
    let state = up.directory.path().join("state");
    assert_eq!(run_directories(&state).len(), 1, "the dead run's table is there");
    sweep(&up);
    up.assert_nothing_left();
    time
}

#[test]
fn the_next_start_sweeps_what_the_dead_one_left() {
    let mut dead = Up::start(|tag| format!("[pool.p]\ncommand = {}\nworkers = 2\n", worker("daemon+sleep", tag)));
    dead.wait_for_event("pool.ready");
    dead.signal(Signal::SIGKILL);
    // Its lock is free when it has ended, not when it was signalled.
    dead.end(SOON);
    let state = dead.directory.path().join("state");
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

/// A run of the same app in a state directory that another one has, too.
fn in_state_of(state: &std::path::Path) -> Up {
    let pools = |tag: &str| format!("[pool.p]\ncommand = {}\nworkers = 2\n", worker("daemon+sleep", tag));
    Up::start_with(pools, |command| {
        let file = command.get_args().nth(1).expect("its file").to_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        let shared = format!("state_dir = {:?}", state.display().to_string());
        std::fs::write(&file, text.replace("state_dir = \"state\"", &shared)).unwrap();
    })
}

#[test]
fn two_instances_with_one_state_directory_never_touch_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(20_261_121);
    let begin = || {
        let mut up = in_state_of(directory.path());
        up.wait_for_event("pool.ready");
        await_count(&up.tag, 4);
        up
    };
    let mut both = [begin(), begin()];
    for _ in 0..10 {
        let chosen = random.usize(0..2);
        let other = survivors(&both[1 - chosen].tag);
        if random.bool() {
            both[chosen].signal(Signal::SIGKILL);
        } else {
            both[chosen].stop_cleanly();
        }
        let ended = std::mem::replace(&mut both[chosen], begin());
        await_count(&ended.tag, 0);
        assert_eq!(
            survivors(&both[1 - chosen].tag),
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
    let mut up = Up::start(|tag| format!("[pool.p]\ncommand = {}\n", worker("daemon+sleep", tag)));
    let spawned = up.wait_for_event("worker.spawned");
    up.wait_for_event("pool.ready");
    await_count(&up.tag, 2);
    let before = survivors(&up.tag);
    sweep(&up);
    assert_eq!(survivors(&up.tag), before);
    assert!(
        before
            .iter()
            .any(|(pid, _)| u32::try_from(*pid) == Ok(pid_of(&spawned)))
    );
    up.stop_cleanly();
}
