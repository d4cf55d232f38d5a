//! The guardian's death is not counted against the workers.

use nix::sys::signal::Signal;
use ostler_tests::scene::{living_parent, parent, pool};
use ostler_tests::world::{World, await_count};
use ostler_tests::{SOON, Up, pid_of, run_directories, send, survivors};
use serde_json::Value;

use crate::{assert_message, assert_on_stderr};

/// The guardian according to /proc: the parent of a worker's sitter.
fn guardian_of(worker: &Value) -> u32 {
    parent(parent(pid_of(worker)))
}

fn guardian_in_run_json(up: &Up) -> Value {
    let lock = run_directories(&up.directory.path().join("state")).pop().unwrap();
    let text = std::fs::read_to_string(lock.with_file_name("run.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["guardian"]["pid"].clone()
}

fn wait_for_ready(up: &mut Up, count: usize) -> Value {
    let before = up.count("worker.ready");
    while up.count("worker.ready") < before + count {
        up.wait_for_event("worker.ready");
    }
    up.seen.last().unwrap().clone()
}

#[test]
fn guardian_lost_restarts_the_workers_uncounted() {
    let mut up = Up::start(|tag| pool("daemon+sleep", tag, "workers = 2\nintensity = 0"));
    let ready = wait_for_ready(&mut up, 2);
    let guardian = guardian_of(&ready);
    assert_eq!(guardian_in_run_json(&up), guardian);
    send(guardian, Signal::SIGKILL);
    let lost = up.wait_for_event("guardian.lost");
    assert_message(&lost, &["signal: 9"]);
    let again = wait_for_ready(&mut up, 2);
    // A worker can be released and its next start requested before the host knows that its guardian
    // is dead. That start fails and is not counted either.
    assert!(again["incarnation"].as_u64() >= Some(2), "{}", up.story());
    assert_ne!(guardian_of(&again), guardian);
    assert_eq!(guardian_in_run_json(&up), guardian_of(&again));
    let failures: Vec<Value> = up.named("worker.failed").cloned().collect();
    assert!(failures.len() >= 2, "{}", up.story());
    let stderr = up.stop_cleanly();
    for failure in failures {
        assert_eq!(failure["reason"], "guardian_lost", "{failure}");
        assert_on_stderr(&failure, &stderr);
    }
    assert!(stderr.contains("the guardian is lost"), "{stderr}");
    assert_eq!(up.count("worker.gave_up"), 0);
}

/// The guardian has a restart intensity of its own at the root: an instance that cannot keep one
/// gives up and stops cleanly.
#[test]
fn guardian_that_keeps_dying_ends_the_run() {
    let mut up = Up::start(|tag| pool("sleep", tag, "intensity = 0"));
    loop {
        let event = up.wait_for("news", SOON, |event| {
            matches!(event["event"].as_str(), Some("worker.ready" | "run.stopped"))
        });
        if event["event"] == "run.stopped" {
            break;
        }
        // A worker that is gone by now died with the previous guardian; another one follows.
        if let Some(guardian) = living_parent(pid_of(&event)).and_then(living_parent) {
            send(guardian, Signal::SIGKILL);
        }
    }
    let (status, stderr) = up.end(SOON);
    assert_eq!(status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("the instance gave up"), "{stderr}");
    assert!(up.count("guardian.lost") > 1, "{}", up.story());
    up.assert_nothing_left();
}

/// A daemon that has cleared its environment, and no cgroup: when guardian and sitter are killed
/// together, nothing can tell whether the daemon lives. The program says so, and its status too.
#[test]
fn end_that_is_not_proven_shows_in_the_exit_status() {
    let without = World::all().contains(&World::WithoutCgroups);
    let mut up = Up::start_with(
        |tag| pool("daemon-naked+sleep", tag, "intensity = 0"),
        |command| {
            if without {
                World::WithoutCgroups.apply(command);
            }
        },
    );
    let spawned = up.wait_for_event("worker.spawned");
    let worker = up.wait_for_event("worker.ready");
    await_count(&up.tag, "worker and daemon", |count| count == 2);
    if spawned["containment"] == "cgroup" {
        up.stop_cleanly();
        return eprintln!("skipped: the daemon can't escape from its cgroup");
    }
    let (sitter, guardian) = (parent(pid_of(&worker)), guardian_of(&worker));
    // The guardian stands still: it must not end what the sitter leaves.
    send(guardian, Signal::SIGSTOP);
    send(sitter, Signal::SIGKILL);
    send(guardian, Signal::SIGKILL);
    let unseen = up.wait_for("the end that nothing proves", SOON, |event| event["cause"] == "unseen");
    assert_eq!(
        (&unseen["event"], &unseen["incarnation"]),
        (&"worker.failed".into(), &1.into())
    );
    up.wait_for_event("worker.ready");
    up.signal(Signal::SIGTERM);
    let (status, stderr) = up.end(SOON);
    assert_eq!(status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("whether anything is left can't be said"), "{stderr}");
    assert_eq!(up.count("cleanup.success"), 0, "{}", up.story());
    let released: Vec<&Value> = up.named("worker.released").map(|event| &event["incarnation"]).collect();
    assert_eq!(released, [&Value::from(2)], "{}", up.story());
    // The daemon, which the drop of the run's directory ends.
    assert_eq!(survivors(&up.tag).len(), 1);
}
