//! Machine faults that affect the guardian, a sitter or the clock. Each has its own failure reason
//! and is retried with delays, and nothing is left behind.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ostler_tests::leftovers::TestDirectory;
use ostler_tests::scene::{limit, moment, parent, pool, pool_of, unshared, wrapped};
use ostler_tests::sweep::{sweep_by, swept};
use ostler_tests::world::{Anatomy, Bystander, await_count, kill_at_once};
use ostler_tests::{SOON, Up, pid_of, program, run_directories, send};

use crate::limits::{ONE_RESTART, three_failures};
use crate::{assert_message, assert_on_stderr, resident};

/// Kills a worker while a limit (an option of prlimit(1)) is set on the process that `whose` finds
/// from its pid. Restarts fail for this reason until the second option lifts the limit, then one
/// succeeds.
fn retried(
    whose: impl Fn(u32) -> u32,
    tight: impl Fn(u32) -> String,
    lifted: &str,
    reason: &'static str,
    facts: &[&str],
) {
    let mut up = Up::start(|tag| pool_of(&resident(tag), ONE_RESTART));
    let worker = pid_of(&up.wait_for_event("worker.ready"));
    let limited = whose(worker);
    limit(limited, &tight(limited));
    send(worker, Signal::SIGKILL);
    let failure = three_failures(&mut up, reason);
    assert_message(&failure, facts);
    limit(limited, lifted);
    up.wait_for_event("worker.ready");
    let stderr = up.stop_cleanly();
    assert_on_stderr(&failure, &stderr);
    assert_eq!(up.count("worker.gave_up"), 0, "{stderr}");
    assert_eq!(up.count("guardian.lost"), 0, "{stderr}");
}

/// A limit with room for two more descriptors: enough to read /proc and a cgroup, but not to
/// receive a spawn request with its four.
fn no_room(pid: u32) -> String {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let taken: Vec<u32> = open
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .collect();
    let last = (0..).filter(|number| !taken.contains(number)).nth(1).unwrap();
    format!("--nofile={}:", last + 1)
}

/// Limits the memory of the sitter's children, so that the worker's specification cannot be mapped
/// (ENOMEM).
#[test]
fn out_of_memory_at_the_start_is_retried() {
    retried(
        parent,
        |_| "--as=4096:".into(),
        "--as=unlimited:",
        "out_of_memory",
        &["Cannot allocate memory"],
    );
}

#[test]
fn descriptor_limit_of_a_sitter_is_retried() {
    retried(
        parent,
        no_room,
        "--nofile=1000:",
        "descriptor_limit",
        &["Too many open files"],
    );
}

#[test]
fn descriptor_limit_of_the_guardian_is_retried() {
    let guardian = |worker| parent(parent(worker));
    retried(
        guardian,
        no_room,
        "--nofile=1000:",
        "descriptor_limit",
        &["Too many open files"],
    );
}

/// The limit is below the number of its open descriptors: it must raise the limit before it can
/// read /proc.
#[test]
fn sitter_without_descriptors_still_ends_its_tree() {
    let keys = "ready = { line = \"^ready\" }";
    let mut up = Up::start(|tag| pool("daemon-naked+child+say-out+sleep", tag, keys));
    let ready = up.wait_for_event("worker.ready");
    limit(parent(pid_of(&ready)), "--nofile=6:");
    up.stop_cleanly();
}

/// Runs the program on a disk of 4 MB in a mount namespace of its own, and without cgroups, which
/// would find processes that a full disk has kept from being recorded.
fn on_small_disk(command: &mut Command) {
    let file = command.get_args().nth(1).expect("configuration file").to_owned();
    let state = PathBuf::from(file).with_file_name("state");
    let line = format!(
        "umount -a -t cgroup2; mkdir -p {0:?} && mount -t tmpfs -o size=4m none {0:?} && {{ [ -z \"$FULL\" ] || head -c 8M /dev/zero > {0:?}/ballast; exec \"$0\" \"$@\"; }}",
        state.display().to_string()
    );
    wrapped(command, &["unshare", "--mount", "sh", "-c", &line]);
}

#[test]
fn full_disk_at_the_start_is_an_error_with_advice() {
    if unshared(&["--mount"]).is_none() {
        return;
    }
    let mut up = Up::start_with(
        |tag| pool("sleep", tag, ""),
        |command| {
            on_small_disk(command);
            command.env("FULL", "1");
        },
    );
    let (status, stderr) = up.end(SOON);
    assert_eq!(status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("No space left on device"), "{stderr}");
    assert!(stderr.contains("free space on the file system"), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert_eq!(up.count("worker.reserved"), 0);
    up.assert_nothing_left();
}

/// Every read of the wall clock returns an hour less than the previous one. Nothing may depend on
/// it except displayed times.
#[test]
fn clock_that_goes_backwards_changes_nothing() {
    const BACKWARDS: &str = "#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *time) {
    static long looks;
    int result = syscall(SYS_clock_gettime, id, time);
    if (id == CLOCK_REALTIME) time->tv_sec -= 3600 * __sync_add_and_fetch(&looks, 1);
    return result;
}";
    let directory = TestDirectory::new();
    let (source, library) = (directory.path().join("clock.c"), directory.path().join("clock.so"));
    std::fs::write(&source, BACKWARDS).unwrap();
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source)
        .status();
    if !built.is_ok_and(|status| status.success()) {
        return eprintln!("skipped: no C compiler");
    }
    let keys = "workers = 3\nintensity = 20\nbackoff = { first = \"10ms\", max = \"20ms\" }\nmin_uptime = \"1ms\"";
    let mut up = Up::start_with(
        |tag| {
            let served = pool(
                "http",
                tag,
                "port = \"any\"\nready = { http = \"/\" }\nhealth = { http = \"/\", every = \"50ms\", timeout = \"10s\", misses = 3 }",
            );
            let beats = pool("notify+beat", tag, "ready = { notify = true }\nwatchdog = \"10s\"");
            format!(
                "{}{}{}",
                pool("daemon+sleep", tag, keys),
                served.replace("[pool.p]", "[pool.served]"),
                beats.replace("[pool.p]", "[pool.beats]")
            )
        },
        |command| {
            command.env("LD_PRELOAD", &library);
        },
    );
    for _ in 0..3 {
        up.wait_for_event("pool.ready");
    }
    let mut victim = pid_of(up.named("worker.ready").find(|event| event["pool"] == "p").unwrap());
    for _ in 0..10 {
        send(victim, Signal::SIGKILL);
        let ready = up.wait_for("the replacement", SOON, |event| {
            event["event"] == "worker.ready" && event["pool"] == "p"
        });
        victim = pid_of(&ready);
    }
    up.stop_cleanly();
    assert_eq!(
        up.count("worker.gave_up") + up.count("worker.unhealthy"),
        0,
        "{}",
        up.story()
    );
    let (first, last) = (&up.seen[0], up.seen.last().unwrap());
    assert!(
        moment(first) > moment(last) + Duration::from_secs(3600),
        "the clock must have gone backwards"
    );
    let numbers: Vec<u64> = up.seen.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(numbers.is_sorted(), "events are ordered by seq");
    let elapsed = up.seen.iter().filter_map(|event| event["elapsed_ms"].as_u64());
    assert!(elapsed.max() < Some(60_000), "{}", up.story());
}

/// A host that dies on a full disk has not recorded everything. The next start, with free space
/// again, finds the rest by the marker.
#[test]
fn host_that_dies_on_a_full_disk_is_swept_by_marker() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: only root can mount a small disk");
    }
    let mut up = Up::start_with(
        |tag| {
            pool(
                "ignore-term+daemon+say-out+sleep",
                tag,
                "intensity = 10\nready = { line = \"ready\" }",
            )
        },
        on_small_disk,
    );
    let worker = pid_of(&up.wait_for_event("worker.ready"));
    // Keeps the mount after the program has ended, and gives access to it.
    let keeper = keep_mounts_of(up.pid());
    let root = PathBuf::from(format!("/proc/{}/root", keeper.pid()));
    let mounts = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    let deadline = Instant::now() + SOON;
    while mounts(keeper.pid()) != mounts(up.pid()) {
        assert!(
            Instant::now() < deadline,
            "the process has not entered the mount namespace"
        );
        std::thread::yield_now();
    }
    let state = root.join(up.state().strip_prefix("/").unwrap());
    let full = std::fs::write(state.join("ballast"), vec![0; 8 << 20]);
    assert!(full.is_err(), "the disk must be full");
    send(worker, Signal::SIGKILL);
    up.wait_for_event("worker.ready");
    let anatomy = Anatomy::of(up.pid());
    kill_at_once(&anatomy.all());
    up.end(SOON);
    std::fs::remove_file(state.join("ballast")).unwrap();
    let mut command = sweep_by(&program("ostler"), &up.state());
    wrapped(
        &mut command,
        &["nsenter", "--mount", "--target", &keeper.pid().to_string()],
    );
    let swept = swept(&mut command);
    assert!(swept.success, "{swept:?}");
    assert!(swept.output.starts_with("test: 1 dead run removed"), "{swept:?}");
    await_count(&up.tag, "gone", |count| count == 0);
    assert_eq!(run_directories(&state).len(), 0);
}

/// A process in the mount namespace of that process.
fn keep_mounts_of(pid: u32) -> Bystander {
    let mut command = Command::new("nsenter");
    command.args(["--mount", "--target", &pid.to_string(), "sleep", "3600"]);
    Bystander::start(&mut command)
}
