//! Probes that run a command: what their exit status means, and that nothing of them is left,
//! whatever dies first.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use ostler_tests::scene::{audited, pool};
use ostler_tests::sweep::sweep;
use ostler_tests::world::{Anatomy, World, assert_all_end_with_the_host, await_count, kill_at_once};
use ostler_tests::{SOON, Up, pid_of, pids, send};

/// A probe that runs this shell script, with the tag in its command line.
fn exec(script: &str, tag: &str) -> String {
    format!("exec = [\"sh\", \"-c\", {script:?}, \"sh\", {tag:?}]")
}

/// A script that hangs, ignores TERM, and has a child in a session of its own; each with the tag in
/// its command line.
const HANGS: &str =
    "trap '' TERM; setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' sh $1 & while :; do sleep 1; done";

/// The processes of a run with one worker and such a probe, beside `sleep`.
const HANGING: usize = 3;

/// A run of one worker that is examined by a probe that hangs.
fn hanging(change: impl FnOnce(&mut std::process::Command)) -> Up {
    let health = |tag: &str| {
        format!(
            "health = {{ {}, every = \"20ms\", timeout = \"1h\" }}",
            exec(HANGS, tag)
        )
    };
    let mut up = Up::start_with(|tag| pool("sleep", tag, &health(tag)), change);
    up.wait_for_event("pool.ready");
    await_count(&up.tag, "the probe with its child", |count| count >= HANGING);
    up
}

fn file(up: &Up, name: &str) -> PathBuf {
    up.directory.path().join(name)
}

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap_or_default().lines().count()
}

/// Waits for so many lines in a file that probes write to.
fn await_lines(path: &Path, expected: usize) {
    let deadline = std::time::Instant::now() + SOON;
    while lines(path) < expected {
        assert!(
            std::time::Instant::now() < deadline,
            "{} of {expected} probes ran",
            lines(path)
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_command_decides_when_the_worker_is_ready_and_knows_its_process_and_port() {
    let script =
        "echo \"$OSTLER_WORKER_PID $PORT $2\" >> probes; test -z \"$NOTIFY_SOCKET$OSTLER_READY_FILE\" && test -e up";
    let mut up = Up::start(|tag| {
        let ready = format!("ready = {{ exec = [\"sh\", \"-c\", {script:?}, \"sh\", {tag:?}, \"{{port}}\"] }}");
        pool("sleep", tag, &format!("port = \"any\"\n{ready}"))
    });
    let spawned = up.wait_for_event("worker.spawned");
    let probes = file(&up, "probes");
    await_lines(&probes, 2);
    assert_eq!(up.count("worker.ready"), 0, "{}", up.story());
    std::fs::write(file(&up, "up"), "").unwrap();
    up.wait_for_event("worker.ready");
    let (pid, port) = (pid_of(&spawned), &spawned["port"]);
    let text = std::fs::read_to_string(&probes).unwrap();
    assert!(
        text.lines().all(|line| line == format!("{pid} {port} {port}")),
        "{text}"
    );
    up.stop_cleanly();
}

#[test]
fn a_worker_that_its_probe_finds_unwell_is_replaced_and_the_output_says_why() {
    let mut up = Up::start(|tag| {
        let probe = exec("echo the index is damaged >&2; echo shard 7; exit 3", tag);
        pool(
            "sleep",
            tag,
            &format!("health = {{ {probe}, every = \"20ms\", misses = 2 }}"),
        )
    });
    let failed = up.wait_for_event("worker.failed");
    assert_eq!(failed["reason"], "health_check_failed");
    let message = failed["message"].as_str().unwrap();
    for part in ["2 health probes", "exit status 3", "the index is damaged | shard 7"] {
        assert!(message.contains(part), "{part:?} is missing: {message}");
    }
    up.wait_for("its successor", SOON, |event| {
        event["event"] == "worker.ready" && event["incarnation"] == 2
    });
    up.stop_cleanly();
}

#[test]
fn a_probe_that_hangs_is_killed_with_its_daemon_and_counts_as_failed() {
    let mut up = Up::start(|tag| {
        let probe = exec(&format!("echo waiting for a lock; {HANGS}"), tag);
        pool(
            "sleep",
            tag,
            &format!(
                "health = {{ {probe}, every = \"20ms\", timeout = \"300ms\", misses = 1 }}\nrestart = \"temporary\""
            ),
        )
    });
    let failed = up.wait_for_event("worker.failed");
    let message = failed["message"].as_str().unwrap();
    assert!(
        message.contains("did not end within 300ms and was killed; its output: waiting for a lock"),
        "{message}"
    );
    up.wait_for_event("worker.released");
    assert_eq!(pids(&up.tag).len(), 0, "a released worker has no probe left");
    up.end(SOON);
    up.assert_nothing_left();
}

#[test]
fn what_a_probe_leaves_in_the_background_is_killed_and_the_worker_stays_well() {
    let script = "echo >> probes; setsid sh -c 'while :; do sleep 1; done' sh $1 & exit 0";
    let mut up = Up::start(|tag| {
        pool(
            "sleep",
            tag,
            &format!("health = {{ {}, every = \"20ms\" }}", exec(script, tag)),
        )
    });
    up.wait_for_event("pool.ready");
    await_lines(&file(&up, "probes"), 5);
    up.wait_for_log("the warning", SOON, |line| line.contains("left processes behind"));
    // The worker, and the probe under way with its child.
    assert!(pids(&up.tag).len() <= HANGING, "{:?}", pids(&up.tag));
    assert_eq!(up.count("worker.failed"), 0, "{}", up.story());
    up.stop_cleanly();
}

#[test]
fn a_probe_that_floods_its_output_is_read_and_its_message_is_short() {
    let mut up = Up::start(|tag| {
        let probe = exec("head -c 30000000 /dev/zero | tr '\\0' x; echo; exit 1", tag);
        pool(
            "sleep",
            tag,
            &format!("health = {{ {probe}, every = \"20ms\", misses = 1 }}"),
        )
    });
    let failed = up.wait_for_event("worker.failed");
    let message = failed["message"].as_str().unwrap();
    assert!(
        message.contains("exit status 1") && message.len() < 10_000,
        "{} bytes",
        message.len()
    );
    up.stop_cleanly();
}

#[test]
fn a_probe_whose_program_is_missing_is_named_and_the_start_is_not_waited_for() {
    let mut up = Up::start(|tag| {
        let ready = "ready = { exec = [\"no-such-probe\", \"{port}\"] }";
        pool(
            "sleep",
            tag,
            &format!("port = \"any\"\n{ready}\nintensity = 0\nstart_timeout = \"1h\""),
        )
    });
    let failed = up.wait_for_event("worker.failed");
    assert_eq!(failed["reason"], "command_not_found", "{failed}");
    let message = failed["message"].as_str().unwrap();
    assert!(message.starts_with("the probe \"no-such-probe "), "{message}");
    let (status, _) = up.end(SOON);
    assert_eq!(status.code(), Some(1));
    up.assert_nothing_left();
}

#[test]
fn a_stop_does_not_wait_for_a_probe() {
    let mut up = hanging(|_| {});
    up.stop_cleanly();
    assert_eq!(up.count("cleanup.success"), 1, "{}", up.story());
}

/// Kills a process of a run whose probe hangs. When this event of its worker's successor comes,
/// nothing of the first incarnation and its probe is left.
fn is_gone_with(victim: impl FnOnce(&Up) -> u32, before: &str) {
    let mut up = hanging(|_| {});
    let first = pids(&up.tag);
    send(victim(&up), Signal::SIGKILL);
    up.wait_for("its successor", SOON, |event| {
        event["event"] == before && event["incarnation"] == 2
    });
    let left: Vec<_> = pids(&up.tag).intersection(&first).copied().collect();
    assert_eq!(left, [0; 0], "of the first incarnation and its probe");
    up.stop_cleanly();
}

#[test]
fn a_worker_that_dies_during_its_probe_has_a_successor_when_the_probe_is_gone() {
    let worker = |up: &Up| up.named("worker.ready").next().map(pid_of);
    is_gone_with(|up| worker(up).expect("it was ready"), "worker.spawned");
}

#[test]
fn a_killed_host_leaves_no_probe_in_any_environment() {
    for world in World::all() {
        let mut up = hanging(|command| world.apply(command));
        up.signal(Signal::SIGKILL);
        assert_all_end_with_the_host(&mut up);
    }
}

#[test]
fn a_killed_guardian_takes_the_probe_with_it() {
    is_gone_with(|up| Anatomy::of(up.pid()).guardian, "worker.ready");
}

#[test]
fn a_sweep_ends_the_probe_of_a_host_that_died_with_guardian_and_sitters() {
    let mut up = hanging(|_| {});
    let anatomy = Anatomy::of(up.pid());
    kill_at_once(&anatomy.all());
    up.end(SOON);
    sweep(&up.state());
    up.assert_nothing_left();
}

#[test]
fn the_audit_finds_nothing_wrong_with_a_probe() {
    let mut up = hanging(audited);
    assert!(up.poll(Duration::from_secs(3), |_| false).is_none());
    let stderr = up.stop_cleanly();
    assert!(!stderr.contains("the audit"), "{stderr}");
}
