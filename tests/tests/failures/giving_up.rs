//! A slot that gives up: what this means for its pool and for the run, and the delays before.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ostler_tests::scene::{moment, pool};
use ostler_tests::{SOON, Up, pid_of, send};

/// Three ready workers that are not restarted; one of them is ended with `end`.
fn three(keys: &str) -> Up {
    let mut up = Up::start(|tag| pool("sleep", tag, &format!("workers = 3\nintensity = 0\n{keys}")));
    up.wait_for_event("pool.ready");
    up
}

fn end_worker(up: &mut Up, worker: &str) {
    let ready = up
        .named("worker.ready")
        .find(|event| event["worker"] == worker)
        .unwrap();
    send(pid_of(ready), Signal::SIGKILL);
    up.wait_for("its giving up", SOON, |event| {
        event["event"] == "worker.gave_up" && event["worker"] == worker
    });
}

#[test]
fn other_workers_continue_down_to_min_workers() {
    let mut up = three("min_workers = 2");
    end_worker(&mut up, "p/1");
    assert_eq!(up.alive_workers(), 2);
    assert_eq!(up.count("pool.gave_up"), 0);
    end_worker(&mut up, "p/0");
    let (status, stderr) = up.end(SOON);
    assert_eq!(status.code(), Some(1), "{stderr}");
    let pool = up.named("pool.gave_up").next().unwrap();
    assert_eq!(pool["reason"], "killed");
    assert_eq!(
        up.named("worker.stopping")
            .filter(|event| event["worker"] == "p/2")
            .count(),
        1,
        "{}",
        up.story()
    );
    assert!(stderr.contains("pool p has given up"), "{stderr}");
    up.assert_nothing_left();
}

#[test]
fn slot_that_gave_up_does_not_fail_the_run_while_its_pool_continues() {
    let mut up = three("");
    end_worker(&mut up, "p/0");
    end_worker(&mut up, "p/2");
    up.stop_cleanly();
    assert_eq!(up.count("worker.gave_up"), 2);
    assert_eq!(up.count("pool.gave_up"), 0);
}

#[test]
fn on_give_up_pool_escalates_like_otp() {
    let mut up = three("on_give_up = \"pool\"");
    end_worker(&mut up, "p/1");
    let (status, stderr) = up.end(SOON);
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert_eq!(
        (up.count("worker.gave_up"), up.count("pool.gave_up")),
        (1, 1),
        "{}",
        up.story()
    );
    assert_eq!(up.count("worker.released"), 3);
    up.assert_nothing_left();
}

/// A pool that ends does not affect another.
#[test]
fn pool_that_gave_up_leaves_others_alone_and_fails_the_run_at_the_end() {
    let mut up = Up::start(|tag| {
        let failing = pool("exit=1", tag, "intensity = 1").replace("[pool.p]", "[pool.q]");
        format!("{}{failing}", pool("sleep", tag, ""))
    });
    up.wait_for_event("pool.stopped");
    assert_eq!(up.named("pool.gave_up").next().unwrap()["pool"], "q");
    if up.alive_workers() == 0 {
        up.wait_for_event("worker.ready");
    }
    assert_eq!(up.alive_workers(), 1);
    up.signal(Signal::SIGTERM);
    let (status, stderr) = up.end(SOON);
    assert_eq!(status.code(), Some(1), "{stderr}");
    up.assert_nothing_left();
}

/// How much later than its cause an event may be on a busy machine: well below the differences of
/// the pauses.
const DELAY: Duration = Duration::from_millis(150);

#[test]
fn backoff_is_reported_and_observed() {
    let keys = "intensity = 4\nbackoff = { first = \"200ms\", max = \"500ms\", jitter = 0.0 }";
    let mut up = Up::start(|tag| pool("exit=1", tag, keys));
    let (status, _) = up.end(SOON);
    assert_eq!(status.code(), Some(1));
    let attempts: Vec<_> = up
        .named("worker.restarting")
        .map(|event| event["attempt"].as_u64().unwrap())
        .collect();
    assert_eq!(attempts, [1, 2, 3, 4]);
    // The pauses are between two starts: what the worker ran for is part of them.
    let spawns: Vec<_> = up.named("worker.spawned").map(moment).collect();
    for (pair, pause) in spawns.windows(2).zip([200, 400, 500, 500]) {
        let between = pair[1].duration_since(pair[0]).unwrap();
        assert!(
            between + DELAY >= Duration::from_millis(pause),
            "{between:?} of {pause} ms"
        );
    }
    let starts: Vec<_> = up.named("worker.reserved").skip(1).map(moment).collect();
    for (restarting, start) in up.named("worker.restarting").zip(starts) {
        let waited = start.duration_since(moment(restarting)).unwrap();
        let delay = Duration::from_millis(restarting["delay_ms"].as_u64().unwrap());
        // The delay is counted from the exit, slightly before the event.
        assert!(waited + DELAY >= delay, "{waited:?} of {delay:?}");
    }
}

#[test]
fn run_ends_after_the_duration_of_for() {
    let begun = Instant::now();
    let mut up = Up::start_with(
        |tag| pool("sleep", tag, "workers = 2"),
        |command| _ = command.args(["--for", "600ms"]),
    );
    let (status, stderr) = up.end(SOON);
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(begun.elapsed() >= Duration::from_millis(600));
    assert_eq!(up.count("worker.ready"), 2);
    assert_eq!(up.count("worker.failed"), 0);
    assert_eq!(up.count("cleanup.success"), 1);
    up.assert_nothing_left();
}
