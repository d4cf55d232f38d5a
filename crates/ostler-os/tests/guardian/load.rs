//! Many slots, and a host that does not read.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::{Duration, Instant};

use ostler_core::signal::Signal;
use ostler_os::guardian::GuardianEvent;

use crate::support::{Bench, DEADLINE, Role, assert_gone, line_with, parent, request, role, role_process, shell};

/// The kilobytes in a line of smaps_rollup.
fn memory(pid: i32, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("process is running");
    let line = text.lines().find_map(|line| line.strip_prefix(key)).expect(key);
    line.trim().trim_end_matches(" kB").parse().expect("number of kB")
}

#[tokio::test]
async fn thousand_slots_start_and_end() {
    const SLOTS: u32 = 1_000;
    let mut bench = Bench::launch().await;
    let mut workers = Vec::new();
    // In batches: a queued order holds three descriptors, and the limit may be 1,024.
    for wave in 0..SLOTS / 100 {
        for slot in wave * 100..(wave + 1) * 100 {
            bench
                .guardian
                .spawn(slot, 1, request("/bin/sleep", &["1000"]))
                .expect("queuing the request");
        }
        for _ in 0..100 {
            match bench.next().await {
                GuardianEvent::Spawned { worker, .. } => workers.push(worker.pid as i32),
                other => panic!("{other:?}"),
            }
        }
    }
    let guardian = memory(bench.guardian.pid() as i32, "Pss:");
    let sitters: u64 = workers.iter().map(|worker| memory(parent(*worker), "Pss:")).sum();
    eprintln!(
        "guardian PSS {guardian} KiB; sitters PSS {:.1} KiB each",
        sitters as f64 / f64::from(SLOTS)
    );
    assert!(
        sitters + guardian <= u64::from(SLOTS) * 20,
        "{sitters} KiB for {SLOTS} sitters"
    );

    for slot in 0..SLOTS {
        bench
            .guardian
            .end(slot, 1, Signal::TERM, Duration::from_secs(60))
            .expect("queuing the request");
    }
    let mut gone = 0;
    while gone < SLOTS {
        match bench.next().await {
            GuardianEvent::TreeGone { killed: 0, .. } => gone += 1,
            GuardianEvent::Signalled { .. } | GuardianEvent::Exited { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    workers.iter().for_each(|worker| assert_gone(*worker));
    bench.guardian.census().expect("queuing the request");
    let sitters = bench.until(|event| match event {
        GuardianEvent::Census { sitters, .. } => Some(sitters.clone()),
        _ => None,
    });
    assert_eq!(
        sitters.await.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(),
        (0..SLOTS).collect::<Vec<_>>()
    );
    bench.quit().await;
}

const MANY: u32 = 10_000;

/// Closes so many slots at once that they fit neither into one message nor into the socket.
fn close_many(bench: &Bench, meanwhile: impl FnOnce()) {
    let guardian = rustix::process::Pid::from_raw(bench.guardian.pid() as i32).expect("a pid");
    let signal = |signal| rustix::process::kill_process(guardian, signal).expect("signalled");
    signal(rustix::process::Signal::STOP);
    let slots: Vec<u32> = (0..MANY).collect();
    bench.guardian.close(&slots).expect("queuing the request");
    meanwhile();
    signal(rustix::process::Signal::CONT);
}

#[tokio::test]
async fn slots_that_are_closed_together_are_answered_one_by_one() {
    let mut bench = Bench::launch().await;
    bench.start(7, 1, request("/bin/sleep", &["1000"])).await;
    close_many(&bench, || bench.kill(7, 1));
    let mut closed = std::collections::BTreeSet::new();
    while closed.len() < MANY as usize {
        match bench.next().await {
            GuardianEvent::Closed { slot } => assert!(closed.insert(slot), "{slot} is closed twice"),
            GuardianEvent::Signalled { .. } | GuardianEvent::Exited { .. } | GuardianEvent::TreeGone { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    bench.quit().await;
}

/// A runtime that is busy delays neither orders nor what guardian and sitters send: here it does
/// not run at all.
#[tokio::test]
async fn a_burst_is_sent_and_read_without_the_runtime() {
    let mut bench = Bench::launch().await;
    close_many(&bench, || bench.guardian.ask());
    let deadline = Instant::now() + DEADLINE;
    while bench.guardian.unconfirmed().is_some() {
        assert!(Instant::now() < deadline, "not all orders are answered");
        std::thread::yield_now();
    }
    for slot in 0..MANY {
        assert_eq!(bench.next().await, GuardianEvent::Closed { slot });
    }
    bench.quit().await;
}

/// The descriptors of a process: their numbers, and what they are.
fn descriptors(pid: i32) -> BTreeMap<String, String> {
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("process is running")
        .flatten()
        .filter_map(|entry| {
            let to = std::fs::read_link(entry.path()).ok()?;
            Some((text(entry.file_name()), text(to.into_os_string())))
        })
        .collect()
}

/// More sitters at once than there are places for new ones, some of which are killed, so that
/// places are used again and some sitters start with a copy of the guardian's descriptors.
#[tokio::test]
async fn a_sitter_has_its_own_socket_and_none_of_its_siblings() {
    const SLOTS: u32 = 150;
    let mut bench = Bench::launch().await;
    for round in 0..2 {
        for slot in 0..SLOTS {
            bench
                .guardian
                .spawn(slot, round + 1, request("/bin/sleep", &["1000"]))
                .expect("queuing the request");
        }
        let mut sitters = BTreeMap::new();
        while sitters.len() < SLOTS as usize {
            match bench.next().await {
                GuardianEvent::Spawned { slot, sitter, .. } => drop(sitters.insert(slot, sitter.pid as i32)),
                GuardianEvent::SitterLost { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        let mut sockets = std::collections::BTreeSet::new();
        for sitter in sitters.values() {
            let open = descriptors(*sitter);
            let numbers: Vec<&str> = open.keys().map(String::as_str).collect();
            assert_eq!(numbers, ["0", "1", "2", "3", "4", "5", "6"], "{open:?}");
            assert!(open["3"].starts_with("socket:"), "{open:?}");
            assert!(sockets.insert(open["3"].clone()), "two sitters share a socket");
        }
        // Every third sitter dies, the others end their workers; all slots are used again.
        let (lost, kept): (Vec<_>, Vec<_>) = sitters.iter().partition(|(slot, _)| **slot % 3 == 0);
        for (_, sitter) in &lost {
            let sitter = rustix::process::Pid::from_raw(**sitter).expect("a pid");
            rustix::process::kill_process(sitter, rustix::process::Signal::KILL).expect("killed");
        }
        for (slot, _) in &kept {
            bench.kill(**slot, round + 1);
        }
        let mut left = sitters.len();
        while left > 0 {
            match bench.next().await {
                GuardianEvent::TreeGone { .. } | GuardianEvent::SitterLost { .. } => left -= 1,
                GuardianEvent::Signalled { .. } | GuardianEvent::Exited { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
    bench.quit().await;
}

/// Starts fifty workers and prints how many descriptors that took.
#[tokio::test]
async fn role_counts() {
    if role().as_deref() != Some("counts") {
        return;
    }
    let open = || std::fs::read_dir("/proc/self/fd").expect("ours").count();
    let mut bench = Bench::launch().await;
    bench.start(0, 1, request("/bin/sleep", &["1000"])).await;
    let before = open();
    for slot in 1..50 {
        bench.start(slot, 1, request("/bin/sleep", &["1000"])).await;
    }
    println!("\ncost={}", open() as i64 - before as i64);
    for slot in 0..50 {
        bench.kill(slot, 1);
    }
    bench.quit().await;
}

#[tokio::test]
async fn worker_costs_the_host_no_descriptor_except_its_pipes() {
    let (_role, output) = Role::start(role_process("load::role_counts", "counts"));
    assert_eq!(line_with(output, "cost=").await.0, "0");
}

#[tokio::test]
async fn host_that_does_not_read_delays_no_kill_and_loses_no_event() {
    // Two messages each, because they run for a while; the socket holds at most 1,366.
    const SLOTS: u32 = 900;
    let mut bench = Bench::launch().await;
    let survivor = bench.start(SLOTS, 1, shell("sleep 1000")).await as i32;
    for wave in 0..SLOTS / 100 {
        let (mut ended, writer) = std::io::pipe().expect("creating a pipe");
        for slot in wave * 100..(wave + 1) * 100 {
            let mut spawn_request = request("/bin/sleep", &["0.05"]);
            spawn_request.stdout = writer.try_clone().expect("cloning the pipe").into();
            bench
                .guardian
                .spawn(slot, 1, spawn_request)
                .expect("queuing the request");
        }
        drop(writer);
        // Orders are queued in this process while the socket is full, so the runtime must run;
        // events are not read.
        let all_ended = tokio::task::spawn_blocking(move || ended.read(&mut [0]).expect("reading the pipe"));
        assert_eq!(
            all_ended.await.expect("waiting for the workers"),
            0,
            "timeout of a batch"
        );
    }
    bench.kill(SLOTS, 1);
    tokio::task::spawn_blocking(move || assert_gone(survivor))
        .await
        .expect("signalling the guardian");
    let mut histories: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    while histories
        .values()
        .filter(|history| history.last() == Some(&"gone"))
        .count()
        <= SLOTS as usize
    {
        let (slot, step) = match bench.next().await {
            GuardianEvent::Spawned { slot, .. } => (slot, "spawned"),
            GuardianEvent::Signalled { slot, .. } => (slot, "signalled"),
            GuardianEvent::Exited { slot, .. } => (slot, "exited"),
            GuardianEvent::TreeGone { slot, .. } => (slot, "gone"),
            other => panic!("{other:?}"),
        };
        histories.entry(slot).or_default().push(step);
    }
    assert_eq!(histories.remove(&SLOTS), Some(vec!["signalled", "exited", "gone"]));
    assert!(
        histories
            .values()
            .all(|history| *history == ["spawned", "exited", "gone"]),
        "{histories:?}"
    );
    bench.quit().await;
}

/// Its outbox is full and it takes no orders, but it must still notice that the host has released
/// it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn releasing_a_guardian_that_takes_no_orders_ends_its_workers() {
    let mut bench = Bench::launch().await;
    let worker = bench.start(0, 1, request("/bin/sleep", &["1000"])).await;
    // One event each, and none is read: far more than the socket holds.
    for _ in 0..20_000 {
        bench.guardian.close(&[1]).expect("queuing the request");
    }
    // It takes no more orders once its count of waits is unchanged twenty times in a row.
    let deadline = Instant::now() + DEADLINE;
    let (mut waited, mut same) = (String::new(), 0);
    while same < 20 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let now = times_waited(bench.guardian.pid());
        same = if now == waited { same + 1 } else { 0 };
        waited = now;
    }
    bench.guardian.abandon();
    assert_gone(worker as i32);
    // A later reader finds the events that fit, and the end.
    while !matches!(bench.next().await, GuardianEvent::Ended) {}
}

/// How often a process has blocked.
fn times_waited(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("process is running");
    let line = status.lines().find(|line| line.starts_with("voluntary"));
    line.expect("line of the kernel's counter").to_owned()
}

#[tokio::test]
async fn releasing_many_slots_ends_the_guardian_without_a_reader() {
    const SLOTS: u32 = 200;
    let mut bench = Bench::launch().await;
    for slot in 0..SLOTS {
        bench.start(slot, 1, request("/bin/sleep", &["1000"])).await;
    }
    bench.guardian.abandon();
    assert_gone(bench.guardian.pid() as i32);
    // A later reader finds all events, and the end.
    let mut gone = 0;
    loop {
        match bench.next().await {
            GuardianEvent::TreeGone { .. } => gone += 1,
            GuardianEvent::Ended => break,
            GuardianEvent::Lost { .. } | GuardianEvent::SitterLost { .. } => panic!("nothing was lost"),
            _ => {}
        }
    }
    assert_eq!(gone, SLOTS);
}
