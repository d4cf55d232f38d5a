//! Many slots, and a host that does not listen.

use std::collections::BTreeMap;
use std::time::Duration;

use ostler_core::signal::Signal;
use ostler_os::guardian::GuardianEvent;

use crate::support::{Bench, assert_gone, parent, request, shell};

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
    let open = || std::fs::read_dir("/proc/self/fd").expect("ours").count();
    for slot in 0..SLOTS {
        bench
            .guardian
            .spawn(slot, 1, request("/bin/sleep", &["1000"]))
            .expect("taken");
    }
    let mut workers = Vec::new();
    while workers.len() < SLOTS as usize {
        match bench.next().await {
            GuardianEvent::Spawned { pid, .. } => workers.push(pid as i32),
            other => panic!("{other:?}"),
        }
    }
    assert!(
        open() < SLOTS as usize / 2,
        "workers cost the host no descriptors (those here are other tests')"
    );
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

#[tokio::test]
async fn a_host_that_does_not_read_delays_no_kill_and_loses_no_event() {
    // Two messages each; the socket holds 1,366 at most (1 MiB by the guardian's own choice).
    const SLOTS: u32 = 900;
    let mut bench = Bench::launch().await;
    let survivor = bench.start(SLOTS, 1, shell("sleep 1000")).await as i32;
    for slot in 0..SLOTS {
        bench.guardian.spawn(slot, 1, request("/bin/true", &[])).expect("taken");
    }
    // Behind all the others, whose events more than fill the socket.
    bench.kill(SLOTS, 1);
    // Orders wait in this process's memory while the socket is full, so the runtime must turn; events are not read.
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
