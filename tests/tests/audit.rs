//! The audit of a running instance, with a disagreement of each kind that can be brought about from outside.
//!
//! What it says is a warning on stderr; it touches nothing, and in health it is silent.

use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use ostler_tests::scene::{self, parent, pool};
use ostler_tests::{SOON, Up, pid_of, pids, program, send};

/// A run that is audited without a pause, with these pools.
fn audited(pools: impl FnOnce(&str) -> String) -> Up {
    Up::start_with(pools, scene::audited)
}

/// A process that is killed at the end, however the test ends.
struct Stray(Child);

impl Stray {
    /// Bears the marker of this worker, with this value.
    fn start(of: u32, tag: &str, value: impl FnOnce(String) -> String) -> Self {
        let process = procfs::process::Process::new(i32::try_from(of).unwrap()).unwrap();
        let environment = process.environ().unwrap();
        let marker = environment
            .into_iter()
            .find(|(name, _)| name.to_string_lossy().starts_with("OSTLER_RUN_"));
        let (name, old) = marker.expect("a worker bears its run's marker");
        let mut command = Command::new(program("ostler-test-worker"));
        command
            .args(["sleep", "0", tag])
            .env(name, value(old.into_string().unwrap()))
            .stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_process_with_the_marker_that_nobody_holds_is_told_of_and_left_alone() {
    let mut up = audited(|tag| pool("sleep", tag, "workers = 2"));
    let worker = pid_of(&up.wait_for_event("worker.ready"));
    up.wait_for_event("pool.ready");
    for (value, said) in [
        (None, "is below no sitter"),
        (
            Some("p/0#99".to_owned()),
            "bears the marker of p/0#99, which has no record",
        ),
    ] {
        let stray = Stray::start(worker, &up.tag, |own| value.unwrap_or(own));
        let pid = format!("pid {} ", stray.0.id());
        ostler_tests::world::await_count(&up.tag, "the stray shows its command", |count| count == 3);
        let before = pids(&up.tag);
        let warning = up.wait_for_log("a warning of the audit", SOON, |line| {
            line.contains(&pid) && line.contains(said)
        });
        assert!(
            warning.contains("WARN") && warning.contains("nothing was touched"),
            "{warning}"
        );
        assert_eq!(pids(&up.tag), before, "nothing was touched");
    }
    assert_eq!(up.count("worker.failed"), 0, "{}", up.story());
    up.stop_cleanly();
}

/// Its sitter can't tell of a worker's end: only the look at /proc shows it.
#[test]
fn a_worker_that_counts_as_running_and_is_not_is_told_of() {
    let mut up = audited(|tag| pool("sleep", tag, "intensity = 0"));
    let worker = pid_of(&up.wait_for_event("worker.ready"));
    let sitter = parent(worker);
    send(sitter, Signal::SIGSTOP);
    send(worker, Signal::SIGKILL);
    let said = format!("p/0#1 counts as running, and its process (pid {worker}) has ended");
    up.wait_for_log("a warning of the audit", SOON, |line| line.contains(&said));
    assert_eq!(up.count("worker.exited"), 0, "{}", up.story());
    send(sitter, Signal::SIGCONT);
    up.wait_for_event("worker.gave_up");
    up.end(SOON);
    up.assert_nothing_left();
}

#[test]
fn a_guardian_that_does_not_answer_is_told_of() {
    let mut up = audited(|tag| pool("sleep", tag, ""));
    let worker = pid_of(&up.wait_for_event("worker.ready"));
    let guardian = parent(parent(worker));
    send(guardian, Signal::SIGSTOP);
    up.wait_for_log("a warning of the audit", SOON, |line| {
        line.contains("the guardian does not answer")
    });
    send(guardian, Signal::SIGCONT);
    up.stop_cleanly();
}

/// Workers come and go all the time, one after the other and many at once, and a guardian is lost: what is just changing is
/// no disagreement.
#[test]
fn in_health_it_is_silent_whatever_restarts() {
    let keys = "workers = 4\nintensity = 1000000\nrestart = \"permanent\"";
    let mut up = audited(|tag| {
        let busy = pool("daemon+pause=20+exit=1", tag, keys);
        format!(
            "{busy}{}",
            pool("daemon+sleep", tag, "workers = 4").replace("[pool.p]", "[pool.q]")
        )
    });
    let quiet = up.wait_for("q is ready", SOON, |event| {
        event["event"] == "worker.ready" && event["worker"] == "q/0"
    });
    let released = |event: &serde_json::Value| event["event"] == "worker.released";
    for _ in 0..100 {
        up.wait_for("a restart", SOON, released);
    }
    send(parent(parent(pid_of(&quiet))), Signal::SIGKILL);
    up.wait_for_event("guardian.lost");
    for _ in 0..100 {
        up.wait_for("a restart", SOON, released);
    }
    let stderr = up.stop_cleanly();
    assert!(!stderr.contains("the audit"), "{stderr}");
}
