//! Stopping a worker: its grace, its process group, and trees that resist.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use ostler_core::lifecycle::LATE;
use ostler_core::signal::Signal;
use ostler_os::guardian::{GuardianEvent, SignalCause};

use crate::support::{Bench, alive, assert_gone, line, pids, python, rest, send, shell, until_state, with_output};

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(100);

#[tokio::test]
async fn worker_that_obeys_ends_by_the_signal() {
    let mut bench = Bench::launch().await;
    bench.start(0, 1, shell("sleep 1000")).await;
    bench.term(0, 1, LONG);
    match bench.next().await {
        GuardianEvent::Signalled {
            slot: 0,
            incarnation: 1,
            signal: Signal::TERM,
            cause: SignalCause::Stop,
        } => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(bench.gone(0, 1).await.0.signal(), Some(15));
    bench.quit().await;
}

#[tokio::test]
async fn worker_that_ignores_the_signal_is_killed_after_its_grace() {
    let mut bench = Bench::launch().await;
    let mut spawn_request = shell("trap '' TERM; echo ready; while true; do sleep 1000; done");
    let output = with_output(&mut spawn_request);
    bench.start(0, 1, spawn_request).await;
    let _output = line(output).await;
    let begun = Instant::now();
    bench.term(0, 1, SHORT);
    let mut causes = Vec::new();
    loop {
        match bench.next().await {
            GuardianEvent::Signalled { signal, cause, .. } => causes.push((signal, cause)),
            GuardianEvent::Exited { status, .. } => assert_eq!(status.signal(), Some(9)),
            GuardianEvent::TreeGone { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(begun.elapsed() >= SHORT, "it must have its full grace");
    assert_eq!(
        causes,
        [
            (Signal::TERM, SignalCause::Stop),
            (Signal::KILL, SignalCause::GraceOver)
        ]
    );
    bench.quit().await;
}

#[tokio::test]
async fn group_members_have_the_rest_of_the_grace() {
    let mut bench = Bench::launch().await;
    let mut spawn_request = python(
        "import os, signal, sys, time\n\
         if os.fork() == 0:\n\
         \tsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n\
         \tprint('ready', flush=True)\n\
         \tsignal.sigwait([signal.SIGTERM])\n\
         \tfor _ in range(40): time.sleep(0.005)\n\
         \tos.write(1, b'done\\n'); os._exit(0)\n\
         signal.pause()",
    );
    let output = with_output(&mut spawn_request);
    bench.start(0, 1, spawn_request).await;
    let (_, output) = line(output).await;
    bench.term(0, 1, LONG);
    let (status, killed, _) = bench.gone(0, 1).await;
    assert_eq!(
        (status.signal(), killed),
        (Some(15), 0),
        "the leader ends immediately, its child within the grace"
    );
    assert_eq!(line(output).await.0, "done");
    bench.quit().await;
}

#[tokio::test]
async fn group_members_that_ignore_the_signal_are_killed_after_the_grace() {
    let mut bench = Bench::launch().await;
    let mut spawn_request = shell("(trap '' TERM; echo ready; while true; do sleep 1000; done) & wait");
    let output = with_output(&mut spawn_request);
    bench.start(0, 1, spawn_request).await;
    let _output = line(output).await;
    let begun = Instant::now();
    bench.term(0, 1, SHORT);
    let mut signals = Vec::new();
    loop {
        match bench.next().await {
            GuardianEvent::Signalled { signal, cause, .. } => signals.push((signal, cause)),
            GuardianEvent::Exited { status, .. } => assert_eq!(status.signal(), Some(15), "the leader ends by TERM"),
            GuardianEvent::TreeGone { killed, .. } => break assert!(killed >= 1),
            other => panic!("{other:?}"),
        }
    }
    assert!(begun.elapsed() >= SHORT, "they must have the full grace");
    assert_eq!(
        signals,
        [
            (Signal::TERM, SignalCause::Stop),
            (Signal::KILL, SignalCause::GraceOver)
        ]
    );
    bench.quit().await;
}

#[tokio::test]
async fn processes_outside_the_group_have_no_grace_once_the_group_is_gone() {
    let mut bench = Bench::launch().await;
    let mut spawn_request = shell("setsid sh -c 'echo $$; sleep 1000' & sleep 1000");
    let output = with_output(&mut spawn_request);
    bench.start(0, 1, spawn_request).await;
    let (text, _output) = line(output).await;
    bench.term(0, 1, LONG);
    let (_, killed, how) = bench.gone(0, 1).await;
    assert!(killed >= 1 && how.strays);
    assert_gone(pids(&text)[0]);
    bench.quit().await;
}

/// A daemon after a double fork, in its own session, with an empty environment, that ignores TERM,
/// INT and HUP. It prints its pid and its child's.
const DAEMON: &str = "env -i /bin/sh -c '
    setsid /bin/sh -c \"
        trap : TERM INT HUP; trap \\\"\\\" TERM INT HUP
        setsid sleep 1000 & echo \\$\\$ \\$!
        while true; do sleep 1000; done
    \" & exit 0' &
";

#[tokio::test]
async fn detached_daemons_die_with_the_worker() {
    let mut bench = Bench::launch().await;
    // However the worker ends: by its own exit, by KILL, by TERM.
    for (incarnation, end) in [(1, "exit 0"), (2, "sleep 1000"), (3, "sleep 1000")] {
        let mut spawn_request = shell(&format!("{DAEMON} read nothing; {end}"));
        // It exits only after the daemon has printed its pids.
        spawn_request.program = "/bin/sh".into();
        spawn_request.argv[2] = format!("{{ {DAEMON} }} | {{ read pids; echo $pids; {end}; }}").into();
        let output = with_output(&mut spawn_request);
        bench.start(0, incarnation, spawn_request).await;
        let (text, _output) = line(output).await;
        match incarnation {
            2 => bench.kill(0, incarnation),
            3 => bench.term(0, incarnation, SHORT),
            _ => {}
        }
        bench.gone(0, incarnation).await;
        let daemons = pids(&text);
        assert_eq!(daemons.len(), 2);
        for pid in daemons {
            assert!(!alive(pid), "TreeGone while {pid} was alive");
        }
    }
    bench.quit().await;
}

#[tokio::test]
async fn tree_of_many_groups_is_gone_at_tree_gone() {
    let mut bench = Bench::launch().await;
    let mut spawn_request = python(
        "import os, signal, time\n\
         for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(s, signal.SIG_IGN)\n\
         r, w = os.pipe()\n\
         def tree(depth):\n\
         \tos.write(w, f'{os.getpid()} '.encode())\n\
         \tfor _ in range(3 if depth else 0):\n\
         \t\tif os.fork() == 0:\n\
         \t\t\tos.setpgid(0, 0) if depth % 2 else os.setsid()\n\
         \t\t\ttree(depth - 1)\n\
         \t\t\twhile True: signal.pause()\n\
         tree(4)\n\
         text = b''\n\
         while len(text.split()) < 121 or not text.endswith(b' '): text += os.read(r, 4096)\n\
         print(text.decode(), flush=True)\n\
         while True: signal.pause()",
    );
    let output = with_output(&mut spawn_request);
    bench.start(0, 1, spawn_request).await;
    let (text, _output) = line(output).await;
    let tree = pids(&text);
    assert_eq!(tree.len(), 121);
    bench.term(0, 1, SHORT);
    let (_, _, how) = bench.gone(0, 1).await;
    assert!(how.strays && !how.refused);
    for pid in tree {
        assert!(!alive(pid), "TreeGone while {pid} was alive");
    }
    bench.quit().await;
}

#[tokio::test]
async fn children_that_fork_while_being_killed_do_not_escape() {
    let mut bench = Bench::launch().await;
    // Four chains in which each generation forks the next one, leaves its session and exits.
    let mut spawn_request = python(
        "import os, signal, time\n\
         for _ in range(4):\n\
         \tif os.fork() == 0:\n\
         \t\twhile True:\n\
         \t\t\tif os.fork(): os._exit(0)\n\
         \t\t\tos.setsid()\n\
         print('ready', flush=True)\n\
         signal.pause()",
    );
    let output = with_output(&mut spawn_request);
    bench.start(0, 1, spawn_request).await;
    let _output = line(output).await;
    bench.kill(0, 1);
    bench.gone(0, 1).await;
    bench.quit().await;
}

#[tokio::test]
async fn repeated_order_can_only_shorten_the_grace() {
    let mut bench = Bench::launch().await;
    let mut spawn_request = shell("trap '' TERM; echo ready; while true; do sleep 1000; done");
    let output = with_output(&mut spawn_request);
    bench.start(0, 1, spawn_request).await;
    let _output = line(output).await;
    bench.term(0, 1, LONG);
    bench.term(0, 1, LONG);
    bench
        .guardian
        .end(0, 7, Signal::KILL, Duration::ZERO)
        .expect("queuing the request");
    bench.term(0, 1, SHORT);
    let mut signals = Vec::new();
    loop {
        match bench.next().await {
            GuardianEvent::Signalled { signal, cause, .. } => signals.push((signal, cause)),
            GuardianEvent::Exited { status, .. } => assert_eq!(status.signal(), Some(9)),
            GuardianEvent::TreeGone { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        signals,
        [
            (Signal::TERM, SignalCause::Stop),
            (Signal::KILL, SignalCause::GraceOver)
        ],
        "TERM is sent once, and an order for another incarnation changes nothing"
    );
    bench.term(0, 1, SHORT);
    bench.quit().await;
}

#[tokio::test]
async fn tree_held_by_a_halted_tracer_is_named_and_finally_gone() {
    let mut bench = Bench::launch().await;
    // A tracer outside the tree seizes the worker with PTRACE_O_TRACEEXIT and is then stopped: a
    // killed worker does not fully exit until the tracer ends.
    let mut spawn_request = shell("echo ready; while true; do sleep 1000; done");
    let output = with_output(&mut spawn_request);
    let worker = bench.start(0, 1, spawn_request).await as i32;
    let _output = line(output).await;
    let script = format!(
        "import ctypes, os, signal\n\
         libc = ctypes.CDLL(None, use_errno=True)\n\
         libc.ptrace.argtypes = [ctypes.c_long] * 4\n\
         done = libc.ptrace(0x4206, {worker}, 0, 0x40)\n\
         print('\\nseized=' + str(done), flush=True)\n\
         os.kill(os.getpid(), signal.SIGSTOP)"
    );
    let mut command = std::process::Command::new("python3");
    command.args(["-c", &script]);
    let (mut tracer, output) = crate::support::Role::start(command);
    let (seized, _output) = crate::support::line_with(output, "seized=").await;
    if seized != "0" {
        bench.kill(0, 1);
        bench.gone(0, 1).await;
        bench.quit().await;
        return eprintln!("skipped: ptrace is not permitted");
    }
    bench.kill(0, 1);
    bench
        .until(|event| matches!(event, GuardianEvent::Held { children: 1.., .. }).then_some(()))
        .await;
    tracer.kill();
    bench.gone(0, 1).await;
    assert_gone(worker);
    bench.quit().await;
}

/// A stopped process receives no signal but KILL until it is continued.
#[tokio::test]
async fn stopped_worker_ends_gracefully() {
    let mut bench = Bench::launch().await;
    let mut spawn_request = python(
        "import os, signal\n\
         signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n\
         print('ready', flush=True)\n\
         signal.sigwait([signal.SIGTERM])\n\
         os.write(1, b'ended gracefully')\n\
         os._exit(7)",
    );
    let output = with_output(&mut spawn_request);
    let worker = bench.start(0, 1, spawn_request).await as i32;
    let (_, output) = line(output).await;
    send(worker, rustix::process::Signal::STOP);
    until_state(worker, "T").await;
    bench.term(0, 1, LONG);
    assert_eq!(bench.gone(0, 1).await.0.code(), Some(7));
    assert_eq!(rest(output).await.trim(), "ended gracefully");
    bench.quit().await;
}

/// The host was suspended with its guardian, which ends soon after both run again.
#[tokio::test]
async fn a_host_that_could_not_run_waits_for_the_guardians_end_once_more() {
    let Bench { guardian, events } = Bench::launch().await;
    let (pid, limit) = (guardian.pid() as i32, Duration::from_secs(3));
    send(pid, rustix::process::Signal::STOP);
    until_state(pid, "T").await;
    let quitting = tokio::spawn(async move { guardian.quit(limit).await });
    tokio::task::yield_now().await;
    // The runtime stands still: this is what is tested.
    std::thread::sleep(limit * 2);
    tokio::time::sleep(LATE).await;
    send(pid, rustix::process::Signal::CONT);
    quitting.await.expect("no panic").expect("it ends");
    drop(events);
}
