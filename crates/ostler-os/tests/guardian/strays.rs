//! What it costs that each tree has a process that left its worker's session: the same for a sitter
//! however many processes the machine has. Each sitter used to read all of /proc, so that a stop
//! took quadratic time, 16 times as long as for plain workers at 400.

use std::future::Future;
use std::time::{Duration, Instant};

use ostler_os::guardian::GuardianEvent;

use crate::support::{Bench, DEADLINE, Role, assert_gone, line_with, role, role_process, shell};

/// The long form is what is promised, and needs a machine that does nothing else.
fn is_long() -> bool {
    std::env::var_os("OSTLER_TEST_LONG").is_some_and(|value| value == "1")
}

fn workers() -> u32 {
    if is_long() { 1_000 } else { 400 }
}

/// Starts workers whose trees are one process each, or two, the second in a session of its own.
/// `tag` is in the command lines of all.
async fn start(bench: &mut Bench, slots: u32, with_strays: bool, tag: &str) {
    let script = match with_strays {
        true => format!("setsid sleep 1000{tag} & exec sleep 1000{tag}"),
        false => format!("exec sleep 1000{tag}"),
    };
    for slot in 0..slots {
        bench.start(slot, 1, shell(&script)).await;
    }
}

async fn stop_time(with_strays: bool) -> Duration {
    let slots = workers();
    let mut bench = Bench::launch().await;
    start(&mut bench, slots, with_strays, "").await;
    let begin = Instant::now();
    for slot in 0..slots {
        bench.term(slot, 1, Duration::from_secs(60));
    }
    let mut gone = 0;
    while gone < slots {
        if let GuardianEvent::TreeGone { .. } = bench.next().await {
            gone += 1;
        }
    }
    let took = begin.elapsed();
    bench.quit().await;
    took
}

/// How many times as long something takes with strays as without. A busy machine is given three
/// tries.
async fn costs_little<Time: Future<Output = Duration>>(time: impl Fn(bool) -> Time) {
    let bound = if is_long() { 3.0 } else { 6.0 };
    let mut ratios = Vec::new();
    for _ in 0..3 {
        let (plain, strays) = (time(false).await, time(true).await);
        eprintln!("plain {plain:?}, with strays {strays:?}");
        ratios.push(strays.as_secs_f64() / plain.as_secs_f64());
        if ratios.last().is_some_and(|ratio| *ratio < bound) {
            return;
        }
    }
    panic!("{ratios:?}");
}

#[tokio::test]
async fn strays_cost_a_sitter_the_same_however_many_processes_there_are() {
    costs_little(stop_time).await;
}

const HOST: &str = "strays::role_host";

/// A host of many workers that waits for its death.
#[tokio::test]
async fn role_host() {
    let Some(role) = role() else { return };
    let mut bench = Bench::launch().await;
    start(&mut bench, workers(), role == "strays", &tag_of(std::process::id())).await;
    println!("\nguardian={}", bench.guardian.pid());
    std::future::pending::<()>().await;
}

/// What tells one host's processes from another's: the fraction of a second that they sleep longer.
fn tag_of(host: u32) -> String {
    format!(".{host:07}1")
}

/// The number of processes with this tag.
fn count(tag: &str) -> usize {
    let is_tagged = |pid: &std::fs::DirEntry| {
        let line = std::fs::read(pid.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&format!("1000{tag}"))
    };
    let processes = std::fs::read_dir("/proc").expect("listing /proc").flatten();
    processes.filter(is_tagged).count()
}

/// From the kill of the host to the end of its guardian, which ends after the last process.
async fn death_time(with_strays: bool) -> Duration {
    let role = if with_strays { "strays" } else { "plain" };
    let (mut host, output) = Role::start(role_process(HOST, role));
    let (guardian, _output) = line_with(output, "guardian=").await;
    let guardian = guardian.parse().expect("valid pid");
    let tag = tag_of(host.0.id());
    let all = workers() as usize * if with_strays { 2 } else { 1 };
    let deadline = Instant::now() + DEADLINE;
    while count(&tag) != all {
        assert!(Instant::now() < deadline, "{} processes", count(&tag));
        tokio::task::yield_now().await;
    }
    let begin = Instant::now();
    host.kill();
    assert_gone(guardian);
    let took = begin.elapsed();
    assert_eq!(count(&tag), 0);
    assert!(!is_long() || took < Duration::from_secs(1), "{took:?}");
    took
}

#[tokio::test]
async fn strays_cost_a_host_death_the_same_however_many_processes_there_are() {
    costs_little(death_time).await;
}
