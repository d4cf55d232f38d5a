//! The audit of a running instance, with every kind of disagreement that can be provoked from
//! outside.
//!
//! The audit reports a warning on stderr and touches nothing. Without a disagreement it is silent.

use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nix::sys::signal::Signal;
use ostler::{Event, Instance, Observer, Ostler, Output, Part, PoolSpec, SpanLink};
use ostler_tests::scene::{self, parent, pool};
use ostler_tests::tracer::Tracer;
use ostler_tests::{SOON, Up, pid_of, pids, program, send, survivors, tagged_directory};
use tokio::sync::mpsc;

/// A run with these pools that is audited every 50 ms.
fn audited(pools: impl FnOnce(&str) -> String) -> Up {
    Up::start_with(pools, scene::audited)
}

/// A process outside the run's tree. Killed on drop, so that a failing test leaves nothing behind.
struct Stray(Child);

impl Stray {
    /// Starts a process with the marker variable of this worker and this value.
    fn start(of: u32, tag: &str, value: impl FnOnce(String) -> String) -> Self {
        let process = procfs::process::Process::new(i32::try_from(of).unwrap()).unwrap();
        let environment = process.environ().unwrap();
        let marker = environment
            .into_iter()
            .find(|(name, _)| name.to_string_lossy().starts_with("OSTLER_RUN_"));
        let (name, old) = marker.expect("worker carries its run's marker");
        let mut command = Command::new(program("ostler-test-worker"));
        command
            .args(["sleep", "0", tag])
            .env(name, value(old.into_string().unwrap()));
        let mut command = scene::killed_with_the_test(&command);
        Self(command.stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn process_with_a_marker_outside_the_tree_is_reported_and_left_alone() {
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
        ostler_tests::world::await_count(&up.tag, "the stray process with its command line", |count| count == 3);
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

/// Its sitter cannot report the worker's exit, so only /proc shows it.
#[test]
fn worker_that_counts_as_running_but_has_exited_is_reported() {
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
fn unresponsive_guardian_is_reported() {
    let mut up = audited(|tag| pool("sleep", tag, ""));
    let worker = pid_of(&up.wait_for_event("worker.ready"));
    let guardian = parent(parent(worker));
    let Some(tracer) = Tracer::of(guardian.cast_signed()) else {
        return eprintln!("skipped: ptrace is not permitted");
    };
    up.wait_for_log("a warning of the audit", SOON, |line| {
        line.contains("the guardian does not answer")
    });
    drop(tracer);
    up.stop_cleanly();
}

/// Workers start and end all the time, one by one and many at once, and a guardian is lost. A state
/// that is just changing is not a disagreement.
#[test]
fn audit_is_silent_during_restarts() {
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

/// Hears of disagreements.
#[derive(Debug)]
struct Auditor(mpsc::UnboundedSender<&'static str>);

impl Observer for Auditor {
    fn event(&self, _: &Arc<Event>, _: &SpanLink) {}

    fn duration(&self, _: Part, _: &str, _: &str, _: Duration) {}

    fn output(&self, _: &Output<'_>) {}

    fn output_dropped(&self, _: &str, _: &str, _: u64) {}

    fn output_limited(&self, _: &str, _: &str, _: u64) {}

    fn disagreement(&self, _: &str, kind: &'static str) {
        // The test may be over.
        let _ = self.0.send(kind);
    }

    fn watch(&self, _: Weak<dyn Instance>) {}
}

/// How often this thread has called read(2) and its like, which sockets do not count towards.
fn reads() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/io").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("syscr: "));
    line?.parse().ok()
}

/// An audit reads several files of each process of the machine, and everything else of an app on
/// this runtime would wait for that. A runtime of one thread shows which thread reads.
#[tokio::test]
async fn the_audit_reads_nothing_on_the_threads_of_the_runtime() {
    const WORKERS: u32 = 20;
    let Some(_) = reads() else {
        return eprintln!("skipped: no /proc/thread-self/io");
    };
    let (directory, tag) = tagged_directory();
    let (auditor, mut found) = mpsc::unbounded_channel();
    let builder = Ostler::builder("audited").state_dir(directory.path().join("state"));
    let builder = builder.audit(Duration::from_millis(10)).observer(Auditor(auditor));
    let ostler = builder.start().await.unwrap();
    let command = [program("ostler-test-worker").to_str().unwrap(), "sleep", "0", &tag].map(str::to_owned);
    let mut spec = PoolSpec::new("p", command);
    spec.workers = WORKERS;
    let pool = ostler.add_pool(spec).await.unwrap();
    pool.wait_ready().await.unwrap();
    let stray = ostler_tests::stray(pool.workers()[0].pid.unwrap(), &tag);
    let before = reads().unwrap();
    // Each report follows two comparisons.
    for _ in 0..2 {
        let kind = tokio::time::timeout(SOON, found.recv()).await.unwrap();
        assert_eq!(kind, Some("marked"));
    }
    let read = reads().unwrap() - before;
    assert!(read < u64::from(WORKERS), "{read} reads on the runtime's thread");
    drop(stray);
    assert!(ostler.stop().await.unwrap().is_success());
    assert_eq!(survivors(&tag), []);
}
