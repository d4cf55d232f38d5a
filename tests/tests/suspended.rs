//! A stop while the host, or everything, can't run: a debugger, a paused container, a virtual
//! machine that is suspended. Workers keep the grace that they were promised.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ostler_tests::scene::{parent, pool_of, python};
use ostler_tests::{SOON, Up, halt, pid_of, send};

/// Takes half a second of its own time for a clean end. Time in which it is stopped does not count.
const TIDY: &str = "import os, signal, time\n\
    def leave(*_):\n\
    \x20   open('leaving', 'w').close()\n\
    \x20   for _ in range(10): time.sleep(0.05)\n\
    \x20   os._exit(0)\n\
    signal.signal(signal.SIGTERM, leave)\n\
    print('up', flush=True)\n\
    while True: time.sleep(1000)";

/// A run of one such worker, whose stop has begun.
fn stopping(keys: &str) -> (Up, u32) {
    let keys = format!("ready = {{ line = \"up\" }}\n{keys}");
    let mut up = Up::start(|tag| pool_of(&python(TIDY, tag), &keys));
    let worker = pid_of(&up.wait_for_event("worker.ready"));
    up.signal(Signal::SIGTERM);
    // The sitter has sent TERM: the grace has begun.
    let deadline = Instant::now() + SOON;
    while !up.directory.path().join("leaving").exists() {
        assert!(Instant::now() < deadline, "TERM has not arrived");
        std::thread::yield_now();
    }
    (up, worker)
}

/// The worker has ended with status 0, and nothing was late.
fn ends_in_order(mut up: Up) {
    let (status, stderr) = up.end(SOON);
    assert_eq!(status.code(), Some(0), "{stderr}");
    let exited = up.named("worker.exited").next().expect("an exit").clone();
    assert_eq!(exited["status"], 0, "{}", up.story());
    assert_eq!(up.count("worker.failed"), 0, "{}", up.story());
    up.assert_nothing_left();
}

/// Stops these processes, in this order, and continues them in the same order. The time is what is
/// tested.
fn suspend(pids: &[u32], time: Duration) {
    pids.iter().copied().for_each(halt);
    std::thread::sleep(time);
    pids.iter().for_each(|pid| send(*pid, Signal::SIGCONT));
}

#[test]
fn host_that_is_suspended_during_a_stop_blames_no_worker() {
    let (up, _) = stopping("release_timeout = \"1s\"\nstop = { signal = \"TERM\", grace = \"2s\" }");
    suspend(&[up.pid()], Duration::from_secs(4));
    ends_in_order(up);
}

#[test]
fn worker_that_is_suspended_with_its_sitter_keeps_its_grace() {
    let (up, worker) = stopping("stop = { signal = \"TERM\", grace = \"2s\" }");
    let sitter = parent(worker);
    // The guardian continues a sitter after each order, perhaps not before the sitter has carried
    // it out. So the guardian stops first.
    suspend(&[up.pid(), parent(sitter), sitter, worker], Duration::from_secs(3));
    ends_in_order(up);
}
