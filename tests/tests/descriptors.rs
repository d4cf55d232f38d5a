//! What a worker costs its host in file descriptors. The program warns, and the doctor counts, by
//! `DESCRIPTORS_PER_WORKER`.

use std::time::Instant;

use ostler::limits::DESCRIPTORS_PER_WORKER;
use ostler_tests::scene::{limit, parent, pool};
use ostler_tests::{SOON, Up, pid_of};

/// The descriptors of a process, as /proc shows them.
fn descriptors(pid: u32) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("process is running");
    let links = entries
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.map(|link| link.to_string_lossy().into_owned()).collect()
}

/// The number of descriptors of a host with this many workers, once it watches their processes.
/// Also says whether each worker has a cgroup.
fn of_host(modes: &str, keys: &str, workers: usize) -> (usize, bool) {
    let keys = format!("workers = {workers}\nmax_starting = 32\n{keys}");
    let mut up = Up::start(|tag| pool(modes, tag, &keys));
    let contained = up.wait_for_event("worker.spawned")["containment"] == "cgroup";
    up.wait_for_event("pool.ready");
    let deadline = Instant::now() + SOON;
    let count = loop {
        let now = descriptors(up.pid());
        let watches = now.iter().filter(|link| link.contains("pidfd")).count();
        if watches >= workers {
            break now.len();
        }
        assert!(Instant::now() < deadline, "{watches} of {workers} are watched: {now:?}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    up.stop_cleanly();
    (count, contained)
}

#[test]
fn worker_costs_its_host_what_the_limit_counts() {
    const FEW: usize = 5;
    const MANY: usize = 25;
    let (mut highest, mut contained) = (0.0_f64, false);
    for (modes, keys) in [
        ("sleep", ""),
        ("http", "port = \"any\"\nready = { http = \"/\" }"),
        ("notify+sleep", "ready = { notify = true }"),
        ("sleep", "port = \"listen\""),
    ] {
        let (few, _) = of_host(modes, keys, FEW);
        let (many, in_cgroups) = of_host(modes, keys, MANY);
        contained = in_cgroups;
        let each = (many as f64 - few as f64) / (MANY - FEW) as f64;
        println!("{modes} {keys:?}: {few} with {FEW} workers, {many} with {MANY}: {each} for each");
        highest = highest.max(each);
    }
    // Where cgroups can't be used, each worker needs one less. A few descriptors come and go with
    // other work of the host.
    let expected = DESCRIPTORS_PER_WORKER as f64 - if contained { 0.0 } else { 1.0 };
    assert!(
        (highest - expected).abs() < 0.5,
        "measured {highest}, assumed {expected}"
    );
}

/// FDSize of a process: how many descriptors its table has room for (proc_pid_status(5)).
fn room(pid: u32) -> u64 {
    let process = procfs::process::Process::new(pid.cast_signed()).expect("process is running");
    process.status().expect("its status").fdsize.into()
}

/// The kernel would make a thread wait for 10 to 20 ms each time the table is doubled.
#[test]
fn host_and_guardian_have_room_for_all_workers_when_the_first_one_starts() {
    const WORKERS: u64 = 300;
    // The first one never gets ready, and no other starts before it does.
    let keys = format!("workers = {WORKERS}\nmax_starting = 1\nready = {{ notify = true }}");
    let mut up = Up::start(|tag| pool("sleep", tag, &keys));
    let sitter = parent(pid_of(&up.wait_for_event("worker.spawned")));
    let (host, guardian) = (room(up.pid()), room(parent(sitter)));
    assert!(host >= WORKERS * DESCRIPTORS_PER_WORKER, "host: {host}");
    assert!(
        guardian >= 8192.min(ostler::limits::descriptors().1),
        "guardian: {guardian}"
    );
    up.stop_cleanly();
}

/// The host has no descriptor left for a probe, which says nothing about the worker.
#[test]
fn a_host_without_descriptors_ends_no_healthy_worker() {
    let keys = "port = \"any\"\nready = { http = \"/\" }\nintensity = 0\n\
        health = { http = \"/\", every = \"20ms\", misses = 2 }";
    let mut up = Up::start(|tag| pool("http", tag, keys));
    up.wait_for_event("pool.ready");
    limit(up.pid(), "--nofile=3:");
    up.wait_for_log("a probe that can't be made", SOON, |line| {
        line.contains("a health probe could not be made") && line.contains("Too many open files")
    });
    limit(up.pid(), "--nofile=1024:");
    up.stop_cleanly();
    assert_eq!(up.count("worker.failed"), 0, "{}", up.story());
}
