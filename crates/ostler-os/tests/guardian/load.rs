//! Many slots, and a host that does not listen.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::{Duration, Instant};

use ostler_core::signal::Signal;
use ostler_os::guardian::GuardianEvent;

use crate::support::{Bench, DEADLINE, Role, assert_gone, parent, request, role, role_process, shell, told};

/// Kilobytes of a line of smaps_rollup.
fn memory(pid: i32, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("the process is there");
    let line = text.lines().find_map(|line| line.strip_prefix(key)).expect(key);
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test]
async fn a_thousand_slots_start_and_end() {
    const SLOTS: u32 = 1_000;
    let mut bench = Bench::launch().await;
    let mut workers = Vec::new();
    // In waves: an order that waits for its turn holds three descriptors, and the limit may be 1,024.
    for wave in 0..SLOTS / 100 {
        for slot in wave * 100..(wave + 1) * 100 {
            bench
                .guardian
                .spawn(slot, 1, request("/bin/sleep", &["1000"]))
                .expect("taken");
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
            .expect("taken");
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
    bench.guardian.census().expect("taken");
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

/// Starts fifty workers and tells how many descriptors that has cost.
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
async fn a_worker_costs_the_host_no_descriptor_but_its_pipes() {
    let (_role, output) = Role::start(role_process("load::role_counts", "counts"));
    assert_eq!(told(output, "cost=").await.0, "0");
}

#[tokio::test]
async fn a_host_that_does_not_read_delays_no_kill_and_loses_no_event() {
    // Two messages each, as they live a while; the socket holds 1,366 at most.
    const SLOTS: u32 = 900;
    let mut bench = Bench::launch().await;
    let survivor = bench.start(SLOTS, 1, shell("sleep 1000")).await as i32;
    for wave in 0..SLOTS / 100 {
        let (mut ended, writer) = std::io::pipe().expect("a pipe");
        for slot in wave * 100..(wave + 1) * 100 {
            let mut wanted = request("/bin/sleep", &["0.05"]);
            wanted.stdout = writer.try_clone().expect("a copy").into();
            bench.guardian.spawn(slot, 1, wanted).expect("taken");
        }
        drop(writer);
        // Orders wait in this process's memory while their socket is full, so the runtime must turn; events are not read.
        let all_ended = tokio::task::spawn_blocking(move || ended.read(&mut [0]).expect("it can be read"));
        assert_eq!(
            all_ended.await.expect("the end comes"),
            0,
            "every worker of the wave has run, and told nobody"
        );
    }
    bench.kill(SLOTS, 1);
    tokio::task::spawn_blocking(move || assert_gone(survivor))
        .await
        .expect("it died");
    let mut stories: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    while stories.values().filter(|story| story.last() == Some(&"gone")).count() <= SLOTS as usize {
        let (slot, word) = match bench.next().await {
            GuardianEvent::Spawned { slot, .. } => (slot, "spawned"),
            GuardianEvent::Signalled { slot, .. } => (slot, "signalled"),
            GuardianEvent::Exited { slot, .. } => (slot, "exited"),
            GuardianEvent::TreeGone { slot, .. } => (slot, "gone"),
            other => panic!("{other:?}"),
        };
        stories.entry(slot).or_default().push(word);
    }
    assert_eq!(stories.remove(&SLOTS), Some(vec!["signalled", "exited", "gone"]));
    assert!(
        stories.values().all(|story| *story == ["spawned", "exited", "gone"]),
        "{stories:?}"
    );
    bench.quit().await;
}

/// Its outbox is full and it takes no orders: that the host has let go it notices all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letting_go_of_a_guardian_that_takes_no_more_orders_ends_its_workers() {
    let mut bench = Bench::launch().await;
    let worker = bench.start(0, 1, request("/bin/sleep", &["1000"])).await;
    // An event each, and nobody reads them: far more than the socket holds.
    for _ in 0..20_000 {
        bench.guardian.close(1).expect("taken");
    }
    // It takes no more: it has waited for nothing new, twenty times in a row.
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
    // Whoever reads later finds what there was room for, and the end.
    while !matches!(bench.next().await, GuardianEvent::Ended) {}
}

/// How often a process has waited for something.
fn times_waited(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find(|line| line.starts_with("voluntary"));
    line.expect("the kernel counts them").to_owned()
}

#[tokio::test]
async fn letting_go_of_many_slots_ends_the_guardian_though_nobody_reads() {
    const SLOTS: u32 = 200;
    let mut bench = Bench::launch().await;
    for slot in 0..SLOTS {
        bench.start(slot, 1, request("/bin/sleep", &["1000"])).await;
    }
    bench.guardian.abandon();
    assert_gone(bench.guardian.pid() as i32);
    // Whoever reads later finds the whole story, and its end.
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
