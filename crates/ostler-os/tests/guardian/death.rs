//! Whatever dies first, nothing is left.

use std::fs::File;
use std::io::BufReader;
use std::time::Duration;

use ostler_core::signal::Signal;
use ostler_os::guardian::{EndPolicy, Guardian, GuardianEvent, GuardianOptions, SignalCause};
use rustix::process::{Pid, Signal as Os};

use crate::support::{
    Bench, DEADLINE, Role, alive, assert_gone, children, line, line_with, parent, pids, python, role, role_process,
    send, shell, stat, unprivileged, with_output,
};

/// A worker that prints three pids: its own, a child's in its group, and that of a daemon that
/// shares neither session nor parent nor environment with it.
const FAMILY: &str = "import os, signal, sys
for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(s, signal.SIG_IGN)
r, w = os.pipe()
def tell(): os.write(w, f'{os.getpid()} '.encode())
tell()
if os.fork() == 0:
    tell()
    while True: signal.pause()
if os.fork() == 0:
    os.setsid()
    if os.fork(): os._exit(0)
    tell()
    os.execve('/bin/sh', ['sh', '-c', 'trap \"\" TERM INT HUP; while true; do sleep 1000; done'], {})
text = b''
while len(text.split()) < 3 or not text.endswith(b' '): text += os.read(r, 4096)
print(text.decode(), flush=True)
while True: signal.pause()";

async fn family(bench: &mut Bench, slot: u32) -> Vec<i32> {
    let mut spawn_request = python(FAMILY);
    let output = with_output(&mut spawn_request);
    bench.start(slot, 1, spawn_request).await;
    let (text, _output) = line(output).await;
    let family = pids(&text);
    assert_eq!(family.len(), 3);
    family
}

const HOST: &str = "death::role_host";

/// A host that starts three families, prints the pids of guardian, sitters and families, and then
/// ends as its role says.
#[tokio::test]
async fn role_host() {
    let Some(role) = role() else { return };
    let mut bench = Bench::launch().await;
    let mut all = vec![bench.guardian.pid() as i32];
    for slot in 0..3 {
        let family = family(&mut bench, slot).await;
        all.push(parent(family[0]));
        all.extend(family);
    }
    let mut copy = None;
    if role == "forks" {
        // A forked copy of this process that keeps all its descriptors and survives.
        // SAFETY: the child only waits for a signal.
        match unsafe { nix::unistd::fork() }.expect("forking") {
            nix::unistd::ForkResult::Child => loop {
                nix::unistd::pause();
            },
            nix::unistd::ForkResult::Parent { child } => copy = Some(child.as_raw()),
        }
    }
    let text: Vec<String> = all.iter().map(i32::to_string).collect();
    println!("\npids={}", text.join(" "));
    println!("\ncopy={}", copy.unwrap_or(0));
    match role.as_str() {
        "aborts" => std::process::abort(),
        "exits" => std::process::exit(3),
        "stops" => send(std::process::id() as i32, Os::STOP),
        _ => {}
    }
    std::future::pending::<()>().await;
}

async fn host(role: &str) -> (Role, Vec<i32>, i32, BufReader<File>) {
    let (process, output) = Role::start(role_process(HOST, role));
    let (all, output) = line_with(output, "pids=").await;
    let (copy, output) = line_with(output, "copy=").await;
    (process, pids(&all), copy.parse().expect("valid pid"), output)
}

#[tokio::test]
async fn killed_host_leaves_nothing() {
    let (mut host, all, ..) = host("waits").await;
    assert_eq!(all.len(), 13);
    assert!(all.iter().all(|pid| alive(*pid)));
    host.kill();
    all.iter().for_each(|pid| assert_gone(*pid));
}

#[tokio::test]
async fn host_that_aborts_or_exits_leaves_nothing() {
    for role in ["aborts", "exits"] {
        let (_host, all, ..) = host(role).await;
        all.iter().for_each(|pid| assert_gone(*pid));
    }
}

#[tokio::test]
async fn halted_host_keeps_its_workers_until_it_is_killed() {
    let (mut host, all, ..) = host("stops").await;
    assert!(all.iter().all(|pid| alive(*pid)));
    host.kill();
    all.iter().for_each(|pid| assert_gone(*pid));
}

#[tokio::test]
async fn halted_sitter_does_not_keep_its_tree_alive() {
    let (mut host, all, ..) = host("waits").await;
    all[1..].chunks(4).for_each(|slot| send(slot[0], Os::STOP));
    host.kill();
    all.iter().for_each(|pid| assert_gone(*pid));
}

/// A halted guardian sees nothing, including the host's death; the kernel wakes it. Its sitters are
/// in its process group.
#[tokio::test]
async fn halted_guardian_ends_everything_when_its_host_is_killed() {
    for whole_group in [false, true] {
        let (mut host, all, ..) = host("waits").await;
        let guardian = Pid::from_raw(all[0]).expect("valid pid");
        let stopped = match whole_group {
            true => rustix::process::kill_process_group(guardian, Os::STOP),
            false => rustix::process::kill_process(guardian, Os::STOP),
        };
        stopped.expect("sending the signal");
        host.kill();
        all.iter().for_each(|pid| assert_gone(*pid));
    }
}

#[tokio::test]
async fn halted_guardian_that_is_released_ends_everything() {
    let mut bench = Bench::launch().await;
    let family = family(&mut bench, 0).await;
    send(parent(family[0]), Os::STOP);
    send(bench.guardian.pid() as i32, Os::STOP);
    bench.guardian.abandon();
    while bench.next().await != GuardianEvent::Ended {}
    family.iter().for_each(|pid| assert_gone(*pid));
}

#[tokio::test]
async fn forked_copy_of_the_host_does_not_hide_its_death() {
    let (mut host, all, copy, _output) = host("forks").await;
    assert!(alive(copy));
    host.kill();
    all.iter().for_each(|pid| assert_gone(*pid));
    assert!(alive(copy), "the copy must not be killed");
    send(copy, Os::KILL);
}

#[tokio::test]
async fn host_and_guardian_killed_together_leave_nothing() {
    for _ in 0..5 {
        let (mut host, all, ..) = host("waits").await;
        // Both are stopped first, so that neither can react to the other's death.
        send(all[0], Os::STOP);
        send(host.0.id() as i32, Os::STOP);
        send(all[0], Os::KILL);
        host.kill();
        all.iter().for_each(|pid| assert_gone(*pid));
    }
}

/// Without a cgroup nothing contains the rest of the tree; the next start's sweep handles it (ADR
/// 0002).
#[tokio::test]
async fn host_guardian_and_sitters_killed_together_take_the_workers_with_them() {
    let (mut host, all, ..) = host("waits").await;
    let (guardian, slots) = all.split_first().expect("guardian");
    let sitters: Vec<i32> = slots.chunks(4).map(|slot| slot[0]).collect();
    // All are stopped first, so that none can react to another's death.
    for pid in sitters.iter().chain([guardian]) {
        send(*pid, Os::STOP);
    }
    sitters.iter().chain([guardian]).for_each(|pid| send(*pid, Os::KILL));
    host.kill();
    for slot in slots.chunks(4) {
        assert_gone(slot[1]);
        slot[2..]
            .iter()
            .filter(|pid| alive(**pid))
            // A daemon that is a shell has a child.
            .filter_map(|pid| rustix::process::getpgid(Pid::from_raw(*pid)).ok())
            .for_each(|group| _ = rustix::process::kill_process_group(group, Os::KILL));
    }
}

#[tokio::test]
async fn killed_guardian_is_reported_and_its_sitters_end_their_trees() {
    let mut bench = Bench::launch().await;
    let mut all = Vec::new();
    for slot in 0..3 {
        let family = family(&mut bench, slot).await;
        all.push(parent(family[0]));
        all.extend(family);
    }
    send(bench.guardian.pid() as i32, Os::KILL);
    let (mut lost, mut gone) = (0, 0);
    loop {
        match bench.next().await {
            GuardianEvent::Lost { status } => {
                use std::os::unix::process::ExitStatusExt;
                assert_eq!(status.and_then(|status| status.signal()), Some(9));
                lost += 1;
            }
            GuardianEvent::Signalled { cause, .. } => {
                assert!(
                    matches!(cause, SignalCause::GuardianDeath | SignalCause::TreeKill),
                    "{cause:?}"
                );
            }
            GuardianEvent::Exited { .. } => {}
            GuardianEvent::TreeGone { .. } => gone += 1,
            GuardianEvent::Ended => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((lost, gone), (1, 3));
    all.iter().for_each(|pid| assert_gone(*pid));
    assert!(bench.guardian.close(&[0]).is_err(), "no guardian to send orders to");
}

/// Only the kernel can wake them. The sitter of the second slot has no worker at that time.
#[tokio::test]
async fn halted_sitters_end_when_the_guardian_is_killed() {
    let mut bench = Bench::launch().await;
    let family = family(&mut bench, 0).await;
    bench.start(1, 1, shell("exit 0")).await;
    bench.gone(1, 1).await;
    let guardian = bench.guardian.pid() as i32;
    let sitters = children(guardian);
    assert_eq!(sitters.len(), 2);
    sitters.iter().for_each(|sitter| send(*sitter, Os::STOP));
    send(guardian, Os::KILL);
    while bench.next().await != GuardianEvent::Ended {}
    sitters.iter().chain(&family).for_each(|pid| assert_gone(*pid));
}

#[tokio::test]
async fn halted_sitter_carries_out_orders() {
    let mut bench = Bench::launch().await;
    let family = family(&mut bench, 0).await;
    let sitter = parent(family[0]);
    send(sitter, Os::STOP);
    bench.kill(0, 1);
    bench.gone(0, 1).await;
    family.iter().for_each(|pid| assert_gone(*pid));
    send(sitter, Os::STOP);
    bench.quit().await;
}

#[tokio::test]
async fn killed_sitter_is_reported_once_its_tree_is_killed() {
    let mut bench = Bench::launch().await;
    let family = family(&mut bench, 0).await;
    let other = bench.start(1, 1, shell("sleep 1000")).await as i32;
    send(parent(family[0]), Os::KILL);
    match bench.next().await {
        GuardianEvent::SitterLost {
            slot: 0,
            incarnation: 1,
            killed,
            status,
        } => {
            use std::os::unix::process::ExitStatusExt;
            assert!(
                killed >= 3,
                "{killed}: the family, and processes that had ended unreaped"
            );
            assert_eq!(status.signal(), Some(9));
        }
        event => panic!("{event:?}"),
    }
    assert!(family.iter().all(|pid| !alive(*pid)), "reported too early");
    assert!(alive(other), "the worker of another slot must not be killed");
    bench.start(0, 2, shell("exit 4")).await;
    assert_eq!(bench.gone(0, 2).await.0.code(), Some(4), "the slot has a new sitter");
    bench.kill(1, 1);
    bench.gone(1, 1).await;
    bench.quit().await;
}

/// The guardian sees both in one loop iteration.
#[tokio::test]
async fn order_right_after_the_death_of_its_sitter_gets_a_new_sitter() {
    let mut bench = Bench::launch().await;
    bench.start(0, 1, shell("exit 0")).await;
    bench.gone(0, 1).await;
    let guardian = bench.guardian.pid() as i32;
    let sitter = children(guardian)[0];
    send(guardian, Os::STOP);
    while stat(guardian)[0] != "T" {
        tokio::task::yield_now().await;
    }
    send(sitter, Os::KILL);
    assert_gone(sitter);
    bench
        .guardian
        .spawn(0, 2, shell("exit 4"))
        .expect("queuing the request");
    send(guardian, Os::CONT);
    let status = bench
        .until(|event| match event {
            GuardianEvent::SpawnFailed { step, errno, .. } => panic!("not started: {step:?}, errno {errno}"),
            GuardianEvent::Exited { status, .. } => Some(*status),
            _ => None,
        })
        .await;
    assert_eq!(status.code(), Some(4));
    bench.quit().await;
}

#[tokio::test]
async fn sitters_killed_together_leave_nothing() {
    let mut bench = Bench::launch().await;
    let mut all = Vec::new();
    let mut sitters = Vec::new();
    for slot in 0..4 {
        let family = family(&mut bench, slot).await;
        sitters.push(parent(family[0]));
        all.extend(family);
    }
    sitters.iter().for_each(|sitter| send(*sitter, Os::KILL));
    for _ in 0..4 {
        bench
            .until(|event| matches!(event, GuardianEvent::SitterLost { .. }).then_some(()))
            .await;
    }
    all.iter().for_each(|pid| assert!(!alive(*pid)));
    bench.quit().await;
}

#[tokio::test]
async fn host_death_policy_gives_a_database_its_grace() {
    let mut bench = Bench::launch().await;
    let mut spawn_request = python(
        "import os, signal, time\n\
         signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n\
         print('ready', flush=True)\n\
         signal.sigwait([signal.SIGTERM])\n\
         for _ in range(20): time.sleep(0.005)\n\
         os.write(1, b'checkpoint\\n'); os._exit(7)",
    );
    spawn_request.host_death = EndPolicy {
        signal: Signal::TERM,
        grace: Duration::from_secs(60),
    };
    let output = with_output(&mut spawn_request);
    bench.start(0, 1, spawn_request).await;
    let (_, output) = line(output).await;
    bench.guardian.abandon();
    match bench.next().await {
        GuardianEvent::Signalled {
            signal: Signal::TERM,
            cause: SignalCause::HostDeath,
            ..
        } => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(bench.gone(0, 1).await.0.code(), Some(7));
    assert_eq!(line(output).await.0, "checkpoint");
    while bench.next().await != GuardianEvent::Ended {}
}

#[test]
fn release_needs_no_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("tokio runtime");
    let (guardian, events, worker) = runtime.block_on(async {
        let mut bench = Bench::launch().await;
        let worker = bench.start(0, 1, shell("sleep 1000")).await as i32;
        (bench.guardian, bench.events, worker)
    });
    drop(runtime);
    let pid = guardian.pid() as i32;
    guardian.abandon();
    assert_gone(worker);
    assert_gone(pid);
    drop(events);
}

#[test]
fn drop_without_a_runtime_releases() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("tokio runtime");
    let (guardian, worker) = runtime.block_on(async {
        let mut bench = Bench::launch().await;
        let worker = bench.start(0, 1, shell("sleep 1000")).await as i32;
        (bench.guardian, worker)
    });
    drop(runtime);
    drop(guardian);
    assert_gone(worker);
}

/// The same as an unprivileged user without any capability.
#[tokio::test]
async fn killed_unprivileged_host_leaves_nothing() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: the other tests already run unprivileged");
    }
    let directory = tempfile::tempdir().expect("temporary directory");
    let (mut process, output) = Role::start(unprivileged(&[], &role_process(HOST, "waits"), directory.path()));
    let (all, _output) = line_with(output, "pids=").await;
    let all = pids(&all);
    assert_eq!(all.len(), 13);
    process.kill();
    all.iter().for_each(|pid| assert_gone(*pid));
}

#[tokio::test]
async fn second_guardian_runs_next_to_the_first() {
    let mut first = Bench::launch().await;
    let (guardian, events) = Guardian::launch(GuardianOptions::default())
        .await
        .expect("launching a second guardian");
    let mut second = Bench { guardian, events };
    let one = family(&mut first, 0).await;
    let two = family(&mut second, 0).await;
    first.kill(0, 1);
    first.gone(0, 1).await;
    assert!(one.iter().all(|pid| !alive(*pid)));
    assert!(two.iter().all(|pid| alive(*pid)));
    second.kill(0, 1);
    second.gone(0, 1).await;
    first.quit().await;
    tokio::time::timeout(DEADLINE, second.quit()).await.expect("timeout");
}

/// The guardian and each sitter hold the lock, and no worker does: it is released once all of them
/// have exited.
#[tokio::test]
async fn guardian_and_sitters_hold_the_lock() {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    let held = |path: &std::path::Path| {
        let other = File::options().write(true).open(path).expect("opened");
        other.try_lock().is_err()
    };
    let lock = file.reopen().expect("opened");
    lock.lock().expect("locked");
    let mut bench = Bench::launch_with(GuardianOptions {
        lock: Some(std::sync::Arc::new(lock.into())),
        ..GuardianOptions::default()
    })
    .await;
    // Ignores the first signal that the sitter sends.
    let mut stubborn = python(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ignoring', flush=True); time.sleep(1000)",
    );
    stubborn.host_death = EndPolicy {
        signal: Signal::TERM,
        grace: Duration::from_secs(3600),
    };
    let output = with_output(&mut stubborn);
    let worker = bench.start(0, 1, stubborn).await as i32;
    let (_, _output) = line_with(output, "ignoring").await;
    let (sitter, guardian) = (parent(worker), bench.guardian.pid() as i32);
    assert!(held(file.path()), "held by the guardian");
    send(guardian, Os::KILL);
    assert_gone(guardian);
    assert!(alive(sitter) && held(file.path()), "held by the sitter");
    send(sitter, Os::KILL);
    assert_gone(sitter);
    let deadline = std::time::Instant::now() + DEADLINE;
    while held(file.path()) {
        assert!(std::time::Instant::now() < deadline, "held by another process");
        std::thread::yield_now();
    }
    assert_gone(worker);
}
